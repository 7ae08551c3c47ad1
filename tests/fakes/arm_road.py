"""A proxy in front of a lab's resource manager that fails as it is told: the road to Azure on a bad day."""

import re
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

import aiohttp
from aiohttp import web
from tests.fakes.lab import FakeLab

from isthmus.lab import authority


class Fault(StrEnum):
    """What happens to a request."""

    THROTTLED = "429"
    FAILED = "500"
    PAGE = "502"
    BUSY = "409"
    #: The caller's roles do not contain it.
    FORBIDDEN = "403"
    #: The connection breaks before the request has arrived.
    RESET = "reset"
    #: It arrives and is done, and the answer is lost.
    LOST = "lost"
    #: An operation that is asked for goes on and on.
    STUCK = "stuck"


@dataclass(frozen=True)
class Seen:
    """One request: ``kind`` is its method and its path without names, to tell steps apart."""

    method: str
    path: str

    @property
    def is_operation(self) -> bool:
        return (
            re.search(r"/(operations|operationResults|privateDnsOperation\w+)/", self.path, re.IGNORECASE) is not None
        )

    @property
    def kind(self) -> str:
        return f"{self.method} {re.sub(r'/[0-9a-f-]{36}', '/#', self.path)}"


Choose = Callable[[Seen], Fault | None]


@dataclass
class ArmRoad:
    """Use it with ``async with``. ``choose`` says what happens to a request; None lets it through."""

    lab: FakeLab
    choose: Choose = lambda _: None
    seen: list[Seen] = field(default_factory=list)
    url: str = ""

    async def __aenter__(self) -> Self:
        made = authority.ensure(self.lab.folder)
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        self._session = aiohttp.ClientSession(auto_decompress=False)
        self._runner = web.AppRunner(self._app(), access_log=None)
        await self._runner.setup()
        await web.SockSite(self._runner, listener, ssl_context=made.server_context()).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()

    def _app(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        return app

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        seen = Seen(request.method, request.path)
        self.seen.append(seen)
        match self.choose(seen):
            case Fault.THROTTLED:
                body = {"error": {"code": "TooManyRequests", "message": "The request is being throttled."}}
                return web.json_response(body, status=429, headers={"Retry-After": "7"})
            case Fault.FAILED:
                body = {"error": {"code": "InternalServerError", "message": "An error occurred."}}
                return web.json_response(body, status=500)
            case Fault.PAGE:
                return web.Response(text="<html>Bad Gateway</html>", status=502, content_type="text/html")
            case Fault.BUSY:
                words = "Another operation on this or dependent resource is in progress."
                body = {"error": {"code": "AnotherOperationInProgress", "message": words}}
                return web.json_response(body, status=409)
            case Fault.FORBIDDEN:
                return web.json_response(
                    {"error": {"code": "AuthorizationFailed", "message": _forbidden(seen)}}, status=403
                )
            case Fault.RESET:
                return self._cut(request)
            case Fault.STUCK:
                return web.json_response({"status": "InProgress"}, status=200)
            case Fault.LOST:
                await self._forward(request)
                return self._cut(request)
            case None:
                return await self._forward(request)

    def _cut(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def _forward(self, request: web.Request) -> web.Response:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        async with self._session.request(
            request.method,
            self.lab.url + request.raw_path,
            headers=headers,
            data=await request.read(),
            ssl=self.lab.tls(),
            allow_redirects=False,
        ) as answer:
            body = (await answer.read()).replace(self.lab.url.encode(), self.url.encode())
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
            rewritten = {name: value.replace(self.lab.url, self.url) for name, value in kept.items()}
            return web.Response(body=body, status=answer.status, headers=rewritten)


def _forbidden(seen: Seen) -> str:
    """Azure's words for a read of something below a resource."""
    scope, _, action = seen.path.rpartition("/providers/")
    return (
        f"The client 'c' with object id 'o' does not have authorization to perform action '{action}/read' over scope "
        f"'{scope}' or the scope is invalid. If access was recently granted, please refresh your credentials."
    )


_HOP = {"host", "content-length", "transfer-encoding", "connection", "keep-alive", "accept-encoding"}


def first_of_each(fault: Fault) -> Choose:
    """Every kind of request fails the first time, so every step of a run does.

    A connection that breaks breaks twice: aiohttp itself repeats a request whose idle connection was gone.
    """
    times = 2 if fault in {Fault.RESET, Fault.LOST} else 1
    failed: Counter[str] = Counter()

    def choose(seen: Seen) -> Fault | None:
        failed[seen.kind] += 1
        return fault if failed[seen.kind] <= times else None

    return choose
