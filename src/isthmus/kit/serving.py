"""A small HTTP/1.1 server on asyncio and httptools, for a process that must stay small.

It serves what sits beside the real work of a process: the agent's gateway on a UNIX socket and its health page. One
function answers all requests; routes, validation and the like are not its business. A request is read whole before it
is answered (``contents`` keeps large ones out of memory); an answer may stream. When the client goes away, the function
that answers it is cancelled.

A framework would do the same for 25 MB more and three times the CPU; every call of a task to Airflow goes through
here, and the agent has 60 MB in all.
"""

import asyncio
import socket
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final, cast

import httptools

from isthmus.kit.contents import Content
from isthmus.kit.logs import get

Headers = Sequence[tuple[bytes, bytes]]

_MAX_HEADER_BYTES: Final = 64 * 1024
#: Requests that a client may send before the first is answered. Ours never do.
_MAX_PIPELINED: Final = 8
_REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}

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
        for key, value in self.headers:
            if key == name:
                return value
        return None


@dataclass(slots=True)
class Answer:
    """One answer. A stream is sent in chunks, unless the headers say how long it is.

    An answer to HEAD is sent without its body, and with the ``content-length`` of its headers if there is one.
    """

    status: int
    headers: Headers = ()
    body: bytes | AsyncGenerator[bytes, None] = b""


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
        self.connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    async def listen(self, listener: socket.socket) -> None:
        """Take connections from ``listener``, which is bound, TCP or UNIX. Closed with the server."""
        loop = asyncio.get_running_loop()
        if listener.family == socket.AF_UNIX:
            self._server = await loop.create_unix_server(lambda: _Connection(self), sock=listener)
        else:
            self._server = await loop.create_server(lambda: _Connection(self), sock=listener)

    async def close(self) -> None:
        """Stop listening and drop all connections; what is being answered is cancelled."""
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.abort()
        await asyncio.sleep(0)


class _Connection(asyncio.Protocol):
    """One client. Requests are answered one at a time, in order."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[tuple[Request, bool]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        self._reset()

    def _reset(self) -> None:
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._header_bytes = 0
        self._content = Content(folder=self._server.config.spool)

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's classes are not subclasses
        self._server.connections.add(self)
        self._rest()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone: nobody waits for the answer."""
        self._server.connections.discard(self)
        self._closing = True
        self._writable.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._worker is not None:
            self._worker.cancel()
        self._content.close()
        for request, _ in self._waiting:
            request.content.close()

    def data_received(self, data: bytes) -> None:
        """Feed the parser."""
        if self._closing:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(400)
        except httptools.HttpParserError:
            if not self._closing:  # refused from within a callback otherwise
                self._refuse(400)

    def pause_writing(self) -> None:
        """The client reads more slowly than we write."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._writable.set()

    # --- httptools ---

    def on_url(self, url: bytes) -> None:
        """A piece of the request target."""
        self._target += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._headers.append((name.lower(), value))
        self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        """Answer ``Expect``."""
        for name, value in self._headers:
            if name == b"expect" and value.lower() == b"100-continue" and self._transport is not None:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._content.size + len(body) > self._server.config.max_body_bytes:
            self._refuse(413)
        elif not self._closing:
            self._content.append(body)

    def on_message_complete(self) -> None:
        """Answer the request, or line it up."""
        if self._closing:
            return
        request = Request(self._parser.get_method().decode(), self._target, self._headers, self._content)
        self._waiting.append((request, self._parser.should_keep_alive()))
        self._reset()
        if len(self._waiting) > _MAX_PIPELINED:
            self._refuse(400)
        elif self._worker is None:
            if self._timer is not None:
                self._timer.cancel()
            self._worker = asyncio.get_running_loop().create_task(self._work())

    # --- answering ---

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > _MAX_HEADER_BYTES:
            self._refuse(431)

    def _rest(self) -> None:
        idle = self._server.config.idle_seconds
        if idle is not None and not self._closing:
            self._timer = asyncio.get_running_loop().call_later(idle, self.abort)

    def abort(self) -> None:
        """Drop the client."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    def _refuse(self, status: int) -> None:
        """Answer what cannot be parsed or is too much, and close: what follows cannot be trusted to be a request."""
        if self._closing or self._transport is None:
            return
        self._closing = True
        if self._worker is None:
            self._transport.write(_head(status, (), length=0, keep=False))
        self._transport.close()

    async def _work(self) -> None:
        try:
            while self._waiting and not self._closing:
                request, keep = self._waiting.popleft()
                try:
                    answer = await self._server.answering(request)
                    await self._send(request, answer, keep=keep)
                finally:
                    request.content.close()
                if not keep and self._transport is not None:
                    self._closing = True
                    self._transport.close()
        except asyncio.CancelledError:
            self.abort()
            raise
        except Exception:
            # The headers may be out: only the end of the connection tells the client that something failed.
            log.exception("answering a request failed")
            self.abort()
        finally:
            self._worker = None
            self._rest()

    async def _send(self, request: Request, answer: Answer, *, keep: bool) -> None:
        transport = self._transport
        if transport is None or self._closing:
            return
        body = answer.body
        bodiless = request.method == "HEAD" or answer.status in {204, 304}
        if isinstance(body, bytes):
            head = _head(answer.status, answer.headers, length=None if bodiless else len(body), keep=keep)
            transport.write(head if bodiless else head + body)
            await self._writable.wait()
            return
        async with aclosing(body):
            sized = any(name == b"content-length" for name, _ in answer.headers)
            chunked = () if sized else ((b"transfer-encoding", b"chunked"),)
            transport.write(_head(answer.status, (*answer.headers, *chunked), length=None, keep=keep))
            async for chunk in body:
                if transport.is_closing():
                    return
                if chunk and not bodiless:
                    transport.write(chunk if sized else b"%x\r\n%b\r\n" % (len(chunk), chunk))
                    await self._writable.wait()
            if not sized and not bodiless:
                transport.write(b"0\r\n\r\n")


def _head(status: int, headers: Headers, *, length: int | None, keep: bool) -> bytes:
    """The status line and headers; ``length`` becomes the ``content-length``, which None leaves to ``headers``."""
    lines = [b"HTTP/1.1 %d %b" % (status, _REASONS.get(status, b""))]
    lines += [b"%b: %b" % (name, value) for name, value in headers if length is None or name != b"content-length"]
    if length is not None:
        lines.append(b"content-length: %d" % length)
    if not keep:
        lines.append(b"connection: close")
    lines.append(b"\r\n")
    return b"\r\n".join(lines)
