"""An agent dies with its tasks and does not come back: its lease on them ends, and another agent does the work."""

import time
from collections.abc import Callable

import pytest

from faults.harness import endings, waits
from faults.harness.agents import Agent
from faults.harness.planes import Plane
from faults.harness.runs import Run
from isthmus.wire.admin import WorkloadState

RUNNING_LEASE_SECONDS = 10


@pytest.fixture
def short_leases(plane: Plane) -> None:
    """From here on a running lease ends soon. Not before: the minute without a network needs the long one."""
    plane.set(running_lease_seconds=str(RUNNING_LEASE_SECONDS))
    plane.restart_api()


@pytest.mark.usefixtures("short_leases")
def test_an_agent_is_killed_while_tasks_run_and_stays_away(plane: Plane, enlist: Callable[..., Agent]) -> None:
    agent, successor = enlist("abandoned"), enlist("abandoned", name="successor")
    agent.start()
    run = Run(plane, agent.lane)
    run.await_starts(agent.slots)
    successor.start()
    time.sleep(RUNNING_LEASE_SECONDS)  # the plane has just been restarted, and doubts itself for one lease
    agent.kill()
    killed = time.monotonic()
    endings.assert_left_nothing(agent)

    waits.until(
        "the tasks are lost",
        lambda: {work.state for work in run.works() if work.try_number == 1} == {WorkloadState.LOST},
        seconds=4 * RUNNING_LEASE_SECONDS,
        evidence=run.evidence,
    )
    assert time.monotonic() - killed > RUNNING_LEASE_SECONDS - 2, "not before the lease ended"
    run.await_starts(2 * agent.slots)
    run.open_gate()
    endings.assert_all_well(run, successor, tries=2)
    endings.assert_slots_work(successor)
