"""Triggering the examples, following them to their end, and keeping what became of each task."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from rich.live import Live
from rich.text import Text

from isthmus.cli import printing
from isthmus.cli.airflows import Airflow, TaskInstance
from isthmus.cli.calling import Plane
from isthmus.cli.demo.examples import EXPECTED, Row, judge, summarise
from isthmus.cli.demo.telling import DemoError, Teller

#: A run that takes longer is stuck: each needs a few seconds.
_RUN_SECONDS: Final = 180.0
_POLL_SECONDS: Final = 0.3
_PAGE: Final = 200
_ENDED: Final = frozenset({"success", "failed"})
_TOLD: Final = frozenset({"success", "failed", "up_for_retry", "upstream_failed"})


@dataclass(slots=True)
class Runs:
    """All runs of one demo. ``check`` raises when a program of the demo has ended by itself."""

    teller: Teller
    airflow: Airflow
    operator: Plane
    check: Callable[[], None]
    rows: list[Row] = field(default_factory=list)
    #: What was not as it should be, in any run.
    wrong: list[str] = field(default_factory=list)
    _prefix: str = field(default_factory=lambda: f"demo__{datetime.now(UTC):%Y%m%dT%H%M%S}")

    def await_dags(self) -> None:
        """Wait until Airflow has parsed the examples. Raises DemoError."""
        deadline = time.monotonic() + _RUN_SECONDS
        while not all(self.airflow.knows(dag_id) for dag_id in EXPECTED):
            self.check()
            if time.monotonic() > deadline or (wrong := self.airflow.import_errors()):
                raise DemoError("Airflow does not know the examples", code="demo_dags_missing", hint="\n".join(wrong))
            time.sleep(_POLL_SECONDS)

    def run(
        self,
        name: str,
        dag_ids: Sequence[str],
        paths: Callable[[], Mapping[str, str]],
        agents: Sequence[str],
        meanwhile: Callable[[], None] | None = None,
    ) -> list[Row]:
        """Trigger these DAGs, do something ``meanwhile``, wait for their end, and judge it.

        ``paths`` tells which path each agent is on; it is asked when the runs begin. ``agents`` may have run tasks.
        """
        run_id = f"{self._prefix}__{name}"
        before = dict(paths())
        for dag_id in dag_ids:
            self.airflow.trigger(dag_id, run_id)
        self.teller.say(f"triggered: {' and '.join(dag_ids)}")
        if meanwhile is not None:
            meanwhile()
        tasks = self._follow(dag_ids, run_id)
        self._await_settled()
        handed_out = [one for one in self.operator.workloads(_PAGE).workloads if one.run_id == run_id]
        rows = summarise(tasks, handed_out, {run_id: before})
        for dag_id in dag_ids:
            of_dag = [row for row in rows if row.dag_id == dag_id]
            self.wrong += judge(dag_id, of_dag, [one for one in handed_out if one.dag_id == dag_id], agents)
        self.rows += rows
        return rows

    def show_log(self, dag_id: str, task_id: str, wanted: str) -> None:
        """Read the log of a task of the last run as Airflow's UI does: from the agent that has it."""
        last = next(row for row in reversed(self.rows) if (row.dag_id, row.task_id) == (dag_id, task_id))
        tasks = self.airflow.task_instances(dag_id, last.run_id)
        began = time.monotonic()
        lines = self.airflow.log(next(task for task in tasks if task.task_id == task_id))
        if found := [line for line in lines if wanted in line]:
            self.teller.say(
                f"Airflow shows the log of {task_id}, which only agent {last.agent} has: {min(found, key=len)!r}"
            )
            self.teller.note("seconds_to_read_a_log", round(time.monotonic() - began, 3))
        else:
            self.wrong.append(f"the log of {dag_id}.{task_id} does not have {wanted!r}: {lines[-5:]}")

    def _follow(self, dag_ids: Sequence[str], run_id: str) -> list[TaskInstance]:
        deadline = time.monotonic() + _RUN_SECONDS
        seen: dict[str, str | None] = {}
        # Without a thread of its own: programs are forked from this process.
        with Live(console=self.teller.console, auto_refresh=False, transient=True) as live:
            while True:
                self.check()
                # The runs first: tasks that are read after their run has ended have their last state.
                states = {dag_id: self.airflow.run_state(dag_id, run_id) for dag_id in dag_ids}
                tasks = [task for dag_id in dag_ids for task in self.airflow.task_instances(dag_id, run_id)]
                self._show_changes(tasks, seen)
                live.update(_under_way(tasks), refresh=self.teller.console.is_terminal)
                if all(state in _ENDED for state in states.values()):
                    return tasks
                if time.monotonic() > deadline:
                    raise DemoError(
                        f"the runs did not end within {_RUN_SECONDS:.0f} s: {states}",
                        code="demo_stuck",
                        hint="See the logs in .demo/agents and .demo/plane/logs.",
                    )
                time.sleep(_POLL_SECONDS)

    def _await_settled(self) -> None:
        """Wait for the agents' own word: a task reports its end to Airflow before the agent settles its lease."""
        deadline = time.monotonic() + 30
        while self.operator.deployment().workloads_active and time.monotonic() < deadline:
            self.check()
            time.sleep(_POLL_SECONDS)

    def _show_changes(self, tasks: Sequence[TaskInstance], seen: dict[str, str | None]) -> None:
        for task in sorted(tasks, key=lambda one: (one.ended_at or datetime.max.replace(tzinfo=UTC), one.map_index)):
            name = f"{task.dag_id}.{task.task_id}" + (f"[{task.map_index}]" if task.map_index >= 0 else "")
            if task.state in _TOLD and seen.get(name) != task.state:
                self.teller.say(
                    f"{name:34} {task.state}" + (f" at try {task.try_number}" if task.try_number > 1 else "")
                )
            seen[name] = task.state


def show(rows: Sequence[Row]) -> None:
    """A table of tasks."""
    printing.table(
        ("DAG", "TASK", "TRY", "STATE", "AGENT", "PATH", "WAITED", "TOOK"),
        (
            (
                row.dag_id,
                row.task_id + (f"[{row.map_index}]" if row.map_index >= 0 else ""),
                str(row.try_number),
                row.state or printing.NOTHING,
                row.agent or printing.NOTHING,
                row.path or printing.NOTHING,
                _between(row.queued, row.started),
                _between(row.started, row.ended),
            )
            for row in rows
        ),
        empty="No task ran.",
    )


def handed_out_to(rows: Sequence[Row]) -> str:
    """How many tasks each agent ran, by which path, for a sentence."""
    counted: dict[tuple[str, str], int] = {}
    for row in rows:
        key = row.agent or "nobody", row.path or "unknown"
        counted[key] = counted.get(key, 0) + 1
    return ", ".join(f"{number} on {agent} ({path})" for (agent, path), number in sorted(counted.items()))


def _between(start: str | None, end: str | None) -> str:
    """How long it was; nothing for the wait of a task that was queued again after a deferral."""
    if start is None or end is None or datetime.fromisoformat(end) < datetime.fromisoformat(start):
        return printing.NOTHING
    return printing.duration(datetime.fromisoformat(end) - datetime.fromisoformat(start))


def _under_way(tasks: Sequence[TaskInstance]) -> Text:
    """What has not ended yet, for a terminal."""
    waiting = [task for task in tasks if task.state not in {"success", "failed", "upstream_failed"}]
    names = (f"{task.task_id} {task.state or 'waits'}" for task in waiting)
    return Text("          " + ", ".join(names), style="dim", overflow="ellipsis", no_wrap=True)
