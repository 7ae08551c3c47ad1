"""Loads that wait, and the one loop that hands triggers out.

Each load of an agent waits here without a database connection until the set of its triggers changes. The loop of one
process does a round (``holding``) when a task was deferred through this deployment's Execution API, when an agent comes
or goes, and once a second besides, because the scheduler and Airflow's UI make and end triggers without a word: tasks
that start from a trigger, deadlines, asset watchers, tasks that somebody clears. A round that changes something tells
every process by a notification, and each compares the triggers of its waiting loads with what they have seen: one
statement for all of them. A deployment without triggerers looks once in five seconds.
"""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from isthmus.deployment.errors import DatabaseError, translated
from isthmus.deployment.pooling import Pool
from isthmus.deployment.roster import Agent
from isthmus.deployment.triggers import holding, sharing
from isthmus.deployment.triggers.holding import Patience, Triggerer
from isthmus.kit.clocks import Clock, SystemClock

log = structlog.get_logger(__name__)

#: How often the loop looks without being told, with triggerers and without.
POLL_SECONDS: Final = 1.0
IDLE_SECONDS: Final = 5.0
#: What comes together is one round: a thousand tasks that are deferred at once are a few.
GATHER_SECONDS: Final = 0.03
RETRY_SECONDS: Final = 1.0
FORGET_SECONDS: Final = 600.0
#: The longest that a triggerer needs between the answer to one load and the next: it fetches what is new in between.
LOAD_PAUSE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a triggerer holds. Without a fence it holds nothing, and is not to run anything."""

    fence: int | None = None
    trigger_ids: tuple[int, ...] = ()

    @property
    def revision(self) -> str:
        """Differs when this does."""
        text = f"{self.fence}:{','.join(map(str, self.trigger_ids))}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(slots=True)
class LoadStatistics:
    """What the loop has done since the process began."""

    rounds: int = 0
    assigned: int = 0
    removed: int = 0
    given_up: int = 0
    failed_rounds: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """A load, what its triggerer knows, and the future that its caller awaits."""

    known: Loaded
    answer: asyncio.Future[Loaded]


class Loads:
    """Hands triggers to triggerers. ``trusted_seconds`` is ``Roster.writable_seconds``."""

    def __init__(
        self,
        pool: Pool,
        patience: Patience,
        *,
        trusted_seconds: Callable[[], float],
        clock: Clock | None = None,
    ) -> None:
        self._pool = pool
        self.patience: Final = patience
        self._trusted_seconds = trusted_seconds
        self._clock = clock or SystemClock()
        self._waiting: dict[int, _Waiting] = {}
        self._wake = asyncio.Event()
        self._stopping = False
        self._busy = False
        self.statistics = LoadStatistics()

    async def load(
        self, agent: Agent, capacity: int, bundles: tuple[str, ...], revision: str, wait_seconds: float
    ) -> Loaded:
        """What the agent holds, as soon as it is not what ``revision`` says, or after ``wait_seconds``.

        Raises DatabaseError.
        """
        if agent.draining or agent.phase is not agent.phase.READY:
            return await self._nothing(revision, wait_seconds)
        triggerer = Triggerer(agent.agent_id, agent.instance_id, agent.name, capacity, bundles)
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                fence = await holding.enter(connection, triggerer, f"{agent.name}.isthmus.invalid")
            present = Loaded(fence, (await holding.held(self._pool, [fence])).get(fence, ()))
        if present.revision != revision or self._stopping:
            if not self._busy:  # the first one of all: there may be triggers that wait for it
                self.look()
            return present
        self._answer(fence, present)  # an older load of the same triggerer: nobody reads its answer
        waiting = _Waiting(present, asyncio.get_running_loop().create_future())
        self._waiting[fence] = waiting
        try:
            async with asyncio.timeout(wait_seconds):
                return await waiting.answer
        except TimeoutError:
            return present
        finally:
            if self._waiting.get(fence) is waiting:
                del self._waiting[fence]

    def look(self) -> None:
        """Do a round soon: a task was deferred, an agent came or went, or another process says so."""
        self._wake.set()

    async def run(self) -> None:
        """Do rounds until cancelled, through every outage."""
        forgotten_at = self._clock.monotonic()
        failing = False
        while True:
            try:
                async with asyncio.timeout(POLL_SECONDS if self._busy or self._waiting else IDLE_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass
            await asyncio.sleep(GATHER_SECONDS)
            self._wake.clear()
            try:
                await self.round()
                await self._compare()
                if self._clock.monotonic() - forgotten_at >= FORGET_SECONDS:
                    forgotten_at = self._clock.monotonic()
                    with translated():
                        await holding.forget_events(self._pool)
                failing = False
            except DatabaseError as error:
                self.statistics.failed_rounds += 1
                if not failing:
                    log.warning("triggers cannot be handed out; loads keep waiting", why=str(error))
                failing = True
                await self._clock.sleep(RETRY_SECONDS)

    def stop(self) -> None:
        """Answer all waiting loads as they are, and later ones at once."""
        self._stopping = True
        for fence, waiting in list(self._waiting.items()):
            self._answer(fence, waiting.known)

    async def round(self) -> None:
        """Give up who has gone, remove what nobody waits for, hand out the rest; all in one transaction.

        Does nothing while another process is at it. Raises DatabaseError.
        """
        with translated():
            self._busy = await holding.any_triggerer(self._pool)
            if not self._busy:
                return
            async with self._pool.acquire() as connection, connection.transaction():
                if not await holding.begin(connection):
                    return
                trusted = self._trusted_seconds() >= self.patience.agent_seconds
                ended = await holding.end_lost(connection, self.patience, trusted=trusted)
                await holding.beat(connection)
                removed = await holding.clean(connection)
                takers = await holding.takers(connection, self.patience)
                assigned = 0
                if takers:
                    found = await holding.waiting(connection, takers, self.patience)
                    if shares := sharing.share(found, takers):
                        assigned = await holding.assign(connection, shares)
                if ended.triggerers or removed or assigned:
                    await holding.tell(connection)
        self.statistics.rounds += 1
        self.statistics.assigned += assigned
        self.statistics.removed += removed
        self.statistics.given_up += ended.triggerers
        if ended.triggerers:
            log.info("triggerers have gone", triggerers=ended.triggerers, triggers=ended.triggers)

    async def _compare(self) -> None:
        """Answer the loads whose triggers have changed."""
        asked = dict(self._waiting)
        if not asked:
            return
        with translated():
            held = await holding.held(self._pool, list(asked))
        for fence, waiting in asked.items():
            ids = held.get(fence)
            loaded = Loaded() if ids is None else Loaded(fence, ids)
            if loaded != waiting.known:
                self._answer(fence, loaded)

    def _answer(self, fence: int, loaded: Loaded) -> None:
        waiting = self._waiting.pop(fence, None)
        if waiting is not None and not waiting.answer.done():
            waiting.answer.set_result(loaded)

    async def _nothing(self, revision: str, wait_seconds: float) -> Loaded:
        """The answer to an agent that takes no triggers: at once if that is news to it, else late."""
        nothing = Loaded()
        if revision == nothing.revision and not self._stopping:
            await asyncio.sleep(min(wait_seconds, IDLE_SECONDS))
        return nothing
