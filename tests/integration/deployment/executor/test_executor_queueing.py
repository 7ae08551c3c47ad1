"""What the scheduler queues is in the queue exactly when the scheduler's transaction says so."""

import json
import select
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isthmus.deployment import databases, tables


@pytest.fixture
def listener(airflow_url: str) -> Any:
    """A connection that hears of queued work."""
    connection = psycopg2.connect(databases.libpq_dsn(airflow_url))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"LISTEN {tables.QUEUED_CHANNEL}")
    yield connection
    connection.close()


@pytest.fixture
def database(airflow_url: str) -> Iterator[Any]:
    with databases.connected(airflow_url) as connection, connection.cursor() as cursor:
        yield cursor


def heard(connection: Any, seconds: float = 2.0) -> bool:
    if select.select([connection], [], [], seconds)[0]:
        connection.poll()
    found = bool(connection.notifies)
    connection.notifies.clear()
    return found


def test_a_queued_task_is_a_row(plane: Any, run_dag: Callable[..., str]) -> None:
    dag_id = run_dag({"task_id": "one", "queue": "gpu", "priority_weight": 7})
    plane.schedule()
    assert plane.task_states() == {"one": "queued"}
    [row] = plane.workloads()
    assert row["kind"] == "task"
    assert row["state"] == "queued"
    assert row["queue"] == "gpu"
    assert row["priority"] == 7
    assert row["display_name"] == f"{dag_id}.one"
    assert row["bundle"] == "tests"
    assert row["scheduler_job_id"] == plane.job.id
    assert row["try_number"] == 1
    assert row["map_index"] == -1
    assert row["payload"]["ti"]["dag_id"] == dag_id
    assert row["payload"]["type"] == "ExecuteTask"
    assert row["subject_id"] == row["payload"]["ti"]["id"]
    assert "token" not in row["payload"]
    assert "eyJ" not in json.dumps(row["payload"])


def test_the_payload_is_the_workload_again(plane: Any, run_dag: Callable[..., str]) -> None:
    run_dag({"task_id": "one"})
    plane.schedule()
    [row] = plane.workloads()
    made = type(plane.workload()).model_validate({**row["payload"], "token": "minted later"})
    assert str(made.ti.id) == row["subject_id"]
    assert made.bundle_info.name == "tests"
    assert made.log_path is not None


def test_visible_and_announced_on_commit_only(plane: Any, run_dag: Callable[..., str], listener: Any) -> None:
    run_dag({"task_id": "one"})
    item = plane.workload()
    with plane.session() as session:
        plane.executor.queue_workload(item, session)
        assert plane.workloads() == []
        assert not heard(listener, 0.2)
    assert len(plane.workloads()) == 1
    assert heard(listener)


def test_a_rollback_leaves_no_row_no_notification_and_no_slot(
    plane: Any, run_dag: Callable[..., str], listener: Any
) -> None:
    run_dag({"task_id": "one"})
    item = plane.workload()
    with plane.session() as session:
        plane.executor.queue_workload(item, session)
        assert plane.executor.slots_occupied == 1
        session.rollback()
    assert plane.workloads() == []
    assert not heard(listener, 0.2)
    plane.executor.sync()
    assert plane.executor.slots_occupied == 0


def test_priorities_and_queues_come_through(plane: Any, run_dag: Callable[..., str]) -> None:
    run_dag(
        {"task_id": "low", "priority_weight": 1},
        {"task_id": "high", "priority_weight": 100},
        {"task_id": "other", "queue": "gpu"},
    )
    plane.schedule()
    rows = {row["task_id"]: row for row in plane.workloads()}
    assert rows["high"]["priority"] > rows["low"]["priority"]
    assert {row["queue"] for row in rows.values()} == {"default", "gpu"}


def test_parallelism_is_honoured(plane: Any, run_dag: Callable[..., str]) -> None:
    plane.executor.parallelism = plane.runner._parallelism = 2
    run_dag(*({"task_id": f"t{number}"} for number in range(5)))
    for _ in range(3):
        plane.loop()
    assert len(plane.workloads()) == 2
    first = plane.workloads()[0]
    plane.start()
    plane.set_task("success", f"task_id = '{first['task_id']}'")
    plane.settle(condition=f"id = '{first['id']}'")
    for _ in range(3):
        plane.loop()
    assert len(plane.workloads()) == 3
    assert plane.executor.slots_available == 0


def test_a_subject_has_one_workload_that_can_start(plane: Any, run_dag: Callable[..., str]) -> None:
    run_dag({"task_id": "one"})
    for _ in range(2):
        plane.queue(plane.workload())
    older, newer = plane.workloads()
    assert (older["state"], older["unseen"]) == ("cancelled", False)
    assert newer["state"] == "queued"


def test_what_runs_is_not_superseded(plane: Any, run_dag: Callable[..., str]) -> None:
    run_dag({"task_id": "one"})
    plane.schedule()
    plane.start()
    plane.queue(plane.workload())
    assert [row["state"] for row in plane.workloads()] == ["running", "queued"]


class Pod:
    """As a Kubernetes object in an executor config."""

    def to_dict(self) -> dict[str, object]:
        return {"spec": {"nodeName": "n1"}, "numbers": (1, float("nan"))}


def test_the_executor_config_is_kept(plane: Any, run_dag: Callable[..., str]) -> None:
    run_dag({"task_id": "one"})
    item = plane.workload(executor_config={"pod_override": Pod(), "text": "a\0b\ud800", 7: object})
    plane.queue(item)
    [row] = plane.workloads()
    assert row["executor_config"]["pod_override"] == {"spec": {"nodeName": "n1"}, "numbers": [1, "nan"]}
    assert row["executor_config"]["text"] == "a\ufffdb?"
    assert row["executor_config"]["7"].startswith("<class")
    assert "executor_config" not in row["payload"]["ti"]


class Thing:
    """Something that is not JSON."""


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.builds(Thing),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
        max_leaves=8,
    )
)
@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_the_database_takes_whatever_is_stored(database: Any, value: object) -> None:
    """One refused value would end the scheduler's transaction, again and again."""
    from isthmus.deployment import queueing  # noqa: PLC0415 - it imports Airflow

    database.execute("SELECT %s::jsonb", (json.dumps(queueing.storable(value)),))


def test_a_callback_is_queued_before_any_task(plane: Any, run_dag: Callable[..., str], callbacks: Any) -> None:
    dag_id = run_dag({"task_id": "one", "priority_weight": 1000})
    plane.schedule()
    callback_id = callbacks.add(plane, dag_id, text="late")
    task, callback = plane.workloads()
    assert callback["kind"] == "callback"
    assert callback["subject_id"] == callback_id
    assert callback["display_name"] == "print"
    assert callback["queue"] == "default"
    assert callback["priority"] > task["priority"]
    assert callback["payload"]["callback"]["data"]["kwargs"] == {"text": "late"}
    assert plane.executor.slots_occupied == 2


def test_a_connection_test_goes_to_its_queue(plane: Any, callbacks: Any) -> None:
    test_id = callbacks.add_connection_test(plane, queue="gpu")
    [row] = plane.workloads()
    assert (row["kind"], row["queue"], row["subject_id"]) == ("connection_test", "gpu", test_id)
    assert row["payload"]["connection_id"] == "db"


def test_something_else_is_refused(plane: Any) -> None:
    with pytest.raises(ValueError, match="no use for a str"):
        plane.queue("a workload")


def test_teams_have_executors_of_their_own(plane: Any, run_dag: Callable[..., str]) -> None:
    run_dag({"task_id": "one"})
    team = type(plane.executor)(team_name="blue")
    team.job_id = plane.job.id
    with plane.session() as session:
        team.queue_workload(plane.workload(), session)
    [row] = plane.workloads()
    assert row["team_name"] == "blue"
    plane.start()
    plane.settle()
    plane.executor.sync()
    assert plane.executor.event_buffer == {}
    team.sync()
    assert len(team.event_buffer) == 1


def test_without_a_job_the_owner_is_nobodys(plane: Any) -> None:
    """As in ``dag.test``, which starts an executor without a scheduler."""
    first, second = (type(plane.executor)() for _ in range(2))
    assert first.owner.scheduler_job_id < 0
    assert first.owner != second.owner
