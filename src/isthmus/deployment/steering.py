"""What operators change: an agent's flags, an agent's place on the roster, and the end of a workload.

Each change notifies the agents channel, so that the next heartbeat's answer carries it.
"""

from uuid import UUID

from isthmus.deployment.pooling import Database, Pool


async def cordon(database: Database, agent_id: UUID) -> None:
    """No new work for the agent. Raises PlaneRefusedError(AGENT_UNKNOWN), as the next two do."""
    raise NotImplementedError


async def uncordon(database: Database, agent_id: UUID) -> None:
    """New work again; takes a drain back as well."""
    raise NotImplementedError


async def drain(database: Database, agent_id: UUID) -> None:
    """No new work, and the agent leaves when it has finished. Ends when a new instance of the agent enrols."""
    raise NotImplementedError


async def remove(pool: Pool, agent_id: UUID, *, heartbeat_seconds: float, force: bool = False) -> None:
    """Strike an agent off the roster; its leases end at once.

    Raises PlaneRefusedError: AGENT_UNKNOWN, or AGENT_BUSY while the agent is healthy, unless forced.
    """
    raise NotImplementedError


async def cancel(pool: Pool, workload_id: UUID) -> bool:
    """Cancel a workload, or ask it to stop if it runs. False when it had ended already.

    Raises PlaneRefusedError(WORKLOAD_NOT_FOUND).
    """
    raise NotImplementedError
