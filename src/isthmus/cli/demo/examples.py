"""The example DAGs in the demo: how each task has to end, and what became of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from isthmus.cli import workloads
from isthmus.cli.airflows import TaskInstance
from isthmus.wire import admin


@dataclass(frozen=True, slots=True)
class Expected:
    """How one task of the examples has to end. ``instances`` counts mapped ones."""

    state: str = "success"
    try_number: int = 1
    instances: int = 1
    #: Whether it is deferred: then it is handed out once more, when its trigger has fired.
    defers: bool = False

    @property
    def hand_outs(self) -> int:
        """How often a deployment hands it out."""
        return self.instances * (self.try_number + self.defers)


#: DAG and task → how it has to end. A task of ``examples/dags`` that is not here is wrong as well.
EXPECTED: Final[Mapping[str, Mapping[str, Expected]]] = {
    "river_levels": {
        "list_gauges": Expected(),
        "summarise": Expected(instances=5),
        "compare": Expected(),
        "await_editor": Expected(defers=True),
        "send_bulletin": Expected(try_number=2),  # fails at its first try, on purpose
    },
    "broken_gauge": {
        "check_reading": Expected(state="failed"),  # on purpose
    },
}

#: DAG, task and something that it logs.
LOGGED: Final = ("river_levels", "send_bulletin", "h above the flood mark")

Paths = Mapping[str, str]
"""Agent → the path that it was on, as in ``public`` or ``link 268435747``."""


@dataclass(frozen=True, slots=True)
class Row:
    """One task in the summary: what Airflow says of it, who ran its last try, and by which path. Times: RFC 3339."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    state: str | None
    agent: str | None
    path: str | None
    queued: str | None
    started: str | None
    ended: str | None


def summarise(
    tasks: Sequence[TaskInstance], handed_out: Sequence[admin.WorkloadView], paths: Mapping[str, Paths]
) -> list[Row]:
    """What became of each task, as Airflow has it, and which agent ran its last try, as the deployment has it.

    ``paths`` are those of the agents by run.
    """
    agents = {
        (one.dag_id, one.task_id, one.run_id, one.map_index, one.try_number): one.agent_name for one in handed_out
    }
    rows = []
    for task in tasks:
        agent = agents.get((task.dag_id, task.task_id, task.run_id, task.map_index, task.try_number))
        rows.append(
            Row(
                dag_id=task.dag_id,
                run_id=task.run_id,
                task_id=task.task_id,
                map_index=task.map_index,
                try_number=task.try_number,
                state=task.state,
                agent=agent,
                path=None if agent is None else paths.get(task.run_id, {}).get(agent),
                queued=_text(task.queued_at),
                started=_text(task.started_at),
                ended=_text(task.ended_at),
            )
        )
    return sorted(rows, key=lambda row: (row.started or "~", row.map_index))


def judge(
    dag_id: str, rows: Sequence[Row], handed_out: Sequence[admin.WorkloadView], agents: Sequence[str]
) -> list[str]:
    """What is not as it should be about one run of ``dag_id``; empty when all is well. ``agents`` may have run it."""
    wrong: list[str] = []
    for task_id, expected in EXPECTED[dag_id].items():
        name = f"{dag_id}.{task_id}"
        found = [row for row in rows if row.task_id == task_id]
        if len(found) != expected.instances:
            wrong.append(f"{name} ran {len(found)} times instead of {expected.instances}")
        wrong += [
            f"{name}[{row.map_index}] ended {row.state} at try {row.try_number}, "
            f"not {expected.state} at try {expected.try_number}"
            for row in found
            if (row.state, row.try_number) != (expected.state, expected.try_number)
        ]
        tries = [one for one in handed_out if one.task_id == task_id]
        if len(tries) != expected.hand_outs:
            wrong.append(f"{name} was handed out {len(tries)} times")
        wrong += [
            f"{workloads.title(one)} ran on {one.agent_name}, not on {' or '.join(agents)}"
            for one in tries
            if one.agent_name not in agents
        ]
    wrong += [f"{dag_id}.{row.task_id} was not expected" for row in rows if row.task_id not in EXPECTED[dag_id]]
    return wrong


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
