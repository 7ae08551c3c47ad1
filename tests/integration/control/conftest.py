"""A real HAProxy between clients and deployments that say what reached them."""

import asyncio
import contextlib
import shutil
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from aiohttp import web

from isthmus.control.ingress.config import IngressConfig
from isthmus.control.ingress.following import Ingress
from isthmus.control.ingress.pictures import IngressPicture, LinkEntrance, route
from isthmus.kit import certificates
from isthmus.kit.clocks import SystemClock
from isthmus.kit.errors import UnreachableError
from isthmus.kit.health import Health
from isthmus.wire import paths

CLUSTER = "cl234567abc"
HOST = f"{CLUSTER}.external.example.test"
LOOPBACK = IPv4Network("127.0.0.0/8")
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@dataclass
class Pki:
    """An authority, and what it has signed."""

    home: Path
    authority: Path = field(init=False)
    _authority: tuple[bytes, bytes] = field(init=False)

    def __post_init__(self) -> None:
        self._authority = certificates.make_authority("test")
        self.authority = self.home / "authority.pem"
        self.authority.write_bytes(self._authority[0])

    def issue(self, name: str, *names: str) -> tuple[Path, Path]:
        chain, key = certificates.issue(*self._authority, [*names])
        files = self.home / f"{name}.pem", self.home / f"{name}.key"
        for file, content in zip(files, (chain, key), strict=True):
            file.write_bytes(content)
        return files

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority))


@contextlib.asynccontextmanager
async def deployment(deployment_id: str, pki: Pki, *names: str) -> AsyncIterator[int]:
    """A server that says what reached it, and ``404 page not found`` elsewhere; its port."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if not request.path.startswith((f"/{deployment_id}/agent/v1", f"/{deployment_id}/execution")):
            return web.Response(status=404, text=paths.NOT_FOUND_TEXT)
        await asyncio.sleep(float(request.query.get("seconds", "0")))
        body = await request.read()
        headers = [[name.lower(), value] for name, value in request.headers.items()]
        return web.json_response(
            {"deployment": deployment_id, "path": request.path, "headers": headers, "bytes": len(body)}
        )

    app = web.Application(client_max_size=2**24)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*pki.issue(deployment_id, *(names or ("localhost", "127.0.0.1"))))
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


@dataclass
class Books:
    """A registry in memory."""

    current: IngressPicture
    is_away: bool = False

    async def picture(self) -> IngressPicture:
        if self.is_away:
            raise UnreachableError("away", code="control_unreachable")
        return self.current

    def lead(self, deployment_id: str, *ports: int) -> None:
        urls = [f"https://localhost:{port}" for port in ports]
        others = tuple(one for one in self.current.routes if one.deployment_id != deployment_id)
        self.current = replace(self.current, routes=(*others, *([route(deployment_id, urls)] if urls else [])))

    def link(self, *, has_proxy_protocol: bool = True, network: IPv4Network = LOOPBACK) -> None:
        self.current = replace(self.current, link=LinkEntrance((network,), has_proxy_protocol))


@dataclass
class Entrance:
    """A running ingress."""

    config: IngressConfig
    books: Books
    health: Health
    ingress: Ingress
    pki: Pki

    @property
    def url(self) -> str:
        return f"https://localhost:{self.config.listen_port}"

    async def until(self, reloads: int) -> None:
        async with asyncio.timeout(20):
            while self.ingress.reloads < reloads:
                await asyncio.sleep(0.05)

    async def connect(
        self, before: bytes = b"", *, port: int | None = None, tls: bool = True
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port or self.config.link_port)
        writer.write(before)
        if tls:
            await writer.start_tls(self.pki.client(), server_hostname="localhost")
        return reader, writer

    async def ask(self, request: bytes, before: bytes = b"", *, port: int | None = None, tls: bool = True) -> bytes:
        """The answer to raw bytes; empty if the connection was closed."""
        async with asyncio.timeout(15):
            reader, writer = await self.connect(before, port=port, tls=tls)
            try:
                writer.write(request)
                return await reader.read()
            finally:
                writer.close()


def get(path: str, *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode()


@pytest.fixture
def ingress_home() -> Iterator[Path]:
    """Short, because the sockets' paths are, and open to the user that HAProxy serves as."""
    home = Path(tempfile.mkdtemp(prefix="isthmus-ingress-"))
    home.chmod(0o711)
    yield home
    shutil.rmtree(home)


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


@pytest.fixture
def ingress_config(ingress_home: Path, pki: Pki) -> IngressConfig:
    if shutil.which("haproxy") is None:
        pytest.fail("haproxy is missing: apt-get install haproxy")
    chain, key = pki.issue("ingress", "localhost", HOST)
    return IngressConfig(
        cluster=CLUSTER,
        control_url="http://127.0.0.1:1",
        control_token_file=ingress_home / "token",
        certificate=chain,
        private_key=key,
        home=ingress_home,
        deployments_ca=pki.authority,
        listen_host="127.0.0.1",
        listen_port=free_port(),
        link_host="127.0.0.1",
        link_port=free_port(),
        health_port=free_port(),
        reload_seconds=0.2,
        drain_seconds=5,
    )


@contextlib.asynccontextmanager
async def serving(config: IngressConfig, books: Books, pki: Pki) -> AsyncIterator[Entrance]:
    clock = SystemClock()
    health = Health(clock)
    ingress = Ingress(config, books, health, clock)
    stop = asyncio.Event()
    running = asyncio.create_task(ingress.run(stop))
    try:
        entrance = Entrance(config, books, health, ingress, pki)
        async with asyncio.timeout(20):
            while not ingress.is_serving:
                assert not running.done(), await running
                await asyncio.sleep(0.02)
        yield entrance
    finally:
        stop.set()
        async with asyncio.timeout(30):
            await running


@pytest.fixture
async def entrance(ingress_config: IngressConfig, pki: Pki) -> AsyncIterator[Entrance]:
    """An ingress with the public entrance and the link's, and no deployment."""
    books = Books(IngressPicture(CLUSTER))
    books.link()
    async with serving(ingress_config, books, pki) as running:
        yield running
