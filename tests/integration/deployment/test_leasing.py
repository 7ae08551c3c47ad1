import uuid
from dataclasses import replace

import pytest
from tests import planting

from isthmus.deployment import leasing
from isthmus.deployment.leasing import Ended, Heartbeat, Lease, LeasedRow, LeaseTimes, Report
from isthmus.deployment.matching import Claim
from isthmus.deployment.pooling import Pool
from isthmus.wire.workloads import Outcome, SettleVerdict

TIMES = LeaseTimes(30, 120)


async def lease(pool: Pool, agent_id: uuid.UUID, count: int = 1, queue: str = "default") -> list[LeasedRow]:
    claim = Claim(uuid.uuid4(), agent_id, frozenset({queue}), count)
    async with pool.acquire() as connection, connection.transaction():
        rows = await leasing.select_queued(connection, {queue: count})
        return await leasing.claim(connection, [(row, claim) for row in rows], TIMES)


async def column(pool: Pool, workload_id: uuid.UUID, name: str) -> object:
    return await pool.fetchval(f"SELECT {name} FROM isthmus_workload WHERE id = $1", workload_id)


@pytest.fixture
async def agent_id(pool: Pool) -> uuid.UUID:
    [agent] = await planting.add_agents(pool)
    return agent


async def test_a_claim_takes_the_best_rows_and_raises_the_fence(pool: Pool, agent_id: uuid.UUID) -> None:
    low = await planting.add_workloads(pool, 2)
    [high] = await planting.add_workloads(pool, priority=5)
    await planting.add_workloads(pool, queue="elsewhere")
    rows = await lease(pool, agent_id, 2)
    assert [row.workload_id for row in rows] == [high, low[0]]
    assert {row.fence for row in rows} == {1}
    assert await leasing.release(pool, [row.lease for row in rows]) == 2
    assert [row.fence for row in await lease(pool, agent_id, 2)] == [2, 2]


async def test_rows_that_one_transaction_has_locked_are_skipped_by_another(pool: Pool) -> None:
    ids = set(await planting.add_workloads(pool, 4))
    async with pool.acquire() as one, pool.acquire() as other, one.transaction(), other.transaction():
        first = await leasing.select_queued(one, {"default": 3})
        second = await leasing.select_queued(other, {"default": 3})
    assert (len(first), len(second)) == (3, 1)
    assert {row.workload_id for row in first + second} == ids


@pytest.mark.parametrize("change", ["cordoned = true", "draining = true", "phase = 'left'"])
async def test_nothing_is_leased_to_an_agent_that_takes_no_work(pool: Pool, agent_id: uuid.UUID, change: str) -> None:
    [workload] = await planting.add_workloads(pool)
    await pool.execute(f"UPDATE isthmus_agent SET {change}")
    assert await lease(pool, agent_id) == []
    assert (await planting.states(pool))[workload] == "queued"


async def test_nothing_is_leased_to_an_agent_that_is_gone(pool: Pool) -> None:
    [workload] = await planting.add_workloads(pool)
    assert await lease(pool, uuid.uuid4()) == []
    assert (await planting.states(pool))[workload] == "queued"


async def test_a_repeated_claim_finds_what_was_leased_under_its_id_and_not_started(
    pool: Pool, agent_id: uuid.UUID
) -> None:
    await planting.add_workloads(pool, 2)
    rows = await lease(pool, agent_id, 2)
    assert await leasing.start(pool, agent_id, [rows[0].lease], TIMES) == [True]
    assert await leasing.repeat(pool, agent_id, rows[0].claim_id, TIMES) == [rows[1]]
    assert await leasing.repeat(pool, uuid.uuid4(), rows[0].claim_id, TIMES) == []
    assert await leasing.repeat(pool, agent_id, uuid.uuid4(), TIMES) == []


async def test_a_start_is_confirmed_to_the_holder_alone_and_again_when_asked_again(
    pool: Pool, agent_id: uuid.UUID
) -> None:
    [other] = await planting.add_agents(pool, prefix="other")
    await planting.add_workloads(pool)
    [row] = await lease(pool, agent_id)
    stale, foreign = replace(row.lease, fence=7), Lease(uuid.uuid4(), 1)
    assert await leasing.start(pool, other, [row.lease], TIMES) == [False]
    assert await leasing.start(pool, agent_id, [stale, row.lease, foreign], TIMES) == [False, True, False]
    began = await column(pool, row.workload_id, "started_at")
    assert await leasing.start(pool, agent_id, [row.lease], TIMES) == [True]
    assert await column(pool, row.workload_id, "started_at") == began


@pytest.mark.parametrize(("kind", "unseen"), [("task", False), ("callback", True), ("connection_test", False)])
async def test_only_the_start_of_a_callback_is_news_for_the_executor(
    pool: Pool, agent_id: uuid.UUID, kind: str, unseen: bool
) -> None:
    await planting.add_workloads(pool, kind=kind)
    [row] = await lease(pool, agent_id)
    await leasing.start(pool, agent_id, [row.lease], TIMES)
    assert await column(pool, row.workload_id, "unseen") is unseen


@pytest.mark.parametrize(("outcome", "state"), [(Outcome.SUCCEEDED, "succeeded"), (Outcome.FAILED, "failed")])
async def test_a_started_workload_is_settled_once(
    pool: Pool, agent_id: uuid.UUID, outcome: Outcome, state: str
) -> None:
    await planting.add_workloads(pool)
    [row] = await lease(pool, agent_id)
    await leasing.start(pool, agent_id, [row.lease], TIMES)
    report = Report(row.workload_id, row.fence, outcome, exit_code=3, detail="why")
    assert await leasing.settle(pool, agent_id, [report]) == [SettleVerdict.SETTLED]
    assert (await planting.states(pool))[row.workload_id] == state
    assert await column(pool, row.workload_id, "unseen") is True
    assert await column(pool, row.workload_id, "exit_code") == 3
    await pool.execute("UPDATE isthmus_workload SET unseen = false")
    assert await leasing.settle(pool, agent_id, [report]) == [SettleVerdict.DUPLICATE]
    assert await column(pool, row.workload_id, "unseen") is False


async def test_reports_that_are_not_the_leases_to_make_are_stale(pool: Pool, agent_id: uuid.UUID) -> None:
    [other] = await planting.add_agents(pool, prefix="other")
    await planting.add_workloads(pool, 2)
    started, unstarted = await lease(pool, agent_id, 2)
    await leasing.start(pool, agent_id, [started.lease], TIMES)
    assert (
        await leasing.settle(
            pool,
            agent_id,
            [
                Report(started.workload_id, started.fence, Outcome.RELEASED),  # it runs
                Report(unstarted.workload_id, unstarted.fence, Outcome.SUCCEEDED),  # it never started
                Report(uuid.uuid4(), 1, Outcome.SUCCEEDED),  # another deployment's
            ],
        )
        == [SettleVerdict.STALE] * 3
    )
    old = Report(started.workload_id, started.fence + 1, Outcome.SUCCEEDED)
    assert await leasing.settle(pool, agent_id, [old]) == [SettleVerdict.STALE]
    theirs = Report(started.workload_id, started.fence, Outcome.SUCCEEDED)
    assert await leasing.settle(pool, other, [theirs]) == [SettleVerdict.STALE]
    assert sorted((await planting.states(pool)).values()) == ["leased", "running"]


async def test_of_two_reports_on_one_workload_in_one_call_the_first_counts(pool: Pool, agent_id: uuid.UUID) -> None:
    await planting.add_workloads(pool)
    [row] = await lease(pool, agent_id)
    await leasing.start(pool, agent_id, [row.lease], TIMES)
    reports = [Report(row.workload_id, row.fence, outcome) for outcome in (Outcome.SUCCEEDED, Outcome.FAILED)]
    assert await leasing.settle(pool, agent_id, reports) == [SettleVerdict.SETTLED, SettleVerdict.DUPLICATE]
    assert (await planting.states(pool))[row.workload_id] == "succeeded"


async def test_a_report_that_postgresql_could_not_store_is_stored_without_what_hurts(
    pool: Pool, agent_id: uuid.UUID
) -> None:
    await planting.add_workloads(pool)
    [row] = await lease(pool, agent_id)
    await leasing.start(pool, agent_id, [row.lease], TIMES)
    report = Report(row.workload_id, row.fence, Outcome.FAILED, exit_code=2**40, detail="a\x00b\ud800c")
    assert await leasing.settle(pool, agent_id, [report]) == [SettleVerdict.SETTLED]
    assert await column(pool, row.workload_id, "detail") == "ab?c"
    assert await column(pool, row.workload_id, "exit_code") is None


async def test_a_released_lease_is_queued_again_and_releasing_it_again_is_a_duplicate(
    pool: Pool, agent_id: uuid.UUID
) -> None:
    await planting.add_workloads(pool)
    [row] = await lease(pool, agent_id)
    report = Report(row.workload_id, row.fence, Outcome.RELEASED)
    assert await leasing.settle(pool, agent_id, [report]) == [SettleVerdict.SETTLED]
    assert await leasing.settle(pool, agent_id, [report]) == [SettleVerdict.DUPLICATE]
    assert await column(pool, row.workload_id, "releases") == 1
    assert await column(pool, row.workload_id, "unseen") is False
    assert await leasing.start(pool, agent_id, [row.lease], TIMES) == [False]


async def test_a_failure_after_a_cancellation_is_the_cancellation(pool: Pool, agent_id: uuid.UUID) -> None:
    await planting.add_workloads(pool, 2)
    failing, winning = await lease(pool, agent_id, 2)
    await leasing.start(pool, agent_id, [failing.lease, winning.lease], TIMES)
    assert await leasing.cancel(pool, [failing.workload_id, winning.workload_id]) == 2
    assert set((await planting.states(pool)).values()) == {"running"}
    await leasing.settle(
        pool,
        agent_id,
        [
            Report(failing.workload_id, failing.fence, Outcome.FAILED),
            Report(winning.workload_id, winning.fence, Outcome.SUCCEEDED),
        ],
    )
    assert await planting.states(pool) == {failing.workload_id: "cancelled", winning.workload_id: "succeeded"}
    again = Report(failing.workload_id, failing.fence, Outcome.FAILED)
    assert await leasing.settle(pool, agent_id, [again]) == [SettleVerdict.DUPLICATE]


async def test_what_has_not_started_is_cancelled_at_once(pool: Pool, agent_id: uuid.UUID) -> None:
    await planting.add_workloads(pool)
    [leased] = await lease(pool, agent_id)
    [queued] = await planting.add_workloads(pool)
    assert await leasing.cancel(pool, [queued, leased.workload_id]) == 2
    assert set((await planting.states(pool)).values()) == {"cancelled"}
    assert await pool.fetchval("SELECT bool_and(unseen) FROM isthmus_workload")
    assert await leasing.start(pool, agent_id, [leased.lease], TIMES) == [False]
    report = Report(leased.workload_id, leased.fence, Outcome.RELEASED)
    assert await leasing.settle(pool, agent_id, [report]) == [SettleVerdict.STALE]
    assert await leasing.cancel(pool, [queued, leased.workload_id]) == 0


async def test_heartbeats_extend_leases_that_have_worn_and_tell_which_are_gone(pool: Pool, agent_id: uuid.UUID) -> None:
    await planting.add_workloads(pool, 3)
    fresh, worn, running = await lease(pool, agent_id, 3)
    await leasing.start(pool, agent_id, [running.lease], TIMES)
    await pool.execute(
        "UPDATE isthmus_workload SET lease_expires_at = now() + interval '1 second' WHERE id = ANY($1::uuid[])",
        [worn.workload_id, running.workload_id],
    )
    before = await column(pool, fresh.workload_id, "lease_expires_at")
    beats = [Heartbeat(agent_id, row.workload_id, row.fence) for row in (fresh, worn, running)]
    gone = [Heartbeat(agent_id, worn.workload_id, 9), Heartbeat(uuid.uuid4(), worn.workload_id, worn.fence)]
    assert await leasing.extend(pool, beats + gone, TIMES) == set(beats)
    assert await column(pool, fresh.workload_id, "lease_expires_at") == before
    left = "round(extract(epoch FROM lease_expires_at - now()))::int"
    assert await column(pool, worn.workload_id, left) == 30
    assert await column(pool, running.workload_id, left) == 120


async def test_heartbeats_do_not_wait_for_rows_that_somebody_settles(pool: Pool, agent_id: uuid.UUID) -> None:
    await planting.add_workloads(pool)
    [row] = await lease(pool, agent_id)
    await pool.execute("UPDATE isthmus_workload SET lease_expires_at = now()")
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM isthmus_workload FOR UPDATE")
        beat = Heartbeat(agent_id, row.workload_id, row.fence)
        assert await leasing.extend(pool, [beat], TIMES) == {beat}


async def overdue(pool: Pool) -> None:
    await pool.execute("UPDATE isthmus_workload SET lease_expires_at = now() - interval '1 second'")


async def test_leases_that_end_requeue_what_has_not_started_and_lose_what_has(pool: Pool, agent_id: uuid.UUID) -> None:
    await planting.add_workloads(pool, 2)
    unstarted, started = await lease(pool, agent_id, 2)
    await leasing.start(pool, agent_id, [started.lease], TIMES)
    assert await leasing.expire(pool, TIMES, leased=True, running=True) == Ended()
    await overdue(pool)
    assert await leasing.expire(pool, TIMES, leased=False, running=False) == Ended()
    assert await leasing.expire(pool, TIMES, leased=True, running=True) == Ended(requeued=1, lost=1)
    assert await planting.states(pool) == {unstarted.workload_id: "queued", started.workload_id: "lost"}
    assert await column(pool, started.workload_id, "unseen") is True
    late = Report(started.workload_id, started.fence, Outcome.SUCCEEDED)
    assert await leasing.settle(pool, agent_id, [late]) == [SettleVerdict.STALE]


@pytest.mark.parametrize(
    ("kind", "heartbeat_age", "state"),
    [("task", 5, "running"), ("task", 121, "lost"), ("task", None, "lost"), ("callback", 5, "lost")],
)
async def test_a_task_that_still_heartbeats_to_airflow_is_kept(
    pool: Pool, agent_id: uuid.UUID, kind: str, heartbeat_age: int | None, state: str
) -> None:
    [workload] = await planting.add_workloads(pool, kind=kind)
    [row] = await lease(pool, agent_id)
    await leasing.start(pool, agent_id, [row.lease], TIMES)
    await pool.execute(
        "INSERT INTO task_instance VALUES ($1, now() - $2 * interval '1 second')", workload, heartbeat_age
    )
    await overdue(pool)
    ended = await leasing.expire(pool, TIMES, leased=True, running=True)
    assert ended == (Ended(kept=1) if state == "running" else Ended(lost=1))
    assert (await planting.states(pool))[workload] == state
    if state == "running":
        left = "round(extract(epoch FROM lease_expires_at - now()))::int"
        assert await column(pool, workload, left) == 120 - 5


async def test_a_subject_that_is_no_uuid_does_not_stop_the_reaper(pool: Pool, agent_id: uuid.UUID) -> None:
    await planting.add_workloads(pool)
    [row] = await lease(pool, agent_id)
    await leasing.start(pool, agent_id, [row.lease], TIMES)
    await pool.execute("UPDATE isthmus_workload SET subject_id = 'odd'")
    await overdue(pool)
    assert await leasing.expire(pool, TIMES, leased=True, running=True) == Ended(lost=1)


async def test_an_abandoned_agent_holds_nothing(pool: Pool, agent_id: uuid.UUID) -> None:
    [other] = await planting.add_agents(pool, prefix="other")
    await planting.add_workloads(pool, 3)
    unstarted, started, theirs = await lease(pool, agent_id, 2) + await lease(pool, other)
    await leasing.start(pool, agent_id, [started.lease], TIMES)
    async with pool.acquire() as connection, connection.transaction():
        assert await leasing.abandon(connection, [agent_id], "gone") == Ended(requeued=1, lost=1)
    assert await planting.states(pool) == {
        unstarted.workload_id: "queued",
        started.workload_id: "lost",
        theirs.workload_id: "leased",
    }
    assert await column(pool, started.workload_id, "detail") == "gone"


async def test_a_running_row_whose_agent_row_is_gone_ends_with_its_lease(pool: Pool, agent_id: uuid.UUID) -> None:
    await planting.add_workloads(pool)
    [row] = await lease(pool, agent_id)
    await leasing.start(pool, agent_id, [row.lease], TIMES)
    await pool.execute("DELETE FROM isthmus_agent")
    assert await leasing.held(pool, row.workload_id) is None
    await overdue(pool)
    assert await leasing.expire(pool, TIMES, leased=True, running=True) == Ended(lost=1)


async def test_what_is_held_can_be_looked_up(pool: Pool, agent_id: uuid.UUID) -> None:
    await planting.add_workloads(pool)
    [row] = await lease(pool, agent_id)
    held = await leasing.held(pool, row.workload_id)
    assert held is not None
    assert (held.agent_id, held.fence, held.started, held.payload) == (agent_id, row.fence, False, {"ti": {}})
    await leasing.release(pool, [row.lease])
    assert await leasing.held(pool, row.workload_id) is None
