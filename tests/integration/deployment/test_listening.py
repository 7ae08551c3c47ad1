import asyncio
import shutil
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import pytest
from sqlalchemy import create_engine
from tests import planting

from isthmus.deployment import embedded, plane, pooling, steering, tables
from isthmus.deployment.config import DeploymentConfig
from isthmus.deployment.leasing import LeasedRow
from isthmus.deployment.listening import Listener, Mode
from isthmus.deployment.pooling import Pool
from isthmus.deployment.roster import Beat
from isthmus.deployment.tables import ACCESS_CHANNEL, QUEUED_CHANNEL
from isthmus.deployment.tokens import TokenBook


@asynccontextmanager
async def listening(listener: Listener) -> AsyncIterator[None]:
    task = asyncio.create_task(listener.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def notify(pool: Pool, channel: str) -> None:
    await pool.execute("SELECT pg_notify($1, '')", channel)


async def test_a_notification_calls_back_within_milliseconds_and_only_its_channel(pool: Pool, core_url: str) -> None:
    listener = Listener(pool, core_url)
    queued, access = asyncio.Event(), asyncio.Event()
    listener.subscribe(QUEUED_CHANNEL, queued.set)
    listener.subscribe(ACCESS_CHANNEL, access.set)
    async with listening(listener):
        await planting.until(lambda: listener.mode is Mode.NOTIFIED)
        assert queued.is_set()  # what came while nobody listened
        access.clear()
        latencies = []
        for _ in range(20):
            queued.clear()
            began = time.perf_counter()
            await notify(pool, QUEUED_CHANNEL)
            await queued.wait()
            latencies.append(time.perf_counter() - began)
        assert median(latencies) < 0.1
        assert not access.is_set()
        assert listener.health() == ()


async def test_a_listener_that_is_cut_off_listens_again_and_calls_all(pool: Pool, core_url: str) -> None:
    listener = Listener(pool, core_url)
    queued = asyncio.Event()
    listener.subscribe(QUEUED_CHANNEL, queued.set)
    async with listening(listener):
        await planting.until(lambda: listener.mode is Mode.NOTIFIED)
        queued.clear()
        await pool.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%listener' "
            "AND datname = current_database()"
        )
        await planting.until(queued.is_set)
        await planting.until(lambda: listener.mode is Mode.NOTIFIED)
        queued.clear()
        await notify(pool, QUEUED_CHANNEL)
        await planting.until(queued.is_set)


@pytest.mark.parametrize("why", ["unreachable", "deaf"])
async def test_where_notifications_cannot_arrive_one_poll_a_second_takes_over_and_health_says_so(
    pool: Pool, core_url: str, new_database: object, why: str
) -> None:
    # A listener on another database hears nothing of this one, as behind a pooler in transaction mode.
    url = new_database() if why == "deaf" else core_url.replace("@", "x@")  # type: ignore[operator]
    listener = Listener(pool, url, echo_seconds=0.2)
    calls: list[float] = []
    listener.subscribe(QUEUED_CHANNEL, lambda: calls.append(time.monotonic()))
    async with listening(listener):
        await planting.until(lambda: listener.mode is Mode.POLLING)
        calls.clear()
        await asyncio.sleep(2.6)
        assert 1 <= len(calls) <= 3
        [warning] = listener.health()
        assert warning.code == "notifications_missing"
        assert "notify_url" in warning.hint


class OwnServer:
    """A PostgreSQL that a test may restart."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._server = embedded.start(directory)
        self.url = self._server.url

    def start(self) -> None:
        self._server = embedded.start(self._directory)

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture
def own_server() -> Iterator[OwnServer]:
    directory = Path(tempfile.mkdtemp(prefix="isthmus-test-restart-"))
    directory.chmod(0o711)  # as root the server runs as another user
    server = OwnServer(directory)
    try:
        engine = create_engine(server.url)
        tables.metadata.create_all(engine)
        engine.dispose()
        planting.execute(server.url, planting.TASK_INSTANCE)
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory)


async def test_a_plane_survives_a_restart_of_postgresql(own_server: OwnServer, config: DeploymentConfig) -> None:
    async with plane.running(config, own_server.url) as running:
        token, _ = await running.tokens.create("site", expires_days=1)
        agent = await running.roster.enrol(planting.enrolment(), token)
        await planting.until(lambda: running.listener.mode is Mode.NOTIFIED)
        [kept] = await planting.add_workloads(running.pool)
        [row] = await running.dispatcher.claim(agent.agent_id, ["default"], uuid.uuid4(), 1, 5)
        waiting = asyncio.create_task(running.dispatcher.claim(agent.agent_id, ["default"], uuid.uuid4(), 3, 20))
        await planting.until(lambda: running.dispatcher.waiting == 1)

        own_server.stop()
        await planting.until(lambda: running.listener.mode is Mode.POLLING)
        # Longer than the lease of 3 s: nobody can heartbeat into the database, and nobody loses a lease for it.
        for _ in range(8):
            running.roster.heartbeat(agent, Beat(leases=(row.lease,)))
            await asyncio.sleep(0.5)
        assert not waiting.done()
        own_server.start()

        await planting.until(lambda: running.listener.mode is Mode.NOTIFIED, seconds=15)
        [workload] = await planting.add_workloads(running.pool)
        rows: list[LeasedRow] = await waiting
        assert [leased.workload_id for leased in rows] == [workload]
        await planting.until(lambda: running.roster.writable_seconds() > 0, seconds=10)
        assert (await planting.states(running.pool))[kept] == "leased"


async def test_a_stopped_plane_has_answered_its_claims_and_written_its_heartbeats(
    core_url: str, config: DeploymentConfig
) -> None:
    async with plane.running(config, core_url) as running:
        token, _ = await running.tokens.create("site", expires_days=1)
        agent = await running.roster.enrol(planting.enrolment(), token)
        waiting = asyncio.create_task(running.dispatcher.claim(agent.agent_id, ["default"], uuid.uuid4(), 1, 20))
        await planting.until(lambda: running.dispatcher.waiting == 1)
        running.roster.heartbeat(agent, Beat(slots_used=3))
    assert await waiting == []
    pool = await pooling.open_pool(core_url)
    assert await pool.fetchval("SELECT slots_used FROM isthmus_agent") == 3
    await pool.close()


async def test_a_plane_ends_leases_of_an_agent_that_falls_silent(core_url: str, config: DeploymentConfig) -> None:
    async with plane.running(config, core_url) as running:
        token, _ = await running.tokens.create("site", expires_days=1)
        silent = await running.roster.enrol(planting.enrolment("silent"), token)
        talking = await running.roster.enrol(planting.enrolment("talking"), token)
        await planting.add_workloads(running.pool, 2)
        [left] = await running.dispatcher.claim(silent.agent_id, ["default"], uuid.uuid4(), 1, 5)
        [held] = await running.dispatcher.claim(talking.agent_id, ["default"], uuid.uuid4(), 1, 5)

        async def requeued() -> bool:
            running.roster.heartbeat(talking, Beat(leases=(held.lease,)))
            return (await planting.states(running.pool))[left.workload_id] == "queued"

        await planting.until(requeued, seconds=15)
        assert (await planting.states(running.pool))[held.workload_id] == "leased"
        [again] = await running.dispatcher.claim(talking.agent_id, ["default"], uuid.uuid4(), 1, 5)
        assert (again.workload_id, again.fence) == (left.workload_id, left.fence + 1)


async def test_changes_of_flags_and_access_reach_a_running_plane_at_once(
    core_url: str, config: DeploymentConfig, pool: Pool
) -> None:
    async with plane.running(config, core_url) as running:
        await planting.until(lambda: running.listener.mode is Mode.NOTIFIED)
        other = TokenBook(pool, config.deployment_id)  # another process
        token, _ = await other.create("site", expires_days=1)
        await planting.until(lambda: token.token_id in running.tokens._tokens, seconds=1)
        agent = await running.roster.enrol(planting.enrolment(), token)
        waiting = asyncio.create_task(running.dispatcher.claim(agent.agent_id, ["default"], uuid.uuid4(), 1, 20))
        await planting.until(lambda: running.dispatcher.waiting == 1)
        await steering.cordon(pool, agent.agent_id)
        assert await asyncio.wait_for(waiting, 2) == []
        assert running.roster.heartbeat(agent, Beat()).cordoned
