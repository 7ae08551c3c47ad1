"""What a task costs on an agent from the fork server's Launch frame on.

A real fork server and real tasks, with a stand-in for the gateway. ``python bench/runner_start.py`` prints, for one
no-op task at a time on an idle agent and for many at 8 slots: launch to the ``run`` request (that is ``start_date``),
launch to Exited, CPU per task of fork server, supervisor and task, and the private memory of a running task.
``--without spares|pidfd|warming|reuse`` leaves a shortcut out, to see what it is worth.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from uuid import UUID

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.fakes import control as controls
from tests.fakes.execution_api import FakeExecutionApi

from isthmus.kit import processes
from isthmus.wire import frames

DAGS = """
from __future__ import annotations
import time
from airflow.sdk import DAG, task

with DAG("noop_serial", schedule=None, catchup=False, max_active_tasks=64, tags=["bench"]) as dag:
    previous = None
    for i in range(20):
        @task(task_id=f"t{i:02d}")
        def noop():
            return None
        current = noop()
        if previous is not None:
            previous >> current
        previous = current

    @task
    def nap():
        time.sleep(30)

    nap()
"""


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of ``values`` lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def line(name: str, values: Sequence[float], unit: str = "ms") -> None:
    """One row: median, 95th percentile, extremes."""
    print(
        f"  {name:<28} p50 {statistics.median(values):8.1f}  p95 {percentile(values, 0.95):8.1f}"
        f"  min {min(values):8.1f}  max {max(values):8.1f} {unit}"
    )


def private_mib(pid: int) -> float:
    """Memory that ``pid`` shares with nobody."""
    kib = 0
    for row in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if row.startswith(("Private_Dirty:", "Private_Clean:")):
            kib += int(row.split()[1])
    return kib / 1024


def cpu_seconds(pid: int) -> float:
    """User and system time of ``pid`` alone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Bench:
    """One fork server and its measurements."""

    def __init__(self, control: controls.Control, api: FakeExecutionApi, log: Path) -> None:
        self.control = control
        self.api = api
        self.log = log

    def launch(self, index: int) -> tuple[float, UUID, UUID]:
        """Launch no-op number ``index``; when, its workload, its task instance."""
        ti, payload = controls.task_payload("noop_serial", f"t{index % 20:02d}", file="dags.py")
        at, workload = self.control.launch(payload)
        return at, workload, ti

    def timings(self, launches: Iterable[tuple[float, UUID, UUID]]) -> tuple[list[float], list[float]]:
        """Launch to run request, and launch to Exited, in ms."""
        to_run, to_exit = [], []
        for at, workload, ti in launches:
            exited_at, exited = self.control.wait_for(frames.Exited, workload, timeout=120)
            assert exited.exit_code == 0, exited
            to_run.append((self.api.wait_for(f"PATCH /task-instances/{ti}/run").at - at) * 1000)
            to_exit.append((exited_at - at) * 1000)
        return to_run, to_exit

    def cpu(self, workloads: Iterable[UUID]) -> None:
        """CPU of supervisors and tasks, from the fork server's log."""
        wanted = {str(workload) for workload in workloads}
        supervisors, tasks = [], []
        for row in self.log.read_text().splitlines():
            if '"Workload ended"' in row:
                event = json.loads(row)
                if event["workload_id"] in wanted:
                    supervisors.append(event["supervisor_cpu_seconds"] * 1000)
                    tasks.append(event["task_cpu_seconds"] * 1000)
        line("CPU supervisor", supervisors)
        line("CPU task", tasks)
        line("CPU supervisor + task", [a + b for a, b in zip(supervisors, tasks, strict=True)])

    def serial(self, count: int, pause: float) -> None:
        """One at a time, as a chain on an idle agent."""
        before = cpu_seconds(self.control.process.pid)
        launches = []
        for index in range(count):
            launches.append(self.launch(index))
            self.control.wait_for(frames.Exited, launches[-1][1])
            time.sleep(pause)
        own = cpu_seconds(self.control.process.pid) - before
        to_run, to_exit = self.timings(launches)
        print(f"serial: {count} tasks")
        line("launch -> run request", to_run)
        line("launch -> exited", to_exit)
        self.cpu(workload for _, workload, _ in launches)
        print(f"  {'CPU fork server':<28} {own * 1000 / count:12.1f} ms per task")

    def fan(self, count: int, slots: int) -> None:
        """Many at once, ``slots`` at a time."""
        before = cpu_seconds(self.control.process.pid)
        started = time.monotonic()
        launches: list[tuple[float, UUID, UUID]] = []
        open_: set[UUID] = set()
        while len(launches) < count or open_:
            while len(launches) < count and len(open_) < slots:
                launches.append(self.launch(len(launches)))
                open_.add(launches[-1][1])
            time.sleep(0.001)
            open_ = {workload for workload in open_ if not self.control.exited(workload)}
        took = time.monotonic() - started
        own = cpu_seconds(self.control.process.pid) - before
        to_run, to_exit = self.timings(launches)
        print(f"fan: {count} tasks, {slots} slots: {count / took:.1f} tasks/s")
        line("launch -> run request", to_run)
        line("launch -> exited", to_exit)
        self.cpu(workload for _, workload, _ in launches)
        print(f"  {'CPU fork server':<28} {own * 1000 / count:12.1f} ms per task")

    def memory(self, count: int) -> None:
        """Private memory of running tasks, and of the idle fork server."""
        workloads = []
        for _ in range(count):
            _, payload = controls.task_payload("noop_serial", "nap", file="dags.py")
            workloads.append(self.control.launch(payload)[1])
        pids = [self.control.wait_for(frames.Launched, workload)[1].pid for workload in workloads]
        supervisors = [private_mib(pid) for pid in pids]
        time.sleep(10)  # what a burst left over has gone by then
        others = [pid for pid in processes.children(self.control.process.pid) if pid not in pids]
        titles = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in others}
        tasks = [private_mib(pid) for pid, title in titles.items() if title.startswith(b"airflow worker")]
        tasks += [private_mib(child) for pid in pids for child in processes.children(pid)]
        spares = [private_mib(pid) for pid, title in titles.items() if title.startswith(b"isthmus")]
        print(f"memory: {count} running tasks")
        line("private, supervisor", supervisors, "MiB")
        line("private, task", tasks, "MiB")
        line("private, spare", spares or [0.0], "MiB")
        print(f"  {'private, supervisor + task':<28} {(sum(supervisors) + sum(tasks)) / count:12.1f} MiB")
        print(f"  {'private, fork server':<28} {private_mib(self.control.process.pid):12.1f} MiB")
        for workload in workloads:
            self.control.send(frames.Kill(workload_id=workload, grace_seconds=0))
        for workload in workloads:
            self.control.wait_for(frames.Exited, workload)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serial", type=int, default=30)
    parser.add_argument("--pause", type=float, default=0.15, help="seconds between serial tasks")
    parser.add_argument("--fan", type=int, default=100)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--memory", type=int, default=4)
    parser.add_argument("--spares", default="2")
    parser.add_argument("--without", action="append", default=[])
    options = parser.parse_args()
    arguments = ["--spares", options.spares, *(f"--without={name}" for name in options.without)]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        bundle = home / "bundle"
        bundle.mkdir()
        (bundle / "dags.py").write_text(DAGS)
        log = home / "forkserver.log"
        started = time.monotonic()
        with (
            FakeExecutionApi(home / "gateway.sock") as api,
            controls.Control(
                environment=controls.environment(home, bundle), gateway=api.socket_path, arguments=arguments, log=log
            ) as control,
        ):
            try:
                at, ready = control.wait_for(frames.Ready, timeout=60)
                print(f"Airflow {ready.airflow}, SDK {ready.task_sdk}, Python {ready.python}; {' '.join(arguments)}")
                print(f"  {'start -> ready':<28} {at - started:12.1f} s")
                time.sleep(0.3)
                bench = Bench(control, api, log)
                bench.timings([bench.launch(0)])  # the first one pays for cold files
                for count, run in (
                    (options.serial, lambda: bench.serial(options.serial, options.pause)),
                    (options.fan, lambda: bench.fan(options.fan, options.slots)),
                    (options.memory, lambda: bench.memory(options.memory)),
                ):
                    if count:
                        run()
            except BaseException:
                print(log.read_text()[-6000:], file=sys.stderr)
                raise


if __name__ == "__main__":
    main()
