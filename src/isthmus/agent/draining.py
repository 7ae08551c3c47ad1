"""The end of an agent, in order; README.md has the list.

It begins with a signal or with the plane's command. The command lets running workloads take their time; a signal gives
them ``drain_seconds``; a second signal ends them now. Whatever happens, nothing that was started is left running, and
what became of it is reported if the plane can be reached in time.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from isthmus.agent import conditions
from isthmus.agent.config import Timing
from isthmus.kit.clocks import Clock
from isthmus.kit.health import Health
from isthmus.kit.logs import get
from isthmus.wire import agents

log = get(component="draining")


class Work(Protocol):
    """What finishes by itself, or is killed."""

    @property
    def used(self) -> int:
        """How many are left."""
        ...

    def kill_all(self, reason: str, grace_seconds: float) -> None:
        """End them."""
        ...


class Draining:
    """Knows whether the agent is to end, and ends it."""

    def __init__(
        self,
        timing: Timing,
        *,
        drain_seconds: float,
        kill_grace_seconds: float,
        health: Health,
        clock: Clock,
        begun: Callable[[], None],
    ) -> None:
        """``begun`` is called once, when no more work is to be taken."""
        self._timing = timing
        self._drain_seconds = drain_seconds
        self._grace = kill_grace_seconds
        self._health = health
        self._clock = clock
        self._begun = begun
        self._asked = asyncio.Event()
        self._moved = asyncio.Event()
        self._deadline: float | None = None
        self._hurried = False

    @property
    def phase(self) -> agents.Phase:
        """What the heartbeat says."""
        return agents.Phase.DRAINING if self._asked.is_set() else agents.Phase.READY

    def signalled(self, name: str) -> None:
        """A signal: drain within ``drain_seconds``; a second one: end now."""
        if self._deadline is None:
            self._deadline = self._clock.monotonic() + self._drain_seconds
            log.info("draining", because=name, seconds=self._drain_seconds)
            self._begin()
        elif not self._hurried:
            self._hurried = True
            log.warning("ending now", because=f"a second {name}")
        self._moved.set()

    def commanded(self) -> None:
        """The plane's command: finish what runs, however long it takes, and leave."""
        if not self._asked.is_set():
            log.info("draining", because="the plane's command")
            self._begin()

    def look(self) -> None:
        """Fewer workloads are held."""
        self._moved.set()

    async def run(self, work: Work | None, end: Callable[[], Awaitable[None]]) -> None:
        """Wait to be asked, let ``work`` finish or end it, then ``end`` the rest. Returns when it has ended."""
        await self._asked.wait()
        if work is not None:
            await self._finish(work)
            await self._kill(work)
        await end()

    def _begin(self) -> None:
        if not self._asked.is_set():
            self._asked.set()
            self._health.raise_(conditions.DRAINING, "the agent drains: it takes no new work")
            self._begun()

    async def _finish(self, work: Work) -> None:
        """Until nothing runs, the deadline has come, or there was a second signal."""
        while work.used and not self._hurried:
            self._moved.clear()
            left = None if self._deadline is None else self._deadline - self._clock.monotonic()
            if left is not None and left <= 0:
                return
            await self._clock.wait(self._moved, left)

    async def _kill(self, work: Work) -> None:
        """End what still runs; a second signal takes its grace away."""
        if not work.used:
            return
        graceful = not self._hurried
        grace = self._grace if graceful else 0.0
        work.kill_all("the agent was stopped", grace)
        until = self._clock.monotonic() + grace + self._timing.reaping
        while work.used and (left := until - self._clock.monotonic()) > 0:
            self._moved.clear()
            await self._clock.wait(self._moved, left)
            if self._hurried and graceful:
                graceful = False
                work.kill_all("the agent was stopped", 0.0)
                until = self._clock.monotonic() + self._timing.reaping
