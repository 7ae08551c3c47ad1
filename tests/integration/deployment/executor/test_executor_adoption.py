"""A scheduler dies; another one takes over what it waited for, and nothing else."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.exc import ProgrammingError

Planes = Callable[..., Any]


@pytest.fixture
def successor(plane_factory: Planes, run_dag: Callable[..., str]) -> Callable[..., tuple[Any, Any]]:
    """The scheduler that died with one task queued, and the one that comes after it."""

    def make(prepare: Callable[[Any], None] = lambda dead: None) -> tuple[Any, Any]:
        dead = plane_factory()
        run_dag({"task_id": "one"})
        dead.loop()
        prepare(dead)
        dead.die()
        return dead, plane_factory()

    return make


def queued(dead: Any) -> None:
    pass


def leased(dead: Any) -> None:
    dead.execute("UPDATE isthmus_workload SET state = 'leased'")


def running(dead: Any) -> None:
    dead.start()
    dead.set_task("running")


def settled(dead: Any) -> None:
    running(dead)
    dead.settle("lost")


@pytest.mark.parametrize("prepare", [queued, leased, running, settled])
def test_what_has_a_future_is_adopted(successor: Any, prepare: Any) -> None:
    _, plane = successor(prepare)
    assert plane.adopt() == 0
    [row] = plane.workloads()
    assert row["scheduler_job_id"] == plane.job.id
    assert plane.executor.slots_occupied == 1
    if prepare is not settled:
        if prepare is not running:
            plane.start("true")
        plane.set_task("success")
        plane.settle()
    plane.executor.sync()
    plane.finish()
    assert plane.executor.slots_occupied == 0
    assert plane.task_states() == {"one": "failed" if prepare is settled else "success"}


def no_row(dead: Any) -> None:
    dead.execute("DELETE FROM isthmus_workload")


def recalled(dead: Any) -> None:
    dead.start()
    dead.execute("UPDATE isthmus_workload SET cancel_requested = true")


def heard(dead: Any) -> None:
    """The dead scheduler took the outcome and died before it told Airflow."""
    settled(dead)
    dead.executor.sync()


@pytest.mark.parametrize("prepare", [no_row, recalled, heard])
def test_what_has_none_is_run_again(successor: Any, prepare: Any) -> None:
    _, plane = successor(prepare)
    assert plane.adopt() == 1
    assert plane.executor.slots_occupied == 0
    plane.loop()
    assert plane.task_states() == {"one": "queued"}
    assert [row["state"] for row in plane.workloads(f"scheduler_job_id = {plane.job.id}")] == ["queued"]


def test_the_newest_workload_of_a_task_counts(successor: Any) -> None:
    def resumed(dead: Any) -> None:
        running(dead)
        dead.set_task("scheduled")
        dead.loop()

    dead, plane = successor(resumed)
    older, newer = plane.workloads()
    assert plane.adopt() == 0
    assert [row["scheduler_job_id"] for row in plane.workloads()] == [dead.job.id, plane.job.id]
    assert list(map(str, plane.executor._live.values())) == [newer["id"]]
    assert older["id"] != newer["id"]


def test_an_error_is_not_taken_for_an_answer(successor: Any) -> None:
    _, plane = successor(running)
    with plane.broken(), pytest.raises(ProgrammingError):
        plane.adopt()
    assert plane.task_states() == {"one": "running"}


def test_a_scheduler_that_was_only_away_lets_go_of_what_was_adopted(successor: Any) -> None:
    dead, plane = successor(running)
    plane.adopt()
    assert dead.executor.slots_occupied == 1
    dead.executor._next_housekeeping = 0
    dead.executor.sync()
    assert dead.executor.slots_occupied == 0
    plane.set_task("success")
    plane.settle()
    dead.executor.sync()
    plane.executor.sync()
    assert dead.executor.event_buffer == {}
    assert len(plane.executor.event_buffer) == 1


def test_callbacks_of_a_dead_scheduler_are_taken_over(
    plane_factory: Planes, run_dag: Callable[..., str], callbacks: Any
) -> None:
    dead = plane_factory()
    callback_id = callbacks.add(dead, run_dag({"task_id": "one"}))
    dead.start("kind = 'callback'")
    dead.die()
    plane = plane_factory()  # at its start
    assert plane.executor.slots_occupied == 1
    plane.settle(condition="kind = 'callback'")
    plane.executor.sync()
    plane.finish()
    assert callbacks.state(plane, callback_id) == "success"


def test_an_outcome_that_died_with_its_scheduler_is_told_again(
    plane_factory: Planes, run_dag: Callable[..., str], callbacks: Any
) -> None:
    dead, plane = plane_factory(), plane_factory()
    callback_id = callbacks.add(dead, run_dag({"task_id": "one"}))
    dead.start("kind = 'callback'")
    dead.settle(condition="kind = 'callback'")
    dead.executor.sync()
    dead.die()
    plane.executor._next_housekeeping = 0  # or within a minute
    plane.executor.sync()
    plane.executor.sync()
    plane.finish()
    assert callbacks.state(plane, callback_id) == "success"


def test_connection_tests_of_a_dead_scheduler_are_taken_over(plane_factory: Planes, callbacks: Any) -> None:
    dead = plane_factory()
    callbacks.add_connection_test(dead)
    dead.die()
    assert plane_factory().executor.slots_occupied == 1


def test_what_a_living_scheduler_waits_for_is_left_alone(
    plane_factory: Planes, run_dag: Callable[..., str], callbacks: Any
) -> None:
    living = plane_factory()
    callbacks.add(living, run_dag({"task_id": "one"}))
    callbacks.add_connection_test(living)
    assert plane_factory().executor.slots_occupied == 0
    assert {row["scheduler_job_id"] for row in living.workloads()} == {living.job.id}
