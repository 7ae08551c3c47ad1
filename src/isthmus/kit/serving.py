"""A small HTTP server over aiohttp, for what sits beside the real work of a process.

The agent's gateway on a UNIX socket and its health page are served by one function each; routes, validation and the
like are not its business. A request is read whole before it is answered (``contents`` keeps large ones out of
memory); an answer may stream. When the client goes away, the function that answers it is cancelled.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aiohttp import web
from multidict import CIMultiDict

from isthmus.kit.contents import Content
from isthmus.kit.logs import get

Headers = Sequence[tuple[bytes, bytes]]

log = get(component="serving")


@dataclass(slots=True)
class Request:
    """One request. ``target`` is the raw request target, header names are in lower case."""

    method: str
    target: bytes
    headers: Headers
    content: Content

    def header(self, name: bytes) -> bytes | None:
        """The first header called ``name`` (in lower case)."""
        return next((value for key, value in self.headers if key == name), None)


class Stream(Protocol):
    """A body that arrives in pieces. It is closed in every case, read or not."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Its pieces."""

    async def aclose(self) -> None:
        """Nobody wants the rest."""


@dataclass(slots=True)
class Answer:
    """One answer. A stream is sent in chunks, unless the headers say how long it is."""

    status: int
    headers: Headers = ()
    body: bytes | Stream = b""


Answering = Callable[[Request], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class ServingConfig:
    """The limits of a server."""

    #: A request body over this is answered 413.
    max_body_bytes: int = 1024 * 1024
    #: A connection that brings no whole request for this long is closed; None for clients that we started ourselves.
    idle_seconds: float | None = 75.0
    #: Where large bodies wait; None means the system's folder for temporary files.
    spool: Path | None = None


class Server:
    """A listening socket and the connections that came from it."""

    def __init__(self, answering: Answering, config: ServingConfig | None = None) -> None:
        self.answering = answering
        self.config = config or ServingConfig()
        self._runner: web.ServerRunner | None = None
        self._transports: Callable[[], list[asyncio.Transport]] = list

    async def listen(self, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Take connections from ``listener``, which is bound, TCP or UNIX, perhaps with TLS. Closed with the server."""
        idle = self.config.idle_seconds
        server = web.Server(
            self._answer,
            access_log=None,
            handler_cancellation=True,
            # What is passed on is passed on as it came, with the header that says how it is packed.
            auto_decompress=False,
            # aiohttp has no "never"; ten days is longer than a supervisor lives.
            keepalive_timeout=idle if idle is not None else 864_000.0,
        )
        self._transports = lambda: [one.transport for one in server.connections if one.transport is not None]
        self._runner = web.ServerRunner(server, shutdown_timeout=0.0)
        await self._runner.setup()
        await web.SockSite(self._runner, listener, ssl_context=tls).start()

    async def close(self) -> None:
        """Stop listening and drop all connections; what is being answered is cancelled."""
        runner, self._runner = self._runner, None
        if runner is not None:
            for transport in self._transports():
                if transport.get_extra_info("ssl_object") is not None:
                    transport.abort()  # TLS would wait half a minute for the other side's goodbye
            await runner.cleanup()

    async def _answer(self, incoming: web.BaseRequest) -> web.StreamResponse:
        content = Content(folder=self.config.spool)
        try:
            while incoming.body_exists and (chunk := await incoming.content.readany()):
                if content.size + len(chunk) > self.config.max_body_bytes:
                    refusal = web.Response(status=413)
                    refusal.force_close()
                    return refusal
                content.append(chunk)
            request = Request(
                method=incoming.method,
                target=incoming.raw_path.encode("latin-1"),
                headers=[(name.lower(), value) for name, value in incoming.raw_headers],
                content=content,
            )
            try:
                answer = await self.answering(request)
            except Exception:
                log.exception("answering a request failed")
                failure = web.Response(status=500)
                failure.force_close()
                return failure
            return await _send(incoming, answer)
        finally:
            content.close()


async def _send(incoming: web.BaseRequest, answer: Answer) -> web.StreamResponse:
    headers = CIMultiDict((name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers)
    if isinstance(answer.body, bytes):
        headers.popall("content-length", None)
        return web.Response(status=answer.status, headers=headers, body=answer.body)
    body = answer.body
    async with aclosing(body):
        response = web.StreamResponse(status=answer.status, headers=headers)
        if "content-length" not in headers:
            response.enable_chunked_encoding()
        await response.prepare(incoming)
        async for chunk in body:
            await response.write(chunk)
        await response.write_eof()
    return response
