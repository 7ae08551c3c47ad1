"""Every problem has its way to be reached, and is reached here; nothing else is affected by bad input."""

import uuid
from collections.abc import Callable

import httpx
import pytest
from tests.apis import Agent, Api, enrolment, problem

from isthmus.wire.problems import MEANINGS, Code

#: Reached elsewhere: they need an address of their own, an outage, or a process of their own.
ELSEWHERE = {
    Code.SOURCE_NOT_ALLOWED: "tests/security/test_api_entry.py",
    Code.TOKEN_EXPIRED: "tests/security/test_api_entry.py",
    Code.CONNECTION_NOT_ALLOWED: "tests/security/test_api_execution.py",
    Code.VARIABLE_NOT_ALLOWED: "tests/security/test_api_execution.py",
    Code.DATABASE_UNAVAILABLE: "tests/integration/api/test_api_serving.py",
    Code.SHUTTING_DOWN: "tests/unit/deployment/test_edge.py",
    Code.INTERNAL: "tests/unit/deployment/test_edge.py",
    Code.TOKEN_LIMIT: "tests/integration/api/test_api_serving.py",
    Code.TOKEN_WRONG_LINK: "tests/integration/api/test_api_paths.py",
    Code.ROLE_NOT_USED: "tests/integration/api/test_api_serving.py",
    Code.ENCODING_UNSUPPORTED: "tests/integration/api/test_api_dags.py",
    Code.VERIFICATION_NOT_FOUND: "tests/integration/api/test_api_verifications.py",
    Code.LOG_NOT_ASKED: "tests/integration/api/test_api_log_tails.py",
    Code.LOGS_NOT_KEPT: "tests/integration/api/test_api_log_shipments.py",
    Code.LOG_READ_ENDED: "tests/integration/api/test_api_task_logs.py",
    Code.AGENTS_CUT_OFF: "tests/integration/api/test_api_paths.py",
    Code.GATEWAY_TOKEN_UNKNOWN: "the agent's gateway",
    Code.PRIVACY_REFUSED: "the agent's gateway",
    Code.PLANE_UNREACHABLE: "the agent's gateway",
    Code.OPERATOR_TOKEN_INVALID: "tests/integration/control/test_control_problems.py",
    Code.OPERATOR_ROLE: "tests/integration/control/test_control_problems.py",
    Code.OPERATOR_NOT_FOUND: "tests/integration/control/test_control_problems.py",
    Code.OPERATOR_EXISTS: "tests/integration/control/test_control_problems.py",
    Code.OPERATOR_LAST_ADMIN: "tests/integration/control/test_control_problems.py",
    Code.CLUSTER_NOT_FOUND: "tests/integration/control/test_control_problems.py",
    Code.CLUSTER_EXISTS: "tests/integration/control/test_control_problems.py",
    Code.DEPLOYMENT_EXISTS: "tests/integration/control/test_control_problems.py",
    Code.LINK_NOT_FOUND: "tests/integration/control/test_control_problems.py",
    Code.LINK_EXISTS: "tests/integration/control/test_control_links.py",
    Code.LINK_IN_USE: "tests/integration/control/test_control_links.py",
    Code.PLAN_CHANGED: "tests/integration/control/test_control_proposing.py",
    Code.CONNECTION_NOT_FOUND: "tests/integration/control/test_control_links.py",
    Code.CONNECTION_DECIDED: "tests/integration/control/test_control_links.py",
    Code.CONNECTION_FINAL: "tests/integration/control/test_control_links.py",
    Code.EXPECTATION_NOT_FOUND: "tests/integration/control/test_control_problems.py",
    Code.CLOUD_REFUSED: "tests/integration/control/test_control_links.py",
    Code.CLOUD_UNAVAILABLE: "tests/integration/control/test_control_links.py",
    Code.DEPLOYMENT_UNREACHABLE: "tests/integration/control/test_ingress.py",
    Code.DEPLOYMENT_NOT_FOUND: "tests/integration/control/test_control_asking.py",
    Code.ADMIN_NOT_CONFIGURED: "tests/integration/control/test_control_asking.py",
    Code.ADMIN_REFUSED: "tests/integration/control/test_control_asking.py",
    Code.ADMIN_UNREACHABLE: "tests/integration/control/test_control_asking.py",
    Code.ADMIN_ANSWER_FOREIGN: "tests/integration/control/test_control_asking.py",
}


def no_token(agent: Agent) -> httpx.Response:
    return agent.api.client().post("agent/v1/heartbeats", json={})


def bad_token(agent: Agent) -> httpx.Response:
    return agent.api.client(headers={"Authorization": "Bearer nonsense"}).post("agent/v1/heartbeats", json={})


def revoked_token(agent: Agent) -> httpx.Response:
    token = agent.api.token()
    agent.api.admin().post(f"/admin/v1/tokens/{token['token_id']}/revoke")
    client = agent.api.client(headers={"Authorization": f"Bearer {token['secret']}"})
    return client.post("agent/v1/heartbeats", json={})


def foreign_token(agent: Agent) -> httpx.Response:
    client = agent.api.client(headers={"Authorization": "Bearer " + agent.token.replace("dtest234", "dabcdefg")})
    return client.post("agent/v1/heartbeats", json={})


def scoped_token(agent: Agent) -> httpx.Response:
    secret = agent.api.token(queues=["only-this"])["secret"]
    client = agent.api.client(headers={"Authorization": f"Bearer {secret}"})
    return client.post("agent/v1/enrolments", json=enrolment(agent, name="scoped"))


def unknown_token(agent: Agent) -> httpx.Response:
    return agent.api.admin().post("/admin/v1/tokens/aaaaaaaaaaaa/revoke")


def bad_admin_token(agent: Agent) -> httpx.Response:
    return agent.api.admin(token="wrong").get("/admin/v1/tokens")


def unknown_agent(agent: Agent) -> httpx.Response:
    agent.agent_id = str(uuid.uuid4())
    return agent.post("heartbeats", slots_used=0)


def replaced_agent(agent: Agent) -> httpx.Response:
    agent.api.agent(token=agent.token, name=agent.name)
    return agent.post("heartbeats", slots_used=0)


def taken_name(agent: Agent) -> httpx.Response:
    body = enrolment(agent, instance_id=str(uuid.uuid4()), role="triggerer")
    return agent.client.post("agent/v1/enrolments", json=body)


def busy_agent(agent: Agent) -> httpx.Response:
    agent.beat()
    return agent.api.admin().delete(f"/admin/v1/agents/{agent.agent_id}")


def enrol_with(**versions: str) -> Callable[[Agent], httpx.Response]:
    def answer(agent: Agent) -> httpx.Response:
        body = enrolment(agent, versions={"isthmus": "0.1.0", "python": "3.11.2", **versions})
        return agent.client.post("agent/v1/enrolments", json=body)

    return answer


def unknown_workload(agent: Agent) -> httpx.Response:
    return agent.post(f"workloads/{uuid.uuid4()}/token", fence=1)


def lost_lease(agent: Agent) -> httpx.Response:
    (workload_id,) = agent.api.queue(agent)
    return agent.post(f"workloads/{workload_id}/token", fence=1)


def large_body(agent: Agent) -> httpx.Response:
    return agent.client.post("agent/v1/heartbeats", content=b"x" * 262_145)


def malformed_body(agent: Agent) -> httpx.Response:
    return agent.client.post("agent/v1/heartbeats", content=b'{"agent_id": ')


def unknown_field(agent: Agent) -> httpx.Response:
    return agent.post("heartbeats", slots_used=0, slots_usde=0)


def wrong_method(agent: Agent) -> httpx.Response:
    return agent.client.get("agent/v1/heartbeats")


CASES: dict[Code, Callable[[Agent], httpx.Response]] = {
    Code.TOKEN_MISSING: no_token,
    Code.TOKEN_INVALID: bad_token,
    Code.TOKEN_REVOKED: revoked_token,
    Code.TOKEN_WRONG_DEPLOYMENT: foreign_token,
    Code.TOKEN_SCOPE: scoped_token,
    Code.TOKEN_NOT_FOUND: unknown_token,
    Code.ADMIN_TOKEN_INVALID: bad_admin_token,
    Code.AGENT_UNKNOWN: unknown_agent,
    Code.AGENT_REPLACED: replaced_agent,
    Code.AGENT_NAME_TAKEN: taken_name,
    Code.AGENT_BUSY: busy_agent,
    Code.SDK_TOO_NEW: enrol_with(task_sdk="99.0.0"),
    Code.WORKLOAD_NOT_FOUND: unknown_workload,
    Code.LEASE_LOST: lost_lease,
    Code.BODY_TOO_LARGE: large_body,
    Code.BODY_MALFORMED: malformed_body,
    Code.REQUEST_INVALID: unknown_field,
    Code.METHOD_NOT_ALLOWED: wrong_method,
}


def test_every_code_is_reached_somewhere() -> None:
    assert set(CASES) | set(ELSEWHERE) | {Code.AGENT_TOO_OLD} == set(Code)


@pytest.mark.parametrize("code", CASES)
def test_the_problem(api: Api, code: Code) -> None:
    agent = api.agent()
    response = CASES[code](agent)
    assert problem(response) == code
    assert response.status_code == MEANINGS[code].status
    assert response.json()["retryable"] is MEANINGS[code].retryable


def test_a_wrong_field_is_named_without_its_value(api: Api) -> None:
    agent = api.agent()
    response = agent.post("starts", leases=[{"workload_id": "s3cret", "fence": 0}])
    assert problem(response) == "request_invalid"
    errors = {one["field"]: one["reason"] for one in response.json()["errors"]}
    assert set(errors) >= {"leases.0.workload_id", "leases.0.fence"}
    assert "s3cret" not in response.text


def test_the_allowed_method_is_told(api: Api) -> None:
    for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"):
        response = api.agent().client.request(method, "agent/v1/claims")
        assert response.status_code == 405
        assert response.headers["allow"] == "POST"


def test_an_oversize_body_is_cut_off_even_when_its_length_is_not_declared(api: Api) -> None:
    agent = api.agent()

    def endless() -> object:
        for _ in range(300):
            yield b" " * 1024

    response = agent.client.post("agent/v1/heartbeats", content=endless())  # type: ignore[arg-type]
    assert (response.status_code, problem(response)) == (413, "body_too_large")
    agent.beat()


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b'"text"', b"{", b"\xff\xfe", b"{}x", b'{"agent_id": "\\ud800"}', b"[" * 30_000, b"\x00"],
)
@pytest.mark.parametrize("route", ["enrolments", "heartbeats", "claims", "starts", "settlements", "log-tails"])
def test_garbage_is_refused_and_the_next_request_is_served(api: Api, body: bytes, route: str) -> None:
    agent = api.agent(token=_shared(api))
    response = agent.client.post(f"agent/v1/{route}", content=body)
    assert problem(response) in {"body_malformed", "request_invalid"}
    agent.beat()


def test_what_postgresql_cannot_store_harms_nobody(api: Api) -> None:
    agent, other = api.agent(), api.agent()
    agent.beat(
        warnings=[{"code": "a\x00b", "severity": "info", "summary": "\x00", "hint": "\U0001f600"}],
        probe_report={
            "url": "\x00",
            "started_at": "2026-02-03T04:05:06Z",
            "status": "fail",
            "rows": [{"check": "a\x00", "target": "", "status": "fail", "details": "\x00"}],
        },
    )
    other.beat()
    (workload_id,) = api.queue(agent)
    lease = agent.run(workload_id)
    assert agent.settle(lease, "failed", detail="why\x00 not", exit_code=-9) == "settled"
    shown = api.admin().get(f"/admin/v1/workloads/{workload_id}").json()["workload"]
    assert (shown["detail"], shown["exit_code"]) == ("why not", -9)


_TOKENS: list[str] = []


def _shared(api: Api) -> str:
    if not _TOKENS:
        _TOKENS.append(api.token()["secret"])
    return _TOKENS[0]
