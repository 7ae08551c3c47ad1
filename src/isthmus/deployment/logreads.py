"""Task logs on their way from an agent to a reader: the agent's side, in the Remote Execution API.

A reader (``logreading``, in Airflow's API server) writes a row that asks one agent for one log. The agent holds one
long poll, gets the row, and sends the log in chunks; the reader deletes them as it reads. An answer to a chunk waits
until there is room: at most ``WINDOW`` chunks of a read are in the database, whatever its length. Readers and agents
may be at any process of either side, because all that they share is the database (ADR 0019).

Invariants: an agent writes to reads that it has claimed and nobody has ended, in order, and to nothing else; what comes
again changes nothing; what nobody reads is swept a minute after its reader's last sign of life.
"""

# ruff: noqa: S608 - values are parameters; what is put into the text are constants of ours.

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg
import structlog

from isthmus.deployment.errors import DatabaseError, PlaneRefusedError, translated
from isthmus.deployment.pooling import Database, Pool, plain_text
from isthmus.deployment.tables import LOG_READ_CHANNEL
from isthmus.kit.clocks import Clock, SystemClock
from isthmus.wire.problems import Code

log = structlog.get_logger(__name__)

#: Chunks of one read that are in the database at a time: what a reader takes while the next ones travel.
WINDOW: Final = 8
#: How long a chunk's answer waits for room; below what proxies cut.
ROOM_SECONDS: Final = 20.0
#: A reader that has said nothing for so long is dead.
KEPT_SECONDS: Final = 60.0
#: Emptied tables of this size are truncated: what was deleted is still in their files until then.
_TRUNCATED_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Asked:
    """A log that is asked of an agent. ``subject`` is a JSON value."""

    read_id: UUID
    agent_id: UUID
    source: str
    path: str
    subject: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a log, as an agent sent it."""

    sequence: int
    data: bytes
    origin: str = ""
    final: bool = False
    fault: str | None = None
    detail: str = ""


_TAKE: Final = """
UPDATE isthmus_log_read SET claimed_at = now() WHERE id IN (
    SELECT id FROM (
        SELECT id, agent_id, row_number() OVER (PARTITION BY agent_id ORDER BY asked_at) AS place
        FROM isthmus_log_read WHERE claimed_at IS NULL AND expires_at > now() AND agent_id = ANY($1::uuid[])
    ) AS asked JOIN unnest($1::uuid[], $2::int[]) AS waiting(agent_id, free) USING (agent_id)
    WHERE place <= free
) AND claimed_at IS NULL
RETURNING id, agent_id, source, path, subject
"""

# The row is locked by the update, so of two equal chunks one finds the number taken.
_PUT: Final = f"""
WITH read AS (
    UPDATE isthmus_log_read SET sent = sent + 1, ended = $6
    WHERE id = $1 AND agent_id = $2 AND claimed_at IS NOT NULL AND NOT ended AND sent = $3 RETURNING id, sent, taken
),
put AS (
    INSERT INTO isthmus_log_chunk (read_id, sequence, data, origin, final, fault, detail)
    SELECT id, $3, $4::bytea, $5, $6, $7, $8 FROM read
)
SELECT sent - taken AS waiting, pg_notify('{LOG_READ_CHANNEL}' || replace(id::text, '-', ''), '') FROM read
"""

_LOOK: Final = """
SELECT sent, taken, ended FROM isthmus_log_read WHERE id = $1 AND agent_id = $2 AND claimed_at IS NOT NULL
"""

_FORGET: Final = """
WITH gone AS (DELETE FROM isthmus_log_read WHERE expires_at < now() RETURNING id)
DELETE FROM isthmus_log_chunk AS c
WHERE read_id IN (SELECT id FROM gone) OR NOT EXISTS (SELECT FROM isthmus_log_read AS r WHERE r.id = c.read_id)
"""


async def take(database: Database, agent_ids: Sequence[UUID], free: Sequence[int]) -> list[Asked]:
    """The logs that are asked of these agents, as many of each as it has room for. Raises DatabaseError."""
    with translated():
        rows = await database.fetch(_TAKE, list(agent_ids), list(free))
    return [Asked(row["id"], row["agent_id"], row["source"], row["path"], row["subject"]) for row in rows]


async def put(database: Database, agent_id: UUID, read_id: UUID, chunk: Chunk) -> bool:
    """Take a chunk in; whether there is room for the next. One that came before changes nothing.

    Raises PlaneRefusedError(LOG_READ_ENDED), DatabaseError.
    """
    with translated():
        row = await database.fetchrow(
            _PUT,
            read_id,
            agent_id,
            chunk.sequence,
            chunk.data,
            plain_text(chunk.origin),
            chunk.final,
            chunk.fault,
            plain_text(chunk.detail),
        )
        if row is not None:
            return bool(chunk.final or row["waiting"] < WINDOW)
        found = await database.fetchrow(_LOOK, read_id, agent_id)
    if found is None or chunk.sequence >= found["sent"]:
        raise PlaneRefusedError(Code.LOG_READ_ENDED)
    return bool(found["ended"] or found["sent"] - found["taken"] < WINDOW)


async def forget(pool: Pool) -> None:
    """Drop what nobody reads any more, and the remains of what was read. Raises DatabaseError."""
    with translated():
        await pool.execute(_FORGET)
        size = await pool.fetchval("SELECT pg_total_relation_size('isthmus_log_chunk')")
        if size <= _TRUNCATED_BYTES:
            return
        async with pool.acquire() as connection, connection.transaction():
            # Nobody asks meanwhile, and whoever is asking now makes us go away.
            await connection.execute("SET LOCAL lock_timeout = '100ms'")
            try:
                async with connection.transaction():
                    await connection.execute("LOCK TABLE isthmus_log_read, isthmus_log_chunk IN ACCESS EXCLUSIVE MODE")
                    if not await connection.fetchval("SELECT EXISTS (SELECT FROM isthmus_log_read)"):
                        await connection.execute("TRUNCATE isthmus_log_chunk")
            except asyncpg.LockNotAvailableError:
                log.debug("logs are being read: what was read is cleared away later")


class LogDesk:
    """Agents that wait to be asked for logs, and chunks that wait for room; one statement serves all that wait."""

    def __init__(self, pool: Pool, *, clock: Clock | None = None) -> None:
        self._pool = pool
        self._clock = clock or SystemClock()
        self._waiting: dict[UUID, _Waiting] = {}
        self._news = asyncio.Event()
        self._moved = asyncio.Event()
        self._stopping = False

    def asked(self) -> None:
        """A log is asked for."""
        self._news.set()

    def moved(self) -> None:
        """A reader has taken something, or gone."""
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def claim(self, agent_id: UUID, free: int, wait_seconds: float) -> list[Asked]:
        """What is asked of the agent, waiting for it; a newer call of the same agent ends an older one."""
        if self._stopping:
            return []
        waiting = _Waiting(free, asyncio.get_running_loop().create_future())
        older = self._waiting.get(agent_id)
        if older is not None and not older.answer.done():
            older.answer.set_result([])
        self._waiting[agent_id] = waiting
        self._news.set()
        try:
            async with asyncio.timeout(wait_seconds):
                return await asyncio.shield(waiting.answer)
        except TimeoutError:
            return waiting.answer.result() if waiting.answer.done() else []
        finally:
            if self._waiting.get(agent_id) is waiting:
                del self._waiting[agent_id]
            if not waiting.answer.done():
                waiting.answer.cancel()

    async def put(self, agent_id: UUID, read_id: UUID, chunk: Chunk) -> bool:
        """Take a chunk in, and wait until there is room for the next; False when there is none yet.

        Raises PlaneRefusedError(LOG_READ_ENDED), DatabaseError.
        """
        moved = self._moved
        room = await put(self._pool, agent_id, read_id, chunk)
        if room:
            return True
        try:
            async with asyncio.timeout(ROOM_SECONDS):
                while not self._stopping:
                    await moved.wait()
                    moved = self._moved
                    if await put(self._pool, agent_id, read_id, Chunk(chunk.sequence, b"")):
                        return True
        except TimeoutError:
            pass
        return False

    async def run(self) -> None:
        """Give what is asked for to those who wait. Runs until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            waiting = {agent_id: one for agent_id, one in self._waiting.items() if not one.answer.done()}
            if not waiting:
                continue
            try:
                found = await take(self._pool, list(waiting), [one.free for one in waiting.values()])
            except DatabaseError as error:
                log.warning("cannot look for logs that are asked for", error=str(error))
                await self._clock.sleep(1.0)
                self._news.set()
                continue
            for agent_id in {one.agent_id for one in found}:
                answer = waiting[agent_id].answer
                if not answer.done():  # else the agent went away meanwhile, and the reader hears nothing
                    answer.set_result([one for one in found if one.agent_id == agent_id])

    def stop(self) -> None:
        """Answer everybody with nothing, now and from now on."""
        self._stopping = True
        for one in self._waiting.values():
            if not one.answer.done():
                one.answer.set_result([])
        self.moved()


@dataclass(frozen=True, slots=True)
class _Waiting:
    free: int
    answer: "asyncio.Future[list[Asked]]"
