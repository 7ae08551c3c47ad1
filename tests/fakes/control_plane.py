"""A control plane in this process, on a real PostgreSQL and whatever cloud a test gives it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from isthmus.control import operators, schema, serving
from isthmus.control.auditing import Actor
from isthmus.control.config import ControlConfig
from isthmus.control.databases import Database
from isthmus.kit.clocks import Clock
from isthmus.link.clouds import ProviderCloud
from isthmus.link.reconciling import Event
from isthmus.wire.control import OperatorRole

Json = dict[str, Any]
SCENE_CLUSTER = {"cluster_id": "clabcdefgh2", "cidr": "10.1.0.0/16", "domain": "example.com", "region": "westeurope"}


async def prepare(url: str, name: str = "ann", role: OperatorRole = OperatorRole.ADMIN) -> str:
    """Migrate a database and make an operator; the token."""
    async with Database(url) as database:
        await schema.migrate(database)
        async with database.begin() as connection:
            return (await operators.create(connection, Actor("test"), name, role))[1]


@dataclass
class ControlPlane:
    """A running one, and a client with an admin's token."""

    url: str
    http: httpx.AsyncClient
    token: str

    async def call(self, method: str, path: str, body: Any = None, *, status: int = 200, **query: Any) -> Json:
        answer = await self.http.request(method, f"/control/v1{path}", json=body, params=query)
        assert answer.status_code == status, (answer.status_code, answer.text)
        found: Json = answer.json() if answer.content else {}
        return found

    async def until(self, path: str, is_so: Callable[[Json], bool], seconds: float = 20) -> Json:
        """What ``path`` answers when it is so."""
        found: Json = {}
        try:
            async with asyncio.timeout(seconds):
                while True:
                    answer = await self.http.get(f"/control/v1{path}")
                    found = answer.json()
                    if is_so(found):
                        return found
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(found) from None

    def connected(self, **headers: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=20)


@asynccontextmanager
async def running(
    url: str,
    cloud: ProviderCloud,
    token: str,
    *,
    clock: Clock | None = None,
    tell: Callable[[Event], None] = lambda _: None,
    **settings: Any,
) -> AsyncIterator[ControlPlane]:
    config = ControlConfig(**{"listen_port": 0, "look_seconds": 0.2, "cloud_seconds": 2.0, **settings})
    stop = asyncio.Event()
    where: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        serving.run(config, url, cloud, ready=where.set_result, stop=stop, clock=clock, tell=tell)
    )
    try:
        await asyncio.wait([task, where], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        address = await where
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=address, headers=headers, timeout=20) as http:
            yield ControlPlane(address, http, token)
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await task


@contextmanager
def in_a_thread(url: str, cloud: ProviderCloud, **settings: Any) -> Iterator[tuple[str, str]]:
    """A control plane for tests that are not asynchronous: where it is, and an admin's token."""
    loop, stop, ready = asyncio.new_event_loop(), asyncio.Event(), threading.Event()
    found: list[str] = []

    async def serve() -> None:
        try:
            token = await prepare(url)
            async with running(url, cloud, token, **settings) as plane:
                found.extend((plane.url, plane.token))
                ready.set()
                await stop.wait()
        finally:
            ready.set()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(30)
        assert found, "the control plane did not start"
        yield found[0], found[1]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()
