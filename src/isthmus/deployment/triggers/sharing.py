"""Which waiting trigger goes to which triggerer. Pure.

A triggerer takes a trigger when it serves the queue of the trigger's task and has one of its bundles; what has neither
(the trigger of an asset that no DAG names) goes to any. Among those that may take one, the one with the most room left
does, in proportion to what it can hold, so that several share the load and one that came late catches up.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Waiting:
    """A trigger that nobody runs. ``was`` is the dead holder that its row still names."""

    trigger_id: int
    queue: str | None
    bundles: frozenset[str]
    was: int | None = None


@dataclass(frozen=True, slots=True)
class Taker:
    """A triggerer that may take more. No bundles means any."""

    job_id: int
    queues: frozenset[str]
    bundles: frozenset[str]
    capacity: int
    held: int

    def takes(self, trigger: Waiting) -> bool:
        """Whether the trigger is one that this triggerer can run."""
        if trigger.queue is not None and trigger.queue not in self.queues:
            return False
        return not self.bundles or not trigger.bundles or not self.bundles.isdisjoint(trigger.bundles)


@dataclass(frozen=True, slots=True)
class Share:
    """A trigger and who takes it."""

    trigger: Waiting
    job_id: int


def share(triggers: Sequence[Waiting], takers: Iterable[Taker]) -> list[Share]:
    """Who takes what, in the order of ``triggers``: best first. What finds no room is left out."""
    all_takers = {taker.job_id: taker for taker in takers}
    held = {job_id: taker.held for job_id, taker in all_takers.items()}
    # One heap for each kind of trigger: triggers of the same queue and bundles can go to the same triggerers.
    heaps: dict[tuple[str | None, frozenset[str]], list[tuple[float, int]]] = {}
    shares: list[Share] = []
    for trigger in triggers:
        kind = (trigger.queue, trigger.bundles)
        if (heap := heaps.get(kind)) is None:
            heap = heaps[kind] = [(_load(one, held), one.job_id) for one in all_takers.values() if one.takes(trigger)]
            heapq.heapify(heap)
        while heap:
            load, job_id = heap[0]
            taker = all_takers[job_id]
            if held[job_id] >= taker.capacity:
                heapq.heappop(heap)
            elif load < _load(taker, held):  # it has taken some of another kind since
                heapq.heapreplace(heap, (_load(taker, held), job_id))
            else:
                held[job_id] += 1
                heapq.heapreplace(heap, (_load(taker, held), job_id))
                shares.append(Share(trigger, job_id))
                break
    return shares


def _load(taker: Taker, held: dict[int, int]) -> float:
    return held[taker.job_id] / taker.capacity
