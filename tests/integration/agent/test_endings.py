"""How an agent ends: drained, hurried, killed, and what is left behind, which is nothing."""

import signal
import time

import psutil
import pytest
from tests.fakes import plane as planes
from tests.integration.agent.conftest import AgentProcess, Start

from isthmus.wire import paths
from isthmus.wire.workloads import Outcome


def sleeping(agent: AgentProcess, plane: planes.FakePlane, count: int = 1, **payload: object) -> list[psutil.Process]:
    """Have ``count`` workloads run; everything below the control process."""
    for _ in range(count):
        plane.put({"sleep": 600, **payload})
    plane.wait_for(lambda: len(agent.lines("launched")) == count)
    return agent.descendants()


def test_sigterm_lets_running_work_finish(plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url)
    one = plane.put({"sleep": 2})
    plane.wait_for(lambda: agent.orders("launch"))
    agent.terminate()
    plane.wait_for(lambda: agent.lines("draining"))
    waiting = plane.put({"exit": 0})
    assert agent.wait() == 0
    assert plane.settled[one].outcome is Outcome.SUCCEEDED
    # The open claim may have been given it at the last moment: then it went back.
    assert waiting not in plane.settled
    assert waiting in {one.workload_id for one in plane.queue}
    assert len(agent.orders("launch")) == 1
    last = plane.calls_to(paths.HEARTBEATS)[-1].json
    assert (last["phase"], last["slots_used"]) == ("left", 0)
    assert "draining" in {call.json["phase"] for call in plane.calls_to(paths.HEARTBEATS)}


def test_an_idle_agent_leaves_at_once(plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url)
    plane.wait_for(lambda: plane.calls_to(paths.CLAIMS))
    began = time.monotonic()
    agent.terminate()
    assert agent.wait() == 0
    assert time.monotonic() - began < 2.0


def test_what_an_open_claim_brings_during_a_drain_is_given_back(plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url)
    plane.wait_for(lambda: plane.calls_to(paths.CLAIMS))
    plane.faults[paths.CLAIMS] += [planes.Slow(0.0), planes.Slow(1.0)]
    first = plane.put({"sleep": 3})
    plane.wait_for(lambda: agent.orders("launch"))
    # The claim that is open now has been answered with this, but the answer is held back.
    plane.wait_for(lambda: not plane.faults[paths.CLAIMS])
    given = plane.put({"exit": 0})
    claim = plane.calls_to(paths.CLAIMS)[-1].json["claim_id"]
    plane.leases[given] = planes.Lease(plane.queue.pop(), planes.UUID(claim))
    agent.terminate()
    assert agent.wait() == 0
    assert [one.workload_id for one in plane.released] == [given]
    assert plane.settled[first].outcome is Outcome.SUCCEEDED


def test_the_deadline_ends_what_still_runs(plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url, drain_seconds=1)
    below = sleeping(agent, plane, stubborn=True, detached=True)
    agent.terminate()
    assert agent.wait() == 0
    assert not psutil.wait_procs(below, timeout=2)[1]
    (settlement,) = plane.settled.values()
    assert settlement.outcome is Outcome.FAILED
    assert "the agent was stopped" in settlement.detail
    assert agent.orders("kill")[0]["grace_seconds"] == 0.5


def test_a_second_signal_ends_it_now(plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url, drain_seconds=600, kill_grace_seconds=600)
    below = sleeping(agent, plane, count=2, stubborn=True)
    agent.terminate()
    plane.wait_for(lambda: agent.lines("draining"))
    began = time.monotonic()
    agent.terminate()
    assert agent.wait() == 0
    assert time.monotonic() - began < 5
    assert not psutil.wait_procs(below, timeout=2)[1]
    assert [one.outcome for one in plane.settled.values()] == [Outcome.FAILED] * 2


def test_the_planes_drain_has_no_deadline_but_a_signal_gives_it_one(plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url, drain_seconds=0)
    sleeping(agent, plane)
    plane.drain = True
    plane.wait_for(lambda: agent.lines("draining"))
    time.sleep(1.0)
    assert agent.process.poll() is None
    agent.terminate()
    assert agent.wait() == 0


def test_draining_while_the_plane_is_away_ends_in_time(plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url, drain_seconds=0.5, timing={"farewell": 0.5})
    below = sleeping(agent, plane)
    plane.stop()
    agent.terminate()
    assert agent.wait(15) == 0
    assert not psutil.wait_procs(below, timeout=2)[1]
    assert agent.lines("outcomes were not reported")


def test_a_killed_control_process_takes_everything_along(plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url)
    below = sleeping(agent, plane, detached=True)
    agent.process.send_signal(signal.SIGKILL)
    assert not psutil.wait_procs(below, timeout=5)[1]


def test_the_next_instance_waits_for_the_last_process_of_the_former(plane: planes.FakePlane, start: Start) -> None:
    first = start(plane.url)
    sleeping(first, plane)
    runner = psutil.Process(first.orders("launch")[0]["pid"])
    runner.suspend()  # so that it cannot notice that it should go
    first.process.send_signal(signal.SIGKILL)
    first.wait()
    second = start(plane.url)
    plane.wait_for(lambda: second.lines("waiting for the processes of the former instance"))
    time.sleep(0.5)
    assert len(plane.calls_to(paths.ENROLMENTS)) == 1
    runner.resume()
    plane.wait_for(lambda: len(plane.calls_to(paths.ENROLMENTS)) == 2)
    instances = {call.json["instance_id"] for call in plane.calls_to(paths.ENROLMENTS)}
    assert len(instances) == 2


def test_a_lock_that_does_not_come_free_is_told(plane: planes.FakePlane, start: Start) -> None:
    first = start(plane.url)
    plane.wait_for(lambda: plane.calls_to(paths.ENROLMENTS))
    second = start(plane.url, timing={"locking": 0.5})
    assert second.wait() == 2
    assert "another instance" in second.log.read_text(encoding="utf-8")
    assert first.process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_both_signals_drain(plane: planes.FakePlane, start: Start, number: signal.Signals) -> None:
    agent = start(plane.url)
    plane.wait_for(lambda: plane.calls_to(paths.CLAIMS))
    agent.process.send_signal(number)
    assert agent.wait() == 0
    assert agent.lines(number.name)
