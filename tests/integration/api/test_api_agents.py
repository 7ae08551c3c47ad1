"""The agent API over HTTPS: from enrolment to settlement."""

import concurrent.futures
import time
import uuid

import httpx
import pytest
from tests import planting
from tests.apis import Api, answered, enrolment, problem, until


def test_the_life_of_a_workload(api: Api) -> None:
    agent = api.agent()
    (workload_id,) = api.queue(agent)
    (lease,) = agent.claim()
    assert lease["workload_id"] == workload_id
    assert (lease["fence"], lease["kind"], lease["queue"]) == (1, "task", agent.queue)
    assert lease["payload"] == {"ti": {}}
    assert lease["task_token"].count(".") == 2
    assert agent.start(lease) == ["confirmed"]
    assert agent.beat(leases=[{"workload_id": workload_id, "fence": 1, "started": True}])["lost"] == []
    assert agent.settle(lease) == "settled"
    ((state, unseen),) = api.execute(f"SELECT state, unseen FROM isthmus_workload WHERE id = '{workload_id}'")
    assert (state, unseen) == ("succeeded", True)


def test_enrolment_tells_the_intervals(api: Api) -> None:
    agent = api.agent()
    body = answered(agent.client.post("agent/v1/enrolments", json=enrolment(agent)))
    assert body["agent_id"] == agent.agent_id
    assert (body["heartbeat_seconds"], body["claim_wait_seconds"], body["lease_seconds"]) == (1.0, 5.0, 4.0)


def test_a_waiting_claim_has_its_work_within_a_tenth_of_a_second_of_the_commit(api: Api) -> None:
    agent = api.agent()
    agent.claim(wait=0)  # the connection is open
    delays = []
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for _ in range(5):
            waiting = pool.submit(lambda: (agent.claim(wait=4), time.monotonic()))
            until(lambda: _metric(api, "isthmus_claims_waiting") >= 1)
            (workload_id,) = api.queue(agent)
            queued = time.monotonic()
            (lease,), arrived = waiting.result(10)
            assert lease["workload_id"] == workload_id
            delays.append(arrived - queued)
    assert sorted(delays)[len(delays) // 2] < 0.1, delays


def test_a_claim_without_work_is_answered_with_nothing_when_its_wait_is_over(api: Api) -> None:
    agent = api.agent()
    begun = time.monotonic()
    assert agent.claim(wait=0.3) == []
    assert 0.25 < time.monotonic() - begun < 2


def test_a_claim_is_withdrawn_when_its_client_goes_away(api: Api) -> None:
    agent = api.agent()
    with pytest.raises(httpx.ReadTimeout):
        agent.client.post(
            "agent/v1/claims",
            json=agent.body(claim_id=str(uuid.uuid4()), free_slots=1, wait_seconds=5),
            timeout=0.3,
        )
    time.sleep(0.3)
    (workload_id,) = api.queue(agent)
    time.sleep(0.3)
    # Nobody was there to take it; it waits for the next claim, which gets it under its first fence.
    assert api.execute(f"SELECT state FROM isthmus_workload WHERE id = '{workload_id}'") == [("queued",)]
    (lease,) = agent.claim()
    assert (lease["workload_id"], lease["fence"]) == (workload_id, 1)


def test_a_claim_whose_answer_was_lost_is_repeated(api: Api) -> None:
    agent = api.agent()
    api.queue(agent, 2)
    claim_id = str(uuid.uuid4())
    first = agent.claim(slots=2, claim_id=claim_id)
    again = agent.claim(slots=2, claim_id=claim_id, repeated=True)
    assert len(first) == 2
    assert {(one["workload_id"], one["fence"]) for one in first} == {
        (one["workload_id"], one["fence"]) for one in again
    }


def test_settling_twice_is_a_duplicate_and_an_old_fence_is_stale(api: Api) -> None:
    agent = api.agent()
    (workload_id,) = api.queue(agent)
    (first,) = agent.claim()
    assert agent.settle(first, "released") == "settled"
    (second,) = agent.claim()
    assert (second["workload_id"], second["fence"]) == (workload_id, 2)
    assert agent.start(first) == ["refused"]
    assert agent.start(second) == ["confirmed"]
    assert agent.settle(first, "failed") == "stale"
    assert agent.settle(second, exit_code=0) == "settled"
    assert agent.settle(second, exit_code=0) == "duplicate"
    assert api.execute(f"SELECT state FROM isthmus_workload WHERE id = '{workload_id}'") == [("succeeded",)]


def test_another_agents_lease_is_not_ones_own(api: Api) -> None:
    token = api.token()["secret"]
    holder, other = api.agent(token=token), api.agent(token=token)
    (workload_id,) = api.queue(holder)
    lease = holder.run(workload_id)
    assert other.start(lease) == ["refused"]
    assert other.settle(lease, "failed") == "stale"
    until(
        lambda: other.beat(leases=[{"workload_id": workload_id, "fence": 1, "started": True}])["lost"] != [], seconds=5
    )
    assert holder.settle(lease) == "settled"


def test_cordon_and_drain_reach_the_agent_with_its_next_heartbeat(api: Api) -> None:
    agent, admin = api.agent(), api.admin()
    nothing = {"cordoned": False, "drain": False, "cancel": [], "lost": [], "probes": None, "fetch_log": None}
    assert agent.beat() == {"heartbeat_seconds": 1.0, **nothing}
    api.queue(agent)
    admin.post(f"/admin/v1/agents/{agent.agent_id}/cordon")
    until(lambda: agent.beat()["cordoned"])
    assert agent.claim(wait=0.2) == []
    admin.post(f"/admin/v1/agents/{agent.agent_id}/drain")
    until(lambda: agent.beat()["drain"])
    admin.post(f"/admin/v1/agents/{agent.agent_id}/uncordon")
    until(lambda: not agent.beat()["drain"])
    assert len(agent.claim()) == 1


def test_cancel_reaches_the_agent_that_runs_it(api: Api) -> None:
    agent, admin = api.agent(), api.admin()
    (workload_id,) = api.queue(agent)
    lease = agent.run(workload_id)
    held = [{"workload_id": workload_id, "fence": 1, "started": True}]
    response = admin.post(f"/admin/v1/workloads/{workload_id}/cancel")
    assert (response.status_code, response.json()["state"]) == (202, "running")
    until(lambda: agent.beat(leases=held)["cancel"] == [{"workload_id": workload_id, "fence": 1}])
    assert agent.settle(lease, "failed") == "settled"
    assert admin.get(f"/admin/v1/workloads/{workload_id}").json()["workload"]["state"] == "cancelled"


def test_an_agent_that_comes_back_replaces_its_former_self(api: Api) -> None:
    token = api.token()["secret"]
    former = api.agent(token=token)
    workload_id, started_id = api.queue(former, 2)
    leases = former.claim(slots=2)
    started = next(lease for lease in leases if lease["workload_id"] == started_id)
    assert former.start(started) == ["confirmed"]
    latter = api.agent(token=token, name=former.name, queues=[former.queue])
    assert latter.agent_id == former.agent_id
    assert problem(former.post("heartbeats", slots_used=0)) == "agent_replaced"
    states = dict(api.execute(f"SELECT id::text, state FROM isthmus_workload WHERE queue = '{former.queue}'"))
    assert states == {workload_id: "queued", started_id: "lost"}


def test_a_task_token_is_minted_anew_for_the_holder_alone(api: Api) -> None:
    token = api.token()["secret"]
    agent, other = api.agent(token=token), api.agent(token=token)
    (workload_id,) = api.queue(agent)
    lease = agent.run(workload_id)
    path = f"workloads/{workload_id}/token"
    fresh = answered(agent.post(path, fence=1))["task_token"]
    assert fresh != lease["task_token"]
    assert problem(agent.post(path, fence=2)) == "lease_lost"
    assert problem(other.post(path, fence=1)) == "lease_lost"
    assert problem(agent.post(f"workloads/{uuid.uuid4()}/token", fence=1)) == "workload_not_found"
    agent.settle(lease)
    assert problem(agent.post(path, fence=1)) == "lease_lost"


def test_the_last_use_of_a_token_is_remembered(api: Api) -> None:
    token = api.token()
    assert token["last_used_at"] is None
    api.agent(token=token["secret"]).beat()

    def seen() -> dict[str, object]:
        page = api.admin().get("/admin/v1/tokens").json()["tokens"]
        found: dict[str, object] = next(one for one in page if one["token_id"] == token["token_id"])
        return found

    until(lambda: seen()["last_used_at"] is not None)
    assert seen()["last_used_address"] == "127.0.0.1"


def test_a_lease_that_nobody_starts_goes_back_to_the_queue(api: Api) -> None:
    agent = api.agent()
    (workload_id,) = api.queue(agent)
    assert len(agent.claim()) == 1
    until(
        lambda: api.execute(f"SELECT state FROM isthmus_workload WHERE id = '{workload_id}'") == [("queued",)],
        seconds=15,
    )


def test_what_cannot_be_handed_out_goes_back_to_the_queue_at_once(api: Api) -> None:
    agent = api.agent()
    (workload_id,) = api.queue(agent)
    where = f"WHERE id = '{workload_id}'"
    planting.execute(api.database_url, f"UPDATE isthmus_workload SET payload = '[]' {where}")  # in no wire message
    assert agent.post("claims", claim_id=str(uuid.uuid4()), free_slots=1, wait_seconds=1).status_code == 500
    until(lambda: api.execute(f"SELECT state FROM isthmus_workload {where}") == [("queued",)], seconds=2)
    planting.execute(api.database_url, f"DELETE FROM isthmus_workload {where}")


def test_what_is_counted(api: Api) -> None:
    agent = api.agent()
    heartbeats = _metric(api, "isthmus_heartbeats_total")
    dispatched = _metric(api, "isthmus_dispatch_seconds_count")
    agent.beat()
    api.queue(agent)
    agent.claim()
    agent.post("heartbeats")
    assert _metric(api, "isthmus_heartbeats_total") == heartbeats + 1
    assert _metric(api, "isthmus_dispatch_seconds_count") == dispatched + 1
    text = api.admin().get("/metrics").text
    for series in (
        'isthmus_requests_total{api="agent",code="",route="heartbeat",status="200"}',
        'isthmus_requests_total{api="agent",code="request_invalid",route="heartbeat",status="422"}',
        'isthmus_requests_total{api="admin",code="",route="create_token",status="201"}',
        'isthmus_agents{health="healthy"}',
        'isthmus_workloads{state="active"}',
        'isthmus_leases_ended_total{outcome="lost"}',
        "isthmus_database_up 1.0",
    ):
        assert series in text, series


def _metric(api: Api, name: str) -> float:
    for line in api.admin().get("/metrics").text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[1])
    raise AssertionError(name)
