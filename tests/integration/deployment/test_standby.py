"""Standby groups against the database, where the time is: the tests move the rows into the past."""

import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import planting

from isthmus.deployment import leasing, reading, steering
from isthmus.deployment.leasing import LeaseTimes
from isthmus.deployment.matching import Claim
from isthmus.deployment.pooling import Pool
from isthmus.deployment.roster import Agent, Roster
from isthmus.deployment.standby import Standby
from isthmus.deployment.tokens import Token, TokenBook
from isthmus.wire.agents import StandbyTerms
from isthmus.wire.names import Role

HEALTHY = 30.0
AFTER = 60.0


@pytest.fixture
async def token(pool: Pool) -> Token:
    return (await TokenBook(pool, "dtest234").create("site", expires_days=1))[0]


@pytest.fixture
async def roster(pool: Pool) -> Roster:
    return Roster(pool, TokenBook(pool, "dtest234"), LeaseTimes(30, 120), heartbeat_seconds=10)


@pytest.fixture
def standby(pool: Pool) -> Standby:
    return Standby(pool, trusted_seconds=lambda: 1e9, healthy_seconds=HEALTHY)


class Site:
    """A primary agent and one that stands by for it."""

    def __init__(self, pool: Pool, roster: Roster, token: Token, standby: Standby) -> None:
        self.pool, self.roster, self.token, self.standby = pool, roster, token, standby
        self.primary: Agent
        self.second: Agent

    async def build(self) -> "Site":
        self.primary = await self.enrol("oslo-1", group="oslo")
        terms = StandbyTerms(for_group="oslo", after_seconds=AFTER)
        self.second = await self.enrol("bergen-1", group="bergen", standby=terms)
        await self.standby.look()
        return self

    async def enrol(self, name: str, **changes: Any) -> Agent:
        return await self.roster.enrol(planting.enrolment(name, **changes), self.token)

    async def silence(self, seconds: float) -> None:
        """The primary's last heartbeat was so long ago."""
        await self.pool.execute(
            "UPDATE isthmus_agent SET last_heartbeat_at = now() - $1 * interval '1 second' WHERE name = 'oslo-1'",
            seconds,
        )
        await self.standby.look()

    async def wait(self, seconds: float) -> None:
        await self.pool.execute("UPDATE isthmus_group SET since = since - $1 * interval '1 second'", seconds)
        await self.standby.look()

    async def admitted(self) -> bool:
        """Whether work goes to the standby agent, as every part of the plane would say."""
        await self.roster.refresh_commands()
        known = await self.roster.find(self.second.agent_id)
        assert known is not None
        [work] = await planting.add_workloads(self.pool)
        claim = Claim(uuid.uuid4(), self.second.agent_id, frozenset({"default"}), 1)
        async with self.pool.acquire() as connection, connection.transaction():
            rows = await leasing.select_queued(connection, {"default": 100})
            leased = await leasing.claim(connection, [(rows[0], claim)], LeaseTimes(30, 120))
        await self.pool.execute("DELETE FROM isthmus_workload")
        row = await reading.agent(self.pool, self.second.agent_id, heartbeat_seconds=10)
        assert row.standby is not None
        assert known.admits_work == bool(leased) == row.standby.active, work
        return known.admits_work


@pytest.fixture
async def site(pool: Pool, roster: Roster, token: Token, standby: Standby) -> Site:
    return await Site(pool, roster, token, standby).build()


async def test_work_stays_away_while_the_primary_group_takes_it(site: Site) -> None:
    assert not await site.admitted()
    await site.wait(3600)
    assert not await site.admitted()


async def test_it_takes_over_after_the_time_and_stands_back_after_it(site: Site) -> None:
    await site.silence(HEALTHY + 1)
    assert not await site.admitted(), "not at once"
    await site.wait(AFTER - 5)
    assert not await site.admitted()
    await site.wait(6)
    assert await site.admitted()
    await site.silence(0)
    assert await site.admitted(), "and not back at once"
    await site.wait(AFTER + 1)
    assert not await site.admitted()


async def test_a_primary_that_is_cordoned_or_has_left_takes_nothing(site: Site) -> None:
    await steering.cordon(site.pool, site.primary.agent_id)
    await site.standby.look()
    await site.wait(AFTER + 1)
    assert await site.admitted()
    await steering.uncordon(site.pool, site.primary.agent_id)
    await site.standby.look()
    await site.wait(AFTER + 1)
    assert not await site.admitted()
    await site.pool.execute("UPDATE isthmus_agent SET phase = 'left' WHERE name = 'oslo-1'")
    await site.standby.look()
    await site.wait(AFTER + 1)
    assert await site.admitted()


async def test_another_agent_of_the_group_is_enough(site: Site) -> None:
    await site.enrol("oslo-2", group="oslo")
    await site.silence(HEALTHY + 1)
    await site.wait(AFTER + 1)
    assert not await site.admitted()


async def test_an_agent_of_another_role_is_not(site: Site) -> None:
    await site.enrol("oslo-2", group="oslo", role=Role.TRIGGERER)
    await site.silence(HEALTHY + 1)
    await site.wait(AFTER + 1)
    assert await site.admitted()


async def test_the_plane_doubts_itself_first(site: Site, pool: Pool) -> None:
    await site.pool.execute("UPDATE isthmus_agent SET last_heartbeat_at = now() - interval '1 hour'")
    doubting = Standby(pool, trusted_seconds=lambda: HEALTHY - 1, healthy_seconds=HEALTHY)
    await doubting.look()
    assert await pool.fetchval("SELECT able FROM isthmus_group")


async def test_it_comes_back_as_what_it_was_and_forgets_what_it_is_no_more(site: Site) -> None:
    await site.silence(HEALTHY + 1)
    await site.wait(AFTER + 1)
    again = await site.enrol("bergen-1", standby=StandbyTerms(for_group="oslo", after_seconds=AFTER))
    assert again.admits_work, "a restart does not give back what was taken over"
    other = await site.enrol("bergen-1", standby=StandbyTerms(for_group="narvik", after_seconds=AFTER))
    assert not other.admits_work
    plain = await site.enrol("bergen-1")
    assert plain.admits_work
    await site.standby.look()
    assert await site.pool.fetchval("SELECT count(*) FROM isthmus_group") in {0, 1}


async def test_two_processes_decide_as_one(site: Site, pool: Pool) -> None:
    await site.silence(HEALTHY + 1)
    await site.pool.execute("UPDATE isthmus_group SET since = since - interval '1 hour'")
    other = Standby(pool, trusted_seconds=lambda: 1e9, healthy_seconds=HEALTHY)
    changed = [await site.standby.look(), await other.look()]
    assert sum(changed) == 1
    assert await site.admitted()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.booleans(), st.floats(0, AFTER * 2)), min_size=1, max_size=8))
async def test_it_moves_only_when_the_group_has_been_otherwise_for_long(
    site: Site, steps: list[tuple[bool, float]]
) -> None:
    """Whatever the primary does: the state changes exactly when the opposite has held for the time."""
    await site.silence(0)
    await site.wait(AFTER + 1)
    able, for_seconds, active = True, AFTER + 1, False
    for now_able, seconds in steps:
        if now_able != able:
            able, for_seconds = now_able, 0.0
        await site.silence(0 if now_able else HEALTHY + 1)
        await site.wait(seconds)
        for_seconds += seconds
        if abs(for_seconds - AFTER) < 2:
            return  # too near to call: the clock goes on while this runs
        if for_seconds > AFTER:
            active = not able
        assert await site.admitted() == active
