"""Whatever ends a workload, nothing of it is left: not even a daemon of its own session that is deaf to SIGTERM."""

import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from tests.fakes.execution_api import Answer
from tests.integration.runner.conftest import Runner, Start, all_gone, wait_until

from isthmus.kit import processes
from isthmus.wire import frames

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="supervisors hide their descriptors from everybody but root")


@contextmanager
def subreaper() -> Iterator[None]:
    """What the agent's control process is: the parent of what a killed fork server leaves."""
    processes.set_subreaper()
    try:
        yield
    finally:
        processes._prctl(processes._PR_SET_CHILD_SUBREAPER, 0)


def started(runner: Runner, number: int) -> tuple:
    """A stubborn task that runs: its workload, task instance, supervisor, task, and daemon."""
    task_id = f"stubborn_{number}"
    workload, ti = runner.launch(task_id)
    task = int(runner.wait_for_file(f"pid-{task_id}"))
    daemon = int(runner.wait_for_file(f"daemon-{task_id}"))
    return workload, ti, runner.supervisor(workload), task, daemon


def test_kill_asks_first(runner: Runner) -> None:
    workload, ti, supervisor, task, daemon = started(runner, 0)
    asked = time.monotonic()
    runner.control.send(frames.Kill(workload_id=workload, grace_seconds=0.7))
    assert runner.wait_for_file("on_kill-stubborn_0") == "called"
    exited = runner.exited(workload)
    assert time.monotonic() - asked >= 0.7
    assert exited.exit_code == -signal.SIGKILL
    assert runner.states(ti) == ["failed"]  # the supervisor outlives its task long enough to report it
    assert all_gone(task, daemon)
    wait_until(lambda: all_gone(supervisor))  # it may have got the signal late: it is not used again


def test_kill_at_once(runner: Runner) -> None:
    workload, _, supervisor, task, daemon = started(runner, 1)
    runner.control.send(frames.Kill(workload_id=workload, grace_seconds=0))
    exited = runner.exited(workload, timeout=5)
    assert exited.exit_code == -signal.SIGKILL
    assert all_gone(supervisor, task, daemon)
    assert not (runner.out / "on_kill-stubborn_1").exists()


def test_a_normal_end_leaves_nothing(runner: Runner) -> None:
    """The daemon holds the task's standard output; Airflow's supervisor alone would wait a minute for it."""
    launched = time.monotonic()
    exited, ti = runner.run("leave_daemon")
    assert exited.exit_code == 0
    assert runner.states(ti) == ["success"]
    assert time.monotonic() - launched < 20
    assert all_gone(int(runner.wait_for_file("daemon-left")))


def test_a_killed_supervisor_leaves_nothing(runner: Runner) -> None:
    workload, _, supervisor, task, daemon = started(runner, 2)
    os.kill(supervisor, signal.SIGKILL)
    exited = runner.exited(workload)
    assert (exited.exit_code, exited.detail) == (-signal.SIGKILL, "the supervisor was killed")
    assert all_gone(supervisor, task, daemon)


def test_another_workloads_daemon_is_left_alone(runner: Runner) -> None:
    """Leftovers of one are not to be confused with the children of another that still runs."""
    first, _, _, first_task, first_daemon = started(runner, 3)
    second, _, supervisor, *_ = started(runner, 4)
    os.kill(supervisor, signal.SIGKILL)
    runner.exited(second)
    assert processes.is_alive(first_task)
    assert processes.is_alive(first_daemon)
    runner.control.send(frames.Kill(workload_id=first, grace_seconds=0))
    runner.exited(first)
    assert all_gone(first_task, first_daemon)


def test_a_start_that_the_gateway_holds_is_killed_at_once(runner: Runner) -> None:
    """During an outage the gateway keeps the ``run`` request; nothing of the task has begun."""

    hold = threading.Event()
    runner.api.answer("PATCH .*/run", lambda call: Answer(204, hold=hold))
    workload, ti = runner.launch("noop")
    runner.api.wait_for(f"PATCH /task-instances/{ti}/run")
    killed = time.monotonic()
    runner.control.send(frames.Kill(workload_id=workload, grace_seconds=10))
    exited = runner.exited(workload)
    hold.set()
    assert exited.exit_code == -signal.SIGTERM
    assert time.monotonic() - killed < 5
    assert runner.states(ti) == []


def test_killing_what_is_not_there_is_ignored(runner: Runner) -> None:
    runner.control.send(frames.Kill(workload_id=uuid4(), grace_seconds=1))
    workload, _ = runner.launch("noop")
    assert runner.exited(workload).exit_code == 0
    runner.control.send(frames.Kill(workload_id=workload, grace_seconds=1))
    assert runner.run("noop")[0].exit_code == 0


def test_ready_supervisors_that_die_are_replaced(runner: Runner) -> None:
    server = runner.control.process.pid
    wait_until(lambda: len(processes.children(server)) >= 2)
    before = processes.children(server)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: all_gone(*before))
    assert runner.run("noop")[0].exit_code == 0
    wait_until(lambda: len(processes.children(server)) >= 2)


def test_a_closed_socket_ends_everything(start_runner: Start) -> None:
    runner = start_runner()
    _, _, supervisor, task, daemon = started(runner, 5)
    runner.control.socket.shutdown(1)
    assert runner.control.process.wait(20) == 0
    assert all_gone(supervisor, task, daemon)


def test_what_a_killed_fork_server_leaves_is_found_by_the_control_process(start_runner: Start) -> None:
    with subreaper():
        runner = start_runner()
        _, _, supervisor, task, daemon = started(runner, 5)
        others = [pid for pid in processes.children(os.getpid()) if pid != runner.control.process.pid]
        runner.control.process.kill()
        runner.control.process.wait(10)
        # Supervisor and task die with their parents; the daemon has no such tie.
        wait_until(lambda: all_gone(supervisor, task))
        assert processes.is_alive(daemon)
        assert processes.kill_below(spared=others) == []
        assert all_gone(daemon)


@as_root
def test_the_lock_is_kept_by_fork_server_and_supervisors_and_not_by_tasks(start_runner: Start, tmp_path: Path) -> None:
    """A new instance of the agent waits until nothing of the former one is left; a task cannot keep it waiting."""
    path = tmp_path / "lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.set_inheritable(lock, True)
    runner = start_runner(arguments=(frames.LOCK_OPTION, str(lock)), pass_fds=(lock,))
    os.close(lock)
    _, _, supervisor, task, _ = started(runner, 5)

    def holds(pid: int) -> bool:
        return any(link.readlink() == path for link in Path(f"/proc/{pid}/fd").iterdir())

    assert holds(runner.control.process.pid)
    assert holds(supervisor)
    assert not holds(task)
    with path.open() as again:
        with pytest.raises(BlockingIOError):
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        runner.control.send(frames.Stop())
        runner.control.process.wait(20)
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
