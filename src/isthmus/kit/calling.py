"""A small HTTP/1.1 client on asyncio and httptools: one origin, one pool of connections.

What it is for decides what it does. Connections do not outlive ``life_seconds`` and leave the pool when the name's
addresses change, so that a name that moves to a private address is followed within two minutes; after a failure the
whole pool is left. Idle ones are closed before load balancers and firewalls forget them. A request that dies on a
connection that was idle is sent again on a new one: every call that we make may be repeated.

All failures to get an answer are ``UnreachableError``, and their code says how far the call came: ``name_unresolved``,
``connect_failed``, ``proxy_refused``, ``tls_untrusted``, ``tls_failed``, ``answer_timeout``, ``connection_lost``,
``answer_malformed``. What an answer means is the caller's business.
"""

import asyncio
import base64
import random
import socket
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

import httptools

from isthmus.kit.clocks import Clock
from isthmus.kit.contents import Content
from isthmus.kit.errors import ConfigError, UnreachableError
from isthmus.kit.logs import masked

Headers = Sequence[tuple[bytes, bytes]]

#: Bytes of an answer that wait for their reader before the connection is paused.
_BUFFER_BYTES: Final = 256 * 1024
#: Addresses of one name are tried this far apart (RFC 8305 recommends 250 ms).
_STAGGER_SECONDS: Final = 0.25
_MAX_HEADER_BYTES: Final = 64 * 1024
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """A scheme, a host and a port."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """What the ``Host`` header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def address(self) -> str:
        """Host and port, for people and for CONNECT."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy that is asked to CONNECT. ``authorization`` is the header's value, if it wants one."""

    origin: Origin
    authorization: str = ""


def parse_origin(url: str) -> Origin:
    """The origin of an ``http`` or ``https`` URL. Raises ConfigError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{masked(url)!r} is not a URL: {error}", code="url_malformed") from None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ConfigError(
            f"{masked(url)!r} is not an http or https URL", code="url_malformed", hint="Write https://host/path."
        )
    return Origin(parts.scheme, parts.hostname, port or _DEFAULT_PORTS[parts.scheme])


def parse_proxy(url: str) -> Proxy:
    """The proxy at ``http[s]://[user:password@]host:port``. Raises ConfigError."""
    origin = parse_origin(url)
    parts = urlsplit(url)
    if parts.username is None:
        return Proxy(origin)
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Proxy(origin, "Basic " + base64.b64encode(pair.encode()).decode())


@dataclass(frozen=True, slots=True)
class CallingConfig:
    """How connections are made and kept."""

    #: All of a name's addresses together may take this long, TLS included.
    connect_seconds: float = 10.0
    #: An idle connection is not used after this long. Azure's load balancers cut flows after 240 s of silence.
    idle_seconds: float = 100.0
    #: A connection is not used after this age, whatever it did: names move.
    life_seconds: float = 120.0
    #: An answer's body may pause for this long.
    body_seconds: float = 30.0


class Reply:
    """An answer whose headers have arrived. Read it to its end, or close it."""

    __slots__ = ("_connection", "headers", "status")

    def __init__(self, connection: "_Connection", status: int, headers: Headers) -> None:
        self._connection = connection
        self.status = status
        #: Names are in lower case.
        self.headers = headers

    def header(self, name: bytes) -> bytes | None:
        """The first header called ``name`` (in lower case)."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    @property
    def complete(self) -> bool:
        """Whether the whole body is here, so that ``read`` returns at once."""
        return self._connection.complete

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body, as it arrives. Raises UnreachableError when it ends early."""
        connection = self._connection
        try:
            while chunk := await connection.next_chunk():
                yield chunk
        finally:
            connection.release()

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises UnreachableError when it ends early or is longer than ``limit`` bytes."""
        connection = self._connection
        parts: list[bytes] = []
        size = 0
        try:
            while chunk := await connection.next_chunk():
                parts.append(chunk)
                size += len(chunk)
                if size > limit:
                    raise UnreachableError(f"the answer is longer than {limit} bytes", code="answer_malformed")
        finally:
            connection.release()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Give up what has not been read."""
        self._connection.release()


class Caller:
    """Calls one origin."""

    def __init__(
        self,
        origin: Origin,
        clock: Clock,
        *,
        config: CallingConfig | None = None,
        tls: ssl.SSLContext | None = None,
        proxy: Proxy | None = None,
    ) -> None:
        if tls is None and "https" in {origin.scheme, proxy.origin.scheme if proxy else ""}:
            raise ValueError("https needs a TLS context")
        self.origin = origin
        self.config = config or CallingConfig()
        self.clock = clock
        self._tls = tls
        self._proxy = proxy
        self._idle: deque[_Connection] = deque()
        self._generation = 0
        self._addresses: frozenset[str] = frozenset()
        #: Connections made so far, for metrics and tests.
        self.connected = 0

    async def call(
        self,
        method: str,
        target: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        content: bytes | Content = b"",
        *,
        answer_seconds: float,
    ) -> Reply:
        """Send a request; the reply once its headers are here, at most ``answer_seconds`` later.

        ``host`` and ``content-length`` are added. Raises UnreachableError.
        """
        head = self._head(method, target, headers, content)
        try:
            async with asyncio.timeout(answer_seconds):
                while True:
                    connection = await self._acquire()
                    repeatable = connection.used
                    try:
                        return await connection.exchange(method, head, content)
                    except UnreachableError as error:
                        if not repeatable or error.code != "connection_lost":
                            self.renew()
                            raise
        except TimeoutError:
            self.renew()
            raise UnreachableError(
                f"{self.origin.address} did not answer within {answer_seconds:g} s", code="answer_timeout"
            ) from None

    def renew(self) -> None:
        """Leave all connections: the next calls make new ones, and look the name up again."""
        self._generation += 1
        while self._idle:
            self._idle.pop().abort()

    def close(self) -> None:
        """Drop the idle connections."""
        self.renew()

    def keep(self, connection: "_Connection") -> None:
        """Take a connection back whose answer has been read."""
        if self._usable(connection):
            self._idle.append(connection)
        else:
            connection.abort()

    def forget(self, connection: "_Connection") -> None:
        """Note that an idle connection has ended."""
        with suppress(ValueError):
            self._idle.remove(connection)

    def _usable(self, connection: "_Connection") -> bool:
        now = self.clock.monotonic()
        return (
            connection.alive
            and connection.generation == self._generation
            and now < connection.expires
            and now - connection.rested < self.config.idle_seconds
            and (connection.peer in self._addresses or self._proxy is not None)
        )

    def _head(
        self, method: str, target: bytes, headers: Iterable[tuple[bytes, bytes]], content: bytes | Content
    ) -> bytes:
        size = len(content) if isinstance(content, bytes) else content.size
        lines = [b"%b %b HTTP/1.1" % (method.encode(), target), b"host: " + self.origin.authority.encode()]
        lines += [b"%b: %b" % header for header in headers]
        if size or method in {"POST", "PUT", "PATCH"}:
            lines.append(b"content-length: %d" % size)
        lines.append(b"\r\n")
        return b"\r\n".join(lines)

    # --- connections ---

    async def _acquire(self) -> "_Connection":
        # The one that was used last is the one that is most surely alive.
        while self._idle:
            connection = self._idle.pop()
            if self._usable(connection):
                return connection
            connection.abort()
        try:
            async with asyncio.timeout(self.config.connect_seconds):
                return await self._connect()
        except TimeoutError:
            self.renew()
            raise UnreachableError(
                f"no connection to {self._first_hop().address} within {self.config.connect_seconds:g} s",
                code="connect_failed",
                hint="Something on the way drops packets: check firewalls and routes.",
            ) from None
        except UnreachableError:
            self.renew()
            raise

    def _first_hop(self) -> Origin:
        return self.origin if self._proxy is None else self._proxy.origin

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        hop = self._first_hop()
        generation = self._generation
        sock = await self._open_socket(hop)
        peer = sock.getpeername()[0]
        connection = _Connection(self, generation, peer)
        try:
            if self._proxy is None:
                await loop.create_connection(
                    lambda: connection,
                    sock=sock,
                    ssl=self._tls if hop.scheme == "https" else None,
                    server_hostname=hop.host if hop.scheme == "https" else None,
                )
            else:
                await self._tunnel(sock, self._proxy, connection)
        except ssl.SSLCertVerificationError as error:
            sock.close()
            raise UnreachableError(
                f"the certificate of {hop.address} is not trusted: {error.verify_message}",
                code="tls_untrusted",
                hint="If the plane has a private CA, or a proxy opens TLS on the way, name its certificate (ca_file).",
            ) from None
        except ssl.SSLError as error:
            sock.close()
            raise _tls_failed(self.origin, error) from None
        except OSError as error:
            sock.close()
            raise UnreachableError(
                f"{hop.address} ended the connection at once: {_reason(error)}", code="connect_failed"
            ) from None
        except BaseException:
            sock.close()
            raise
        self.connected += 1
        return connection

    async def _open_socket(self, hop: Origin) -> socket.socket:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(hop.host, hop.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise UnreachableError(
                f"the name {hop.host} has no address: {_reason(error)}",
                code="name_unresolved",
                hint="Check the URL, the resolver of this machine, and the private DNS zone if there is one.",
            ) from None
        self._addresses = frozenset(str(one[4][0]) for one in found)
        return await _race(hop, [(one[0], one[4]) for one in found])

    async def _tunnel(self, sock: socket.socket, proxy: Proxy, connection: "_Connection") -> None:
        """Have ``proxy`` connect us to the origin, and make ``connection`` the one that talks through it."""
        loop = asyncio.get_running_loop()
        secure = proxy.origin.scheme == "https"
        # The context that verifies the origin verifies the proxy too: behind such a proxy both have private CAs.
        transport, greeting = await loop.create_connection(
            _Greeting,
            sock=sock,
            ssl=self._tls if secure else None,
            server_hostname=proxy.origin.host if secure else None,
        )
        lines = [f"CONNECT {self.origin.address} HTTP/1.1", f"host: {self.origin.address}"]
        if proxy.authorization:
            lines.append(f"proxy-authorization: {proxy.authorization}")
        transport.write("\r\n".join([*lines, "\r\n"]).encode())
        try:
            status, line = await greeting.answer
        except BaseException:
            transport.abort()
            raise
        if status != 200:
            transport.abort()
            raise UnreachableError(
                f"the proxy {proxy.origin.address} does not connect us to {self.origin.address}: {line}",
                code="proxy_refused",
                hint="Give user and password in the proxy's URL."
                if status == 407
                else "Ask for the plane's host to be allowed at the proxy.",
            )
        if self._tls is None or self.origin.scheme == "http":
            transport.set_protocol(connection)
            connection.connection_made(transport)
            return
        secured = await loop.start_tls(transport, connection, self._tls, server_hostname=self.origin.host)
        assert secured is not None  # noqa: S101 - None only if the transport was closed, which raises
        connection.connection_made(secured)


async def _race(hop: Origin, addresses: list[tuple[int, Any]]) -> socket.socket:
    """A socket connected to the first address that answers; each gets a head start over the next."""
    loop = asyncio.get_running_loop()
    errors: list[str] = []
    attempts: set[asyncio.Task[socket.socket]] = set()

    async def attempt(family: int, address: Any) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            await loop.sock_connect(sock, address)
        except OSError as error:
            errors.append(f"{address[0]}: {_reason(error)}")
            sock.close()
            raise
        except BaseException:
            sock.close()
            raise
        return sock

    pending = deque(addresses)
    try:
        while pending or attempts:
            if pending:
                attempts.add(loop.create_task(attempt(*pending.popleft())))
            done, attempts = await asyncio.wait(
                attempts, timeout=_STAGGER_SECONDS if pending else None, return_when=asyncio.FIRST_COMPLETED
            )
            won = [task.result() for task in done if task.exception() is None]
            for late in won[1:]:
                late.close()
            if won:
                return won[0]
    finally:
        for task in attempts:
            task.cancel()
            task.add_done_callback(_discard)
    raise UnreachableError(
        f"no connection to {hop.address}: {'; '.join(errors)}",
        code="connect_failed",
        hint="Check that the plane runs there and that firewalls let this machine out.",
    )


def _discard(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


def _reason(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _tls_failed(origin: Origin, error: ssl.SSLError) -> UnreachableError:
    reason = (error.reason or _reason(error)).replace("_", " ").lower()
    certificate = "certificate" in reason
    return UnreachableError(
        f"TLS with {origin.address} failed: {reason}",
        code="tls_failed",
        hint="The other side wants a client certificate: set client_certificate and client_key."
        if certificate
        else "Check that the port speaks TLS, and the versions on both sides.",
    )


class _Greeting(asyncio.Protocol):
    """Waits for a proxy's answer to CONNECT."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        """Look for the end of the headers. What follows a 200 is TLS, which waits for us."""
        self._buffer += data
        if self.answer.done() or (b"\r\n\r\n" not in self._buffer and len(self._buffer) < _MAX_HEADER_BYTES):
            return
        line = self._buffer.partition(b"\r\n")[0].decode("latin-1")
        parts = line.split(" ", 2)
        status = int(parts[1]) if len(parts) > 1 and parts[1].isdecimal() else 0
        self.answer.set_result((status, line))

    def connection_lost(self, exc: Exception | None) -> None:
        """The proxy hung up."""
        if not self.answer.done():
            self.answer.set_exception(
                UnreachableError(
                    "the proxy hung up" + (f": {_reason(exc)}" if exc else ""),
                    code="proxy_refused",
                    hint="Check the proxy's URL, its scheme above all.",
                )
            )


class _Connection(asyncio.Protocol):
    """One connection, and the exchange that is under way on it."""

    def __init__(self, caller: Caller, generation: int, peer: str) -> None:
        self._caller = caller
        self.generation = generation
        self.peer = peer
        self.alive = False
        self.used = False
        now = caller.clock.monotonic()
        # Jitter, so that connections which were made together are not renewed together.
        self.expires = now + caller.config.life_seconds * random.uniform(0.8, 1.0)  # noqa: S311 - not a secret
        self.rested = now
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._busy = False
        self._lost: UnreachableError | None = None
        self._begin("")

    def _begin(self, method: str) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._method = method
        self._headers: list[tuple[bytes, bytes]] = []
        self._header_bytes = 0
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._paused = False
        self._sent = False
        self._keep = False
        self._delimited = False
        self.complete = False
        self._answered: asyncio.Future[Reply] | None = None
        self._more: asyncio.Future[None] | None = None

    # --- the exchange ---

    async def exchange(self, method: str, head: bytes, content: bytes | Content) -> Reply:
        """Send a request; the reply when its headers are here. Raises UnreachableError."""
        transport = self._transport
        if transport is None or not self.alive:
            raise self._lost or _lost(None)
        self._begin(method)
        self._busy = True
        self.used = True
        answered = self._answered = asyncio.get_running_loop().create_future()
        try:
            if isinstance(content, bytes):
                transport.write(head + content)
                self._sent = True
            elif content.size <= _BUFFER_BYTES:
                transport.write(b"".join((head, *content.chunks())))
                self._sent = True
            else:
                transport.write(head)
                for chunk in content.chunks():
                    transport.write(chunk)
                    await self._writable.wait()
                    # A refusal of the rest, or the end of the connection.
                    if answered.done():
                        break
                else:
                    self._sent = True
            reply: Reply = await answered
        except BaseException:
            self.abort()
            raise
        return reply

    async def next_chunk(self) -> bytes:
        """The next piece of the body; empty at its end. Raises UnreachableError."""
        while not self._chunks:
            if self.complete:
                return b""
            if self._lost is not None:
                raise self._lost
            self._more = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(self._caller.config.body_seconds):
                    await self._more
            except TimeoutError:
                self.abort()
                raise UnreachableError("the answer stopped in the middle", code="answer_timeout") from None
        chunk = self._chunks.popleft()
        self._buffered -= len(chunk)
        if self._paused and self._buffered < _BUFFER_BYTES and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return chunk

    def release(self) -> None:
        """The answer has been read, or nobody wants the rest."""
        if not self._busy:
            return
        self._busy = False
        self.rested = self._caller.clock.monotonic()
        if self.complete and self._sent and self._keep and not self._chunks:
            self._caller.keep(self)
        else:
            self.abort()

    def abort(self) -> None:
        """End the connection at once."""
        self.alive = False
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready for a request."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's classes are not subclasses
        self.alive = True

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, expected or not."""
        self.alive = False
        self._lost = _tls_failed(self._caller.origin, exc) if isinstance(exc, ssl.SSLError) else _lost(exc)
        self._writable.set()
        if not self._busy:
            self._caller.forget(self)
        elif self._answered is not None and not self._answered.done():
            self._answered.set_exception(self._lost)
        elif not self.complete and not self._delimited and exc is None:
            self._finish()  # a body without a length ends with the connection
        self._wake()

    def data_received(self, data: bytes) -> None:
        """Feed the parser."""
        if not self._busy:
            self.abort()  # nobody asked
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._lost = UnreachableError(
                f"{self._caller.origin.address} does not answer with HTTP/1.1",
                code="answer_malformed",
                hint=f"It began with {data[:60]!r}. Check host and port.",
            )
            if self._answered is not None and not self._answered.done():
                self._answered.set_exception(self._lost)
            self.abort()
            self._wake()

    def pause_writing(self) -> None:
        """The other side reads more slowly than we write."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The other side has caught up."""
        self._writable.set()

    # --- httptools ---

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > _MAX_HEADER_BYTES:
            raise httptools.HttpParserError("too many headers")
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The reply is here, but for its body."""
        status = self._parser.get_status_code()
        if status < 200:
            return
        for name, value in self._headers:
            if name == b"content-length" or (name == b"transfer-encoding" and value.lower() == b"chunked"):
                self._delimited = True
        if self._method == "HEAD":
            # The parser waits for a body that does not come; it is left behind with the connection.
            self._finish()
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(Reply(self, status, self._headers))

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self.complete:
            return
        self._chunks.append(body)
        self._buffered += len(body)
        if self._buffered > _BUFFER_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        """The body is here."""
        if self._parser.get_status_code() < 200:
            self._headers = []
            return
        self._keep = self._parser.should_keep_alive()
        self._finish()

    def _finish(self) -> None:
        self.complete = True
        self._wake()

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)


def _lost(error: BaseException | None) -> UnreachableError:
    return UnreachableError(
        "the connection ended before the answer" + (f": {_reason(error)}" if error is not None else ""),
        code="connection_lost",
    )
