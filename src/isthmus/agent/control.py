"""The control process: one member of the deployment for each role, in one event loop, with one page and one end.

::

    control ─┬─ Worker (working) ──────────► fork server ─► tasks
             ├─ Component dag-processor ───► its process ─► files
             └─ Component triggerer ───────► its process ─► triggers

Each member is a task of the group and has a group of loops of its own (``members``). The process ends when all members
have been ended by ``draining``, when the plane says that another process has our name, or when a loop fails, which is a
bug; in each case nothing that was started is left behind.
"""

import asyncio
import gc
import platform
import signal
from collections.abc import Collection
from contextlib import AsyncExitStack
from typing import Any, Final

import uvloop

from isthmus import __version__
from isthmus.agent import conditions, preparing
from isthmus.agent.components import Component
from isthmus.agent.config import AgentConfig, Timing
from isthmus.agent.credentials import Credential
from isthmus.agent.members import Member, Shared
from isthmus.agent.metrics import Metrics
from isthmus.agent.patience import ReplacedError
from isthmus.agent.preparing import Prepared
from isthmus.agent.serving import HealthPage
from isthmus.agent.working import Worker
from isthmus.kit import guarding, logs
from isthmus.kit.clocks import Clock, SystemClock
from isthmus.kit.health import Severity
from isthmus.wire import frames
from isthmus.wire.agents import MAX_LOG_BYTES, MAX_LOG_LINE, MAX_LOG_LINES
from isthmus.wire.names import Role

log = logs.get(component="control")

#: Until a child is ready.
_UNKNOWN: Final = frames.Ready(pid=0, airflow="", task_sdk="", python="")
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def run(config: AgentConfig, timing: Timing | None = None) -> int:
    """Run an agent to its end; the process's exit code.

    0 after draining, 1 when another process took the name. Raises ConfigError for what cannot work from the start, and
    TemporaryError when a former instance does not go.
    """
    timing = timing or Timing()
    tail = logs.Tail(lines=MAX_LOG_LINES, line_characters=MAX_LOG_LINE, size_bytes=MAX_LOG_BYTES)
    logs.configure(config.log_level, config.log_format, tail=tail)
    prepared = preparing.prepare(config, timing)
    agent = Agent(config, timing, prepared, SystemClock(), tail)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(agent.run())


class Agent:
    """One control process, from its start to its end."""

    def __init__(self, config: AgentConfig, timing: Timing, prepared: Prepared, clock: Clock, tail: logs.Tail) -> None:
        """Raises ConfigError for a token, certificate or environment file that cannot be used."""
        self._config = config
        self._prepared = prepared
        self._replaced = ""
        self.metrics = Metrics()
        credential = Credential(token=config.token, file=config.token_file)
        shared = Shared(
            config=config,
            timing=timing,
            prepared=prepared,
            clock=clock,
            tail=tail,
            metrics=self.metrics,
            credential=credential,
            dispensable=self._is_dispensable,
            pids=self._pids,
            airflow=self._airflow,
        )
        self.worker = Worker(shared) if Role.WORKER in config.roles else None
        others = [Component(role, shared) for role in config.roles if role is not Role.WORKER]
        self.members: list[Member] = [*([self.worker] if self.worker else []), *others]
        self.page = HealthPage(
            [member.health for member in self.members], self.metrics, state=self._state, refresh=self._refresh_gauges
        )
        self._note_lasting_conditions(credential)

    async def run(self) -> int:
        """Run to the end; the exit code."""
        config = self._config
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._signalled, number)
        log.info("starting", name=config.name, url=config.url, roles=list(config.roles), queues=list(config.queues))
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.page.close)
            await self.page.open(config.health_listen)
            # What was loaded stays for ever: the collector need not look at it again.
            gc.collect()
            gc.freeze()
            try:
                async with asyncio.TaskGroup() as group:
                    for member in self.members:
                        guarding.start(group, member.role.value, member.run(), ends=True)
            except* ReplacedError as replaced:
                self._replaced = str(replaced.exceptions[0])
        if self._replaced:
            log.error("ended: another process has this agent's name", error=self._replaced)
            return 1
        return 0

    # --- what the members ask ---

    def _signalled(self, number: signal.Signals) -> None:
        for member in self.members:
            member.draining.signalled(number.name)

    def _is_dispensable(self, role: Role) -> bool:
        """Whether the agent can do without ``role``: nobody asked for it, and there is another one left."""
        return not self._config.role and any(member.role is not role and not member.left_out for member in self.members)

    def _pids(self) -> Collection[int]:
        return {member.child.pid for member in self.members if member.child.pid is not None}

    def _airflow(self) -> frames.Ready:
        """What a child said of the Airflow that it brings; the fork server knows most."""
        said = [member.child.versions for member in self.members]
        return max(filter(None, said), key=lambda one: bool(one.log_folder), default=_UNKNOWN)

    # --- what is shown ---

    def _note_lasting_conditions(self, credential: Credential) -> None:
        health = self.members[0].health
        if self._prepared.one_user:
            health.raise_(
                conditions.ONE_USER,
                "tasks run under the agent's own user, which may read the agent token",
                "In production start the agent as root with user and task_user.",
            )
        if credential.exposed:
            health.raise_(
                conditions.TOKEN_EXPOSED,
                f"others than its owner may read the token file {self._config.token_file}",
                "Give it mode 0600.",
            )

    def _state(self) -> dict[str, Any]:
        """The first role's state, as before there were several, and the others'."""
        first, *others = [member.state() for member in self.members]
        airflow, task_sdk = first.pop("airflow"), first.pop("task_sdk")
        versions = {
            "isthmus": __version__,
            "python": platform.python_version(),
            "airflow": airflow,
            "task_sdk": task_sdk,
        }
        return {**first, "versions": versions, **({"roles": others} if others else {})}

    def _refresh_gauges(self) -> None:
        metrics, worker, members = self.metrics, self.worker, self.members
        metrics.build.info({"version": __version__})
        if worker is not None:
            metrics.slots.set(self._config.slots)
            metrics.slots_used.set(worker.used)
            metrics.unsettled.set(worker.settling.pending)
            metrics.runner_failures.set(worker.child.failures)
        for member in members:
            metrics.role_up.labels(member.role.value).set(member.child.ready.is_set())
            metrics.role_used.labels(member.role.value).set(member.used)
        metrics.road_open.set(all(member.road.is_open for member in members))
        metrics.enrolled.set(all(member.membership.enrolled.is_set() or member.left_out for member in members))
        metrics.connections.set(sum(member.client.caller.connected for member in members))
        shown = [one.severity for member in members for one in member.health.visible()]
        for severity in Severity:
            metrics.warnings.labels(severity.value).set(shown.count(severity))
