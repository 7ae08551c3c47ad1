"""The roles dag-processor and triggerer: a component does the work, and talks to the plane through the gateway.

A component is a program of the runner's (``python -m isthmus.runner dag-processor``), started once the plane has
admitted the role, as the task user and without the agent token: it runs customers' code. It says ``Ready``, is told by
``Begin`` who it is to the plane and how to reach it, and says by ``Status`` how it is. One that dies is started again;
what it had in hand is with the plane, under leases that the next one takes up.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from isthmus.agent import children, conditions
from isthmus.agent.members import Member, Shared
from isthmus.kit import guarding, logs
from isthmus.kit.health import Condition, Severity
from isthmus.wire import agents, frames, paths
from isthmus.wire.names import Role

log = logs.get(component="components")


@dataclass(frozen=True, slots=True)
class Kind:
    """What is particular to a component."""

    title: str
    #: What it may call of the agent API, as the beginning of a path.
    prefixes: tuple[str, ...]


KINDS: Final = {
    Role.DAG_PROCESSOR: Kind("the DAG processor", (f"{paths.DAG_PROCESSING_PREFIX}/",)),
    Role.TRIGGERER: Kind("the triggerer", (f"{paths.AGENT_PREFIX}/triggers/",)),
}


class ComponentProcess(children.Child):
    """A component's process, over all its restarts."""

    condition = conditions.COMPONENT_DOWN

    def __init__(self, role: Role, shared: Shared, member: "Component") -> None:
        """Raises ConfigError for an environment file that cannot be used."""
        super().__init__(
            [*shared.config.runner_command, role.value],
            children.task_environment(shared.config, shared.prepared.task_user),
            shared.timing,
            user=shared.prepared.task_user,
            lock_fd=shared.prepared.lock_fd,
            health=member.health,
            clock=shared.clock,
            spared=lambda: {pid for pid in shared.pids() if pid != self.pid},
        )
        self.title = KINDS[role].title
        self._member = member

    def greeted(self, ready: frames.Ready) -> None:
        """It can begin."""
        self._member.component_ready(ready)

    def take(self, frame: frames.Frame) -> None:
        """How it is."""
        if not isinstance(frame, frames.Status):
            super().take(frame)
        else:
            self._member.told(frame)

    def lost(self, detail: str) -> None:
        """What it said of itself was about the one that is gone."""
        self._member.told(frames.Status())


class Component(Member):
    """The member whose work a component does."""

    def __init__(self, role: Role, shared: Shared) -> None:
        """Raises ConfigError for a certificate or an environment file that cannot be used."""
        super().__init__(role, shared)
        self._gateway_token = self.gateway.admit_component(KINDS[role].prefixes)
        self._process = ComponentProcess(role, shared, self)
        self._shown: dict[str, Condition] = {}
        self._status = frames.Status()
        self._begin_with(self)

    @property
    def child(self) -> ComponentProcess:
        """The component's process."""
        return self._process

    # --- what is held ---

    @property
    def used(self) -> int:
        """What the component says."""
        return self._status.slots_used

    def leases(self) -> tuple[agents.HeldLease, ...]:
        """None: a component keeps its own leases by its own calls."""
        return ()

    def kill(self, reference: agents.LeaseReference, reason: str) -> None:
        """There is nothing to kill."""

    # --- the component ---

    def steered(self) -> None:
        """Tell the component who it is: the plane may have let us in, or in again."""
        self._begin()
        super().steered()

    def component_ready(self, ready: frames.Ready) -> None:
        """It is there; its versions go to the plane."""
        self.enrolling.runner_ready(ready)
        self._begin()

    def told(self, status: frames.Status) -> None:
        """Show what is wrong there, and no longer what was."""
        self._status = status
        wrong = {one.code: one for one in status.warnings}
        for code in self._shown.keys() - wrong.keys():
            self.health.clear(self._shown.pop(code))
        for code, one in wrong.items():
            condition = self._shown.setdefault(code, Condition(code, Severity(one.severity.value)))
            self.health.raise_(condition, one.summary, one.hint)

    def _begin(self) -> None:
        terms = self.membership.terms
        if terms is None or not self.membership.enrolled.is_set():
            return
        config = self._shared.config
        frame = frames.Begin(
            agent_id=terms.agent_id,
            instance_id=self.membership.instance_id,
            slots=config.slots_of(self.role),
            gateway_socket=str(config.gateway_socket(self.role)),
            gateway_token=self._gateway_token,
            privacy=self.membership.privacy,
        )
        self._process.send(frames.encode(frame))

    # --- life ---

    def _loops(self, group: asyncio.TaskGroup) -> None:
        guarding.start(group, "component", self._run_component(), ends=True)

    async def _run_component(self) -> None:
        await self.membership.enrolled.wait()
        await self._process.run()

    async def _end_of_work(self) -> None:
        await self._process.stop()
