"""Deaths at a moment of a call: before the plane has a request, or after it has done it and nobody knows."""

from collections.abc import Callable
from enum import StrEnum

from faults.harness import waits
from faults.harness.agents import Agent
from faults.harness.proxies import Checkpoint, Seen
from isthmus.wire import paths


class Who(StrEnum):
    """Who dies."""

    COMPONENT = "component"
    AGENT = "agent"
    API = "api"


class Moment(StrEnum):
    """Where the request is then."""

    BEFORE = "before"
    AFTER = "after"


class Moments:
    """An agent whose calls go through a checkpoint. ``component`` is what its command is known by."""

    def __init__(self, agent: Agent, checkpoint: Checkpoint, component: str) -> None:
        self.agent = agent
        self.checkpoint = checkpoint
        self._component = component
        self._lost = 0

    def watch(self, moment: Moment, path: str, when: Callable[[Seen], bool] = lambda _: True) -> None:
        """Be ready for ``strike``. ``when`` tells which answer is lost."""
        self._lost = len(self.checkpoint.dropped())
        if moment is Moment.BEFORE:
            self.checkpoint.hold(path)
        else:
            # A task that starts before the kill would fail with its agent, as it has to.
            self.checkpoint.drop_answer(path, when, then_hold=paths.STARTS)

    def strike(self, moment: Moment, who: Who) -> None:
        """Kill as soon as a request that is watched for is where ``moment`` says."""
        if moment is Moment.BEFORE:
            self.checkpoint.await_held(60)
            self._kill(who)
            self.checkpoint.release()  # what was on its way arrives late
        else:
            waits.until("an answer is lost", lambda: len(self.checkpoint.dropped()) > self._lost, seconds=60)
            self._kill(who)
            self.checkpoint.release(forget=True)

    def _kill(self, who: Who) -> None:
        """End one of them, and have it started again as a service manager does."""
        match who:
            case Who.COMPONENT:
                component = self.agent.component(self._component)
                component.kill()
                component.wait(10)
            case Who.AGENT:
                self.agent.kill()
                self.agent.control.start()
            case Who.API:
                plane = self.agent.plane
                plane.api.kill_group()
                plane.api.start()
                plane.await_api()
