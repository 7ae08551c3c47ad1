"""The fork server as the control process sees it (``children``): workloads go in, their ends come out.

When it ends without being asked to, everything below it is killed before its workloads are reported as failed: a task
that still ran beside its own retry would be worse than a failed one.
"""

from collections.abc import Callable, Collection
from typing import Protocol
from uuid import UUID

from isthmus.agent import children, conditions
from isthmus.agent.config import AgentConfig, Timing
from isthmus.kit import processes
from isthmus.kit.clocks import Clock
from isthmus.kit.health import Health
from isthmus.kit.logs import get
from isthmus.wire import frames

log = get(component="forkserver")


class Listener(Protocol):
    """Who hears of workloads."""

    def runner_ready(self, runner: frames.Ready) -> None:
        """The fork server takes workloads."""

    def launched(self, frame: frames.Launched) -> None:
        """A supervisor has a workload."""

    def exited(self, frame: frames.Exited) -> None:
        """A workload's process tree is gone."""

    def runner_lost(self, detail: str) -> None:
        """The fork server and everything below it are gone."""


class ForkServer(children.Child):
    """The fork server, over all its restarts."""

    title = "the fork server"
    condition = conditions.RUNNER_DOWN

    def __init__(
        self,
        config: AgentConfig,
        timing: Timing,
        *,
        user: processes.User | None,
        lock_fd: int,
        health: Health,
        clock: Clock,
        spared: Callable[[], Collection[int]] = tuple,
    ) -> None:
        """Raises ConfigError for an environment file that cannot be used."""
        super().__init__(
            config.runner_command,
            children.task_environment(config, user),
            timing,
            user=user,
            lock_fd=lock_fd,
            health=health,
            clock=clock,
            spared=spared,
        )
        self._listener: Listener | None = None

    def listen(self, listener: Listener) -> None:
        """Tell ``listener`` of everything. Once, before ``run``."""
        self._listener = listener

    def kill(self, workload_id: UUID, grace_seconds: float) -> None:
        """Have a workload's process tree ended; its ``Exited`` follows."""
        self.send(frames.encode(frames.Kill(workload_id=workload_id, grace_seconds=grace_seconds)))

    def greeted(self, ready: frames.Ready) -> None:
        """It takes workloads."""
        if self._listener is not None:
            self._listener.runner_ready(ready)

    def take(self, frame: frames.Frame) -> None:
        """What became of a workload."""
        match frame:
            case frames.Launched() if self._listener is not None:
                self._listener.launched(frame)
            case frames.Exited() if self._listener is not None:
                self._listener.exited(frame)
            case frames.Foreign():
                self._kill_foreign(frame.pids)
            case _:
                super().take(frame)

    def _kill_foreign(self, pids: Collection[int]) -> None:
        """Kill what is below it and is another user's. Needs CAP_KILL, which we have where tasks have a user (0008)."""
        if self.pid is None:
            return
        if killed := processes.kill_of(pids, below=self.pid):
            log.info("processes of another user killed", pids=killed)

    def lost(self, detail: str) -> None:
        """Its workloads are gone with it."""
        if self._listener is not None:
            self._listener.runner_lost(detail)
