"""The scheduler's pause: over at once when there is news, a second long when there is none."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest


def seconds(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


@pytest.fixture
def quiet(plane: Any) -> Any:
    """A scheduler that listens and has nothing to do."""
    plane.executor.sync()
    assert plane.executor._pacer.is_listening
    return plane


@contextmanager
def later(delay: float, work: Callable[[], object]) -> Iterator[None]:
    timer = threading.Timer(delay, work)
    timer.start()
    yield
    timer.join()


def notify(plane: Any) -> None:
    plane.execute("SELECT pg_notify('isthmus_scheduler', '')")


def test_nothing_to_do_takes_a_second(quiet: Any) -> None:
    assert 0.95 < seconds(quiet.executor.sync) < 1.5


def test_news_ends_the_pause(quiet: Any) -> None:
    sent: list[float] = []

    def send() -> None:
        notify(quiet)
        sent.append(time.monotonic())

    with later(0.2, send):
        quiet.executor.sync()
        woken = time.monotonic()
    assert woken - sent[0] < 0.1


def test_an_outcome_that_ends_the_pause_is_reported_in_the_same_loop(quiet: Any, run_dag: Callable[..., str]) -> None:
    run_dag({"task_id": "one"})
    quiet.loop()
    quiet.start()
    quiet.set_task("success")
    quiet.executor.sync()
    with later(0.2, quiet.settle):
        assert seconds(quiet.executor.sync) < 0.9
    assert len(quiet.executor.event_buffer) == 1


def test_news_from_before_the_loop_is_not_slept_over(quiet: Any) -> None:
    notify(quiet)
    assert seconds(quiet.executor.sync) < 0.5
    assert seconds(quiet.executor.sync) > 0.9


def test_a_loop_that_queued_something_does_not_pause(quiet: Any, run_dag: Callable[..., str]) -> None:
    run_dag({"task_id": "one"})
    quiet.schedule()
    assert seconds(quiet.executor.sync) < 0.5
    assert seconds(quiet.executor.sync) > 0.9


def test_a_loop_that_heard_an_outcome_does_not_pause(quiet: Any, run_dag: Callable[..., str]) -> None:
    run_dag({"task_id": "one"})
    quiet.loop()
    quiet.start()
    quiet.execute("UPDATE isthmus_workload SET state = 'succeeded', unseen = true")  # without a notification
    assert seconds(quiet.executor.sync) < 0.5
    assert len(quiet.executor.event_buffer) == 1
    assert seconds(quiet.executor.sync) > 0.9


@pytest.mark.parametrize(
    ("waits_seconds", "is_held"),
    [(1, True), (-1, False), (60, False)],
    ids=["for a slot", "for the dispatcher", "for an agent that nobody runs"],
)
def test_loops_are_held_apart_while_work_waits_for_slots(
    quiet: Any, run_dag: Callable[..., str], waits_seconds: int, is_held: bool
) -> None:
    run_dag({"task_id": "one"})
    quiet.loop()
    quiet.executor.sync()
    before = time.monotonic()
    notify(quiet)
    quiet.execute("UPDATE isthmus_workload SET queued_at = clock_timestamp() - %s * interval '1 second'", waits_seconds)
    quiet.executor.sync()
    assert (time.monotonic() - before > 0.15) == is_held


def test_a_run_that_is_started_elsewhere_ends_the_pause(
    quiet: Any, run_dag: Callable[..., str], start_run: Callable[[str], None]
) -> None:
    """As from Airflow's UI: nobody notifies, and still nobody waits a second."""
    dag_id = run_dag({"task_id": "one"})
    quiet.loop()
    quiet.executor.sync()
    started: list[float] = []

    def start() -> None:
        start_run(dag_id)
        started.append(time.monotonic())

    with later(0.1, start):
        while not started:
            quiet.executor.sync()
        woken = time.monotonic()
    assert woken - started[0] < 0.7
    quiet.schedule()
    assert len(quiet.workloads()) == 2


def test_a_run_that_is_set_back_ends_the_pause(quiet: Any, run_dag: Callable[..., str]) -> None:
    """As when somebody clears a finished task."""
    run_dag({"task_id": "one"})
    quiet.execute("UPDATE dag_run SET state = 'success'")
    quiet.executor.sync()
    quiet.executor.sync()
    with later(0.2, lambda: quiet.execute("UPDATE dag_run SET state = 'queued'")):
        assert seconds(quiet.executor.sync) < 0.9


def test_a_look_that_hangs_does_not_hang_the_scheduler(quiet: Any, monkeypatch: Any) -> None:
    quiet.executor._pacer._look = "SELECT pg_sleep(60)"
    assert seconds(quiet.executor.sync) < 4
    assert not quiet.executor._pacer.is_listening


def cut(plane: Any) -> None:
    """End the scheduler's listening connection from the other side."""
    plane.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'isthmus-scheduler' AND datname = current_database()"
    )


def test_a_lost_connection_is_a_plain_sleep_until_it_is_back(quiet: Any) -> None:
    cut(quiet)
    assert seconds(quiet.executor.sync) < 0.5  # there may have been news
    assert not quiet.executor._pacer.is_listening
    assert 0.95 < seconds(quiet.executor.sync) < 1.5
    quiet.executor._pacer._next_attempt = 0
    assert seconds(quiet.executor.sync) < 0.5  # and while it was away
    assert quiet.executor._pacer.is_listening
    with later(0.2, lambda: notify(quiet)):
        assert seconds(quiet.executor.sync) < 0.9


def test_a_connection_lost_while_waiting_does_not_raise(quiet: Any) -> None:
    with later(0.2, lambda: cut(quiet)):
        quiet.executor.sync()
    assert not quiet.executor._pacer.is_listening


def test_a_database_that_does_not_answer_is_asked_less_and_less(quiet: Any, monkeypatch: Any) -> None:
    pacer = quiet.executor._pacer
    pacer.close()
    pacer._dsn = "postgresql://nobody@127.0.0.1:1/nothing"
    pacer.poll()
    first = pacer._next_attempt
    assert first > time.monotonic()
    assert seconds(pacer.poll) < 0.05  # not asked again yet
    for _ in range(8):
        pacer._next_attempt = 0
        pacer.poll()
    assert pacer._next_attempt - time.monotonic() > 20


@pytest.mark.parametrize(
    ("name", "value"),
    [("AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME", "1"), ("AIRFLOW__ISTHMUS__EVENT_DRIVEN_SCHEDULING", "False")],
)
def test_off_by_either_setting(
    plane_factory: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    plane = plane_factory()
    assert seconds(plane.executor.sync) < 0.5
    assert seconds(plane.executor.sync) < 0.5


def test_executors_of_one_scheduler_pause_once(quiet: Any) -> None:
    team = type(quiet.executor)(team_name="blue")
    team.job_id = quiet.job.id
    team.start()
    try:
        assert seconds(quiet.executor.sync) < 0.5
        assert 0.95 < seconds(team.sync) < 1.5
        quiet.executor._note_work()
        assert seconds(team.sync) < 0.5
    finally:
        team.end()
