"""The loop that ends what nobody ends: leases whose time is over, and rows that nobody will read again.

The plane doubts itself before it doubts an agent: leases are judged only when this process has written heartbeats
without a gap for one whole lease, so that an outage of the plane or of its database ends none. A started task that
still heartbeats to Airflow is kept. Verifications that no agent answers are given up in the same way. Settled
workloads and agents that are long gone are deleted in batches after the retention time.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from isthmus.deployment import leasing, logreads, logshipping, logtails, verifications
from isthmus.deployment.errors import DatabaseError, translated
from isthmus.deployment.leasing import Ended, LeaseTimes
from isthmus.deployment.pooling import Pool
from isthmus.kit.clocks import Clock, SystemClock

log = structlog.get_logger(__name__)

SWEEP_SECONDS: Final = 2.0
FORGET_SECONDS: Final = 60.0
FORGET_BATCH: Final = 1000
SWEEP_BATCH: Final = 500

# What the executor has not taken yet is kept for a second term: its scheduler may be away for long.
_FORGET_WORKLOADS: Final = """
DELETE FROM isthmus_workload WHERE id IN (
    SELECT id FROM isthmus_workload
    WHERE settled_at < now() - $1 * interval '1 hour'
      AND (NOT unseen OR settled_at < now() - 2 * $1 * interval '1 hour')
    ORDER BY settled_at LIMIT $2 FOR UPDATE SKIP LOCKED
)
"""

# A cordoned agent is kept: the operator's word on the name outlives its processes.
_FORGET_AGENTS: Final = """
DELETE FROM isthmus_agent WHERE id IN (
    SELECT id FROM isthmus_agent AS a
    WHERE coalesce(last_heartbeat_at, enrolled_at) < now() - $1 * interval '1 hour' AND NOT cordoned
      AND NOT EXISTS (
          SELECT FROM isthmus_workload AS w WHERE w.agent_id = a.id AND w.state IN ('leased', 'running')
      )
    LIMIT $2 FOR UPDATE SKIP LOCKED
)
"""


@dataclass(frozen=True, slots=True)
class Deleted:
    """What retention removed."""

    workloads: int = 0
    agents: int = 0
    verifications: int = 0
    shipped_logs: int = 0


@dataclass(slots=True)
class ReaperStatistics:
    """What the loop has done since the process began."""

    requeued: int = 0
    lost: int = 0
    kept: int = 0
    deleted_workloads: int = 0
    deleted_agents: int = 0


class Reaper:
    """Ends leases and forgets old rows.

    ``trusted_seconds`` is ``Roster.writable_seconds``, ``healthy_seconds`` the silence that a healthy agent may keep.
    """

    def __init__(
        self,
        pool: Pool,
        times: LeaseTimes,
        *,
        trusted_seconds: Callable[[], float],
        retention_hours: float = 168.0,
        shipped_days: float = 7.0,
        healthy_seconds: float = 30.0,
        clock: Clock | None = None,
    ) -> None:
        self._pool = pool
        self._times = times
        self._trusted_seconds = trusted_seconds
        self._retention_hours = retention_hours
        self._shipped_days = shipped_days
        self._healthy_seconds = healthy_seconds
        self._clock = clock or SystemClock()
        self.statistics = ReaperStatistics()

    async def sweep(self) -> Ended:
        """End the leases whose time is over, as far as the plane may judge now. Raises DatabaseError."""
        trusted = self._trusted_seconds()
        with translated():
            ended = await leasing.expire(
                self._pool,
                self._times,
                leased=trusted >= self._times.lease_seconds,
                running=trusted >= self._times.running_lease_seconds,
                limit=SWEEP_BATCH,
            )
        self.statistics.requeued += ended.requeued
        self.statistics.lost += ended.lost
        self.statistics.kept += ended.kept
        if ended != Ended():
            log.warning("leases ended", requeued=ended.requeued, lost=ended.lost, kept=ended.kept)
        return ended

    async def give_up(self) -> int:
        """Give up the verifications that no agent answers, as far as the plane may judge now. Raises DatabaseError."""
        if self._trusted_seconds() < self._healthy_seconds:
            return 0
        return await verifications.give_up(self._pool, healthy_seconds=self._healthy_seconds)

    async def forget(self, batch: int = FORGET_BATCH) -> Deleted:
        """Delete one batch of what is older than the retention time. Raises DatabaseError."""
        with translated():
            workloads = await self._pool.execute(_FORGET_WORKLOADS, self._retention_hours, batch)
            agents = await self._pool.execute(_FORGET_AGENTS, self._retention_hours, batch)
        await logtails.forget(self._pool)
        await logreads.forget(self._pool)
        deleted = Deleted(
            _count(workloads),
            _count(agents),
            _count(await verifications.forget(self._pool, batch)),
            await logshipping.forget(self._pool, self._shipped_days, batch),
        )
        self.statistics.deleted_workloads += deleted.workloads
        self.statistics.deleted_agents += deleted.agents
        return deleted

    async def run(self) -> None:
        """Sweep every two seconds and forget every minute, through every outage, until cancelled."""
        forgotten_at = self._clock.monotonic()
        while True:
            await self._clock.sleep(SWEEP_SECONDS)
            try:
                await self.sweep()
                await self.give_up()
                if self._clock.monotonic() - forgotten_at >= FORGET_SECONDS:
                    deleted = await self.forget()
                    # A full batch means that there is more: go on with the next sweep.
                    if max(dataclasses.astuple(deleted)) < FORGET_BATCH:
                        forgotten_at = self._clock.monotonic()
            except DatabaseError as error:
                log.debug("leases cannot be judged now", why=str(error))


def _count(status: str) -> int:
    """The number in PostgreSQL's command status, ``DELETE 12``."""
    return int(status.rpartition(" ")[2])
