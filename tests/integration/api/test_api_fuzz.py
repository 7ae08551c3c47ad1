"""Both APIs against their own OpenAPI documents, by schemathesis: no server error, and every answer as documented.

Half of what is sent fits the document and half does not. Examples are few and derandomised: this is a regression test
of every route's edges, and a seed of one's own finds more (HYPOTHESIS_PROFILE does not matter, ``--hypothesis-seed``
does).
"""

import json
import uuid
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from tests.apis import ADMIN_TOKEN, DEPLOYMENT_ID, Agent, Api

from isthmus.deployment.api import admin, internal
from isthmus.deployment.api.agents import AgentApi
from isthmus.deployment.api.dags import DagApi
from isthmus.deployment.api.metrics import Metrics
from isthmus.deployment.api.triggers import TriggerApi
from isthmus.deployment.config import DeploymentConfig
from isthmus.kit.clocks import SystemClock
from isthmus.wire import paths
from isthmus.wire.workloads import MAX_CLAIM_WAIT_SECONDS

pytestmark = [
    pytest.mark.timeout(600),
    # What schemathesis and requests themselves do.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    # Hypothesis finds that a strategy drew from ``random``, when what drew was the plane in its thread.
    pytest.mark.filterwarnings("ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning"),
]

FEW = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    database=None,
)
#: What is answered when there is something, or after a while, which is cut short here.
WAITING = (paths.CLAIMS, paths.DAG_CLAIMS, paths.LOG_READS, paths.TRIGGER_LOADS)
#: What a request that does not fit may be answered with; 413 where it is too large before it is looked at.
REJECTED = [400, 401, 403, 404, 405, 409, 413, 422]
CONFIG = {"seed": 20260203, "checks": {"negative_data_rejection": {"expected-statuses": REJECTED}}}

schemathesis.openapi.format(
    "ipvanynetwork", st.ip_addresses().map(lambda address: f"{address}/{address.max_prefixlen}")
)
schemathesis.openapi.format("ipvanyaddress", st.ip_addresses().map(str))


PLANE: Any = SimpleNamespace(config=DeploymentConfig(deployment_id=DEPLOYMENT_ID), tokens=None)
AGENT_DOCUMENT = AgentApi(
    PLANE,
    PLANE,
    Metrics(),
    task_sdk_version="1",
    more=(*DagApi(PLANE, PLANE).operations, *TriggerApi(PLANE, lambda: None).operations),
).document()
ADMIN_DOCUMENT = internal.document(admin.router(PLANE, SystemClock(), airflow_version=""))

agent_api = schemathesis.openapi.from_dict(AGENT_DOCUMENT, config=SchemathesisConfig.from_dict(CONFIG))
admin_api = schemathesis.openapi.from_dict(ADMIN_DOCUMENT, config=SchemathesisConfig.from_dict(CONFIG))


@pytest.fixture(scope="module")
def fuzzed(api: Api) -> Iterator[Agent]:
    """The agent whose name is used where a body needs one that exists; tokens that were made are revoked afterwards."""
    yield api.agent()
    api.allow()
    api.execute(
        "WITH ended AS (UPDATE isthmus_token SET revoked_at = now() WHERE name <> 'test' RETURNING 1) "
        "SELECT pg_notify('isthmus_access', '') FROM ended"
    )


@pytest.fixture(scope="module")
def others(api: Api, fuzzed: Agent) -> dict[str, Agent]:
    """Agents of the other roles, with the same token, by how the paths of their own begin."""
    roles = {paths.DAG_PROCESSING_PREFIX: "dag-processor", f"{paths.AGENT_PREFIX}/triggers": "triggerer"}
    return {prefix: api.agent(token=fuzzed.token, role=role) for prefix, role in roles.items()}


@agent_api.parametrize()
@FEW
def test_the_agent_api(case: Any, api: Api, fuzzed: Agent, others: dict[str, Agent]) -> None:
    body = case.body
    if isinstance(body, dict):
        # Somebody unknown is turned away at once; most of the time it shall be an agent that exists.
        if _is_uuid(body.get("agent_id")) and _is_uuid(body.get("instance_id")):
            agent = next((one for prefix, one in others.items() if prefix in case.operation.path), fuzzed)
            body |= {"agent_id": agent.agent_id, "instance_id": agent.instance_id}
        if case.operation.path.endswith(WAITING):
            wait = body.setdefault("wait_seconds", 0)
            if isinstance(wait, float | int) and 0 <= wait <= MAX_CLAIM_WAIT_SECONDS:
                body["wait_seconds"] = min(wait, 0.05)
        case.body = _integers(body)
    road = {"verify": str(api.authority)}
    response = case.call(
        base_url=f"https://localhost:{api.port}/{DEPLOYMENT_ID}",
        headers={"Authorization": f"Bearer {fuzzed.token}"},
        **road,
    )
    # That a path leads out of its bundle is not said by the schema.
    excluded = [positive_data_acceptance] if "relative_fileloc" in json.dumps(body, default=str) else []
    case.validate_response(response, excluded_checks=excluded, transport_kwargs=road)


@admin_api.parametrize()
@FEW
def test_the_admin_api(case: Any, api: Api, fuzzed: Agent) -> None:
    response = case.call(
        base_url=f"http://127.0.0.1:{api.admin_port}", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"}
    )
    # A cursor that fits the pattern need not be one that was given out.
    query = case.query or {}
    excluded = [positive_data_acceptance] if "before" in query else []
    if any(isinstance(value, list | dict) for value in query.values()):
        excluded.append(negative_data_rejection)  # sent as several, of which the last counts, or as none
    case.validate_response(response, excluded_checks=excluded)


def _integers(value: Any) -> Any:
    """The same JSON with 1 for 1.0: to JSON Schema both are integers, to a strict reader one is."""
    match value:
        case float() if value.is_integer() and abs(value) < 2**53:
            return int(value)
        case dict():
            return {key: _integers(one) for key, one in value.items()}
        case list():
            return [_integers(one) for one in value]
        case _:
            return value


def _is_uuid(value: object) -> bool:
    try:
        uuid.UUID(str(value))
    except ValueError:
        return False
    return isinstance(value, str)


def test_the_documents_are_served(api: Api) -> None:
    served = api.admin().get("/openapi/agent.json").json()
    assert served["servers"][0]["url"].endswith(f"/{DEPLOYMENT_ID}")
    assert {**served, "servers": []} == {**AGENT_DOCUMENT, "servers": []}
    assert api.admin().get("/openapi/admin.json").json() == ADMIN_DOCUMENT


def test_the_documents_name_every_route_and_every_error_is_a_problem() -> None:
    prefixes = {paths.AGENT_PREFIX, paths.DAG_PROCESSING_PREFIX}
    assert (
        set(AGENT_DOCUMENT["paths"])
        == {value for value in vars(paths).values() if str(value).startswith(f"{paths.AGENT_PREFIX}/")} - prefixes
    )
    assert set(ADMIN_DOCUMENT["paths"]) == {
        value for name, value in vars(paths).items() if name.startswith("ADMIN_") and value.startswith("/admin/v1/")
    }
    for document in (AGENT_DOCUMENT, ADMIN_DOCUMENT):
        assert "HTTPValidationError" not in document["components"]["schemas"]
        for item in document["paths"].values():
            for operation in item.values():
                errors = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
                assert errors
                assert all(list(answer["content"]) == ["application/problem+json"] for answer in errors.values())
