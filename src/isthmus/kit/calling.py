"""Calls to one origin over aiohttp, with the failures that our callers tell apart.

aiohttp pools the connections, races a name's addresses, and tunnels through proxies. What is added here: connections
do not outlive ``life_seconds``, and after a failure the whole pool is left, so that a name that moves to a private
address is followed within two minutes; a request that dies on a connection that was idle is sent again on a new one,
unless its caller says that it may be sent only once.

All failures to get an answer are ``UnreachableError``, and their code says how far the call came:
``name_unresolved``, ``connect_failed``, ``proxy_refused``, ``tls_untrusted``, ``tls_failed``, ``answer_timeout``,
``connection_lost``, ``answer_malformed``. What an answer means is the caller's business.
"""

import asyncio
import base64
import random
import socket
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import unquote, urlsplit

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from isthmus.kit.clocks import Clock
from isthmus.kit.contents import MEMORY_BYTES, Content
from isthmus.kit.errors import ConfigError, UnreachableError
from isthmus.kit.logs import masked

Headers = Sequence[tuple[bytes, bytes]]

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
#: aiohttp would add these; the two ends of the call decide about them.
_NOT_ADDED: Final = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


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
    """An answer whose headers have arrived. Read it whole, iterate over it to its end, or close it."""

    __slots__ = ("_body_seconds", "_pool", "_response", "headers", "status")

    def __init__(self, pool: "_Pool", response: aiohttp.ClientResponse, body_seconds: float) -> None:
        self._pool: _Pool | None = pool
        self._response = response
        self._body_seconds = body_seconds
        self.status = response.status
        #: Names are in lower case.
        self.headers: Headers = [(name.lower(), value) for name, value in response.raw_headers]

    def header(self, name: bytes) -> bytes | None:
        """The first header called ``name`` (in lower case)."""
        return next((value for key, value in self.headers if key == name), None)

    @property
    def arrived(self) -> bool:
        """Whether the whole body is here, so that ``read`` returns at once."""
        return self._response.content.is_eof()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """The next piece of the body. Raises UnreachableError when it ends early."""
        if self._pool is None:
            raise StopAsyncIteration
        content = self._response.content
        try:
            # Almost every body is here already: no timer for those.
            chunk = content.read_nowait()
            if not chunk and not content.at_eof():
                async with asyncio.timeout(self._body_seconds):
                    chunk = await content.readany()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.close()
            raise _ended_early(error) from None
        except BaseException:
            self.close()
            raise
        if not chunk:
            self.close()
            raise StopAsyncIteration
        return chunk

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises UnreachableError when it ends early or is longer than ``limit`` bytes."""
        parts: list[bytes] = []
        size = 0
        async for chunk in self:
            parts.append(chunk)
            size += len(chunk)
            if size > limit:
                self.close()
                raise UnreachableError(f"the answer is longer than {limit} bytes", code="answer_malformed")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Give the connection back if all was read, else give up what was not. It is not ours any more: once only."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        if self._response.content.is_eof():
            self._response.release()
        else:
            self._response.close()
        pool.leave()

    async def aclose(self) -> None:
        """Close, as a stream is closed."""
        self.close()


class _Pool:
    """One generation of connections. It closes once it was retired and its last exchange has ended."""

    def __init__(self, session: aiohttp.ClientSession, expires: float) -> None:
        self.session = session
        self.expires = expires
        self._busy = 0
        self._retired = False
        self._closing: asyncio.Task[None] | None = None

    def enter(self) -> None:
        self._busy += 1

    def leave(self) -> None:
        self._busy -= 1
        self._close_if_done()

    def retire(self) -> None:
        self._retired = True
        self._close_if_done()

    async def close(self) -> None:
        """Drop everything, whatever is under way."""
        await self.session.close()

    def _close_if_done(self) -> None:
        if self._retired and self._busy <= 0 and self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self.session.close(), name="calling.close")


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
        self.proxy = proxy
        self._base = f"{origin.scheme}://{origin.address}"
        self._pool: _Pool | None = None
        self._left: list[_Pool] = []
        #: Sockets opened so far, for metrics and tests.
        self.connected = 0

    async def call(
        self,
        method: str,
        target: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        content: bytes | Content = b"",
        *,
        again: bytes | Content | None = None,
        once: bool = False,
        answer_seconds: float,
    ) -> Reply:
        """Send a request; the reply once its headers are here, at most ``answer_seconds`` later.

        ``host`` and ``content-length`` are added. ``again`` is the content of a request that is sent for the second
        time, where that must say so: the first one may have arrived. A request that may not arrive twice is sent
        ``once``, on a new connection. Raises UnreachableError.
        """
        if once:
            self.renew()
        url = URL(self._base + target.decode("latin-1"), encoded=True)
        fields = CIMultiDict((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers)
        fields["Host"] = self.origin.authority
        try:
            async with asyncio.timeout(answer_seconds):
                try:
                    return await self._exchange(method, url, fields, content)
                except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                    if once or isinstance(error, aiohttp.ClientConnectorError):
                        raise
                    # The other side closed an idle connection while we took it: once more, on a new one.
                    self.renew()
                    return await self._exchange(method, url, fields, content if again is None else again)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            self.renew()
            raise self._failure(error, answer_seconds) from None

    def renew(self) -> None:
        """Leave all connections: the next calls make new ones, and look the name up again."""
        if self._pool is not None:
            self._left = [pool for pool in self._left if not pool.session.closed]
            self._left.append(self._pool)
            self._pool.retire()
            self._pool = None

    async def close(self) -> None:
        """Drop all connections, whatever is under way on them."""
        self.renew()
        for pool in self._left:
            await pool.close()

    async def _exchange(self, method: str, url: URL, headers: CIMultiDict[str], content: bytes | Content) -> Reply:
        pool = self._current()
        pool.enter()
        data: bytes | _Body
        if isinstance(content, bytes):
            data = content
        elif content.size <= MEMORY_BYTES:
            data = b"".join(content.chunks())
        else:
            headers["Content-Length"] = str(content.size)
            data = _Body(content)
        try:
            response = await pool.session.request(
                method,
                url,
                headers=headers,
                data=data,
                allow_redirects=False,
                skip_auto_headers=_NOT_ADDED,
                proxy=self._proxy_url(),
                proxy_headers={"Proxy-Authorization": self.proxy.authorization}
                if self.proxy is not None and self.proxy.authorization
                else None,
            )
        except BaseException:
            pool.leave()
            raise
        return Reply(pool, response, self.config.body_seconds)

    def _proxy_url(self) -> str | None:
        return None if self.proxy is None else f"{self.proxy.origin.scheme}://{self.proxy.origin.address}"

    def _current(self) -> _Pool:
        now = self.clock.monotonic()
        if self._pool is not None and now >= self._pool.expires:
            self.renew()
        if self._pool is None:
            # Jitter, so that agents which were started together do not renew together.
            self._pool = _Pool(self._session(), now + self.config.life_seconds * random.uniform(0.8, 1.0))  # noqa: S311
        return self._pool

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=self._tls if self._tls is not None else True,
                limit=0,
                keepalive_timeout=self.config.idle_seconds,
                use_dns_cache=False,
                socket_factory=self._open_socket,
            ),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=self.config.connect_seconds, sock_read=None, connect=None
            ),
        )

    def _open_socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        self.connected += 1
        family, kind, protocol, _, _ = address
        opened = socket.socket(family, kind, protocol)
        # A path that died without a word is noticed between two answers too.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return opened

    def _failure(self, error: BaseException, answer_seconds: float) -> UnreachableError:
        """What ``error`` means to our callers."""
        hop = self.origin if self.proxy is None else self.proxy.origin
        for kinds, code, summary, hint in _FAILURES:
            if isinstance(error, kinds):
                return UnreachableError(
                    summary.format(
                        hop=hop.address,
                        host=hop.host,
                        origin=self.origin.address,
                        reason=_reason(error),
                        seconds=answer_seconds,
                    ),
                    code=code,
                    hint=hint,
                )
        return UnreachableError(f"the call to {hop.address} failed: {_reason(error)}", code="connection_lost")


#: Which exception means what, the special before the general.
_FAILURES: Final[tuple[tuple[tuple[type[BaseException], ...], str, str, str], ...]] = (
    (
        (aiohttp.ClientHttpProxyError,),
        "proxy_refused",
        "the proxy {hop} does not connect us to {origin}: {reason}",
        "Give user and password in the proxy's URL, or ask for the plane's host to be allowed there.",
    ),
    (
        (aiohttp.ClientProxyConnectionError,),
        "proxy_refused",
        "the proxy {hop} does not answer: {reason}",
        "Check the proxy's URL, its scheme above all.",
    ),
    (
        (aiohttp.ClientConnectorCertificateError,),
        "tls_untrusted",
        "the certificate of {hop} is not trusted: {reason}",
        "If the plane has a private CA, or a proxy opens TLS on the way, name its certificate (ca_file).",
    ),
    (
        (aiohttp.ClientConnectorDNSError,),
        "name_unresolved",
        "the name {host} has no address: {reason}",
        "Check the URL, the resolver of this machine, and the private DNS zone if there is one.",
    ),
    (
        (aiohttp.ClientConnectorSSLError, ssl.SSLError),
        "tls_failed",
        "TLS with {hop} failed: {reason}",
        "Check that the port speaks TLS, and set client_certificate and client_key if the other side wants them.",
    ),
    (
        (aiohttp.ConnectionTimeoutError,),
        "connect_failed",
        "no connection to {hop} in time",
        "Something on the way drops packets: check firewalls and routes.",
    ),
    (
        (aiohttp.ClientConnectorError,),
        "connect_failed",
        "no connection to {hop}: {reason}",
        "Check that the plane runs there and that firewalls let this machine out.",
    ),
    (
        (aiohttp.ClientResponseError, aiohttp.ClientPayloadError),
        "answer_malformed",
        "{hop} does not answer with HTTP/1.1: {reason}",
        "Check host and port.",
    ),
    ((asyncio.TimeoutError,), "answer_timeout", "{hop} did not answer within {seconds:g} s", ""),
    (
        (aiohttp.ClientConnectionError, OSError),
        "connection_lost",
        "the connection to {hop} ended before the answer: {reason}",
        "",
    ),
)


class _Body(aiohttp.payload.Payload):
    """A content that is sent piece by piece, and again when it must be."""

    _value: Content

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The whole of it as text; aiohttp asks for this in its logs only."""
        return b"".join(self._value.chunks()).decode(encoding, errors)

    async def write(self, writer: aiohttp.abc.AbstractStreamWriter) -> None:
        """Send it."""
        for chunk in self._value.chunks():
            await writer.write(chunk)


def _reason(error: BaseException) -> str:
    inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
    if isinstance(error, aiohttp.ClientResponseError):
        return f"{error.status} {error.message}"
    if isinstance(inner, ssl.SSLCertVerificationError):
        return inner.verify_message
    if isinstance(inner, BaseException):
        return _reason(inner)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _ended_early(error: BaseException) -> UnreachableError:
    if isinstance(error, TimeoutError):
        return UnreachableError("the answer stopped in the middle", code="answer_timeout")
    return UnreachableError(f"the answer ended early: {_reason(error)}", code="connection_lost")
