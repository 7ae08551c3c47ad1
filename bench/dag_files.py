"""How long a thousand DAG files take through an agent's DAG processor, beside Airflow's own, and what is sent of them.

``python bench/dag_files.py [--files 1000]``. One real plane (PostgreSQL, scheduler, Remote Execution API) and one
machine. First an agent with the role dag-processor parses the files, and parses them again; then, with the agent gone,
``airflow dag-processor`` parses as many of the same form, beside the database, which no agent is. All settings are
Airflow's defaults but ``min_file_process_interval``, so that the second pass follows the first. Times are from the
start of the program to the last DAG in Airflow's tables, and from the first DAG there to the last.
"""

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from faults.harness.agents import Agent
from faults.harness.planes import BINARIES, Plane
from faults.harness.programs import Program

DAG = """
from datetime import datetime
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, task

with DAG("{dag_id}", schedule="@daily", start_date=datetime(2026, 1, 1), catchup=False, tags=["bench", "{number}"]):
    @task
    def extract():
        return {number}

    @task(retries=2)
    def transform(value):
        return value + 1

    transform(extract()) >> BashOperator(task_id="load", bash_command="echo {{{{ ds }}}} {number}")
"""

#: Airflow parses nothing twice within this; the second pass begins right after it.
INTERVAL_SECONDS = "30"


def write(folder: Path, prefix: str, files: int) -> None:
    """The DAG files of one side."""
    folder.mkdir()
    folder.chmod(0o755)
    for number in range(files):
        path = folder / f"{prefix}_{number:05d}.py"
        path.write_text(DAG.format(dag_id=f"{prefix}_{number:05d}", number=number), encoding="utf-8")


def settings(name: str, folder: Path) -> dict[str, str]:
    """Airflow's settings of either DAG processor."""
    bundle = {
        "name": name,
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(folder)},
    }
    return {
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([bundle]),
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": INTERVAL_SECONDS,
    }


def until_all(plane: Plane, bundle: str, files: int, running: Callable[[], bool]) -> tuple[float, float]:
    """When the first and the last DAG of a bundle were seen (monotonic)."""
    first = 0.0
    end = time.monotonic() + 1200
    while time.monotonic() < end:
        ((count,),) = plane.database.rows("SELECT count(*) FROM serialized_dag s JOIN dag d USING (dag_id) "
                                          "WHERE d.bundle_name = %s", (bundle,))  # fmt: skip
        if count and not first:
            first = time.monotonic()
        if count == files:
            return first, time.monotonic()
        if not running():
            raise SystemExit(f"the DAG processor ended with {count} of {files} files")
        time.sleep(0.1)
    raise SystemExit(f"{bundle}: not all of {files} files within 20 minutes")


def passes(agent: Agent, count: int) -> list[dict[str, int]]:
    """What the agent's DAG processor said at the end of its first passes over all files."""
    end = time.monotonic() + 600
    while time.monotonic() < end:
        lines = [line for line in agent.control.written().splitlines() if "a pass has ended" in line]
        if len(lines) >= count:
            return [dict(re.findall(r'"(sent_bytes|polled_bytes|requests|files)":(\d+)', line)) for line in lines]  # type: ignore[misc]
        time.sleep(0.5)
    raise SystemExit(f"the agent's DAG processor has not made {count} passes")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=1000)
    files = parser.parse_args().files
    with tempfile.TemporaryDirectory() as nothing:
        own = {"roles": "worker,dag-processor", "heartbeat_seconds": "10", "lease_seconds": "60"}
        plane = Plane(Path(nothing), settings=own)
    agent = None
    try:
        plane.start()
        for name in ("remote", "central"):
            write(plane.directory / name, name, files)
        own = {"ISTHMUS_AGENT_ROLE": "dag-processor", **settings("remote", plane.directory / "remote")}
        agent = Agent(plane, "bench", settings=own)
        began = time.monotonic()
        agent.control.start()
        first, last = until_all(plane, "remote", files, lambda: agent.control.running)
        print(f"agent    {files} files: {last - began:6.1f} s from its start, {last - first:6.1f} s from the first DAG")
        told = passes(agent, 2)
        for number, one in enumerate(told[:2], start=1):
            of_files, of_polls = int(one["sent_bytes"]), int(one["polled_bytes"])
            print(f"         pass {number}: {of_files:,} bytes of files, {of_polls:,} bytes of polls")
        share = 100 * int(told[1]["sent_bytes"]) / int(told[0]["sent_bytes"])
        print(f"         the second pass sends {share:.2f} % of the first")
        agent.close()
        central = Program(
            "central",
            [BINARIES / "airflow", "dag-processor"],
            environment=plane.environment() | settings("central", plane.directory / "central"),
            log=plane.directory / "central.log",
        )
        began = time.monotonic()
        central.start()
        first, last = until_all(plane, "central", files, lambda: central.running)
        print(f"airflow  {files} files: {last - began:6.1f} s from its start, {last - first:6.1f} s from the first DAG")
        central.stop()
    finally:
        if agent is not None:
            agent.close()
        plane.close()


if __name__ == "__main__":
    main()
