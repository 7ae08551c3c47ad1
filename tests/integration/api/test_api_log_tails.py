"""Agents' log tails: asked for by an operator, sent by the agent itself and nobody else, and bounded."""

import uuid
from typing import Any

import httpx
from tests.apis import Agent, Api, problem, until

from isthmus.wire import agents, paths


def ask(api: Api, agent: Agent, **body: Any) -> dict[str, Any]:
    with api.admin() as admin:
        answer = admin.post(paths.ADMIN_AGENT_LOG.format(agent_id=agent.agent_id), json=body)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


def shown(api: Api, agent: Agent) -> dict[str, Any]:
    with api.admin() as admin:
        answer = admin.get(paths.ADMIN_AGENT_LOG.format(agent_id=agent.agent_id))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def send(agent: Agent, order_id: str, *lines: str) -> httpx.Response:
    return agent.post("log-tails", order_id=order_id, lines=list(lines))


def test_it_is_asked_for_with_a_heartbeat_and_taken_once(api: Api) -> None:
    agent = api.agent()
    assert agent.beat()["fetch_log"] is None
    assert shown(api, agent)["order_id"] is None
    asked = ask(api, agent, ordered_by="ada")
    assert (asked["ordered_by"], asked["received_at"], asked["lines"]) == ("ada", None, [])
    assert ask(api, agent, ordered_by="bob")["order_id"] == asked["order_id"], "one order at a time"
    until(lambda: agent.beat()["fetch_log"] == asked["order_id"])
    assert send(agent, asked["order_id"], "first", "last").status_code == 200
    found = shown(api, agent)
    assert (found["lines"], found["ordered_by"]) == (["first", "last"], "ada")
    assert found["received_at"] is not None
    assert problem(send(agent, asked["order_id"], "again")) == "log_not_asked"
    assert shown(api, agent)["lines"] == ["first", "last"]
    until(lambda: agent.beat()["fetch_log"] is None)
    assert ask(api, agent)["lines"] == [], "what is new is not what was"


def test_only_the_agent_itself_sends_its_own(api: Api) -> None:
    token = api.token()["secret"]
    agent, sibling, stranger = api.agent(token=token), api.agent(token=token), api.agent()
    order_id = ask(api, agent)["order_id"]
    assert problem(send(sibling, order_id, "of a sibling")) == "log_not_asked"
    assert problem(send(stranger, order_id, "of a stranger")) == "log_not_asked"
    as_agent = {"agent_id": agent.agent_id, "order_id": order_id, "lines": ["forged"]}
    for other in (sibling, stranger):
        answer = other.client.post("agent/v1/log-tails", json={**as_agent, "instance_id": other.instance_id})
        assert problem(answer) in {"agent_unknown", "agent_replaced"}
    answer = stranger.client.post("agent/v1/log-tails", json={**as_agent, "instance_id": agent.instance_id})
    assert problem(answer) == "agent_unknown"
    assert problem(send(agent, str(uuid.uuid4()), "of another order")) == "log_not_asked"
    assert shown(api, agent)["lines"] == []


def test_what_is_sent_is_bounded(api: Api) -> None:
    agent = api.agent()
    order_id = ask(api, agent)["order_id"]
    assert problem(send(agent, order_id, *["x"] * 501)) == "request_invalid"
    assert problem(send(agent, order_id, "x" * 2001)) == "request_invalid"
    assert problem(send(agent, order_id, *["x" * 2000] * 200)) == "body_too_large"
    assert send(agent, order_id, *[f"{number:03}" + "x" * 1990 for number in range(120)]).status_code == 200
    lines = shown(api, agent)["lines"]
    assert lines[-1].startswith("119"), "the newest are kept"
    assert sum(len(line) + 1 for line in lines) <= agents.MAX_LOG_BYTES


def test_hostile_bytes_are_shown_and_secrets_are_not(api: Api) -> None:
    agent = api.agent()
    order_id = ask(api, agent)["order_id"]
    secret = agent.token.rpartition("_")[2]
    sent = ("\x00nul", "\x1b[2Jcleared", "one\ntwo\r", "\u202egnp.exe", "<script>alert(1)</script>", agent.token)
    assert send(agent, order_id, *sent).status_code == 200
    lines = shown(api, agent)["lines"]
    assert lines[:5] == [
        "\\x00nul",
        "\\x1b[2Jcleared",
        "one\\ntwo\\r",
        "\\u202egnp.exe",
        "<script>alert(1)</script>",
    ]
    assert secret not in lines[5]
    assert lines[5].endswith("_***")


def test_an_unknown_agent(api: Api) -> None:
    with api.admin() as admin:
        path = paths.ADMIN_AGENT_LOG.format(agent_id=uuid.uuid4())
        assert problem(admin.get(path)) == "agent_unknown"
        assert problem(admin.post(path, json={})) == "agent_unknown"
