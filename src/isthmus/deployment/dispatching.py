"""Claims that wait, and the one loop that gives them work.

Every claim of every agent of this process waits here without a database connection. The loop runs a round when a
notification says that work was queued, or when a claim arrives for a queue that the last round did not exhaust: one
transaction that locks queued rows of the wanted queues, matches them (``matching``), and leases them. An idle plane
asks the database once in five seconds, whatever the number of agents.

Invariants: a row that was leased to a claim whose client has gone is given back at once; an agent has one waiting
claim, and a newer one answers the older with nothing; a claim whose round ended in doubt (the database went away)
fails, and its repetition finds what was leased.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final
from uuid import UUID

import structlog

from isthmus.deployment import leasing, matching
from isthmus.deployment.errors import DatabaseError, translated
from isthmus.deployment.leasing import Lease, LeasedRow, LeaseTimes
from isthmus.deployment.matching import Claim
from isthmus.deployment.pooling import Pool
from isthmus.kit.clocks import Clock, SystemClock

log = structlog.get_logger(__name__)

#: How often the loop looks without being told, for notifications that were missed.
SAFETY_SECONDS: Final = 5.0
#: Rows of one queue in one round; more rounds follow at once. Bounds the time that rows are locked.
ROUND_ROWS: Final = 500
RETRY_SECONDS: Final = (0.05, 2.0)
#: A claim waits at least this long, so that one that does not want to wait is looked after once.
LEAST_WAIT_SECONDS: Final = 0.25


@dataclass(slots=True)
class DispatchStatistics:
    """What the loop has done since the process began."""

    rounds: int = 0
    leased: int = 0
    given_back: int = 0
    failed_rounds: int = 0
    last_round_seconds: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """A claim and the future that its caller awaits."""

    claim: Claim
    answer: asyncio.Future[list[LeasedRow]]


class _Registry:
    """The waiting claims, by agent and by queue, with the slots that each queue could fill."""

    def __init__(self) -> None:
        self.slots: Counter[str] = Counter()
        self._by_agent: dict[UUID, _Waiting] = {}
        self._by_queue: dict[str, dict[int, _Waiting]] = {}

    def __len__(self) -> int:
        return len(self._by_agent)

    def add(self, waiting: _Waiting) -> None:
        claim = waiting.claim
        self._by_agent[claim.agent_id] = waiting
        for queue in claim.queues:
            self.slots[queue] += claim.free_slots
            self._by_queue.setdefault(queue, {})[claim.place] = waiting

    def discard(self, waiting: _Waiting) -> None:
        claim = waiting.claim
        if self._by_agent.get(claim.agent_id) is not waiting:
            return
        del self._by_agent[claim.agent_id]
        for queue in claim.queues:
            self.slots[queue] -= claim.free_slots
            places = self._by_queue[queue]
            del places[claim.place]
            if not places:
                del self._by_queue[queue], self.slots[queue]

    def of_agent(self, agent_id: UUID) -> _Waiting | None:
        return self._by_agent.get(agent_id)

    def of_queues(self, queues: Iterable[str]) -> dict[int, _Waiting]:
        """The claims that serve any of the queues, by place."""
        found: dict[int, _Waiting] = {}
        for queue in queues:
            found |= self._by_queue.get(queue, {})
        return found

    def all(self) -> list[_Waiting]:
        return list(self._by_agent.values())


class Dispatcher:
    """Hands out queued workloads to waiting claims."""

    def __init__(self, pool: Pool, times: LeaseTimes, *, clock: Clock | None = None) -> None:
        self._pool = pool
        self._times = times
        self._clock = clock or SystemClock()
        self._registry = _Registry()
        self._places = count(1)
        self._wake = asyncio.Event()
        #: Queues of which the last round found the end. A notification empties the set.
        self._exhausted: set[str] = set()
        #: Grows with every notification: a round that was overtaken by one has not found the end of anything.
        self._notifications = 0
        self._in_round = asyncio.Lock()
        self._stopping = False
        self._giving_back: set[asyncio.Task[None]] = set()
        self.statistics = DispatchStatistics()

    @property
    def waiting(self) -> int:
        """How many claims wait now."""
        return len(self._registry)

    async def claim(
        self,
        agent_id: UUID,
        queues: Iterable[str],
        claim_id: UUID,
        free_slots: int,
        wait_seconds: float,
        *,
        repeated: bool = False,
    ) -> list[LeasedRow]:
        """Work for the agent; empty after ``wait_seconds`` without any, or when the claim is withdrawn.

        Cancelling the calling task withdraws the claim and gives back what was leased to it. An agent that takes no
        work (cordoned, draining) must not get here. Raises DatabaseError: repeat the claim with ``repeated``.
        """
        self.withdraw(agent_id)
        if repeated:
            with translated():
                leased = await leasing.repeat(self._pool, agent_id, claim_id, self._times)
            if leased:
                return leased
            self.withdraw(agent_id)  # one that came while the database was asked
        if self._stopping:
            return []
        claim = Claim(claim_id, agent_id, frozenset(queues), free_slots, next(self._places))
        waiting = _Waiting(claim, asyncio.get_running_loop().create_future())
        self._registry.add(waiting)
        if not claim.queues <= self._exhausted:
            self._wake.set()
        try:
            async with asyncio.timeout(max(wait_seconds, LEAST_WAIT_SECONDS)):
                return await waiting.answer
        except TimeoutError:
            return self._answered(waiting)
        except asyncio.CancelledError:
            self.give_back(self._answered(waiting))
            raise
        finally:
            self._registry.discard(waiting)

    def withdraw(self, agent_id: UUID) -> None:
        """Answer the agent's waiting claim with nothing, now."""
        if (waiting := self._registry.of_agent(agent_id)) is not None:
            self._registry.discard(waiting)
            if not waiting.answer.done():
                waiting.answer.set_result([])

    def give_back(self, rows: Sequence[LeasedRow]) -> None:
        """Release at once what nobody will start, as when an answer cannot be delivered; in a task of its own.

        If that fails, the leases end by themselves.
        """
        if not rows:
            return
        self.statistics.given_back += len(rows)
        task = asyncio.get_running_loop().create_task(
            self._release([row.lease for row in rows]), name="dispatching.give_back"
        )
        self._giving_back.add(task)
        task.add_done_callback(self._giving_back.discard)

    def notify(self) -> None:
        """Callback of the queued channel: work may have been queued."""
        self._notifications += 1
        self._exhausted.clear()
        if self._registry:
            self._wake.set()

    async def run(self) -> None:
        """Run rounds until cancelled, through every outage."""
        least, most = RETRY_SECONDS
        pause = least
        while True:
            try:
                async with asyncio.timeout(SAFETY_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                self._exhausted.clear()
            self._wake.clear()
            try:
                while await self._round():
                    pass
                pause = least
            except DatabaseError as error:
                if pause == least:
                    log.warning("the queue cannot be read; claims keep waiting", why=str(error))
                self.statistics.failed_rounds += 1
                self._wake.set()
                await self._clock.sleep(pause)
                pause = min(most, pause * 2)

    async def stop(self) -> None:
        """Answer all waiting claims with nothing, and every later one at once; wait for the round that runs."""
        self._stopping = True
        for waiting in self._registry.all():
            self.withdraw(waiting.claim.agent_id)
        async with self._in_round:
            pass
        while self._giving_back:
            await asyncio.gather(*self._giving_back, return_exceptions=True)

    async def _round(self) -> bool:
        """Give waiting claims what is queued. Returns whether there may be more to give at once."""
        wanted = {
            queue: min(slots, ROUND_ROWS)
            for queue, slots in self._registry.slots.items()
            if slots > 0 and queue not in self._exhausted
        }
        if not wanted:
            return False
        before = self._notifications
        begun = self._clock.monotonic()
        async with self._in_round:
            found = await self._lease(wanted)
        self.statistics.rounds += 1
        self.statistics.last_round_seconds = self._clock.monotonic() - begun
        if self._notifications == before:
            self._exhausted.update(queue for queue, slots in wanted.items() if found[queue] < slots)
        return True

    async def _lease(self, wanted: dict[str, int]) -> Counter[str]:
        """One transaction: lock, match, lease. Answers the claims, and returns how many rows each queue had."""
        matched: dict[int, _Waiting] = {}
        leased: list[LeasedRow] = []
        try:
            with translated():
                async with self._pool.acquire() as connection, connection.transaction():
                    rows = await leasing.select_queued(connection, wanted)
                    found = Counter(row.queue for row in rows)
                    if not rows:
                        return found
                    candidates = self._registry.of_queues(found)
                    pairs = matching.match(rows, (waiting.claim for waiting in candidates.values()))
                    matched = {claim.place: candidates[claim.place] for _, claim in pairs}
                    if pairs:
                        leased = await leasing.claim(connection, pairs, self._times)
                    if len(leased) < len(rows):
                        await leasing.leave_queued(connection)
        except DatabaseError as error:
            # Whether the commit arrived is not known: the repeated claim will tell.
            for waiting in matched.values():
                self._registry.discard(waiting)
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            raise
        self._answer(matched, leased)
        return found

    def _answer(self, matched: dict[int, _Waiting], leased: Sequence[LeasedRow]) -> None:
        by_claim: dict[UUID, list[LeasedRow]] = {}
        for row in leased:
            by_claim.setdefault(row.claim_id, []).append(row)
        for waiting in matched.values():
            rows = by_claim.get(waiting.claim.claim_id, [])
            self._registry.discard(waiting)
            if waiting.answer.done():  # withdrawn, or its client went away
                self.give_back(rows)
            else:
                # Without rows the agent takes no work any more, or has just been removed: it shall ask again.
                waiting.answer.set_result(rows)
                self.statistics.leased += len(rows)

    def _answered(self, waiting: _Waiting) -> list[LeasedRow]:
        """What the claim was given at the very moment at which its caller gave up."""
        answer = waiting.answer
        if answer.done() and not answer.cancelled() and answer.exception() is None:
            return answer.result()
        answer.cancel()
        return []

    async def _release(self, leases: Sequence[Lease]) -> None:
        with contextlib.suppress(DatabaseError), translated():
            await leasing.release(self._pool, leases)
