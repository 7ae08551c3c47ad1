"""What the demo says of its own end."""

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

from tests.fakes import admin_api

from isthmus.cli import demo
from isthmus.cli.airflows import TaskInstance
from isthmus.wire import admin

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _all() -> tuple[list[TaskInstance], list[admin.WorkloadView]]:
    """A run in which everything ended as it should."""
    tasks: list[TaskInstance] = []
    handed_out: list[admin.WorkloadView] = []
    for dag_id, expectations in demo.EXPECTED.items():
        for task_id, expected in expectations.items():
            for number in range(expected.instances):
                index = number if expected.instances > 1 else -1
                task = TaskInstance(
                    dag_id=dag_id,
                    run_id="run",
                    task_id=task_id,
                    map_index=index,
                    try_number=expected.try_number,
                    state=expected.state,
                    hostname="",
                    queued_at=NOW,
                    started_at=NOW + timedelta(milliseconds=30),
                    ended_at=NOW + timedelta(milliseconds=90),
                )
                tasks.append(task)
                handed_out += [
                    admin_api.workload(
                        len(handed_out),
                        dag_id=dag_id,
                        task_id=task_id,
                        run_id="run",
                        map_index=index,
                        try_number=try_number,
                        agent_name=demo.AGENT,
                    )
                    for try_number in range(1, expected.try_number + 1)
                ]
    return tasks, handed_out


def test_the_summary_has_the_promised_keys() -> None:
    names = [field.name for field in fields(demo.Row)]
    assert names == ["dag_id", "task_id", "map_index", "try_number", "state", "agent", "queued", "started", "ended"]
    row = demo.summarise(*_all())[0]
    assert row.agent == demo.AGENT
    assert row.queued == "2026-01-01T00:00:00+00:00"


def test_all_well_is_all_well() -> None:
    tasks, handed_out = _all()
    assert demo.judge(demo.summarise(tasks, handed_out), handed_out) == []


def test_whatever_differs_is_wrong() -> None:
    tasks, handed_out = _all()

    def wrong(tasks: list[TaskInstance], handed_out: list[admin.WorkloadView]) -> str:
        return "\n".join(demo.judge(demo.summarise(tasks, handed_out), handed_out))

    assert "ended failed at try 1, not success" in wrong([replace(tasks[0], state="failed"), *tasks[1:]], handed_out)
    assert "ran 0 times instead of 1" in wrong(tasks[1:], handed_out)
    assert "was not expected" in wrong([*tasks, replace(tasks[0], task_id="another")], handed_out)
    elsewhere = handed_out[0].model_copy(update={"agent_name": "another-agent"})
    assert "ran on another-agent, not demo-agent" in wrong(tasks, [elsewhere, *handed_out[1:]])
    assert "was handed out 0 times" in wrong(tasks, handed_out[1:]), "a task that ran elsewhere than on an agent"
    retried = next(one for one in handed_out if one.try_number == 2)
    first_try_elsewhere = [one for one in handed_out if one.task_id != retried.task_id or one is retried]
    assert "was handed out 1 times" in wrong(tasks, first_try_elsewhere)
