"""What the demo says of its own end."""

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.fakes import admin_api

from isthmus.cli.airflows import TaskInstance
from isthmus.cli.demo import examples
from isthmus.cli.demo.telling import short
from isthmus.wire import admin

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AGENT = "east"
PATHS = {"run": {AGENT: "link 7", "west": "public 203.0.113.9"}}


def _all() -> tuple[list[TaskInstance], list[admin.WorkloadView]]:
    """A run in which everything ended as it should."""
    tasks: list[TaskInstance] = []
    handed_out: list[admin.WorkloadView] = []
    for dag_id, expectations in examples.EXPECTED.items():
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
                        agent_name=AGENT,
                    )
                    for try_number in [*range(1, expected.try_number + 1), *[expected.try_number] * expected.defers]
                ]
    return tasks, handed_out


def judged(tasks: list[TaskInstance], handed_out: list[admin.WorkloadView], *agents: str) -> list[str]:
    rows = examples.summarise(tasks, handed_out, PATHS)
    return [
        sentence
        for dag_id in examples.EXPECTED
        for sentence in examples.judge(
            dag_id,
            [row for row in rows if row.dag_id == dag_id],
            [one for one in handed_out if one.dag_id == dag_id],
            agents or (AGENT,),
        )
    ]


def test_the_summary_has_the_promised_keys() -> None:
    names = [field.name for field in fields(examples.Row)]
    identity, end = ["dag_id", "run_id", "task_id", "map_index", "try_number"], ["queued", "started", "ended"]
    assert names == [*identity, "state", "agent", "path", *end]
    row = examples.summarise(*_all(), PATHS)[0]
    assert (row.agent, row.path) == (AGENT, "link 7")
    assert row.queued == "2026-01-01T00:00:00+00:00"


def test_all_well_is_all_well() -> None:
    assert judged(*_all()) == []
    assert judged(*_all(), "west", AGENT) == []


def test_whatever_differs_is_wrong() -> None:
    tasks, handed_out = _all()

    def wrong(tasks: list[TaskInstance], handed_out: list[admin.WorkloadView]) -> str:
        return "\n".join(judged(tasks, handed_out))

    assert "ended failed at try 1, not success" in wrong([replace(tasks[0], state="failed"), *tasks[1:]], handed_out)
    assert "ran 0 times instead of 1" in wrong(tasks[1:], handed_out)
    assert "was not expected" in wrong([*tasks, replace(tasks[0], task_id="another")], handed_out)
    elsewhere = handed_out[0].model_copy(update={"agent_name": "west"})
    assert "ran on west, not on east" in wrong(tasks, [elsewhere, *handed_out[1:]])
    assert "was handed out 0 times" in wrong(tasks, handed_out[1:]), "a task that ran elsewhere than on an agent"
    retried = next(one for one in handed_out if one.try_number == 2)
    first_try_elsewhere = [one for one in handed_out if one.task_id != retried.task_id or one is retried]
    assert "was handed out 1 times" in wrong(tasks, first_try_elsewhere)


def test_what_is_shown_of_a_command_is_short() -> None:
    balancer = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/loadBalancers/front"
    assert short(f"{balancer}/frontendIPConfigurations/link") == "/subscriptions/…/front/frontendIPConfigurations/link"
    assert short(Path.cwd() / "a" / "b") == "a/b"
    assert short("--reason") == "--reason"
