"""What operators change: an agent's flags, an agent's place on the roster, and the end of a workload.

Each change notifies the agents channel in its transaction, so that the next heartbeat's answer carries it.
"""

# ruff: noqa: S608 - values are parameters; what is put into the text are constants of ours.

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from isthmus.deployment import leasing, logtails, verifications
from isthmus.deployment.errors import PlaneRefusedError, translated
from isthmus.deployment.pooling import Database, Pool, json_text
from isthmus.deployment.roster import HEALTHY_HEARTBEATS
from isthmus.deployment.tables import AGENTS_CHANNEL
from isthmus.wire.agents import Phase
from isthmus.wire.problems import Code


def _flagging(assignments: str) -> str:
    return f"""
    WITH changed AS (UPDATE isthmus_agent SET {assignments} WHERE id = $1 RETURNING id)
    SELECT pg_notify('{AGENTS_CHANNEL}', '') FROM changed
    """


_CORDON: Final = _flagging("cordoned = true")
_UNCORDON: Final = _flagging("cordoned = false, draining = false")
_DRAIN: Final = _flagging("draining = true")

_LOCK_AGENT: Final = """
SELECT name, phase, coalesce(last_heartbeat_at, enrolled_at) > now() - $2 * interval '1 second' AS recent
FROM isthmus_agent WHERE id = $1 FOR UPDATE
"""


async def cordon(database: Database, agent_id: UUID) -> None:
    """No new work for the agent. Raises PlaneRefusedError(AGENT_UNKNOWN), as the next three do, and DatabaseError."""
    await _flag(database, _CORDON, agent_id)


async def uncordon(database: Database, agent_id: UUID) -> None:
    """New work again; takes a drain back as well."""
    await _flag(database, _UNCORDON, agent_id)


async def drain(database: Database, agent_id: UUID) -> None:
    """No new work, and the agent leaves when it has finished. Ends when a new instance of the agent enrols."""
    await _flag(database, _DRAIN, agent_id)


async def order_probes(
    database: Database, agent_id: UUID, order: Mapping[str, Any], *, ordered_by: str | None = None
) -> None:
    """Have the agent run probes and report; ``order`` is a JSON object with an ``order_id``.

    An order that is under way is replaced: its report will say nothing about what is asked now.
    """
    await _flag(database, verifications.ORDER, agent_id, json_text(dict(order)), order["order_id"], ordered_by)


async def order_log(database: Database, agent_id: UUID, order_id: UUID, *, ordered_by: str | None = None) -> None:
    """Have the agent send the end of its log; an order that is under way stays."""
    await _flag(database, logtails.ORDER, agent_id, order_id, ordered_by)


async def remove(pool: Pool, agent_id: UUID, *, heartbeat_seconds: float, force: bool = False) -> None:
    """Strike an agent off the roster; its leases end at once.

    Raises PlaneRefusedError: AGENT_UNKNOWN, or AGENT_BUSY while the agent is healthy, unless forced; DatabaseError.
    """
    with translated():
        async with pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(_LOCK_AGENT, agent_id, HEALTHY_HEARTBEATS * heartbeat_seconds)
            if row is None:
                raise PlaneRefusedError(Code.AGENT_UNKNOWN)
            if row["recent"] and row["phase"] != Phase.LEFT and not force:
                raise PlaneRefusedError(Code.AGENT_BUSY, f"The agent {row['name']!r} is healthy.")
            await leasing.abandon(connection, [agent_id], "The agent was removed while this ran.")
            await connection.execute("DELETE FROM isthmus_agent WHERE id = $1", agent_id)
            await connection.execute("SELECT pg_notify($1, '')", AGENTS_CHANNEL)


async def cancel(pool: Pool, workload_id: UUID) -> bool:
    """Cancel a workload, or ask it to stop if it runs. False when it had ended already.

    Raises PlaneRefusedError(WORKLOAD_NOT_FOUND), DatabaseError.
    """
    with translated():
        if await leasing.cancel(pool, [workload_id]):
            return True
        if not await pool.fetchval("SELECT true FROM isthmus_workload WHERE id = $1", workload_id):
            raise PlaneRefusedError(Code.WORKLOAD_NOT_FOUND)
        return False


async def _flag(database: Database, statement: str, agent_id: UUID, *values: object) -> None:
    with translated():
        if not await database.fetch(statement, agent_id, *values):
            raise PlaneRefusedError(Code.AGENT_UNKNOWN)
