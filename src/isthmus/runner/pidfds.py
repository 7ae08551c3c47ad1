"""The exit stall of Airflow's supervisor, ended with a pidfd.

``WatchedSubprocess`` waits in a selector for its child's four sockets and asks after each wait whether the child is
gone. Sockets reach their end a moment before the child can be reaped, so often the question comes too early, and the
next wait, now for nothing, lasts the whole heartbeat interval of 5 s while the slot stays taken (a fifth of all no-op
tasks under load, nearly all on an idle machine). With the child's pidfd in the selector that wait ends when the child
does.

The same moment is when to end what a task left behind: a daemon that still holds the task's standard output would keep
the supervisor waiting for another minute (``[workers] socket_cleanup_timeout``).
"""

import os
import selectors
from typing import Final

from isthmus.kit import processes
from isthmus.runner import compat, forking

#: A daemon that survives SIGKILL for longer is stuck in the kernel; the fork server goes on trying.
_LEFTOVER_SECONDS: Final = 1.0


class _End:
    """Looks enough like a socket for ``WatchedSubprocess``, which closes what it is done with."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        os.close(self._descriptor)


def install() -> None:
    """Make every ``WatchedSubprocess`` of this process and its children watch for its child's end."""
    compat.call_with_each_subprocess(_watch)


def _watch(pid: int, tracker: compat.ProcessTracker, selector: selectors.BaseSelector) -> None:
    if isinstance(tracker, forking.TaskProcess):
        # The fork server's child, not ours: its exit code arrives on the line, and the leftovers are gone by then.
        end = _End(os.dup(tracker.fileno()))
    else:
        end = _End(processes.open_pidfd(pid))

    def ended(_: _End) -> bool:
        processes.kill_below(spared=[pid], timeout_seconds=_LEFTOVER_SECONDS)
        return False

    selector.register(end, selectors.EVENT_READ, (ended, selector.unregister))
