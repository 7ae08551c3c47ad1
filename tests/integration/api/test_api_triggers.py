"""Triggers over the wire: who gets which, what they are, and what their events do, on a real Airflow's tables."""

import itertools
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from tests.apis import Agent, Api, answered, problem, until

from isthmus.deployment import databases

TRIGGER = "airflow.providers.standard.triggers.temporal.DateTimeTrigger"
KWARGS = json.dumps({"moment": "2030-01-01T00:00:00+00:00", "end_from_trigger": False})
_places = itertools.count(1)
Enlist = Callable[..., Agent]


@pytest.fixture
def enlist(api: Api) -> Iterator[Enlist]:
    """A function that enrols a triggerer. It heartbeats until the test is over, or says that it goes."""
    agents: list[Agent] = []
    over = threading.Event()

    def make(**values: Any) -> Agent:
        agents.append(api.agent(role="triggerer", **values))
        return agents[-1]

    def beat() -> None:
        while not over.wait(0.4):
            for agent in tuple(agents):
                if agent not in gone:
                    agent.beat()

    thread = threading.Thread(target=beat)
    thread.start()
    yield make
    over.set()
    thread.join()
    gone.clear()


#: Those who heartbeat no more.
gone: list[Agent] = []


@pytest.fixture(scope="module")
def base(api: Api, seeded: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """A task instance to make others of; what this module made is gone afterwards."""
    yield next(seeded)
    api.execute("DELETE FROM asset_watcher; DELETE FROM callback; UPDATE task_instance SET trigger_id = NULL")
    api.execute("DELETE FROM trigger")


class Deferred:
    """Makes tasks that wait for triggers."""

    def __init__(self, api: Api, base: tuple[str, str]) -> None:
        self.api = api
        self.base, self.run_id = base

    def trigger(self, classpath: str = TRIGGER, kwargs: str = KWARGS) -> int:
        ((made,),) = self.api.execute(
            f"INSERT INTO trigger (classpath, kwargs, created_date) VALUES ('{classpath}', '{kwargs}', now()) "
            "RETURNING id"
        )
        return int(made)

    def task(self, queue: str, trigger_id: int | None = None, **changes: Any) -> tuple[str, int]:
        """A deferred task instance of the queue and its trigger: a copy of the seeded one."""
        made = str(uuid.uuid4())
        values = {
            "id": made,
            "map_index": next(_places),
            "state": "deferred",
            "queue": queue,
            "next_method": "execute_complete",
            "next_kwargs": {"mine": {"a": 1}},
            **changes,
        }
        fields = json.dumps(values)
        ((trigger_id,),) = self.api.execute(
            f"""WITH made AS (
                INSERT INTO trigger (classpath, kwargs, created_date) SELECT '{TRIGGER}', '{KWARGS}', now()
                RETURNING id
            ), task AS (
                INSERT INTO task_instance
                SELECT (jsonb_populate_record(t, '{fields}'::jsonb || jsonb_build_object('trigger_id', made.id))).*
                FROM task_instance AS t, made WHERE t.id = '{self.base}'
            ) SELECT id FROM made"""
        )
        assert trigger_id is not None
        return made, trigger_id

    def state(self, task: str) -> tuple[Any, ...]:
        ((state, trigger_id, method, kwargs),) = self.api.execute(
            f"SELECT state, trigger_id, next_method, next_kwargs FROM task_instance WHERE id = '{task}'"
        )
        return state, trigger_id, method, kwargs


@pytest.fixture
def deferred(api: Api, base: tuple[str, str]) -> Deferred:
    return Deferred(api, base)


def load(agent: Agent, wait: float = 0, revision: str = "", **values: Any) -> dict[str, Any]:
    return answered(agent.post("triggers/load", wait_seconds=wait, revision=revision, **values))


def await_triggers(agent: Agent, *trigger_ids: int, **values: Any) -> dict[str, Any]:
    """Load until the agent holds exactly these."""
    loaded = load(agent, **values)
    end = time.monotonic() + 10
    while set(loaded["trigger_ids"]) != set(trigger_ids):
        assert time.monotonic() < end, loaded
        loaded = load(agent, wait=2, revision=loaded["revision"], **values)
    return loaded


def fire(agent: Agent, fence: int, *events: dict[str, Any]) -> list[str]:
    reports = [{"event_id": str(uuid.uuid4()), **event} for event in events]
    verdicts: list[str] = answered(agent.post("triggers/events", fence=fence, events=reports))["verdicts"]
    return verdicts


def plain(agent: Agent, deferred: Deferred) -> tuple[str, int, int]:
    """A task whose trigger the agent holds: the task, the trigger, the fence."""
    task, trigger = deferred.task(agent.queue)
    return task, trigger, await_triggers(agent, trigger)["fence"]


def test_a_deferred_task_is_resumed(api: Api, enlist: Enlist, deferred: Deferred) -> None:
    agent = enlist()
    task, trigger, fence = plain(agent, deferred)
    payload = {"when": {"__classname__": "customer.secret.Moment", "__version__": 1, "__data__": {"a": [1, None]}}}
    with databases.connected(api.database_url) as connection, connection.cursor() as cursor:
        cursor.execute("LISTEN isthmus_scheduler")
        assert fire(agent, fence, {"trigger_id": trigger, "payload": payload}) == ["accepted"]

        def told() -> bool:
            connection.poll()
            return bool(connection.notifies)

        until(told, seconds=2)
    state, trigger_id, method, kwargs = deferred.state(task)
    assert (state, trigger_id, method) == ("scheduled", None, "execute_complete")
    # What Airflow would give to the worker: its own arguments, and the event as the agent encoded it.
    assert kwargs == {"mine": {"a": 1}, "event": payload}
    assert fire(agent, fence, {"trigger_id": trigger, "payload": payload}) == ["duplicate"]
    assert await_triggers(agent)["fence"] == fence
    assert api.execute(f"SELECT FROM trigger WHERE id = {trigger}") == [], "what nobody waits for is removed"


def test_arguments_in_the_scheduler_s_encoding(api: Api, enlist: Enlist, deferred: Deferred) -> None:
    """What ``start_from_trigger`` stores is in Airflow's older encoding."""
    agent = enlist()
    task, trigger = deferred.task(agent.queue, next_kwargs={"__type": "dict", "__var": {"x": 2}})
    fence = await_triggers(agent, trigger)["fence"]
    assert fire(agent, fence, {"trigger_id": trigger, "payload": 5}) == ["accepted"]
    assert deferred.state(task)[3] == {"x": 2, "event": 5}


def test_the_load_is_answered_when_the_plane_sees_a_deferral(
    api: Api, enlist: Enlist, queued_task: tuple[str, str]
) -> None:
    ti_id, _ = queued_task
    worker = api.agent()
    agent = enlist(queues=[worker.queue])
    api.execute(f"UPDATE task_instance SET queue = '{worker.queue}' WHERE id = '{ti_id}'")
    seen = load(agent)
    (workload_id,) = api.queue(worker, subject_id=ti_id)
    lease = worker.run(workload_id)
    running = {"state": "running", "hostname": "h", "unixname": "u", "pid": 7, "start_date": "2026-02-03T00:00:00Z"}
    token = worker.task(lease).patch(f"task-instances/{ti_id}/run", json=running).headers["Refreshed-API-Token"]
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(load, agent, 5, seen["revision"])
        time.sleep(0.3)  # it waits
        body = {
            "state": "deferred",
            "classpath": TRIGGER,
            "trigger_kwargs": json.loads(KWARGS),
            "next_method": "m",
            "next_kwargs": {},
        }
        begun = time.monotonic()
        worker.task(lease, token).patch(f"task-instances/{ti_id}/state", json=body).raise_for_status()
        loaded = waiting.result()
        assert time.monotonic() - begun < 0.9, "a poll would take a second"
    (trigger,) = loaded["trigger_ids"]
    built = answered(agent.post("triggers/workloads", fence=loaded["fence"], trigger_ids=[trigger]))
    (one,) = built["workloads"]
    workload = one["workload"]
    assert (workload["id"], workload["classpath"], workload["ti"]["id"]) == (trigger, TRIGGER, ti_id)
    assert json.loads(workload["encrypted_kwargs"]) == json.loads(KWARGS)
    assert one["log_path"].endswith(f".trigger.{loaded['fence']}.log")
    assert fire(agent, loaded["fence"], {"trigger_id": trigger}) == ["accepted"]


def test_queues_and_bundles_decide(api: Api, enlist: Enlist, deferred: Deferred) -> None:
    mine, theirs = enlist(), enlist()
    _, first = deferred.task(mine.queue)
    _, second = deferred.task(theirs.queue)
    assert await_triggers(mine, first)["fence"] != await_triggers(theirs, second)["fence"]
    stranger = enlist()
    _, third = deferred.task(stranger.queue)
    load(stranger, bundles=["another"])
    time.sleep(1.5)  # a poll passes
    assert load(stranger, bundles=["another"])["trigger_ids"] == []
    await_triggers(stranger, third, bundles=["another", "tests"])


def test_a_token_s_bundles_hold_for_triggers(api: Api, enlist: Enlist, deferred: Deferred) -> None:
    site = enlist(token=api.token(bundles=["site_*"])["secret"])
    _, trigger = deferred.task(site.queue)
    for foreign in ([], ["tests"]):
        assert problem(site.post("triggers/load", wait_seconds=0, revision="", bundles=foreign)) == "token_scope"
    load(site, bundles=["site_oslo", "tests"])
    time.sleep(1.5)  # a poll passes
    assert load(site, bundles=["site_oslo", "tests"])["trigger_ids"] == [], "its DAG is in a bundle of others"
    owner = enlist(queues=[site.queue], token=api.token(bundles=["tests"])["secret"])
    await_triggers(owner, trigger, bundles=["site_oslo", "tests"])


def test_capacity_and_sharing(api: Api, enlist: Enlist, deferred: Deferred) -> None:
    one = enlist()
    two = enlist(queues=[one.queue])
    load(one, capacity=3)
    load(two, capacity=3)
    triggers = {deferred.task(one.queue)[1] for _ in range(8)}

    def held() -> list[set[int]]:
        return [set(load(agent, capacity=3)["trigger_ids"]) for agent in (one, two)]

    until(lambda: [len(ids) for ids in held()] == [3, 3])
    first, second = held()
    assert not first & second
    assert first | second < triggers


def test_workers_run_no_triggers(api: Api) -> None:
    assert problem(api.agent().post("triggers/load")) == "token_scope"


def test_what_is_not_held_stays_closed(api: Api, enlist: Enlist, deferred: Deferred) -> None:
    holder, other = enlist(), enlist()
    task, trigger, fence = plain(holder, deferred)
    own = load(other)["fence"]
    for told in (own, fence):
        assert fire(other, told, {"trigger_id": trigger, "payload": 1}) == ["stale"]
        failures = [{"trigger_id": trigger, "traceback": []}]
        assert answered(other.post("triggers/failures", fence=told, failures=failures))["verdicts"] == ["stale"]
        assert answered(other.post("triggers/workloads", fence=told, trigger_ids=[trigger]))["workloads"] == []
    assert deferred.state(task)[:2] == ("deferred", trigger)


def test_a_failed_trigger_fails_its_task(api: Api, enlist: Enlist, deferred: Deferred) -> None:
    agent = enlist()
    task, trigger, fence = plain(agent, deferred)
    failures = [{"trigger_id": trigger, "traceback": ["Traceback\n", "ValueError: no\u0000\n"]}]
    assert answered(agent.post("triggers/failures", fence=fence, failures=failures))["verdicts"] == ["accepted"]
    state, _, method, kwargs = deferred.state(task)
    assert (state, method) == ("scheduled", "__fail__")
    assert kwargs == {"error": "Trigger failure", "traceback": ["Traceback\n", "ValueError: no\n"]}
    assert answered(agent.post("triggers/failures", fence=fence, failures=failures))["verdicts"] == ["duplicate"]


def test_an_event_that_ends_the_task(api: Api, enlist: Enlist, deferred: Deferred) -> None:
    agent = enlist()
    api.execute("UPDATE dag SET relative_fileloc = 'seeded.py' WHERE dag_id = 'seeded'")
    task, trigger, fence = plain(agent, deferred)
    event = {"trigger_id": trigger, "outcome": "success", "xcoms": {"return_value": {"n": 1}}, "payload": "success"}
    assert fire(agent, fence, event) == ["accepted"]
    assert deferred.state(task)[:2] == ("success", None)
    ((place,),) = api.execute(f"SELECT map_index FROM task_instance WHERE id = '{task}'")
    ((value,),) = api.execute(
        f"SELECT value FROM xcom WHERE run_id = '{deferred.run_id}' AND map_index = {place} AND key = 'return_value'"
    )
    assert json.loads(value) == {"n": 1}
    skipped, trigger = deferred.task(agent.queue)
    await_triggers(agent, trigger)
    assert fire(agent, fence, {"trigger_id": trigger, "outcome": "skipped"}) == ["accepted"]
    assert deferred.state(skipped)[0] == "skipped"


def test_an_asset_watcher_fires_once_for_each_event(api: Api, enlist: Enlist, deferred: Deferred) -> None:
    agent = enlist()
    trigger = deferred.trigger()
    name = uuid.uuid4().hex
    api.execute(
        f"""WITH made AS (
            INSERT INTO asset (name, uri, "group", extra, created_at, updated_at)
            VALUES ('{name}', 'x://{name}', '', '{{}}', now(), now()) RETURNING id
        ), active AS (INSERT INTO asset_active (name, uri) VALUES ('{name}', 'x://{name}'))
        INSERT INTO asset_watcher (name, asset_id, trigger_id) SELECT 'w', id, {trigger} FROM made"""
    )
    loaded = await_triggers(agent, trigger)
    built = answered(agent.post("triggers/workloads", fence=loaded["fence"], trigger_ids=[trigger]))
    assert built["workloads"][0]["workload"]["watched_assets"] == {name: f"x://{name}"}
    assert built["workloads"][0]["log_path"] is None
    event = {"event_id": str(uuid.uuid4()), "trigger_id": trigger, "payload": {"file": "a"}}
    assert fire(agent, loaded["fence"], event) == ["accepted"]
    assert fire(agent, loaded["fence"], event, event) == ["duplicate", "duplicate"]
    assert fire(agent, loaded["fence"], {"trigger_id": trigger, "payload": {"file": "b"}}) == ["accepted"]
    found = api.execute(
        f"SELECT e.extra FROM asset_event e JOIN asset a ON a.id = e.asset_id WHERE a.name = '{name}' ORDER BY e.id"
    )
    assert [row[0]["payload"] for row in found] == [{"file": "a"}, {"file": "b"}]
    assert load(agent)["trigger_ids"] == [trigger], "it goes on"
    api.execute(f"DELETE FROM asset_watcher WHERE trigger_id = {trigger}")
    await_triggers(agent)


def test_a_callback_of_a_deadline(api: Api, enlist: Enlist, deferred: Deferred) -> None:
    agent = enlist()
    trigger = deferred.trigger("airflow.triggers.callback.CallbackTrigger", '{"callback_path": "a.b"}')
    data = {"__type": "dict", "__var": {"path": "a.b", "kwargs": {"__type": "dict", "__var": {}}, "dag_id": "seeded"}}
    made = uuid.uuid4()
    api.execute(
        "INSERT INTO callback (id, type, fetch_method, data, state, priority_weight, created_at, trigger_id) VALUES "
        f"('{made}', 'triggerer', 'import_path', '{json.dumps(data)}', 'queued', 1, now(), {trigger})"
    )
    load(agent, bundles=["another"])
    time.sleep(1.2)
    assert load(agent, bundles=["another"])["trigger_ids"] == [], "its DAG is in another bundle"
    fence = await_triggers(agent, trigger, bundles=["tests"])["fence"]
    assert fire(agent, fence, {"trigger_id": trigger, "payload": {"state": "running"}}) == ["accepted"]
    assert fire(agent, fence, {"trigger_id": trigger, "payload": {"state": "running"}}) == ["duplicate"]
    assert fire(agent, fence, {"trigger_id": trigger, "payload": {"state": "nonsense"}}) == ["duplicate"]
    assert fire(agent, fence, {"trigger_id": trigger, "payload": {"state": "success", "body": {"a": 1}}}) == [
        "accepted"
    ]
    found = api.execute(f"SELECT state, output, trigger_id FROM callback WHERE id = '{made}'")
    assert found == [("success", '{"a": 1}', None)]


def test_a_cleared_task_ends_its_trigger(api: Api, enlist: Enlist, deferred: Deferred) -> None:
    agent = enlist()
    task, trigger, fence = plain(agent, deferred)
    revision = load(agent)["revision"]
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(load, agent, 5, revision)
        api.execute(f"UPDATE task_instance SET state = NULL WHERE id = '{task}'")
        loaded = waiting.result()
    assert (loaded["fence"], loaded["trigger_ids"]) == (fence, []), "under the same fence: it has ended"
    assert fire(agent, fence, {"trigger_id": trigger}) == ["duplicate"]
    assert deferred.state(task)[:2] == (None, None)


def test_another_agent_takes_over(api: Api, enlist: Enlist, deferred: Deferred) -> None:
    lost = enlist()
    heir = enlist(queues=[lost.queue])
    task, trigger, fence = plain(lost, deferred)
    load(heir)
    gone.append(lost)  # three heartbeats of a second are missed
    loaded = await_triggers(heir, trigger)
    assert loaded["fence"] != fence
    assert fire(lost, fence, {"trigger_id": trigger, "payload": "late"}) == ["stale"]
    assert fire(heir, loaded["fence"], {"trigger_id": trigger, "payload": "ours"}) == ["accepted"]
    assert deferred.state(task)[3]["event"] == "ours"
    jobs = dict(api.execute(f"SELECT id, end_date IS NULL FROM job WHERE id IN ({fence}, {loaded['fence']})"))
    assert jobs == {fence: False, loaded["fence"]: True}
    again = load(lost)
    assert again["fence"] not in {fence, None}, "it is another triggerer now"


@pytest.mark.parametrize("how", ["leaves", "drains", "is replaced"])
def test_triggers_of_who_goes_are_free_at_once(api: Api, enlist: Enlist, deferred: Deferred, how: str) -> None:
    goes = enlist()
    heir = enlist(queues=[goes.queue])
    _, trigger, fence = plain(goes, deferred)
    load(heir)
    gone.append(goes)
    begun = time.monotonic()
    if how == "leaves":
        goes.beat(phase="left")
    elif how == "drains":
        goes.beat(phase="draining")
    else:
        former = goes.instance_id
        goes.instance_id = str(uuid.uuid4())
        body = {"name": goes.name, "role": "triggerer", "instance_id": goes.instance_id, "queues": ["elsewhere"]}
        versions = {"isthmus": "0.1.0", "airflow": "3.3.2", "task_sdk": "1.3.2", "python": "3.11.2"}
        answered(goes.client.post("agent/v1/enrolments", json={**body, "slots": 4, "versions": versions}))
        goes.instance_id = former
        assert problem(goes.post("triggers/load")) == "agent_replaced"
    loaded = await_triggers(heir, trigger)
    assert time.monotonic() - begun < 4
    assert loaded["fence"] != fence
    if how == "drains":
        assert load(goes) == {"fence": None, "trigger_ids": [], "revision": load(goes)["revision"]}


def test_airflow_sees_the_triggerer(api: Api, enlist: Enlist, deferred: Deferred) -> None:
    agent = enlist()
    _, trigger, fence = plain(agent, deferred)
    ((job_type, state, hostname, held),) = api.execute(
        "SELECT j.job_type, j.state, j.hostname, t.id FROM job j JOIN trigger t ON t.triggerer_id = j.id "
        f"WHERE j.id = {fence}"
    )
    assert (job_type, state, hostname, held) == ("TriggererJob", "running", f"{agent.name}.isthmus.invalid", trigger)
    before = api.execute(f"SELECT latest_heartbeat FROM job WHERE id = {fence}")

    def beats() -> bool:
        return api.execute(f"SELECT latest_heartbeat FROM job WHERE id = {fence}") > before

    until(beats)


def component(agent: Agent) -> httpx.Client:
    token = answered(agent.post("component-tokens"))["token"]
    sent = {"Authorization": f"Bearer {token}", "Isthmus-Agent-Token": agent.token, "Isthmus-Agent-Id": agent.agent_id}
    return agent.api.client(headers=sent, path="execution/")


def test_triggers_call_airflow_as_what_they_are(api: Api, enlist: Enlist, deferred: Deferred) -> None:
    holder, other = enlist(), enlist()
    task, _, _ = plain(holder, deferred)
    api.execute(
        "INSERT INTO hitl_detail (ti_id, options, subject, multiple, params, params_input, assignees, created_at) "
        f"VALUES ('{task}', '[\"a\"]', 's', false, '{{}}', '{{}}', '[]', now())"
    )
    mine, theirs = component(holder), component(other)
    assert mine.get(f"hitlDetails/{task}").json()["response_received"] is False
    answer = {"ti_id": task, "chosen_options": ["a"], "params_input": {}}
    for method in ("GET", "PATCH"):
        assert problem(theirs.request(method, f"hitlDetails/{task}", json=answer)) == "token_scope"
    assert mine.patch(f"hitlDetails/{task}", json=answer).status_code == 200
    key = f"xcoms/seeded/{deferred.run_id}/one/k"
    assert mine.post(key, json="1").status_code == 201
    assert mine.get(key).json()["value"] == 1 or mine.get(key).json()["value"] == "1"
    assert problem(theirs.get(key)) == "token_scope"
    assert problem(theirs.post(key, json="2")) == "token_scope"
    assert problem(mine.post("xcoms/seeded/another/one/k", json="2")) == "token_scope"
    assert mine.get("connections/public_db").status_code == 200
    assert problem(mine.get("connections/secret_db")) == "connection_not_allowed"
    assert mine.get("task-instances/count", params={"dag_id": "seeded"}).status_code == 200
    for method, path in (
        ("PATCH", f"task-instances/{task}/state"),
        ("PATCH", f"task-instances/{task}/run"),
        ("GET", f"store/ti/{task}/k"),
        ("GET", "hitlDetails/not-a-uuid"),
    ):
        assert problem(mine.request(method, path, json={})) == "token_scope", path


def test_hostile_events(api: Api, enlist: Enlist, deferred: Deferred) -> None:
    """Whatever is sent: a verdict or a problem, nothing of anybody else's changes, and the plane goes on."""
    victim, agent = enlist(), enlist()
    task, trigger, fence = plain(victim, deferred)
    own_task, own, own_fence = plain(agent, deferred)
    deep: Any = 1
    for _ in range(150):
        deep = {"__type": "dict", "__var": deep}
    payloads: list[Any] = [
        {"__type": "airflow_exc_ser", "__var": {"exc_cls_name": "os.getcwd", "args": [], "kwargs": {}}},
        {"__classname__": "os.system", "__version__": 1, "__data__": "touch /tmp/pwned"},
        {"__classname__": "airflow.models.connection.Connection", "__version__": 1, "__data__": {}},
        {"__type": "dict", "__var": {"__type": "taskinstance", "__var": {}}},
        "\u0000",
        10**4000,
        deep,
        ["x" * 1000] * 200,
        {"error": "x", "traceback": None, "event": 1},
        None,
    ]
    for payload in payloads:
        hit = {"event_id": str(uuid.uuid4()), "trigger_id": trigger, "payload": payload}
        for told in (fence, own_fence, 2**31 - 1):
            response = agent.post("triggers/events", fence=told, events=[hit])
            if response.status_code == 200:
                assert response.json()["verdicts"] == ["stale"]
            else:
                assert problem(response) in {"request_invalid", "body_malformed", "body_too_large"}
    for body in (
        {"fence": 0, "events": []},
        {"fence": own_fence, "events": [{"event_id": "x", "trigger_id": own}]},
        {"fence": own_fence, "events": [{"event_id": str(uuid.uuid4()), "trigger_id": own, "outcome": "running"}]},
        {"fence": own_fence, "failures": [{"trigger_id": 2**40}]},
    ):
        assert problem(agent.post("triggers/events", **body)) in {"request_invalid", "body_malformed"}
    assert deferred.state(task)[:2] == ("deferred", trigger)
    api.execute(f"UPDATE task_instance SET state = 'failed' WHERE id = '{own_task}'")
    # Its own task it may resume with what it likes: the worker that gets it decodes it, and nobody before.
    for payload in payloads:
        own_task, own = deferred.task(agent.queue)
        await_triggers(agent, own)
        response = agent.post(
            "triggers/events",
            fence=own_fence,
            events=[{"event_id": str(uuid.uuid4()), "trigger_id": own, "payload": payload}],
        )
        if response.status_code == 200:
            assert response.json()["verdicts"][0] in {"accepted", "unusable"}
            assert deferred.state(own_task)[0] == "scheduled"
        else:
            assert problem(response) in {"request_invalid", "body_malformed", "body_too_large"}
            api.execute(f"UPDATE task_instance SET state = 'failed' WHERE id = '{own_task}'")
        await_triggers(agent)
    assert load(victim)["trigger_ids"] == [trigger]


def test_a_thousand_events_at_once(api: Api, enlist: Enlist, deferred: Deferred, record_property: Any) -> None:
    agent = enlist()
    load(agent)
    api.execute(
        f"""WITH made AS (
            INSERT INTO trigger (classpath, kwargs, created_date)
            SELECT '{TRIGGER}', '{KWARGS}', now() FROM generate_series(1, 1000) RETURNING id
        ) INSERT INTO task_instance
        SELECT (jsonb_populate_record(t, jsonb_build_object('id', gen_random_uuid(), 'map_index', 100000 + made.id,
            'state', 'deferred', 'queue', '{agent.queue}', 'trigger_id', made.id, 'next_method', 'm'))).*
        FROM task_instance AS t, made WHERE t.id = '{deferred.base}'"""
    )
    begun = time.monotonic()
    loaded = load(agent)
    while len(loaded["trigger_ids"]) < 1000:
        loaded = load(agent, wait=5, revision=loaded["revision"])
    assigned = time.monotonic() - begun
    ids = loaded["trigger_ids"]
    begun = time.monotonic()
    for place in range(0, 1000, 200):
        asked = ids[place : place + 200]
        built = answered(agent.post("triggers/workloads", fence=loaded["fence"], trigger_ids=asked))
        assert len(built["workloads"]) == 200
    fetched = time.monotonic() - begun
    begun = time.monotonic()
    for place in range(0, 1000, 250):
        events = [{"trigger_id": one, "payload": {"n": one}} for one in ids[place : place + 250]]
        assert fire(agent, loaded["fence"], *events) == ["accepted"] * 250
    resumed = time.monotonic() - begun
    print(f"1,000 triggers: assigned in {assigned:.2f} s, fetched in {fetched:.2f} s, resumed in {resumed:.2f} s")
    record_property("seconds", round(assigned + fetched + resumed, 2))
    assert assigned + fetched + resumed < 10


def test_two_senders_and_one_event(api: Api, enlist: Enlist, deferred: Deferred) -> None:
    """The same event twice at the same moment: one of the two is the first."""
    agent = enlist()
    task, trigger, fence = plain(agent, deferred)
    event = {"event_id": str(uuid.uuid4()), "trigger_id": trigger, "payload": 1}
    barrier = threading.Barrier(2)

    def send() -> list[str]:
        barrier.wait()
        return fire(agent, fence, event)

    with ThreadPoolExecutor(2) as threads:
        sending = [threads.submit(send) for _ in range(2)]
        verdicts = sorted(verdict for one in sending for verdict in one.result())
    assert verdicts == ["accepted", "duplicate"]
    assert deferred.state(task)[0] == "scheduled"


def test_operators_see_who_runs_triggers_and_what_nobody_could(api: Api, enlist: Enlist, deferred: Deferred) -> None:
    agent = enlist()
    _, first = deferred.task(agent.queue)
    _, second = deferred.task(agent.queue)
    await_triggers(agent, first, second, capacity=2)
    deferred.task(agent.queue)  # there is no room for it
    _, orphan = deferred.task("served by nobody")
    api.execute(f"UPDATE trigger SET created_date = now() - interval '1 hour' WHERE id = {orphan}")

    def seen(**query: int) -> dict[str, Any]:
        with api.admin() as operator:
            return answered(operator.get("admin/v1/triggers", params=query))

    def mine(summary: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any]
        (found,) = [one for one in summary["triggerers"] if one["agent_name"] == agent.name]
        return found

    summary = seen()
    row = mine(summary)
    assert (row["held"], row["capacity"], row["queues"], row["takes"]) == (2, 2, [agent.queue], True)
    waiting = {one["queue"]: one for one in summary["waiting"]}
    assert (waiting[agent.queue]["count"], waiting[agent.queue]["triggerers"]) == (1, 1), "full, and no stranger"
    nobody = waiting["served by nobody"]
    assert (nobody["kind"], nobody["count"], nobody["triggerers"]) == ("task", 1, 0)
    assert 3600 <= nobody["oldest_seconds"] < 3700
    assert summary["waiting"].index(nobody) < summary["waiting"].index(waiting[agent.queue])
    assert summary["waiting_count"] == sum(one["count"] for one in summary["waiting"])
    assert 3600 <= summary["oldest_waiting_seconds"] < 3700
    assert summary["held"] >= 2
    with api.admin() as operator:
        operator.post(f"admin/v1/agents/{agent.agent_id}/cordon")
    assert not mine(seen())["takes"]
    assert seen(start=1000)["triggerers"] == []
    ((job,),) = api.execute(
        "INSERT INTO job (job_type, state, start_date, latest_heartbeat, hostname, unixname) "
        "VALUES ('TriggererJob', 'running', now(), now(), 'central', 'airflow') RETURNING id"
    )
    api.execute(f"UPDATE trigger SET triggerer_id = {job} WHERE id = {orphan}")
    after = seen()
    assert after["held_centrally"] == 1
    assert "served by nobody" not in {one["queue"] for one in after["waiting"]}
    api.execute(f"UPDATE job SET end_date = now() WHERE id = {job}")
    assert seen()["held_centrally"] == 0
