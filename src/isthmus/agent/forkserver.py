"""The control process's end of the fork server: start it, talk to it, and be sure that nothing of it is left.

The fork server is another program (``isthmus.runner``, which imports Airflow), executed as the task user with an
environment that holds no secret of ours, and reached over a socket pair in ``wire.frames``. When it ends without being
asked to, everything below it is killed before its workloads are reported as failed and another one is started: a task
that still ran beside its own retry would be worse than a failed one. The control process is a subreaper, so whatever
the fork server leaves behind is found among our own descendants.
"""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, Protocol, cast
from uuid import UUID

from isthmus.agent import conditions
from isthmus.agent.config import AgentConfig, Timing, read_environment_file
from isthmus.kit import processes
from isthmus.kit.backoffs import Backoff
from isthmus.kit.clocks import Clock
from isthmus.kit.errors import IsthmusError
from isthmus.kit.health import Health
from isthmus.kit.logs import get
from isthmus.wire import frames

log = get(component="forkserver")

#: Everything under this prefix is about us and not about tasks; the token's variable above all.
_OURS: Final = "ISTHMUS_"


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


def clean_environment(
    environment: Mapping[str, str], added: Mapping[str, str], user: processes.User | None
) -> dict[str, str]:
    """What the fork server and tasks get: ours without what is about us, then the user's, then ``added``."""
    kept = {name: value for name, value in environment.items() if not name.startswith(_OURS)}
    return {**kept, **(user.environment() if user is not None else {}), **added}


class ForkServer:
    """The fork server, over all its restarts."""

    def __init__(
        self,
        config: AgentConfig,
        timing: Timing,
        *,
        user: processes.User | None,
        lock_fd: int,
        health: Health,
        clock: Clock,
    ) -> None:
        """Raises ConfigError for an environment file that cannot be used."""
        added = read_environment_file(config.runner_environment_file) if config.runner_environment_file else {}
        self._environment = clean_environment(os.environ, added, user)
        self._command = config.runner_command
        self._timing = timing
        self._user = user
        self._lock_fd = lock_fd
        self._health = health
        self._clock = clock
        self._listener: Listener | None = None
        self._connection: _Connection | None = None
        self._stopping = asyncio.Event()
        #: Set while the fork server takes workloads.
        self.ready = asyncio.Event()
        self.versions: frames.Ready | None = None
        #: Times that it ended without being asked to.
        self.failures = 0

    def listen(self, listener: Listener) -> None:
        """Tell ``listener`` of everything. Once, before ``run``."""
        self._listener = listener

    def send(self, frame: bytes) -> bool:
        """Send an encoded frame; False when there is no fork server that could have it."""
        if not self.ready.is_set() or self._connection is None:
            return False
        self._connection.send(frame)
        return True

    def kill(self, workload_id: UUID, grace_seconds: float) -> None:
        """Have a workload's process tree ended; its ``Exited`` follows."""
        self.send(frames.encode(frames.Kill(workload_id=workload_id, grace_seconds=grace_seconds)))

    async def run(self) -> None:
        """Keep a fork server running. Runs until cancelled, or until ``stop``."""
        restart = Backoff(self._timing.restart, self._clock)
        self._health.raise_(conditions.RUNNER_DOWN, "the fork server is not ready yet")
        while not self._stopping.is_set():
            detail, hint = await self._live(restart)
            if self._stopping.is_set():
                return
            self.failures += 1
            self._health.raise_(conditions.RUNNER_DOWN, detail, hint)
            if self._listener is not None:
                self._listener.runner_lost(detail)
            await self._clock.sleep(restart.failed())

    async def stop(self) -> None:
        """Ask the fork server to end, and see to it that nothing of it is left."""
        self._stopping.set()
        connection = self._connection
        if connection is not None:
            connection.send(frames.encode(frames.Stop()))
            connection.end_of_input()
            await self._clock.wait(connection.gone, self._timing.reaping)
        await self.sweep()

    async def sweep(self) -> None:
        """Kill everything below us. There is nothing below us but the fork server's tree."""
        self.ready.clear()
        if not processes.children(os.getpid()):
            return
        left = await asyncio.to_thread(processes.kill_below, timeout_seconds=self._timing.reaping)
        if left:
            log.error("processes could not be killed", pids=left)

    async def _live(self, restart: Backoff) -> tuple[str, str]:
        """One life of a fork server; what it died of, and what to do about it."""
        try:
            process, connection = await self._spawn()
        except IsthmusError as error:
            return str(error), error.hint or "Check runner_command."
        self._connection = connection
        try:
            detail = await self._talk(connection, restart)
            # It may have closed the socket first; a fork server that hangs is not waited for.
            await self._clock.wait(connection.gone, self._timing.reaping if not detail else 0.0)
        finally:
            self.ready.clear()
            self._connection = None
            # Before the sweep, which would take the exit status.
            status = process.poll()
            connection.close()
            if not self._stopping.is_set():
                await self.sweep()
            process.poll()  # reaped by the sweep, which Popen cannot know
        return (detail or _epitaph(status)), "See what it wrote to this log before; try the command by hand."

    async def _spawn(self) -> tuple["subprocess.Popen[bytes]", "_Connection"]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        options = [frames.SOCKET_OPTION, str(theirs.fileno()), frames.LOCK_OPTION, str(self._lock_fd)]
        try:
            # From the main thread: a child's parent-death signal follows the thread that made it.
            process = processes.spawn(
                [*self._command, *options],
                environment=self._environment,
                user=self._user,
                pass_fds=(theirs.fileno(), self._lock_fd),
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        loop = asyncio.get_running_loop()
        connection = _Connection(process.pid, self._listener)
        ours.setblocking(False)
        await loop.create_unix_connection(lambda: connection, sock=ours)
        log.debug("the fork server was started", pid=process.pid, command=self._command[0])
        return process, connection

    async def _talk(self, connection: "_Connection", restart: Backoff) -> str:
        """Until the connection ends; what was wrong with it, empty if it just ended."""
        await self._clock.wait(connection.greeted, self._timing.runner_ready)
        if connection.ready is None:
            return connection.fault or (
                "" if connection.ended.is_set() else f"it was not ready within {self._timing.runner_ready:g} s"
            )
        self.versions = connection.ready
        self.ready.set()
        self._health.clear(conditions.RUNNER_DOWN)
        restart.succeeded()
        log.info(
            "the fork server is ready",
            pid=connection.ready.pid,
            airflow=connection.ready.airflow,
            task_sdk=connection.ready.task_sdk,
        )
        if self._listener is not None:
            self._listener.runner_ready(connection.ready)
        await connection.ended.wait()
        return connection.fault


def _epitaph(status: int | None) -> str:
    match status:
        case None:
            return "the fork server closed its socket"
        case 0:
            return "the fork server ended"
        case int() if status < 0:
            return f"the fork server was ended by {signal.Signals(-status).name}"
        case _:
            return f"the fork server ended with exit code {status}"


class _Connection(asyncio.Protocol):
    """The socket to one fork server, and a watch on its process."""

    def __init__(self, pid: int, listener: Listener | None) -> None:
        self._listener = listener
        self._reader = frames.FrameReader()
        self._transport: asyncio.Transport | None = None
        self._pidfd: int | None = None
        self._pid = pid
        self.ready: frames.Ready | None = None
        self.fault = ""
        #: Set once it is known whether the fork server got ready.
        self.greeted = asyncio.Event()
        #: Set when the socket is closed or the process is gone.
        self.ended = asyncio.Event()
        #: Set when the process is gone.
        self.gone = asyncio.Event()

    def send(self, frame: bytes) -> None:
        """Send an encoded frame, if there still is somebody."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)

    def end_of_input(self) -> None:
        """Close our direction, which the fork server takes for the end as well."""
        if self._transport is not None and self._transport.can_write_eof():
            with suppress(OSError):
                self._transport.write_eof()

    def close(self) -> None:
        """Forget it."""
        self._unwatch()
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Watch the process as well: a child that it leaked the socket to would keep it open."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's classes are not subclasses
        try:
            self._pidfd = processes.open_pidfd(self._pid)
        except OSError:
            self._over()
            return
        asyncio.get_running_loop().add_reader(self._pidfd, self._over)

    def data_received(self, data: bytes) -> None:
        """Frames."""
        try:
            for frame in self._reader.feed(data):
                self._take(frame)
        except frames.FrameError as error:
            self.fault = f"the fork server does not speak our protocol: {error}"
            log.error("malformed frame", error=str(error)[:500])
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self._end()

    def _take(self, frame: frames.Frame) -> None:
        listener = self._listener
        match frame:
            case frames.Ready():
                self.ready = frame
                self.greeted.set()
            case frames.Launched() if listener is not None:
                listener.launched(frame)
            case frames.Exited() if listener is not None:
                listener.exited(frame)
            case _:
                raise frames.FrameError(f"unexpected {frame.type} frame")

    def _over(self) -> None:
        self._unwatch()
        self.gone.set()
        # What it still said is in the socket: let it be read before the end is told.
        asyncio.get_running_loop().call_later(0.05, self._end)

    def _end(self) -> None:
        self.ended.set()
        self.greeted.set()

    def _unwatch(self) -> None:
        if self._pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
