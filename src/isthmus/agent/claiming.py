"""Asking for work: one claim open at a time, for as many workloads as there are free slots.

A claim has an id, and a claim whose answer was lost is repeated under it, so that the plane hands out the same leases
again. Nothing is claimed while the agent is not enrolled, has no fork server or no free slot, is cordoned or draining.
When that begins while a claim is open, the claim is broken off, asked for once more without waiting, and what it had
been given goes back to the queue at once, instead of after the lease.
"""

import asyncio
from collections.abc import Callable
from uuid import UUID, uuid4

from isthmus.agent.client import PlaneClient
from isthmus.agent.config import Timing
from isthmus.agent.enrolling import Membership
from isthmus.agent.forkserver import ForkServer
from isthmus.agent.metrics import Metrics
from isthmus.agent.patience import Patience
from isthmus.agent.running import Running
from isthmus.kit.clocks import Clock
from isthmus.kit.errors import IsthmusError
from isthmus.kit.logs import get
from isthmus.wire import workloads
from isthmus.wire.problems import Code
from isthmus.wire.workloads import MAX_CLAIM_WAIT_SECONDS

log = get(component="claiming")


class Claiming:
    """The loop that claims."""

    def __init__(
        self,
        timing: Timing,
        client: PlaneClient,
        membership: Membership,
        *,
        running: Running,
        runner: ForkServer,
        metrics: Metrics,
        clock: Clock,
        stopped: Callable[[], bool],
    ) -> None:
        """``stopped`` says whether the agent must not take more work; call ``look`` when its answer changes."""
        self._client = client
        self._membership = membership
        self._running = running
        self._runner = runner
        self._metrics = metrics
        self._clock = clock
        self._stopped = stopped
        self._patience = Patience(timing, clock)
        self._timing = timing
        self._changed = asyncio.Event()
        self._open: asyncio.Task[workloads.ClaimResponse] | None = None

    @property
    def may_claim(self) -> bool:
        """Whether there is anything to ask for."""
        return (
            not self._stopped()
            and self._membership.enrolled.is_set()
            and self._runner.ready.is_set()
            and self._running.free > 0
        )

    def look(self) -> None:
        """Something has changed that decides whether to claim. Breaks off an open claim that must not be."""
        self._changed.set()
        if self._open is not None and (self._stopped() or not self._runner.ready.is_set()):
            self._open.cancel()

    async def run(self) -> None:
        """Claim whenever it may. Runs until cancelled."""
        while True:
            self._changed.clear()
            if not self.may_claim:
                await self._changed.wait()
                continue
            await self._claim(uuid4())

    async def _claim(self, claim_id: UUID) -> None:
        """One claim, over its repetitions, until it is answered or must not be any more."""
        repeated = False
        while self.may_claim:
            self._open = asyncio.create_task(
                self._client.claim(self._request(claim_id, repeated=repeated)), name="claim"
            )
            try:
                response = await asyncio.shield(self._open)
            except asyncio.CancelledError:
                us = asyncio.current_task()
                if not self._open.cancelled() or (us is not None and us.cancelling()):
                    self._open.cancel()
                    raise  # it is us who are cancelled, not the claim
                await self._collect(claim_id)
                return
            except IsthmusError as error:
                repeated = True
                self._metrics.claims.labels("failed").inc()
                await self._failed(error)
                continue
            finally:
                self._open = None
            self._patience.succeeded()
            self._metrics.claims.labels("leased" if response.workloads else "empty").inc()
            if self._stopped():
                self._running.give_back(response.workloads, "the agent takes no more work")
            else:
                self._running.take(response.workloads)
            return
        if repeated:
            await self._collect(claim_id)  # the answers that were lost may have brought something

    async def _failed(self, error: IsthmusError) -> None:
        wait = self._patience.after(error)
        if error.code == Code.AGENT_UNKNOWN:
            self._membership.forgotten()
        else:
            await self._client.rest(error, wait)

    async def _collect(self, claim_id: UUID) -> None:
        """Give back what an interrupted claim may have been given. One try: a lease that we miss ends by itself."""
        self._metrics.claims.labels("interrupted").inc()
        if not self._membership.enrolled.is_set():
            return
        try:
            response = await self._client.claim(self._request(claim_id, repeated=True, wait_seconds=0.0))
        except IsthmusError as error:
            self._patience.after(error)
            return
        self._running.give_back(response.workloads, "the agent takes no more work")

    def _request(self, claim_id: UUID, *, repeated: bool, wait_seconds: float | None = None) -> workloads.ClaimRequest:
        terms = self._membership.terms
        longest = MAX_CLAIM_WAIT_SECONDS if terms is None else min(terms.claim_wait_seconds, MAX_CLAIM_WAIT_SECONDS)
        return workloads.ClaimRequest(
            agent_id=self._membership.agent_id,
            instance_id=self._membership.instance_id,
            claim_id=claim_id,
            free_slots=max(1, self._running.free),
            wait_seconds=longest if wait_seconds is None else wait_seconds,
            repeated=repeated,
        )
