"""By which path agents come, tokens that are bound to one, the probe, and who may be shut out."""

import concurrent.futures
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.apis import DEPLOYMENT_ID, PROXY, Agent, Api, answered, enrolment, problem, until

LINK = 268435747


@pytest.fixture
def open_again(api: Api) -> Iterator[None]:
    yield
    api.allow()


def through(api: Api, token: str, *, link: object = LINK, address: str = "10.20.0.5") -> Any:
    headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": address}
    if link is not None:
        headers["Isthmus-Link-Id"] = str(link)
    return api.client(headers=headers, source=PROXY)


def shown(api: Api, agent: Agent) -> dict[str, Any]:
    return answered(api.admin().get(f"/admin/v1/agents/{agent.agent_id}"))


def moved(api: Api, **values: Any) -> Agent:
    """An agent that enrolled directly and now comes through the ingress."""
    agent = api.agent()
    agent.client = through(api, agent.token, **values)
    agent.beat()
    return agent


def remove_all(api: Api) -> None:
    """What other tests have left would count as agents that stay."""
    for agent in answered(api.admin().get("/admin/v1/agents", params={"limit": 500}))["agents"]:
        api.admin().delete(f"/admin/v1/agents/{agent['agent_id']}", params={"force": True})


def test_agents_are_shown_with_their_path_and_since_when(api: Api) -> None:
    agent = api.agent()
    first = shown(api, agent)
    assert (first["path"], first["link_id"], first["address"]) == ("public", None, "127.0.0.1")
    agent.client = through(api, agent.token)
    agent.beat()
    until(lambda: shown(api, agent)["path"] == "link")
    second = shown(api, agent)
    assert (second["link_id"], second["address"]) == (LINK, "10.20.0.5")
    assert second["path_since"] > first["path_since"]
    # Another NAT address of the same link is the same path.
    agent.client = through(api, agent.token, address="10.20.0.6")
    agent.beat()
    until(lambda: shown(api, agent)["address"] == "10.20.0.6")
    assert shown(api, agent)["path_since"] == second["path_since"]
    answered(agent.client.post("agent/v1/enrolments", json=enrolment(agent)))
    assert shown(api, agent)["path_since"] == second["path_since"]
    agent.client = through(api, agent.token, link="unknown")
    agent.beat()
    until(lambda: (shown(api, agent)["path"], shown(api, agent)["link_id"]) == ("link", None))


def test_healthy_agents_are_counted_by_path(api: Api) -> None:
    agent = moved(api)
    until(lambda: shown(api, agent)["path"] == "link")
    counts = answered(api.admin().get("/admin/v1/deployment"))["agents_healthy_by_path"]
    assert counts["link"] >= 1
    text = api.admin().get("/metrics").text
    assert f'isthmus_agents_by_path{{path="link"}} {float(counts["link"])}' in text


class TestBoundTokens:
    def test_a_token_opens_the_door_on_its_links_alone(self, api: Api) -> None:
        token = api.token(links=[LINK, 7])
        assert token["links"] == [7, LINK]
        secret = token["secret"]
        for link in (LINK, 7):
            assert problem(through(api, secret, link=link).post("agent/v1/heartbeats", json={})) == "request_invalid"
        for client, seen in (
            (api.client(headers={"Authorization": f"Bearer {secret}"}), "over the public path, from 127.0.0.1"),
            (through(api, secret, link=8), "through link 8, from 10.20.0.5"),
            (through(api, secret, link="unknown"), "through a link of unknown id"),
            (through(api, secret, link=None), "over the public path, from 10.20.0.5"),
        ):
            response = client.post("agent/v1/heartbeats", json={})
            assert (response.status_code, problem(response)) == (403, "token_wrong_link")
            assert seen in response.json()["detail"]
        assert through(api, secret, link=8).post("agent/v1/heartbeats", json={}).json()["link_id"] == 8

    def test_its_successor_is_bound_as_well(self, api: Api) -> None:
        token = api.token(links=[LINK])
        body = answered_created(api.admin().post(f"/admin/v1/tokens/{token['token_id']}/rotate", json={}))
        assert body["token"]["links"] == [LINK]
        client = api.client(headers={"Authorization": f"Bearer {body['secret']}"})
        assert problem(client.get("agent/v1/probe")) == "token_wrong_link"

    def test_tasks_are_refused_in_the_same_words(self, api: Api) -> None:
        token = api.token(links=[LINK])["secret"]
        agent = Agent(api, f"bound-{uuid.uuid4()}", f"queue-{uuid.uuid4()}", token, str(uuid.uuid4()))
        agent.client = through(api, token)
        agent.agent_id = answered(agent.client.post("agent/v1/enrolments", json=enrolment(agent)))["agent_id"]
        (workload_id,) = api.queue(agent)
        lease = agent.run(workload_id)
        response = agent.task(lease).get(f"variables/shared_{workload_id}")
        assert (response.status_code, problem(response)) == (403, "token_wrong_link")

    def test_no_link_of_more_than_32_bits(self, api: Api) -> None:
        for links in ([2**32], [-1], ["x"], [1.5]):
            response = api.admin().post("/admin/v1/tokens", json={"name": "x", "links": links})
            assert problem(response) == "request_invalid"


def answered_created(response: Any) -> dict[str, Any]:
    assert response.status_code == 201, response.text
    body: dict[str, Any] = response.json()
    return body


class TestProbe:
    def test_it_says_how_the_caller_is_seen(self, api: Api) -> None:
        token = api.token(roles=["worker"], expires_days=3)
        agent = api.agent(token=token["secret"])
        agent.client = through(api, token["secret"])
        agent.beat()
        stranger = api.agent()
        until(lambda: shown(api, agent)["path"] == "link")
        said = answered(agent.client.get("agent/v1/probe"))
        assert said["deployment_id"] == DEPLOYMENT_ID
        assert (said["source_address"], said["path"], said["link_id"]) == ("10.20.0.5", "link", LINK)
        assert (said["token_id"], said["token_name"]) == (token["token_id"], "test")
        assert said["token_expires_at"] == token["expires_at"]
        assert (said["token_roles"], said["token_links"]) == (["worker"], [])
        assert said["restricted"] is False
        assert abs((datetime.fromisoformat(said["now"]) - datetime.now(UTC)).total_seconds()) < 5
        (own,) = said["agents"]
        assert (own["name"], own["healthy"], own["path"], own["link_id"]) == (agent.name, True, "link", LINK)
        assert 0 <= own["heartbeat_seconds_ago"] < 5
        assert stranger.name not in str(said)

    def test_it_shows_the_agents_of_tokens_that_follow_each_other(self, api: Api) -> None:
        token = api.token()
        agent = api.agent(token=token["secret"])
        body = answered_created(api.admin().post(f"/admin/v1/tokens/{token['token_id']}/rotate", json={}))
        client = api.client(headers={"Authorization": f"Bearer {body['secret']}"})
        assert [one["name"] for one in answered(client.get("agent/v1/probe"))["agents"]] == [agent.name]

    def test_it_is_asked_with_get_and_the_rest_with_post(self, api: Api) -> None:
        client = api.client(headers={"Authorization": f"Bearer {api.token()['secret']}"})
        for response, allowed in (
            (client.post("agent/v1/probe", json={}), "GET"),
            (client.get("agent/v1/heartbeats"), "POST"),
        ):
            assert problem(response) == "method_not_allowed"
            assert response.headers["allow"] == allowed


REPORT: dict[str, Any] = {
    "url": "https://x/y",
    "started_at": "2026-02-03T04:05:06Z",
    "status": "pass",
    "rows": [{"check": "tcp", "target": "10.1.0.4:443", "status": "pass", "details": "takes connections"}],
}


class TestProbesOfAgents:
    def test_an_agent_is_asked_until_its_report_is_here(self, api: Api) -> None:
        agent = api.agent()
        assert agent.beat()["probes"] is None
        asked = {"endpoint": "10.1.0.4", "public_addresses": ["203.0.113.80"], "public_allowed": False}
        response = api.admin().post(f"/admin/v1/agents/{agent.agent_id}/probes", json=asked)
        assert response.status_code == 202
        order_id = response.json()["probes_order_id"]
        until(lambda: agent.beat()["probes"] == {"order_id": order_id, "connection": None, "live": True, **asked})
        agent.beat(probe_report={**REPORT, "order_id": str(uuid.uuid4())})  # an older order's
        until(lambda: shown(api, agent)["probe_report"] is not None)
        assert agent.beat()["probes"] is not None
        agent.beat(probe_report={**REPORT, "order_id": order_id})
        until(lambda: shown(api, agent)["probes_order_id"] is None)
        until(lambda: agent.beat()["probes"] is None)
        found = shown(api, agent)
        assert found["probe_report"]["rows"][0]["details"] == "takes connections"
        assert found["probe_reported_at"] is not None

    def test_a_report_by_itself_leaves_the_order_alone(self, api: Api) -> None:
        agent = api.agent()
        api.admin().post(f"/admin/v1/agents/{agent.agent_id}/probes", json={})
        agent.beat(probe_report=REPORT)
        until(lambda: shown(api, agent)["probe_report"] is not None)
        assert shown(api, agent)["probes_order_id"] is not None

    def test_a_report_is_bounded(self, api: Api) -> None:
        agent = api.agent()
        row = REPORT["rows"][0]
        for wrong in ({"rows": [row] * 33}, {"rows": [{**row, "details": "x" * 513}]}, {"more": 1}):
            response = agent.post("heartbeats", slots_used=0, probe_report={**REPORT, **wrong})
            assert problem(response) == "request_invalid"

    def test_an_unknown_agent(self, api: Api) -> None:
        response = api.admin().post(f"/admin/v1/agents/{uuid.uuid4()}/probes", json={})
        assert problem(response) == "agent_unknown"


@pytest.mark.usefixtures("open_again")
class TestRestriction:
    RANGES = ("10.20.0.0/16",)

    def restrict(self, api: Api, *ranges: str, **values: Any) -> Any:
        return api.admin().put("/admin/v1/restriction", json={"ranges": ranges or self.RANGES, **values})

    def test_it_is_refused_until_an_agent_has_come_from_there(self, api: Api) -> None:
        remove_all(api)
        agent = api.agent()
        refused = self.restrict(api)
        assert (refused.status_code, problem(refused)) == (409, "agents_cut_off")
        assert f"{agent.name} (over the public path, from 127.0.0.1)" in refused.json()["detail"]
        agent.client = through(api, agent.token)
        agent.beat()
        until(lambda: shown(api, agent)["path"] == "link")
        left_behind = api.agent()
        planned = answered(self.restrict(api, dry_run=True))
        assert (planned["outcome"], planned["dry_run"], planned["ranges_before"]) == ("restricted", True, [])
        assert [one["name"] for one in planned["cut_off"]] == [left_behind.name]
        assert planned["cut_off"][0]["address"] == "127.0.0.1"
        assert answered(api.admin().get("/admin/v1/allow-list"))["ranges"] == []
        done = answered(self.restrict(api))
        assert {**done, "decided_at": "", "dry_run": True} == {**planned, "decided_at": ""}
        assert done["deployment_id"] == DEPLOYMENT_ID
        agent.beat()
        assert problem(left_behind.post("heartbeats", slots_used=0)) == "source_not_allowed"
        assert answered(agent.client.get("agent/v1/probe"))["restricted"] is True
        again = answered(self.restrict(api))
        assert (again["outcome"], again["cut_off"]) == ("unchanged", [])
        undone = answered(api.admin().delete("/admin/v1/restriction"))
        assert (undone["outcome"], undone["ranges_before"], undone["ranges_after"]) == (
            "unrestricted",
            list(self.RANGES),
            [],
        )
        left_behind.beat()

    def test_another_list_is_widened_first(self, api: Api) -> None:
        remove_all(api)
        agent = api.agent()
        api.allow("127.0.0.0/8")
        widened = answered(self.restrict(api))
        assert (widened["outcome"], widened["ranges_after"]) == ("widened", ["10.20.0.0/16", "127.0.0.0/8"])
        agent.beat()
        agent.client = through(api, agent.token)
        agent.beat()
        until(lambda: shown(api, agent)["path"] == "link")
        assert answered(self.restrict(api))["outcome"] == "restricted"

    def test_force(self, api: Api) -> None:
        remove_all(api)
        agent = api.agent()
        done = answered(self.restrict(api, force=True))
        assert (done["outcome"], done["forced"], [one["name"] for one in done["cut_off"]]) == (
            "restricted",
            True,
            [agent.name],
        )
        assert problem(agent.post("heartbeats", slots_used=0)) == "source_not_allowed"

    def test_a_whole_list_has_the_same_guard(self, api: Api) -> None:
        remove_all(api)
        agent = api.agent()
        response = api.admin().put("/admin/v1/allow-list", json={"ranges": ["198.51.100.0/24"]})
        assert (problem(response), agent.name in response.json()["detail"]) == ("agents_cut_off", True)
        assert answered(api.admin().get("/admin/v1/allow-list"))["ranges"] == []
        api.allow("198.51.100.0/24")

    def test_two_at_once_leave_one_of_the_two_and_an_agent_in_it(self, api: Api) -> None:
        remove_all(api)
        one, other = moved(api, address="10.20.0.5"), moved(api, address="10.30.0.5", link=9)
        until(lambda: {shown(api, agent)["path"] for agent in (one, other)} == {"link"})
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            wishes = ["10.20.0.0/16", "10.30.0.0/16"] * 4
            outcomes = [answer.json() for answer in pool.map(lambda wish: self.restrict(api, wish), wishes)]
        (in_force,) = answered(api.admin().get("/admin/v1/allow-list"))["ranges"][:1]
        assert in_force in wishes
        assert sum(outcome.get("outcome") == "restricted" for outcome in outcomes) >= 1
        inside = one if in_force.startswith("10.20") else other
        inside.beat()

    def test_wrong_wishes(self, api: Api) -> None:
        for body in ({}, {"ranges": []}, {"ranges": ["10.20.0.0/33"]}, {"ranges": ["10.20.0.0/16"], "to": 1}):
            assert problem(api.admin().put("/admin/v1/restriction", json=body)) == "request_invalid"
