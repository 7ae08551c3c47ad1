"""A task's process is forked by the fork server, for the supervisor that asks for it.

Airflow's supervisor forks its task itself. Then both write to memory that they share, and every page that either
touches is copied: half of a supervisor's CPU (10 of 20 ms), and 4 ms until the start. The fork server hardly writes to
its memory, and it is backed by huge pages (``warming``), so a fork of it is cheap, and a supervisor that never forks
keeps its pages. A task also inherits less this way: nothing of the supervisor's, so
neither the gateway token nor what earlier tasks fetched through it.

The supervisor makes the four sockets as ever, sends the task's ends over its *task line* (a SEQPACKET socket pair), and
receives the pid, and later the exit code. The fork server is the task's parent: it reaps it and what it leaves. The
task is a subreaper itself, so that an orphan of a task is not taken for a leftover while the task lives.
"""

import gc
import os
import select
import signal
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NoReturn

from isthmus.kit import processes
from isthmus.runner import compat

#: What the fork server sends over a task line: a pid, then an exit code (negative for a signal).
_NUMBER: Final = struct.Struct("=i")
_REQUEST: Final = b"fork"
#: Requests, standard output, standard error, logs.
_SOCKETS: Final = 4

#: How much earlier than its fork server a task dies when memory ends, out of 1000.
_OOM_SCORE: Final = 500

#: The fork server answers within milliseconds unless the machine has stalled.
_ANSWER_SECONDS: Final = 60.0


def open_line() -> tuple[socket.socket, socket.socket]:
    """A task line."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


# --- the supervisor's end ----------------------------------------------------------------------------------------


class Signal(int):
    """An exit code that stands for a signal, with its name, as Airflow's supervisor expects it."""

    @property
    def name(self) -> str:
        """As in ``signal.Signals``."""
        return signal.Signals(-self).name


class TaskProcess(compat.ProcessTracker):
    """A task that the fork server has forked, to Airflow's supervisor."""

    ProcessNotFound = ProcessLookupError
    TimeoutExpired = TimeoutError

    def __init__(self, line: socket.socket, sockets: Sequence[socket.socket]) -> None:
        """Have a task forked that has ``sockets``. Raises OSError when the fork server is gone."""
        self._line = line
        self._exit_code: int | None = None
        socket.send_fds(line, [_REQUEST], [one.fileno() for one in sockets])
        self._pid = self._receive(_ANSWER_SECONDS)

    @property
    def pid(self) -> int:
        """The task's."""
        return self._pid

    def fileno(self) -> int:
        """Becomes readable when ``wait`` has an answer."""
        return self._line.fileno()

    def send_signal(self, s: signal.Signals) -> None:
        """Signal the task. Raises ProcessLookupError when it is gone."""
        if self._exit_code is not None:
            raise ProcessLookupError(self._pid)
        os.kill(self._pid, s)

    def wait(self, timeout: float | None) -> int:
        """The exit code. Raises TimeoutError."""
        if self._exit_code is None:
            number = self._receive(timeout)
            self._exit_code = Signal(number) if number < 0 else number
        return self._exit_code

    def _receive(self, timeout: float | None) -> int:
        poll = select.poll()
        poll.register(self._line, select.POLLIN)
        if not poll.poll(None if timeout is None else timeout * 1000):
            raise TimeoutError
        data = self._line.recv(_NUMBER.size)
        if not data:
            raise ConnectionResetError("the fork server is gone")
        number: int = _NUMBER.unpack(data)[0]
        return number


# --- the fork server's end ---------------------------------------------------------------------------------------


def receive_request(line: socket.socket) -> list[socket.socket] | None:
    """The sockets of a task to be forked; None when the supervisor is gone."""
    try:
        data, descriptors, _, _ = socket.recv_fds(line, len(_REQUEST), _SOCKETS)
    except OSError:
        return None
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    if data == _REQUEST and len(sockets) == _SOCKETS:
        return sockets
    for one in sockets:
        one.close()
    return None


def answer(line: socket.socket, number: int) -> None:
    """Send a pid or an exit code. Raises OSError when the supervisor is gone."""
    line.send(_NUMBER.pack(number))


def fork(sockets: Sequence[socket.socket], close_parents: Callable[[], None]) -> int:
    """Fork the task of a supervisor that has the other ends of ``sockets``; its pid."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become_task(parent, sockets, close_parents)
    # The child does the same. It must have its own group before its supervisor knows it: a signal to the group of a
    # task that was not scheduled yet would reach ours.
    with suppress(OSError):
        os.setpgid(pid, pid)
    for one in sockets:
        one.close()
    return pid


def _become_task(parent: int, sockets: Sequence[socket.socket], close_parents: Callable[[], None]) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        processes.die_with_parent(parent)
        processes.set_subreaper()
        processes.raise_oom_score(_OOM_SCORE)
        with suppress(OSError):
            os.setpgid(0, 0)
        close_parents()
        gc.freeze()
        compat.run_task(*sockets)
    finally:
        os._exit(124)  # as Airflow's own fork does: the parent's frames are not ours
