"""The plane away, something else in its place, or the plane saying no: the agent goes on, and says why once."""

import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from tests.fakes import plane as planes
from tests.integration.agent.conftest import Start, healthz

from isthmus.wire import paths
from isthmus.wire.problems import Code
from isthmus.wire.workloads import Outcome


def metrics(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        lines = response.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_what_ends_during_an_outage_is_settled_after_it(plane: planes.FakePlane, start: Start) -> None:
    port = free_port()
    agent = start(plane.url, health_listen=f"127.0.0.1:{port}")
    one = plane.put({"sleep": 1})
    plane.wait_for(lambda: agent.orders("launch"))
    plane.stop()
    plane.wait_for(lambda: agent.lines("ended"))
    plane.wait_for(lambda: healthz(port)[1].get("plane_reachable") is False)
    # Shown once it has lasted.
    plane.wait_for(lambda: healthz(port)[0] == 503)
    assert healthz(port)[1]["warnings"][0]["code"] == "plane_unreachable"
    plane.start()
    plane.wait_for(lambda: one in plane.settled)
    assert plane.settled[one].outcome is Outcome.SUCCEEDED
    plane.wait_for(lambda: healthz(port)[0] == 200)
    assert len(agent.lines('"condition": "plane_unreachable"')) == 2  # came, went
    two = plane.put({"exit": 0})
    plane.wait_for(lambda: two in plane.settled)


def test_a_captive_portal_is_not_the_plane(plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url)
    plane.wait_for(lambda: plane.calls_to(paths.HEARTBEATS))
    for path in (paths.HEARTBEATS, paths.CLAIMS, paths.LOG_READS):
        plane.faults[path] += [planes.PORTAL] * 40
    plane.wait_for(lambda: agent.lines("plane_unreachable"))
    (line,) = agent.lines("plane_unreachable")
    assert "200 text/html" in line["event"]
    assert "Hotel Wifi" in line["hint"]
    plane.faults.clear()
    one = plane.put({"exit": 0})
    plane.wait_for(lambda: one in plane.settled)


def test_a_refused_token_is_tried_on_until_it_is_accepted(plane: planes.FakePlane, start: Start) -> None:
    port = free_port()
    plane.tokens.clear()
    agent = start(plane.url, health_listen=f"127.0.0.1:{port}")
    plane.wait_for(lambda: len(plane.calls_to(paths.ENROLMENTS)) > 2)
    status, health = healthz(port)
    assert status == 503
    assert health["warnings"][0]["code"] == "agent_refused"
    assert Code.TOKEN_INVALID in health["warnings"][0]["summary"]
    assert "isthmus token create" in health["warnings"][0]["hint"]
    plane.tokens.add(planes.TOKEN)
    one = plane.put({"exit": 0})
    plane.wait_for(lambda: one in plane.settled)
    assert len(agent.lines(Code.TOKEN_INVALID)) == 2  # came, went


def test_a_new_token_in_the_file_is_taken_at_once(plane: planes.FakePlane, start: Start, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(planes.TOKEN + "\n", encoding="ascii")
    file.chmod(0o600)
    # So long that only the new token can be why it works again.
    patient = {"refusal": {"first_seconds": 60.0, "jitter": 0.0}}
    start(plane.url, environment={}, token_file=str(file), timing=patient)
    plane.wait_for(lambda: plane.calls_to(paths.HEARTBEATS))
    renewed = planes.TOKEN.replace("s", "t")
    file.write_text(renewed, encoding="ascii")
    plane.tokens = {renewed}
    one = plane.put({"exit": 0})
    plane.wait_for(lambda: one in plane.settled)


def test_a_url_without_a_deployment_is_told_as_such(plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url.replace(planes.DEPLOYMENT, "dother23"))
    plane.wait_for(lambda: agent.lines("deployment_not_found"))
    assert "Check the URL" in agent.lines("deployment_not_found")[0]["hint"]


def test_an_agent_that_the_plane_forgot_enrols_again(plane: planes.FakePlane, start: Start) -> None:
    start(plane.url)
    plane.wait_for(lambda: plane.calls_to(paths.HEARTBEATS))
    plane.agents.clear()
    plane.wait_for(lambda: len(plane.calls_to(paths.ENROLMENTS)) == 2)
    first, second = (call.json["instance_id"] for call in plane.calls_to(paths.ENROLMENTS))
    assert first == second
    one = plane.put({"exit": 0})
    plane.wait_for(lambda: one in plane.settled)


def test_a_replaced_agent_kills_its_tasks_and_ends_with_1(plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url)
    plane.put({"sleep": 600, "detached": True, "stubborn": True})
    plane.wait_for(lambda: agent.orders("launch"))
    below = agent.descendants()
    agent_id, _ = plane.agents["agent"]
    plane.agents["agent"] = (agent_id, planes.uuid4())
    assert agent.wait() == 1
    assert not psutil.wait_procs(below, timeout=5)[1]
    assert agent.lines("another process has this agent's name")


def test_a_slow_claim_does_not_delay_heartbeats(plane: planes.FakePlane, start: Start) -> None:
    start(plane.url, timing={"heartbeat_least": 0.1})
    plane.wait_for(lambda: plane.calls_to(paths.CLAIMS))
    before = len(plane.calls_to(paths.HEARTBEATS))
    plane.faults[paths.CLAIMS] += [planes.Slow(3.0)] * 3
    time.sleep(2.0)
    assert len(plane.calls_to(paths.HEARTBEATS)) - before >= 5


def test_health_and_metrics_are_served_and_nothing_else(plane: planes.FakePlane, start: Start) -> None:
    port = free_port()
    start(plane.url, health_listen=f"127.0.0.1:{port}", slots=3)
    plane.put({"exit": 0})
    plane.put({"exit": 1})
    plane.wait_for(lambda: len(plane.settled) == 2)
    status, health = healthz(port)
    # A warning (tasks run as our own user) is shown, and is no reason to be unhealthy.
    assert (status, health["status"], health["enrolled"], health["slots"]) == (200, "warning", True, 3)
    assert [warning["code"] for warning in health["warnings"]] == ["one_user"]
    assert health["versions"]["airflow"] == "3.3.2"
    found = metrics(port)
    assert found["isthmus_agent_plane_up"] == found["isthmus_agent_enrolled"] == 1
    assert found['isthmus_agent_workloads_total{outcome="succeeded"}'] == 1
    assert found['isthmus_agent_workloads_total{outcome="failed"}'] == 1
    assert found["isthmus_agent_launch_seconds_count"] == 2
    assert found["process_resident_memory_bytes"] < 60e6
    for path in ("/", "/healthz/x", "/../healthz"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5)
        with caught.value as error:
            assert error.code == 404


def test_a_taken_health_port_is_a_warning(plane: planes.FakePlane, start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        agent = start(plane.url, health_listen=f"127.0.0.1:{taken.getsockname()[1]}")
        one = plane.put({"exit": 0})
        plane.wait_for(lambda: one in plane.settled)
    assert agent.lines("health_port_taken")
