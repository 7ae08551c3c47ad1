"""What ends at an agent becomes an event of the executor that waits for it, once."""

from collections.abc import Callable
from typing import Any

from isthmus.deployment import executor as executor_module


def one_running(plane: Any, run_dag: Callable[..., str]) -> dict[str, Any]:
    """A task that runs at an agent."""
    run_dag({"task_id": "one"})
    plane.loop()
    plane.start()
    plane.set_task("running")
    [row] = plane.workloads()
    return row


def test_a_success_is_an_event_and_frees_the_slot(plane: Any, run_dag: Callable[..., str]) -> None:
    one_running(plane, run_dag)
    assert plane.executor.slots_occupied == 1
    plane.set_task("success")
    plane.settle()
    plane.executor.sync()
    [(key, (state, _))] = plane.executor.event_buffer.items()
    assert (key.task_id, state) == ("one", "success")
    assert plane.executor.slots_occupied == 0
    plane.finish()
    assert plane.task_states() == {"one": "success"}
    assert not plane.workloads()[0]["unseen"]
    plane.executor.sync()
    assert plane.executor.event_buffer == {}


def test_a_lost_workload_fails_its_task(plane: Any, run_dag: Callable[..., str]) -> None:
    one_running(plane, run_dag)
    plane.settle("lost", detail="the agent's lease ended")
    plane.executor.sync()
    [(_, (state, info))] = plane.executor.event_buffer.items()
    assert state == "failed"
    assert info.startswith("lost on agent agent-")
    assert info.endswith("the agent's lease ended")
    plane.finish()
    assert plane.task_states() == {"one": "failed"}


def test_an_operators_cancel_fails_the_task(plane: Any, run_dag: Callable[..., str]) -> None:
    one_running(plane, run_dag)
    plane.settle("cancelled")
    plane.executor.sync()
    plane.finish()
    assert plane.task_states() == {"one": "failed"}


def test_each_scheduler_hears_of_its_own(plane_factory: Callable[..., Any], run_dag: Callable[..., str]) -> None:
    first, second = plane_factory(), plane_factory()
    run_dag({"task_id": "one"})
    first.loop()
    run_dag({"task_id": "two"})
    second.loop()
    first.start()
    first.set_task("success")
    first.settle()
    first.executor.sync()
    second.executor.sync()
    assert [key.task_id for key in first.executor.event_buffer] == ["one"]
    assert [key.task_id for key in second.executor.event_buffer] == ["two"]


def test_the_outcome_of_a_deferred_attempt_does_not_end_the_resumed_one(
    plane: Any, run_dag: Callable[..., str]
) -> None:
    """The agent settles the attempt that deferred only after the task has been queued again under the same key."""
    first = one_running(plane, run_dag)
    plane.set_task("scheduled")  # deferred, and its trigger has fired
    plane.loop()
    older, newer = plane.workloads()
    assert older["id"] == first["id"]
    assert older["try_number"] == newer["try_number"]
    plane.settle(condition=f"id = '{older['id']}'")
    plane.executor.sync()
    assert plane.executor.event_buffer == {}
    assert plane.executor.slots_occupied == 1
    plane.finish()
    assert plane.task_states() == {"one": "queued"}
    plane.start()
    plane.set_task("success")
    plane.settle()
    plane.executor.sync()
    assert [state for state, _ in plane.executor.event_buffer.values()] == ["success"]


def test_outcomes_come_in_batches_until_none_is_left(plane: Any, run_dag: Callable[..., str], monkeypatch: Any) -> None:
    monkeypatch.setattr(executor_module, "_BATCH", 2)
    run_dag(*({"task_id": f"t{number}"} for number in range(7)))
    plane.loop()
    plane.start()
    plane.set_task("success")
    plane.settle()
    plane.executor.sync()
    assert len(plane.executor.event_buffer) == 7


def test_a_database_in_trouble_does_not_end_the_scheduler(plane: Any, run_dag: Callable[..., str]) -> None:
    one_running(plane, run_dag)
    plane.settle()
    with plane.broken():
        plane.executor._next_housekeeping = 0
        plane.executor.sync()
        plane.executor.fail_connection_test("anything")
    plane.executor.sync()
    assert len(plane.executor.event_buffer) == 1


def test_airflows_own_verdict_stops_what_is_left(plane: Any, run_dag: Callable[..., str]) -> None:
    """A task that has not heartbeated for five minutes fails; its workload must not hold the agent's slot."""
    one_running(plane, run_dag)
    plane.execute("UPDATE task_instance SET last_heartbeat_at = now() - interval '1 hour'")
    plane.runner._find_and_purge_task_instances_without_heartbeats()
    assert plane.executor.slots_occupied == 0
    [row] = plane.workloads()
    assert (row["state"], row["cancel_requested"]) == ("running", True)
    plane.finish()
    assert plane.task_states() == {"one": "failed"}


def test_a_callback_runs_and_ends(plane: Any, run_dag: Callable[..., str], callbacks: Any) -> None:
    callback_id = callbacks.add(plane, run_dag({"task_id": "one"}))
    plane.start("kind = 'callback'")
    plane.execute("UPDATE isthmus_workload SET unseen = true WHERE kind = 'callback'")
    plane.executor.sync()
    plane.finish()
    assert callbacks.state(plane, callback_id) == "running"
    plane.settle(condition="kind = 'callback'")
    plane.executor.sync()
    plane.finish()
    assert callbacks.state(plane, callback_id) == "success"
    assert plane.executor.slots_occupied == 0


def test_a_callback_fails_with_its_reason(plane: Any, run_dag: Callable[..., str], callbacks: Any) -> None:
    callback_id = callbacks.add(plane, run_dag({"task_id": "one"}))
    plane.start("kind = 'callback'")
    plane.settle("failed", "kind = 'callback'", detail="exit code 1")
    plane.executor.sync()
    plane.finish()
    assert callbacks.state(plane, callback_id) == "failed"
    [(output,)] = plane.execute("SELECT output FROM callback WHERE id = %s", callback_id)
    assert output.endswith("exit code 1")


def test_a_connection_test_frees_its_slot(plane: Any, callbacks: Any) -> None:
    callbacks.add_connection_test(plane)
    assert plane.executor.slots_occupied == 1
    plane.start()
    plane.settle()
    plane.executor.sync()
    plane.finish()
    assert plane.executor.slots_occupied == 0
