"""Claims that wait, and the one loop that gives them work.

Every claim of every agent of this process waits here without a database connection. The loop runs a round when a
notification says that work was queued, or when a claim arrives for a queue that the last round did not exhaust: one
transaction that locks queued rows of the wanted queues, matches them (``matching``), and leases them. An idle plane asks the
database once in five seconds, whatever the number of agents.

Invariants: a row that was leased to a claim whose client has gone is given back at once; an agent has one waiting claim,
and a newer one answers the older with nothing; a claim whose round ended in doubt (the database went away) fails, and its
repetition finds what was leased.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from uuid import UUID

from isthmus.deployment.leasing import LeasedRow, LeaseTimes
from isthmus.deployment.pooling import Pool
from isthmus.kit.clocks import Clock, SystemClock


@dataclass(slots=True)
class DispatchStatistics:
    """What the loop has done since the process began."""

    rounds: int = 0
    leased: int = 0
    given_back: int = 0
    failed_rounds: int = 0
    last_round_seconds: float = 0.0


class Dispatcher:
    """Hands out queued workloads to waiting claims."""

    def __init__(self, pool: Pool, times: LeaseTimes, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self.statistics = DispatchStatistics()

    @property
    def waiting(self) -> int:
        """How many claims wait now."""
        raise NotImplementedError

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
        raise NotImplementedError

    def withdraw(self, agent_id: UUID) -> None:
        """Answer the agent's waiting claim with nothing, now."""
        raise NotImplementedError

    def notify(self) -> None:
        """Callback of the queued channel: work may have been queued."""
        raise NotImplementedError

    async def run(self) -> None:
        """Run rounds until cancelled, through every outage."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Answer all waiting claims with nothing, and every later one at once; wait for the round that runs."""
        raise NotImplementedError
