"""Eight tasks that hold still while their memory is measured, until the file that the run's conf names exists."""

from __future__ import annotations

import time
from pathlib import Path

from airflow.sdk import DAG, task

with DAG("sleepers", schedule=None, catchup=False, max_active_tasks=64) as dag:

    @task
    def sleep(number: int, dag_run=None) -> None:
        """Wait for the gate, at most two minutes."""
        gate = Path(dag_run.conf["gate"])
        deadline = time.monotonic() + 120
        while not gate.exists() and time.monotonic() < deadline:
            time.sleep(0.5)

    sleep.expand(number=list(range(8)))
