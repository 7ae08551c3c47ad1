"""Bodies by which an agent with the role triggerer runs triggers: load, workloads, events, failures.

load (which triggers are mine, under which fence) → workloads (what they are) → events and failures. The paths are those
of the upstream proposal for a remote triggerer. The fence is the number of Airflow's ``job`` row of this triggerer: a
new one for each instance of an agent, and again for one that the plane had given up. Whatever is said under a fence
that does not hold the trigger any more changes nothing: the holder of today fires the event again.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import Field, JsonValue, StringConstraints

from isthmus.wire.bodies import Request, Response
from isthmus.wire.dags import BundleName
from isthmus.wire.workloads import MAX_CLAIM_WAIT_SECONDS

#: The key of Airflow's ``trigger`` and ``job`` rows: PostgreSQL's integer.
TriggerId = Annotated[int, Field(ge=1, le=2**31 - 1)]
TriggerFence = Annotated[int, Field(ge=1, le=2**31 - 1)]

#: The most triggers that one triggerer may ask for.
MAX_TRIGGERS: Final = 100_000
#: How many workloads are fetched at once, and how many events or failures are told at once.
MAX_WORKLOADS: Final = 200
MAX_REPORTS: Final = 500
#: XComs that one event of the end of a task may bring.
MAX_XCOMS: Final = 256
#: The lines of a traceback, and the characters of each.
MAX_TRACEBACK_LINES: Final = 500
MAX_TRACEBACK_LINE: Final = 4000


class TriggerLoadRequest(Request):
    """``POST triggers/load``: which triggers are mine? Answered at once unless it is as ``revision`` says.

    ``bundles`` are the DAG bundles whose triggers the agent can run; none means any. One load is open at a time; it is
    also the sign of life of the triggerer itself: one that does not ask for a minute loses its triggers.
    """

    agent_id: UUID
    instance_id: UUID
    capacity: int = Field(default=1000, ge=1, le=MAX_TRIGGERS)
    bundles: tuple[BundleName, ...] = Field(default=(), max_length=256)
    revision: str = Field(default="", max_length=64)
    wait_seconds: float = Field(default=MAX_CLAIM_WAIT_SECONDS, ge=0, le=MAX_CLAIM_WAIT_SECONDS)


class TriggerLoadResponse(Response):
    """All triggers that the agent holds now.

    Under one fence a trigger that is missing has ended: somebody acted on its task, or its event has been taken. When
    the fence is another one, or none (the agent takes no triggers: it drains, or is not ready), what is missing runs
    elsewhere, and is dropped without a word to the outside.
    """

    fence: TriggerFence | None = None
    trigger_ids: tuple[TriggerId, ...] = ()
    revision: str = ""


class TriggerWorkloadsRequest(Request):
    """``POST triggers/workloads``: what are these triggers?"""

    agent_id: UUID
    instance_id: UUID
    fence: TriggerFence
    trigger_ids: tuple[TriggerId, ...] = Field(min_length=1, max_length=MAX_WORKLOADS)


class TriggerWorkload(Response):
    """One trigger, as it is to be run.

    ``workload`` is Airflow's own JSON of ``RunTrigger`` with its arguments decrypted and without ``dag_data``, which is
    in ``TriggerWorkloadsResponse.dags`` under ``dag``. ``log_path`` is where Airflow looks for the trigger's log, below
    the agent's log folder; None for a trigger without a task.
    """

    trigger_id: TriggerId
    workload: dict[str, Any] = Field(repr=False)
    dag: str | None = None
    log_path: str | None = None


class TriggerWorkloadsResponse(Response):
    """What was asked for, as far as the agent still holds it."""

    workloads: tuple[TriggerWorkload, ...] = ()
    dags: dict[str, dict[str, Any]] = Field(default_factory=dict, repr=False)


class TriggerOutcome(StrEnum):
    """How a trigger ends its task by itself, without a worker (Airflow's ``BaseTaskEndEvent``)."""

    SUCCESS = "success"
    FAILED = "failed"
    SKIPPED = "skipped"


class TriggerEventReport(Request):
    """One event. ``payload`` and ``xcoms`` are encoded by Airflow's serde; the plane hands them on as they are.

    ``event_id`` is new for each event and the same for a repetition.
    """

    event_id: UUID
    trigger_id: TriggerId
    payload: JsonValue = Field(default=None, repr=False)
    outcome: TriggerOutcome | None = None
    xcoms: dict[Annotated[str, StringConstraints(min_length=1, max_length=512)], JsonValue] = Field(
        default_factory=dict, max_length=MAX_XCOMS, repr=False
    )
    fired_at: datetime | None = None


class TriggerEventsRequest(Request):
    """``POST triggers/events``: these have fired, in this order."""

    agent_id: UUID
    instance_id: UUID
    fence: TriggerFence
    events: tuple[TriggerEventReport, ...] = Field(min_length=1, max_length=MAX_REPORTS)


class TriggerFailure(Request):
    """A trigger that ended without an event; ``traceback`` goes into the log of its task, which fails."""

    trigger_id: TriggerId
    traceback: tuple[Annotated[str, StringConstraints(max_length=MAX_TRACEBACK_LINE)], ...] = Field(
        default=(), max_length=MAX_TRACEBACK_LINES, repr=False
    )


class TriggerFailuresRequest(Request):
    """``POST triggers/failures``: these have failed."""

    agent_id: UUID
    instance_id: UUID
    fence: TriggerFence
    failures: tuple[TriggerFailure, ...] = Field(min_length=1, max_length=MAX_REPORTS)


class TriggerVerdict(StrEnum):
    """The plane's answer for one event or failure; the agent forgets it in each case."""

    ACCEPTED = "accepted"
    #: It was taken before, or nobody waits for the trigger any more: nothing changed.
    DUPLICATE = "duplicate"
    #: The trigger is not this agent's any more: nothing changed, and its holder fires again.
    STALE = "stale"
    #: Airflow could not take the event in: what waits for the trigger was failed, and its log says why.
    UNUSABLE = "unusable"


class TriggerReportsResponse(Response):
    """One verdict for each event or failure, in the same order."""

    verdicts: tuple[TriggerVerdict, ...]
