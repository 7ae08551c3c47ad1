"""An agent's own calls of Airflow's Execution API: a token of its own, what its role needs, and nothing else."""

import uuid

import httpx
import pytest
from tests.apis import Agent, Api, answered, problem

from isthmus.deployment.components import COMPONENT_TOKEN_SECONDS

pytestmark = pytest.mark.usefixtures("seeded")


def component(agent: Agent, token: str | None = None, **headers: str) -> httpx.Client:
    """A client as the gateway speaks for a component of the agent."""
    if token is None:
        token = answered(agent.post("component-tokens"))["token"]
    sent = {
        "Authorization": f"Bearer {token}",
        "Isthmus-Agent-Token": agent.token,
        "Isthmus-Agent-Id": agent.agent_id,
        **headers,
    }
    return agent.api.client(headers=sent, path="execution/")


def test_a_dag_processor_reads_what_the_deployment_allows(api: Api) -> None:
    agent = api.agent(role="dag-processor")
    said = answered(agent.post("component-tokens"))
    assert said["valid_seconds"] == COMPONENT_TOKEN_SECONDS
    client = component(agent, said["token"])
    assert client.get("connections/public_db").json()["host"] == "db.example.org"
    assert client.get("variables/shared_a").status_code == 200
    assert problem(client.get("connections/secret_db")) == "connection_not_allowed"
    assert problem(client.get("variables/secret")) == "variable_not_allowed"


def test_nothing_else_is_open(api: Api, queued_task: tuple[str, str]) -> None:
    ti_id, run_id = queued_task
    client = component(api.agent(role="dag-processor"))
    for method, path in (
        ("GET", f"xcoms/seeded/{run_id}/one/return_value"),
        ("POST", f"xcoms/seeded/{run_id}/one/return_value"),
        ("PATCH", f"task-instances/{ti_id}/run"),
        ("PATCH", f"task-instances/{ti_id}/state"),
        ("GET", f"dag-runs/seeded/{run_id}"),
        ("POST", f"dag-runs/seeded/{run_id}"),
        ("PUT", "connections/public_db"),
    ):
        assert problem(client.request(method, path, json={})) == "token_scope", path
    assert problem(client.put("variables/secret", json={"val": "1"})) == "variable_not_allowed"
    assert client.get("task-instances/count", params={"dag_id": "seeded"}).status_code == 200
    assert api.execute(f"SELECT state FROM task_instance WHERE id = '{ti_id}'") == [("queued",)]


def test_the_token_is_the_agents_own(api: Api) -> None:
    agent, other = api.agent(role="dag-processor"), api.agent(role="dag-processor")
    token = answered(agent.post("component-tokens"))["token"]
    assert problem(component(other, token).get("variables/shared_a")) == "token_scope", "minted for another agent"
    theirs = component(agent, token, **{"Isthmus-Agent-Token": other.token})
    assert problem(theirs.get("variables/shared_a")) == "agent_unknown"
    unknown = component(agent, token, **{"Isthmus-Agent-Id": str(uuid.uuid4())})
    assert problem(unknown.get("variables/shared_a")) == "agent_unknown"
    assert component(agent, "nonsense").get("variables/shared_a").status_code == 401


def test_a_worker_has_none(api: Api, queued_task: tuple[str, str]) -> None:
    agent = api.agent()
    assert problem(agent.post("component-tokens")) == "token_scope"
    (workload_id,) = api.queue(agent, subject_id=queued_task[0])
    lease = agent.run(workload_id)
    # A task's token does not become an agent's by leaving the workload out.
    task = agent.task(lease, **{"Isthmus-Workload-Id": ""})
    assert problem(task.get("variables/shared_a")) == "request_invalid"
