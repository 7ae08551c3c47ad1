"""Which queued workload goes to which waiting claim: a pure function.

Rows go out by priority, then by age. Each row goes to the claim with the most free slots left among those that serve
its queue, so that work spreads over agents instead of filling the first; among equals to the one that has waited
longest. The cost is O(claims + rows log claims).

Invariant: no row is matched twice, no claim gets more rows than it has slots or a row of a queue that it did not name,
and no row is left over while a claim that serves its queue has a slot left.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True)
class QueuedRow:
    """What matching needs to know of a queued workload."""

    workload_id: UUID
    queue: str
    priority: int
    queued_at: datetime


@dataclass(frozen=True, slots=True)
class Claim:
    """What matching needs to know of a waiting claim. ``place`` grows with arrival and is its own for each claim."""

    claim_id: UUID
    agent_id: UUID
    queues: frozenset[str]
    free_slots: int
    place: int = 0


def match(rows: Iterable[QueuedRow], claims: Iterable[Claim]) -> list[tuple[QueuedRow, Claim]]:
    """Pairs of row and claim, in the order in which rows go out."""
    in_order = sorted(rows, key=lambda row: (-row.priority, row.queued_at, row.workload_id))
    free: dict[int, int] = {}
    # One heap per queue. A claim that serves several queues is in several heaps; an entry whose number of free slots
    # is out of date is put right when it comes up.
    heaps: dict[str, list[tuple[int, int, Claim]]] = {row.queue: [] for row in in_order}
    for claim in claims:
        if claim.free_slots <= 0:
            continue
        for queue in claim.queues:
            if queue in heaps:
                heaps[queue].append((-claim.free_slots, claim.place, claim))
                free[claim.place] = claim.free_slots
    for heap in heaps.values():
        heapq.heapify(heap)
    pairs: list[tuple[QueuedRow, Claim]] = []
    for row in in_order:
        taker = _take(heaps[row.queue], free)
        if taker is not None:
            pairs.append((row, taker))
    return pairs


def _take(heap: list[tuple[int, int, Claim]], free: dict[int, int]) -> Claim | None:
    """The claim with the most free slots, which has one less now."""
    while heap:
        seen, place, claim = heap[0]
        left = free[place]
        if left == 0:
            heapq.heappop(heap)
        elif -seen != left:
            heapq.heapreplace(heap, (-left, place, claim))
        else:
            free[place] = left - 1
            if left == 1:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (1 - left, place, claim))
            return claim
    return None
