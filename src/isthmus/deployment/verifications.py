"""The history of verifications: what was ordered of which agent by whom, the rows as they come, and the end.

An order is written together with the agent's flag (``ORDER``, which ``steering`` runs); rows come with heartbeats and
are written by the roster's flush (``record``); what no agent answers is given up with the reason (``give_up``) by the
reaper, which forgets old ones as well. A report that comes after all ends a verification that was given up.

Invariants: an agent writes to its own verifications alone; what is finished does not change; an agent has at most
``KEPT`` of them once the reaper has been there, and none is older than ``KEPT_DAYS``.
"""

# ruff: noqa: S608 - values are parameters; what is put into the text are constants of ours.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID, uuid5

from isthmus.deployment.errors import PlaneRefusedError, translated
from isthmus.deployment.pooling import Connection, Database, Record, json_text
from isthmus.deployment.tables import AGENTS_CHANNEL
from isthmus.wire.problems import Code

KEPT: Final = 50
KEPT_DAYS: Final = 30
#: A healthy agent has this long for its next rows: the longest pause is a few checks with all their timeouts.
SILENT_SECONDS: Final = 120.0


class Unanswered(StrEnum):
    """Why a verification was given up."""

    REPLACED = "replaced"
    REMOVED = "removed"
    LEFT = "left"
    UNHEALTHY = "unhealthy"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Reported:
    """Rows that an agent has sent. ``report`` is a JSON value; without ``order_id`` the agent verified by itself."""

    agent_id: UUID
    instance_id: UUID
    order_id: UUID | None
    report: Mapping[str, Any]
    finished: bool


@dataclass(frozen=True, slots=True)
class Verification:
    """One of the history. ``ordered`` and ``report`` are JSON values; ``unanswered`` says why there is no end."""

    verification_id: UUID
    agent_id: UUID | None
    agent_name: str
    ordered_by: str | None
    ordered: Mapping[str, Any] | None
    ordered_at: datetime
    finished_at: datetime | None
    unanswered: Unanswered | None
    report: Mapping[str, Any] | None


#: The order ($2, its id $3, who asked $4) of agent $1: its flag, and the place of its report.
ORDER: Final = f"""
WITH changed AS (UPDATE isthmus_agent SET probes_order = $2::text::jsonb WHERE id = $1 RETURNING id, name),
replaced AS (
    UPDATE isthmus_verification AS v SET unanswered = '{Unanswered.REPLACED}' FROM changed
    WHERE v.agent_id = changed.id AND v.finished_at IS NULL AND v.unanswered IS NULL
),
made AS (
    INSERT INTO isthmus_verification (id, agent_id, agent_name, ordered_by, ordered)
    SELECT $3::uuid, id, name, $4::text, $2::text::jsonb FROM changed
)
SELECT pg_notify('{AGENTS_CHANNEL}', '') FROM changed
"""

_RECORD: Final = """
UPDATE isthmus_verification AS v
SET report = r.report::jsonb, reported_at = now(), finished_at = CASE WHEN r.finished THEN now() END,
    unanswered = CASE WHEN NOT r.finished THEN v.unanswered END
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bool[]) AS r(id, agent_id, report, finished)
WHERE v.id = r.id AND v.agent_id = r.agent_id AND v.finished_at IS NULL
"""

# The id is made from what the agent says, so that a report that comes twice is kept once.
_RECORD_OWN: Final = """
INSERT INTO isthmus_verification (id, agent_id, agent_name, reported_at, finished_at, report)
SELECT r.id, a.id, a.name, now(), now(), r.report::jsonb
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[]) AS r(id, agent_id, instance_id, report)
JOIN isthmus_agent AS a ON a.id = r.agent_id AND a.instance_id = r.instance_id
ON CONFLICT (id) DO NOTHING
"""

_GIVE_UP: Final = f"""
WITH silent AS (
    SELECT v.id, v.agent_id, CASE WHEN a.id IS NULL THEN '{Unanswered.REMOVED}' WHEN a.phase = 'left' THEN
        '{Unanswered.LEFT}' WHEN a.heard < now() - $1::float * interval '1 second' THEN '{Unanswered.UNHEALTHY}'
        ELSE '{Unanswered.SILENT}' END AS why,
        extract(epoch FROM now() - coalesce(v.reported_at, v.ordered_at)) AS seconds
    FROM isthmus_verification AS v LEFT JOIN (
        SELECT id, phase, coalesce(last_heartbeat_at, enrolled_at) AS heard FROM isthmus_agent
    ) AS a ON a.id = v.agent_id
    WHERE v.finished_at IS NULL AND v.unanswered IS NULL
),
ended AS (
    UPDATE isthmus_verification AS v SET unanswered = s.why FROM silent AS s
    WHERE v.id = s.id AND v.finished_at IS NULL AND s.seconds > CASE s.why
        WHEN '{Unanswered.UNHEALTHY}' THEN $1::float WHEN '{Unanswered.SILENT}' THEN $2::float ELSE 0 END
    RETURNING v.id, v.agent_id
),
forgotten AS (
    UPDATE isthmus_agent AS a SET probes_order = NULL FROM ended AS e
    WHERE a.id = e.agent_id AND a.probes_order->>'order_id' = e.id::text RETURNING a.id
)
SELECT e.id, pg_notify('{AGENTS_CHANNEL}', '') FROM ended AS e
"""

_FORGET: Final = f"""
DELETE FROM isthmus_verification WHERE id IN (
    SELECT id FROM (
        SELECT id, ordered_at, row_number() OVER (PARTITION BY agent_name ORDER BY ordered_at DESC, id DESC) AS place
        FROM isthmus_verification
    ) AS ranked
    WHERE place > {KEPT} OR ordered_at < now() - interval '{KEPT_DAYS} days'
    LIMIT $1
)
"""

_COLUMNS: Final = "id, agent_id, agent_name, ordered_by, ordered, ordered_at, finished_at, unanswered, report"

_LIST: Final = f"""
SELECT {_COLUMNS} FROM isthmus_verification
WHERE ($2::timestamptz IS NULL OR (ordered_at, id) < ($2, $3::uuid)) ORDER BY ordered_at DESC, id DESC LIMIT $1
"""

_LIST_OF_AGENT: Final = f"""
SELECT {_COLUMNS} FROM isthmus_verification
WHERE agent_name = $4 AND ($2::timestamptz IS NULL OR (ordered_at, id) < ($2, $3::uuid))
ORDER BY ordered_at DESC, id DESC LIMIT $1
"""

_FIND: Final = f"SELECT {_COLUMNS} FROM isthmus_verification WHERE id = $1"


async def record(connection: Connection, reports: Sequence[Reported]) -> None:
    """Write what agents have sent: the rows so far of an order, or all. Errors are the database's own."""
    ordered = [one for one in reports if one.order_id is not None]
    own = [one for one in reports if one.order_id is None and one.finished]
    if ordered:
        await connection.execute(
            _RECORD,
            [one.order_id for one in ordered],
            [one.agent_id for one in ordered],
            [json_text(one.report) for one in ordered],
            [one.finished for one in ordered],
        )
    if own:
        await connection.execute(
            _RECORD_OWN,
            [uuid5(one.agent_id, str(one.report.get("started_at"))) for one in own],
            [one.agent_id for one in own],
            [one.instance_id for one in own],
            [json_text(one.report) for one in own],
        )


async def give_up(database: Database, *, healthy_seconds: float) -> int:
    """Give up what no agent answers, with the reason; how many these were. Raises DatabaseError."""
    with translated():
        return len(await database.fetch(_GIVE_UP, healthy_seconds, SILENT_SECONDS))


async def forget(database: Database, batch: int) -> str:
    """Delete one batch of what is not kept; PostgreSQL's command status. Raises DatabaseError."""
    with translated():
        return await database.execute(_FORGET, batch)


async def listed(
    database: Database, *, agent: str | None = None, before: tuple[datetime, UUID] | None = None, limit: int
) -> tuple[list[Verification], tuple[datetime, UUID] | None]:
    """A page, newest first, of one agent (by name) or of all; and where the next begins. Raises DatabaseError."""
    at, verification_id = before or (None, None)
    with translated():
        if agent is None:
            rows = await database.fetch(_LIST, limit + 1, at, verification_id)
        else:
            rows = await database.fetch(_LIST_OF_AGENT, limit + 1, at, verification_id, agent)
    page = [_verification(row) for row in rows[:limit]]
    return page, (page[-1].ordered_at, page[-1].verification_id) if len(rows) > limit else None


async def find(database: Database, verification_id: UUID) -> Verification:
    """One of them. Raises PlaneRefusedError(VERIFICATION_NOT_FOUND), DatabaseError."""
    with translated():
        row = await database.fetchrow(_FIND, verification_id)
    if row is None:
        raise PlaneRefusedError(Code.VERIFICATION_NOT_FOUND)
    return _verification(row)


def _verification(row: Record) -> Verification:
    return Verification(
        verification_id=row["id"],
        agent_id=row["agent_id"],
        agent_name=row["agent_name"],
        ordered_by=row["ordered_by"],
        ordered=row["ordered"],
        ordered_at=row["ordered_at"],
        finished_at=row["finished_at"],
        unanswered=None if row["unanswered"] is None else Unanswered(row["unanswered"]),
        report=row["report"],
    )
