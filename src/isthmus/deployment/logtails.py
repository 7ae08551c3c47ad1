"""The last log tail of each agent: asked for by an operator, sent by the agent, gone after an hour.

Task logs are not in it: it is what the agent's control process says of itself. The agent hears of the order with its
next heartbeat (``ORDER`` sets the flag, ``steering`` runs it) and posts once; a post that nobody ordered is refused, so
that orders bound how often there is one. Agents are trusted little: what they send is cut, masked and made visible
again here.
"""

# ruff: noqa: S608 - values are parameters; what is put into the text are constants of ours.

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from isthmus.deployment.errors import PlaneRefusedError, translated
from isthmus.deployment.pooling import Database, json_text
from isthmus.deployment.tables import AGENTS_CHANNEL
from isthmus.kit import lines as texts
from isthmus.kit import logs
from isthmus.wire.agents import MAX_LOG_BYTES, MAX_LOG_LINE
from isthmus.wire.problems import Code

KEPT_SECONDS: Final = 3600.0


@dataclass(frozen=True, slots=True)
class LogTail:
    """What was asked for, and what came: ``received_at`` is None until then."""

    order_id: UUID
    ordered_by: str | None
    ordered_at: datetime
    received_at: datetime | None
    lines: tuple[str, ...]


#: The order ($2, who asked $3) of agent $1, unless one is under way. What was there before is shown until then.
ORDER: Final = f"""
WITH changed AS (
    UPDATE isthmus_agent SET log_order = coalesce(log_order, $2::uuid) WHERE id = $1 RETURNING id, log_order
),
made AS (
    INSERT INTO isthmus_log_tail (agent_id, order_id, ordered_by)
    SELECT id, log_order, $3::text FROM changed
    ON CONFLICT (agent_id) DO UPDATE
        SET order_id = EXCLUDED.order_id, ordered_by = EXCLUDED.ordered_by, ordered_at = now(), received_at = NULL,
            lines = '[]'
        WHERE isthmus_log_tail.order_id <> EXCLUDED.order_id
)
SELECT pg_notify('{AGENTS_CHANNEL}', '') FROM changed
"""

_TAKE: Final = """
WITH answered AS (UPDATE isthmus_agent SET log_order = NULL WHERE id = $1 AND log_order = $2 RETURNING id)
UPDATE isthmus_log_tail AS t SET lines = $3::text::jsonb, received_at = now() FROM answered AS a
WHERE t.agent_id = a.id AND t.order_id = $2 AND t.received_at IS NULL
RETURNING t.agent_id
"""

_FIND: Final = """
SELECT order_id, ordered_by, ordered_at, received_at, lines FROM isthmus_log_tail
WHERE agent_id = $1 AND coalesce(received_at, ordered_at) > now() - $2::float * interval '1 second'
"""

_FORGET: Final = """
WITH gone AS (
    DELETE FROM isthmus_log_tail
    WHERE coalesce(received_at, ordered_at) <= now() - $1::float * interval '1 second' RETURNING agent_id, order_id
)
UPDATE isthmus_agent AS a SET log_order = NULL FROM gone WHERE a.id = gone.agent_id AND a.log_order = gone.order_id
"""


async def take(database: Database, agent_id: UUID, order_id: UUID, lines: Iterable[str]) -> None:
    """Keep what an agent has sent. Raises PlaneRefusedError(LOG_NOT_ASKED), DatabaseError."""
    with translated():
        taken = await database.fetchrow(_TAKE, agent_id, order_id, json_text(_bounded(lines)))
    if taken is None:
        raise PlaneRefusedError(Code.LOG_NOT_ASKED)


async def find(database: Database, agent_id: UUID) -> LogTail | None:
    """What was asked for in the last hour, if anything was. Raises DatabaseError."""
    with translated():
        row = await database.fetchrow(_FIND, agent_id, KEPT_SECONDS)
    if row is None:
        return None
    return LogTail(row["order_id"], row["ordered_by"], row["ordered_at"], row["received_at"], tuple(row["lines"]))


async def forget(database: Database) -> None:
    """Drop what is older than an hour. Raises DatabaseError."""
    with translated():
        await database.execute(_FORGET, KEPT_SECONDS)


def _bounded(lines: Iterable[str]) -> list[str]:
    """The newest lines that fit."""
    kept: list[str] = []
    room = MAX_LOG_BYTES
    for line in reversed(list(lines)):
        text = texts.visible(logs.masked(line))[:MAX_LOG_LINE]
        room -= len(text.encode()) + 1
        if room < 0:
            break
        kept.append(text)
    return kept[::-1]
