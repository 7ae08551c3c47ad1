"""What a supervisor process does: wait for a workload, run it with Airflow's supervisor, say how it ended, and again.

It is forked ahead of need, reads a ``Launch`` from its channel, and answers with one ``Result`` when the workload's
process is gone. Then it takes the next workload, unless something happened that a later one should not meet. (Airflow's
own executors, too, supervise one task after another in one process, and Airflow resets what has to be reset.) No code
of a DAG runs here: a task is forked by the fork server (``forking``), a callback by Airflow's supervisor itself, which
is the subreaper for that.
"""

import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NoReturn

import structlog
from pydantic import BaseModel, ValidationError
from setproctitle import setproctitle

from isthmus.kit import processes
from isthmus.kit.errors import IsthmusError
from isthmus.runner import clients, compat, forking
from isthmus.wire import frames
from isthmus.wire.names import Kind

log = structlog.get_logger(logger_name="isthmus.supervising")

#: ``Settlement.detail`` holds as much.
_DETAIL_CHARACTERS: Final = 2000

#: How much earlier than its fork server a process dies when memory ends: first tasks, then the supervisors that would
#: report it. Out of 1000, where each point is a thousandth of all memory; a child's comes on top of its parent's.
_SUPERVISOR_OOM_SCORE: Final = 100
_CHILD_OOM_SCORE: Final = 400

#: After so many workloads, or with so much more memory than at first, a supervisor makes room for a fresh one: what
#: leaks in Airflow or in a logging handler stays bounded.
USES: Final = 100
_GROWTH_KIB: Final = 64 * 1024

#: For what a task left behind; more than enough unless it is another user's or stuck in the kernel.
_LEFTOVER_SECONDS: Final = 2.0

_RECEIVE_BYTES: Final = 65536


class Result(BaseModel):
    """Supervisor → fork server: one line of JSON for each workload."""

    exit_code: int
    detail: str = ""
    #: The supervisor exits now; what is left of the workload is the fork server's to kill.
    retiring: bool = True
    #: User and system time of the supervisor since its last result, and of what it forked and waited for.
    supervisor_cpu_seconds: float = 0.0
    children_cpu_seconds: float = 0.0


@dataclass(frozen=True)
class Inheritance:
    """What the fork leaves to a supervisor."""

    #: The supervisor's end of its channel.
    channel: socket.socket
    #: The supervisor's end of its task line; None when it forks tasks itself.
    line: socket.socket | None
    #: Kept open while the supervisor lives, and closed in the task.
    lock_fd: int | None
    #: Closes what belongs to the fork server alone.
    close_parents: Callable[[], None]
    #: The fork server's pid.
    parent: int
    #: How many workloads it may run.
    uses: int


def main(inheritance: Inheritance) -> NoReturn:
    """The whole life of a supervisor process, from just after the fork. Never returns into the fork server's frames."""
    code = 1
    try:
        _settle_in(inheritance)
        code = _serve(inheritance)
    except BaseException:
        with suppress(Exception):
            log.exception("A supervisor failed")
    finally:
        # Not sys.exit: the fork server's finally blocks and atexit functions are not ours to run.
        with suppress(Exception):
            sys.stderr.flush()
        os._exit(code)


def read_result(line: bytes) -> Result | None:
    """The result in what a supervisor wrote; None when it wrote none, as when it was killed."""
    try:
        return Result.model_validate_json(line)
    except ValidationError:
        return None


# --- becoming a supervisor ---------------------------------------------------------------------------------------


def _settle_in(inheritance: Inheritance) -> None:
    """Become a process of our own: session, signals, descriptors, and the order of dying."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    processes.die_with_parent(inheritance.parent)
    inheritance.close_parents()
    os.setsid()
    processes.set_subreaper()
    processes.set_dumpable(False)
    processes.raise_oom_score(_SUPERVISOR_OOM_SCORE)
    setproctitle("isthmus: spare supervisor")
    line = inheritance.line
    if line is not None:
        compat.start_tasks_with(lambda sockets: forking.TaskProcess(line, sockets))
    _arrange_for_forks(inheritance)


def _arrange_for_forks(inheritance: Inheritance) -> None:
    """Have what this process forks itself drop what is the supervisor's. Its own forks are left alone."""
    supervisor = os.getpid()

    def in_fork() -> None:
        if os.getppid() != supervisor or inheritance.channel.fileno() == -1:
            return
        inheritance.channel.close()
        if inheritance.line is not None:
            inheritance.line.close()
        if inheritance.lock_fd is not None:
            os.close(inheritance.lock_fd)
        processes.die_with_parent(supervisor)
        processes.raise_oom_score(_CHILD_OOM_SCORE)
        compat.start_tracing()
        # What the supervisor made since its own fork is garbage to nobody here; looking at it would copy its pages.
        gc.freeze()

    os.register_at_fork(after_in_child=in_fork)


# --- workloads ---------------------------------------------------------------------------------------------------


def _serve(inheritance: Inheritance) -> int:
    """Run workloads until the channel closes or it is time to go; the process's exit code."""
    channel = inheritance.channel
    memory_kib = _Usage.now().memory_kib
    for use in range(1, inheritance.uses + 1):
        before = _Usage.now() if use > 1 else _Usage()
        launch = _receive(channel)
        if launch is None:
            return 0
        result = run(launch)
        left = processes.kill_below(timeout_seconds=_LEFTOVER_SECONDS)
        after = _Usage.now()
        result.retiring = (
            result.retiring or bool(left) or use == inheritance.uses or after.memory_kib - memory_kib > _GROWTH_KIB
        )
        result.supervisor_cpu_seconds = after.own_seconds - before.own_seconds
        result.children_cpu_seconds = after.children_seconds - before.children_seconds
        channel.sendall(result.model_dump_json().encode() + b"\n")
        if result.retiring:
            return result.exit_code if 0 <= result.exit_code <= 255 else 1
        setproctitle("isthmus: idle supervisor")
    return 0


def _receive(channel: socket.socket) -> frames.Launch | None:
    """The workload to run; None when the fork server closed the channel instead."""
    reader = frames.FrameReader()
    while data := channel.recv(_RECEIVE_BYTES):
        for frame in reader.feed(data):
            if isinstance(frame, frames.Launch):
                return frame
    return None


def run(launch: frames.Launch) -> Result:
    """Run one workload to its end, and say how it ended."""
    try:
        workload = compat.parse_workload(launch.payload, launch.gateway_token)
        setproctitle(f"isthmus: supervisor of {launch.kind} {launch.workload_id}")
        with clients.GatewayClient(launch.gateway_socket, launch.gateway_token) as client:
            exit_code = compat.run_workload(workload, client)
        _tidy(workload)
    except IsthmusError as error:
        log.error("The workload cannot be run", workload_id=str(launch.workload_id), code=error.code, error=str(error))
        return Result(exit_code=1, detail=_cut(str(error)))
    except Exception as error:
        log.exception("The workload's supervisor failed", workload_id=str(launch.workload_id))
        return Result(exit_code=1, detail=_cut(f"{type(error).__name__}: {error}"))
    detail = "" if exit_code == 0 else _explain(exit_code)
    # A connection test runs a provider's code in this very process.
    return Result(exit_code=exit_code, detail=detail, retiring=launch.kind is not Kind.TASK)


def _tidy(workload: object) -> None:
    """Remove old commits of the workload's bundle. It has ended: whatever goes wrong here is only logged."""
    bundle = getattr(workload, "bundle_info", None)  # a connection test has none
    if bundle is None:
        return
    try:
        compat.remove_stale_versions(bundle.name, bundle.version)
    except Exception as error:
        log.warning("Old versions of a bundle cannot be removed", bundle=bundle.name, error=str(error))


def _explain(exit_code: int) -> str:
    if exit_code >= 0:
        return f"the task's process exited with {exit_code}"
    hint = ", perhaps because memory ended" if exit_code == -signal.SIGKILL else ""
    return f"the task's process was killed by {signal.Signals(-exit_code).name}{hint}"


def _cut(text: str) -> str:
    return text if len(text) <= _DETAIL_CHARACTERS else text[: _DETAIL_CHARACTERS - 1] + "…"


@dataclass(frozen=True)
class _Usage:
    """What this process and its waited-for children have used so far."""

    own_seconds: float = 0.0
    children_seconds: float = 0.0
    memory_kib: int = 0

    @classmethod
    def now(cls) -> "_Usage":
        own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return cls(
            own.ru_utime + own.ru_stime,
            children.ru_utime + children.ru_stime,
            own.ru_maxrss,
        )
