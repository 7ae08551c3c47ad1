"""What an agent is in each of its roles: a member of the deployment, with a name, a health and an end of its own.

To the plane a role is an agent (it enrols, heartbeats, is cordoned, drained, removed); a control process has as many as
it has roles. They share the process, the token and nothing else: each has its own connections to the plane and its own
list of what is wrong, so that a refusal of one role says nothing about another.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any

from isthmus.agent import children, conditions, logfiles, privacy
from isthmus.agent.children import Child
from isthmus.agent.client import PlaneClient
from isthmus.agent.config import AgentConfig, Timing
from isthmus.agent.credentials import Credential
from isthmus.agent.draining import Draining, Work
from isthmus.agent.enrolling import Enrolling, LeftOutError, Membership
from isthmus.agent.following import Following
from isthmus.agent.gateway import Gateway
from isthmus.agent.heartbeating import Heartbeating, Holder
from isthmus.agent.logsending import LogHome, LogSending
from isthmus.agent.metrics import Metrics
from isthmus.agent.patience import ReplacedError
from isthmus.agent.preparing import Prepared
from isthmus.agent.road import Road
from isthmus.agent.tailing import Tailing
from isthmus.agent.verifying import Verifying
from isthmus.kit import guarding, logs
from isthmus.kit.clocks import Clock
from isthmus.kit.health import Health, Occurrence, Severity
from isthmus.wire import frames
from isthmus.wire.names import Role

log = logs.get(component="control")


class _EndedError(Exception):
    """The member has ended in order; the way out of its task group."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What the members of one control process have in common."""

    config: AgentConfig
    timing: Timing
    prepared: Prepared
    clock: Clock
    tail: logs.Tail
    metrics: Metrics
    credential: Credential
    #: Whether a role that the plane refuses may be left out, of those that are left.
    dispensable: Callable[[Role], bool]
    #: The processes of all members' children.
    pids: Callable[[], Collection[int]]
    #: What the last child that is ready said of the Airflow that it brings.
    airflow: Callable[[], frames.Ready]


class Member(ABC):
    """One role of an agent, from its first connection to its last."""

    heartbeating: Heartbeating
    _held: Holder

    def __init__(self, role: Role, shared: Shared) -> None:
        """Raises ConfigError for a certificate that cannot be used."""
        config, timing, clock = shared.config, shared.timing, shared.clock
        self.role = role
        self._shared = shared
        self._group: asyncio.TaskGroup | None = None
        #: Why the role was left out; empty while it is not.
        self.left_out = ""
        self.health = Health(clock)
        self.health.observe(self._log_condition)
        self.road = Road(self.health, clock)
        self.membership = Membership(config.privacy)
        self.client = PlaneClient(
            config, timing, credential=shared.credential, health=self.health, road=self.road, clock=clock
        )
        self.gateway = Gateway(
            timing,
            self.client,
            self.membership,
            road=self.road,
            outage_seconds=config.outage_seconds,
            metrics=shared.metrics,
            clock=clock,
            spool=config.state_dir,
            references=config.privacy_references,
        )
        self.enrolling = Enrolling(
            config,
            role,
            timing,
            self.client,
            self.membership,
            clock=clock,
            enrolled=self.steered,
            dispensable=lambda: shared.dispensable(role),
        )
        self.draining = Draining(
            timing,
            drain_seconds=config.drain_seconds,
            kill_grace_seconds=config.kill_grace_seconds,
            health=self.health,
            clock=clock,
            begun=self.steered,
        )
        self.verifying = Verifying(
            config,
            timing,
            self.client,
            health=self.health,
            clock=clock,
            quiet_seconds=self._quiet_seconds,
            reported=self.steered,
        )
        self.tailing = Tailing(self.client, self.membership, shared.tail)
        environment = children.task_environment(config, shared.prepared.task_user)
        self.log_home = LogHome(
            folder=lambda: logfiles.folder_of(environment, shared.airflow().log_folder),
            has_store=lambda: shared.airflow().remote_logs,
            shown=lambda: privacy.shows_logs(self.membership.privacy, config.show_logs),
            command=(*config.runner_command, "log-reading"),
            environment=environment,
            user=shared.prepared.task_user,
        )
        self.log_sending = LogSending(
            timing,
            self.client,
            self.membership,
            self.log_home,
            clock=clock,
            spawn=self._spawn,
        )
        self.following = Following(timing, self.client, clock=clock, moved=self.steered)

    # --- what the kinds of members add ---

    @property
    @abstractmethod
    def child(self) -> Child:
        """The program that does the work."""

    def _begin_with(self, holder: Holder) -> None:
        """The last step of making a member: ``holder`` says what is held."""
        timing, clock = self._shared.timing, self._shared.clock
        self._held = holder
        self.heartbeating = Heartbeating(
            timing,
            self.client,
            self.membership,
            running=holder,
            health=self.health,
            clock=clock,
            phase=lambda: self.draining.phase,
            drain=self.draining.commanded,
            steered=self.steered,
            verifying=self.verifying,
            tailing=self.tailing,
        )
        self.health.observe(lambda _occurrence, _came: self.heartbeating.poke())

    @abstractmethod
    def _loops(self, group: asyncio.TaskGroup) -> None:
        """Start what only this kind of member has."""

    def _work(self) -> Work | None:
        """What is left to finish when the member drains."""
        return None

    @abstractmethod
    async def _end_of_work(self) -> None:
        """Stop the child and report what is left to report."""

    def steered(self) -> None:
        """Something has changed that decides about work, or that the plane should see soon."""
        self.heartbeating.poke()

    # --- life ---

    async def run(self) -> None:
        """Be this member to its end. Raises ReplacedError when another process has taken the name."""
        replaced = ""
        try:
            await self.gateway.server.listen(self._shared.prepared.gateways[self.role])
            await self._run_loops()
        except* _EndedError:
            pass
        except* LeftOutError as group:
            self._leave_out(str(group.exceptions[0]))
        except* ReplacedError as group:
            replaced = str(group.exceptions[0])
        finally:
            # Whatever ends the loops, no process of ours is left behind.
            await self.child.stop()
            await self.client.caller.close()
            await self.gateway.server.close()
        if replaced:
            raise ReplacedError(replaced)

    async def _run_loops(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            guarding.start(group, "health", self.health.watch())
            guarding.start(group, "enrolling", self.enrolling.run())
            guarding.start(group, "heartbeating", self.heartbeating.run())
            guarding.start(group, "following", self.following.run())
            guarding.start(group, "verifying", self.verifying.run())
            guarding.start(group, "tailing", self.tailing.run())
            if self.role is not Role.DAG_PROCESSOR:
                guarding.start(group, "task logs", self.log_sending.run())
            self._loops(group)
            guarding.start(group, "draining", self._end())

    async def _end(self) -> None:
        await self.draining.run(self._work(), self._leave)
        raise _EndedError

    async def _leave(self) -> None:
        await self._end_of_work()
        heard = await self.heartbeating.farewell(self._shared.timing.farewell)
        log.info("left", role=self.role.value, plane_knows=heard)

    def _leave_out(self, reason: str) -> None:
        self.left_out = reason
        self.health.clear(conditions.REFUSED)
        self.health.raise_(
            conditions.ROLE_LEFT_OUT,
            f"the role {self.role} is left out: {reason}",
            "It was not asked for by name. Set role to what the agent is to do, and this goes away.",
        )

    def _spawn(self, name: str, coroutine: Coroutine[Any, Any, None]) -> object:
        if self._group is None:
            raise RuntimeError("the member does not run")
        return guarding.start(self._group, name, coroutine, ends=True)

    def _siblings(self) -> Collection[int]:
        """The processes of the other members' children."""
        return {pid for pid in self._shared.pids() if pid != self.child.pid}

    def _quiet_seconds(self) -> float:
        """The longest pause on a connection: what a claim waits, or from one heartbeat to the next."""
        terms = self.membership.terms
        return 0.0 if terms is None else max(terms.claim_wait_seconds, terms.heartbeat_seconds)

    # --- what is shown ---

    @property
    def used(self) -> int:
        """Slots that are taken."""
        return self._held.used

    def state(self) -> dict[str, Any]:
        """What ``/healthz`` says of this member."""
        terms, child = self.membership.terms, self.child.versions
        return {
            "name": self._shared.config.name_of(self.role),
            "role": self.role.value,
            "phase": "left_out" if self.left_out else self.draining.phase.value,
            "agent_id": None if terms is None else str(terms.agent_id),
            "enrolled": self.membership.enrolled.is_set(),
            "plane_reachable": self.road.is_open,
            "cordoned": self.heartbeating.cordoned,
            "privacy": self.membership.privacy.value,
            "queues": list(self._shared.config.queues),
            "slots": self._shared.config.slots_of(self.role),
            "slots_used": self.used,
            "airflow": None if child is None else child.airflow,
            "task_sdk": None if child is None else child.task_sdk,
        }

    def _log_condition(self, occurrence: Occurrence, came: bool) -> None:
        if not came:
            log.info("over", role=self.role.value, condition=occurrence.code, was=occurrence.summary)
            return
        write = {Severity.INFO: log.info, Severity.WARNING: log.warning, Severity.ERROR: log.error}[occurrence.severity]
        write(occurrence.summary, role=self.role.value, condition=occurrence.code, hint=occurrence.hint)
