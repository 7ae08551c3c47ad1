"""2,000 agents, 100,000 workloads, 50 endpoints, 200,000 entries of the audit log: pages, live updates, viewers.

The Remote Execution API and the control plane are processes of their own, as in production. ``-s`` shows the figures.
"""

import asyncio
import json
import math
import os
import re
import socket
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from sqlalchemy.engine import make_url
from tests import planting, scale
from tests.apis import ADMIN_TOKEN, DEPLOYMENT_ID, serving
from tests.fakes.control_plane import SCENE_CLUSTER, prepare

from isthmus.deployment import databases

CLUSTER = SCENE_CLUSTER["cluster_id"]
DEPLOYMENT = f"/clusters/{CLUSTER}/deployments/{DEPLOYMENT_ID}"
#: Issue 5: the first byte of every page, and the way of a change to an open page.
FIRST_BYTE_SECONDS = 0.3
LIVE_SECONDS = 2.0
ROUNDS = 20
TRIES = 3
#: PostgreSQL's counters are written by each session within a second or so of its last statement.
STATISTICS_SECONDS = 3.0
FEW_ROWS = 1000

#: A cloud that does not answer: links and connections stay as they are in the store.
PROGRAM = """
import asyncio, json, pathlib, ssl, sys
from isthmus.control import serving
from isthmus.control.config import ControlConfig
from isthmus.kit import logs
from isthmus.kit.errors import UnreachableError
logs.configure()
asked = json.loads(sys.argv[1])

class Away:
    def __getattr__(self, name):
        async def call(*_, **__):
            raise UnreachableError("the cloud is away", code="cloud_unavailable", hint="Wait.")
        return call

settings = ControlConfig(listen_port=asked["port"], look_seconds=3600, cloud_seconds=1.0,
                         admin_tokens=pathlib.Path(asked["tokens"]), admin_ca=pathlib.Path(asked["ca"]))
asyncio.run(serving.run(settings, asked["database"], Away()))
"""


@dataclass
class Plane:
    """Both processes and their databases."""

    url: str
    token: str
    pid: int
    deployment_database: str
    control_database: str

    @asynccontextmanager
    async def signed_in(self) -> AsyncIterator[httpx.AsyncClient]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=f"{self.url}/ui", timeout=30, limits=limits) as http:
            assert (await http.post("/sign-in", data={"token": self.token})).status_code == 303
            yield http

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def statements(self) -> int:
        """Transactions in the control plane's database so far."""
        with databases.connected(self.control_database) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_stat_clear_snapshot()")
            cursor.execute("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
            (found,) = cursor.fetchone() or (0,)
            return int(found)


@pytest.fixture(scope="module")
def plane(
    tmp_path_factory: pytest.TempPathFactory,
    airflow_template: str,
    airflow_environment: Callable[[str], dict[str, str]],
    postgres_url: str,
) -> Iterator[Plane]:
    home = tmp_path_factory.mktemp("scale")
    with _database(postgres_url, airflow_template) as deployment, _database(postgres_url) as control:
        scale.fill_deployment(deployment)
        token = asyncio.run(prepare(control))
        with _serving(home, deployment, control, token, airflow_environment(deployment)) as plane:
            yield plane


@contextmanager
def _database(postgres_url: str, template: str = "template1") -> Iterator[str]:
    name = f"scale_{uuid.uuid4().hex[:12]}"
    planting.execute(postgres_url, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    yield make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    planting.execute(postgres_url, f'DROP DATABASE "{name}" WITH (FORCE)')


@contextmanager
def _serving(
    home: Path, deployment: str, control_database: str, token: str, environment: dict[str, str]
) -> Iterator[Plane]:
    (home / "tokens").mkdir()
    (home / "tokens" / "admin").write_text(ADMIN_TOKEN)
    with serving(home, deployment, environment) as api:
        planting.execute(
            control_database,
            "INSERT INTO isthmus_control.cluster (id, cidr, domain, region) "
            f"VALUES ('{CLUSTER}', '10.20.0.0/16', 'example.com', 'westeurope')",
            "INSERT INTO isthmus_control.cluster (id, cidr, domain, region) SELECT 'clzzzzzzz' || "
            "translate(n::text, '0189', 'abcd') || 'z', ('10.' || 100 + n || '.0.0/16')::cidr, 'example.com', 'north' "
            "FROM generate_series(2, 7) AS n",
            "INSERT INTO isthmus_control.deployment (id, cluster_id, servers, admin_url, admin_token_reference) "
            f"""VALUES ('{DEPLOYMENT_ID}', '{CLUSTER}', '["https://api:8443"]',
                        '{api.admin().base_url}', 'admin')""",
        )
        scale.fill_control(control_database, CLUSTER)
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = int(server.getsockname()[1])
        asked = {"port": port, "database": control_database, "tokens": str(home / "tokens"), "ca": str(api.authority)}
        with (home / "control.log").open("w") as log:
            process = subprocess.Popen([sys.executable, "-c", PROGRAM, json.dumps(asked)], stderr=log, stdout=log)
        url = f"http://127.0.0.1:{port}"
        try:
            _await_answer(url, home / "control.log")
            yield Plane(url, token, process.pid, deployment, control_database)
        finally:
            process.terminate()
            try:
                process.wait(20)
            finally:
                process.kill()


def _await_answer(url: str, log: Path) -> None:
    for _ in range(200):
        try:
            httpx.get(url)
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(log.read_text())


async def _pages(http: httpx.AsyncClient) -> list[str]:
    """Every page, as its links lead there."""
    agents = (await http.get(f"{DEPLOYMENT}/agents")).text
    agent = re.search(r"/agents/([0-9a-f-]{36})", agents)
    workload = re.search(r"/workloads/([0-9a-f-]{36})", (await http.get(f"{DEPLOYMENT}/workloads")).text)
    connection = re.search(r"/link/connections/(\w+)", (await http.get(f"/clusters/{CLUSTER}/link")).text)
    assert agent, agents
    assert workload
    assert connection
    work = f"{DEPLOYMENT}/workloads"
    return [
        "/overview",
        "/deployments",
        DEPLOYMENT,
        f"{DEPLOYMENT}/agents",
        f"{DEPLOYMENT}/agents?start=1500",
        f"{DEPLOYMENT}/agents?health=unhealthy&role=worker&name=7",
        f"{DEPLOYMENT}/agents/register",
        f"{DEPLOYMENT}/agents/{agent[1]}",
        f"{DEPLOYMENT}/tokens",
        f"{DEPLOYMENT}/queues",
        f"{DEPLOYMENT}/refused",
        work,
        f"{work}?state=failed",
        f"{work}?state=lost&dag_id=dag-7",
        f"{work}?queue=queue-7&dag_id=none",
        f"{work}?agent_id={agent[1]}",
        f"{work}/{workload[1]}",
        f"{DEPLOYMENT}/access",
        "/clusters",
        "/clusters/new",
        f"/clusters/{CLUSTER}",
        f"/clusters/{CLUSTER}/link",
        f"/clusters/{CLUSTER}/link/connections/{connection[1]}",
        f"/clusters/{CLUSTER}/guide",
        "/operators",
        "/audit",
        "/audit?operator=operator-7&action=agent.drain",
    ]


async def test_the_first_byte_of_every_page(plane: Plane, record_property: Callable[[str, object], None]) -> None:
    slow = {}
    async with plane.signed_in() as http:
        for path in await _pages(http):
            for _ in range(TRIES):  # what else runs on the machine is not the page's fault
                took, size = await _first_bytes(http, path)
                half, most = statistics.median(took), took[math.ceil(0.95 * ROUNDS) - 1]
                if most <= FIRST_BYTE_SECONDS:
                    break
            else:
                slow[path] = took
            record_property(path, (round(half * 1000), round(most * 1000)))
            name = re.sub(r"[0-9a-f-]{36}", "ID", path.replace(DEPLOYMENT, "…"))
            print(f"| `{name}` | {half * 1000:.0f} | {most * 1000:.0f} | {size / 1000:.0f} |")
    assert not slow


async def _first_bytes(http: httpx.AsyncClient, path: str) -> tuple[list[float], int]:
    """Seconds until the first byte of each round, sorted; bytes of the page."""
    took = []
    text = ""
    for _ in range(ROUNDS):
        began = time.perf_counter()
        async with http.stream("GET", path) as answer:
            took.append(time.perf_counter() - began)
            text = (await answer.aread()).decode()
        assert answer.status_code == 200, (path, answer.status_code, text)
        assert "does not answer" not in text, path
    return sorted(took), len(text.encode())


async def test_no_page_reads_a_large_table_as_a_whole(plane: Plane) -> None:
    tables = {plane.deployment_database: "isthmus_workload", plane.control_database: "audit"}
    async with plane.signed_in() as http:
        pages = await _pages(http)
        await asyncio.sleep(STATISTICS_SECONDS)
        before = {url: _scanned(url, name) for url, name in tables.items()}
        for path in pages:
            assert (await http.get(path)).status_code == 200
    await asyncio.sleep(STATISTICS_SECONDS)
    rows = {name: _scanned(url, name) - before[url] for url, name in tables.items()}
    print(f"rows that were read without an index, by {len(pages)} pages: {rows}")
    assert all(number < FEW_ROWS for number in rows.values()), rows


def _scanned(url: str, table: str) -> int:
    """Rows of a table that were read by scans of the whole table so far."""
    with databases.connected(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT sum(seq_tup_read)::bigint FROM pg_stat_user_tables WHERE relname = %s", (table,))
        (found,) = cursor.fetchone() or (0,)
        return int(found)


async def test_a_change_reaches_the_open_page(plane: Plane) -> None:
    async with plane.signed_in() as http:
        agents = f"{DEPLOYMENT}/agents?name=agent-00002"
        silent = "UPDATE isthmus_agent SET last_heartbeat_at = now() - interval '1 hour' WHERE name = 'agent-00002'"
        took = await _until_shown(http, agents, "no heartbeat for", lambda: (plane.deployment_database, silent))
        print(f"an agent that is unhealthy is on its page after {took:.2f} s")
        assert took < LIVE_SECONDS
        asks = (
            "INSERT INTO isthmus_control.connection (id, cluster_id, name, endpoint_id, subscription, state) "
            f"VALUES ('cnnewnewnewa', '{CLUSTER}', 'new', '{scale.GROUP}/privateEndpoints/ep-new', 's', 'pending')"
        )
        counter = re.compile(r"Endpoints waiting</dt><dd>6<")
        took = await _until_shown(http, "/overview", counter, lambda: (plane.control_database, asks))
        print(f"a connection that asks is on the overview after {took:.2f} s")
        assert took < LIVE_SECONDS


async def _until_shown(
    http: httpx.AsyncClient, path: str, wanted: str | re.Pattern[str], change: Callable[[], tuple[str, str]]
) -> float:
    """Seconds from a change in a store to the event that shows it."""
    began = None
    seen = 0
    async with asyncio.timeout(20), http.stream("GET", path, headers={"accept": "text/event-stream"}) as answer:
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            html = json.loads(line[6:])["html"]
            seen += 1
            is_there = wanted in html if isinstance(wanted, str) else wanted.search(html) is not None
            if began is not None and is_there:
                return time.monotonic() - began
            assert not is_there, "it is there before the change"
            if began is None:
                await asyncio.to_thread(planting.execute, *change())
                began = time.monotonic()
    raise AssertionError("the stream has ended")


@pytest.mark.parametrize("path", ["/overview", f"{DEPLOYMENT}/agents"])
async def test_viewers_of_a_page_share_its_cost(plane: Plane, path: str) -> None:
    """A hundred viewers ask the database for as much as one, and cost less than ten would if each looked itself."""
    used: dict[int, tuple[float, float]] = {}
    for viewers in (1, 20, 100):
        async with AsyncExitStack() as stack:
            readers = []
            for _ in range(math.ceil(viewers / 20)):
                http = await stack.enter_async_context(plane.signed_in())
                for _ in range(min(20, viewers)):
                    stream = http.stream("GET", path, headers={"accept": "text/event-stream"})
                    answer = await stack.enter_async_context(stream)
                    assert answer.status_code == 200
                    readers.append(asyncio.create_task(_drain(answer)))
            await asyncio.sleep(1.5)
            cpu, statements, began = plane.cpu_seconds(), plane.statements(), time.monotonic()
            await asyncio.sleep(3)
            span = time.monotonic() - began
            used[viewers] = ((plane.cpu_seconds() - cpu) / span, (plane.statements() - statements) / span)
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
        cpu, statements = used[viewers]
        print(f"{path}: {viewers} viewers: {cpu * 100:.0f} % of a CPU, {statements:.0f} transactions/s")
    assert used[100][1] < 3 * max(used[1][1], 4)
    assert used[100][0] < max(10 * used[1][0], 0.3)


async def _drain(answer: httpx.Response) -> None:
    async for _ in answer.aiter_bytes():
        pass
