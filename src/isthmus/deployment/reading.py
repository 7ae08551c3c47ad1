"""What the admin API shows: agents, workloads and counts, in pages. Reads only; ``steering`` changes things."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from isthmus.deployment.pooling import Database
from isthmus.wire.admin import AgentHealth, WorkloadState
from isthmus.wire.agents import Phase
from isthmus.wire.names import Kind, Role


@dataclass(frozen=True, slots=True)
class AgentRow:
    """An agent as the plane sees it. ``warnings`` are JSON values as the agent sent them."""

    agent_id: UUID
    name: str
    role: Role
    health: AgentHealth
    phase: Phase
    cordoned: bool
    draining: bool
    queues: tuple[str, ...]
    slots: int
    slots_used: int
    versions: dict[str, str | None]
    labels: dict[str, str]
    warnings: tuple[dict[str, Any], ...]
    probe_report: dict[str, Any] | None
    token_id: str
    address: str | None
    enrolled_at: datetime
    last_heartbeat_at: datetime | None


@dataclass(frozen=True, slots=True)
class WorkloadRow:
    """A workload and what became of it."""

    workload_id: UUID
    kind: Kind
    state: WorkloadState
    queue: str
    priority: int
    display_name: str
    dag_id: str | None
    task_id: str | None
    run_id: str | None
    map_index: int | None
    try_number: int | None
    subject_id: str
    agent_id: UUID | None
    agent_name: str | None
    fence: int
    cancel_requested: bool
    queued_at: datetime
    leased_at: datetime | None
    started_at: datetime | None
    settled_at: datetime | None
    lease_expires_at: datetime | None
    exit_code: int | None
    detail: str


@dataclass(frozen=True, slots=True)
class WorkloadFilter:
    """Which workloads to show; None admits all."""

    state: WorkloadState | None = None
    queue: str | None = None
    kind: Kind | None = None
    dag_id: str | None = None
    agent_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """How a deployment is doing. ``queued`` and ``active`` count workloads; ``queued_by_queue`` has non-empty queues."""

    agents_healthy: int
    agents_unhealthy: int
    agents_left: int
    slots: int
    slots_used: int
    workloads_queued: int
    workloads_active: int
    queued_by_queue: dict[str, int]
    oldest_queued_seconds: float


async def agents(
    database: Database,
    *,
    heartbeat_seconds: float,
    after: str | None = None,
    limit: int = 100,
    role: Role | None = None,
) -> tuple[list[AgentRow], str | None]:
    """A page of agents by name, and the ``after`` of the next page."""
    raise NotImplementedError


async def agent(database: Database, agent_id: UUID, *, heartbeat_seconds: float) -> AgentRow:
    """One agent. Raises PlaneRefusedError(AGENT_UNKNOWN)."""
    raise NotImplementedError


async def workloads(
    database: Database, which: WorkloadFilter, *, before: str | None = None, limit: int = 100
) -> tuple[list[WorkloadRow], str | None]:
    """A page of workloads, newest first, and the ``before`` of the next page.

    Raises PlaneRefusedError(REQUEST_INVALID) for a ``before`` that is none of ours.
    """
    raise NotImplementedError


async def workload(database: Database, workload_id: UUID) -> tuple[WorkloadRow, dict[str, Any]]:
    """One workload and Airflow's payload. Raises PlaneRefusedError(WORKLOAD_NOT_FOUND)."""
    raise NotImplementedError


async def counts(database: Database, *, heartbeat_seconds: float) -> Counts:
    """How the deployment is doing."""
    raise NotImplementedError
