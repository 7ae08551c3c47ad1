"""Tallies of workloads for operators: by queue as it is now, and by minute of the last hour.

Each is one statement over partial indexes: queued and leased rows are few, and of settled ones an hour is read.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from isthmus.deployment.errors import translated
from isthmus.deployment.pooling import Database
from isthmus.deployment.roster import HEALTHY_HEARTBEATS

#: Agents of a queue that are named; all are counted.
NAMED_AGENTS: Final = 20


@dataclass(frozen=True, slots=True)
class QueueTally:
    """A queue that has work, or that a worker agent serves.

    ``agents`` are the first healthy ones that take work of it now (neither cordoned nor draining), by name;
    ``agents_count`` is how many there are. ``oldest_seconds`` is None while nothing is queued.
    """

    queue: str
    queued: int
    oldest_seconds: float | None
    leased: int
    running: int
    agents: tuple[str, ...]
    agents_count: int
    slots: int
    slots_used: int


@dataclass(frozen=True, slots=True)
class MinuteTally:
    """What was settled in the minute that begins ``at``."""

    at: datetime
    succeeded: int
    failed: int
    lost: int
    cancelled: int


# Two branches for the workloads, because each has a partial index of its own.
_QUEUES: Final = """
WITH work AS (
    SELECT queue, count(*) AS queued, min(queued_at) AS oldest, 0 AS leased, 0 AS running
    FROM isthmus_workload WHERE state = 'queued' GROUP BY queue
    UNION ALL
    SELECT queue, 0, NULL, count(*) FILTER (WHERE state = 'leased'), count(*) FILTER (WHERE state = 'running')
    FROM isthmus_workload WHERE state IN ('leased', 'running') GROUP BY queue
), works AS (
    SELECT queue, sum(queued) AS queued, extract(epoch FROM now() - min(oldest))::float AS oldest_seconds,
           sum(leased) AS leased, sum(running) AS running
    FROM work GROUP BY queue
), serving AS (
    SELECT served.queue, (array_agg(a.name ORDER BY a.name))[1:$2::int] AS agents, count(*) AS agents_count,
           sum(a.slots) AS slots, sum(a.slots_used) AS slots_used
    FROM isthmus_agent AS a CROSS JOIN LATERAL jsonb_array_elements_text(a.queues) AS served(queue)
    WHERE a.role = 'worker' AND a.phase = 'ready' AND NOT a.cordoned AND NOT a.draining
      AND (a.standby_for IS NULL OR a.standby_active)
      AND coalesce(a.last_heartbeat_at, a.enrolled_at) > now() - $1::float * interval '1 second'
    GROUP BY served.queue
)
SELECT coalesce(works.queue, serving.queue) AS queue, coalesce(queued, 0)::int AS queued, oldest_seconds,
       coalesce(leased, 0)::int AS leased, coalesce(running, 0)::int AS running,
       coalesce(agents, '{}') AS agents, coalesce(agents_count, 0)::int AS agents_count,
       coalesce(slots, 0)::int AS slots, coalesce(slots_used, 0)::int AS slots_used
FROM works FULL JOIN serving ON serving.queue = works.queue
ORDER BY (coalesce(queued, 0) > 0 AND agents_count IS NULL) DESC, queue
"""

_MINUTES: Final = """
SELECT minute AS at,
       count(*) FILTER (WHERE state = 'succeeded')::int AS succeeded,
       count(*) FILTER (WHERE state = 'failed')::int AS failed,
       count(*) FILTER (WHERE state = 'lost')::int AS lost,
       count(*) FILTER (WHERE state = 'cancelled')::int AS cancelled
FROM generate_series(
    date_trunc('minute', now()) - interval '59 minutes', date_trunc('minute', now()), interval '1 minute'
) AS minute
LEFT JOIN isthmus_workload AS w
    ON date_trunc('minute', w.settled_at) = minute
    AND w.settled_at IS NOT NULL AND w.settled_at >= date_trunc('minute', now()) - interval '59 minutes'
GROUP BY minute ORDER BY minute
"""


async def queues(database: Database, *, heartbeat_seconds: float) -> list[QueueTally]:
    """Every queue, those with work that nobody serves first. Raises DatabaseError."""
    with translated():
        rows = await database.fetch(_QUEUES, HEALTHY_HEARTBEATS * heartbeat_seconds, NAMED_AGENTS)
    return [QueueTally(**{**row, "agents": tuple(row["agents"])}) for row in rows]


async def last_hour(database: Database) -> list[MinuteTally]:
    """Sixty minutes, the oldest first, the last one not yet over; by the database's clock. Raises DatabaseError."""
    with translated():
        rows = await database.fetch(_MINUTES)
    return [MinuteTally(**row) for row in rows]
