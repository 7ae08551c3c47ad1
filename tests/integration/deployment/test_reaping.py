import uuid

import pytest
from tests import planting

from isthmus.deployment.leasing import Ended, LeaseTimes
from isthmus.deployment.pooling import Pool
from isthmus.deployment.reaping import Deleted, Reaper

TIMES = LeaseTimes(30, 120)


class Trust:
    seconds = 1e9

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def trust() -> Trust:
    return Trust()


@pytest.fixture
def reaper(pool: Pool, trust: Trust) -> Reaper:
    return Reaper(pool, TIMES, trusted_seconds=trust, retention_hours=24)


async def hold(pool: Pool, agent: uuid.UUID, state: str) -> uuid.UUID:
    [workload] = await planting.add_workloads(pool)
    await pool.execute(
        "UPDATE isthmus_workload SET state = $2, agent_id = $3, fence = 1, "
        "lease_expires_at = now() - interval '1 second' WHERE id = $1",
        workload,
        state,
        agent,
    )
    return workload


async def test_leases_are_judged_only_after_a_whole_lease_of_written_heartbeats(
    pool: Pool, reaper: Reaper, trust: Trust
) -> None:
    [agent] = await planting.add_agents(pool)
    leased, running = await hold(pool, agent, "leased"), await hold(pool, agent, "running")
    trust.seconds = 29
    assert await reaper.sweep() == Ended()
    trust.seconds = 30
    assert await reaper.sweep() == Ended(requeued=1)
    trust.seconds = 119
    assert await reaper.sweep() == Ended()
    trust.seconds = 120
    assert await reaper.sweep() == Ended(lost=1)
    assert await planting.states(pool) == {leased: "queued", running: "lost"}
    assert (reaper.statistics.requeued, reaper.statistics.lost) == (1, 1)


async def test_what_is_old_and_taken_is_forgotten_in_batches(pool: Pool, reaper: Reaper) -> None:
    ids = await planting.add_workloads(pool, 7)
    await pool.execute(
        "UPDATE isthmus_workload SET state = 'succeeded', settled_at = now() - interval '25 hours' "
        "WHERE id = ANY($1::uuid[])",
        ids[:6],
    )
    await pool.execute("UPDATE isthmus_workload SET unseen = true WHERE id = $1", ids[0])
    await pool.execute("UPDATE isthmus_workload SET settled_at = now() WHERE id = $1", ids[1])
    assert await reaper.forget(batch=3) == Deleted(workloads=3)
    assert await reaper.forget(batch=3) == Deleted(workloads=1)
    assert await reaper.forget(batch=3) == Deleted()
    assert set(await planting.states(pool)) == {ids[0], ids[1], ids[6]}
    await pool.execute("UPDATE isthmus_workload SET settled_at = now() - interval '49 hours' WHERE unseen")
    assert await reaper.forget() == Deleted(workloads=1)


async def test_agents_that_are_long_gone_are_forgotten(pool: Pool, reaper: Reaper) -> None:
    _, fresh, cordoned, holding = await planting.add_agents(pool, 4)
    await hold(pool, holding, "running")
    await pool.execute("UPDATE isthmus_agent SET last_heartbeat_at = now() - interval '25 hours' WHERE id <> $1", fresh)
    await pool.execute("UPDATE isthmus_agent SET cordoned = true WHERE id = $1", cordoned)
    assert await reaper.forget() == Deleted(agents=1)
    left = {row["id"] for row in await pool.fetch("SELECT id FROM isthmus_agent")}
    assert left == {fresh, cordoned, holding}
