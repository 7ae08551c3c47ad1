"""A DAG with a canary in every class of bytes: what of them leaves the network is what ``test_inventory`` looks at.

The words are put together where they come into being, so that each of them is in its own class alone: a whole one
stands in this file only where the file itself is meant. canary-source
"""

import os
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Asset, BaseOperator, Connection, Variable, task
from airflow.sdk.exceptions import AirflowException
from planted_trigger import Failing, Planted

LANE = os.environ["INVENTORY_LANE"]
asset = Asset(name=f"inventory_{LANE}", uri=f"file:///inventory/{LANE}")


class Deferring(BaseOperator):
    """Waits for a trigger of the class ``trigger``."""

    def __init__(self, trigger: type[Planted], **options: Any) -> None:
        super().__init__(**options)
        self.trigger = trigger

    def execute(self, context: Any) -> None:
        self.defer(trigger=self.trigger("canary" + "-argument"), method_name="resumed")

    def resumed(self, context: Any, event: Any) -> None:
        assert event == "canary" + "-event"


with DAG(
    f"inventory_{LANE}",
    schedule=None,
    is_paused_upon_creation=False,
    doc_md="canary" + "-doc",
    default_args={"queue": LANE},
):

    @task(do_xcom_push=False)
    def read() -> None:
        """Read everything that a task can read, and keep it."""
        assert Connection.get("warehouse").password == "canary" + "-connection"
        assert Variable.get("canaries") == "canary" + "-variable"
        assert os.environ["CANARY"] == "canary" + "-environment"
        assert Path(os.environ["CANARY_FILE"]).read_text() == "canary" + "-data"

    @task
    def push() -> str:
        return "canary" + "-xcom"

    @task(do_xcom_push=False)
    def take(value: str) -> None:
        assert value == "canary" + "-xcom"

    @task(do_xcom_push=False)
    def render(value: str) -> None:
        assert value == "canary" + "-rendered"

    @task(do_xcom_push=False)
    def log() -> None:
        print("canary" + "-log")

    @task(do_xcom_push=False, outlets=[asset])
    def emit(*, outlet_events: Any) -> None:
        outlet_events[asset].extra = {"seen": "canary" + "-extra"}

    @task(do_xcom_push=False)
    def fail() -> None:
        raise AirflowException("canary" + "-reason")

    read()
    take(push())
    render("{{ 'canary' ~ '-rendered' }}")
    log()
    emit()
    fail()
    Deferring(trigger=Planted, task_id="defer", do_xcom_push=False)
    Deferring(trigger=Failing, task_id="break", do_xcom_push=False)
