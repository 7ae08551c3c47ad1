"""The outcomes that the plane has yet to hear of: kept until it has answered for each.

One request is in flight at a time; what ends meanwhile goes with the next one. An outage only makes the batch longer,
and a lost answer only makes the plane say "duplicate": settling twice does no harm. Whatever the verdict, the lease is
over for us. What the plane refuses as malformed is sent alone, so that it holds up nothing else, and then dropped: a
bug.
"""

import asyncio
from uuid import UUID

from isthmus.agent import conditions
from isthmus.agent.client import PlaneClient, is_not_about_the_call
from isthmus.agent.config import Timing
from isthmus.agent.enrolling import Membership
from isthmus.agent.patience import Patience
from isthmus.kit.clocks import Clock
from isthmus.kit.errors import IsthmusError
from isthmus.kit.health import Health
from isthmus.kit.logs import get
from isthmus.wire import workloads
from isthmus.wire.problems import Code

#: The most that one request may carry (``wire.workloads.SettleRequest``).
_BATCH: int = 1024

#: Between two tries of the last report.
_HURRY_SECONDS: float = 0.25

log = get(component="settling")


class Settling:
    """The loop that settles."""

    def __init__(
        self, timing: Timing, client: PlaneClient, membership: Membership, *, health: Health, clock: Clock
    ) -> None:
        self._client = client
        self._membership = membership
        self._health = health
        self._clock = clock
        self._patience = Patience(timing, clock)
        self._pending: dict[tuple[UUID, int], workloads.Settlement] = {}
        self._due = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._hurried = False
        self._nap: asyncio.Task[None] | None = None
        self._limit = _BATCH

    @property
    def pending(self) -> int:
        """Outcomes that the plane has not acknowledged."""
        return len(self._pending)

    def add(self, settlement: workloads.Settlement) -> None:
        """Have ``settlement`` reported."""
        self._pending[settlement.workload_id, settlement.fence] = settlement
        self._settled.clear()
        self._due.set()

    async def flush(self, seconds: float) -> int:
        """Report everything now, within ``seconds``; how much is left."""
        self._hurried = True
        if self._nap is not None:
            self._nap.cancel()
        await self._clock.wait(self._settled, seconds)
        return len(self._pending)

    async def run(self) -> None:
        """Report what there is. Runs until cancelled."""
        while True:
            await self._due.wait()
            await self._membership.enrolled.wait()
            batch = tuple(self._pending.values())[: self._limit]
            try:
                response = await self._client.settle(
                    workloads.SettleRequest(
                        agent_id=self._membership.agent_id,
                        instance_id=self._membership.instance_id,
                        settlements=batch,
                    )
                )
            except IsthmusError as error:
                wait = self._failed(error, batch)
                if wait:
                    await self._rest(error, wait)
                continue
            self._patience.succeeded()
            self._limit = _BATCH
            for verdict in response.verdicts:
                if verdict.verdict is workloads.SettleVerdict.STALE:
                    log.warning(
                        "the plane had given the lease up", workload_id=str(verdict.workload_id), fence=verdict.fence
                    )
            self._forget(batch)

    def _failed(self, error: IsthmusError, batch: tuple[workloads.Settlement, ...]) -> float:
        """What to do after ``error``; the seconds to wait."""
        wait = self._patience.after(error)
        if error.code == Code.AGENT_UNKNOWN:
            self._membership.forgotten()
            return 0.0
        if is_not_about_the_call(error):
            return wait
        if len(batch) > 1:
            self._limit = 1
            return 0.0
        log.error("the plane does not take an outcome", error=str(error), workload_id=str(batch[0].workload_id))
        self._health.raise_(conditions.SETTLEMENT_REFUSED, f"the plane does not take an outcome: {error}", error.hint)
        self._forget(batch)
        return 0.0

    async def _rest(self, error: IsthmusError, seconds: float) -> None:
        """Wait before the next try; shortly, and in spite of a longer wait, when somebody flushes."""
        self._nap = asyncio.create_task(
            self._client.rest(error, min(seconds, _HURRY_SECONDS) if self._hurried else seconds), name="settle again"
        )
        try:
            await asyncio.wait([self._nap])
        finally:
            self._nap.cancel()
            self._nap = None

    def _forget(self, batch: tuple[workloads.Settlement, ...]) -> None:
        for settlement in batch:
            del self._pending[settlement.workload_id, settlement.fence]
        if not self._pending:
            self._due.clear()
            self._settled.set()
