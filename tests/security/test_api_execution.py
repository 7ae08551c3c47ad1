"""What a task, or whoever holds an agent's credential, cannot do through the Execution API."""

import base64
import json
import time
import uuid
from typing import Any

import pytest
from tests.apis import Agent, Api, problem

pytestmark = pytest.mark.usefixtures("seeded")

#: Every version that Airflow's SDKs may ask for, one before and one after: policy must not depend on it.
VERSIONS = [
    "2025-04-11",
    "2025-04-28",
    "2025-05-20",
    "2025-08-10",
    "2025-09-23",
    "2026-01-01",
    "2026-06-30",
    "2030-01-01",
]


@pytest.fixture
def holder(api: Api) -> tuple[Agent, dict[str, Any]]:
    """An agent and a callback that it runs: its token opens everything that Airflow itself would open."""
    agent = api.agent()
    (workload_id,) = api.queue(agent, kind="callback")
    return agent, agent.run(workload_id)


def test_the_agent_token_is_asked_for_beside_the_task_token(holder: tuple[Agent, dict[str, Any]], api: Api) -> None:
    agent, lease = holder
    for changes, code in (
        ({"Isthmus-Agent-Token": ""}, "token_missing"),
        ({"Isthmus-Agent-Token": "nonsense"}, "token_invalid"),
        ({"Isthmus-Agent-Token": api.token()["secret"]}, "agent_unknown"),
        ({"Isthmus-Agent-Id": ""}, "request_invalid"),
        ({"Isthmus-Agent-Id": "x"}, "request_invalid"),
        ({"Isthmus-Agent-Id": str(uuid.uuid4())}, "lease_lost"),
        ({"Isthmus-Workload-Id": ""}, "request_invalid"),
        ({"Isthmus-Workload-Id": str(uuid.uuid4())}, "workload_not_found"),
    ):
        response = agent.task(lease, **changes).get("variables/shared_a")
        assert problem(response) == code, changes
        assert response.headers["content-type"] == "application/json"
    assert agent.task(lease).get("variables/shared_a").status_code == 200


def test_a_workload_answers_to_its_holder_while_it_runs(api: Api) -> None:
    token = api.token()["secret"]
    agent, other = api.agent(token=token), api.agent(token=token)
    api.queue(agent, kind="callback")
    (lease,) = agent.claim()
    assert problem(agent.task(lease).get("variables/shared_a")) == "lease_lost"  # not started
    agent.start(lease)
    assert agent.task(lease).get("variables/shared_a").status_code == 200
    # Another agent of the same token holds nothing of it.
    assert problem(other.task(lease).get("variables/shared_a")) == "lease_lost"
    agent.settle(lease)
    time.sleep(2.2)  # what was seen is believed for two seconds
    response = agent.task(lease).get("variables/shared_a")
    assert (response.status_code, problem(response)) == (409, "lease_lost")


def test_another_deployments_workload_is_unknown(holder: tuple[Agent, dict[str, Any]]) -> None:
    agent, lease = holder
    foreign = {**lease, "workload_id": str(uuid.uuid4())}
    response = agent.task(foreign).patch(f"task-instances/{uuid.uuid4()}/run", json={})
    assert (response.status_code, problem(response)) == (404, "workload_not_found")


def test_a_task_token_works_for_its_own_workload_alone(api: Api) -> None:
    agent = api.agent()
    api.queue(agent, 2, kind="callback")
    one, two = agent.claim(slots=2)
    assert agent.start(one, two) == ["confirmed", "confirmed"]
    assert agent.task(one).get("variables/shared_a").status_code == 200
    crossed = agent.task(one, two["task_token"]).get("variables/shared_a")
    assert (crossed.status_code, problem(crossed)) == (403, "token_scope")


def test_a_forged_task_token_does_not_pass_airflow(holder: tuple[Agent, dict[str, Any]]) -> None:
    agent, lease = holder
    head, body, _ = lease["task_token"].split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    same = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    for forged in (f"{none}.{same}.", f"{head}.{same}.AAAA", f"{head}.{body}."):
        assert agent.task(lease, forged).get("variables/shared_a").status_code == 403
    for nonsense in ("x", "a.b.c", "..", lease["task_token"] + ".x"):
        assert agent.task(lease, nonsense).get("variables/shared_a").status_code in {401, 403}


@pytest.mark.parametrize("version", [None, *VERSIONS])
def test_connections_and_variables_are_refused_in_every_version_of_the_api(
    holder: tuple[Agent, dict[str, Any]], version: str | None
) -> None:
    agent, lease = holder
    client = agent.task(lease, **({"Airflow-API-Version": version} if version else {}))
    for method, path, code in (
        ("GET", "connections/secret_db", "connection_not_allowed"),
        ("GET", "connections/secret_db%00public_", "connection_not_allowed"),
        ("GET", "connections", "connection_not_allowed"),
        ("GET", "connections/", "connection_not_allowed"),
        ("GET", "connections/secret_db/", "connection_not_allowed"),
        ("GET", "connections%2Fsecret_db", "connection_not_allowed"),
        ("HEAD", "connections/secret_db", ""),
        ("GET", "variables/secret", "variable_not_allowed"),
        ("PUT", "variables/secret", "variable_not_allowed"),
        ("DELETE", "variables/secret", "variable_not_allowed"),
        ("GET", "variables/keys", "variable_not_allowed"),
        ("GET", "variables/keys?prefix=s", "variable_not_allowed"),
        ("GET", "variables/keys?prefix=shared_&prefix=s", "variable_not_allowed"),
        ("GET", "variables/keys?prefix=shared", "variable_not_allowed"),
        ("GET", "variables/%6beys", "variable_not_allowed"),
        ("PUT", "variables/keys", "variable_not_allowed"),
        ("GET", "variables//secret", "variable_not_allowed"),
        ("GET", "variables/", "variable_not_allowed"),
    ):
        response = client.request(method, path, json={"value": "x"} if method == "PUT" else None)
        assert response.status_code == 403, (method, path, response.text)
        if code:
            assert problem(response) == code, (method, path)
    # What nobody has is not found, allowed or not: operators read variables with a default.
    for path in ("connections/public", "connections/PUBLIC_db", "variables/Secret", "variables/a/b"):
        response = client.get(path)
        assert response.status_code == 404, (path, response.text)
        assert response.json()["detail"]["reason"] == "not_found", path
    assert client.get("connections/public_db").json()["conn_id"] == "public_db"


def test_paths_that_are_spelt_otherwise_reach_nothing(holder: tuple[Agent, dict[str, Any]]) -> None:
    agent, lease = holder
    client = agent.task(lease)
    for path in ("/connections/secret_db", "./connections/secret_db", "x/../connections/x", "Connections/secret_db"):
        target = f"/dtest234/execution/{path}".encode()
        response = client.get("x", extensions={"target": target})
        assert (response.status_code, response.text) == (404, "404 page not found\n"), path


def test_an_allowed_variable_can_be_written_and_deleted(holder: tuple[Agent, dict[str, Any]], api: Api) -> None:
    agent, lease = holder
    client = agent.task(lease)
    key = f"shared_{uuid.uuid4().hex}"
    assert client.put(f"variables/{key}", json={"value": "1"}).status_code == 201
    assert client.get(f"variables/{key}").json()["value"] == "1"
    assert client.get("variables/keys", params={"prefix": key}).json()["keys"] == [key]
    assert client.delete(f"variables/{key}").status_code == 204
    assert client.get(f"variables/{key}").status_code == 404


def test_a_large_body_is_refused(holder: tuple[Agent, dict[str, Any]]) -> None:
    agent, lease = holder
    large = json.dumps("x" * 131_072)
    response = agent.task(lease).post("xcoms/seeded/run/one/key", content=large)
    assert (response.status_code, problem(response)) == (413, "body_too_large")


@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b'"hostname"', b"\xff"])
def test_a_body_in_which_the_hostname_cannot_be_replaced_is_refused(
    holder: tuple[Agent, dict[str, Any]], body: bytes
) -> None:
    agent, lease = holder
    response = agent.task(lease).patch(f"task-instances/{uuid.uuid4()}/run", content=body)
    assert problem(response) in {"body_malformed", "request_invalid"}


def test_the_hostname_cannot_be_smuggled_past(api: Api, queued_task: tuple[str, str]) -> None:
    ti_id, _ = queued_task
    agent = api.agent()
    (workload_id,) = api.queue(agent, subject_id=ti_id)
    lease = agent.run(workload_id)
    body = (
        b'{"hostname": "a", "state": "running", "unixname": "u", "pid": 1, '
        b'"start_date": "2026-02-03T00:00:00Z", "hostn\\u0061me": "evil.example.org"}'
    )
    client = agent.task(lease)
    client.headers["Content-Type"] = "application/json"
    assert client.patch(f"task-instances/{ti_id}/run", content=body).status_code == 200
    ((hostname,),) = api.execute(f"SELECT hostname FROM task_instance WHERE id = '{ti_id}'")
    assert hostname == f"{agent.name}.isthmus.invalid"


def test_another_task_instance_cannot_be_run_with_ones_own_token(api: Api, queued_task: tuple[str, str]) -> None:
    agent = api.agent()
    (workload_id,) = api.queue(agent)
    lease = agent.run(workload_id)
    body = {"state": "running", "hostname": "h", "unixname": "u", "pid": 1, "start_date": "2026-02-03T00:00:00Z"}
    response = agent.task(lease).patch(f"task-instances/{queued_task[0]}/run", json=body)
    assert response.status_code == 403
    assert api.execute(f"SELECT state FROM task_instance WHERE id = '{queued_task[0]}'") == [("queued",)]
