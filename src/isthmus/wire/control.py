"""Bodies of the control plane's API: clusters, their deployments and links, operators, the audit log.

Times are RFC 3339 with an offset; resource ids are Azure's; networks are in CIDR form. A ``version`` grows with every
change of a thing: whoever decides can name the one that they saw, and is told when somebody was faster.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field, StrictBool, StringConstraints

from isthmus.wire.admin import AgentHealth, DeploymentView, HealthStatus
from isthmus.wire.agents import AgentWarning, Phase
from isthmus.wire.bodies import Request, Response
from isthmus.wire.names import DEPLOYMENT_ID_PATTERN, ConnectionState, PathKind, Role
from isthmus.wire.probes import ProbeStatus

#: ``cl`` and nine base-32 characters (DESIGN: vocabulary).
CLUSTER_ID_PATTERN = r"^cl[a-z2-7]{9}$"

ClusterId = Annotated[str, StringConstraints(pattern=CLUSTER_ID_PATTERN)]
DeploymentId = Annotated[str, StringConstraints(pattern=DEPLOYMENT_ID_PATTERN)]
#: A domain of at least two labels, lower case.
Domain = Annotated[
    str,
    StringConstraints(
        pattern=r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\.)+[a-z]([-a-z0-9]{0,61}[a-z0-9])?$", max_length=200
    ),
]
Region = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{2,40}$")]
#: A private IPv4 network, as in 10.20.0.0/16.
Cidr = Annotated[str, StringConstraints(pattern=r"^\d{1,3}(\.\d{1,3}){3}/\d{1,2}$")]
OperatorName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9._@]{0,62}[a-z0-9])?$")]
Subscription = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
#: A subscription, or everybody.
Viewer = Annotated[str, StringConstraints(pattern=r"^(\*|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$")]
_NAME = r"[A-Za-z0-9_.()-]{1,90}"
_GUID = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_RESOURCE = rf"^/subscriptions/{_GUID}/resourceGroups/{_NAME}/providers/Microsoft\.Network"
ServiceId = Annotated[str, StringConstraints(pattern=rf"{_RESOURCE}/privateLinkServices/{_NAME}$", max_length=500)]
FrontendId = Annotated[
    str,
    StringConstraints(pattern=rf"{_RESOURCE}/loadBalancers/{_NAME}/frontendIPConfigurations/{_NAME}$", max_length=500),
]
SubnetId = Annotated[
    str, StringConstraints(pattern=rf"{_RESOURCE}/virtualNetworks/{_NAME}/subnets/{_NAME}$", max_length=500)
]
EndpointId = Annotated[str, StringConstraints(pattern=rf"{_RESOURCE}/privateEndpoints/{_NAME}$", max_length=500)]
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f]*$", max_length=140)]
ServerUrl = Annotated[str, StringConstraints(pattern=r"^https://[A-Za-z0-9.-]{1,253}(:[1-9]\d{0,4})?$")]
#: A file below a directory, or none: no way leads out of it, because no part begins with a dot.
TokenReference = Annotated[
    str, StringConstraints(pattern=r"^([A-Za-z0-9_][-A-Za-z0-9_.]*(/[A-Za-z0-9_][-A-Za-z0-9_.]*)*)?$", max_length=140)
]
HostName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]


class OrganizationView(Response):
    """The owner of everything, in numbers."""

    name: str
    version: str
    clusters: int
    deployments: int
    connections_pending: int
    operators: int


class ClusterCreateRequest(Request):
    """A cluster. Without ``cluster_id`` one is made; with one, asking twice makes one cluster."""

    cluster_id: ClusterId | None = None
    cidr: Cidr
    domain: Domain
    region: Region


class ClusterView(Response):
    """A cluster: its host is what agents' URLs begin with. ``alias`` is empty until its link is published."""

    cluster_id: str
    cidr: str
    domain: str
    region: str
    host: str
    alias: str
    deployments: tuple[str, ...]
    created_at: datetime


class ClusterPage(Response):
    """Clusters by id."""

    clusters: tuple[ClusterView, ...]
    next_after: str | None = None


class DeploymentBody(Request):
    """Where a deployment is: its Remote Execution API's processes, for the ingress, and its admin API, for the plane.

    ``admin_token_reference`` names the file with the admin token, below the directory that the control plane's settings
    name for it (``--admin-tokens``); the token itself is never sent.
    """

    servers: tuple[ServerUrl, ...] = Field(min_length=1, max_length=64)
    tls_name: HostName | None = None
    admin_url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s@\x00-\x1f]{1,250}$")] | None = None
    admin_token_reference: TokenReference = ""


class DeploymentRegistration(Response):
    """A deployment as it is registered. ``url`` is what its agents are given."""

    deployment_id: str
    cluster_id: str
    url: str
    servers: tuple[str, ...]
    tls_name: str | None
    admin_url: str | None
    admin_token_reference: str
    created_at: datetime


class DeploymentPage(Response):
    """The deployments of a cluster, by id."""

    deployments: tuple[DeploymentRegistration, ...]


class RouteView(Response):
    """The way from the ingress to one deployment."""

    deployment_id: str
    servers: tuple[str, ...]
    tls_name: str | None


class IngressView(Response):
    """What a cluster's ingress should do. ``link_networks`` is empty while there is no link."""

    cluster_id: str
    host: str
    routes: tuple[RouteView, ...]
    link_networks: tuple[str, ...]
    has_proxy_protocol: bool


class LinkBody(Request):
    """A link service, as it should be.

    ``inherits_approval``: further endpoints of a subscription are approved once an operator approved one of it.
    """

    service_id: ServiceId
    frontend_id: FrontendId
    nat_subnet_id: SubnetId
    nat_addresses: int = Field(default=1, ge=1, le=8, strict=True)
    visible_to: tuple[Viewer, ...] = Field(default=("*",), min_length=1, max_length=100)
    approved_at_once: tuple[Subscription, ...] = Field(default=(), max_length=100)
    has_proxy_protocol: StrictBool = True
    inherits_approval: StrictBool = True


class LinkPlanRequest(Request):
    """What would happen: publishing with ``link``, unpublishing without."""

    link: LinkBody | None = None
    force: StrictBool = False


class StepView(Response):
    """A step, for programs and in a sentence."""

    kind: str
    sentence: str


class NoteView(Response):
    """Something to know, or something in the way and what to do about it."""

    code: str
    sentence: str
    hint: str = ""


class PlanView(Response):
    """Steps in order; with ``blocks`` none is taken.

    ``digest`` names all of it: whoever publishes or unpublishes with it (``?plan=``) is refused when something else
    would be done by then. Empty where it was made by a control plane that does not know of it.
    """

    steps: tuple[StepView, ...]
    warnings: tuple[NoteView, ...]
    blocks: tuple[NoteView, ...]
    digest: str = ""


class StepProgressView(Response):
    """A step that is on its way: ``waiting``, ``running``, ``retrying`` (because of ``trouble``), ``done``."""

    kind: str
    sentence: str
    state: str
    trouble: str = ""
    since: datetime | None = None
    seconds: float | None = None


class LinkState(StrEnum):
    """Where a link is on its way. ``problem`` of its view says what holds it up."""

    PUBLISHING = "publishing"
    PUBLISHED = "published"
    UNPUBLISHING = "unpublishing"
    #: It was there, and somebody removed it elsewhere.
    MISSING = "missing"


class LinkView(Response):
    """A cluster's link. ``alias`` is what customers are given; empty until the cloud has made it.

    ``progress`` has the steps while it is published or unpublished by the process that answers.
    """

    cluster_id: str
    state: LinkState
    alias: str
    service_id: str
    frontend_id: str
    nat_subnet_id: str
    nat_addresses: tuple[str, ...]
    visible_to: tuple[str, ...]
    approved_at_once: tuple[str, ...]
    has_proxy_protocol: bool
    inherits_approval: bool
    connections: dict[str, int]
    problem: NoteView | None
    published_at: datetime | None
    observed_at: datetime | None
    progress: tuple[StepProgressView, ...] = ()


class Verb(StrEnum):
    """What an operator can do about a connection."""

    APPROVE = "approve"
    REJECT = "reject"
    REMOVE = "remove"


class ConnectionView(Response):
    """An endpoint's connection. ``decided_by`` is an operator, or ``isthmus`` with the reason why.

    ``wanted`` is a decision that the cloud has not taken yet. ``link_id`` is what tokens can be bound to.
    """

    connection_id: str
    endpoint_id: str
    subscription: str
    state: ConnectionState
    wanted: str | None
    reason: str
    message: str
    link_id: int | None
    location: str
    first_seen_at: datetime
    changed_at: datetime
    expires_at: datetime | None
    decided_by: str | None
    decided_at: datetime | None
    version: int
    problem: NoteView | None


class ConnectionPage(Response):
    """The connections of a link, the oldest first."""

    connections: tuple[ConnectionView, ...]
    next_after: str | None = None


class DecisionBody(Request):
    """Why, for the customer to see; and the version that was looked at, if a change meanwhile should count."""

    reason: Text = ""
    version: int | None = Field(default=None, ge=1, le=2**31 - 1, strict=True)


class DeploymentSight(Response):
    """A deployment as it was seen last: ``observed_at`` and ``deployment`` are of its last answer, if there was one.

    ``problem`` says why it does not answer now, and is null while it does. ``more_agents``: it has more than are shown.
    """

    cluster_id: str
    deployment_id: str
    url: str
    problem: NoteView | None
    observed_at: datetime | None
    deployment: DeploymentView | None
    more_agents: bool = False


class AgentSight(Response):
    """An agent as its deployment sees it, with the connection that it came through last, and what is wrong with it.

    ``reason`` is null for an agent that is healthy, and has a stable code otherwise. ``heartbeat_seconds_ago`` goes by
    the deployment's clock, at the time of the look. The agent's last verification is at ``ADMIN_AGENT``.
    """

    cluster_id: str
    deployment_id: str
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
    warnings: tuple[AgentWarning, ...]
    token_id: str
    path: PathKind
    link_id: int | None
    address: str | None
    path_since: datetime | None
    last_heartbeat_at: datetime | None
    heartbeat_seconds_ago: float | None
    verified: ProbeStatus | None
    verified_at: datetime | None
    connection_id: str | None
    connection_state: ConnectionState | None
    endpoint_id: str | None
    reason: NoteView | None


class OverviewView(Response):
    """What is registered and how it is doing: deployments by id, agents by deployment and name."""

    deployments: tuple[DeploymentSight, ...]
    agents: tuple[AgentSight, ...]


class ExpectationKind(StrEnum):
    """What is expected: one endpoint, or any of a subscription."""

    ENDPOINT = "endpoint"
    SUBSCRIPTION = "subscription"


class ExpectationCreateRequest(Request):
    """Approve what matches, as it appears. Exactly one of the two is given."""

    endpoint_id: EndpointId | None = None
    subscription: Subscription | None = None
    reason: Text = ""


class ExpectationView(Response):
    """What is approved as it appears."""

    expectation_id: str
    kind: ExpectationKind
    value: str
    reason: str
    created_by: str
    created_at: datetime
    matched_at: datetime | None


class ExpectationPage(Response):
    """What is expected, newest first."""

    expectations: tuple[ExpectationView, ...]
    next_after: str | None = None


class OperatorRole(StrEnum):
    """``viewer`` looks, ``admin`` changes."""

    ADMIN = "admin"
    VIEWER = "viewer"


class OperatorCreateRequest(Request):
    """A person or a program that may use this API."""

    name: OperatorName
    role: OperatorRole = OperatorRole.VIEWER


class OperatorView(Response):
    """An operator without the token."""

    name: str
    role: OperatorRole
    created_by: str
    created_at: datetime
    revoked_at: datetime | None
    last_used_at: datetime | None


class OperatorCreated(Response):
    """The only time that the token is shown."""

    operator: OperatorView
    secret: str = Field(repr=False)


class OperatorPage(Response):
    """Operators, by name."""

    operators: tuple[OperatorView, ...]
    next_after: str | None = None


class AuditEntry(Response):
    """Who did what, from where, and what it was before and after."""

    entry_id: int
    at: datetime
    operator: str
    source_address: str | None
    action: str
    subject: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class AuditPage(Response):
    """The audit log, newest first."""

    entries: tuple[AuditEntry, ...]
    next_before: int | None = None


class ControlHealthView(Response):
    """``GET /healthz``: what is wrong with this process and its links, the worst first."""

    status: HealthStatus
    version: str
    warnings: tuple[AgentWarning, ...]
