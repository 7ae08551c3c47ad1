"""The network between an agent and the plane is cut for a minute while tasks run.

Two variants: in one the tasks end while the road is cut, in the other after it. They run in threads beside the other
tests, because a minute of silence needs no processor.
"""

import time
from collections.abc import Callable

from faults.harness import endings, waits
from faults.harness.agents import Agent
from faults.harness.planes import Plane
from faults.harness.proxies import NewConnections, Road
from faults.harness.runs import Run
from isthmus.wire.admin import AgentHealth, WorkloadState

CUT_SECONDS = 60


def ends_during_the_cut(plane: Plane) -> None:
    _cut(plane, "cut-over", NewConnections.REFUSED, ends_during=True)


def ends_after_the_cut(plane: Plane) -> None:
    _cut(plane, "cut-through", NewConnections.SILENCE, ends_during=False)


SCENARIOS: dict[str, Callable[[Plane], None]] = {
    "ends_during_the_cut": ends_during_the_cut,
    "ends_after_the_cut": ends_after_the_cut,
}


def _cut(plane: Plane, lane: str, new: NewConnections, *, ends_during: bool) -> None:
    road = Road(plane.loop, plane.api_port)
    agent = Agent(plane, lane, port=road.port)
    try:
        agent.start()
        run = Run(plane, lane)
        run.await_starts(agent.slots)
        waiting = Run(plane, lane, gated=False, seconds=0)  # for this one there is no slot
        time.sleep(6)  # at least one heartbeat of each task went through ([workers] min_heartbeat_interval is 5)

        road.cut(new)
        began = time.monotonic()
        waits.until(
            "the plane misses the agent",
            lambda: (view := agent.view()) is not None and view.health is AgentHealth.UNHEALTHY,
            seconds=20,
        )
        if ends_during:
            run.open_gate()
            run.await_ends(agent.slots)
        time.sleep(CUT_SECONDS - (time.monotonic() - began))
        if not ends_during:
            assert len(run.ledger.alive()) == agent.slots, "the tasks run on"
        assert agent.control.running, agent.control.tail()
        assert {work.state for work in run.works()} == {WorkloadState.RUNNING}, run.evidence()
        assert not waiting.ledger.starts(), "nothing starts without the plane"
        road.resume()

        if not ends_during:
            agent.await_healthy(seconds=30)
            assert len(run.ledger.alive()) == agent.slots, "tasks outlive the end of the cut"
            run.open_gate()
        endings.assert_all_well(run, None, tries=1)
        endings.assert_all_well(waiting, agent, tries=1)
        endings.assert_slots_work(agent)
    finally:
        agent.close()
        road.close()
