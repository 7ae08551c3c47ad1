"""Airflow's Execution API behind our edge: a real task instance runs through it, and the scheduler hears of it."""

import datetime
import json
import subprocess
import sys
import uuid

import psycopg2.extensions
import pytest
from tests.apis import Agent, Api, until

from isthmus.deployment import databases

pytestmark = pytest.mark.usefixtures("seeded")

NOW = datetime.datetime(2026, 2, 3, tzinfo=datetime.UTC).isoformat()
RUNNING = {"state": "running", "hostname": "evil.example.org", "unixname": "u", "pid": 7, "start_date": NOW}


def started(api: Api, subject_id: str, kind: str = "task") -> tuple[Agent, dict[str, object]]:
    agent = api.agent()
    (workload_id,) = api.queue(agent, subject_id=subject_id, kind=kind)
    return agent, agent.run(workload_id)


def test_a_task_runs_through_the_execution_api(api: Api, queued_task: tuple[str, str]) -> None:
    ti_id, run_id = queued_task
    agent, lease = started(api, ti_id)
    task = agent.task(lease)
    running = task.patch(f"task-instances/{ti_id}/run", json=RUNNING)
    assert running.status_code == 200, running.text
    assert running.json()["dag_run"]["run_id"] == run_id
    # The token of the lease opens this one transition; the answer brings the one for the rest.
    token = running.headers["Refreshed-API-Token"]
    assert task.post(f"xcoms/seeded/{run_id}/one/return_value", json="1").status_code == 403
    task = agent.task(lease, token)
    assert task.put(f"task-instances/{ti_id}/heartbeat", json={"hostname": "other", "pid": 7}).status_code == 204
    stored = task.post(f"xcoms/seeded/{run_id}/one/return_value", json='{"a": 1}')
    assert stored.status_code == 201, stored.text
    done = task.patch(f"task-instances/{ti_id}/state", json={"state": "success", "end_date": NOW})
    assert done.status_code == 204, done.text
    ((state, hostname),) = api.execute(f"SELECT state, hostname FROM task_instance WHERE id = '{ti_id}'")
    # What the worker says of its host is not what Airflow will connect to.
    assert (state, hostname) == ("success", f"{agent.name}.isthmus.invalid")


def test_a_heartbeat_of_a_task_that_was_ended_is_refused_by_airflow_itself(
    api: Api, queued_task: tuple[str, str]
) -> None:
    ti_id, _ = queued_task
    agent, lease = started(api, ti_id)
    token = agent.task(lease).patch(f"task-instances/{ti_id}/run", json=RUNNING).headers["Refreshed-API-Token"]
    api.execute(f"UPDATE task_instance SET state = 'failed' WHERE id = '{ti_id}'")
    refused = agent.task(lease, token).put(f"task-instances/{ti_id}/heartbeat", json={"hostname": "x", "pid": 7})
    assert refused.status_code == 409
    assert refused.json()["detail"]["reason"] == "not_running"
    assert "code" not in refused.json()


def test_a_changed_state_tells_the_scheduler_and_a_heartbeat_does_not(api: Api, queued_task: tuple[str, str]) -> None:
    ti_id, _ = queued_task
    agent, lease = started(api, ti_id)
    with databases.connected(api.database_url) as connection, connection.cursor() as cursor:
        token = agent.task(lease).patch(f"task-instances/{ti_id}/run", json=RUNNING).headers["Refreshed-API-Token"]
        task = agent.task(lease, token)
        cursor.execute("LISTEN isthmus_scheduler")
        task.put(f"task-instances/{ti_id}/heartbeat", json={"hostname": "x", "pid": 7}).raise_for_status()
        assert not heard(connection)
        task.patch(f"task-instances/{ti_id}/state", json={"state": "success", "end_date": NOW}).raise_for_status()
        until(lambda: heard(connection), seconds=2)


def heard(connection: psycopg2.extensions.connection) -> bool:
    connection.poll()
    found = bool(connection.notifies)
    connection.notifies.clear()
    return found


def test_a_deferral_is_a_changed_state_too(api: Api, queued_task: tuple[str, str]) -> None:
    ti_id, _ = queued_task
    agent, lease = started(api, ti_id)
    token = agent.task(lease).patch(f"task-instances/{ti_id}/run", json=RUNNING).headers["Refreshed-API-Token"]
    body = {
        "state": "deferred",
        "classpath": "airflow.providers.standard.triggers.temporal.TimeDeltaTrigger",
        "trigger_kwargs": {"__type": "dict", "__var": {}},
        "next_method": "execute",
        "next_kwargs": {},
    }
    deferred = agent.task(lease, token).patch(f"task-instances/{ti_id}/state", json=body)
    assert deferred.status_code == 204, deferred.text
    assert api.execute(f"SELECT state FROM task_instance WHERE id = '{ti_id}'") == [("deferred",)]


def test_the_token_of_a_callback_opens_connections(api: Api) -> None:
    agent, lease = started(api, str(uuid.uuid4()), kind="callback")
    response = agent.task(lease).get("connections/public_db")
    assert (response.status_code, response.json()["host"]) == (200, "db.example.org")


def test_the_token_of_a_connection_test_opens_its_test_alone(api: Api) -> None:
    test_id = str(uuid.uuid4())
    agent, lease = started(api, test_id, kind="connection_test")
    assert agent.task(lease).get("connections/public_db").status_code == 403
    # There is no such test in Airflow's table, and Airflow got as far as looking.
    assert agent.task(lease).get(f"connection-tests/{test_id}/connection").status_code == 404
    again = agent.post(f"workloads/{lease['workload_id']}/token", fence=lease["fence"]).json()["task_token"]
    assert agent.task(lease, again).get(f"connection-tests/{test_id}/connection").status_code == 404


def test_a_token_that_is_minted_anew_works_where_the_first_had_been_exchanged(
    api: Api, queued_task: tuple[str, str]
) -> None:
    ti_id, _ = queued_task
    agent, lease = started(api, ti_id)
    agent.task(lease).patch(f"task-instances/{ti_id}/run", json=RUNNING).raise_for_status()
    again = agent.post(f"workloads/{lease['workload_id']}/token", fence=lease["fence"]).json()["task_token"]
    response = agent.task(lease, again).put(f"task-instances/{ti_id}/heartbeat", json={"hostname": "x", "pid": 7})
    assert response.status_code == 204, response.text


def test_an_expired_task_token_is_airflows_own_403(api: Api, queued_task: tuple[str, str]) -> None:
    """The gateway mints a new token on this answer; it tells it from ours by the missing ``code``."""
    agent, lease = started(api, queued_task[0])
    head, body, signature = str(lease["task_token"]).split(".")
    response = agent.task(lease, ".".join([head, body, signature[::-1]])).get("variables/shared_a")
    assert response.status_code == 403
    assert response.json() == {"detail": "Invalid auth token"}


SDK = """
import json, os, sys
import httpx
from airflow.sdk.api.client import Client
given = json.loads(sys.stdin.read())
client = Client(base_url=given["url"], token=given["token"])
client.headers.update(given["headers"])
def outcome(call):
    try:
        answer = call()
    except Exception as error:
        return [type(error).__name__, str(error), getattr(error, "detail", None)]
    return [type(answer).__name__, answer.model_dump(mode="json")]
print(json.dumps([
    outcome(lambda: client.connections.get("public_db")),
    outcome(lambda: client.connections.get("secret_db")),
    outcome(lambda: client.variables.get("shared_a")),
    outcome(lambda: client.variables.get("secret")),
    outcome(lambda: client.variables.set("secret", "x")),
    outcome(lambda: client.variables.keys(prefix="s")),
    outcome(lambda: client.variables.keys(prefix="shared_")),
]))
"""


@pytest.mark.timeout(120)
def test_airflows_sdk_understands_what_policy_says(api: Api, api_environment: dict[str, str]) -> None:
    agent, lease = started(api, str(uuid.uuid4()), kind="callback")
    # Importing the SDK takes longer than the lease.
    api.execute("UPDATE isthmus_workload SET lease_expires_at = now() + interval '1 hour' WHERE state = 'running'")
    headers = dict(agent.task(lease).headers)
    given = {
        "url": f"{api.url}execution/",
        "token": lease["task_token"],
        "headers": {name: value for name, value in headers.items() if name.startswith("isthmus-")},
    }
    environment = {**api_environment, "AIRFLOW__API__SSL_CERT": str(api.authority), "PATH": ""}
    out = subprocess.run(
        [sys.executable, "-c", SDK],
        env=environment,
        input=json.dumps(given),
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    allowed, refused, value, hidden, written, listed, shared = json.loads(out.splitlines()[-1])
    assert (allowed[0], allowed[1]["host"]) == ("ConnectionResponse", "db.example.org")
    # PERMISSION_DENIED ends the search: the task's log says that access was denied, not that nothing is defined.
    assert refused == [
        "ErrorResponse",
        {"error": "PERMISSION_DENIED", "detail": refused[1]["detail"], "type": "ErrorResponse"},
    ]
    assert refused[1]["detail"] == {"conn_id": "secret_db", "status_code": 403}
    assert (value[0], value[1]["value"]) == ("VariableResponse", "value of shared_a")
    assert (hidden[0], hidden[1]["error"]) == ("ErrorResponse", "PERMISSION_DENIED")
    # Where the SDK has no such word, the reason and the remedy come through in the error's detail.
    for denied in (written, listed):
        assert denied[0] == "ServerResponseError"
        assert denied[2]["reason"] == "variable_not_allowed"
        assert "allowed_variables" in denied[2]["hint"]
    assert shared[1]["keys"] == ["shared_a", "shared_b"]
