"""Who may come in: the ASGI application around the routes.

A request for the API proves itself before its body is read, and its body has a limit. Health, metrics and the document
are open to whoever reaches the listener, and so is ``/``, which leads to the pages; pages admit for themselves. Every
other path answers ``404 page not found``.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

from isthmus.control import operators
from isthmus.control.api import refusals
from isthmus.control.api.routes import ACTOR
from isthmus.control.auditing import Actor
from isthmus.control.databases import Database
from isthmus.control.errors import ControlRefusedError
from isthmus.kit.errors import IsthmusError
from isthmus.wire import paths
from isthmus.wire.control import OperatorRole
from isthmus.wire.problems import CONTENT_TYPE, Code, Problem, problem

Scope: TypeAlias = MutableMapping[str, Any]
Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

#: The largest body is a link with two lists of a hundred subscriptions.
MAX_BODY_BYTES: Final = 65536


class Guard:
    """Lets operators through to ``app``."""

    def __init__(self, app: App, database: Database, count: Callable[[str, int], None]) -> None:
        self._app = app
        self._database = database
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        status = 0

        async def noting(event: Event) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                status = event["status"]
            await send(event)

        try:
            if scope["path"].startswith(paths.CONTROL_PREFIX + "/"):
                scope[ACTOR] = await self._admitted(scope)
            body = await _body(receive)
        except IsthmusError as error:
            await _refuse(noting, refusals.problem_of(error))
        else:
            if body is None:
                await _refuse(noting, problem(Code.BODY_TOO_LARGE, f"The body has more than {MAX_BODY_BYTES} bytes."))
            else:
                await self._app(scope, _replayed(body, receive), noting)
        self._count(getattr(scope.get("route"), "name", "none"), status)

    async def _admitted(self, scope: Scope) -> Actor:
        """Who calls. Raises ControlRefusedError: OPERATOR_TOKEN_INVALID, OPERATOR_ROLE; DatabaseError."""
        header = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, text = header.decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            raise ControlRefusedError(Code.OPERATOR_TOKEN_INVALID)
        async with self._database.begin() as database:
            operator = await operators.verify(database, text.strip())
        if scope["method"] not in ("GET", "HEAD") and operator.role is not OperatorRole.ADMIN:
            raise ControlRefusedError(Code.OPERATOR_ROLE, f"{operator.name} is a {operator.role}.")
        client = scope.get("client")
        return Actor(operator.name, client[0] if client else None)


async def _body(receive: Receive) -> bytes | None:
    """The whole body; None if it is too large."""
    parts: list[bytes] = []
    size = 0
    while True:
        event = await receive()
        parts.append(event.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            return None
        if not event.get("more_body", False):
            return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Event:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _refuse(send: Send, refusal: Problem) -> None:
    body = refusal.model_dump_json().encode()
    headers = [
        (b"content-type", CONTENT_TYPE.encode()),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"connection", b"close"),
    ]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="isthmus"'))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
