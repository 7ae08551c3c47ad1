"""TCP, TLS and HTTP to one address, under the name that the certificate must have.

The address is given rather than resolved, so that the private and the public path can be asked apart. HTTP is parsed by
h11; there is one request a connection, but for the check of keep-alive.
"""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import h11

from isthmus.probe.resolving import Address

#: More of an answer is not read.
BODY_BYTES: Final = 64 * 1024


class Stage(StrEnum):
    """How far a connection came."""

    TCP = "tcp"
    TLS = "tls"
    HTTP = "http"


class RoadError(Exception):
    """A connection failed at ``stage``; ``cause`` is the operating system's, OpenSSL's or h11's error."""

    def __init__(self, stage: Stage, cause: BaseException, seconds: float) -> None:
        super().__init__(f"{stage}: {cause}")
        self.stage = stage
        self.cause = cause
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Road:
    """Where to, and as whom: ``name`` goes into SNI and the Host header. ``tls`` is None for plain HTTP."""

    address: Address
    port: int
    name: str
    tls: ssl.SSLContext | None
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a TLS connection: its certificate's names, issuer, and end (Unix seconds), the protocol."""

    names: tuple[str, ...]
    issuer: str
    not_after: float
    protocol: str


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """One open connection. ``tcp_seconds`` and ``tls_seconds`` are what opening took."""

    def __init__(
        self,
        road: Road,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        tcp_seconds: float,
        tls_seconds: float,
    ) -> None:
        self._road = road
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT)
        self.tcp_seconds = tcp_seconds
        self.tls_seconds = tls_seconds

    @property
    def local_address(self) -> str:
        """This end's address, as it leaves this machine."""
        return str(self._writer.get_extra_info("sockname")[0])

    @property
    def peer(self) -> Peer | None:
        """The other end's certificate; None without TLS."""
        end = self._writer.get_extra_info("ssl_object")
        if end is None:
            return None
        certificate = end.getpeercert() or {}
        names = tuple(value for _, value in certificate.get("subjectAltName", ()))
        issuer = ", ".join(value for part in certificate.get("issuer", ()) for _, value in part)
        not_after = ssl.cert_time_to_seconds(certificate["notAfter"]) if "notAfter" in certificate else 0.0
        return Peer(names, issuer, not_after, end.version() or "")

    async def ask(self, method: str, target: str, headers: Mapping[str, str]) -> Answer:
        """One request and its answer. Raises RoadError."""
        begun = time.monotonic()
        try:
            async with asyncio.timeout(self._road.timeout_seconds):
                return await self._exchange(method, target, headers)
        except (OSError, TimeoutError, h11.ProtocolError, EOFError) as error:
            raise RoadError(Stage.HTTP, error, time.monotonic() - begun) from None

    async def _exchange(self, method: str, target: str, headers: Mapping[str, str]) -> Answer:
        if self._http.our_state is h11.DONE:
            self._http.start_next_cycle()
        request = h11.Request(method=method, target=target, headers=[("Host", self._road.name), *headers.items()])
        self._writer.write((self._http.send(request) or b"") + (self._http.send(h11.EndOfMessage()) or b""))
        await self._writer.drain()
        response: h11.Response | None = None
        body = bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                data = await self._reader.read(65536)
                self._http.receive_data(data)
                if not data and response is None:
                    raise EOFError("the other side closed the connection without an answer")
            elif isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                body += event.data[: BODY_BYTES - len(body)]
            elif isinstance(event, h11.EndOfMessage) and response is not None:
                found = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in response.headers}
                return Answer(response.status_code, found, bytes(body))
            elif isinstance(event, h11.ConnectionClosed):
                raise EOFError("the other side closed the connection within its answer")


@contextlib.asynccontextmanager
async def connected(road: Road) -> AsyncIterator[Connection]:
    """A connection along ``road``, closed in the end. Raises RoadError, which says how far it came."""
    loop = asyncio.get_running_loop()
    begun = time.monotonic()
    end = socket.socket(socket.AF_INET6 if road.address.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    end.setblocking(False)
    try:
        try:
            async with asyncio.timeout(road.timeout_seconds):
                await loop.sock_connect(end, (str(road.address), road.port))
        except (OSError, TimeoutError) as error:
            raise RoadError(Stage.TCP, error, time.monotonic() - begun) from None
        tcp_seconds = time.monotonic() - begun
        begun = time.monotonic()
        try:
            async with asyncio.timeout(road.timeout_seconds):
                reader, writer = await asyncio.open_connection(
                    sock=end, ssl=road.tls, server_hostname=road.name if road.tls else None
                )
        except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
            raise RoadError(Stage.TLS, error, time.monotonic() - begun) from None
    except BaseException:
        end.close()
        raise
    connection = Connection(road, reader, writer, tcp_seconds, time.monotonic() - begun)
    try:
        yield connection
    finally:
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                await writer.wait_closed()
