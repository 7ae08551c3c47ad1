"""Who this agent is to the plane: it enrols once the fork server is ready, and again when the plane has forgotten it.

The instance id is made once per control process; by it the plane knows a returning agent from a new one (ADR 0006). The
fork server's versions go along, because the plane refuses an Airflow that is newer than its own. An agent whose fork
server does not get ready enrols without them, so that its condition can be seen from the plane; it claims nothing then.
"""

import asyncio
import platform
from collections.abc import Callable
from typing import Final
from uuid import UUID, uuid4

from isthmus import __version__
from isthmus.agent import privacy
from isthmus.agent.client import PlaneClient
from isthmus.agent.config import AgentConfig, Timing
from isthmus.agent.patience import Patience
from isthmus.kit.clocks import Clock
from isthmus.kit.errors import IsthmusError
from isthmus.kit.logs import get
from isthmus.wire import agents, frames
from isthmus.wire.names import Privacy, Role
from isthmus.wire.problems import Code

log = get(component="enrolling")

#: The plane's no to a role, by the deployment's settings or by the token's scope.
ROLE_CODES: Final = frozenset({Code.ROLE_NOT_USED, Code.TOKEN_SCOPE})


class LeftOutError(Exception):
    """The plane does not admit a role that the agent can do without."""


class Membership:
    """The agent's place in the deployment, as long as it has one."""

    def __init__(self, own_privacy: Privacy = Privacy.OPEN) -> None:
        self.instance_id: UUID = uuid4()
        self._own_privacy = own_privacy
        self.terms: agents.EnrolmentResponse | None = None
        #: Set while the agent is enrolled.
        self.enrolled = asyncio.Event()
        self._due = asyncio.Event()
        self._due.set()

    @property
    def agent_id(self) -> UUID:
        """The plane's id for this agent; only while or after it was enrolled."""
        if self.terms is None:
            raise RuntimeError("the agent has never been enrolled")
        return self.terms.agent_id

    @property
    def privacy(self) -> Privacy:
        """The profile in force: the agent's own, or the deployment's where that lets less out."""
        return (
            self._own_privacy if self.terms is None else privacy.stricter(self._own_privacy, self.terms.least_privacy)
        )

    def accepted(self, terms: agents.EnrolmentResponse) -> None:
        """The plane has let us in."""
        self.terms = terms
        self._due.clear()
        self.enrolled.set()

    def forgotten(self) -> None:
        """The plane does not know us, or should know us better: enrol again."""
        self.enrolled.clear()
        self._due.set()

    async def due(self) -> None:
        """Return when an enrolment is due."""
        await self._due.wait()


class Enrolling:
    """The loop that keeps the agent enrolled."""

    def __init__(
        self,
        config: AgentConfig,
        role: Role,
        timing: Timing,
        client: PlaneClient,
        membership: Membership,
        *,
        clock: Clock,
        enrolled: Callable[[], None],
        dispensable: Callable[[], bool] = lambda: False,
    ) -> None:
        """``enrolled`` is called after each enrolment; ``dispensable`` is asked when the plane refuses the role."""
        self._config = config
        self._role = role
        self._dispensable = dispensable
        self._timing = timing
        self._client = client
        self._membership = membership
        self._clock = clock
        self._patience = Patience(timing, clock)
        self._runner: frames.Ready | None = None
        self._runner_known = asyncio.Event()
        self._enrolled = enrolled

    def runner_ready(self, runner: frames.Ready) -> None:
        """The fork server is there; other versions than those that the plane knows are a reason to enrol again."""
        before, self._runner = self._runner, runner
        self._runner_known.set()
        if self._membership.enrolled.is_set() and _versions(before) != _versions(runner):
            self._membership.forgotten()

    async def run(self) -> None:
        """Enrol whenever it is due. Runs until cancelled. Raises LeftOutError."""
        if self._role is Role.WORKER:
            # A component is started once the plane has admitted its role, and tells its versions then.
            await self._clock.wait(self._runner_known, self._timing.runner_patience)
        while True:
            await self._membership.due()
            request = self._request()
            try:
                terms = await self._client.enrol(request)
            except IsthmusError as error:
                if error.code in ROLE_CODES and self._membership.terms is None and self._dispensable():
                    raise LeftOutError(str(error)) from None
                await self._client.rest(error, self._patience.after(error))
                continue
            self._patience.succeeded()
            self._membership.accepted(terms)
            self._enrolled()
            log.info("enrolled", agent_id=str(terms.agent_id), plane=terms.plane_version)
            if request.versions != _versions(self._runner):
                self._membership.forgotten()

    def _request(self) -> agents.EnrolmentRequest:
        config = self._config
        return agents.EnrolmentRequest(
            name=config.name_of(self._role),
            role=self._role,
            instance_id=self._membership.instance_id,
            queues=config.queues,
            slots=config.slots_of(self._role),
            versions=_versions(self._runner),
            labels=config.labels,
            group=config.group,
            standby=None
            if config.standby_for is None
            else agents.StandbyTerms(for_group=config.standby_for, after_seconds=config.standby_seconds),
        )


def _versions(runner: frames.Ready | None) -> agents.Versions:
    if runner is None:
        return agents.Versions(isthmus=__version__, python=platform.python_version())
    return agents.Versions(isthmus=__version__, airflow=runner.airflow, task_sdk=runner.task_sdk, python=runner.python)
