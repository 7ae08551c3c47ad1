"""The life of a workload: its states, the events that move it, and nothing else.

``transition`` is the one place that says what may follow what. The SQL in ``leasing`` moves many rows at once under the
same rules; a Hypothesis state machine holds the two against each other.

::

    queued ──claim──► leased ──start──► running ──settle──► succeeded | failed
      ▲                 │                  ├─expire───────► lost
      └─release, expire─┘                  └─(cancel asks; the agent's settlement ends it)─► failed | cancelled
    queued, leased ──cancel──► cancelled
"""

from enum import StrEnum
from typing import Final

from isthmus.wire.admin import WorkloadState as State


class Event(StrEnum):
    """What can happen to a workload."""

    CLAIM = "claim"
    START = "start"
    RELEASE = "release"
    SUCCEED = "succeed"
    FAIL = "fail"
    CANCEL = "cancel"
    EXPIRE = "expire"
    #: The agent was replaced by a new process of the same name, or removed: nothing that it held is alive.
    ABANDON = "abandon"


ACTIVE: Final = frozenset({State.LEASED, State.RUNNING})
SETTLED: Final = frozenset({State.SUCCEEDED, State.FAILED, State.LOST, State.CANCELLED})

_TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.QUEUED, Event.CLAIM): State.LEASED,
    (State.QUEUED, Event.CANCEL): State.CANCELLED,
    (State.LEASED, Event.START): State.RUNNING,
    (State.LEASED, Event.RELEASE): State.QUEUED,
    (State.LEASED, Event.EXPIRE): State.QUEUED,
    (State.LEASED, Event.ABANDON): State.QUEUED,
    (State.LEASED, Event.CANCEL): State.CANCELLED,
    (State.RUNNING, Event.SUCCEED): State.SUCCEEDED,
    (State.RUNNING, Event.FAIL): State.FAILED,
    (State.RUNNING, Event.EXPIRE): State.LOST,
    (State.RUNNING, Event.ABANDON): State.LOST,
    # Asking a running workload to stop does not stop it: the state stays until the agent settles or the lease ends.
    (State.RUNNING, Event.CANCEL): State.RUNNING,
}


class ForbiddenTransitionError(ValueError):
    """The event cannot happen in this state; nothing changed."""


def transition(state: State, event: Event, *, cancel_requested: bool = False) -> State:
    """The state after ``event``. Raises ForbiddenTransitionError.

    A running workload that was asked to stop and then fails was cancelled: the failure is what was asked for.
    """
    try:
        after = _TRANSITIONS[state, event]
    except KeyError:
        raise ForbiddenTransitionError(f"{event} cannot happen to a workload that is {state}") from None
    if cancel_requested and (state, event) == (State.RUNNING, Event.FAIL):
        return State.CANCELLED
    return after


def forbidden() -> list[tuple[State, Event]]:
    """Every pair that must not happen, for the tests."""
    return [(state, event) for state in State for event in Event if (state, event) not in _TRANSITIONS]
