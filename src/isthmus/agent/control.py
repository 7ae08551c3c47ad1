"""The control process: every loop of the agent, wired together.

::

    enrolling ─► membership ◄─ heartbeating ──commands──► draining, running
    claiming ──leases──► running ──Launch──► forkserver ──Exited──► running ──► settling
    gateway: tasks' calls ──► client ──► the plane

One ``asyncio.TaskGroup`` holds a named loop for each concern. It ends when ``draining`` has ended the agent, when the
plane says that another process has our name, or when a loop fails, which is a bug; in each case nothing that was
started is left behind.
"""

import asyncio
import gc
import platform
import signal
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, Final

import uvloop

from isthmus import __version__
from isthmus.agent import conditions, preparing
from isthmus.agent.claiming import Claiming
from isthmus.agent.client import PlaneClient
from isthmus.agent.config import AgentConfig, Timing
from isthmus.agent.credentials import Credential
from isthmus.agent.draining import Draining
from isthmus.agent.enrolling import Enrolling, Membership
from isthmus.agent.following import Following
from isthmus.agent.forkserver import ForkServer
from isthmus.agent.gateway import Gateway
from isthmus.agent.heartbeating import Heartbeating
from isthmus.agent.metrics import Metrics
from isthmus.agent.patience import ReplacedError
from isthmus.agent.preparing import Prepared
from isthmus.agent.road import Road
from isthmus.agent.running import Running
from isthmus.agent.serving import HealthPage
from isthmus.agent.settling import Settling
from isthmus.agent.verifying import Verifying
from isthmus.kit import guarding, logs
from isthmus.kit.clocks import Clock, SystemClock
from isthmus.kit.errors import ConfigError
from isthmus.kit.health import Health, Occurrence, Severity
from isthmus.wire.names import Role

log = logs.get(component="control")

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class _EndedError(Exception):
    """The agent has ended in order; the way out of its task group."""


def run(config: AgentConfig, timing: Timing | None = None) -> int:
    """Run an agent to its end; the process's exit code.

    0 after draining, 1 when another process took the name. Raises ConfigError for what cannot work from the start, and
    TemporaryError when a former instance does not go.
    """
    timing = timing or Timing()
    logs.configure(config.log_level, config.log_format)
    if config.role is not Role.WORKER:
        raise ConfigError(
            f"the role {config.role} is not there yet", code="role_unavailable", hint="This version runs workers."
        )
    prepared = preparing.prepare(config, timing)
    agent = Agent(config, timing, prepared, SystemClock())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(agent.run())


class Agent:
    """One agent, from its first connection to its last."""

    def __init__(self, config: AgentConfig, timing: Timing, prepared: Prepared, clock: Clock) -> None:
        """Raises ConfigError for a token, certificate or environment file that cannot be used."""
        self._config = config
        self._prepared = prepared
        self._group: asyncio.TaskGroup | None = None
        self._replaced = ""

        self.health = Health(clock)
        self.health.observe(_log_condition)
        self.metrics = Metrics()
        self.road = Road(self.health, clock)
        self.membership = Membership()
        credential = Credential(token=config.token, file=config.token_file)
        self.client = PlaneClient(
            config, timing, credential=credential, health=self.health, road=self.road, clock=clock
        )
        self.enrolling = Enrolling(config, timing, self.client, self.membership, clock=clock, enrolled=self._steered)
        self.settling = Settling(timing, self.client, self.membership, health=self.health, clock=clock)
        self.gateway = Gateway(
            timing,
            self.client,
            self.membership,
            road=self.road,
            outage_seconds=config.outage_seconds,
            metrics=self.metrics,
            clock=clock,
            spool=config.state_dir,
        )
        self.runner = ForkServer(
            config,
            timing,
            user=prepared.task_user,
            lock_fd=prepared.lock_fd,
            health=self.health,
            clock=clock,
        )
        self.draining = Draining(
            timing,
            drain_seconds=config.drain_seconds,
            kill_grace_seconds=config.kill_grace_seconds,
            health=self.health,
            clock=clock,
            begun=self._steered,
        )
        self.running = Running(
            timing,
            self.client,
            self.membership,
            slots=config.slots,
            kill_grace_seconds=config.kill_grace_seconds,
            gateway=self.gateway,
            gateway_socket=str(config.gateway_socket),
            runner=self.runner,
            settling=self.settling,
            metrics=self.metrics,
            clock=clock,
            spawn=self._spawn,
            ready=self.enrolling.runner_ready,
            freed=self._freed,
        )
        self.runner.listen(self.running)
        self.claiming = Claiming(
            timing,
            self.client,
            self.membership,
            running=self.running,
            runner=self.runner,
            metrics=self.metrics,
            clock=clock,
            stopped=self._stopped,
        )
        self.verifying = Verifying(
            config,
            timing,
            self.client,
            health=self.health,
            clock=clock,
            quiet_seconds=self._quiet_seconds,
            reported=self._steered,
        )
        self.following = Following(timing, self.client, clock=clock, moved=self._steered)
        self.heartbeating = Heartbeating(
            timing,
            self.client,
            self.membership,
            running=self.running,
            health=self.health,
            clock=clock,
            phase=lambda: self.draining.phase,
            drain=self.draining.commanded,
            steered=self._steered,
            verifying=self.verifying,
        )
        self.health.observe(lambda _occurrence, _came: self.heartbeating.poke())
        self.page = HealthPage(self.health, self.metrics, state=self._state, refresh=self._refresh_gauges)
        self._note_lasting_conditions(credential)

    async def run(self) -> int:
        """Run to the end; the exit code."""
        config = self._config
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self.draining.signalled, number.name)
        log.info("starting", name=config.name, url=config.url, queues=list(config.queues), slots=config.slots)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.gateway.server.close)
            stack.push_async_callback(self.page.close)
            stack.push_async_callback(self.client.caller.close)
            # Whatever ends the loops, no process of ours is left behind.
            stack.push_async_callback(self.runner.stop)
            await self.gateway.server.listen(self._prepared.gateway)
            await self.page.open(config.health_listen)
            # What was loaded stays for ever: the collector need not look at it again.
            gc.collect()
            gc.freeze()
            try:
                await self._run_loops()
            except* _EndedError:
                pass
            except* ReplacedError as group:
                self._replaced = str(group.exceptions[0])
        if self._replaced:
            log.error("ended: another process has this agent's name", error=self._replaced)
            return 1
        return 0

    async def _run_loops(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            guarding.start(group, "health", self.health.watch())
            guarding.start(group, "forkserver", self.runner.run(), ends=True)
            guarding.start(group, "enrolling", self.enrolling.run())
            guarding.start(group, "heartbeating", self.heartbeating.run())
            guarding.start(group, "claiming", self.claiming.run())
            guarding.start(group, "settling", self.settling.run())
            guarding.start(group, "following", self.following.run())
            guarding.start(group, "verifying", self.verifying.run())
            guarding.start(group, "draining", self._end())

    async def _end(self) -> None:
        await self.draining.run(self.running, self.runner, self.settling, self.heartbeating)
        raise _EndedError

    # --- what the parts tell each other ---

    def _spawn(self, name: str, coroutine: Coroutine[Any, Any, None]) -> object:
        if self._group is None:
            raise RuntimeError("the agent does not run")
        return guarding.start(self._group, name, coroutine, ends=True)

    def _stopped(self) -> bool:
        return self.heartbeating.cordoned or self.draining.phase is not self.draining.phase.READY

    def _steered(self) -> None:
        self.claiming.look()
        self.heartbeating.poke()

    def _freed(self) -> None:
        self.claiming.look()
        self.draining.look()

    def _quiet_seconds(self) -> float:
        """The longest pause on a connection: what a claim waits, or from one heartbeat to the next."""
        terms = self.membership.terms
        return 0.0 if terms is None else max(terms.claim_wait_seconds, terms.heartbeat_seconds)

    # --- what is shown ---

    def _note_lasting_conditions(self, credential: Credential) -> None:
        if self._prepared.one_user:
            self.health.raise_(
                conditions.ONE_USER,
                "tasks run under the agent's own user, which may read the agent token",
                "In production start the agent as root with user and task_user.",
            )
        if credential.exposed:
            self.health.raise_(
                conditions.TOKEN_EXPOSED,
                f"others than its owner may read the token file {self._config.token_file}",
                "Give it mode 0600.",
            )

    def _state(self) -> dict[str, Any]:
        terms = self.membership.terms
        runner = self.runner.versions
        return {
            "name": self._config.name,
            "role": self._config.role.value,
            "phase": self.draining.phase.value,
            "agent_id": None if terms is None else str(terms.agent_id),
            "enrolled": self.membership.enrolled.is_set(),
            "plane_reachable": self.road.is_open,
            "cordoned": self.heartbeating.cordoned,
            "queues": list(self._config.queues),
            "slots": self._config.slots,
            "slots_used": self.running.used,
            "unsettled": self.settling.pending,
            "versions": {
                "isthmus": __version__,
                "python": platform.python_version(),
                "airflow": None if runner is None else runner.airflow,
                "task_sdk": None if runner is None else runner.task_sdk,
            },
        }

    def _refresh_gauges(self) -> None:
        metrics = self.metrics
        metrics.build.info({"version": __version__})
        metrics.slots.set(self._config.slots)
        metrics.slots_used.set(self.running.used)
        metrics.road_open.set(self.road.is_open)
        metrics.enrolled.set(self.membership.enrolled.is_set())
        metrics.unsettled.set(self.settling.pending)
        metrics.runner_failures.set(self.runner.failures)
        metrics.connections.set(self.client.caller.connected)
        shown = [one.severity for one in self.health.visible()]
        for severity in Severity:
            metrics.warnings.labels(severity.value).set(shown.count(severity))


def _log_condition(occurrence: Occurrence, came: bool) -> None:
    if not came:
        log.info("over", condition=occurrence.code, was=occurrence.summary)
        return
    write = {Severity.INFO: log.info, Severity.WARNING: log.warning, Severity.ERROR: log.error}[occurrence.severity]
    write(occurrence.summary, condition=occurrence.code, hint=occurrence.hint)
