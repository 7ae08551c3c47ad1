"""Staying in touch: what we hold and how we are, and the plane's commands in return.

A loop of its own, which shares no request and no wait with work, so that a slow claim cannot make the agent look dead.
The commands are states, not events: they are applied each time that they come.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from isthmus.agent import conditions
from isthmus.agent.client import PlaneClient
from isthmus.agent.config import Timing
from isthmus.agent.enrolling import Membership
from isthmus.agent.patience import Patience
from isthmus.agent.tailing import Tailing
from isthmus.agent.verifying import Verifying
from isthmus.kit.clocks import Clock
from isthmus.kit.errors import IsthmusError
from isthmus.kit.health import Health
from isthmus.kit.logs import get
from isthmus.wire import agents
from isthmus.wire.problems import Code

log = get(component="heartbeating")

#: The most that one heartbeat may carry (``wire.agents.HeartbeatRequest``).
_WARNINGS: int = 32


class Holder(Protocol):
    """Who holds what the heartbeat reports."""

    @property
    def used(self) -> int:
        """Slots that are taken."""
        ...

    def leases(self) -> tuple[agents.HeldLease, ...]:
        """The leases that are held."""
        ...

    def kill(self, reference: agents.LeaseReference, reason: str) -> None:
        """End what runs under a lease."""
        ...


class Heartbeating:
    """The loop that heartbeats."""

    def __init__(
        self,
        timing: Timing,
        client: PlaneClient,
        membership: Membership,
        *,
        running: Holder,
        health: Health,
        clock: Clock,
        phase: Callable[[], agents.Phase],
        drain: Callable[[], None],
        steered: Callable[[], None],
        verifying: Verifying,
        tailing: Tailing,
    ) -> None:
        """``drain`` is called when the plane says so, ``steered`` when ``cordoned`` has changed."""
        self._timing = timing
        self._client = client
        self._membership = membership
        self._running = running
        self._health = health
        self._clock = clock
        self._phase = phase
        self._drain = drain
        self._steered = steered
        self._verifying = verifying
        self._tailing = tailing
        self._patience = Patience(timing, clock)
        self._poked = asyncio.Event()
        #: The plane's word: no new work.
        self.cordoned = False
        #: On the monotonic clock; None before the first.
        self.last_answered: float | None = None

    def poke(self) -> None:
        """Something has changed that the plane should see soon."""
        self._poked.set()

    async def run(self) -> None:
        """Heartbeat as often as the plane wants it. Runs until cancelled."""
        while True:
            await self._membership.enrolled.wait()
            self._poked.clear()
            wait = await self._beat()
            least = min(wait, self._timing.heartbeat_least)
            await self._clock.sleep(least)
            await self._clock.wait(self._poked, wait - least)

    async def farewell(self, seconds: float) -> bool:
        """The last heartbeat: nothing is held any more. Whether the plane has heard it."""
        if not self._membership.enrolled.is_set():
            return False
        try:
            async with asyncio.timeout(seconds):
                await self._client.heartbeat(self._request(agents.Phase.LEFT))
        except (IsthmusError, TimeoutError) as error:
            log.warning("the plane did not hear that the agent left", error=str(error))
            return False
        return True

    async def _beat(self) -> float:
        """One heartbeat; the seconds until the next."""
        terms = self._membership.terms
        usual = terms.heartbeat_seconds if terms is not None else 10.0
        request = self._request(self._phase())
        try:
            response = await self._client.heartbeat(request)
        except IsthmusError as error:
            wait = self._patience.after(error)
            if error.code == Code.AGENT_UNKNOWN:
                log.warning("the plane does not know this agent any more")
                self._membership.forgotten()
                return 0.0
            # The agent's only sign of life: tried at least as often as when all is well.
            await self._client.rest(error, min(wait, usual) if error.retryable else wait)
            return 0.0
        self._patience.succeeded()
        self.last_answered = self._clock.monotonic()
        if request.probe_report is not None:
            self._verifying.heard(request.probe_report)
        self._obey(response)
        return response.heartbeat_seconds

    def _request(self, phase: agents.Phase) -> agents.HeartbeatRequest:
        return agents.HeartbeatRequest(
            agent_id=self._membership.agent_id,
            instance_id=self._membership.instance_id,
            phase=phase,
            slots_used=self._running.used,
            leases=self._running.leases(),
            warnings=tuple(conditions.to_wire(one) for one in self._health.visible()[:_WARNINGS]),
            probe_report=self._verifying.report,
        )

    def _obey(self, response: agents.HeartbeatResponse) -> None:
        for reference in response.lost:
            self._running.kill(reference, "the plane had given the lease up")
        for reference in response.cancel:
            self._running.kill(reference, "cancelled")
        if response.cordoned != self.cordoned:
            self.cordoned = response.cordoned
            if response.cordoned:
                self._health.raise_(conditions.CORDONED, "the agent is cordoned: it takes no new work")
            else:
                self._health.clear(conditions.CORDONED)
            self._steered()
        if response.probes is not None:
            self._verifying.ordered(response.probes)
        if response.fetch_log is not None:
            self._tailing.ordered(response.fetch_log)
        if response.drain:
            self._drain()
