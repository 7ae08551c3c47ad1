"""Bodies of a verification: what the plane says to a probe, what it asks of an agent, and what an agent found.

The report travels with a heartbeat and is kept for people to look at; nothing is decided by it.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import Field, IPvAnyAddress, StringConstraints

from isthmus.wire.bodies import Request, Response
from isthmus.wire.names import ConnectionState, PathKind, Role

#: More rows than this no verification has.
MAX_ROWS = 32
Line = Annotated[str, StringConstraints(max_length=512)]


class ProbeStatus(StrEnum):
    """How one probe ended. SKIP: not looked at, because what it rests on failed or it does not apply."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


class ProbeRow(Request):
    """One line of a report: what was looked at, what was seen, what to do about it. ``code`` names the cause."""

    check: Annotated[str, StringConstraints(max_length=64)]
    target: Line
    status: ProbeStatus
    details: Line
    remedy: Line = ""
    took_seconds: float = Field(default=0.0, ge=0, le=3600, allow_inf_nan=False)
    code: Annotated[str, StringConstraints(max_length=64)] = ""


class ProbeReport(Request):
    """One verification; ``status`` is the worst of its rows. ``order_id`` names the order that it answers.

    Not ``finished``: the rows so far, of an order that asked for them; more follow with the next heartbeats.
    """

    order_id: UUID | None = None
    url: Line
    started_at: datetime
    status: ProbeStatus
    rows: tuple[ProbeRow, ...] = Field(max_length=MAX_ROWS)
    #: Left out when it is true: a plane that asks for no rows in between does not know it.
    finished: bool = Field(default=True, exclude_if=bool)


class KnownConnection(Response):
    """The connection of an endpoint, as the cloud or the control plane has it. ``reason`` was said with the decision.

    From inside the network a pending, a rejected and a removed one look alike: silence.
    """

    endpoint: Line
    state: ConnectionState
    reason: Line = ""


class ProbeOrder(Response):
    """Run probes and send the report with a heartbeat, once for each ``order_id``.

    ``endpoint`` is the private endpoint's address, if the plane was told it; ``public_addresses`` are the cluster's, to
    be asked whether they refuse; ``public_allowed`` says that a public path is as it should be. ``connection`` is the
    endpoint's, where whoever ordered knows it. ``live`` asks for the rows as they come, before the report is finished.
    """

    order_id: UUID
    endpoint: IPvAnyAddress | None = None
    public_addresses: tuple[IPvAnyAddress, ...] = ()
    public_allowed: bool = True
    connection: KnownConnection | None = None
    live: bool = False


class ProbedAgent(Response):
    """An agent of the token that asked: by which path it came last, and how long ago."""

    name: str
    role: Role
    healthy: bool
    left: bool
    path: PathKind
    link_id: int | None
    address: str | None
    heartbeat_seconds_ago: float | None


class ProbeResponse(Response):
    """``GET probe``: how the plane sees the caller. ``agents`` are those of the token, the last heard first."""

    deployment_id: str
    plane_version: str
    now: datetime
    restricted: bool
    source_address: str
    path: PathKind
    link_id: int | None
    token_id: str
    token_name: str
    token_expires_at: datetime | None
    token_roles: tuple[Role, ...]
    token_queues: tuple[str, ...]
    token_links: tuple[int, ...]
    agents: tuple[ProbedAgent, ...]
