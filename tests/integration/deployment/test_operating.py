"""Reading and steering: what operators see and do."""

import itertools
import uuid
from datetime import timedelta

import pytest
from tests import planting

from isthmus.deployment import reading, steering, tallies
from isthmus.deployment.errors import PlaneRefusedError
from isthmus.deployment.pooling import Pool
from isthmus.deployment.reading import AgentFilter, WorkloadFilter
from isthmus.wire.admin import AgentHealth, AgentOrder, WorkloadState
from isthmus.wire.names import Kind, Role
from isthmus.wire.problems import Code


async def refused(awaitable: object) -> Code:
    with pytest.raises(PlaneRefusedError) as caught:
        await awaitable  # type: ignore[misc]
    return caught.value.problem


async def test_agents_come_in_pages_by_name_with_their_health(pool: Pool) -> None:
    ids = await planting.add_agents(pool, 5)
    await pool.execute(
        "UPDATE isthmus_agent SET last_heartbeat_at = now() - interval '31 seconds' WHERE id = $1", ids[1]
    )
    await pool.execute("UPDATE isthmus_agent SET phase = 'left' WHERE id = $1", ids[2])
    await pool.execute("UPDATE isthmus_agent SET role = 'triggerer' WHERE id = $1", ids[3])
    first = await reading.agents(pool, heartbeat_seconds=10, limit=3)
    rest = await reading.agents(pool, heartbeat_seconds=10, limit=3, after=first.agents[-1].name)
    assert [agent.agent_id for agent in first.agents + rest.agents] == ids
    assert (first.has_more, rest.has_more) == (True, False)
    assert [agent.health for agent in first.agents] == [AgentHealth.HEALTHY, AgentHealth.UNHEALTHY, AgentHealth.LEFT]
    [triggerer] = (await reading.agents(pool, AgentFilter(role=Role.TRIGGERER), heartbeat_seconds=10)).agents
    assert triggerer == await reading.agent(pool, ids[3], heartbeat_seconds=10)
    urgent = await reading.agents(pool, heartbeat_seconds=10, order=AgentOrder.URGENCY, limit=2)
    assert [agent.agent_id for agent in urgent.agents] == [ids[1], ids[0]]
    assert (urgent.has_more, urgent.matching) == (True, 5)
    last = await reading.agents(pool, heartbeat_seconds=10, order=AgentOrder.URGENCY, start=4)
    assert [agent.agent_id for agent in last.agents] == [ids[2]]
    for which, found in (
        (AgentFilter(health=AgentHealth.UNHEALTHY), [ids[1]]),
        (AgentFilter(search="NT5"), [ids[4]]),
        (AgentFilter(name="agent1"), [ids[0]]),
        (AgentFilter(search="%"), []),
    ):
        for order in AgentOrder:
            page = await reading.agents(pool, which, heartbeat_seconds=10, order=order)
            assert [agent.agent_id for agent in page.agents] == found, (which, order)
    assert await refused(reading.agent(pool, uuid.uuid4(), heartbeat_seconds=10)) == Code.AGENT_UNKNOWN


async def test_workloads_come_in_pages_newest_first_and_filtered(pool: Pool) -> None:
    ids = [(await planting.add_workloads(pool))[0] for _ in range(4)]
    # One moment for several rows: the page's edge must not lose or repeat any.
    await pool.execute("UPDATE isthmus_workload SET queued_at = date_trunc('hour', now())")
    ids += [(await planting.add_workloads(pool, queue="gpu", kind="callback"))[0]]
    seen, before = [], None
    while True:
        page, before = await reading.workloads(pool, WorkloadFilter(), before=before, limit=2)
        seen += [workload.workload_id for workload in page]
        if before is None:
            break
    assert seen[0] == ids[-1]
    assert sorted(seen) == sorted(ids)
    [agent] = await planting.add_agents(pool)
    await pool.execute("UPDATE isthmus_workload SET state = 'running', agent_id = $2 WHERE id = $1", ids[0], agent)
    for which, expected in {
        WorkloadFilter(state=WorkloadState.RUNNING): ids[:1],
        WorkloadFilter(agent_id=agent): ids[:1],
        WorkloadFilter(queue="gpu"): ids[4:],
        WorkloadFilter(kind=Kind.CALLBACK): ids[4:],
        WorkloadFilter(dag_id="dag"): ids,
        WorkloadFilter(dag_id="other"): [],
    }.items():
        page, _ = await reading.workloads(pool, which)
        assert sorted(workload.workload_id for workload in page) == sorted(expected)
    workload, payload = await reading.workload(pool, ids[0])
    assert (workload.agent_name, workload.state, payload) == ("agent1", WorkloadState.RUNNING, {"ti": {}})
    assert await refused(reading.workload(pool, uuid.uuid4())) == Code.WORKLOAD_NOT_FOUND


@pytest.mark.parametrize("before", ["", "x", "2026-01-01~x", f"2026-01-01T00:00:00~{uuid.uuid4()}"])
async def test_a_cursor_that_is_none_of_ours_is_refused(pool: Pool, before: str) -> None:
    assert await refused(reading.workloads(pool, WorkloadFilter(), before=before)) == Code.REQUEST_INVALID


async def test_queues_are_tallied_with_who_serves_them(pool: Pool) -> None:
    assert await tallies.queues(pool, heartbeat_seconds=10) == []
    agents = await planting.add_agents(pool, 4)
    for agent, queues in zip(agents, (["default", "gpu"], ["default"], ["idle"], ["default"]), strict=True):
        await pool.execute("UPDATE isthmus_agent SET queues = $2::jsonb WHERE id = $1", agent, queues)
    await pool.execute("UPDATE isthmus_agent SET cordoned = true WHERE id = $1", agents[0])
    late = "UPDATE isthmus_agent SET last_heartbeat_at = now() - interval '31 seconds' WHERE id = $1"
    await pool.execute(late, agents[3])
    ids = await planting.add_workloads(pool, 4) + await planting.add_workloads(pool, 2, queue="gpu")
    await pool.execute("UPDATE isthmus_workload SET queued_at = now() - interval '40 seconds' WHERE id = $1", ids[4])
    for index, state in enumerate(("leased", "running", "succeeded")):
        await pool.execute("UPDATE isthmus_workload SET state = $2 WHERE id = $1", ids[index], state)
    gpu, default, idle = await tallies.queues(pool, heartbeat_seconds=10)
    assert (gpu.queue, gpu.queued, gpu.agents, gpu.agents_count, gpu.slots) == ("gpu", 2, (), 0, 0)
    assert gpu.oldest_seconds is not None
    assert 39 < gpu.oldest_seconds < 60
    assert (default.queue, default.queued, default.leased, default.running) == ("default", 1, 1, 1)
    assert (default.agents, default.agents_count) == (("agent2",), 1)
    assert default.slots > 0
    assert (idle.queue, idle.queued, idle.oldest_seconds, idle.agents) == ("idle", 0, None, ("agent3",))


async def test_the_last_hour_is_tallied_by_minute(pool: Pool) -> None:
    ids = await planting.add_workloads(pool, 5)
    ends = (("succeeded", "0"), ("failed", "0"), ("lost", "30 minutes"), ("cancelled", "59 minutes"))
    settle = "UPDATE isthmus_workload SET state = $2, settled_at = date_trunc('minute', now()) - $3::text::interval"
    for one, (state, ago) in zip(ids, (*ends, ("succeeded", "60 minutes")), strict=True):
        await pool.execute(f"{settle} WHERE id = $1", one, state, ago)
    minutes = await tallies.last_hour(pool)
    assert len(minutes) == 60
    assert all(after.at - before.at == timedelta(minutes=1) for before, after in itertools.pairwise(minutes))
    assert (minutes[-1].succeeded, minutes[-1].failed, minutes[29].lost, minutes[0].cancelled) == (1, 1, 1, 1)
    assert sum(one.succeeded + one.failed + one.lost + one.cancelled for one in minutes) == 4, "an hour and no more"


@pytest.mark.parametrize(("statement", "arguments"), [(tallies._QUEUES, (30.0, 20)), (tallies._MINUTES, ())])
async def test_tallies_use_their_indexes(pool: Pool, statement: str, arguments: tuple[object, ...]) -> None:
    await pool.execute(
        "INSERT INTO isthmus_workload "
        "(id, kind, state, queue, subject_id, display_name, payload, queued_at, settled_at) "
        "SELECT gen_random_uuid(), 'callback', 'succeeded', 'default', n::text, '', '{}', now(), "
        "now() - n * interval '10 seconds' FROM generate_series(1, 20000) AS n"
    )
    await pool.execute("ANALYZE isthmus_workload")
    plan = "\n".join(row[0] for row in await pool.fetch(f"EXPLAIN {statement}", *arguments))
    assert "Seq Scan on isthmus_workload" not in plan, plan


async def test_counts(pool: Pool) -> None:
    empty = await reading.counts(pool, heartbeat_seconds=10)
    assert (empty.agents_healthy, empty.workloads_queued, empty.oldest_queued_seconds) == (0, 0, 0.0)
    agents = await planting.add_agents(pool, 3)
    await pool.execute("UPDATE isthmus_agent SET phase = 'left' WHERE id = $1", agents[0])
    ids = await planting.add_workloads(pool, 3) + await planting.add_workloads(pool, queue="gpu")
    await pool.execute("UPDATE isthmus_workload SET state = 'running' WHERE id = $1", ids[0])
    counts = await reading.counts(pool, heartbeat_seconds=10)
    assert (counts.agents_healthy, counts.agents_unhealthy, counts.agents_left) == (2, 0, 1)
    assert (counts.slots, counts.slots_used) == (8, 0)
    assert (counts.workloads_queued, counts.workloads_active) == (3, 1)
    assert counts.queued_by_queue == {"default": 2, "gpu": 1}
    assert counts.oldest_queued_seconds > 0


async def test_flags(pool: Pool) -> None:
    [agent] = await planting.add_agents(pool)

    async def flags() -> tuple[bool, bool]:
        row = await reading.agent(pool, agent, heartbeat_seconds=10)
        return row.cordoned, row.draining

    await steering.cordon(pool, agent)
    assert await flags() == (True, False)
    await steering.drain(pool, agent)
    assert await flags() == (True, True)
    await steering.uncordon(pool, agent)
    assert await flags() == (False, False)
    for change in (steering.cordon, steering.uncordon, steering.drain):
        assert await refused(change(pool, uuid.uuid4())) == Code.AGENT_UNKNOWN


@pytest.mark.parametrize("why", ["unhealthy", "left", "forced"])
async def test_an_agent_is_removed_only_when_it_is_gone_or_by_force_and_its_leases_end(pool: Pool, why: str) -> None:
    [agent] = await planting.add_agents(pool)
    ids = await planting.add_workloads(pool, 2)
    await pool.execute("UPDATE isthmus_workload SET agent_id = $1, fence = 1, state = 'leased'", agent)
    await pool.execute("UPDATE isthmus_workload SET state = 'running' WHERE id = $1", ids[0])
    assert await refused(steering.remove(pool, agent, heartbeat_seconds=10)) == Code.AGENT_BUSY
    if why == "unhealthy":
        await pool.execute("UPDATE isthmus_agent SET last_heartbeat_at = now() - interval '31 seconds'")
    if why == "left":
        await pool.execute("UPDATE isthmus_agent SET phase = 'left'")
    await steering.remove(pool, agent, heartbeat_seconds=10, force=why == "forced")
    assert await planting.states(pool) == {ids[0]: "lost", ids[1]: "queued"}
    assert await refused(steering.remove(pool, agent, heartbeat_seconds=10)) == Code.AGENT_UNKNOWN


async def test_cancelling(pool: Pool) -> None:
    [workload] = await planting.add_workloads(pool)
    assert await steering.cancel(pool, workload) is True
    assert await steering.cancel(pool, workload) is False
    assert await refused(steering.cancel(pool, uuid.uuid4())) == Code.WORKLOAD_NOT_FOUND
