"""Taking in the logs of tasks that have ended, to be kept when their agent is gone (ADR 0022).

A log is kept for each workload that wrote it: an agent adds to those of task workloads that it has started, and to
nothing else. Parts follow each other by their offset in the file. One that does not fit changes nothing, and the answer
says where the next one begins: that is how an agent goes on after an outage, a lost answer or a restart.

Invariant: the parts of a log are its file from the first byte on, without a gap, up to ``MAX_LOG_BYTES``.
"""

from typing import Final
from uuid import UUID

from isthmus.deployment.errors import PlaneRefusedError, translated
from isthmus.deployment.logreading import unpacked
from isthmus.deployment.pooling import Pool
from isthmus.wire.logs import LogShipmentResponse
from isthmus.wire.problems import Code

#: Of one log, before compression; the beginning is kept. Some 200,000 lines: a hundred such logs are a few hundred MB.
MAX_LOG_BYTES: Final = 32 * 1024 * 1024

_BEGIN: Final = """
INSERT INTO isthmus_shipped_log (workload_id, subject_id, agent_id, agent_name)
SELECT w.id, w.subject_id, a.id, a.name FROM isthmus_workload AS w JOIN isthmus_agent AS a ON a.id = w.agent_id
WHERE w.id = $1 AND a.id = $2 AND w.kind = 'task' AND w.started_at IS NOT NULL
ON CONFLICT (workload_id) DO NOTHING
"""

_LOCK: Final = """
SELECT size, complete FROM isthmus_shipped_log WHERE workload_id = $1 AND agent_id = $2 FOR UPDATE
"""

_PUT: Final = "INSERT INTO isthmus_shipped_log_part (workload_id, start, data) VALUES ($1, $2, $3)"

_MOVE: Final = "UPDATE isthmus_shipped_log SET size = $2, complete = $3, cut = $4 WHERE workload_id = $1"

_FORGET: Final = """
DELETE FROM isthmus_shipped_log WHERE workload_id IN (
    SELECT workload_id FROM isthmus_shipped_log WHERE begun_at < now() - $1 * interval '1 day'
    ORDER BY begun_at LIMIT $2 FOR UPDATE SKIP LOCKED
)
"""


async def take(
    pool: Pool, agent_id: UUID, workload_id: UUID, offset: int, data: bytes, *, end: bool
) -> LogShipmentResponse:
    """Add a part to the log of a workload, if it is the next one; where the next one begins.

    Raises PlaneRefusedError(WORKLOAD_NOT_FOUND) for a workload that the agent has not run,
    PlaneRefusedError(REQUEST_INVALID) for data that does not unpack to what a part may be, DatabaseError.
    """
    try:
        length = len(unpacked(data))
    except ValueError as error:
        raise PlaneRefusedError(Code.REQUEST_INVALID, f"The data is no part of a log: {error}.") from None
    with translated():
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute(_BEGIN, workload_id, agent_id)
            found = await connection.fetchrow(_LOCK, workload_id, agent_id)
            if found is None:
                raise PlaneRefusedError(Code.WORKLOAD_NOT_FOUND, "The agent has started no such task.")
            size: int = found["size"]
            if found["complete"] or offset != size:
                return LogShipmentResponse(offset=size, complete=found["complete"])
            cut = size + length > MAX_LOG_BYTES
            if length and not cut:
                await connection.execute(_PUT, workload_id, size, data)
                size += length
            await connection.execute(_MOVE, workload_id, size, end or cut, cut)
    return LogShipmentResponse(offset=size, complete=end or cut)


async def forget(pool: Pool, days: float, batch: int) -> int:
    """Delete one batch of logs that are older; how many. Raises DatabaseError."""
    with translated():
        status = await pool.execute(_FORGET, days, batch)
    return int(status.rpartition(" ")[2])
