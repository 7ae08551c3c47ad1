"""How long verifications and log tails are kept, and when one is given up."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from tests import planting

from isthmus.deployment import verifications
from isthmus.deployment.leasing import LeaseTimes
from isthmus.deployment.pooling import Pool
from isthmus.deployment.reaping import Reaper


async def _planted(pool: Pool, name: str, ages: list[timedelta]) -> None:
    rows = [(uuid4(), name, datetime.now(UTC) - age) for age in ages]
    await pool.executemany(
        "INSERT INTO isthmus_verification (id, agent_name, ordered_at, finished_at) VALUES ($1, $2, $3, $3)", rows
    )


async def _left(pool: Pool, name: str) -> list[datetime]:
    page, _ = await verifications.listed(pool, agent=name, limit=500)
    return [one.ordered_at for one in page]


async def test_the_newest_of_each_agent_are_kept(pool: Pool) -> None:
    await _planted(pool, "busy", [timedelta(minutes=minute) for minute in range(verifications.KEPT + 7)])
    await _planted(pool, "calm", [timedelta(days=1), timedelta(days=verifications.KEPT_DAYS - 1)])
    await _planted(pool, "old", [timedelta(days=verifications.KEPT_DAYS, minutes=1)])
    before = await _left(pool, "busy")
    await Reaper(pool, LeaseTimes(30, 300), trusted_seconds=lambda: 0.0).forget()
    assert await _left(pool, "busy") == before[: verifications.KEPT]
    assert len(await _left(pool, "calm")) == 2
    assert await _left(pool, "old") == []


async def test_a_log_tail_is_gone_after_an_hour(pool: Pool) -> None:
    fresh, stale = await planting.add_agents(pool, 2)
    for agent_id, minutes in ((fresh, 55), (stale, 65)):
        await pool.execute(
            "INSERT INTO isthmus_log_tail (agent_id, order_id, ordered_at, received_at, lines) VALUES "
            "($1, $2, now() - $3 * interval '1 minute', now() - $3 * interval '1 minute', '[\"a line\"]')",
            *(agent_id, uuid4(), minutes),
        )
    await Reaper(pool, LeaseTimes(30, 300), trusted_seconds=lambda: 0.0).forget()
    left = await pool.fetch("SELECT agent_id FROM isthmus_log_tail")
    assert [row["agent_id"] for row in left] == [fresh]


async def test_an_agent_that_is_well_and_sends_no_rows_is_given_up_after_two_minutes(pool: Pool) -> None:
    agents = await planting.add_agents(pool, 3)
    for agent_id, ordered, reported in zip(agents, (130, 110, 130), (None, None, 20), strict=True):
        await pool.execute(
            "INSERT INTO isthmus_verification (id, agent_id, agent_name, ordered_at, reported_at) VALUES "
            "($1, $2, $3, now() - $4 * interval '1 second', now() - $5::float * interval '1 second')",
            *(uuid4(), agent_id, "waiting", ordered, reported),
        )
    await verifications.give_up(pool, healthy_seconds=30)
    page, _ = await verifications.listed(pool, limit=10)
    why = {one.agent_id: one.unanswered for one in page}
    assert why == {agents[0]: verifications.Unanswered.SILENT, agents[1]: None, agents[2]: None}
