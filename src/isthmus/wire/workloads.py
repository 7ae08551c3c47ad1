"""Bodies by which work reaches an agent and its outcome comes back: claim, start, settle, and the task token.

claim (lease, fence n) → start (confirmed, or refused when the lease is gone) → settle. At most once to start, never
lost: a lease that ends before the start goes back to the queue; a claim whose answer was lost is repeated with the
same ``claim_id`` and gets the same leases; settling twice does no harm.
"""

from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from isthmus.wire.agents import Fence, LeaseReference
from isthmus.wire.bodies import Request, Response
from isthmus.wire.names import Kind

#: The longest that a claim may be held open: proxies and Azure's load balancers cut what is idle for longer (240 s),
#: and an agent must notice a dead path soon.
MAX_CLAIM_WAIT_SECONDS = 25.0


class ClaimRequest(Request):
    """``POST claims``: I have free slots; answer when there is work, or with nothing after ``wait_seconds``.

    An agent has one claim open at a time. ``claim_id`` is new for each claim; a repetition after a lost answer sends
    the same one with ``repeated``.
    """

    agent_id: UUID
    instance_id: UUID
    claim_id: UUID
    free_slots: int = Field(ge=1, le=1024)
    wait_seconds: float = Field(default=MAX_CLAIM_WAIT_SECONDS, ge=0, le=MAX_CLAIM_WAIT_SECONDS)
    repeated: bool = False


class LeasedWorkload(Response):
    """A workload under lease.

    ``payload`` is Airflow's own JSON of ``ExecuteTask``, ``ExecuteCallback`` or ``TestConnection`` without its token;
    ``task_token`` is Airflow's token, minted now. The control process keeps the token; tasks never see it.
    """

    workload_id: UUID
    fence: Fence
    kind: Kind
    queue: str
    display_name: str
    payload: dict[str, Any]
    task_token: str = Field(repr=False)
    lease_seconds: float


class ClaimResponse(Response):
    """The leases; none when the wait ended without work."""

    workloads: tuple[LeasedWorkload, ...] = ()


class StartRequest(Request):
    """``POST starts``: may I start these?"""

    agent_id: UUID
    instance_id: UUID
    leases: tuple[LeaseReference, ...] = Field(min_length=1, max_length=1024)


class StartVerdict(StrEnum):
    """The plane's answer for one lease."""

    CONFIRMED = "confirmed"
    #: The lease ended, or the workload was cancelled: drop it.
    REFUSED = "refused"


class StartedLease(Response):
    """The verdict on one lease."""

    workload_id: UUID
    fence: Fence
    verdict: StartVerdict


class StartResponse(Response):
    """One verdict per lease that was asked for, in the same order."""

    verdicts: tuple[StartedLease, ...]


class Outcome(StrEnum):
    """How a workload ended at the agent."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    #: Given back before it was started, as when an agent drains: it goes back to the queue at once.
    RELEASED = "released"


#: What a process can end with, and what a column holds: negative for a signal.
ExitCode = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]


class Settlement(Request):
    """The outcome of one lease. ``detail`` is for people: why it failed."""

    workload_id: UUID
    fence: Fence
    outcome: Outcome
    exit_code: ExitCode | None = None
    detail: Annotated[str, Field(max_length=2000)] = ""


class SettleRequest(Request):
    """``POST settlements``: these have ended."""

    agent_id: UUID
    instance_id: UUID
    settlements: tuple[Settlement, ...] = Field(min_length=1, max_length=1024)


class SettleVerdict(StrEnum):
    """The plane's answer for one settlement; the agent forgets the lease in each case."""

    SETTLED = "settled"
    #: The same lease was settled before: nothing changed.
    DUPLICATE = "duplicate"
    #: The fence is not the current one, or the plane had given the lease up: nothing changed.
    STALE = "stale"


class SettledLease(Response):
    """The verdict on one settlement."""

    workload_id: UUID
    fence: Fence
    verdict: SettleVerdict


class SettleResponse(Response):
    """One verdict per settlement, in the same order."""

    verdicts: tuple[SettledLease, ...]


class TaskTokenRequest(Request):
    """``POST workloads/{id}/token``: mint the task token anew, as after an outage that outlived it."""

    agent_id: UUID
    instance_id: UUID
    fence: Fence


class TaskTokenResponse(Response):
    """A fresh task token for the same workload."""

    task_token: str = Field(repr=False)
