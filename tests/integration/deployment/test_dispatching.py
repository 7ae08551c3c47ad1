import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from statistics import median

import pytest
from tests import planting

from isthmus.deployment import leasing, pooling
from isthmus.deployment.dispatching import Dispatcher
from isthmus.deployment.errors import DatabaseError
from isthmus.deployment.leasing import LeasedRow, LeaseTimes
from isthmus.deployment.listening import Listener, Mode
from isthmus.deployment.pooling import Pool
from isthmus.deployment.tables import QUEUED_CHANNEL

TIMES = LeaseTimes(30, 120)


@asynccontextmanager
async def dispatching(url: str) -> AsyncIterator[Dispatcher]:
    """What one Remote Execution API process has: a pool, a listener, a dispatcher."""
    pool = await pooling.open_pool(url)
    dispatcher = Dispatcher(pool, TIMES)
    listener = Listener(pool, url)
    listener.subscribe(QUEUED_CHANNEL, dispatcher.notify)
    tasks = [asyncio.create_task(listener.run()), asyncio.create_task(dispatcher.run())]
    try:
        await planting.until(lambda: listener.mode is Mode.NOTIFIED)
        yield dispatcher
    finally:
        await dispatcher.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await pool.close()


@pytest.fixture
async def dispatcher(core_url: str) -> AsyncIterator[Dispatcher]:
    async with dispatching(core_url) as dispatcher:
        yield dispatcher


@pytest.fixture
async def agent_id(pool: Pool) -> uuid.UUID:
    [agent] = await planting.add_agents(pool)
    return agent


def claim(
    dispatcher: Dispatcher,
    agent_id: uuid.UUID,
    *queues: str,
    slots: int = 4,
    wait: float = 10,
    claim_id: uuid.UUID | None = None,
    repeated: bool = False,
) -> asyncio.Task[list[LeasedRow]]:
    return asyncio.create_task(
        dispatcher.claim(agent_id, queues or ("default",), claim_id or uuid.uuid4(), slots, wait, repeated=repeated)
    )


async def idle(dispatcher: Dispatcher, claims: int) -> None:
    """The claims wait and the loop has nothing to do."""
    await planting.until(lambda: dispatcher.waiting == claims and not dispatcher._wake.is_set())
    async with dispatcher._in_round:
        pass
    await asyncio.sleep(0.02)


async def test_a_claim_gets_what_is_queued_already(pool: Pool, dispatcher: Dispatcher, agent_id: uuid.UUID) -> None:
    ids = await planting.add_workloads(pool, 3, notify=False)
    rows = await claim(dispatcher, agent_id, slots=2)
    assert [row.workload_id for row in rows] == ids[:2]
    assert {(row.agent_id, row.fence, row.lease_seconds) for row in rows} == {(agent_id, 1, 30)}


async def test_a_waiting_claim_is_woken_by_the_commit(pool: Pool, dispatcher: Dispatcher, agent_id: uuid.UUID) -> None:
    latencies = []
    for _ in range(20):
        waiting = claim(dispatcher, agent_id, slots=1)
        await idle(dispatcher, 1)
        began = time.perf_counter()
        [workload] = await planting.add_workloads(pool)
        [row] = await waiting
        latencies.append(time.perf_counter() - began)
        assert row.workload_id == workload
    print(f"commit to lease: median {median(latencies) * 1000:.1f} ms")
    assert median(latencies) < 0.1


async def test_a_claim_without_work_ends_empty_and_leaves_nothing(
    pool: Pool, dispatcher: Dispatcher, agent_id: uuid.UUID
) -> None:
    assert await claim(dispatcher, agent_id, wait=0) == []
    assert dispatcher.waiting == 0
    assert dispatcher._registry.slots == {}
    assert dispatcher._registry._by_queue == {}


async def test_a_claim_that_does_not_want_to_wait_is_looked_after_once(
    pool: Pool, dispatcher: Dispatcher, agent_id: uuid.UUID
) -> None:
    await planting.add_workloads(pool)
    assert len(await claim(dispatcher, agent_id, wait=0)) == 1


async def test_claims_get_only_their_queues(pool: Pool, dispatcher: Dispatcher) -> None:
    gpu, both = await planting.add_agents(pool, 2)
    waiting = [claim(dispatcher, gpu, "gpu", wait=1), claim(dispatcher, both, "default", "gpu", wait=1)]
    await idle(dispatcher, 2)
    [first] = await planting.add_workloads(pool, queue="default")
    [row] = await waiting[1]
    assert row.workload_id == first
    [second] = await planting.add_workloads(pool, queue="gpu")
    [row] = await waiting[0]
    assert row.workload_id == second


async def test_work_spreads_over_the_agents(pool: Pool, dispatcher: Dispatcher) -> None:
    agents = await planting.add_agents(pool, 4)
    waiting = [claim(dispatcher, agent, slots=8) for agent in agents]
    await idle(dispatcher, 4)
    await planting.add_workloads(pool, 8)
    assert [len(rows) for rows in await asyncio.gather(*waiting)] == [2, 2, 2, 2]


async def test_an_idle_dispatcher_leaves_the_database_alone(pool: Pool, dispatcher: Dispatcher) -> None:
    agents = await planting.add_agents(pool, 20)
    waiting = [claim(dispatcher, agent, wait=1.0) for agent in agents]
    await idle(dispatcher, 20)
    rounds = dispatcher.statistics.rounds
    again = [claim(dispatcher, agent, wait=0.5) for agent in agents]  # each in the place of the one before
    assert await asyncio.gather(*waiting, *again) == [[]] * 40
    assert dispatcher.statistics.rounds == rounds


async def test_a_missed_notification_is_made_good_by_the_safety_poll(
    pool: Pool, dispatcher: Dispatcher, agent_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isthmus.deployment.dispatching.SAFETY_SECONDS", 0.3)
    dispatcher._wake.set()
    waiting = claim(dispatcher, agent_id)
    await idle(dispatcher, 1)
    await planting.add_workloads(pool, notify=False)
    assert len(await waiting) == 1


async def test_a_claim_whose_client_goes_away_is_withdrawn(
    pool: Pool, dispatcher: Dispatcher, agent_id: uuid.UUID
) -> None:
    waiting = claim(dispatcher, agent_id)
    await idle(dispatcher, 1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert dispatcher.waiting == 0
    [workload] = await planting.add_workloads(pool)
    assert (await planting.states(pool))[workload] == "queued"


def pause_rounds(monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """Hold a round between its lease and its commit: events for "it is there" and "go on"."""
    there, go_on = asyncio.Event(), asyncio.Event()
    original = leasing.claim

    async def held(*arguments: object) -> list[LeasedRow]:
        rows = await original(*arguments)  # type: ignore[arg-type]
        there.set()
        await go_on.wait()
        return rows

    monkeypatch.setattr(leasing, "claim", held)
    return there, go_on


@pytest.mark.parametrize("leave", ["cancel", "withdraw", "newer claim"])
async def test_what_was_leased_to_a_claim_that_went_in_the_same_round_is_given_back_at_once(
    pool: Pool, dispatcher: Dispatcher, agent_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch, leave: str
) -> None:
    there, go_on = pause_rounds(monkeypatch)
    waiting = claim(dispatcher, agent_id)
    [workload] = await planting.add_workloads(pool)
    await there.wait()
    newer = None
    if leave == "cancel":
        waiting.cancel()
    elif leave == "withdraw":
        dispatcher.withdraw(agent_id)
    else:
        newer = claim(dispatcher, agent_id)
    await asyncio.gather(waiting, return_exceptions=True)
    go_on.set()
    if newer is None:
        await planting.until(lambda: dispatcher.statistics.given_back == 1)
        await dispatcher.stop()
        assert (await planting.states(pool))[workload] == "queued"
    else:
        assert waiting.result() == []
        [row] = await newer
        assert (row.workload_id, row.fence) == (workload, 2)


async def test_a_client_that_goes_at_the_moment_of_its_answer_gives_it_back(
    pool: Pool, dispatcher: Dispatcher, agent_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = Dispatcher._answer

    def answer_and_cancel(self: Dispatcher, *arguments: object) -> None:
        answer(self, *arguments)  # type: ignore[arg-type]
        waiting.cancel()

    monkeypatch.setattr(Dispatcher, "_answer", answer_and_cancel)
    waiting = claim(dispatcher, agent_id)
    [workload] = await planting.add_workloads(pool)
    await asyncio.gather(waiting, return_exceptions=True)
    assert waiting.cancelled()
    assert dispatcher.statistics.given_back == 1
    await dispatcher.stop()
    assert (await planting.states(pool))[workload] == "queued"


async def test_a_repeated_claim_finds_its_leases_and_otherwise_waits(
    pool: Pool, dispatcher: Dispatcher, agent_id: uuid.UUID
) -> None:
    claim_id = uuid.uuid4()
    await planting.add_workloads(pool)
    first = await claim(dispatcher, agent_id, claim_id=claim_id)
    assert await claim(dispatcher, agent_id, claim_id=claim_id, repeated=True) == first
    await leasing.start(pool, agent_id, [first[0].lease], TIMES)
    waiting = claim(dispatcher, agent_id, claim_id=claim_id, repeated=True)
    await planting.until(lambda: dispatcher.waiting == 1)
    [workload] = await planting.add_workloads(pool)
    assert [row.workload_id for row in await waiting] == [workload]


async def test_a_cordoned_agent_gets_an_empty_answer_and_the_work_goes_to_another(
    pool: Pool, dispatcher: Dispatcher
) -> None:
    cordoned, other = await planting.add_agents(pool, 2)
    first = claim(dispatcher, cordoned, slots=8)
    await idle(dispatcher, 1)
    second = claim(dispatcher, other, slots=1)
    await idle(dispatcher, 2)
    # Cordoned in the database; this process has not heard of it yet.
    await pool.execute("UPDATE isthmus_agent SET cordoned = true WHERE id = $1", cordoned)
    [workload] = await planting.add_workloads(pool)
    assert await first == []
    assert [row.workload_id for row in await second] == [workload]


async def test_stopping_answers_all_and_admits_none(pool: Pool, dispatcher: Dispatcher) -> None:
    agents = await planting.add_agents(pool, 3)
    waiting = [claim(dispatcher, agent) for agent in agents]
    await planting.until(lambda: dispatcher.waiting == 3)
    await dispatcher.stop()
    assert await asyncio.gather(*waiting) == [[], [], []]
    assert await claim(dispatcher, agents[0]) == []


async def test_a_round_that_ends_in_doubt_fails_its_claims_and_the_repetition_finds_the_leases(
    pool: Pool, dispatcher: Dispatcher, agent_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, go_on = pause_rounds(monkeypatch)
    claim_id = uuid.uuid4()
    waiting = claim(dispatcher, agent_id, claim_id=claim_id)
    [workload] = await planting.add_workloads(pool)
    await there.wait()
    await pool.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND state = 'idle in transaction'"
    )
    go_on.set()
    with pytest.raises(DatabaseError):
        await waiting
    [row] = await claim(dispatcher, agent_id, claim_id=claim_id, repeated=True)
    assert row.workload_id == workload


async def test_two_processes_never_hand_out_the_same_row(core_url: str, pool: Pool) -> None:
    agents = await planting.add_agents(pool, 12)
    got: list[LeasedRow] = []

    async def work(dispatcher: Dispatcher, agent: uuid.UUID) -> None:
        while rows := await dispatcher.claim(agent, ["default"], uuid.uuid4(), 3, 1.5):
            got.extend(rows)
            assert all(await leasing.start(pool, agent, [row.lease for row in rows], TIMES))

    async with dispatching(core_url) as one, dispatching(core_url) as other:
        working = [asyncio.create_task(work((one, other)[place % 2], agent)) for place, agent in enumerate(agents)]
        ids: list[uuid.UUID] = []
        for _ in range(20):
            ids += await planting.add_workloads(pool, 15)
            await asyncio.sleep(0.02)
        await asyncio.gather(*working)
        assert one.statistics.leased + other.statistics.leased == len(ids)
        assert min(one.statistics.leased, other.statistics.leased) > 0
    assert sorted(row.workload_id for row in got) == sorted(ids)
    assert {row.fence for row in got} == {1}
    assert set((await planting.states(pool)).values()) == {"running"}


async def test_rows_that_one_process_locked_and_left_are_found_by_the_other_without_a_poll(
    core_url: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isthmus.deployment.dispatching.SAFETY_SECONDS", 60)
    both, default_only = await planting.add_agents(pool, 2)
    async with dispatching(core_url) as one, dispatching(core_url) as other:
        there, go_on = pause_rounds(monkeypatch)
        first = claim(one, both, "default", "gpu", slots=1)
        await idle(one, 1)
        # One row in each queue: the first process locks both and can give out one.
        async with pool.acquire() as connection, connection.transaction():
            for queue in ("default", "gpu"):
                await connection.execute(
                    planting.ADD, [uuid.uuid4()], "task", "{}", [queue], [1 if queue == "gpu" else 0]
                )
            await connection.execute(f"SELECT pg_notify('{QUEUED_CHANNEL}', '')")
        await there.wait()
        second = claim(other, default_only, "default", slots=1)
        await idle(other, 1)  # it looked, and skipped the locked row
        go_on.set()
        assert [row.queue for row in await first] == ["gpu"]
        assert [row.queue for row in await second] == ["default"]


async def test_two_thousand_waiting_claims_are_held_cheaply_and_served_within_milliseconds(
    pool: Pool, dispatcher: Dispatcher, record: Callable[[str, float], None]
) -> None:
    agents = await planting.add_agents(pool, 2000)
    waiting = {agent: claim(dispatcher, agent, wait=60) for agent in agents}
    await planting.until(lambda: dispatcher.waiting == 2000, seconds=20)
    await idle(dispatcher, 2000)
    latencies, rounds = [], []
    for _ in range(50):
        await asyncio.sleep(0.005)
        began = time.perf_counter()
        await planting.add_workloads(pool)
        [done], _ = await asyncio.wait(waiting.values(), return_when=asyncio.FIRST_COMPLETED)
        latencies.append(time.perf_counter() - began)
        rounds.append(dispatcher.statistics.last_round_seconds)
        [row] = done.result()
        waiting[row.agent_id] = claim(dispatcher, row.agent_id, wait=60)
    record("round with 2,000 waiting claims, p50 ms", median(rounds) * 1000)
    record("commit to lease with 2,000 waiting claims, p50 ms", median(latencies) * 1000)
    assert median(latencies) < 0.1
    began = time.perf_counter()
    before = dispatcher.statistics.leased
    await planting.add_workloads(pool, 2000)
    await planting.until(lambda: dispatcher.statistics.leased == before + 2000, seconds=30)
    record("2,000 workloads to 2,000 claims, ms", (time.perf_counter() - began) * 1000)
    await dispatcher.stop()
