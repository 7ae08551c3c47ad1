"""Mapped no-op tasks that may all run at once: what is measured is how many get through eight slots in a second."""

from __future__ import annotations

from airflow.sdk import DAG, task


def fan(dag_id: str, width: int) -> DAG:
    """A DAG of one task mapped ``width`` times."""
    with DAG(dag_id, schedule=None, catchup=False, max_active_tasks=64) as dag:

        @task
        def no_op(number: int) -> None:
            return None

        no_op.expand(number=list(range(width)))
    return dag


fan_200 = fan("fan_200", 200)
fan_64 = fan("fan_64", 64)
fan_16 = fan("fan_16", 16)  # the warm-up
