"""Bodies by which an agent joins a deployment and stays in touch with it: enrolment and heartbeat.

A heartbeat never shares a request with work, so a slow claim cannot make an agent look dead. Its answer carries the
plane's commands; there is no inbound channel.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final
from uuid import UUID

from pydantic import Field, StringConstraints

from isthmus.wire.bodies import Request, Response
from isthmus.wire.names import AgentName, Privacy, QueueName, Role
from isthmus.wire.probes import ProbeOrder, ProbeReport

Slots = Annotated[int, Field(ge=1, le=1024)]
#: What one agent may hold at once; a triggerer holds more than a worker.
MAX_HELD: Final = 100_000
#: At most what every reader of JSON holds exactly (RFC 8259, section 6).
Fence = Annotated[int, Field(ge=1, le=2**53 - 1)]
LabelName = Annotated[str, StringConstraints(min_length=1, max_length=63)]
LabelText = Annotated[str, StringConstraints(max_length=253)]
#: A version as PEP 440 writes it when it is normalised: 3.3.2, 1.4.0b1, 0.2.0.dev3+g1a2b.
VersionText = Annotated[
    str,
    StringConstraints(
        pattern=r"^([0-9]+!)?[0-9]+(\.[0-9]+)*((a|b|rc)[0-9]+)?(\.post[0-9]+)?(\.dev[0-9]+)?(\+[a-z0-9]+(\.[a-z0-9]+)*)?$",
        max_length=64,
    ),
]


class Versions(Request):
    """What the agent runs. ``airflow`` and ``task_sdk`` come from its fork server, which may live in another image."""

    isthmus: VersionText
    airflow: VersionText | None = None
    task_sdk: VersionText | None = None
    python: str = Field(max_length=64)


#: The name of a group of agents, as of an agent.
GroupName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9._]*[a-z0-9])?$", max_length=63)]


class StandbyTerms(Request):
    """For which group an agent stands by, and for how long that must be unable (or able again) before it moves."""

    for_group: GroupName
    after_seconds: float = Field(ge=0, le=86400)


class EnrolmentRequest(Request):
    """``POST enrolments``: I am here, this is what I can do.

    ``instance_id`` is new for each start of the control process. Enrolling under the name of an agent with another
    instance id replaces that instance: its unstarted leases go back to the queue at once, and its started
    workloads are lost.
    """

    name: AgentName
    role: Role
    instance_id: UUID
    queues: tuple[QueueName, ...] = Field(min_length=1, max_length=64)
    slots: int = Field(ge=1, le=MAX_HELD)
    versions: Versions
    labels: dict[LabelName, LabelText] = Field(default_factory=dict, max_length=32)
    group: GroupName | None = None
    standby: StandbyTerms | None = None


class EnrolmentResponse(Response):
    """You are in. All intervals are in seconds."""

    agent_id: UUID
    heartbeat_seconds: float
    claim_wait_seconds: float
    lease_seconds: float
    plane_version: str
    #: The agent lets no more out than this, whatever its own setting says.
    least_privacy: Privacy = Privacy.OPEN
    #: Whether the plane keeps the logs of tasks that have ended (``wire.logs.LogShipmentRequest``).
    ship_logs: bool = False


class Severity(StrEnum):
    """How bad a warning is."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class AgentWarning(Request):
    """One thing that is wrong at the agent; the same list is shown by its ``/healthz``, the CLI and the web page."""

    code: str = Field(max_length=64)
    severity: Severity
    summary: str = Field(max_length=512)
    hint: str = Field(default="", max_length=512)
    since: datetime | None = None


class HeldLease(Request):
    """A lease that the agent holds. ``started`` is true once the plane has confirmed the start."""

    workload_id: UUID
    fence: Fence
    started: bool


class Phase(StrEnum):
    """Where an agent is in its life, as it sees it itself."""

    READY = "ready"
    DRAINING = "draining"
    #: The last heartbeat of an orderly end: nothing is held any more.
    LEFT = "left"


class HeartbeatRequest(Request):
    """``POST heartbeats``: I am alive, and this is what I hold. Extends the listed leases."""

    agent_id: UUID
    instance_id: UUID
    phase: Phase = Phase.READY
    slots_used: int = Field(ge=0, le=MAX_HELD)
    leases: tuple[HeldLease, ...] = Field(default=(), max_length=1024)
    warnings: tuple[AgentWarning, ...] = Field(default=(), max_length=32)
    probe_report: ProbeReport | None = None


class LeaseReference(Request):
    """A workload under a given lease; a report with an older fence is refused."""

    workload_id: UUID
    fence: Fence


class HeartbeatResponse(Response):
    """The plane's commands. They are states, not events: an agent may see the same one many times.

    ``cancel`` names leases to kill; ``lost`` names reported leases that the plane has given up, to be killed as well.
    ``probes`` is there until the plane has the report on it, ``fetch_log`` until it has the log tail of that order.
    """

    heartbeat_seconds: float
    cordoned: bool = False
    drain: bool = False
    cancel: tuple[LeaseReference, ...] = ()
    lost: tuple[LeaseReference, ...] = ()
    probes: ProbeOrder | None = None
    fetch_log: UUID | None = None


#: The most that a log tail has: with all around it less than a plane takes as a body unless it is told otherwise.
MAX_LOG_LINES = 500
MAX_LOG_LINE = 2000
MAX_LOG_BYTES = 192 * 1024


class LogTailRequest(Request):
    """``POST log-tails``: the end of the agent's own log, as ``order_id`` asked for; the newest line last.

    It has no logs of tasks. Taken once for each order; the plane cuts what is over ``MAX_LOG_BYTES``.
    """

    agent_id: UUID
    instance_id: UUID
    order_id: UUID
    lines: tuple[Annotated[str, StringConstraints(max_length=MAX_LOG_LINE)], ...] = Field(max_length=MAX_LOG_LINES)


class LogTailResponse(Response):
    """The plane has the log tail."""
