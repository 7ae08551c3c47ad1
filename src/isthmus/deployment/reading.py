"""What the admin API shows: agents, workloads and counts, in pages. Reads only; ``steering`` changes things."""

# ruff: noqa: S608 - values are parameters; what is put into the text are constants of ours.

from collections import Counter, defaultdict
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
from isthmus.wire import admin
from isthmus.wire.admin import AgentHealth, AgentOrder, WorkloadState
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
    group: str | None = None
    standby: admin.StandbyView | None = None


@dataclass(frozen=True, slots=True)
class TokenEnd:
    """When a token ends or was ended."""

    expires_at: datetime | None
    revoked_at: datetime | None


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
class AgentFilter:
    """Which agents to list; None stands for any. ``search`` is a part of the name, in small or capital letters."""

    health: AgentHealth | None = None
    role: Role | None = None
    name: str | None = None
    search: str | None = None


@dataclass(frozen=True, slots=True)
class RosterPage:
    """Agents, and whether there are more. ``matching``: how many there are on all pages; 0 on one beyond the last.

    By name they are not counted, and ``matching`` is None.
    """

    agents: list[AgentRow]
    has_more: bool
    matching: int | None


@dataclass(frozen=True, slots=True)
class WorkloadFilter:
    """Which workloads to show; None admits all."""

    state: WorkloadState | None = None
    queue: str | None = None
    kind: Kind | None = None
    dag_id: str | None = None
    agent_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class WayCount:
    """How many agents came last by a path, and through which connection of the link if that is known."""

    path: PathKind
    link_id: int | None
    healthy: int
    unhealthy: int
    last_heartbeat_at: datetime | None
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Counts:
    """How a deployment is doing. Slots are those of healthy agents; ``queued_by_queue`` has only non-empty queues."""

    agents_healthy: int
    agents_unhealthy: int
    agents_left: int
    ways: tuple[WayCount, ...]
    healthy_by_path: dict[PathKind, int]
    slots: int
    slots_used: int
    workloads_queued: int
    workloads_active: int
    queued_by_queue: dict[str, int]
    oldest_queued_seconds: float


#: So many agents of a way are named; all are counted.
NAMED_AGENTS: Final = 20

_AGENT_COLUMNS: Final = f"""
    a.id, a.name, a.role, a.phase, a.cordoned, a.draining, a.queues, a.slots, a.slots_used, a.versions, a.labels,
    a.warnings, a.probe_report, a.probe_reported_at, a.probes_order, a.token_id, a.address, a.path, a.link_id,
    a.path_since, a.enrolled_at, a.last_heartbeat_at, a.group_name, a.standby_for, a.standby_seconds, a.standby_active,
    (SELECT g.since FROM isthmus_group AS g WHERE g.name = a.standby_for AND g.role = a.role) AS group_since,
    extract(epoch FROM now() - a.last_heartbeat_at)::float AS silent,
    CASE WHEN a.phase = 'left' THEN 'left'
         WHEN coalesce(a.last_heartbeat_at, a.enrolled_at)
              > now() - {HEALTHY_HEARTBEATS} * $1::float * interval '1 second' THEN 'healthy'
         ELSE 'unhealthy' END AS health
"""

# Health is a question of the clock, so the roster is read as a whole: a row an agent, thousands at most. In the order
# of names the index on them ends that early.
_MATCHING_AGENTS: Final = f"""
FROM (SELECT {_AGENT_COLUMNS} FROM isthmus_agent AS a) AS seen
WHERE ($2::text IS NULL OR health = $2) AND ($3::text IS NULL OR role = $3) AND ($4::text IS NULL OR name = $4)
  AND ($5::text IS NULL OR position(lower($5) IN lower(name)) > 0) AND ($6::text IS NULL OR name > $6)
"""
_AGENTS: Final = {
    AgentOrder.NAME: f"SELECT * {_MATCHING_AGENTS} ORDER BY name OFFSET $7 LIMIT $8",
    AgentOrder.URGENCY: f"""
        SELECT *, count(*) OVER () AS matching {_MATCHING_AGENTS}
        ORDER BY array_position(ARRAY['unhealthy', 'healthy', 'left'], health), name OFFSET $7 LIMIT $8
    """,
}

_PLACES: Final = f"SELECT {_AGENT_COLUMNS} FROM isthmus_agent AS a WHERE a.phase <> 'left' ORDER BY a.name"

# Rotation makes a chain of tokens; an agent keeps the one that it enrolled with.
_OF_TOKENS: Final = f"""
SELECT {_AGENT_COLUMNS} FROM isthmus_agent AS a WHERE a.token_id = ANY($2::text[])
ORDER BY a.last_heartbeat_at DESC NULLS LAST LIMIT $3
"""

_TOKEN_ENDS: Final = "SELECT id, expires_at, revoked_at FROM isthmus_token WHERE id = ANY($1::text[])"

_AGENT: Final = f"SELECT {_AGENT_COLUMNS} FROM isthmus_agent AS a WHERE a.id = $2"

_WORKLOAD_COLUMNS: Final = """
    w.id, w.kind, w.state, w.queue, w.priority, w.display_name, w.dag_id, w.task_id, w.run_id, w.map_index,
    w.try_number, w.subject_id, w.agent_id, a.name AS agent_name, w.fence, w.cancel_requested, w.queued_at, w.leased_at,
    w.started_at, w.settled_at, w.lease_expires_at, w.exit_code, w.detail
"""

# Of the filters only those that are asked for are in the statement: an index serves each, and a parameter that may be
# NULL would keep the planner from it. States are written out for the same reason: partial indexes know them by name.
_CONDITIONS: Final = {
    "state": "w.state = {}",
    "queue": "w.queue = ${}",
    "kind": "w.kind = ${}",
    "dag_id": "w.dag_id = ${}",
    "agent_id": "w.agent_id = ${}::uuid",
}

_WORKLOAD: Final = f"""
SELECT {_WORKLOAD_COLUMNS}, w.payload
FROM isthmus_workload AS w LEFT JOIN isthmus_agent AS a ON a.id = w.agent_id
WHERE w.id = $1
"""

_COUNT_AGENTS: Final = f"""
SELECT health, path, link_id, max(last_heartbeat_at) AS last_heartbeat_at, count(*) AS agents,
       (array_agg(name || ' (' || health || ')' ORDER BY name))[1:{NAMED_AGENTS}] AS names,
       sum(slots) AS slots, sum(slots_used) AS slots_used
FROM (SELECT {_AGENT_COLUMNS} FROM isthmus_agent AS a) AS seen
GROUP BY health, path, link_id
"""

_COUNT_QUEUED: Final = """
SELECT queue, count(*) AS workloads, extract(epoch FROM now() - min(queued_at))::float AS oldest_seconds
FROM isthmus_workload WHERE state = 'queued' GROUP BY queue
"""

_COUNT_ACTIVE: Final = "SELECT count(*) FROM isthmus_workload WHERE state IN ('leased', 'running')"


async def agents(
    database: Database,
    which: AgentFilter | None = None,
    *,
    heartbeat_seconds: float,
    order: AgentOrder = AgentOrder.NAME,
    after: str | None = None,
    start: int = 0,
    limit: int = 100,
) -> RosterPage:
    """A page of agents: those with a name after ``after``, ``start`` of them left out."""
    which = which or AgentFilter()
    filters = (which.health, which.role, which.name, which.search)
    with translated():
        rows = await database.fetch(_AGENTS[order], heartbeat_seconds, *filters, after, start, limit + 1)
    matching = None if order is AgentOrder.NAME else rows[0]["matching"] if rows else 0
    return RosterPage([_agent(row) for row in rows[:limit]], has_more=len(rows) > limit, matching=matching)


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


async def token_ends(database: Database, token_ids: Iterable[str]) -> dict[str, TokenEnd]:
    """When each of these tokens ends, by id."""
    with translated():
        rows = await database.fetch(_TOKEN_ENDS, list(token_ids))
    return {row["id"]: TokenEnd(row["expires_at"], row["revoked_at"]) for row in rows}


async def workloads(
    database: Database, which: WorkloadFilter, *, before: str | None = None, limit: int = 100
) -> tuple[list[WorkloadRow], str | None]:
    """A page of workloads, newest first, and the ``before`` of the next page.

    Raises PlaneRefusedError(REQUEST_INVALID) for a ``before`` that is none of ours.
    """
    statement, values = list_statement(which, parse_cursor(before) if before is not None else None, limit + 1)
    with translated():
        rows = await database.fetch(statement, *values)
    page = [_workload(row) for row in rows[:limit]]
    return page, _cursor(page[-1]) if len(rows) > limit else None


def list_statement(which: WorkloadFilter, before: tuple[datetime, UUID] | None, limit: int) -> tuple[str, list[object]]:
    """The statement of a page of workloads, and its parameters."""
    conditions: list[str] = []
    values: list[object] = []
    for name, condition in _CONDITIONS.items():
        wanted = getattr(which, name)
        if wanted is None:
            continue
        if isinstance(wanted, WorkloadState):
            conditions.append(condition.format(f"'{wanted.value}'"))
            continue
        values.append(wanted)
        conditions.append(condition.format(len(values)))
    if before is not None:
        values += before
        conditions.append(f"(w.queued_at, w.id) < (${len(values) - 1}, ${len(values)}::uuid)")
    values.append(limit)
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    statement = f"""
SELECT {_WORKLOAD_COLUMNS} FROM isthmus_workload AS w LEFT JOIN isthmus_agent AS a ON a.id = w.agent_id
{where} ORDER BY w.queued_at DESC, w.id DESC LIMIT ${len(values)}
"""
    return statement, values


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
    by_path: Counter[PathKind] = Counter()
    for row in healthy:
        by_path[PathKind(row["path"])] += row["agents"]
    return Counts(
        agents_healthy=sum(row["agents"] for row in healthy),
        agents_unhealthy=sum(row["agents"] for row in counted if row["health"] == AgentHealth.UNHEALTHY),
        agents_left=sum(row["agents"] for row in counted if row["health"] == AgentHealth.LEFT),
        ways=_ways(counted),
        healthy_by_path=dict(by_path),
        slots=sum(row["slots"] for row in healthy),
        slots_used=sum(row["slots_used"] for row in healthy),
        workloads_queued=sum(row["workloads"] for row in queued),
        workloads_active=active,
        queued_by_queue={row["queue"]: row["workloads"] for row in queued},
        oldest_queued_seconds=max((row["oldest_seconds"] for row in queued), default=0.0),
    )


def _ways(counted: Iterable[Record]) -> tuple[WayCount, ...]:
    by_way: defaultdict[tuple[str, int | None], list[Record]] = defaultdict(list)
    for row in counted:
        if row["health"] != AgentHealth.LEFT:
            by_way[row["path"], row["link_id"]].append(row)
    return tuple(
        WayCount(
            PathKind(path),
            link_id,
            healthy=sum(row["agents"] for row in found if row["health"] == AgentHealth.HEALTHY),
            unhealthy=sum(row["agents"] for row in found if row["health"] == AgentHealth.UNHEALTHY),
            last_heartbeat_at=max(
                (row["last_heartbeat_at"] for row in found if row["last_heartbeat_at"]), default=None
            ),
            names=tuple(sorted(name for row in found for name in row["names"])[:NAMED_AGENTS]),
        )
        for (path, link_id), found in by_way.items()
    )


def _cursor(row: WorkloadRow) -> str:
    return cursor_text(row.queued_at, row.workload_id)


def cursor_text(at: datetime, row_id: UUID) -> str:
    """Where the next page of what is listed by time begins."""
    return f"{at.isoformat()}~{row_id}"


def parse_cursor(text: str) -> tuple[datetime, UUID]:
    """The same, read. Raises PlaneRefusedError(REQUEST_INVALID)."""
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
        group=row["group_name"],
        standby=_standby(row),
    )


def _standby(row: Record) -> admin.StandbyView | None:
    if row["standby_for"] is None:
        return None
    return admin.StandbyView(
        for_group=row["standby_for"],
        after_seconds=row["standby_seconds"],
        active=row["standby_active"],
        group_since=row["group_since"],
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
