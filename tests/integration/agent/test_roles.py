"""Several roles in one control process: members of their own, components under it, and one end for all."""

import json
import signal
import socket
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.fakes import plane as planes

from integration.agent.conftest import AgentProcess, Start, healthz
from isthmus.wire import paths
from isthmus.wire.problems import Code

ALL = "worker,dag-processor,triggerer"
NAMES = {"worker": "agent", "dag-processor": "agent.dag-processor", "triggerer": "agent.triggerer"}
COMPONENTS = ("dag-processor", "triggerer")


def begun(agent: AgentProcess, role: str) -> list[dict[str, Any]]:
    return [one for one in agent.orders("begin") if one["role"] == role]


def await_begun(agent: AgentProcess, plane: planes.FakePlane, times: int = 1) -> dict[str, dict[str, Any]]:
    """What each component was told last."""
    plane.wait_for(lambda: all(len(begun(agent, role)) >= times for role in COMPONENTS))
    return {role: begun(agent, role)[-1] for role in COMPONENTS}


def call(told: dict[str, Any], path: str, body: Any = None, *, method: str = "POST") -> httpx.Response:
    """A call as a component makes it."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=told["gateway_socket"]), base_url="http://gateway") as client:
        headers = {"authorization": f"Bearer {told['gateway_token']}"}
        return client.request(method, path, json=body, headers=headers, timeout=20)


def identity(told: dict[str, Any]) -> dict[str, str]:
    return {"agent_id": told["agent_id"], "instance_id": told["instance_id"]}


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def last_beat(plane: planes.FakePlane, agent_id: str) -> dict[str, Any]:
    beats = [one.json for one in plane.calls_to(paths.HEARTBEATS) if one.json["agent_id"] == agent_id]
    return beats[-1] if beats else {}


def test_each_role_is_an_agent_of_its_own(plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url, role=ALL)
    told = await_begun(agent, plane)
    plane.wait_for(lambda: set(plane.agents) == set(NAMES.values()))

    enrolled = {one.json["name"]: one.json for one in plane.calls_to(paths.ENROLMENTS)}
    assert {name: one["role"] for name, one in enrolled.items()} == {name: role for role, name in NAMES.items()}
    assert enrolled["agent.triggerer"]["slots"] == 1000
    assert len({one["instance_id"] for one in enrolled.values()}) == 3
    for role in COMPONENTS:
        assert told[role]["agent_id"] == str(plane.agents[NAMES[role]][0])
    plane.wait_for(lambda: last_beat(plane, told["triggerer"]["agent_id"]).get("slots_used") == 1000)
    shown = plane.wait_for(lambda: last_beat(plane, told["triggerer"]["agent_id"]).get("warnings"))
    assert "fake_component" in {one["code"] for one in shown}
    assert planes.TOKEN not in json.dumps(told)
    plane.wait_for(lambda: enrolled_versions(plane)["agent.triggerer"] == "3.3.2")


def enrolled_versions(plane: planes.FakePlane) -> dict[str, str | None]:
    return {one.json["name"]: one.json["versions"]["airflow"] for one in plane.calls_to(paths.ENROLMENTS)}


def test_a_component_reaches_what_is_its_roles_and_nothing_else(plane: planes.FakePlane, start: Start) -> None:
    told = await_begun(start(plane.url, role=ALL), plane)
    dags, triggerer = told["dag-processor"], told["triggerer"]

    answer = call(dags, paths.DAG_BUNDLES, {**identity(dags), "bundles": []})
    assert (answer.status_code, answer.json()["bundles"]) == (200, [])
    relayed = plane.calls_to(paths.DAG_BUNDLES)[-1]
    assert relayed.headers["authorization"] == f"Bearer {planes.TOKEN}"
    assert dags["gateway_token"] not in str(relayed.headers)

    forbidden = [
        (triggerer, paths.DAG_BUNDLES),
        (dags, "/agent/v1/triggers/load"),
        (dags, paths.CLAIMS),
        (dags, f"{paths.DAG_PROCESSING_PREFIX}/../claims"),
        (dags, f"{paths.DAG_PROCESSING_PREFIX}/%2e%2e/claims"),
        (dags, "/admin/v1/agents"),
    ]
    claims = len(plane.calls_to(paths.CLAIMS))
    for who, path in forbidden:
        refused = call(who, path, identity(who))
        assert (refused.status_code, refused.text) == (404, paths.NOT_FOUND_TEXT), path
    assert call(dags, paths.DAG_BUNDLES, method="GET").status_code == 405
    assert call({**dags, "gateway_token": "x" * 43}, paths.DAG_BUNDLES, identity(dags)).status_code == 404
    stolen = {**dags, "gateway_socket": triggerer["gateway_socket"]}
    assert call(stolen, paths.DAG_BUNDLES, identity(dags)).status_code == 404
    assert len([one for one in plane.calls_to(paths.CLAIMS) if one.json["agent_id"] == dags["agent_id"]]) == 0
    assert claims <= len(plane.calls_to(paths.CLAIMS))


def test_airflows_api_is_called_with_a_component_token(plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url, role="dag-processor")
    plane.wait_for(lambda: begun(agent, "dag-processor"))
    told = begun(agent, "dag-processor")[-1]

    answer = call(told, "/execution/variables/region", method="GET")
    assert answer.status_code == 200
    seen = [one for one in plane.calls if one.path == "/execution/variables/region"][-1]
    assert seen.headers["authorization"] == "Bearer component-token-1"
    assert seen.headers["isthmus-agent-id"] == told["agent_id"]
    assert seen.headers["isthmus-agent-token"] == planes.TOKEN
    assert "isthmus-workload-id" not in seen.headers


def test_a_plane_that_is_away_is_said_at_once(plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url, role="dag-processor")
    plane.wait_for(lambda: begun(agent, "dag-processor"))
    told = begun(agent, "dag-processor")[-1]
    plane.stop()

    answer = call(told, paths.DAG_BUNDLES, identity(told))

    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == Code.PLANE_UNREACHABLE
    plane.start()


def test_who_was_forgotten_enrols_and_tells_its_component(plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url, role="triggerer,dag-processor")
    before = await_begun(agent, plane)["dag-processor"]
    del plane.agents["agent.dag-processor"]

    call(before, paths.DAG_BUNDLES, identity(before))

    plane.wait_for(lambda: len(begun(agent, "dag-processor")) == 2)
    after = begun(agent, "dag-processor")[-1]
    assert after["agent_id"] != before["agent_id"]
    assert call(after, paths.DAG_BUNDLES, identity(after)).status_code == 200
    assert len(begun(agent, "triggerer")) == 1


@pytest.mark.parametrize("victim", ["fork server", *COMPONENTS])
def test_what_dies_is_started_again_beside_the_others(victim: str, plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url, role=ALL)
    told = await_begun(agent, plane)
    work = plane.put({"sleep": 600})
    plane.wait_for(lambda: agent.orders("launch"))
    pids = {"fork server": agent.orders("launch")[0]["pid"], **{role: one["pid"] for role, one in told.items()}}

    psutil.Process(pids[victim]).kill()

    if victim == "fork server":
        plane.wait_for(lambda: work in plane.settled)
    else:
        plane.wait_for(lambda: len(begun(agent, victim)) == 2)
        assert work not in plane.settled
    others = [psutil.Process(pid) for name, pid in pids.items() if name != victim]
    assert all(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in others)


def test_a_signal_ends_all_roles_in_order(plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url, role=ALL)
    told = await_begun(agent, plane)
    agent.terminate()
    assert agent.wait() == 0
    left = {one.json["agent_id"] for one in plane.calls_to(paths.HEARTBEATS) if one.json["phase"] == "left"}
    assert left == {str(agent_id) for agent_id, _ in plane.agents.values()}
    assert not any(psutil.pid_exists(one["pid"]) for one in told.values())


def test_nothing_outlives_a_control_process_that_is_killed(plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url, role=ALL)
    told = await_begun(agent, plane)
    agent.process.send_signal(signal.SIGKILL)
    agent.wait()
    plane.wait_for(lambda: not any(psutil.pid_exists(one["pid"]) for one in told.values()), seconds=10)


def test_a_role_that_nobody_asked_for_is_left_out(plane: planes.FakePlane, start: Start) -> None:
    port = free_port()
    plane.roles = {"worker", "triggerer"}
    listen = f"127.0.0.1:{port}"
    agent = start(plane.url, default_roles=tuple(ALL.split(",")), health_listen=listen)
    plane.wait_for(lambda: begun(agent, "triggerer"))

    def left_out() -> Any:
        _status, body = healthz(port)
        return body if any(one["code"] == "role_left_out" for one in body.get("warnings", ())) else None

    body = plane.wait_for(left_out)
    assert [one["phase"] for one in (body, *body["roles"])] == ["ready", "left_out", "ready"]
    assert not any(one["code"] == "agent_refused" for one in body["warnings"])
    assert not begun(agent, "dag-processor"), "its component is not even started"
    plane.wait_for(lambda: plane.put({"exit": 0}) in plane.settled or plane.settled)


def test_a_role_that_was_asked_for_waits_to_be_let_in(plane: planes.FakePlane, start: Start) -> None:
    plane.roles = {"worker"}
    agent = start(plane.url, role="dag-processor", timing={"refusal": {"first_seconds": 0.1, "longest_seconds": 0.2}})
    plane.wait_for(lambda: agent.lines(Code.ROLE_NOT_USED) or agent.lines("agent_refused"))
    plane.roles = {"worker", "dag-processor"}
    plane.wait_for(lambda: begun(agent, "dag-processor"))
    assert Path(begun(agent, "dag-processor")[-1]["gateway_socket"]).name == "dag-processor.sock"
