"""An agent that was told nothing but where its DAG files are: it parses, runs, waits and shows the logs.

The plane has no DAG file, no DAG processor and no triggerer. The agent's ``role`` is not set.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from faults.harness import waits
from faults.harness.agents import Agent
from faults.harness.planes import Plane
from isthmus.deployment import provider

LANE = "site"
RUN = "by-hand"

#: It waits without a slot, and what it says then is nowhere but in the agent's log file.
DAG = """
from datetime import timedelta

from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync
from airflow.sdk import DAG, task

with DAG("whole", schedule=None, catchup=False, is_paused_upon_creation=False):
    wait = DateTimeSensorAsync(
        task_id="wait", queue="site", target_time="{{ dag_run.run_after + macros.timedelta(seconds=3) }}"
    )

    @task(queue="site")
    def tell():
        print("the tide is out")

    wait >> tell()
"""


def bundle(folder: Path) -> dict[str, str]:
    """Settings of an agent whose DAG files are in ``folder``, and which does everything."""
    one = {
        "name": "site",
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(folder), "refresh_interval": 1},
    }
    return {
        "ISTHMUS_AGENT_ROLE": "",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([one]),
        "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
    }


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    plane = Plane(tmp_path_factory.mktemp("nothing"), settings={"roles": "worker,dag-processor,triggerer"})
    plane.airflow.environment |= {
        "AIRFLOW__LOGGING__LOGGING_CONFIG_CLASS": provider.LOGGING_CONFIG,
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__API__WORKERS": "1",
    }
    try:
        yield plane.start()
    finally:
        plane.close()


@pytest.fixture(scope="module")
def folder(plane: Plane) -> Path:
    """The agent's DAG files: not there yet."""
    return plane.directory / "site-dags"


@pytest.fixture(scope="module")
def agent(plane: Plane, folder: Path) -> Iterator[Agent]:
    agent = Agent(plane, LANE, name="site", settings=bundle(folder))
    yield agent.start()
    agent.close()


def test_an_agent_without_dag_files_says_what_to_do(agent: Agent, folder: Path) -> None:
    waits.until(
        "the folder is missed",
        lambda: "bundle_folder_unreadable" in agent.warnings(),
        seconds=60,
        evidence=agent.evidence,
    )
    said = agent.warnings()["bundle_folder_unreadable"]
    assert str(folder) in said["summary"]
    assert "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST" in said["hint"]
    folder.mkdir()
    waits.until("nothing is wrong", lambda: not agent.warnings(), seconds=30, evidence=agent.evidence)


def test_a_file_at_the_agent_is_all_there_is(plane: Plane, agent: Agent, folder: Path) -> None:
    plane.start_airflow()
    (folder / "whole.py").write_text(DAG)
    waits.until(
        "the DAG is there",
        lambda: plane.database.rows("SELECT is_stale FROM dag WHERE dag_id = 'whole'") == [(False,)],
        seconds=60,
        evidence=agent.evidence,
    )
    plane.operate("trigger", dag_id="whole", run_id=RUN, conf={})
    triggers = set()

    def ended() -> bool:
        rows = plane.database.rows(
            "SELECT task_id, state, trigger_id FROM task_instance WHERE run_id = %s ORDER BY task_id", (RUN,)
        )
        triggers.update(trigger for _, state, trigger in rows if state == "deferred")
        return [(task, state) for task, state, _ in rows] == [("tell", "success"), ("wait", "success")]

    waits.until("the run has succeeded", ended, seconds=90, evidence=lambda: f"{plane.evidence()}\n{agent.evidence()}")
    assert triggers, "it was deferred in between"
    with httpx.Client(base_url=f"http://127.0.0.1:{plane.airflow_port}", timeout=30) as client:
        client.headers["Authorization"] = f"Bearer {client.get('/auth/token').json()['access_token']}"
        address = f"/api/v2/dags/whole/dagRuns/{RUN}/taskInstances/tell/logs/1"
        assert "the tide is out" in client.get(address, headers={"Accept": "application/x-ndjson"}).text
    assert list(plane.dags.iterdir()) == []
    assert plane.database.rows("SELECT DISTINCT job_type FROM job ORDER BY 1") == [
        ("SchedulerJob",),
        ("TriggererJob",),
    ]
    assert plane.database.rows("SELECT DISTINCT hostname FROM job WHERE job_type = 'TriggererJob'") == [
        ("site.triggerer.isthmus.invalid",)
    ]


def test_a_deployment_for_tasks_alone_has_a_worker(plane: Plane, agent: Agent, folder: Path) -> None:
    """The other roles were not asked for by name: they are left out, and nothing is wrong."""
    agent.stop()
    plane.set(roles="worker")
    plane.restart_api()
    worker = Agent(plane, LANE, name="worker", settings=bundle(folder))
    try:
        worker.start()
        left_out = {"dag-processor": "left_out", "triggerer": "left_out"}
        waits.until(
            "two are left out",
            lambda: phases(worker) == {"worker": "ready", **left_out},
            seconds=30,
            evidence=worker.evidence,
        )
        assert worker.health()["status"] == "ok"
        assert {one["severity"] for one in worker.warnings().values()} == {"info"}
        assert [child for child in worker.control.children() if "dag-processor" in " ".join(child.cmdline())] == []
        began = time.monotonic()
        plane.operate("trigger", dag_id="whole", run_id="as-before", conf={})
        waits.until(
            "its first task is deferred, by this worker",
            lambda: (
                plane.database.rows("SELECT state FROM task_instance WHERE run_id = 'as-before' AND task_id = 'wait'")
                == [("deferred",)]
            ),
            seconds=60,
            evidence=worker.evidence,
        )
        assert time.monotonic() - began < 30
    finally:
        worker.close()


def phases(agent: Agent) -> dict[str, str]:
    """How each role is; the first one is the agent itself."""
    health = agent.health()
    return {one["role"]: one["phase"] for one in (health, *health.get("roles", ()))}
