"""A chain of no-op tasks: each waits for the one before, so what is measured is how fast one task follows another."""

from __future__ import annotations

from airflow.sdk import DAG, task


def chain(dag_id: str, length: int) -> DAG:
    """A DAG of ``length`` tasks in a row."""
    with DAG(dag_id, schedule=None, catchup=False, max_active_tasks=64) as dag:
        previous = None
        for position in range(length):

            @task(task_id=f"step_{position:02d}")
            def step() -> None:
                return None

            current = step()
            if previous is not None:
                previous >> current
            previous = current
    return dag


chain_20 = chain("chain_20", 20)
chain_10 = chain("chain_10", 10)
