"""The life of a lease in SQL: many rows a statement, each following ``workloads.transition``.

A lease is (workload, fence): the fence grows by one with every claim, and a report with an older one changes nothing. All times
are the database's. Each function is one transaction of its own when it is given the pool, and part of the caller's when
it is given a connection. Settlements, losses and cancellations set ``unseen`` and notify the scheduler in the same transaction;
whatever goes back to the queue notifies the dispatchers.

Invariants: a workload has at most one holder; a lease is confirmed to one holder only; every workload that is leased or
running has a lease that ends, so none can get stuck.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from isthmus.deployment.matching import Claim, QueuedRow
from isthmus.deployment.pooling import Connection, Database
from isthmus.wire.names import Kind
from isthmus.wire.workloads import Outcome, SettleVerdict


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """How long leases last, in seconds. A lease is extended by heartbeats."""

    lease_seconds: float = 30.0
    running_lease_seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class Lease:
    """A reference to a lease, as agents report it."""

    workload_id: UUID
    fence: int


@dataclass(frozen=True, slots=True)
class LeasedRow:
    """A workload that was leased now: all that its agent needs, apart from the task token."""

    workload_id: UUID
    fence: int
    agent_id: UUID
    claim_id: UUID
    kind: Kind
    queue: str
    display_name: str
    subject_id: str
    payload: dict[str, Any]
    lease_seconds: float


@dataclass(frozen=True, slots=True)
class HeldRow:
    """A workload under a live lease: what minting a task token or admitting an Execution API call needs."""

    workload_id: UUID
    fence: int
    agent_id: UUID
    kind: Kind
    started: bool
    subject_id: str
    payload: dict[str, Any]
    cancel_requested: bool


@dataclass(frozen=True, slots=True)
class Report:
    """How one lease ended at its agent."""

    workload_id: UUID
    fence: int
    outcome: Outcome
    exit_code: int | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A lease that an agent says it holds."""

    agent_id: UUID
    workload_id: UUID
    fence: int


@dataclass(frozen=True, slots=True)
class Ended:
    """Leases that ended without a word of their agents: back in the queue, lost, or kept by the task's own heartbeat."""

    requeued: int = 0
    lost: int = 0
    kept: int = 0


async def select_queued(connection: Connection, wanted: dict[str, int]) -> list[QueuedRow]:
    """Lock up to ``wanted[queue]`` queued rows of each queue, best first, skipping what others have locked.

    Must run in a transaction: the locks end with it.
    """
    raise NotImplementedError


async def claim(connection: Connection, pairs: Sequence[tuple[QueuedRow, Claim]], times: LeaseTimes) -> list[LeasedRow]:
    """Lease each row to its claim's agent. A row whose agent is gone, cordoned, draining or left stays queued."""
    raise NotImplementedError


async def repeat(database: Database, agent_id: UUID, claim_id: UUID, times: LeaseTimes) -> list[LeasedRow]:
    """What is leased and not yet started under ``claim_id``, with the lease begun anew."""
    raise NotImplementedError


async def start(database: Database, agent_id: UUID, leases: Sequence[Lease], times: LeaseTimes) -> list[bool]:
    """For each lease: may its agent start the workload? True again when the same lease asks again.

    False when the fence is old, the lease has ended, or the workload was cancelled.
    """
    raise NotImplementedError


async def settle(database: Database, agent_id: UUID, reports: Sequence[Report]) -> list[SettleVerdict]:
    """Take the outcomes in; one verdict per report, in the same order."""
    raise NotImplementedError


async def release(database: Database, leases: Sequence[Lease]) -> int:
    """Give back leases that the plane itself could not deliver. Returns how many were still unstarted."""
    raise NotImplementedError


async def extend(database: Database, heartbeats: Sequence[Heartbeat], times: LeaseTimes) -> set[Heartbeat]:
    """Extend what is still held, all agents in one statement. Returns the heartbeats whose lease is still held."""
    raise NotImplementedError


async def held(database: Database, workload_id: UUID) -> HeldRow | None:
    """The workload if it is under a lease now, else None."""
    raise NotImplementedError


async def expire(database: Database, times: LeaseTimes, *, leased: bool, running: bool, limit: int = 500) -> Ended:
    """End leases whose time is over: unstarted ones (``leased``), started ones (``running``).

    A started task that itself still heartbeats to Airflow is kept.
    """
    raise NotImplementedError


async def abandon(connection: Connection, agent_ids: Iterable[UUID], reason: str) -> Ended:
    """End every lease of the agents at once: nothing that they held is alive."""
    raise NotImplementedError


async def cancel(database: Database, workload_ids: Sequence[UUID]) -> int:
    """Cancel what has not started; ask what runs to stop. Returns how many were not settled yet."""
    raise NotImplementedError
