"""A part of the plane is stopped or killed, and started again, while tasks run. The user sees none of it."""

import signal
import time
from collections.abc import Callable

import pytest

from faults.harness import endings, waits
from faults.harness.agents import Agent
from faults.harness.planes import Plane
from faults.harness.runs import Run

AWAY_SECONDS = 4


@pytest.mark.parametrize(
    ("lane", "number", "ends_while_away"),
    [("api-term", signal.SIGTERM, True), ("api-kill", signal.SIGKILL, False)],
)
def test_the_remote_execution_api_is_restarted(
    plane: Plane, enlist: Callable[..., Agent], lane: str, number: signal.Signals, *, ends_while_away: bool
) -> None:
    agent = enlist(lane).start()
    run = Run(plane, lane)
    run.await_starts(agent.slots)
    waiting = Run(plane, lane, gated=False, seconds=0)
    plane.api.send(number)
    plane.api.wait(30)
    if ends_while_away:
        run.open_gate()
        run.await_ends(agent.slots)
    time.sleep(AWAY_SECONDS)
    plane.api.start()
    plane.await_api()
    if not ends_while_away:
        agent.await_healthy()
        run.open_gate()
    endings.assert_all_well(run, None, tries=1)
    endings.assert_all_well(waiting, agent, tries=1)
    endings.assert_slots_work(agent)


def test_the_scheduler_is_killed_and_replaced(plane: Plane, enlist: Callable[..., Agent]) -> None:
    agent = enlist("scheduler").start()
    run = Run(plane, agent.lane)
    run.await_starts(agent.slots)
    queued = Run(plane, agent.lane, gated=False, seconds=0)
    waits.until("the next run is queued", lambda: len(queued.works()) == agent.slots, seconds=20)
    with plane.without_scheduler():
        unborn = Run(plane, agent.lane, gated=False, seconds=0)
        run.open_gate()
        # What was queued is done without a scheduler: agents need none.
        queued.await_ends(agent.slots)
        waits.until("all is settled", lambda: not run.unsettled() and not queued.unsettled(), seconds=20)
        assert run.state() == "running"
        assert unborn.state() == "queued"
    for each in (run, queued, unborn):
        endings.assert_all_well(each, None, tries=1)
    endings.assert_slots_work(agent)


def test_a_scheduler_adopts_what_still_runs(plane: Plane, enlist: Callable[..., Agent]) -> None:
    agent = enlist("scheduler", name="adopted").start()
    run = Run(plane, agent.lane)
    run.await_starts(agent.slots)
    former = _scheduler_jobs(plane, run)
    with plane.without_scheduler():
        pass
    plane.await_scheduler()
    waits.until("the new scheduler has the run's workloads", lambda: _scheduler_jobs(plane, run) != former, seconds=40)
    assert len(run.ledger.alive()) == agent.slots, "the tasks noticed nothing"
    run.open_gate()
    endings.assert_all_well(run, agent, tries=1)
    endings.assert_slots_work(agent)


def _scheduler_jobs(plane: Plane, run: Run) -> set[object]:
    rows = plane.database.rows("SELECT scheduler_job_id FROM isthmus_workload WHERE run_id = %s", (run.run_id,))
    return {row[0] for row in rows}


@pytest.mark.parametrize(("lane", "ends_while_away"), [("database-stop", True), ("database-kill", False)])
def test_postgresql_is_restarted(
    plane: Plane, enlist: Callable[..., Agent], lane: str, *, ends_while_away: bool
) -> None:
    agent = enlist(lane).start()
    run = Run(plane, lane)
    run.await_starts(agent.slots)
    waiting = Run(plane, lane, gated=False, seconds=0)
    api = plane.api.pid
    if ends_while_away:
        plane.database.stop()
        run.open_gate()
        run.await_ends(agent.slots)
    else:
        plane.database.kill()
    time.sleep(AWAY_SECONDS)
    plane.database.start()
    plane.recover()
    if not ends_while_away:
        agent.await_healthy()
        run.open_gate()
    endings.assert_all_well(run, None, tries=1)
    endings.assert_all_well(waiting, agent, tries=1)
    assert plane.api.running
    assert plane.api.pid == api, "the Remote Execution API outlives its database's restart"
    endings.assert_slots_work(agent)
