import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from statistics import median

import pytest
from tests import planting

from isthmus.deployment import leasing, steering
from isthmus.deployment.arrivals import Arrival
from isthmus.deployment.errors import DatabaseError, PlaneRefusedError
from isthmus.deployment.leasing import Lease, LeasedRow, LeaseTimes
from isthmus.deployment.matching import Claim
from isthmus.deployment.pooling import Pool
from isthmus.deployment.roster import Agent, Beat, Flushed, Roster
from isthmus.deployment.tokens import Token, TokenBook
from isthmus.kit.clocks import ManualClock
from isthmus.wire.agents import Phase
from isthmus.wire.names import Role
from isthmus.wire.problems import Code

TIMES = LeaseTimes(30, 120)


@pytest.fixture
async def tokens(pool: Pool) -> TokenBook:
    return TokenBook(pool, "dtest234")


@pytest.fixture
async def token(tokens: TokenBook) -> Token:
    return (await tokens.create("site", expires_days=1))[0]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def withdrawn() -> list[uuid.UUID]:
    return []


@pytest.fixture
async def roster(pool: Pool, tokens: TokenBook, clock: ManualClock, withdrawn: list[uuid.UUID]) -> Roster:
    roster = Roster(pool, tokens, TIMES, heartbeat_seconds=10, clock=clock)
    roster.on_withdrawn(withdrawn.append)
    return roster


async def lease(pool: Pool, agent: Agent, count: int = 1, *, start: bool = False) -> list[LeasedRow]:
    claim = Claim(uuid.uuid4(), agent.agent_id, frozenset({"default"}), count)
    async with pool.acquire() as connection, connection.transaction():
        rows = await leasing.select_queued(connection, {"default": count})
        leased = await leasing.claim(connection, [(row, claim) for row in rows], TIMES)
    if start:
        await leasing.start(pool, agent.agent_id, [row.lease for row in leased], TIMES)
    return leased


async def refused(awaitable: object) -> Code:
    with pytest.raises(PlaneRefusedError) as caught:
        await awaitable  # type: ignore[misc]
    return caught.value.problem


async def row_of(pool: Pool, agent: Agent) -> dict[str, object]:
    row = await pool.fetchrow("SELECT * FROM isthmus_agent WHERE id = $1", agent.agent_id)
    assert row is not None
    return dict(row)


async def test_an_agent_enrols_and_is_known_to_every_process(
    pool: Pool, roster: Roster, tokens: TokenBook, token: Token
) -> None:
    asked = planting.enrolment(labels={"site": "h\x00arbour"})
    agent = await roster.enrol(asked, token)
    assert (agent.name, agent.role, agent.queues, agent.admits_work) == (
        "agent-1",
        Role.WORKER,
        frozenset({"default"}),
        True,
    )
    assert await roster.lookup(agent.agent_id, asked.instance_id, token.token_id) is agent
    elsewhere = Roster(pool, tokens, TIMES)
    assert await elsewhere.lookup(agent.agent_id, asked.instance_id, token.token_id) == agent
    assert (await row_of(pool, agent))["labels"] == {"site": "harbour"}


async def test_enrolling_again_keeps_the_leases_of_the_same_instance(pool: Pool, roster: Roster, token: Token) -> None:
    asked = planting.enrolment()
    agent = await roster.enrol(asked, token)
    [workload] = await planting.add_workloads(pool)
    await lease(pool, agent)
    assert await roster.enrol(replace(asked, slots=9), token) == replace(agent, slots=9)
    assert (await planting.states(pool))[workload] == "leased"


async def test_a_new_instance_takes_the_place_and_the_old_ones_leases_end_at_once(
    pool: Pool, roster: Roster, token: Token, withdrawn: list[uuid.UUID]
) -> None:
    old = planting.enrolment()
    agent = await roster.enrol(old, token)
    ids = await planting.add_workloads(pool, 2)
    await lease(pool, agent, start=True)
    await lease(pool, agent)
    await steering.cordon(pool, agent.agent_id)
    await steering.drain(pool, agent.agent_id)
    new = planting.enrolment()
    replacement = await roster.enrol(new, token)
    assert replacement.agent_id == agent.agent_id
    assert withdrawn == [agent.agent_id]
    assert await planting.states(pool) == {ids[0]: "lost", ids[1]: "queued"}
    # The cordon is the operator's word on the name; the drain was for the process that has gone.
    assert (replacement.cordoned, replacement.draining) == (True, False)
    assert await refused(roster.lookup(agent.agent_id, old.instance_id, token.token_id)) == Code.AGENT_REPLACED
    assert (await roster.lookup(agent.agent_id, new.instance_id, token.token_id)) == replacement


async def test_a_process_that_knew_the_old_instance_learns_of_the_new_one(
    pool: Pool, roster: Roster, tokens: TokenBook, token: Token
) -> None:
    old, new = planting.enrolment(), planting.enrolment()
    elsewhere = Roster(pool, tokens, TIMES)
    gone: list[uuid.UUID] = []
    elsewhere.on_withdrawn(gone.append)
    agent = await elsewhere.enrol(old, token)
    await roster.enrol(new, token)
    await elsewhere.refresh_commands()
    assert gone == [agent.agent_id]
    assert await refused(elsewhere.lookup(agent.agent_id, old.instance_id, token.token_id)) == Code.AGENT_REPLACED


@pytest.mark.parametrize("change", ["role", "token"])
async def test_a_healthy_agent_keeps_its_name_against_another_role_and_a_strangers_token(
    pool: Pool, roster: Roster, tokens: TokenBook, token: Token, change: str
) -> None:
    agent = await roster.enrol(planting.enrolment(), token)
    other_token = (await tokens.create("other", expires_days=1))[0] if change == "token" else token
    other = planting.enrolment(role=Role.TRIGGERER if change == "role" else Role.WORKER)
    assert await refused(roster.enrol(other, other_token)) == Code.AGENT_NAME_TAKEN
    await pool.execute("UPDATE isthmus_agent SET last_heartbeat_at = now() - interval '31 seconds'")
    assert (await roster.enrol(other, other_token)).agent_id == agent.agent_id


async def test_a_rotated_tokens_successor_may_take_the_name(roster: Roster, tokens: TokenBook, token: Token) -> None:
    agent = await roster.enrol(planting.enrolment(), token)
    successor, _ = await tokens.rotate(token.token_id, overlap=timedelta(hours=1), expires_days=1)
    assert (await roster.lookup(agent.agent_id, agent.instance_id, successor.token_id)) == agent
    assert (await roster.enrol(planting.enrolment(), successor)).token_id == successor.token_id


async def test_an_agent_that_left_gives_its_name_up(roster: Roster, tokens: TokenBook, token: Token) -> None:
    agent = await roster.enrol(planting.enrolment(), token)
    roster.heartbeat(agent, Beat(phase=Phase.LEFT))
    await roster.flush()
    other, _ = await tokens.create("other", expires_days=1)
    await roster.enrol(planting.enrolment(role=Role.TRIGGERER), other)


async def test_an_agent_is_unknown_to_a_strangers_token(roster: Roster, tokens: TokenBook, token: Token) -> None:
    agent = await roster.enrol(planting.enrolment(), token)
    other, _ = await tokens.create("other", expires_days=1)
    assert await refused(roster.lookup(agent.agent_id, agent.instance_id, other.token_id)) == Code.AGENT_UNKNOWN
    assert await refused(roster.lookup(uuid.uuid4(), agent.instance_id, token.token_id)) == Code.AGENT_UNKNOWN


async def test_two_enrolments_under_one_name_at_once_end_in_one_agent(pool: Pool, roster: Roster, token: Token) -> None:
    both = await asyncio.gather(*(roster.enrol(planting.enrolment(), token) for _ in range(8)))
    assert len({agent.agent_id for agent in both}) == 1
    assert await pool.fetchval("SELECT count(*) FROM isthmus_agent") == 1


async def test_a_flush_writes_all_that_was_gathered(
    pool: Pool, roster: Roster, token: Token, tokens: TokenBook
) -> None:
    agent = await roster.enrol(planting.enrolment(), token)
    await pool.execute("UPDATE isthmus_agent SET last_heartbeat_at = NULL")
    warning = {"code": "x", "severity": "warning", "summary": "bad \ud800\x00", "hint": ""}
    report = {"rows": [1, float("nan")]}
    roster.heartbeat(agent, Beat(slots_used=1, probe_report=report))
    roster.heartbeat(agent, Beat(slots_used=3, warnings=(warning,), arrival=Arrival("2001:db8::1%eth0")))
    assert await roster.flush() == Flushed(agents=1)
    row = await row_of(pool, agent)
    assert row["slots_used"] == 3
    assert row["warnings"] == [{**warning, "summary": "bad ?"}]
    assert row["probe_report"] == {"rows": [1, None]}
    assert str(row["address"]) == "2001:db8::1"
    assert row["last_heartbeat_at"] is not None
    roster.heartbeat(agent, Beat())
    await roster.flush()
    assert (await row_of(pool, agent))["probe_report"] == {"rows": [1, None]}
    assert await roster.flush() == Flushed()


async def test_a_tokens_last_use_is_written_with_the_flush(pool: Pool, roster: Roster, tokens: TokenBook) -> None:
    _, text = await tokens.create("site", expires_days=1)
    await tokens.verify(str(text), Arrival("192.0.2.1"))
    await tokens.verify(str(text), Arrival("192.0.2.2"))
    assert (await roster.flush()).tokens == 1
    [token] = await tokens.all()
    assert token.last_used_at is not None
    assert token.last_used_address == "192.0.2.2"
    assert (await roster.flush()).tokens == 0


async def test_a_heartbeat_extends_leases_and_the_next_one_hears_which_are_lost(
    pool: Pool, roster: Roster, token: Token
) -> None:
    agent = await roster.enrol(planting.enrolment(), token)
    await planting.add_workloads(pool, 2)
    held, gone = await lease(pool, agent, 2)
    await leasing.release(pool, [gone.lease])
    await pool.execute("UPDATE isthmus_workload SET lease_expires_at = now() WHERE state = 'leased'")
    beat = Beat(leases=(held.lease, gone.lease))
    assert roster.heartbeat(agent, beat).lost == ()
    assert await roster.flush() == Flushed(agents=1, leases=1, lost=1)
    assert await pool.fetchval("SELECT lease_expires_at > now() FROM isthmus_workload WHERE state = 'leased'")
    assert roster.heartbeat(agent, beat).lost == (gone.lease,)
    assert roster.heartbeat(agent, Beat(leases=(held.lease,))).lost == ()
    await roster.flush()
    assert roster.heartbeat(agent, beat).lost == ()


async def test_flags_and_cancellations_come_back_with_the_next_heartbeat(
    pool: Pool, roster: Roster, token: Token, withdrawn: list[uuid.UUID]
) -> None:
    agent = await roster.enrol(planting.enrolment(), token)
    await planting.add_workloads(pool)
    [row] = await lease(pool, agent, start=True)
    assert roster.heartbeat(agent, Beat()) == roster.heartbeat(agent, Beat())
    await steering.cancel(pool, row.workload_id)
    await steering.cordon(pool, agent.agent_id)
    await roster.refresh_commands()
    commands = roster.heartbeat(agent, Beat())
    assert (commands.cordoned, commands.drain, commands.cancel) == (True, False, (Lease(row.workload_id, row.fence),))
    assert withdrawn == [agent.agent_id]
    await steering.uncordon(pool, agent.agent_id)
    await steering.drain(pool, agent.agent_id)
    await roster.flush()  # brings the flags as well
    commands = roster.heartbeat(agent, Beat())
    assert (commands.cordoned, commands.drain) == (False, True)


async def test_what_an_agent_that_leaves_still_holds_is_abandoned(
    pool: Pool, roster: Roster, token: Token, withdrawn: list[uuid.UUID]
) -> None:
    agent = await roster.enrol(planting.enrolment(), token)
    ids = await planting.add_workloads(pool, 2)
    await lease(pool, agent, start=True)
    await lease(pool, agent)
    roster.heartbeat(agent, Beat(phase=Phase.LEFT))
    assert withdrawn == [agent.agent_id]
    await roster.flush()
    assert await planting.states(pool) == {ids[0]: "lost", ids[1]: "queued"}
    assert (await row_of(pool, agent))["phase"] == "left"


async def test_the_late_heartbeat_of_a_replaced_instance_changes_nothing(
    pool: Pool, roster: Roster, tokens: TokenBook, token: Token
) -> None:
    elsewhere = Roster(pool, tokens, TIMES)
    agent = await elsewhere.enrol(planting.enrolment(), token)
    await roster.enrol(planting.enrolment(), token)
    elsewhere.heartbeat(agent, Beat(slots_used=3, phase=Phase.LEFT))
    await elsewhere.flush()
    row = await row_of(pool, agent)
    assert (row["slots_used"], row["phase"]) == (0, "ready")
    assert await refused(elsewhere.lookup(agent.agent_id, agent.instance_id, token.token_id)) == Code.AGENT_REPLACED


async def test_what_could_not_be_written_is_written_later_and_the_plane_doubts_itself_meanwhile(
    pool: Pool, roster: Roster, token: Token, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await roster.enrol(planting.enrolment(), token)
    assert roster.writable_seconds() == 0
    for _ in range(60):
        clock.advance(1)
        await roster.flush()
    assert roster.writable_seconds() == 59
    extend = leasing.extend

    async def broken(*arguments: object) -> set[object]:
        raise ConnectionResetError("gone")

    monkeypatch.setattr(leasing, "extend", broken)
    roster.heartbeat(agent, Beat(slots_used=2, leases=(Lease(uuid.uuid4(), 1),)))
    for _ in range(10):
        clock.advance(1)
        with pytest.raises(DatabaseError):
            await roster.flush()
    assert roster.writable_seconds() == 0
    monkeypatch.setattr(leasing, "extend", extend)
    clock.advance(1)
    assert (await roster.flush()).agents == 1
    assert roster.writable_seconds() == 0
    clock.advance(2)
    await roster.flush()
    assert roster.writable_seconds() == 2


async def test_a_process_that_was_suspended_doubts_itself(roster: Roster, clock: ManualClock) -> None:
    await roster.flush()
    clock.advance(4)
    await roster.flush()
    assert roster.writable_seconds() == 4
    clock.advance(300)
    assert roster.writable_seconds() == 0
    await roster.flush()
    assert roster.writable_seconds() == 0


async def test_the_heartbeats_of_two_thousand_agents_are_one_cheap_flush(
    pool: Pool, roster: Roster, tokens: TokenBook, token: Token, record: Callable[[str, float], None]
) -> None:
    ids = await planting.add_agents(pool, 2000)
    await planting.add_workloads(pool, 4000)
    await pool.execute(
        "UPDATE isthmus_workload AS w SET state = 'running', fence = 1, agent_id = a.id, "
        "lease_expires_at = now() + interval '100 seconds' "
        "FROM (SELECT id, row_number() OVER () AS place FROM isthmus_workload) AS p "
        "JOIN (SELECT id, row_number() OVER () AS place FROM isthmus_agent) AS a ON a.place = (p.place + 1) / 2 "
        "WHERE p.id = w.id"
    )
    leases: dict[uuid.UUID, list[Lease]] = {}
    for row in await pool.fetch("SELECT id, agent_id FROM isthmus_workload"):
        leases.setdefault(row["agent_id"], []).append(Lease(row["id"], 1))
    agents = [await roster.find(agent_id) for agent_id in ids]
    answering, flushing, processing = [], [], []
    for _ in range(7):
        began = time.perf_counter()
        for agent in agents:
            assert agent is not None
            roster.heartbeat(agent, Beat(slots_used=2, leases=tuple(leases[agent.agent_id])))
        answering.append((time.perf_counter() - began) / 2000)
        began, cpu = time.perf_counter(), time.process_time()
        assert await roster.flush() == Flushed(agents=2000, leases=4000)
        flushing.append(time.perf_counter() - began)
        processing.append(time.process_time() - cpu)
    record("a heartbeat's answer, us", median(answering) * 1e6)
    record("flush of 2,000 agents with 4,000 leases, ms", median(flushing) * 1000)
    record("of it CPU of this process, ms", median(processing) * 1000)
    assert median(flushing) < 1.0
