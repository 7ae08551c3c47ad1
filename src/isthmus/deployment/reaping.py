"""The loop that ends what nobody ends: leases whose time is over, and rows that nobody will read again.

The plane doubts itself before it doubts an agent: leases are judged only when this process has written heartbeats without a
gap for one whole lease, so that an outage of the plane or of its database ends none. A started task that still heartbeats to
Airflow is kept. Settled workloads and agents that are long gone are deleted in batches after the retention time.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from isthmus.deployment.leasing import Ended, LeaseTimes
from isthmus.deployment.pooling import Pool
from isthmus.kit.clocks import Clock, SystemClock


@dataclass(frozen=True, slots=True)
class Deleted:
    """What retention removed."""

    workloads: int = 0
    agents: int = 0


@dataclass(slots=True)
class ReaperStatistics:
    """What the loop has done since the process began."""

    requeued: int = 0
    lost: int = 0
    kept: int = 0
    deleted_workloads: int = 0
    deleted_agents: int = 0


class Reaper:
    """Ends leases and forgets old rows."""

    def __init__(
        self,
        pool: Pool,
        times: LeaseTimes,
        *,
        trusted_seconds: Callable[[], float],
        retention_hours: float = 168.0,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self.statistics = ReaperStatistics()

    async def sweep(self) -> Ended:
        """End the leases whose time is over, as far as the plane may judge now. Raises DatabaseError."""
        raise NotImplementedError

    async def forget(self, batch: int = 1000) -> Deleted:
        """Delete one batch of what is older than the retention time. Raises DatabaseError."""
        raise NotImplementedError

    async def run(self) -> None:
        """Sweep every two seconds and forget every minute, through every outage, until cancelled."""
        raise NotImplementedError
