"""The history of verifications: rows as they come, who ordered them, and what becomes of orders that nobody answers."""

import uuid
from typing import Any

from tests.apis import Agent, Api, problem, until

from isthmus.wire import paths


def row(check: str, status: str = "pass") -> dict[str, Any]:
    return {"check": check, "target": "10.1.0.4:443", "status": status, "details": f"{check} was looked at"}


def report(order_id: str | None, *rows: dict[str, Any], finished: bool = True, status: str = "pass") -> dict[str, Any]:
    return {
        "order_id": order_id,
        "url": "https://x/y",
        "started_at": "2026-02-03T04:05:06Z",
        "status": status,
        "rows": list(rows),
        "finished": finished,
    }


def order(api: Api, agent: Agent, **values: Any) -> str:
    with api.admin() as admin:
        answer = admin.post(paths.ADMIN_AGENT_PROBES.format(agent_id=agent.agent_id), json=values)
    assert answer.status_code == 202, answer.text
    order_id: str = answer.json()["probes_order_id"]
    return order_id


def one(api: Api, verification_id: str) -> dict[str, Any]:
    with api.admin() as admin:
        answer = admin.get(paths.ADMIN_VERIFICATION.format(verification_id=verification_id))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def listed(api: Api, agent: Agent, **query: Any) -> dict[str, Any]:
    with api.admin() as admin:
        answer = admin.get(paths.ADMIN_VERIFICATIONS, params={"agent": agent.name, **query})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_rows_are_there_as_they_come_and_the_order_stands_until_the_end(api: Api) -> None:
    agent = api.agent()
    connection = {"endpoint": "pe-oslo", "state": "pending", "reason": ""}
    order_id = order(api, agent, ordered_by="ada", connection=connection, endpoint="10.1.0.4")
    found = one(api, order_id)
    assert (found["state"], found["ordered_by"], found["rows"], found["status"]) == ("ordered", "ada", [], None)
    assert (found["agent_name"], found["connection"], found["endpoint"]) == (agent.name, connection, "10.1.0.4")
    until(lambda: (agent.beat()["probes"] or {}).get("live") is True)
    agent.beat(probe_report=report(order_id, row("name"), finished=False))
    until(lambda: [each["check"] for each in one(api, order_id)["rows"]] == ["name"])
    found = one(api, order_id)
    assert (found["state"], found["finished_at"]) == ("running", None)
    with api.admin() as admin:
        shown = admin.get(paths.ADMIN_AGENT.format(agent_id=agent.agent_id)).json()
    assert shown["probe_report"] is None, "what is not finished is nobody's last report"
    assert agent.beat()["probes"] is not None
    agent.beat(probe_report=report(order_id, row("name"), row("tcp", "fail"), status="fail"))
    until(lambda: one(api, order_id)["state"] == "finished")
    found = one(api, order_id)
    assert [each["check"] for each in found["rows"]] == ["name", "tcp"]
    assert (found["status"], found["failed"]["check"]) == ("fail", "tcp")
    assert found["finished_at"] is not None
    until(lambda: agent.beat()["probes"] is None)


def test_what_is_finished_does_not_change(api: Api) -> None:
    agent = api.agent()
    order_id = order(api, agent)
    agent.beat(probe_report=report(order_id, row("name")))
    agent.beat(probe_report=report(order_id, row("tcp"), finished=False))
    until(lambda: one(api, order_id)["state"] == "finished")
    agent.beat(probe_report=report(order_id, row("tls", "fail"), status="fail"))
    agent.beat()
    other = order(api, agent)
    agent.beat(probe_report=report(other, row("name")))
    until(lambda: one(api, other)["state"] == "finished")
    assert [each["check"] for each in one(api, order_id)["rows"]] == ["name"]


def test_an_agent_writes_to_its_own_alone(api: Api) -> None:
    agent, stranger = api.agent(), api.agent()
    order_id = order(api, agent)
    stranger.beat(probe_report=report(order_id, row("name", "fail"), status="fail"))
    own = order(api, stranger)
    stranger.beat(probe_report=report(own, row("name")))
    until(lambda: one(api, own)["state"] == "finished")
    assert one(api, order_id)["state"] == "ordered"
    # An order that nobody gave is no place for anything.
    stranger.beat(probe_report=report(str(uuid.uuid4()), row("name")))
    agent.beat(probe_report=report(order_id, row("name")))
    until(lambda: one(api, order_id)["state"] == "finished")
    assert len(listed(api, stranger)["verifications"]) == 1


def test_an_agent_that_verifies_by_itself_is_in_the_history_once(api: Api) -> None:
    agent = api.agent()
    for _ in range(3):
        agent.beat(probe_report=report(None, row("name")))
        until(lambda: listed(api, agent)["verifications"])
    (found,) = listed(api, agent)["verifications"]
    assert (found["state"], found["ordered_by"]) == ("finished", None)


def test_a_newer_order_takes_the_place_of_one_that_runs(api: Api) -> None:
    agent = api.agent()
    first = order(api, agent)
    second = order(api, agent)
    found = one(api, first)
    assert found["state"] == "unanswered"
    assert "Another verification was ordered" in found["reason"]
    assert one(api, second)["state"] == "ordered"
    # The agent was at it, and both come in one flush.
    agent.beat(probe_report=report(first, row("name")))
    agent.beat(probe_report=report(second, row("tcp"), finished=False))
    until(lambda: one(api, first)["state"] == "finished" and one(api, second)["state"] == "running")


def test_an_order_that_no_agent_answers_says_why(api: Api) -> None:
    silent, gone, removed = api.agent(), api.agent(), api.agent()
    orders = {agent.name: order(api, agent) for agent in (silent, gone, removed)}
    gone.beat(phase="left")
    with api.admin() as admin:
        admin.delete(paths.ADMIN_AGENT.format(agent_id=removed.agent_id), params={"force": True})
    until(lambda: all(one(api, each)["state"] == "unanswered" for each in orders.values()), seconds=20)
    reasons = {name: one(api, each)["reason"] for name, each in orders.items()}
    assert "did not heartbeat" in reasons[silent.name]
    assert reasons[gone.name] == "The agent left."
    assert "off the roster" in reasons[removed.name]
    assert "isthmus verify" in one(api, orders[silent.name])["hint"]
    assert one(api, orders[removed.name])["agent_id"] is None
    assert [each["agent_name"] for each in listed(api, removed)["verifications"]] == [removed.name]
    # It is back too late, and is not asked any more.
    until(lambda: silent.beat()["probes"] is None)


def test_pages(api: Api) -> None:
    agent = api.agent()
    orders = [order(api, agent) for _ in range(5)]
    seen: list[str] = []
    before: str | None = None
    while True:
        page = listed(api, agent, limit=2, **({} if before is None else {"before": before}))
        seen += [each["verification_id"] for each in page["verifications"]]
        before = page["next_before"]
        if before is None:
            break
    assert seen == orders[::-1]
    with api.admin() as admin:
        assert problem(admin.get(paths.ADMIN_VERIFICATIONS, params={"before": "1~2"})) == "request_invalid"
        answer = admin.get(paths.ADMIN_VERIFICATION.format(verification_id=uuid.uuid4()))
        assert problem(answer) == "verification_not_found"
