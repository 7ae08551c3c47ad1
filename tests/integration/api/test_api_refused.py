"""Who was turned away at the door is kept for operators: why, from where, with which token, how often."""

import uuid
from typing import Any

import httpx
from tests.apis import Api, enrolment, problem, until

from isthmus.deployment import refused
from isthmus.wire import paths

PROBE = paths.PROBE.lstrip("/")


def knocking(api: Api, token: str) -> httpx.Client:
    return api.client(headers={"Authorization": f"Bearer {token}"})


def with_a_wrong_secret(token: str) -> str:
    return "_".join([*token.split("_")[:3], "x" * 43])


def callers(api: Api, **query: Any) -> list[dict[str, Any]]:
    with api.admin() as admin:
        answer = admin.get(paths.ADMIN_REFUSED, params=query)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["callers"])


def test_a_refused_caller_is_listed_with_the_token_that_it_had(api: Api) -> None:
    made = api.token(name="site-oslo")
    with api.admin() as admin:
        before = admin.get(paths.ADMIN_DEPLOYMENT).json()["callers_refused"]
        admin.post(paths.ADMIN_TOKEN_REVOKE.format(token_id=made["token_id"]))
    with knocking(api, made["secret"]) as client:
        until(lambda: client.get(PROBE).status_code == 401)
        times = 1 + sum(problem(client.get(PROBE)) == "token_revoked" for _ in range(3))

    def found() -> list[dict[str, Any]]:
        own = (made["token_id"], "token_revoked")
        return [one for one in callers(api) if (one["token_id"], one["code"]) == own and one["times"] == times]

    until(found)
    (caller,) = found()
    assert caller["token_name"] == "site-oslo"
    assert (caller["address"], caller["path"], caller["link_id"]) == ("127.0.0.1", "public", None)
    assert caller["is_recent"]
    assert "'site-oslo' was revoked" in caller["detail"]
    assert "isthmus token" in caller["hint"]
    with api.admin() as admin:
        assert admin.get(paths.ADMIN_DEPLOYMENT).json()["callers_refused"] > before


def test_what_a_stranger_makes_up_is_not_kept(api: Api) -> None:
    known = with_a_wrong_secret(api.token(name="wrong-secret")["secret"])
    invented = "_".join([*known.split("_")[:2], "aaaaaaaa2222", "s" * 43])
    for text in (invented, known, "<script>alert(1)</script>"):
        with knocking(api, text) as client:
            assert problem(client.get(PROBE)) == "token_invalid"
    until(lambda: {one["token_name"] for one in callers(api)} >= {"wrong-secret", None})
    kept = str(callers(api))
    assert "aaaaaaaa2222" not in kept
    assert "script" not in kept


def test_an_agent_that_asks_for_a_queue_beyond_its_token_is_listed(api: Api) -> None:
    made = api.token(name="only-gpu", queues=["gpu"])
    agent = api.agent()
    with knocking(api, made["secret"]) as client:
        answer = client.post(paths.ENROLMENTS.lstrip("/"), json=enrolment(agent, name="greedy", queues=["default"]))
    assert problem(answer) == "token_scope"
    until(lambda: any(one["token_name"] == "only-gpu" and one["code"] == "token_scope" for one in callers(api)))


def test_requests_of_agents_that_are_in_are_not_refusals_at_the_door(api: Api) -> None:
    agent = api.agent()
    with knocking(api, agent.token) as client:
        wrong = client.post(paths.HEARTBEATS.lstrip("/"), json={"agent_id": str(uuid.uuid4()), "nothing": 1})
    assert problem(wrong) == "request_invalid"
    with knocking(api, with_a_wrong_secret(api.token(name="marker")["secret"])) as client:  # written together with it
        client.get(PROBE)
    until(lambda: any(one["token_name"] == "marker" for one in callers(api)))
    assert not {one["code"] for one in callers(api)} - {code.value for code in refused.DOOR}


def test_the_list_has_pages_and_refuses_a_cursor_of_its_own_making(api: Api) -> None:
    names = {"page-one", "page-two", "page-three"}
    for name in names:
        with knocking(api, with_a_wrong_secret(api.token(name=name)["secret"])) as client:
            client.get(PROBE)
    until(lambda: names <= {one["token_name"] for one in callers(api)})
    with api.admin() as admin:
        seen: list[str] = []
        before: str | None = None
        while not names <= set(seen):
            query = {"limit": "1", **({} if before is None else {"before": before})}
            page = admin.get(paths.ADMIN_REFUSED, params=query).json()
            assert len(page["callers"]) == 1
            seen += [one["token_name"] for one in page["callers"]]
            before = page["next_before"]
        assert len([one for one in seen if one in names]) == len(names), "one was shown twice"
        bad: httpx.Response = admin.get(paths.ADMIN_REFUSED, params={"before": "2026-01-01T00:00:00~zz"})
        assert (bad.status_code, problem(bad)) == (422, "request_invalid")
