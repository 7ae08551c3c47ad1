"""Deferred tasks on real agents: they are resumed, whoever dies; one agent's triggers are another's when it is gone."""

import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faults.harness import waits
from faults.harness.agents import Agent
from faults.harness.planes import Plane

Enlist = Callable[..., Agent]


class Scene:
    """A run of a DAG, and the folder with its gate and notes."""

    def __init__(self, plane: Plane, dag_id: str) -> None:
        self.plane = plane
        self.dag_id = dag_id
        self.run_id = f"run-{uuid.uuid4().hex[:8]}"
        self.folder = plane.directory / self.run_id
        self.folder.mkdir()
        self.folder.chmod(0o777)
        (self.folder / "notes").touch()
        (self.folder / "notes").chmod(0o666)  # each agent has users of its own
        plane.operate("trigger", dag_id=dag_id, run_id=self.run_id, conf={"folder": str(self.folder)})

    def states(self) -> dict[str, str]:
        return dict(
            self.plane.database.rows("SELECT task_id, state FROM task_instance WHERE run_id = %s", (self.run_id,))
        )

    def notes(self) -> list[tuple[str, int]]:
        lines = (self.folder / "notes").read_text().splitlines()
        return [(what, int(pid)) for what, pid in (line.split() for line in lines)]

    def resumed(self) -> list[str]:
        """The numbers of the tries in which the task went on."""
        return (self.folder / "resumed").read_text().split()

    def open_gate(self) -> None:
        (self.folder / "open").touch()

    def await_states(self, states: dict[str, str], evidence: Callable[[], str], seconds: float = 60) -> None:
        waits.until(
            f"{self.dag_id} is {states}",
            lambda: {key: self.states().get(key) for key in states} == states,
            seconds=seconds,
            evidence=lambda: f"{self.states()}\n{evidence()}",
        )

    def await_notes(
        self, what: str, count: int = 1, seconds: float = 30, evidence: Callable[[], str] = lambda: ""
    ) -> list[int]:
        def noted() -> list[int]:
            return [pid for note, pid in self.notes() if note == what]

        waits.until(
            f"{count} x {what}",
            lambda: len(noted()) >= count,
            seconds=seconds,
            evidence=lambda: f"{self.notes()} {evidence()}",
        )
        return noted()

    def xcom(self, task_id: str) -> Any:
        ((value,),) = self.plane.database.rows(
            "SELECT value FROM xcom WHERE run_id = %s AND task_id = %s AND key = 'return_value'", (self.run_id, task_id)
        )
        return json.loads(value) if isinstance(value, str) else value


@pytest.fixture
def recruit(plane: Plane, enlist: Enlist) -> Callable[..., Agent]:
    """A function that makes an agent with the roles worker and triggerer, or one of them."""

    def make(lane: str, *, name: str | None = None, role: str = "worker,triggerer") -> Agent:
        return enlist(
            lane,
            name=name,
            slots=4,
            settings={
                "ISTHMUS_AGENT_ROLE": role,
                "PYTHONPATH": str(plane.dags),
                "AIRFLOW_CONN_PUBLIC_DB": "postgres://db.example.org",
                "AIRFLOW_VAR_SHARED_A": "from the agent",
            },
        )

    return make


def evidence(*agents: Agent) -> Callable[[], str]:
    return lambda: "\n".join(agent.control.tail(30) for agent in agents)


def test_all_kinds_of_triggers(plane: Plane, recruit: Callable[..., Agent]) -> None:
    agent = recruit("triggers").start()
    scene = Scene(plane, "triggers_all")
    wanted = {"push": "success", "reader": "success", "sensor": "success", "broken": "failed", "starting": "success"}
    scene.await_states(wanted, evidence(agent), seconds=90)
    assert scene.xcom("reader") == {"host": "db.example.org", "variable": "from the agent", "pushed": {"n": 7}}
    assert scene.xcom("starting")["mine"] == 1
    assert "fired" in [what for what, _ in scene.notes()], "its folder was a template"
    logs = list((agent.directory / "logs").rglob("*.trigger.*.log"))
    assert any("task_id=reader" in str(path) and "Trigger fired event" in path.read_text() for path in logs), logs


def test_a_task_that_somebody_ends(plane: Plane, recruit: Callable[..., Agent]) -> None:
    agent = recruit("ended").start()
    scene = Scene(plane, "ended_gate")
    scene.await_notes("started")
    plane.database.rows("UPDATE task_instance SET state = 'failed' WHERE run_id = %s RETURNING id", (scene.run_id,))
    scene.await_notes("killed")
    assert scene.states() == {"wait": "failed"}
    assert agent.control.running


def test_the_component_dies_and_then_the_plane_is_away(plane: Plane, recruit: Callable[..., Agent]) -> None:
    agent = recruit("triggers", name="triggers-mortal").start()
    scene = Scene(plane, "triggers_gate")
    (first,) = scene.await_notes("started")
    os.kill(_parent(first), 9)
    second = scene.await_notes("started", 2)[1]
    assert first != second
    plane.api.kill_group()
    scene.open_gate()
    scene.await_notes("fired")
    plane.api.start()
    plane.await_api()
    scene.await_states({"wait": "success"}, evidence(agent))
    assert [what for what, _ in scene.notes()] == ["started", "started", "fired"]


def test_another_agent_takes_over(plane: Plane, recruit: Callable[..., Agent]) -> None:
    worker = recruit("takeover", name="takeover-worker", role="worker").start()
    first = recruit("takeover", name="takeover-first", role="triggerer").start(ready=False)
    scene = Scene(plane, "takeover_gate")
    scene.await_notes("started", seconds=60)
    heir = recruit("takeover", name="takeover-heir", role="triggerer").start(ready=False)
    first.control.kill_group()
    scene.await_notes("started", 2, seconds=60, evidence=evidence(first, heir))
    scene.open_gate()
    scene.await_states({"wait": "success"}, evidence(worker, heir))
    assert [what for what, _ in scene.notes()] == ["started", "started", "fired"], "nobody was told to end the work"


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
