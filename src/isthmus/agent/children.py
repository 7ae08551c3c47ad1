"""A program that the control process keeps running: start it, talk to it, and be sure that nothing of it is left.

There are the fork server and the components (``isthmus.runner``), each executed as the task user with an environment
that holds no secret of ours, and reached over a socket pair in ``wire.frames``. When one ends without being asked to,
everything below it is killed before anybody is told and before another one is started. The control process is a
subreaper, so whatever a child leaves behind is found among our own descendants; what other children have is spared.
"""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Final, cast

from isthmus.agent.config import AgentConfig, Timing, read_environment_file
from isthmus.kit import processes
from isthmus.kit.backoffs import Backoff
from isthmus.kit.clocks import Clock
from isthmus.kit.errors import IsthmusError
from isthmus.kit.health import Condition, Health
from isthmus.kit.logs import get
from isthmus.wire import frames

log = get(component="children")

#: Everything under this prefix is about us and not about tasks; the token's variable above all.
_OURS: Final = "ISTHMUS_"


def task_environment(config: AgentConfig, user: processes.User | None) -> dict[str, str]:
    """What everything gets that runs a customer's code. Raises ConfigError for a file that cannot be used."""
    added = read_environment_file(config.runner_environment_file) if config.runner_environment_file else {}
    return clean_environment(os.environ, added, user)


def clean_environment(
    environment: Mapping[str, str], added: Mapping[str, str], user: processes.User | None
) -> dict[str, str]:
    """What a child and tasks get: ours without what is about us, then the user's, then ``added``."""
    kept = {name: value for name, value in environment.items() if not name.startswith(_OURS)}
    return {**kept, **(user.environment() if user is not None else {}), **added}


class Child:
    """One program, over all its restarts."""

    #: What people call it.
    title = "the child"
    condition: Condition

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        timing: Timing,
        *,
        user: processes.User | None,
        lock_fd: int,
        health: Health,
        clock: Clock,
        spared: Callable[[], Collection[int]] = tuple,
    ) -> None:
        """``spared`` names the processes of other children."""
        self._command = tuple(command)
        self._environment = dict(environment)
        self._timing = timing
        self._user = user
        self._lock_fd = lock_fd
        self._health = health
        self._clock = clock
        self._spared = spared
        self._connection: Connection | None = None
        self._stopping = asyncio.Event()
        #: Set while it does its work.
        self.ready = asyncio.Event()
        #: What the last one that got ready said of itself.
        self.versions: frames.Ready | None = None
        #: Times that it ended without being asked to.
        self.failures = 0
        #: None while there is none.
        self.pid: int | None = None

    # --- what kinds of children add ---

    def greeted(self, ready: frames.Ready) -> None:
        """It is ready."""

    def take(self, frame: frames.Frame) -> None:
        """A frame of its. Raises FrameError for one that it has no right to."""
        raise frames.FrameError(f"unexpected {frame.type} frame")

    def lost(self, detail: str) -> None:
        """It and everything below it are gone, and nobody asked for that."""

    # --- its life ---

    def send(self, frame: bytes) -> bool:
        """Send an encoded frame; False when there is nobody that could have it."""
        if not self.ready.is_set() or self._connection is None:
            return False
        self._connection.send(frame)
        return True

    async def run(self) -> None:
        """Keep one running. Runs until cancelled, or until ``stop``."""
        restart = Backoff(self._timing.restart, self._clock)
        self._health.raise_(self.condition, f"{self.title} is not ready yet")
        while not self._stopping.is_set():
            detail, hint = await self._live(restart)
            if self._stopping.is_set():
                return
            self.failures += 1
            self._health.raise_(self.condition, detail, hint)
            self.lost(detail)
            await self._clock.sleep(restart.failed())

    async def stop(self) -> None:
        """Ask it to end, and see to it that nothing of it is left."""
        self._stopping.set()
        connection = self._connection
        if connection is not None:
            connection.send(frames.encode(frames.Stop()))
            connection.end_of_input()
            await self._clock.wait(connection.gone, self._timing.reaping)
        await self.sweep()

    async def sweep(self) -> None:
        """Kill everything below us but what other children have."""
        self.ready.clear()
        if not set(processes.children(os.getpid())) - set(self._spared()):
            return
        left = await asyncio.to_thread(
            lambda: processes.kill_below(spared=self._spared(), timeout_seconds=self._timing.reaping)
        )
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
            self.pid = None
            if not self._stopping.is_set():
                await self.sweep()
            process.poll()  # reaped by the sweep, which Popen cannot know
        return (
            detail or _epitaph(self.title, status)
        ), "See what it wrote to this log before; try the command by hand."

    async def _spawn(self) -> tuple["subprocess.Popen[bytes]", "Connection"]:
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
        self.pid = process.pid  # before anything else runs: others spare what they know of
        loop = asyncio.get_running_loop()
        connection = Connection(process.pid, self.title, self.take)
        ours.setblocking(False)
        await loop.create_unix_connection(lambda: connection, sock=ours)
        log.debug("started", program=self.title, pid=process.pid, command=self._command[0])
        return process, connection

    async def _talk(self, connection: "Connection", restart: Backoff) -> str:
        """Until the connection ends; what was wrong with it, empty if it just ended."""
        await self._clock.wait(connection.greeted, self._timing.runner_ready)
        if connection.ready is None:
            return connection.fault or (
                "" if connection.ended.is_set() else f"it was not ready within {self._timing.runner_ready:g} s"
            )
        self.versions = connection.ready
        self.ready.set()
        self._health.clear(self.condition)
        restart.succeeded()
        log.info(
            f"{self.title} is ready",
            pid=connection.ready.pid,
            airflow=connection.ready.airflow,
            task_sdk=connection.ready.task_sdk,
        )
        self.greeted(connection.ready)
        await connection.ended.wait()
        return connection.fault


def _epitaph(title: str, status: int | None) -> str:
    match status:
        case None:
            return f"{title} closed its socket"
        case 0:
            return f"{title} ended"
        case int() if status < 0:
            return f"{title} was ended by {signal.Signals(-status).name}"
        case _:
            return f"{title} ended with exit code {status}"


class Connection(asyncio.Protocol):
    """The socket to one child, and a watch on its process."""

    def __init__(self, pid: int, title: str, take: Callable[[frames.Frame], None]) -> None:
        """``take`` hears of each frame after the first; it raises FrameError for one that does not belong there."""
        self._title = title
        self._take_frame = take
        self._reader = frames.FrameReader()
        self._transport: asyncio.Transport | None = None
        self._pidfd: int | None = None
        self._pid = pid
        self.ready: frames.Ready | None = None
        self.fault = ""
        #: Set once it is known whether the child got ready.
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
            self.fault = f"{self._title} does not speak our protocol: {error}"
            log.error("malformed frame", error=str(error)[:500])
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self._end()

    def _take(self, frame: frames.Frame) -> None:
        if isinstance(frame, frames.Ready):
            self.ready = frame
            self.greeted.set()
        else:
            self._take_frame(frame)

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
