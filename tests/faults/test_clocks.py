"""An agent's clock is ten minutes wrong: it is healthy all the same, its tasks run once, and it says so."""

import time
from collections.abc import Callable

import pytest

from faults.harness import endings, skewing, waits
from faults.harness.agents import Agent
from faults.harness.planes import Plane
from faults.harness.runs import Run
from isthmus.wire import paths
from isthmus.wire.admin import AgentHealth

SKEW_SECONDS = 600


@pytest.mark.parametrize(("lane", "seconds"), [("clock-ahead", SKEW_SECONDS), ("clock-behind", -SKEW_SECONDS)])
def test_an_agents_clock_is_wrong(plane: Plane, enlist: Callable[..., Agent], lane: str, seconds: int) -> None:
    skew = skewing.environment(plane.directory / f"{lane}-clock", seconds)
    agent = enlist(lane, settings=skew).start()
    run = Run(plane, lane)
    starts = run.await_starts(agent.slots)
    assert all(abs(start.at - time.time() - seconds) < 60 for start in starts), "the tasks have the wrong clock"
    view = agent.view()
    assert view is not None
    assert abs(view.enrolled_at.timestamp() - time.time()) < 60, "the plane stamps by its own"
    # For longer than agents' leases and three heartbeats take.
    waits.stays("it is healthy and works", lambda: is_healthy(agent) and len(run.ledger.alive()) == 2, seconds=8)

    asked = plane.admin.post(paths.ADMIN_AGENT_PROBES.format(agent_id=view.agent_id), json={"public_allowed": True})
    assert asked.status_code == 202, asked.text
    told = waits.until("it has looked at its clock", lambda: clock_of(agent), seconds=20, evidence=agent.evidence)
    assert told[0] == "warn", told
    assert f"{SKEW_SECONDS} s" in told[1].replace("599", "600").replace("601", "600"), told

    run.open_gate()
    endings.assert_all_well(run, agent, tries=1)
    assert {work.fence for work in run.works()} == {1}, run.evidence()
    endings.assert_slots_work(agent)


def is_healthy(agent: Agent) -> bool:
    view = agent.view()
    return view is not None and view.health is AgentHealth.HEALTHY


def clock_of(agent: Agent) -> tuple[str, str] | None:
    """Status and details of the row about the clock, in the agent's last report."""
    view = agent.view()
    report = None if view is None else view.probe_report
    rows = () if report is None else report.rows
    return next(((row.status, row.details) for row in rows if row.check == "clock"), None)
