"""How far links are on their way, step by step, as this process carries them; for people to look at.

It is kept in memory and for as long as the way lasts: whoever is carried by another process, or was carried by one that
died, is shown without steps, and nothing is decided by them.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from isthmus.kit.clocks import Clock
from isthmus.link.reconciling import Began, Event, Planned, Retrying, Took
from isthmus.link.steps import Step


class StepState(StrEnum):
    """Where one step is."""

    WAITING = "waiting"
    RUNNING = "running"
    RETRYING = "retrying"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class StepProgress:
    """A step. ``since`` is when it was begun, ``trouble`` why it is tried again, ``seconds`` what it took."""

    step: Step
    state: StepState = StepState.WAITING
    since: datetime | None = None
    trouble: str = ""
    seconds: float | None = None


class Progress:
    """The steps of all links that are on their way."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: Cluster → the version of its wish, and its steps.
        self._ways: dict[str, tuple[int, list[StepProgress]]] = {}

    def of(self, cluster_id: str) -> Sequence[StepProgress]:
        """The steps of a link; none when it is not on its way, or another process carries it."""
        return tuple(self._ways.get(cluster_id, (0, []))[1])

    def follow(self, cluster_id: str, version: int) -> Callable[[Event], None]:
        """What a link's reconciler tells its events. A wish that is tried again keeps the steps that are done."""
        kept, known = self._ways.get(cluster_id, (version, []))
        way = [one for one in known if kept == version and one.state is StepState.DONE]
        self._ways[cluster_id] = (version, way)

        def tell(event: Event) -> None:
            match event:
                case Planned(plan):
                    under_way = {one.step: one for one in way if one.state is not StepState.DONE}
                    left = [under_way.get(step, StepProgress(step)) for step in plan.steps]
                    way[:] = [one for one in way if one.state is StepState.DONE and one.step not in plan.steps] + left
                case Began(step):
                    self._put(way, step, StepProgress(step, StepState.RUNNING, self._clock.now()))
                case Took(step, seconds):
                    self._put(way, step, StepProgress(step, StepState.DONE, seconds=seconds))
                case Retrying(error, _):
                    self.hold_up(cluster_id, error.summary)
                case _:
                    assert_never(event)

        return tell

    def hold_up(self, cluster_id: str, trouble: str) -> None:
        """What stands in the way of the first step that is not done: it is tried again, now or later."""
        way = self._ways.get(cluster_id, (0, []))[1]
        for index, one in enumerate(way):
            if one.state is not StepState.DONE:
                way[index] = dataclasses.replace(one, state=StepState.RETRYING, trouble=trouble)
                return

    def forget(self, cluster_id: str) -> None:
        """It has arrived."""
        self._ways.pop(cluster_id, None)

    @staticmethod
    def _put(way: list[StepProgress], step: Step, found: StepProgress) -> None:
        for index, one in enumerate(way):
            if one.step == step:
                way[index] = found
                return
        way.append(found)
