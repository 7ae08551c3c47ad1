"""What the admin API shows: agents, workloads and counts, in pages. Reads only; ``steering`` changes things."""

# ruff: noqa: S608 - values are parameters; what is put into the text are constants of ours.

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from isthmus.deployment.arrivals import Arrival
from isthmus.deployment.errors import PlaneRefusedError, translated
from isthmus.deployment.pooling import Database, Record
from isthmus.deployment.restricting import Place
from isthmus.deployment.roster import HEALTHY_HEARTBEATS
from isthmus.wire.admin import AgentHealth, WorkloadState
from isthmus.wire.agents import Phase
from isthmus.wire.names import Kind, PathKind, Role
from isthmus.wire.problems import Code


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
    arrival: Arrival
    path_since: datetime | None
    enrolled_at: datetime
    last_heartbeat_at: datetime | None
    probes_order: dict[str, Any] | None
    probe_reported_at: datetime | None


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
    """How a deployment is doing. Slots are those of healthy agents; ``queued_by_queue`` has only non-empty queues."""

    agents_healthy: int
    agents_unhealthy: int
    agents_left: int
    healthy_by_path: dict[PathKind, int]
    slots: int
    slots_used: int
    workloads_queued: int
    workloads_active: int
    queued_by_queue: dict[str, int]
    oldest_queued_seconds: float


_AGENT_COLUMNS: Final = f"""
    a.id, a.name, a.role, a.phase, a.cordoned, a.draining, a.queues, a.slots, a.slots_used, a.versions, a.labels,
    a.warnings, a.probe_report, a.probe_reported_at, a.probes_order, a.token_id, a.address, a.path, a.link_id,
    a.path_since, a.enrolled_at, a.last_heartbeat_at, extract(epoch FROM now() - a.last_heartbeat_at)::float AS silent,
    CASE WHEN a.phase = 'left' THEN 'left'
         WHEN coalesce(a.last_heartbeat_at, a.enrolled_at)
              > now() - {HEALTHY_HEARTBEATS} * $1::float * interval '1 second' THEN 'healthy'
         ELSE 'unhealthy' END AS health
"""

_AGENTS: Final = f"""
SELECT {_AGENT_COLUMNS} FROM isthmus_agent AS a
WHERE ($2::text IS NULL OR a.name > $2) AND ($3::text IS NULL OR a.role = $3) AND ($5::text IS NULL OR a.name = $5)
ORDER BY a.name LIMIT $4
"""

_PLACES: Final = f"SELECT {_AGENT_COLUMNS} FROM isthmus_agent AS a WHERE a.phase <> 'left' ORDER BY a.name"

# Rotation makes a chain of tokens; an agent keeps the one that it enrolled with.
_OF_TOKENS: Final = f"""
SELECT {_AGENT_COLUMNS} FROM isthmus_agent AS a WHERE a.token_id = ANY($2::text[])
ORDER BY a.last_heartbeat_at DESC NULLS LAST LIMIT $3
"""

_AGENT: Final = f"SELECT {_AGENT_COLUMNS} FROM isthmus_agent AS a WHERE a.id = $2"

_WORKLOAD_COLUMNS: Final = """
    w.id, w.kind, w.state, w.queue, w.priority, w.display_name, w.dag_id, w.task_id, w.run_id, w.map_index,
    w.try_number, w.subject_id, w.agent_id, a.name AS agent_name, w.fence, w.cancel_requested, w.queued_at, w.leased_at,
    w.started_at, w.settled_at, w.lease_expires_at, w.exit_code, w.detail
"""

_WORKLOADS: Final = f"""
SELECT {_WORKLOAD_COLUMNS} FROM isthmus_workload AS w LEFT JOIN isthmus_agent AS a ON a.id = w.agent_id
WHERE ($1::text IS NULL OR w.state = $1) AND ($2::text IS NULL OR w.queue = $2) AND ($3::text IS NULL OR w.kind = $3)
  AND ($4::text IS NULL OR w.dag_id = $4) AND ($5::uuid IS NULL OR w.agent_id = $5)
  AND ($6::timestamptz IS NULL OR (w.queued_at, w.id) < ($6, $7::uuid))
ORDER BY w.queued_at DESC, w.id DESC LIMIT $8
"""

_WORKLOAD: Final = f"""
SELECT {_WORKLOAD_COLUMNS}, w.payload
FROM isthmus_workload AS w LEFT JOIN isthmus_agent AS a ON a.id = w.agent_id
WHERE w.id = $1
"""

_COUNT_AGENTS: Final = f"""
SELECT health, path, count(*) AS agents, sum(slots) AS slots, sum(slots_used) AS slots_used
FROM (SELECT {_AGENT_COLUMNS} FROM isthmus_agent AS a) AS seen
GROUP BY health, path
"""

_COUNT_QUEUED: Final = """
SELECT queue, count(*) AS workloads, extract(epoch FROM now() - min(queued_at))::float AS oldest_seconds
FROM isthmus_workload WHERE state = 'queued' GROUP BY queue
"""

_COUNT_ACTIVE: Final = "SELECT count(*) FROM isthmus_workload WHERE state IN ('leased', 'running')"


async def agents(
    database: Database,
    *,
    heartbeat_seconds: float,
    after: str | None = None,
    limit: int = 100,
    role: Role | None = None,
    name: str | None = None,
) -> tuple[list[AgentRow], str | None]:
    """A page of agents by name, and the ``after`` of the next page; with ``name`` the one agent of that name."""
    with translated():
        rows = await database.fetch(_AGENTS, heartbeat_seconds, after, role, limit + 1, name)
    page = [_agent(row) for row in rows[:limit]]
    return page, page[-1].name if len(rows) > limit else None


async def agent(database: Database, agent_id: UUID, *, heartbeat_seconds: float) -> AgentRow:
    """One agent. Raises PlaneRefusedError(AGENT_UNKNOWN)."""
    with translated():
        row = await database.fetchrow(_AGENT, heartbeat_seconds, agent_id)
    if row is None:
        raise PlaneRefusedError(Code.AGENT_UNKNOWN)
    return _agent(row)


async def places(database: Database, *, heartbeat_seconds: float) -> list[Place]:
    """Where all agents that have not left were last seen, by name."""
    with translated():
        rows = await database.fetch(_PLACES, heartbeat_seconds)
    return [
        Place(row["id"], row["name"], AgentHealth(row["health"]), _arrival(row), row["last_heartbeat_at"])
        for row in rows
    ]


async def agents_of(
    database: Database, token_ids: Iterable[str], *, heartbeat_seconds: float, limit: int
) -> list[tuple[AgentRow, float | None]]:
    """The agents that enrolled with one of the tokens, the last heard first, and the seconds of silence of each."""
    with translated():
        rows = await database.fetch(_OF_TOKENS, heartbeat_seconds, list(token_ids), limit)
    return [(_agent(row), row["silent"]) for row in rows]


async def workloads(
    database: Database, which: WorkloadFilter, *, before: str | None = None, limit: int = 100
) -> tuple[list[WorkloadRow], str | None]:
    """A page of workloads, newest first, and the ``before`` of the next page.

    Raises PlaneRefusedError(REQUEST_INVALID) for a ``before`` that is none of ours.
    """
    queued_at, workload_id = _parse_cursor(before) if before is not None else (None, None)
    with translated():
        rows = await database.fetch(
            _WORKLOADS,
            which.state,
            which.queue,
            which.kind,
            which.dag_id,
            which.agent_id,
            queued_at,
            workload_id,
            limit + 1,
        )
    page = [_workload(row) for row in rows[:limit]]
    return page, _cursor(page[-1]) if len(rows) > limit else None


async def workload(database: Database, workload_id: UUID) -> tuple[WorkloadRow, dict[str, Any]]:
    """One workload and Airflow's payload. Raises PlaneRefusedError(WORKLOAD_NOT_FOUND)."""
    with translated():
        row = await database.fetchrow(_WORKLOAD, workload_id)
    if row is None:
        raise PlaneRefusedError(Code.WORKLOAD_NOT_FOUND)
    return _workload(row), row["payload"]


async def counts(database: Database, *, heartbeat_seconds: float) -> Counts:
    """How the deployment is doing."""
    with translated():
        counted = await database.fetch(_COUNT_AGENTS, heartbeat_seconds)
        queued = await database.fetch(_COUNT_QUEUED)
        active = await database.fetchval(_COUNT_ACTIVE)
    healthy = [row for row in counted if row["health"] == AgentHealth.HEALTHY]
    return Counts(
        agents_healthy=sum(row["agents"] for row in healthy),
        agents_unhealthy=sum(row["agents"] for row in counted if row["health"] == AgentHealth.UNHEALTHY),
        agents_left=sum(row["agents"] for row in counted if row["health"] == AgentHealth.LEFT),
        healthy_by_path={PathKind(row["path"]): row["agents"] for row in healthy},
        slots=sum(row["slots"] for row in healthy),
        slots_used=sum(row["slots_used"] for row in healthy),
        workloads_queued=sum(row["workloads"] for row in queued),
        workloads_active=active,
        queued_by_queue={row["queue"]: row["workloads"] for row in queued},
        oldest_queued_seconds=max((row["oldest_seconds"] for row in queued), default=0.0),
    )


def _cursor(row: WorkloadRow) -> str:
    return f"{row.queued_at.isoformat()}~{row.workload_id}"


def _parse_cursor(text: str) -> tuple[datetime, UUID]:
    when, _, workload_id = text.partition("~")
    try:
        moment = datetime.fromisoformat(when)
        if moment.tzinfo is None:
            raise ValueError("a time without a zone")
        return moment, UUID(workload_id)
    except ValueError:
        raise PlaneRefusedError(
            Code.REQUEST_INVALID, "before: not a value of next_before of an earlier page."
        ) from None


def _agent(row: Record) -> AgentRow:
    return AgentRow(
        agent_id=row["id"],
        name=row["name"],
        role=Role(row["role"]),
        health=AgentHealth(row["health"]),
        phase=Phase(row["phase"]),
        cordoned=row["cordoned"],
        draining=row["draining"],
        queues=tuple(row["queues"]),
        slots=row["slots"],
        slots_used=row["slots_used"],
        versions=row["versions"],
        labels=row["labels"],
        warnings=tuple(row["warnings"]),
        probe_report=row["probe_report"],
        token_id=row["token_id"],
        arrival=_arrival(row),
        path_since=row["path_since"],
        enrolled_at=row["enrolled_at"],
        last_heartbeat_at=row["last_heartbeat_at"],
        probes_order=row["probes_order"],
        probe_reported_at=row["probe_reported_at"],
    )


def _arrival(row: Record) -> Arrival:
    address = None if row["address"] is None else str(row["address"])
    return Arrival(address, PathKind(row["path"]), row["link_id"])


def _workload(row: Record) -> WorkloadRow:
    return WorkloadRow(
        workload_id=row["id"],
        kind=Kind(row["kind"]),
        state=WorkloadState(row["state"]),
        queue=row["queue"],
        priority=row["priority"],
        display_name=row["display_name"],
        dag_id=row["dag_id"],
        task_id=row["task_id"],
        run_id=row["run_id"],
        map_index=row["map_index"],
        try_number=row["try_number"],
        subject_id=row["subject_id"],
        agent_id=row["agent_id"],
        agent_name=row["agent_name"],
        fence=row["fence"],
        cancel_requested=row["cancel_requested"],
        queued_at=row["queued_at"],
        leased_at=row["leased_at"],
        started_at=row["started_at"],
        settled_at=row["settled_at"],
        lease_expires_at=row["lease_expires_at"],
        exit_code=row["exit_code"],
        detail=row["detail"],
    )
