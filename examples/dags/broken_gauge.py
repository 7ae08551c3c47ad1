"""A DAG that fails on purpose: its one task meets a reading that cannot be true, and says so.

A failure that is seen is as much a part of running tasks elsewhere as a success: its state, its log and its reason have
to be found in Airflow's UI like those of any other task.
"""

from __future__ import annotations

from airflow.sdk import dag, task


@dag(schedule=None, catchup=False, tags=["isthmus", "example"], doc_md=__doc__)
def broken_gauge() -> None:
    @task(retries=0)
    def check_reading() -> None:
        level_cm = -999
        raise ValueError(f"fir-sluice reports {level_cm} cm: the gauge is broken (this is on purpose)")

    check_reading()


broken_gauge()
