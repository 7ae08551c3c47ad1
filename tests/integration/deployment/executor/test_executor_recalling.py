"""What Airflow takes back is cancelled where it has not started, and asked to stop where it runs."""

from collections.abc import Callable
from typing import Any

import psycopg2
import pytest

from isthmus.deployment import databases, tables


@pytest.mark.parametrize(
    ("before", "after", "cancel_requested"),
    [
        ("queued", "cancelled", True),
        ("leased", "cancelled", True),
        ("running", "running", True),
        ("succeeded", "succeeded", False),
        ("failed", "failed", False),
        ("lost", "lost", False),
        ("cancelled", "cancelled", False),
    ],
)
def test_revoking_in_each_state(
    plane: Any, run_dag: Callable[..., str], before: str, after: str, cancel_requested: bool
) -> None:
    run_dag({"task_id": "one"})
    plane.loop()
    plane.execute("UPDATE isthmus_workload SET state = %s", before)
    plane.executor.revoke_task(ti=plane.task_instance())
    [row] = plane.workloads()
    assert (row["state"], row["cancel_requested"], row["unseen"]) == (after, cancel_requested, False)
    assert plane.executor.slots_occupied == 0
    assert plane.executor.event_buffer == {}


def test_the_outcome_of_what_was_revoked_is_not_reported(plane: Any, run_dag: Callable[..., str]) -> None:
    run_dag({"task_id": "one"})
    plane.loop()
    plane.start()
    plane.executor.revoke_task(ti=plane.task_instance())
    plane.settle("cancelled")
    plane.executor.sync()
    assert plane.executor.event_buffer == {}
    assert not plane.workloads("unseen")


def test_agents_and_dispatchers_are_told(plane: Any, run_dag: Callable[..., str]) -> None:
    run_dag({"task_id": "one"})
    plane.loop()
    connection = psycopg2.connect(databases.libpq_dsn(plane.url))
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            for channel in (tables.AGENTS_CHANNEL, tables.QUEUED_CHANNEL):
                cursor.execute(f"LISTEN {channel}")
            plane.executor.revoke_task(ti=plane.task_instance())
            cursor.execute("SELECT 1")
            connection.poll()
            assert {notice.channel for notice in connection.notifies} == {
                tables.AGENTS_CHANNEL,
                tables.QUEUED_CHANNEL,
            }
            connection.notifies.clear()
            plane.executor.revoke_task(ti=plane.task_instance())
            cursor.execute("SELECT 1")
            connection.poll()
            assert connection.notifies == []
    finally:
        connection.close()


def test_a_task_that_is_stuck_in_the_queue_is_queued_anew(plane: Any, run_dag: Callable[..., str]) -> None:
    run_dag({"task_id": "one"})
    plane.loop()
    plane.execute("UPDATE task_instance SET queued_dttm = now() - interval '1 hour'")
    plane.runner._handle_tasks_stuck_in_queued()
    assert plane.task_states() == {"one": "scheduled"}
    plane.loop()
    older, newer = plane.workloads()
    assert (older["state"], newer["state"]) == ("cancelled", "queued")
    assert plane.executor.slots_occupied == 1


def test_a_connection_test_that_took_too_long_is_stopped(plane: Any, callbacks: Any) -> None:
    callbacks.add_connection_test(plane)
    plane.start()
    plane.execute("UPDATE connection_test_request SET updated_at = now() - interval '1 hour'")
    plane.runner._reap_stale_connection_tests()
    [row] = plane.workloads()
    assert row["cancel_requested"]
    assert plane.executor.slots_occupied == 0


def marked_failed(plane: Any) -> None:
    plane.set_task("failed")


def cleared(plane: Any) -> None:
    plane.execute("UPDATE task_instance SET id = gen_random_uuid(), state = NULL, try_number = 2")


def deleted(plane: Any) -> None:
    plane.execute("DELETE FROM dag_run")


@pytest.mark.parametrize("act", [marked_failed, cleared, deleted])
def test_what_people_took_back_does_not_wait_for_an_agent(plane: Any, run_dag: Callable[..., str], act: Any) -> None:
    run_dag({"task_id": "one"})
    plane.loop()
    act(plane)
    plane.executor._keep_house()
    [row] = plane.workloads()
    assert (row["state"], row["unseen"]) == ("cancelled", False)
    assert plane.executor.slots_occupied == 0


def test_what_is_wanted_waits_on(plane: Any, run_dag: Callable[..., str], callbacks: Any) -> None:
    run_dag({"task_id": "one"})
    plane.loop()
    callbacks.add(plane, run_dag({"task_id": "two"}))
    callbacks.add_connection_test(plane)
    plane.executor._keep_house()
    assert [row["state"] for row in plane.workloads()] == ["queued"] * 3
    assert plane.executor.slots_occupied == 3


def test_callbacks_and_connection_tests_that_are_over_do_not_wait(
    plane: Any, run_dag: Callable[..., str], callbacks: Any
) -> None:
    callbacks.add(plane, run_dag({"task_id": "one"}))
    callbacks.add_connection_test(plane)
    plane.execute("UPDATE callback SET state = 'failed'")
    plane.execute("UPDATE connection_test_request SET state = 'failed'")
    plane.executor._keep_house()
    assert plane.workloads("state = 'queued'") == []
    assert plane.executor.slots_occupied == 0
