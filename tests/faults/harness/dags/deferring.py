"""DAGs whose tasks wait for triggers. The run's conf has the folder in which gates open and notes are kept."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.sensors.time_delta import TimeDeltaSensor
from airflow.sdk import DAG, BaseOperator, task
from airflow.triggers.base import StartTriggerArgs
from waiting_for import Broken, Gate, Reader


class Waiting(BaseOperator):
    """Defers for the trigger that ``what`` names."""

    def __init__(self, what: str, **options: Any) -> None:
        super().__init__(**options)
        self.what = what

    def execute(self, context: Any) -> None:
        run = context["dag_run"]
        trigger = {
            "gate": lambda: Gate(run.conf["folder"]),
            "broken": lambda: Broken(run.conf["folder"]),
            "reader": lambda: Reader(run.dag_id, run.run_id),
        }[self.what]()
        self.defer(trigger=trigger, method_name="resumed")

    def resumed(self, context: Any, event: Any) -> Any:
        with (Path(context["dag_run"].conf["folder"]) / "resumed").open("a") as record:
            record.write(f"{context['ti'].try_number}\n")
        return event


class Starting(BaseOperator):
    """Starts from its trigger: no worker is asked before it has fired."""

    start_from_trigger = True
    start_trigger_args = StartTriggerArgs(
        trigger_cls="waiting_for.Gate",
        trigger_kwargs={"folder": "/nonexistent", "gate": "../"},
        next_method="resumed",
        next_kwargs={"mine": 1},
        timeout=None,
    )

    def __init__(self, folder: str, **options: Any) -> None:
        super().__init__(**options)
        self.folder = folder
        self.start_trigger_args = StartTriggerArgs(
            trigger_cls="waiting_for.Gate",
            trigger_kwargs={"folder": folder, "gate": "../."},
            next_method="resumed",
            next_kwargs={"mine": 1},
            timeout=None,
        )

    template_fields = ("folder",)

    def resumed(self, context: Any, event: Any, mine: int) -> Any:
        return {**event, "mine": mine}


for lane in ("triggers", "takeover", "ended", "many", "mortal"):
    with DAG(f"{lane}_gate", schedule=None, is_paused_upon_creation=False, default_args={"queue": lane}):
        Waiting(task_id="wait", what="gate")

with DAG("triggers_all", schedule=None, is_paused_upon_creation=False, default_args={"queue": "triggers"}):

    @task
    def push() -> dict[str, int]:
        return {"n": 7}

    push() >> Waiting(task_id="reader", what="reader")
    TimeDeltaSensor(task_id="sensor", delta=timedelta(seconds=0), deferrable=True)
    Waiting(task_id="broken", what="broken")
    Starting(task_id="starting", folder="{{ dag_run.conf['folder'] }}")
