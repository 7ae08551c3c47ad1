"""A task that says what a file tells it to say, until another file appears. The run's conf names both."""

import os
import time
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, get_current_context, task

with DAG("talking", schedule=None, catchup=False, is_paused_upon_creation=False):

    @task(queue="oslo", retries=1, retry_delay=timedelta(seconds=0))
    def talk(number: int) -> None:
        context = get_current_context()
        conf, instance = context["dag_run"].conf, context["ti"]
        print(f"number {number} try {instance.try_number} in process {os.getpid()}", flush=True)
        said, script, gate = 0, Path(conf["script"]), Path(conf["gate"])
        over = False
        while not over:
            over = gate.exists()
            lines = script.read_text().splitlines() if script.exists() else []
            for line in lines[said:]:
                print(line, flush=True)
            said = len(lines)
            time.sleep(0.02)
        if conf.get("fails") and instance.try_number == 1:
            raise RuntimeError("the first try fails")

    talk.expand(number=[1, 2])
