"""What operators see of triggers: who runs how many, and what nobody runs yet.

Airflow has no index on a trigger's holder. Its table has live triggers alone, so it is read once for the holders and
once for what waits; tasks, jobs, agents and DAGs are found by their keys.
"""

# ruff: noqa: S608 - values are parameters; what is put into the text are constants of ours.

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from isthmus.deployment.errors import translated
from isthmus.deployment.pooling import Connection, Pool
from isthmus.deployment.triggers.holding import TAKES, UNHELD, Patience

#: Kinds of waiting triggers that are told apart; the rest is in the sum.
MOST_GROUPS: Final = 100


class WaitingFor(StrEnum):
    """What resumes when a trigger fires."""

    CALLBACK = "callback"
    TASK = "task"
    ASSET = "asset"


_KINDS: Final = tuple(WaitingFor)


@dataclass(frozen=True, slots=True)
class TriggererRow:
    """A triggerer of an agent. ``takes``: it may be given more, if it has room. No ``bundles`` means any."""

    agent_id: UUID
    agent_name: str
    held: int
    capacity: int
    queues: tuple[str, ...]
    bundles: tuple[str, ...]
    takes: bool
    loaded_at: datetime


@dataclass(frozen=True, slots=True)
class WaitingGroup:
    """Triggers that wait alike. ``triggerers`` is how many could run them, full ones among them."""

    kind: WaitingFor
    queue: str | None
    bundles: tuple[str, ...]
    count: int
    oldest_seconds: float
    triggerers: int


@dataclass(frozen=True, slots=True)
class TriggersSummary:
    """All of it. ``held_centrally`` are those of a triggerer of Airflow's own."""

    triggerers: tuple[TriggererRow, ...]
    has_more: bool
    held: int
    capacity: int
    held_centrally: int
    waiting: int
    oldest_seconds: float | None
    groups: tuple[WaitingGroup, ...]


#: ``$2`` is after how many seconds without a heartbeat an agent is away.
_ABLE: Final = f"({TAKES} AND a.last_heartbeat_at > now() - $2 * interval '1 second')"

_TRIGGERERS: Final = f"""
SELECT t.agent_id, a.name AS agent_name, coalesce(h.held, 0)::int AS held, t.capacity, a.queues, t.bundles,
       {_ABLE} IS TRUE AS takes, t.loaded_at
FROM isthmus_triggerer AS t
JOIN isthmus_agent AS a ON a.id = t.agent_id AND a.instance_id = t.instance_id
LEFT JOIN (SELECT triggerer_id, count(*) AS held FROM trigger GROUP BY triggerer_id) AS h ON h.triggerer_id = t.job_id
ORDER BY a.name LIMIT $1 OFFSET $3
"""

_TOTALS: Final = """
SELECT (SELECT coalesce(sum(capacity), 0)::int FROM isthmus_triggerer) AS capacity,
       count(*) FILTER (WHERE t.job_id IS NOT NULL)::int AS held,
       count(*) FILTER (WHERE t.job_id IS NULL AND j.id IS NOT NULL)::int AS held_centrally
FROM trigger AS tr
LEFT JOIN isthmus_triggerer AS t ON t.job_id = tr.triggerer_id
LEFT JOIN job AS j ON j.id = tr.triggerer_id AND j.job_type = 'TriggererJob' AND j.end_date IS NULL
    AND j.latest_heartbeat > now() - $1 * interval '1 second'
WHERE tr.triggerer_id IS NOT NULL
"""

# The window functions see all groups, before LIMIT cuts.
_GROUPS: Final = f"""
WITH {UNHELD}, alike AS (
    SELECT kind, queue, bundles, count(*) AS count, min(created_date) AS oldest
    FROM waiting GROUP BY kind, queue, bundles
), able AS (
    SELECT a.queues, t.bundles FROM isthmus_triggerer AS t
    JOIN isthmus_agent AS a ON a.id = t.agent_id AND a.instance_id = t.instance_id
    WHERE {_ABLE}
)
SELECT w.kind, w.queue, w.bundles, w.count::int AS count, s.triggerers::int AS triggerers,
       extract(epoch FROM now() - w.oldest)::float AS oldest_seconds,
       (sum(w.count) OVER ())::int AS waiting,
       extract(epoch FROM now() - min(w.oldest) OVER ())::float AS oldest_of_all
FROM alike AS w CROSS JOIN LATERAL (
    SELECT count(*) AS triggerers FROM able
    WHERE (w.queue IS NULL OR able.queues ? w.queue)
      AND (able.bundles = '[]' OR w.bundles = '{{}}' OR able.bundles ?| w.bundles::text[])
) AS s
ORDER BY s.triggerers > 0, w.oldest, w.kind, w.queue LIMIT $3
"""


async def summary(pool: Pool, patience: Patience, *, start: int, limit: int) -> TriggersSummary:
    """Triggerers by name, a page of them, and what waits: what nobody could run first. Raises DatabaseError."""
    with translated():
        async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            return await _summary(connection, patience, start=start, limit=limit)


async def _summary(connection: Connection, patience: Patience, *, start: int, limit: int) -> TriggersSummary:
    triggerers = await connection.fetch(_TRIGGERERS, limit + 1, patience.agent_seconds, start)
    totals = await connection.fetchrow(_TOTALS, patience.central_seconds)
    assert totals is not None  # noqa: S101 - an aggregate has a row
    groups = await connection.fetch(_GROUPS, patience.central_seconds, patience.agent_seconds, MOST_GROUPS)
    return TriggersSummary(
        triggerers=tuple(
            TriggererRow(**{**row, "queues": tuple(row["queues"]), "bundles": tuple(row["bundles"])})
            for row in triggerers[:limit]
        ),
        has_more=len(triggerers) > limit,
        **totals,
        waiting=groups[0]["waiting"] if groups else 0,
        oldest_seconds=groups[0]["oldest_of_all"] if groups else None,
        groups=tuple(
            WaitingGroup(
                kind=_KINDS[row["kind"]],
                queue=row["queue"],
                bundles=tuple(row["bundles"]),
                count=row["count"],
                oldest_seconds=row["oldest_seconds"],
                triggerers=row["triggerers"],
            )
            for row in groups
        ),
    )
