"""The SQL of ``leasing`` against a model that is built on ``workloads.transition`` alone.

Hypothesis makes agents claim, start, settle, release, fall silent, come back with old fences, repeat themselves and
lose answers, in any order. After each step the rows are compared with the model. The model knows nothing of SQL: a pair
of state and event that ``transition`` forbids must leave the row as it was.
"""

import asyncio
import uuid
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests import planting

from isthmus.deployment import leasing, pooling
from isthmus.deployment.leasing import Heartbeat, Lease, LeasedRow, LeaseTimes, Report
from isthmus.deployment.matching import Claim
from isthmus.deployment.matching import match as match_rows
from isthmus.deployment.workloads import ACTIVE, SETTLED, Event, ForbiddenTransitionError, State, transition
from isthmus.wire.workloads import Outcome, SettleVerdict

TIMES = LeaseTimes(30, 120)
QUEUES = ("default", "gpu")
AGENTS = 3
T = TypeVar("T")
PICKS = st.integers(0, 4000)


@dataclass
class Modelled:
    """A workload as the model sees it."""

    queue: str
    kind: str
    state: State = State.QUEUED
    fence: int = 0
    agent: uuid.UUID | None = None
    claim: uuid.UUID | None = None
    cancel_requested: bool = False
    was_started: bool = False
    overdue: bool = False
    alive: bool = False
    unseen: bool = False
    releases: int = 0
    confirmed: dict[int, set[uuid.UUID]] = field(default_factory=dict)

    def holds(self, agent: uuid.UUID, fence: int) -> bool:
        return self.state in ACTIVE and self.agent == agent and self.fence == fence

    def apply(self, event: Event) -> bool:
        """Move, if the event may happen; what else follows from it."""
        try:
            after = transition(self.state, event, cancel_requested=self.cancel_requested)
        except ForbiddenTransitionError:
            return False
        before, self.state = self.state, after
        if event is Event.CANCEL:
            self.cancel_requested = True
        if event is Event.START:
            self.was_started = True
            self.unseen |= self.kind == "callback"
        if after is State.QUEUED:
            self.agent = self.claim = None
            self.releases += 1
        if after in SETTLED:
            self.unseen = True
        if after is not before and after not in ACTIVE:
            self.overdue = False
        return True


class World:
    """The database, shared by all runs of the machine: each run uses queues and agents of its own."""

    def __init__(self, url: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.pool = self.run(pooling.open_pool(url))
        self.reached: Counter[State] = Counter()
        self.verdicts: Counter[SettleVerdict] = Counter()
        self.moves: set[tuple[State, Event]] = set()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def close(self) -> None:
        self.run(self.pool.close())
        self.loop.close()


given_any = precondition(lambda self: self.given)


class QueueMachine(RuleBasedStateMachine):
    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.pool = self.world.pool
        self.model: dict[uuid.UUID, Modelled] = {}
        self.agents: list[uuid.UUID] = []
        #: Leases as agents remember them: ones that stand, and ones that the plane has long given up.
        self.given: list[LeasedRow] = []
        #: Reports that an agent has sent and may send again.
        self.sent: list[tuple[uuid.UUID, Report]] = []
        self.prefix = uuid.uuid4().hex

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.world.run(work)

    def queue(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    def lease(self, pick: int) -> LeasedRow:
        """A lease that an agent remembers: mostly one that stands."""
        standing = [row for row in self.given if self.model[row.workload_id].holds(row.agent_id, row.fence)]
        choice = standing if standing and pick % 4 else self.given
        return choice[pick // 4 % len(choice)]

    def move(self, workload_id: uuid.UUID, event: Event) -> bool:
        modelled = self.model[workload_id]
        before = modelled.state
        moved = modelled.apply(event)
        if moved:
            self.world.moves.add((before, event))
        return moved

    @initialize()
    def enrol(self) -> None:
        """Some agents, of which two hold something already."""
        self.agents = self.run(planting.add_agents(self.pool, AGENTS, prefix=self.prefix))
        self.put(QUEUES[0], 4, 0, "task")
        self.dispatch([(0, {QUEUES[0]}, 2), (1, set(QUEUES), 1)], None)

    @precondition(lambda self: sum(modelled.state is State.QUEUED for modelled in self.model.values()) < 5)
    @rule(
        queue=st.sampled_from(QUEUES),
        count=st.integers(1, 3),
        priority=st.integers(0, 2),
        kind=st.sampled_from(["task", "task", "callback"]),
    )
    def put(self, queue: str, count: int, priority: int, kind: str) -> None:
        ids = self.run(planting.add_workloads(self.pool, count, queue=self.queue(queue), priority=priority, kind=kind))
        self.model |= {workload_id: Modelled(self.queue(queue), kind) for workload_id in ids}

    @rule(
        asking=st.lists(
            st.tuples(st.integers(0, AGENTS - 1), st.sets(st.sampled_from(QUEUES), min_size=1), st.integers(1, 4)),
            min_size=1,
            max_size=AGENTS,
            unique_by=lambda one: one[0],
        ),
        cordoned=st.sampled_from([None, None, None, 0]),
    )
    def dispatch(self, asking: list[tuple[int, set[str], int]], cordoned: int | None) -> None:
        """One round, as the dispatcher does it; perhaps an agent was cordoned a moment ago."""
        claims = [
            Claim(uuid.uuid4(), self.agents[agent], frozenset(map(self.queue, queues)), slots, place)
            for place, (agent, queues, slots) in enumerate(asking)
        ]
        wanted: Counter[str] = Counter()
        for claim in claims:
            wanted.update(dict.fromkeys(claim.queues, claim.free_slots))

        async def round_() -> tuple[list[LeasedRow], int]:
            async with self.pool.acquire() as connection, connection.transaction():
                rows = await leasing.select_queued(connection, wanted)
                pairs = match_rows(rows, claims)
                return await leasing.claim(connection, pairs, TIMES), len(pairs)

        if cordoned is not None:
            self.run(self.flag("cordoned = true", self.agents[cordoned]))
        leased, matched = self.run(round_())
        if cordoned is not None:
            self.run(self.flag("cordoned = false", self.agents[cordoned]))
            assert all(row.agent_id != self.agents[cordoned] for row in leased)
        else:
            assert len(leased) == matched
        for row in leased:
            modelled = self.model[row.workload_id]
            assert self.move(row.workload_id, Event.CLAIM), "leased what was not queued"
            modelled.fence += 1
            assert row.fence == modelled.fence
            modelled.agent, modelled.claim = row.agent_id, row.claim_id
        # By age, not as the database happens to say them: Hypothesis plays each example again and expects the same.
        ages = {workload_id: age for age, workload_id in enumerate(self.model)}
        self.given += sorted(leased, key=lambda row: ages[row.workload_id])

    async def flag(self, assignment: str, agent: uuid.UUID) -> None:
        await self.pool.execute(f"UPDATE isthmus_agent SET {assignment} WHERE id = $1", agent)

    @given_any
    @rule(pick=PICKS)
    def repeat(self, pick: int) -> None:
        """The claim's answer was lost: the same leases, as far as they stand."""
        lease = self.lease(pick)
        rows = self.run(leasing.repeat(self.pool, lease.agent_id, lease.claim_id, TIMES))
        standing = {
            workload_id
            for workload_id, modelled in self.model.items()
            if modelled.state is State.LEASED and (modelled.agent, modelled.claim) == (lease.agent_id, lease.claim_id)
        }
        assert {row.workload_id for row in rows} == standing
        for row in rows:
            assert row.fence == self.model[row.workload_id].fence
            self.model[row.workload_id].overdue = False

    @given_any
    @rule(pick=PICKS)
    def start(self, pick: int) -> None:
        """An agent asks for what it was given, however long ago; perhaps not for the first time."""
        lease = self.lease(pick)
        self.ask_to_start(lease.agent_id, lease.lease)

    @given_any
    @rule(pick=PICKS, thief=st.integers(0, AGENTS - 1), age=st.integers(-1, 1))
    def start_wrongly(self, pick: int, thief: int, age: int) -> None:
        """Another agent asks, or with an older or a future fence."""
        lease = self.lease(pick)
        self.ask_to_start(self.agents[thief], Lease(lease.workload_id, lease.fence + age))

    def ask_to_start(self, agent: uuid.UUID, lease: Lease) -> None:
        [confirmed] = self.run(leasing.start(self.pool, agent, [lease], TIMES))
        modelled = self.model[lease.workload_id]
        expected = False
        if modelled.holds(agent, lease.fence):
            expected = modelled.state is State.RUNNING or self.move(lease.workload_id, Event.START)
        assert confirmed is expected
        if confirmed:
            modelled.overdue = False
            modelled.confirmed.setdefault(lease.fence, set()).add(agent)

    @given_any
    @rule(pick=PICKS, outcome=st.sampled_from(list(Outcome)))
    def settle(self, pick: int, outcome: Outcome) -> None:
        """An agent reports on what it was given, however long ago."""
        lease = self.lease(pick)
        self.report(lease.agent_id, Report(lease.workload_id, lease.fence, outcome))

    @given_any
    @rule(pick=PICKS, outcome=st.sampled_from(list(Outcome)), thief=st.integers(0, AGENTS - 1), age=st.integers(-1, 1))
    def settle_wrongly(self, pick: int, outcome: Outcome, thief: int, age: int) -> None:
        """Another agent reports, or with an older or a future fence."""
        lease = self.lease(pick)
        self.report(self.agents[thief], Report(lease.workload_id, lease.fence + age, outcome))

    @given_any
    @rule(pick=PICKS, outcome=st.sampled_from([Outcome.SUCCEEDED, Outcome.FAILED]))
    def work(self, pick: int, outcome: Outcome) -> None:
        """What mostly happens: start, and settle."""
        lease = self.lease(pick)
        self.ask_to_start(lease.agent_id, lease.lease)
        self.report(lease.agent_id, Report(lease.workload_id, lease.fence, outcome))

    @precondition(lambda self: self.sent)
    @rule(pick=PICKS)
    def settle_again(self, pick: int) -> None:
        self.report(*self.sent[pick % len(self.sent)])

    def report(self, agent: uuid.UUID, report: Report) -> None:
        self.sent.append((agent, report))
        [verdict] = self.run(leasing.settle(self.pool, agent, [report]))
        self.world.verdicts[verdict] += 1
        modelled = self.model[report.workload_id]
        event = {
            Outcome.SUCCEEDED: Event.SUCCEED,
            Outcome.FAILED: Event.FAIL,
            Outcome.RELEASED: Event.RELEASE,
        }[report.outcome]
        moved = modelled.holds(agent, report.fence) and self.move(report.workload_id, event)
        assert (verdict is SettleVerdict.SETTLED) is moved
        if verdict is SettleVerdict.DUPLICATE:
            assert modelled.fence == report.fence
            assert modelled.state not in ACTIVE

    @given_any
    @rule(pick=PICKS)
    def release_by_the_plane(self, pick: int) -> None:
        """The plane could not deliver its answer."""
        lease = self.lease(pick)
        released = self.run(leasing.release(self.pool, [lease.lease]))
        modelled = self.model[lease.workload_id]
        moved = (
            modelled.state is State.LEASED
            and modelled.fence == lease.fence
            and self.move(lease.workload_id, Event.RELEASE)
        )
        assert released == int(moved)

    @given_any
    @rule(pick=PICKS, age=st.integers(-1, 1))
    def heartbeat(self, pick: int, age: int) -> None:
        lease = self.lease(pick)
        beat = Heartbeat(lease.agent_id, lease.workload_id, lease.fence + age)
        held = self.run(leasing.extend(self.pool, [beat], TIMES))
        modelled = self.model[lease.workload_id]
        stands = modelled.holds(beat.agent_id, beat.fence)
        assert held == ({beat} if stands else set())
        if stands:
            modelled.overdue = False

    @given_any
    @rule(pick=PICKS, alive=st.booleans())
    def let_time_pass(self, pick: int, alive: bool) -> None:
        """A lease's time is over; perhaps the task itself still heartbeats to Airflow."""
        lease = self.lease(pick)
        modelled = self.model[lease.workload_id]
        if modelled.state not in ACTIVE:
            return
        modelled.overdue = True
        modelled.alive = alive and modelled.kind == "task"

        async def age() -> None:
            await self.pool.execute(
                "UPDATE isthmus_workload SET lease_expires_at = now() - interval '1 second' WHERE id = $1",
                lease.workload_id,
            )
            await self.pool.execute("DELETE FROM task_instance WHERE id = $1", lease.workload_id)
            if alive:
                await self.pool.execute("INSERT INTO task_instance VALUES ($1, now())", lease.workload_id)

        self.run(age())

    @given_any
    @rule(pick=PICKS)
    def fall_silent(self, pick: int) -> None:
        """Time passes for a lease, and the reaper comes."""
        self.let_time_pass(pick, alive=False)
        self.expire()

    @rule()
    def expire(self) -> None:
        ended = self.run(leasing.expire(self.pool, TIMES, leased=True, running=True))
        counted = Counter[str]()
        for workload_id, modelled in self.model.items():
            if not modelled.overdue:
                continue
            modelled.overdue = False
            if modelled.state is State.RUNNING and modelled.alive:
                counted["kept"] += 1
                continue
            assert self.move(workload_id, Event.EXPIRE)
            counted["requeued" if modelled.state is State.QUEUED else "lost"] += 1
        assert (ended.requeued, ended.lost, ended.kept) == (counted["requeued"], counted["lost"], counted["kept"])

    @given_any
    @rule(pick=PICKS)
    def abandon(self, pick: int) -> None:
        """A new process took an agent's name."""
        agent = self.lease(pick).agent_id

        async def abandon() -> None:
            async with self.pool.acquire() as connection, connection.transaction():
                await leasing.abandon(connection, [agent], "replaced")

        self.run(abandon())
        for workload_id, modelled in self.model.items():
            if modelled.state in ACTIVE and modelled.agent == agent:
                assert self.move(workload_id, Event.ABANDON)

    @precondition(lambda self: self.model)
    @rule(pick=PICKS)
    def cancel_any(self, pick: int) -> None:
        self.cancel(list(self.model)[pick % len(self.model)])

    @given_any
    @rule(pick=PICKS)
    def cancel_leased(self, pick: int) -> None:
        self.cancel(self.lease(pick).workload_id)

    def cancel(self, workload_id: uuid.UUID) -> None:
        cancelled = self.run(leasing.cancel(self.pool, [workload_id]))
        assert cancelled == int(self.move(workload_id, Event.CANCEL))

    @rule()
    def executor_looks(self) -> None:
        """The executor takes what it has not seen."""
        self.run(self.pool.execute("UPDATE isthmus_workload SET unseen = false WHERE unseen"))
        for modelled in self.model.values():
            modelled.unseen = False

    @invariant()
    def rows_are_as_the_model_says(self) -> None:
        rows = self.run(
            self.pool.fetch(
                "SELECT id, state, fence, agent_id, claim_id, cancel_requested, unseen, releases, lease_expires_at, "
                "settled_at, started_at FROM isthmus_workload WHERE id = ANY($1::uuid[])",
                list(self.model),
            )
        )
        assert len(rows) == len(self.model), "a workload is lost"
        for row in rows:
            modelled = self.model[row["id"]]
            self.world.reached[modelled.state] += 1
            assert row["state"] == modelled.state
            assert row["fence"] == modelled.fence
            assert row["agent_id"] == modelled.agent
            assert row["unseen"] == modelled.unseen
            assert row["releases"] == modelled.releases
            assert row["cancel_requested"] == modelled.cancel_requested
            # Whatever is held has a lease that ends: nothing can get stuck.
            assert (row["lease_expires_at"] is not None) == (modelled.state in ACTIVE)
            assert (row["settled_at"] is not None) == (modelled.state in SETTLED)
            if modelled.state is State.RUNNING:
                assert row["started_at"] is not None
            if modelled.state is State.QUEUED:
                assert row["claim_id"] is None
            for holders in modelled.confirmed.values():
                assert len(holders) == 1, "one lease was confirmed to two agents"

    def teardown(self) -> None:
        """Nothing is left that could be in another run's way."""

        async def clear() -> None:
            await self.pool.execute("DELETE FROM isthmus_workload WHERE id = ANY($1::uuid[])", list(self.model))
            await self.pool.execute("DELETE FROM isthmus_agent WHERE id = ANY($1::uuid[])", self.agents)
            await self.pool.execute("DELETE FROM task_instance WHERE id = ANY($1::uuid[])", list(self.model))

        self.run(clear())


@pytest.fixture
def world(core_url: str) -> Iterator[World]:
    world = World(core_url)
    QueueMachine.world = world
    yield world
    world.close()


#: What every run must have seen, whatever else it saw.
MOVES = {
    (State.LEASED, Event.RELEASE),
    (State.LEASED, Event.EXPIRE),
    (State.LEASED, Event.ABANDON),
    (State.LEASED, Event.CANCEL),
    (State.RUNNING, Event.SUCCEED),
    (State.RUNNING, Event.FAIL),
    (State.RUNNING, Event.EXPIRE),
    (State.RUNNING, Event.ABANDON),
    (State.RUNNING, Event.CANCEL),
}


def test_the_queue_does_what_the_model_says(world: World) -> None:
    machine = settings(
        max_examples=20,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    for _ in range(6):
        run_state_machine_as_test(QueueMachine, settings=machine)
        if set(world.reached) == set(State) and set(world.verdicts) == set(SettleVerdict) and world.moves >= MOVES:
            return
    pytest.fail(f"not everything happened: {world.reached}, {world.verdicts}, without {MOVES - world.moves}")
