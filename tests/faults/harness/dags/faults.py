"""The DAGs of the fault tests: one per lane, each with its own queue, so that scenarios do not meet.

A task notes its start in the ledger of its run, leaves a process of its own in another session, works until its gate
opens (a file appears) or its time is over, and notes its end. The run's conf says where the ledger is, how long the
work takes, and which gate to wait for.
"""

import json
import os
import subprocess
import time
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, get_current_context, task

#: Lane to number of mapped tasks. Two in most: as many as the lane's agent has slots.
LANES = {
    **dict.fromkeys(
        [
            "idle",
            "before-start",
            "running",
            "abandoned",
            "fork-server",
            "cut-over",
            "cut-through",
            "lost-claim",
            "fence",
            "api-term",
            "api-kill",
            "scheduler",
            "database-stop",
            "database-kill",
            "clock-ahead",
            "clock-behind",
            "link-moved",
            "link-restricted",
            "desk",
            "oslo",
            "bergen",
            "standby",
        ],
        2,
    ),
    "soak": 50,
}


def _born(pid: int) -> int | None:
    """When the process started, in clock ticks since the machine's start; None when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _note(ledger: Path, **record: object) -> None:
    descriptor = os.open(ledger, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, json.dumps(record).encode() + b"\n")
    finally:
        os.close(descriptor)


def _work(index: int) -> None:
    context = get_current_context()
    instance, conf = context["ti"], context["dag_run"].conf or {}
    ledger = Path(conf["ledger"])
    task = {"task_id": instance.task_id, "map_index": instance.map_index}
    former = [
        record["pid"]
        for record in map(json.loads, ledger.read_text().splitlines())
        if record["event"] == "start"
        and {key: record[key] for key in task} == task
        and _born(record["pid"]) == record["born"]
    ]
    task |= {"try_number": instance.try_number}
    mine = {**task, "pid": os.getpid(), "born": _born(os.getpid())}
    _note(ledger, event="start", at=time.time(), former=former, **mine)
    daemon = subprocess.Popen(["sleep", "1000"], start_new_session=True, stdout=subprocess.DEVNULL)
    _note(ledger, event="daemon", at=time.time(), former=[], pid=daemon.pid, born=_born(daemon.pid), **task)
    deadline = time.monotonic() + conf.get("seconds", 0) + 0.01 * index
    gate = Path(conf["gate"]) if conf.get("gate") else None
    while time.monotonic() < deadline and not (gate and gate.exists()):
        time.sleep(0.05)
    _note(ledger, event="end", at=time.time(), former=[], **mine)


for lane, tasks in LANES.items():
    with DAG(f"faults-{lane}", schedule=None, catchup=False, is_paused_upon_creation=False, max_active_tasks=64) as dag:
        work = task(task_id="work", queue=lane, retries=10, retry_delay=timedelta(seconds=0.2))(_work)
        work.expand(index=list(range(tasks)))
    globals()[f"faults_{lane}".replace("-", "_")] = dag
