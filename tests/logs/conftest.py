"""One plane with Airflow's own API server and two Remote Execution APIs, and agents that write logs."""

import itertools
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from faults.harness import ports, waits
from faults.harness.agents import Agent
from faults.harness.planes import BINARIES, Plane
from faults.harness.programs import Program
from isthmus.deployment import provider

HERE = Path(__file__).parent
_numbers = itertools.count(1)


@dataclass
class Airflow:
    """Airflow's REST API, as its UI asks it."""

    client: httpx.Client

    def log(self, run: "Talk", number: int = 0, try_number: int = 1, kind: str = "application/x-ndjson") -> str:
        """The log as the UI gets it; asserts that there is an answer."""
        answer = self.client.get(run.url(number, try_number), headers={"Accept": kind}, timeout=120)
        assert answer.status_code == 200, answer.text
        return answer.text


@dataclass
class Talk:
    """A run of the DAG ``talking``."""

    plane: Plane
    run_id: str
    script: Path
    gate: Path

    def say(self, line: str) -> None:
        with self.script.open("a") as script:
            script.write(line + "\n")

    def end(self) -> None:
        self.gate.touch()
        waits.until(
            "the run ends", lambda: self.state() in {"success", "failed"}, seconds=60, evidence=self.plane.evidence
        )

    def state(self) -> str:
        return str(self.plane.database.rows("SELECT state FROM dag_run WHERE run_id = %s", (self.run_id,))[0][0])

    def running(self) -> bool:
        rows = self.plane.database.rows(
            "SELECT count(*) FROM task_instance WHERE run_id = %s AND state = 'running'", (self.run_id,)
        )
        return rows[0][0] == 2

    def url(self, number: int, try_number: int) -> str:
        return f"/api/v2/dags/talking/dagRuns/{self.run_id}/taskInstances/talk/logs/{try_number}?map_index={number}"

    def file(self, agent: Agent, number: int = 0, try_number: int = 1) -> Path:
        """The file that the agent's task writes."""
        (found,) = agent.directory.glob(
            f"logs/dag_id=talking/run_id={self.run_id}/*/map_index={number}/attempt={try_number}.log"
        )
        return found


@pytest.fixture(scope="package")
def plane() -> Iterator[Plane]:
    plane = Plane(HERE / "dags", settings={"roles": "worker, triggerer", "ship_logs": "True"})
    plane.airflow.environment |= {
        "AIRFLOW__LOGGING__LOGGING_CONFIG_CLASS": provider.LOGGING_CONFIG,
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__API__WORKERS": "1",
    }
    shutil.copytree(HERE / "store", plane.directory / "store-module")
    try:
        plane.start()
        plane.start_airflow()
        yield plane
    finally:
        plane.close()


@pytest.fixture(scope="package")
def second_api(plane: Plane) -> Iterator[int]:
    """The port of another Remote Execution API of the same deployment."""
    port = ports.free_port()
    environment = {
        **plane.environment(),
        "AIRFLOW__ISTHMUS__LISTEN_PORT": str(port),
        "AIRFLOW__ISTHMUS__ADMIN_PORT": str(ports.free_port()),
    }
    program = Program(
        "second-api", [BINARIES / "isthmus", "api"], environment=environment, log=plane.directory / "b.log"
    )
    program.start()
    yield port
    program.stop()


@pytest.fixture(scope="package")
def airflow(plane: Plane) -> Iterator[Airflow]:
    with httpx.Client(base_url=f"http://127.0.0.1:{plane.airflow_port}", timeout=30) as client:
        answer = client.get("/auth/token")
        assert answer.status_code == 201, answer.text
        client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        yield Airflow(client)


@pytest.fixture
def talk(plane: Plane) -> Callable[..., Talk]:
    """Start a run."""

    def start(**conf: Any) -> Talk:
        directory = plane.directory / "runs"
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)
        run_id = f"talk-{next(_numbers)}"
        run = Talk(plane, run_id, directory / f"{run_id}.script", directory / f"{run_id}.gate")
        plane.operate(
            "trigger", dag_id="talking", run_id=run_id, conf={"script": str(run.script), "gate": str(run.gate), **conf}
        )
        return run

    return start


@pytest.fixture(scope="package")
def agent(plane: Plane) -> Iterator[Agent]:
    """An agent with remote logging into a directory."""
    store = plane.directory / "store"
    store.mkdir()
    store.chmod(0o777)
    agent = Agent(
        plane,
        "oslo",
        slots=4,
        settings={
            "AIRFLOW__LOGGING__LOGGING_CONFIG_CLASS": "filestore.LOGGING_CONFIG",
            "PYTHONPATH": str(plane.directory / "store-module"),
            "STORE": str(store),
            "ISTHMUS_AGENT_ROLE": "worker",
        },
    )
    yield agent.start()
    agent.close()


def until_said(airflow: Airflow, run: Talk, text: str, seconds: float = 30, **which: int) -> float:
    """Seconds until the log shows ``text``."""
    began = time.monotonic()
    waits.until(f"the log says {text}", lambda: text in airflow.log(run, **which), seconds=seconds)
    return time.monotonic() - began
