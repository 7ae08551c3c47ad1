"""What is done to a running stack, and what each run yields: plain numbers, nothing of it averaged yet.

A run is triggered over Airflow's REST API and read from ``task_instance`` afterwards; CPU is the difference of two
readings around it. Each run notes how busy the machine was with other things: these can make a run
worthless.
"""

import itertools
import json
import os
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import measuring
from bench.percentiles import percentile
from bench.stacks import SLOTS, Stack

#: Supervisors of the other executors can linger for five seconds after their task; what they use still counts.
SETTLE_SECONDS = 7.0


class RunError(RuntimeError):
    """A run did not end as it should."""


@dataclass(frozen=True, slots=True)
class TaskTimes:
    """When a task instance was queued, started and ended, in seconds since the epoch."""

    queued: float
    started: float
    ended: float


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used between two readings."""

    seconds: float
    worker_cpu_seconds: float
    plane_cpu_seconds: dict[str, float]
    #: Share of one core that went to processes which are not part of the benchmark.
    foreign_cpu_percent: float
    stolen_percent: float
    load_average: float


@contextmanager
def usage(stack: Stack) -> Iterator[list[Usage]]:
    """Collect what is used while the block runs; the list has one entry afterwards."""
    collected: list[Usage] = []
    before, started, machine = measuring.process_table(), time.monotonic(), measuring.machine_time()
    first = (stack.worker_cpu_seconds(before), stack.plane_cpu_seconds(before), time.process_time())
    load = float(Path("/proc/loadavg").read_text().split()[0])
    yield collected
    after, machine_after = measuring.process_table(), measuring.machine_time()
    seconds = time.monotonic() - started
    worker = stack.worker_cpu_seconds(after) - first[0]
    plane = {name: value - first[1][name] for name, value in stack.plane_cpu_seconds(after).items()}
    ours = worker + sum(plane.values()) + time.process_time() - first[2]
    collected.append(
        Usage(
            seconds=seconds,
            worker_cpu_seconds=worker,
            plane_cpu_seconds=plane,
            foreign_cpu_percent=max(0.0, 100 * (machine_after.busy_seconds - machine.busy_seconds - ours) / seconds),
            stolen_percent=100 * (machine_after.stolen_seconds - machine.stolen_seconds) / seconds,
            load_average=load,
        )
    )


class Airflow:
    """The REST API and the database of a running stack."""

    def __init__(self, stack: Stack) -> None:
        """Get a token: the simple auth manager gives one to everybody here."""
        self._stack = stack
        with urllib.request.urlopen(f"{stack.url}/auth/token", timeout=30) as answer:
            self._token = json.load(answer)["access_token"]

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Start a run; returns its id."""
        request = urllib.request.Request(
            f"{self._stack.url}/api/v2/dags/{dag_id}/dagRuns",
            method="POST",
            data=json.dumps({"logical_date": None, "conf": conf or {}}).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            run_id: str = json.load(answer)["dag_run_id"]
            return run_id

    def wait(self, dag_id: str, run_id: str, *, timeout_seconds: float) -> None:
        """Wait until a run has succeeded. Raises RunError."""
        deadline = time.monotonic() + timeout_seconds
        with closing(self._stack.database.connect(self._stack.database_name)) as connection:
            while True:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT state FROM dag_run WHERE dag_id = %s AND run_id = %s", (dag_id, run_id))
                    row = cursor.fetchone()
                if row and row[0] == "success":
                    return
                if row and row[0] == "failed":
                    raise RunError(f"{self._stack.label}: {dag_id} failed")
                if time.monotonic() > deadline:
                    raise RunError(f"{self._stack.label}: {dag_id} took more than {timeout_seconds:.0f} s")
                for component in self._stack.running:
                    component.check()
                time.sleep(0.25)

    def times(self, dag_id: str, run_id: str) -> list[TaskTimes]:
        """The times of a run's tasks in the order of their start. Raises RunError if one was tried twice."""
        query = """
            SELECT extract(epoch FROM queued_dttm)::float8, extract(epoch FROM start_date)::float8,
                   extract(epoch FROM end_date)::float8, try_number, state
            FROM task_instance WHERE dag_id = %s AND run_id = %s ORDER BY start_date
        """
        rows = self._rows(query, (dag_id, run_id))
        if any(state != "success" or tries > 1 for *_, tries, state in rows):
            raise RunError(f"{self._stack.label}: {dag_id} needed retries")
        return [TaskTimes(queued, started, ended) for queued, started, ended, *_ in rows]

    def stages(self, dag_id: str, run_id: str) -> dict[str, float]:
        """Medians of the time from each moment of a task to the next, in ms, as ``leased_to_confirmed``."""
        query = self._stack.stages_query()
        if query is None:
            return {}
        database = self._stack.database
        with closing(database.connect(self._stack.database_name)) as connection, connection.cursor() as cursor:
            cursor.execute(query, (dag_id, run_id))
            names = [column.name for column in cursor.description or ()]
            rows = cursor.fetchall()
        found = {}
        for place, (before, after) in enumerate(itertools.pairwise(names)):
            spans = [(row[place + 1] - row[place]).total_seconds() * 1000 for row in rows if None not in row]
            if spans:
                found[f"{before}_to_{after}"] = percentile(spans, 50)
        return found

    def running_pids(self, dag_id: str, run_id: str) -> list[int]:
        """The pids of the tasks that run."""
        query = "SELECT pid FROM task_instance WHERE dag_id = %s AND run_id = %s AND state = 'running'"
        return [pid for (pid,) in self._rows(query, (dag_id, run_id)) if pid]

    def _rows(self, query: str, parameters: tuple[str, ...]) -> list[tuple[Any, ...]]:
        database = self._stack.database
        with closing(database.connect(self._stack.database_name)) as connection, connection.cursor() as cursor:
            cursor.execute(query, parameters)
            return cursor.fetchall()


def chain(airflow: Airflow, stack: Stack, dag_id: str) -> dict[str, Any]:
    """Run a chain: how long from queued to started, and how many tasks a second in a row."""
    processes = len(stack.worker_pids(measuring.process_table()))
    with usage(stack) as collected:
        run_id = airflow.trigger(dag_id)
        airflow.wait(dag_id, run_id, timeout_seconds=300)
        _settle(stack, processes)
    times = airflow.times(dag_id, run_id)
    dispatch = [task.started - task.queued for task in times]
    span = max(task.ended for task in times) - min(task.queued for task in times)
    return {
        "tasks": len(times),
        "dispatch_p50_s": percentile(dispatch, 50),
        "dispatch_p95_s": percentile(dispatch, 95),
        "dispatch_max_s": max(dispatch),
        "dispatch_first_s": dispatch[0],
        "run_p50_s": percentile([task.ended - task.started for task in times], 50),
        "next_queued_p50_s": percentile([b.queued - a.ended for a, b in itertools.pairwise(times)], 50),
        "stages_ms": airflow.stages(dag_id, run_id),
        "span_s": span,
        "chain_tasks_per_s": len(times) / span,
        **_per_task(collected[0], len(times)),
    }


def fan(airflow: Airflow, stack: Stack, dag_id: str) -> dict[str, Any]:
    """Run mapped tasks: how many a second, and what each costs."""
    processes = len(stack.worker_pids(measuring.process_table()))
    with usage(stack) as collected:
        run_id = airflow.trigger(dag_id)
        airflow.wait(dag_id, run_id, timeout_seconds=600)
        _settle(stack, processes)
    times = airflow.times(dag_id, run_id)
    span = max(task.ended for task in times) - min(task.queued for task in times)
    return {
        "tasks": len(times),
        "span_s": span,
        "throughput_tasks_per_s": len(times) / span,
        "run_p50_s": percentile([task.ended - task.started for task in times], 50),
        "run_p95_s": percentile([task.ended - task.started for task in times], 95),
        **_per_task(collected[0], len(times)),
    }


def held(stack: Stack) -> dict[str, Any]:
    """What the worker side holds while no task runs."""
    memory = _worker_memory(stack)
    return {"idle_rss_mb": memory.resident_mb, "control_process_rss_mb": _control_rss(stack), "worker": asdict(memory)}


def idle(stack: Stack, seconds: float) -> dict[str, Any]:
    """Do nothing: what does it cost, and what does the worker side hold after its tasks?"""
    with usage(stack) as collected:
        time.sleep(seconds)
    used = collected[0]
    return {
        **held(stack),
        "worker_idle_cpu_percent": 100 * used.worker_cpu_seconds / used.seconds,
        "scheduler_idle_cpu_percent": 100 * used.plane_cpu_seconds["scheduler"] / used.seconds,
        "plane_idle_cpu_percent": {
            name: 100 * cpu / used.seconds for name, cpu in sorted(used.plane_cpu_seconds.items())
        },
        "foreign_cpu_percent": used.foreign_cpu_percent,
        "load_average": used.load_average,
    }


def sleepers(airflow: Airflow, stack: Stack) -> dict[str, Any]:
    """Hold eight tasks still: how much memory does each have to itself?

    A task is two processes, its own and the one that supervises it, which all but EdgeExecutor keep for the next task.
    ``task_private_mb`` is what these have that no other process has, divided by eight; spare supervisors count.
    """
    idle_memory = _worker_memory(stack)
    # Where every user can see it: tasks may run as another one.
    gate = Path(tempfile.gettempdir()) / f"isthmus-bench-{os.getpid()}"
    run_id = airflow.trigger("sleepers", {"gate": str(gate)})
    try:
        deadline = time.monotonic() + 90
        while len(pids := airflow.running_pids("sleepers", run_id)) < SLOTS:
            if time.monotonic() > deadline:
                raise RunError(f"{stack.label}: {len(pids)} of {SLOTS} sleepers run")
            time.sleep(0.5)
        time.sleep(2.0)
        table = measuring.process_table()
        tasks = {pid for pid in pids if pid in table}
        if len(tasks) < SLOTS:
            raise RunError(f"{stack.label}: {len(tasks)} of {SLOTS} sleepers were found")
        supervisors = stack.supervisor_pids(table, tasks)
        if len(supervisors) < SLOTS:
            raise RunError(f"{stack.label}: {len(supervisors)} supervisors for {SLOTS} tasks")
        own, supervising, total = (
            measuring.memory(tasks),
            measuring.memory(supervisors),
            measuring.memory(stack.worker_pids(table)),
        )
    finally:
        gate.touch()
    try:
        airflow.wait("sleepers", run_id, timeout_seconds=120)
    finally:
        gate.unlink()
    _settle(stack, idle_memory.processes)
    return {
        "task_private_mb": (own.private_mb + supervising.private_mb) / SLOTS,
        "task_process_private_mb": own.private_mb / SLOTS,
        "supervisor_private_mb": supervising.private_mb / SLOTS,
        "supervisors": len(supervisors),
        "growth_per_task_mb": (total.resident_mb - idle_memory.resident_mb) / SLOTS,
        "worker": asdict(total),
    }


def warm_up(airflow: Airflow) -> None:
    """Run something that is not counted: every slot once or twice."""
    airflow.wait("fan_16", airflow.trigger("fan_16"), timeout_seconds=180)


def _worker_memory(stack: Stack) -> measuring.Memory:
    return measuring.memory(stack.worker_pids(measuring.process_table()))


def _control_rss(stack: Stack) -> float | None:
    pid = stack.control_pid()
    return None if pid is None else measuring.memory([pid]).rss_sum_mb


def _settle(stack: Stack, processes: int) -> None:
    """Wait until no more than ``processes`` are left, so that all that the tasks used is in the reading."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while len(stack.worker_pids(measuring.process_table())) > processes and time.monotonic() < deadline:
        time.sleep(0.25)


def _per_task(used: Usage, tasks: int) -> dict[str, Any]:
    return {
        "worker_cpu_ms_per_task": 1000 * used.worker_cpu_seconds / tasks,
        "plane_cpu_ms_per_task": 1000 * sum(used.plane_cpu_seconds.values()) / tasks,
        "plane_cpu_ms_by_component": {name: 1000 * cpu / tasks for name, cpu in sorted(used.plane_cpu_seconds.items())},
        "foreign_cpu_percent": used.foreign_cpu_percent,
        "stolen_percent": used.stolen_percent,
        "load_average": used.load_average,
    }
