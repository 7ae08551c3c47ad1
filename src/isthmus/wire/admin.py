"""Bodies of a deployment's admin API, which has its own internal listener and an admin token.

Times are RFC 3339 with an offset; addresses are textual IPv4 or IPv6; lists come in pages.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from pydantic import BeforeValidator, Field, IPvAnyAddress, IPvAnyNetwork, StrictBool, StringConstraints

from isthmus.wire.agents import AgentWarning, Phase
from isthmus.wire.bodies import Request, Response
from isthmus.wire.names import BundlePattern, Kind, LinkId, PathKind, QueueName, Role
from isthmus.wire.probes import KnownConnection, ProbeReport, ProbeRow, ProbeStatus

MAX_TOKEN_DAYS = 3650
#: What may be the target of a link: nothing that a browser would run.
WEB_URL_PATTERN = r"^https?://[^\s\x00-\x1f\"'<>\\]{1,500}$"


class AgentHealth(StrEnum):
    """How the plane sees an agent: unhealthy after three missed heartbeats."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    LEFT = "left"


class AgentOrder(StrEnum):
    """How agents are listed: by name, or those that are unhealthy first, and those that have left last."""

    NAME = "name"
    URGENCY = "urgency"


class WayView(Response):
    """How many agents came last by a path, and through which connection of the link if that is known."""

    path: PathKind
    link_id: int | None = None
    healthy: int
    unhealthy: int
    last_heartbeat_at: datetime | None = None
    #: The first of them by name, each with its health.
    names: tuple[str, ...] = ()


class DeploymentView(Response):
    """The deployment and how it is doing. ``callers_refused``: so many are turned away at the door now."""

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
    agents_left: int = 0
    agents_by_way: tuple[WayView, ...] = ()
    agents_healthy_by_path: dict[PathKind, int] = Field(default_factory=dict)
    workloads_queued: int
    workloads_active: int
    callers_refused: int = 0
    airflow_url: Annotated[str, StringConstraints(pattern=WEB_URL_PATTERN)] | None = None


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

    Empty ``roles``, ``queues``, ``links`` or ``bundles`` mean no restriction; ``links`` are ids of private link
    connections, ``bundles`` patterns of the names of DAG bundles that its agents may bring.
    """

    name: str = Field(min_length=1, max_length=128)
    expires_days: int | None = Field(default=365, ge=1, le=MAX_TOKEN_DAYS)
    roles: tuple[Role, ...] = ()
    queues: tuple[QueueName, ...] = Field(default=(), max_length=64)
    links: tuple[LinkId, ...] = Field(default=(), max_length=64)
    bundles: tuple[BundlePattern, ...] = Field(default=(), max_length=64)


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
    bundles: tuple[str, ...] = ()
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


class StandbyView(Response):
    """An agent that stands by for a group. ``active``: it has taken over, and gets work.

    ``group_since`` is since when the group can work, or cannot; None while nobody has looked yet.
    """

    for_group: str
    after_seconds: float
    active: bool
    group_since: datetime | None = None


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
    group: str | None = None
    standby: StandbyView | None = None


class ProbesRequest(Request):
    """Ask an agent to verify its way to the plane; what the fields mean is said by ``wire.probes.ProbeOrder``."""

    endpoint: Address | None = None
    public_addresses: tuple[Address, ...] = Field(default=(), max_length=4)
    public_allowed: StrictBool = True
    connection: KnownConnection | None = None
    #: Who asks, for the history; the control plane says which operator.
    ordered_by: Annotated[str, StringConstraints(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""


class VerificationState(StrEnum):
    """How far a verification has come."""

    #: The agent hears of it with its next heartbeat.
    ORDERED = "ordered"
    #: There are rows, and more will come.
    RUNNING = "running"
    FINISHED = "finished"
    #: The agent did not answer, or not to the end.
    UNANSWERED = "unanswered"


class VerificationEntry(Response):
    """One verification in the history. ``reason`` and ``hint`` say why it is unanswered, and what to do.

    ``status`` is the worst of the rows so far, None without rows; ``failed`` is the first row that failed. An agent
    that verifies on a schedule has no ``ordered_by``, and ``ordered_at`` is when its report came. Times are the
    plane's, except ``started_at``, which is the agent's.
    """

    verification_id: UUID
    #: None once the agent is off the roster.
    agent_id: UUID | None
    agent_name: str
    state: VerificationState
    ordered_by: str | None
    ordered_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    status: ProbeStatus | None
    failed: ProbeRow | None
    endpoint: Address | None
    connection: KnownConnection | None
    reason: str = ""
    hint: str = ""


class VerificationView(VerificationEntry):
    """One verification with the rows that have come."""

    url: str
    public_addresses: tuple[Address, ...]
    public_allowed: bool
    rows: tuple[ProbeRow, ...]


class VerificationPage(Response):
    """Verifications, newest first; ``next_before`` is the ``before`` of the next page."""

    verifications: tuple[VerificationEntry, ...]
    next_before: str | None = None


class LogTailView(Response):
    """The end of an agent's own log, newest line last; None of the fields where nobody asked in the last hour.

    ``received_at`` is None until the agent has sent it. Control characters are written out (``\\x1b``).
    """

    agent_id: UUID
    order_id: UUID | None
    ordered_by: str | None
    ordered_at: datetime | None
    received_at: datetime | None
    lines: tuple[str, ...]


class LogOrderRequest(Request):
    """Ask an agent for the end of its log. ``ordered_by`` as in ``ProbesRequest``."""

    ordered_by: Annotated[str, StringConstraints(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""


class AgentPage(Response):
    """Agents by name; ``next_after`` is the ``after`` of the next page.

    In another order ``next_start`` is the ``start`` of the next page, and ``matching`` how many there are on all pages.
    """

    agents: tuple[AgentView, ...]
    next_after: str | None = None
    next_start: int | None = None
    matching: int | None = None


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


class BundleView(Response):
    """A DAG bundle that agents brought.

    ``agent_name`` parses it now, null while nobody does; ``agents`` have it. ``refused`` counts files that the plane
    did not take, ``refused_file`` and ``refused_detail`` are the last one of them and why; ``import_errors`` counts
    what Airflow shows as such (refused files among them). ``passed_at`` is when all of its files had last been gone
    through.
    """

    name: str
    version: str | None
    token_id: str
    token_name: str
    agent_name: str | None
    agents: tuple[str, ...]
    files: int
    refused: int
    refused_file: str | None = None
    refused_detail: str | None = None
    dags: int
    import_errors: int
    registered_at: datetime
    passed_at: datetime | None


class RefusedBundleView(Response):
    """A bundle that an agent has and may not bring: ``code`` is stable (``dags.RefusalCode``), ``detail`` for people.

    It is here for as long as the agent goes on naming it.
    """

    name: str
    agent_name: str
    token_id: str
    token_name: str
    code: str
    detail: str
    since: datetime


class BundlePage(Response):
    """A page of bundles, those that nobody parses first; ``next_start`` is the ``start`` of the next page.

    ``refused`` are the bundles that agents may not bring, the last hundred, on each page.
    """

    bundles: tuple[BundleView, ...]
    next_start: int | None = None
    refused: tuple[RefusedBundleView, ...] = ()


class TriggererView(Response):
    """An agent that runs triggers, ``held`` of ``capacity``.

    ``takes``: it may be given more, if it has room; not while it is away, cordoned, draining or stands by. It serves
    triggers of tasks in its ``queues`` and of its ``bundles``; empty ``bundles`` mean any. ``loaded_at`` is when it
    last asked for its triggers.
    """

    agent_id: UUID
    agent_name: str
    held: int
    capacity: int
    queues: tuple[str, ...]
    bundles: tuple[str, ...]
    takes: bool
    loaded_at: datetime


class WaitingTriggersView(Response):
    """Triggers that nobody runs and that the same triggerers could: ``kind`` is task, callback or asset.

    ``queue`` is null for what is not of a task. ``oldest_seconds`` is the age of the oldest. ``triggerers`` counts
    those that could run them: with none somebody has to start one; otherwise they are full, or it is a matter of
    seconds.
    """

    kind: str
    queue: str | None
    bundles: tuple[str, ...]
    count: int
    oldest_seconds: float
    triggerers: int


class TriggersView(Response):
    """Who runs triggers, and what waits for somebody to.

    ``triggerers`` is a page by name, ``next_start`` the ``start`` of the next one. ``waiting_count`` and
    ``oldest_waiting_seconds`` are of all that wait; ``waiting`` has the first 100 kinds, those that nobody could run
    first. ``held_centrally`` are triggers of a triggerer of Airflow's own, which should not run beside the agents'.
    """

    triggerers: tuple[TriggererView, ...]
    next_start: int | None = None
    held: int
    capacity: int
    held_centrally: int
    waiting_count: int
    oldest_waiting_seconds: float | None
    waiting: tuple[WaitingTriggersView, ...]


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


class RefusedCaller(Response):
    """Somebody whom the door turned away: the problem that they were told, and what is known of them.

    On a link, ``address`` is one of the link service's. ``token_id`` and ``token_name`` are those of a token of this
    deployment, whose secret need not have been right. ``is_recent``: it was a moment ago, and the caller still tries.
    """

    code: str
    title: str
    hint: str
    detail: str
    address: str | None
    path: PathKind
    link_id: int | None
    token_id: str | None
    token_name: str | None
    times: int
    first_at: datetime
    last_at: datetime
    is_recent: bool


class RefusedPage(Response):
    """Who was turned away in the last day, the last one first."""

    callers: tuple[RefusedCaller, ...]
    next_before: str | None = None
