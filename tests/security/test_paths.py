"""The path is what the ingress saw, never what a client says; and the probe tells a stranger nothing."""

import pytest
from tests.apis import PLAIN_PROXY, PROXY, Api, answered, problem

LINK = 77
CLAIMS = {"Isthmus-Link-Id": str(LINK), "X-Forwarded-For": "10.20.0.5"}


@pytest.mark.parametrize("source", ["127.0.0.2", "::1", PLAIN_PROXY])
def test_a_link_that_a_client_claims_counts_for_nothing(api: Api, source: str) -> None:
    bound = api.token(links=[LINK])["secret"]
    client = api.client(headers={**CLAIMS, "Authorization": f"Bearer {bound}"}, source=source)
    for response in (
        client.get("agent/v1/probe"),
        client.post("agent/v1/heartbeats", json={}),
        client.post("agent/v1/enrolments", json={}),
    ):
        assert problem(response) == "token_wrong_link"
        assert response.json()["link_id"] is None
    free = api.client(headers={**CLAIMS, "Authorization": f"Bearer {api.token()['secret']}"}, source=source)
    assert answered(free.get("agent/v1/probe"))["path"] == "public"


def test_a_link_that_is_said_twice_counts_for_nothing(api: Api) -> None:
    """As when an ingress adds its header to the one that the client wrote."""
    bound = api.token(links=[LINK])["secret"]
    headers = [("Authorization", f"Bearer {bound}"), ("Isthmus-Link-Id", str(LINK)), ("Isthmus-Link-Id", "78")]
    client = api.client(source=PROXY)
    for order in (headers, [*headers[:1], *headers[:0:-1]]):
        assert problem(client.get("agent/v1/probe", headers=order)) == "token_wrong_link"


def test_the_link_is_judged_after_the_token(api: Api) -> None:
    """A stranger who guesses ids of tokens does not learn which are bound, or to what."""
    token = api.token(links=[LINK])
    wrong = token["secret"][:-4] + ("aaaa" if not token["secret"].endswith("aaaa") else "bbbb")
    response = api.client(headers={"Authorization": f"Bearer {wrong}"}).get("agent/v1/probe")
    assert problem(response) == "token_invalid"
    assert str(LINK) not in response.text
    api.admin().post(f"/admin/v1/tokens/{token['token_id']}/revoke")
    response = api.client(headers={"Authorization": f"Bearer {token['secret']}"}).get("agent/v1/probe")
    assert problem(response) == "token_revoked"


def test_the_probe_tells_a_stranger_nothing(api: Api) -> None:
    agent = api.agent()
    for headers, code in (
        ({}, "token_missing"),
        ({"Authorization": "Bearer nonsense"}, "token_invalid"),
        ({"Authorization": "Basic aXN0aG11czp4"}, "token_missing"),
        ({"Isthmus-Agent-Token": agent.token}, "token_missing"),
    ):
        response = api.client(headers=headers).get("agent/v1/probe")
        assert problem(response) == code
        for secret in (agent.name, agent.agent_id, "airflow", "plane_version"):
            assert secret not in response.text


def test_the_probe_is_behind_the_allow_list(api: Api) -> None:
    token = api.token()["secret"]
    try:
        api.allow("198.51.100.0/24")
        response = api.client(headers={"Authorization": f"Bearer {token}"}).get("agent/v1/probe")
        assert problem(response) == "source_not_allowed"
    finally:
        api.allow()
