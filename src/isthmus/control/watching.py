"""The loop that looks at every link: one named loop, each link in its own time, failures with a backoff of their own.

It is woken when an operator has written something down, and looks by itself every ``look_seconds`` because clouds do
not call back.
"""

import asyncio
from typing import Final

import structlog

from isthmus.control import changing, conditions, links
from isthmus.control.carrying import Carrier
from isthmus.control.databases import Database
from isthmus.control.errors import DatabaseError
from isthmus.control.links import Link
from isthmus.kit.backoffs import Backoff, BackoffConfig
from isthmus.kit.clocks import Clock
from isthmus.kit.errors import IsthmusError
from isthmus.kit.health import Health

#: A cloud that is away, or refuses, is asked again after seconds and then minutes; never given up, never hammered.
_PATIENCE: Final = BackoffConfig(first_seconds=1.0, longest_seconds=300.0)
#: So many links are looked at at a time: the resource manager allows some hundred calls a minute.
_AT_ONCE: Final = 8

log = structlog.get_logger(__name__)


class Watch:
    """Looks after all links."""

    def __init__(
        self, database: Database, carrier: Carrier, health: Health, clock: Clock, *, look_seconds: float
    ) -> None:
        self._database = database
        self._carrier = carrier
        self._health = health
        self._clock = clock
        self._look_seconds = look_seconds
        self._woken = asyncio.Event()
        #: Clusters whose link is being carried, and the tasks of these, which go on a little longer (``_follow_up``).
        self._under_way: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._backoffs: dict[str, Backoff] = {}
        self._not_before: dict[str, tuple[float, int]] = {}
        self._failures: dict[str, IsthmusError] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self.looks = 0

    def wake(self) -> None:
        """Look again soon."""
        self._woken.set()

    async def run(self) -> None:
        """Look until cancelled."""
        try:
            while True:
                self._woken.clear()
                await self._round()
                await self._clock.wait(self._woken, self._look_seconds)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _round(self) -> None:
        try:
            async with self._database.begin() as database:
                await changing.settle_lost(database)
                found = list(await links.all_of_them(database))
        except DatabaseError as error:
            self._health.raise_(conditions.DATABASE, error.summary, error.hint)
            return
        self._health.clear(conditions.DATABASE)
        present = {one.cluster_id for one in found}
        for gone in self._failures.keys() - present:
            del self._failures[gone]
        for one in found:
            if one.cluster_id not in self._under_way and self._is_due(one):
                task = asyncio.create_task(self._carry(one), name=f"link of {one.cluster_id}")
                self._under_way.add(one.cluster_id)
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        conditions.show(self._health, found, self._failures)

    def _is_due(self, link: Link) -> bool:
        """Whether its backoff is over. A changed wish is tried at once."""
        when, version = self._not_before.get(link.cluster_id, (0.0, -1))
        return version != link.version or self._clock.monotonic() >= when

    async def _carry(self, link: Link) -> None:
        backoff = self._backoffs.setdefault(link.cluster_id, Backoff(_PATIENCE, self._clock))
        try:
            async with self._slots:
                await self._carrier.carry_link(link)
        except IsthmusError as error:
            pause = backoff.failed()
            self._not_before[link.cluster_id] = (self._clock.monotonic() + pause, link.version)
            if not isinstance(error, DatabaseError):
                self._failures[link.cluster_id] = error
            log.warning("a link is not as it should be", cluster_id=link.cluster_id, why=str(error), again_in=pause)
        except Exception:
            # A bug in the way one link is looked after must not end that of the others, nor be silent.
            pause = backoff.failed()
            self._not_before[link.cluster_id] = (self._clock.monotonic() + pause, link.version)
            log.exception("looking after a link failed", cluster_id=link.cluster_id)
        else:
            backoff.succeeded()
            self._not_before.pop(link.cluster_id, None)
            self._failures.pop(link.cluster_id, None)
        finally:
            self.looks += 1
            self._under_way.discard(link.cluster_id)
        await self._follow_up(link)

    async def _follow_up(self, link: Link) -> None:
        """Show what came of it, and look again at once if a wish was written down meanwhile."""
        try:
            async with self._database.begin() as database:
                found = list(await links.all_of_them(database))
        except DatabaseError:
            return
        conditions.show(self._health, found, self._failures)
        if any(one.cluster_id == link.cluster_id and one.version != link.version for one in found):
            self.wake()
