"""One keep-alive HTTP/1.1 connection, with as little between the caller and the socket as can be.

The load generator shares two cores with what it measures, so it must cost less than the server: an asyncio protocol and
httptools' parser, no pool, no redirects, one request at a time.
"""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

import httptools


class ConnectionLostError(RuntimeError):
    """The server closed the connection, or never answered."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Whom to talk to; ``tls`` is None for plain HTTP."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and a body."""

    status: int
    body: bytes


def request_bytes(origin: Origin, method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """A whole request, ready to be sent as often as wanted."""
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {origin.host}:{origin.port}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class _Protocol(asyncio.Protocol):
    """Feeds the parser, and hands over the answer when it is complete."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.waiter: asyncio.Future[Answer] | None = None
        self.lost = False
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._fail(str(exc or "closed by the server"))

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        answer = Answer(self._parser.get_status_code(), bytes(self._body))
        self._body.clear()
        # A parser serves one response after another on a connection that is kept.
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(answer)

    def _fail(self, why: str) -> None:
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(ConnectionLostError(why))


class Connection:
    """A connection that is made when it is first needed, and again after it was lost."""

    def __init__(self, origin: Origin) -> None:
        """Nothing is connected yet."""
        self.origin = origin
        self._protocol: _Protocol | None = None

    async def send(self, request: bytes, *, timeout_seconds: float = 60.0) -> Answer:
        """Send a request and wait for its answer. Raises ConnectionLostError."""
        protocol = await self._connected()
        waiter: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        protocol.waiter = waiter
        assert protocol.transport is not None
        protocol.transport.write(request)
        try:
            async with asyncio.timeout(timeout_seconds):
                return await waiter
        except TimeoutError:
            self.close()
            raise ConnectionLostError(f"no answer within {timeout_seconds:.0f} s") from None

    async def _connected(self) -> _Protocol:
        if self._protocol is None or self._protocol.lost:
            loop = asyncio.get_running_loop()
            try:
                _, self._protocol = await loop.create_connection(
                    _Protocol, self.origin.host, self.origin.port, ssl=self.origin.tls
                )
            except OSError as error:
                raise ConnectionLostError(f"cannot connect: {error}") from error
        return self._protocol

    def close(self) -> None:
        """Close it, now."""
        if self._protocol is not None and self._protocol.transport is not None:
            self._protocol.transport.abort()
        self._protocol = None
