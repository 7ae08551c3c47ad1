"""Runs every DAG of the catalogue on one side, all at once, and answers what asks for a human."""

import json
import time
import urllib.error
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Final
from urllib.parse import quote

from bench.parity import catalogue, outcomes
from bench.parity.outcomes import RunOutcome
from bench.parity.sides import Side

_ENDED: Final = ("success", "failed")
_THINKING_SECONDS: Final = 12.0


def dag_ids(side: Side) -> list[str]:
    """The DAGs that are there and are compared."""
    found = [one for (one,) in side.rows("SELECT dag_id FROM dag WHERE bundle_name <> 'dags-folder' ORDER BY dag_id")]
    return [one for one in found if not any(fnmatch(one, pattern) for pattern in catalogue.LEFT_OUT)]


def import_errors(side: Side) -> dict[str, str]:
    """What is wrong with files, by their names without ``.py``: in the examples mostly those of their DAGs."""
    rows = side.rows("SELECT filename, stacktrace FROM import_error")
    return {Path(name).stem: " ".join(said.split()) for name, said in rows}


def run_all(
    side: Side, dags: list[str], run_id: str, logical_date: datetime, *, timeout_seconds: float
) -> dict[str, RunOutcome]:
    """Trigger a run of each DAG, wait for their ends and collect what they left behind."""
    refused: dict[str, RunOutcome] = {}
    for path in catalogue.FILES:
        path.touch()
    try:
        for dag_id in dags:
            side.call("PATCH", f"/api/v2/dags/{quote(dag_id)}", {"is_paused": False})
            body = {"dag_run_id": run_id, "logical_date": logical_date.isoformat(), "conf": {}}
            try:
                side.call("POST", f"/api/v2/dags/{quote(dag_id)}/dagRuns", body)
            except urllib.error.HTTPError as error:
                if error.code != 400:
                    raise
                # Such as one with parameters that have no default: Airflow's answer is the outcome.
                refused[dag_id] = RunOutcome(f"refused: {json.loads(error.read())['detail']}")
        _wait(side, run_id, len(dags) - len(refused), timeout_seconds)
    finally:
        for path in catalogue.FILES:
            path.unlink(missing_ok=True)
    return {dag_id: refused.get(dag_id) or outcomes.collect(side, dag_id, run_id) for dag_id in dags}


def _wait(side: Side, run_id: str, count: int, timeout_seconds: float) -> None:
    deadline = time.monotonic() + timeout_seconds
    ended = "SELECT count(*) FROM dag_run WHERE run_id = %s AND state = ANY(%s)"
    asked: dict[str, float] = {}
    while side.rows(ended, run_id, list(_ENDED))[0][0] < count and time.monotonic() < deadline:
        for component in side.running:
            component.check()
        _answer(side, run_id, asked)
        time.sleep(1.0)


def _answer(side: Side, run_id: str, asked: dict[str, float]) -> None:
    """Do what the human in the loop would, and not faster: ``asked`` has since when each question is there."""
    found = side.call("GET", f"/api/v2/dags/~/dagRuns/{run_id}/hitlDetails?limit=100")
    for detail in found["hitl_details"]:
        task = detail["task_instance"]
        if detail.get("response_received") or task["state"] not in ("deferred", "awaiting_input"):
            continue
        # LocalExecutor still reports the end of the process that asked; who answers before fails the task.
        if time.monotonic() - asked.setdefault(task["id"], time.monotonic()) < _THINKING_SECONDS:
            continue
        answer = catalogue.ANSWERS.get(task["task_id"], {"chosen_options": detail["options"][:1]})
        where = f"/api/v2/dags/{task['dag_id']}/dagRuns/{run_id}/taskInstances/{task['task_id']}/{task['map_index']}"
        try:
            side.call("PATCH", f"{where}/hitlDetails", answer)
        except urllib.error.HTTPError as error:
            if error.code != 409:  # it has answered itself, by its default
                raise
