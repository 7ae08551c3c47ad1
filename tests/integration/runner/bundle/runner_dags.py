"""Tasks that behave and tasks that do not; what they learn they write below the folder in ``RUNNER_TEST_OUT``."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from pathlib import Path

from airflow.sdk import DAG, BaseOperator, Variable, plugins_manager, task

OUT = Path(os.environ["RUNNER_TEST_OUT"])


def write(name: str, text: str) -> None:
    (OUT / f".{name}").write_text(text)
    (OUT / f".{name}").rename(OUT / name)


def daemonize(name: str) -> None:
    """Leave a daemon behind: its own session, deaf to SIGTERM, the task's standard output still open."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            write(name, str(os.getpid()))
            time.sleep(600)
        os._exit(0)
    os.wait()
    while not (OUT / name).exists():
        time.sleep(0.01)


def target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:  # the descriptor that listed the folder
        return ""


class Stubborn(BaseOperator):
    """Runs until it is killed, and says whether it was asked to stop."""

    def execute(self, context):
        daemonize(f"daemon-{self.task_id}")
        write(f"pid-{self.task_id}", str(os.getpid()))
        time.sleep(600)

    def on_kill(self):
        write(f"on_kill-{self.task_id}", "called")


with DAG("runner", schedule=None, catchup=False):

    @task
    def noop():
        return None

    @task
    def answer(day):
        return {"day": day}

    answer("{{ ds }}")

    @task
    def fail():
        raise ValueError("on purpose")

    @task
    def exit_three():
        os._exit(3)

    @task
    def kill_itself():
        os.kill(os.getpid(), signal.SIGKILL)

    @task
    def flood():
        for number in range(20_000):
            print(f"line {number} " + "x" * 80)
        sys.stderr.write("the end\n")

    @task
    def report():
        write(
            "report",
            json.dumps(
                {
                    "environment": dict(os.environ),
                    "parent": os.getppid(),
                    "leads_group": os.getpgid(0) == os.getpid(),
                    "fds": [target(link) for link in Path("/proc/self/fd").iterdir()],
                    "oom_score_adj": int(Path("/proc/self/oom_score_adj").read_text()),
                    "parents_oom_score_adj": int(Path(f"/proc/{os.getppid()}/oom_score_adj").read_text()),
                    "sys_path": sys.path,
                    "modules": [name for name in sys.modules if "rehearsal" in name],
                }
            ),
        )

    @task
    def plugins():
        found = plugins_manager._get_plugins()[0]
        # What the fork server had when it froze, the garbage collector does not see any more.
        inherited = all(one is not found for one in gc.get_objects())
        write("plugins", json.dumps({"names": [one.name for one in found], "inherited": inherited}))

    @task
    def leave_daemon():
        daemonize("daemon-left")

    @task
    def nap():
        write(f"nap-{os.getpid()}", "")
        time.sleep(600)

    @task(executor="an-executor-that-only-the-plane-knows")
    def elsewhere():
        return None

    @task
    def read_variable():
        write("variable", Variable.get("greeting"))

    noop() >> fail() >> exit_three() >> kill_itself() >> flood() >> report() >> leave_daemon() >> nap()
    elsewhere() >> read_variable() >> plugins()
    for number in range(6):
        Stubborn(task_id=f"stubborn_{number}")
