"""Supervisors that are ready for a workload: forked ahead of need, and kept for the next one.

A fork of the warm process copies its page tables, and then every page that it writes to: a supervisor pays 15 ms of CPU
for that, once, and a task on an idle agent does not wait for it (9 ms). So ``count`` supervisors stand ready, one that
has run a task goes back to the ready ones, and what a burst leaves over is let go after a while. The latest one back is
the first one taken: its pages are its own already.
"""

import os
import socket
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from isthmus.kit import processes
from isthmus.runner import forking, supervising

#: How long a burst's extra supervisors wait for the next burst.
_LINGER_SECONDS: Final = 10.0


@dataclass(eq=False)
class Supervisor:
    """A supervisor process as its fork server sees it."""

    pid: int
    pidfd: int
    channel: socket.socket = field(repr=False)
    #: Where it asks for tasks to be forked.
    line: socket.socket = field(repr=False)
    #: The task that was forked for it and runs, with its pidfd.
    task: tuple[int, int] | None = None
    #: It was sent a signal, or is about to exit: never give it another workload.
    spent: bool = False
    _said: bytearray = field(default_factory=bytearray, repr=False)
    _result: supervising.Result | None = None

    def assign(self, frame: memoryview) -> None:
        """Send it the workload: a whole ``Launch`` frame with its length. Raises OSError when it is dead."""
        self._result = None
        self.channel.sendall(frame)

    def read_result(self) -> supervising.Result | None:
        """What it has said about its workload, if it has; the same again when asked again."""
        try:
            while data := self.channel.recv(65536, socket.MSG_DONTWAIT):
                self._said += data
        except OSError:
            pass  # nothing more now, or for ever
        line, end, rest = bytes(self._said).partition(b"\n")
        if end:
            self._said[:] = rest
            self._result = supervising.read_result(line)
        return self._result

    def close(self) -> None:
        """Forget it: its process is reaped already, or it is another's (after a fork)."""
        self.channel.close()
        self.line.close()
        os.close(self.pidfd)
        if self.task is not None:
            os.close(self.task[1])


class Launcher:
    """Forks supervisors and keeps ``count`` of them ready."""

    def __init__(
        self, *, count: int, uses: int, pristine: bool, lock_fd: int | None, close_parents: Callable[[], None]
    ) -> None:
        self._count = count
        self._uses = uses
        self._pristine = pristine
        self._lock_fd = lock_fd
        self._close_parents = close_parents
        #: Ready ones with the time since which they are; the latest one last.
        self._ready: deque[tuple[float, Supervisor]] = deque()

    def take(self) -> Supervisor | None:
        """The latest ready one."""
        return self._ready.pop()[1] if self._ready else None

    def give_back(self, supervisor: Supervisor, now: float) -> None:
        """Keep one that waits for its next workload."""
        self._ready.append((now, supervisor))

    @property
    def lacks(self) -> bool:
        """Whether fewer than wanted are ready."""
        return len(self._ready) < self._count

    def discard(self, supervisor: Supervisor) -> None:
        """Forget one that died."""
        self._ready = deque(pair for pair in self._ready if pair[1] is not supervisor)

    def surplus_at(self) -> float | None:
        """When the next one is let go, if no work comes."""
        return self._ready[0][0] + _LINGER_SECONDS if len(self._ready) > self._count else None

    def let_go(self, now: float) -> Supervisor | None:
        """One that is not needed any more, to be closed."""
        at = self.surplus_at()
        return None if at is None or at > now else self._ready.popleft()[1]

    def fork(self) -> Supervisor:
        """A new one. Raises OSError when there can be no more processes or descriptors."""
        with ExitStack() as undo:
            ours, theirs = socket.socketpair()
            line, their_line = forking.open_line()
            for one in (ours, line):
                undo.callback(one.close)
            with theirs, their_line:
                parent = os.getpid()
                pid = os.fork()
                if pid == 0:
                    ours.close()
                    line.close()
                    supervising.main(
                        supervising.Inheritance(
                            channel=theirs,
                            line=their_line if self._pristine else None,
                            lock_fd=self._lock_fd,
                            close_parents=self._close_parents,
                            parent=parent,
                            uses=self._uses,
                        )
                    )
            pidfd = processes.open_pidfd(pid)
            undo.pop_all()
        return Supervisor(pid, pidfd, ours, line)
