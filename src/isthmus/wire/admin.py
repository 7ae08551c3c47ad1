"""Bodies of a deployment's admin API, which has its own internal listener and an admin token.

Times are RFC 3339 with an offset; addresses are textual IPv4 or IPv6; lists come in pages.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from pydantic import BeforeValidator, Field, IPvAnyAddress, IPvAnyNetwork, StrictBool

from isthmus.wire.agents import AgentWarning, Phase
from isthmus.wire.bodies import Request, Response
from isthmus.wire.names import Kind, LinkId, PathKind, QueueName, Role
from isthmus.wire.probes import KnownConnection, ProbeReport

MAX_TOKEN_DAYS = 3650


class AgentHealth(StrEnum):
    """How the plane sees an agent: unhealthy after three missed heartbeats."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    LEFT = "left"


class DeploymentView(Response):
    """The deployment and how it is doing."""

    deployment_id: str
    version: str
    airflow_version: str
    heartbeat_seconds: float
    lease_seconds: float
    running_lease_seconds: float
    token_limit: int
    allowed_ranges: tuple[str, ...]
    allowed_connections: tuple[str, ...]
    allowed_variables: tuple[str, ...]
    agents_healthy: int
    agents_unhealthy: int
    agents_healthy_by_path: dict[PathKind, int] = Field(default_factory=dict)
    workloads_queued: int
    workloads_active: int


class HealthStatus(StrEnum):
    """The worst of the warnings, for machines: ``failing`` comes with HTTP status 503."""

    OK = "ok"
    WARNING = "warning"
    FAILING = "failing"


class HealthView(Response):
    """``GET /healthz`` of the internal listener: what is wrong with this process, the worst first."""

    status: HealthStatus
    version: str
    deployment_id: str
    warnings: tuple[AgentWarning, ...]


def _text(value: object) -> object:
    """Numbers are addresses too, to ``ipaddress``; on the wire they are a mistake."""
    if isinstance(value, int | float):
        raise ValueError("an address range is a text")
    return value


AddressRange = Annotated[IPvAnyNetwork, BeforeValidator(_text)]
Address = Annotated[IPvAnyAddress, BeforeValidator(_text)]


class AllowListBody(Request):
    """The allow list as a whole: IPv4 and IPv6 ranges in CIDR form. Empty means that every address may come in.

    A list that would shut out the last healthy agent is refused unless ``force``. ``dry_run`` changes nothing.
    """

    ranges: tuple[AddressRange, ...] = Field(max_length=1000)
    force: StrictBool = False
    dry_run: StrictBool = False


class RestrictionRequest(Request):
    """Let only ``ranges`` in, once a healthy agent comes from one of them. ``dry_run`` changes nothing."""

    ranges: tuple[AddressRange, ...] = Field(min_length=1, max_length=1000)
    force: StrictBool = False
    dry_run: StrictBool = False


class RestrictionOutcome(StrEnum):
    """What became of a restriction.

    WIDENED: the ranges were added to the allow list, because no healthy agent has come from one of them yet; ask again
    when one has. REFUSED is the answer to a dry run; in earnest it is the problem ``agents_cut_off``.
    """

    RESTRICTED = "restricted"
    WIDENED = "widened"
    REFUSED = "refused"
    UNRESTRICTED = "unrestricted"
    UNCHANGED = "unchanged"


class AgentPlace(Response):
    """Where an agent was last seen coming from, and how it is doing."""

    agent_id: UUID
    name: str
    health: AgentHealth
    path: PathKind
    link_id: int | None
    address: str | None
    last_heartbeat_at: datetime | None


class RestrictionView(Response):
    """What was decided, on what grounds: for people, and for an audit log.

    ``cut_off`` may come in before and not after, ``stays`` are the others that may come in after; agents that have left
    are in neither.
    """

    deployment_id: str
    decided_at: datetime
    outcome: RestrictionOutcome
    reason: str
    dry_run: bool
    forced: bool
    ranges_before: tuple[str, ...]
    ranges_after: tuple[str, ...]
    cut_off: tuple[AgentPlace, ...]
    stays: tuple[AgentPlace, ...]


class AllowListView(Response):
    """The allow list in force. ``change`` answers who asked for one: what was decided, or would be."""

    ranges: tuple[str, ...]
    change: RestrictionView | None = None


class TokenState(StrEnum):
    """Whether a token opens the door."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


class TokenCreateRequest(Request):
    """Make an agent token. ``expires_days`` from 1 to 3650, or null for a token that never expires.

    Empty ``roles``, ``queues`` or ``links`` mean no restriction; ``links`` are ids of private link connections.
    """

    name: str = Field(min_length=1, max_length=128)
    expires_days: int | None = Field(default=365, ge=1, le=MAX_TOKEN_DAYS)
    roles: tuple[Role, ...] = ()
    queues: tuple[QueueName, ...] = Field(default=(), max_length=64)
    links: tuple[LinkId, ...] = Field(default=(), max_length=64)


class TokenRotateRequest(Request):
    """Make a successor with the same name and scope; the old token works for ``overlap_hours`` more."""

    overlap_hours: float = Field(default=24.0, ge=0, le=24 * 90)
    expires_days: int | None = Field(default=365, ge=1, le=MAX_TOKEN_DAYS)


class TokenView(Response):
    """A token without its secret."""

    token_id: str
    name: str
    state: TokenState
    roles: tuple[Role, ...]
    queues: tuple[str, ...]
    links: tuple[int, ...] = ()
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    last_used_address: str | None
    successor_id: str | None = None


class TokenCreated(Response):
    """The only time that the secret is shown."""

    token: TokenView
    secret: str = Field(repr=False)


class TokenPage(Response):
    """All tokens, newest first."""

    tokens: tuple[TokenView, ...]


class AgentView(Response):
    """An agent as the plane sees it. ``path``, ``link_id`` and ``address`` are those of its last heartbeat."""

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
    warnings: tuple[AgentWarning, ...]
    token_id: str
    address: str | None
    enrolled_at: datetime
    last_heartbeat_at: datetime | None
    path: PathKind = PathKind.PUBLIC
    link_id: int | None = None
    path_since: datetime | None = None
    #: The order whose report is awaited.
    probes_order_id: UUID | None = None
    probe_report: ProbeReport | None = None
    probe_reported_at: datetime | None = None


class ProbesRequest(Request):
    """Ask an agent to verify its way to the plane; what the fields mean is said by ``wire.probes.ProbeOrder``."""

    endpoint: Address | None = None
    public_addresses: tuple[Address, ...] = Field(default=(), max_length=4)
    public_allowed: StrictBool = True
    connection: KnownConnection | None = None


class AgentPage(Response):
    """Agents by name; ``next_after`` is the ``after`` of the next page."""

    agents: tuple[AgentView, ...]
    next_after: str | None = None


class WorkloadState(StrEnum):
    """Where a workload is. The transitions are in ``isthmus.deployment.workloads``."""

    QUEUED = "queued"
    LEASED = "leased"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"
    CANCELLED = "cancelled"


class WorkloadView(Response):
    """A workload and what became of it."""

    workload_id: UUID
    kind: Kind
    state: WorkloadState
    queue: str
    priority: int
    dag_id: str | None
    task_id: str | None
    run_id: str | None
    map_index: int | None
    try_number: int | None
    subject_id: str
    agent_id: UUID | None
    agent_name: str | None
    fence: int
    queued_at: datetime
    leased_at: datetime | None
    started_at: datetime | None
    settled_at: datetime | None
    lease_expires_at: datetime | None
    exit_code: int | None
    detail: str


class WorkloadPage(Response):
    """Workloads, newest first; ``next_before`` is the ``before`` of the next page."""

    workloads: tuple[WorkloadView, ...]
    next_before: str | None = None


class QueueView(Response):
    """A queue that has work, or that a worker agent serves.

    ``agents`` names some of the ``agents_count`` healthy ones that take work of it now; ``slots`` are theirs.
    ``oldest_queued_seconds`` is null while nothing is queued.
    """

    queue: str
    queued: int
    oldest_queued_seconds: float | None
    leased: int
    running: int
    agents: tuple[str, ...]
    agents_count: int
    slots: int
    slots_used: int


class QueuePage(Response):
    """All queues, those with work that nobody serves first."""

    queues: tuple[QueueView, ...]


class MinuteView(Response):
    """How many workloads were settled in the minute that begins ``at``, by outcome."""

    at: datetime
    succeeded: int
    failed: int
    lost: int
    cancelled: int


class ThroughputView(Response):
    """The last hour in sixty minutes, the oldest first; the last one is not over yet."""

    minutes: tuple[MinuteView, ...]


class WorkloadDetail(Response):
    """One workload with Airflow's payload (which holds no token)."""

    workload: WorkloadView
    payload: dict[str, Any]
