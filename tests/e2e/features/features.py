"""Tasks that use what Airflow offers beside running a function: another user, traces, lineage.

The run's conf has the folder in which tasks leave word and wait for it. The users are Debian's own, and run nothing.
"""

import os
import pwd
import signal
import time
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator, Variable, task
from airflow.sdk.exceptions import AirflowException
from opentelemetry import trace

tracer = trace.get_tracer("features")


class Lasting(BaseOperator):
    """Ends when it is killed, and leaves word of that."""

    def execute(self, context: Any) -> None:
        self.folder = Path(context["dag_run"].conf["folder"])
        (self.folder / f"{self.task_id}.pid").write_text(str(os.getpid()))
        time.sleep(600)

    def on_kill(self) -> None:
        (self.folder / f"{self.task_id}.on_kill").touch()


class Stubborn(Lasting):
    """Ends only when it is forced to; so does what it has started in a session of its own."""

    def execute(self, context: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            os.setsid()
            self.task_id += ".daemon"
        super().execute(context)


OPTIONS: Any = {"schedule": None, "is_paused_upon_creation": False, "default_args": {"queue": "features"}}

with DAG("features", **OPTIONS):

    @task(run_as_user="news")
    def become(*, dag_run: Any) -> dict[str, str]:
        """Tell who this is, and stay until somebody has looked."""
        folder = Path(dag_run.conf["folder"])
        (folder / "become.pid").write_text(str(os.getpid()))
        while not (folder / "gate").exists():
            time.sleep(0.05)
        user = pwd.getpwuid(os.geteuid()).pw_name
        print("said by", user)
        return {"user": user, "home": os.environ["HOME"], "variable": Variable.get("features")}

    @task
    def take(value: dict[str, str]) -> str:
        """Run as every task does, with what the other user has left."""
        assert pwd.getpwuid(os.geteuid()).pw_name == "games"
        return f"{value['user']} in {value['home']} with {value['variable']}"

    @task(run_as_user="uucp")
    def refused() -> None:
        """Be somebody whom nobody let the task user become."""

    @task
    def traced() -> None:
        with tracer.start_as_current_span("mine"):
            pass

    @task
    def broken() -> None:
        raise AirflowException("as planned")

    take(become())
    refused()
    traced()
    broken()

with DAG("features_killed", **OPTIONS):
    Lasting(task_id="lasting", run_as_user="news")
    Stubborn(task_id="stubborn", run_as_user="news")

with DAG("features_orphaned", **OPTIONS):
    Lasting(task_id="lasting", run_as_user="news")
