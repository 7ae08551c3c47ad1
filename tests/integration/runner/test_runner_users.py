"""The fork server as the agent starts it in production: as a user of its own, here one without a password entry."""

import json
import os
from pathlib import Path

import pytest
from tests.integration.runner.conftest import Runner, Start, all_gone

from isthmus.kit import processes
from isthmus.wire import frames

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")


@pytest.fixture(scope="module")
def runner(start_runner: Start) -> Runner:
    return start_runner(user=processes.find_user("4001"))


def test_tasks_run_as_the_task_user(runner: Runner) -> None:
    exited, ti = runner.run("noop")
    assert (exited.exit_code, exited.detail) == (0, "")
    assert runner.states(ti) == ["success"]
    started = runner.api.matching(f"PATCH /task-instances/{ti}/run")[0].json
    assert started["unixname"] == "4001"  # LOGNAME, as there is no entry in the password database
    (log,) = runner.home.glob(f"logs/**/{ti}/attempt=1.log")
    assert log.stat().st_uid == 4001


def test_tasks_die_first_when_memory_ends(runner: Runner) -> None:
    runner.run("report")
    report = json.loads(runner.wait_for_file("report"))
    assert report["oom_score_adj"] == min(1000, report["parents_oom_score_adj"] + 500)


def test_what_runs_hides_its_memory(runner: Runner) -> None:
    """``/proc/<pid>`` of a process that is not dumpable belongs to root."""
    workload, _ = runner.launch("nap")
    supervisor = runner.supervisor(workload)
    server = runner.control.process.pid
    for pid in (server, supervisor, *processes.children(server)):
        assert Path(f"/proc/{pid}/environ").stat().st_uid == 0
    runner.control.send(frames.Kill(workload_id=workload, grace_seconds=0))
    runner.exited(workload)


def test_nothing_is_left(runner: Runner) -> None:
    workload, _ = runner.launch("stubborn_0")
    pids = [int(runner.wait_for_file(name)) for name in ("pid-stubborn_0", "daemon-stubborn_0")]
    runner.control.send(frames.Kill(workload_id=workload, grace_seconds=0.2))
    runner.exited(workload)
    assert all_gone(*pids)
