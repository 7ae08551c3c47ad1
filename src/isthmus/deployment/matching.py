"""Which queued workload goes to which waiting claim: a pure function.

Rows go out by priority, then by age. Each row goes to the claim with the most free slots left among those that serve
its queue, so that work spreads over agents instead of filling the first; among equals to the one that has waited
longest. The cost is O(claims + rows log claims) and touches only claims that serve a queue with rows.

Invariant: no row is matched twice, no claim gets more rows than it has slots or a row of a queue that it did not name,
and no row is left over while a claim that serves its queue has a slot left.
"""

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
    """What matching needs to know of a waiting claim. ``place`` grows with arrival."""

    claim_id: UUID
    agent_id: UUID
    queues: frozenset[str]
    free_slots: int
    place: int = 0


def match(rows: Iterable[QueuedRow], claims: Iterable[Claim]) -> list[tuple[QueuedRow, Claim]]:
    """Pairs of row and claim, in the order in which rows go out."""
    raise NotImplementedError
