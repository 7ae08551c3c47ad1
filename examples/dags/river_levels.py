"""A small real pipeline: how high was the river, gauge by gauge, and who has to be warned?

It reads ``examples/data/river_gauges.csv`` where it runs, on the agent: the file never leaves the agent's network,
only what a task returns does. It shows XComs between tasks, a fan-out by dynamic task mapping (one task per gauge), a
deferred task (while it waits no slot is taken, and a trigger on an agent watches the clock), and a task that fails at
its first try and succeeds when it is retried.
"""

from __future__ import annotations

import csv
from datetime import timedelta
from pathlib import Path
from typing import TypedDict

from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync
from airflow.sdk import dag, get_current_context, task

READINGS = Path(__file__).resolve().parent.parent / "data" / "river_gauges.csv"


class Summary(TypedDict):
    gauge: str
    readings: int
    highest_cm: int
    highest_at: str
    mean_cm: float
    hours_above_flood_mark: int


def read(gauge: str | None = None) -> list[dict[str, str]]:
    with READINGS.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if gauge in (None, row["gauge"])]


@dag(schedule=None, catchup=False, tags=["isthmus", "example"], doc_md=__doc__)
def river_levels() -> None:
    @task
    def list_gauges() -> list[str]:
        return sorted({row["gauge"] for row in read()})

    @task
    def summarise(gauge: str) -> Summary:
        rows = read(gauge)
        highest = max(rows, key=lambda row: int(row["level_cm"]))
        levels = [int(row["level_cm"]) for row in rows]
        return Summary(
            gauge=gauge,
            readings=len(rows),
            highest_cm=max(levels),
            highest_at=highest["measured_at"],
            mean_cm=round(sum(levels) / len(levels), 1),
            hours_above_flood_mark=sum(int(row["level_cm"]) >= int(row["flood_mark_cm"]) for row in rows),
        )

    @task
    def compare(summaries: list[Summary]) -> list[Summary]:
        """The gauges that rose above their flood mark, the longest first."""
        flooded = [summary for summary in summaries if summary["hours_above_flood_mark"]]
        return sorted(flooded, key=lambda summary: -summary["hours_above_flood_mark"])

    @task(retries=1, retry_delay=timedelta(seconds=1))
    def send_bulletin(flooded: list[Summary]) -> str:
        """Fails at the first try, as a mail server does that greylists; the retry gets through."""
        try_number = get_current_context()["ti"].try_number
        if try_number == 1:
            raise ConnectionError("the mail server asks to try again later (this is on purpose)")
        lines = [
            f"{summary['gauge']}: {summary['hours_above_flood_mark']} h above the flood mark, "
            f"highest {summary['highest_cm']} cm at {summary['highest_at']}"
            for summary in flooded
        ]
        bulletin = "\n".join(lines) or "no gauge above its flood mark"
        print(bulletin)  # into the task's log
        return bulletin

    flooded = compare(summarise.expand(gauge=list_gauges()))
    await_editor = DateTimeSensorAsync(
        task_id="await_editor", target_time="{{ dag_run.run_after + macros.timedelta(seconds=5) }}"
    )
    await_editor >> send_bulletin(flooded)


river_levels()
