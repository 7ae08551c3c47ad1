"""A task that waits at a triggerer for a moment, and says something before and after it."""

from datetime import timedelta
from typing import Any

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import DAG, BaseOperator


class Pause(BaseOperator):
    """Defers once."""

    def execute(self, context: Any) -> None:
        print("before the pause", flush=True)
        self.defer(trigger=TimeDeltaTrigger(timedelta(seconds=1)), method_name="resumed")

    def resumed(self, context: Any, event: Any) -> None:
        print("after the pause", flush=True)


with DAG("pausing", schedule=None, catchup=False, is_paused_upon_creation=False):
    Pause(task_id="pause", queue="oslo")
