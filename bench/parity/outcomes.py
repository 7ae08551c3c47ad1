"""What a run left behind: states, XComs and log lines, read the way that people and DAGs would."""

import collections
import json
import re
import urllib.error
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, urlencode

from bench.parity.sides import Side

#: Loggers of the machinery around a task, which is not the same machinery on both sides.
_MACHINERY: Final = ("supervisor", "isthmus", "airflow.sdk.execution_time", "airflow.executors", "httpx", "task_runner")
_ORIGIN: Final = re.compile(r"https?://[\w.-]+:\d+")
#: Which bundles a process has is its configuration's, and said whenever a task imports its DAG.
_BUNDLES: Final = ("DAG bundles loaded:", "Filling up the DagBag from")
_NUMBERS: Final = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8}-[0-9a-f-]{27}|\d+(\.\d+)?")
_PATHS: Final = re.compile(r"(/[\w.@+=:-]+){2,}/?")


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """How one task instance ended. ``xcoms`` are JSON texts by key; ``lines`` counts its own log lines."""

    state: str
    try_number: int
    xcoms: Mapping[str, str]
    lines: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a run ended; tasks by name, with the index of a mapped one."""

    state: str
    tasks: Mapping[str, TaskOutcome] = field(default_factory=dict)


def collect(side: Side, dag_id: str, run_id: str) -> RunOutcome:
    """The outcome of a run that has ended, or that has not and never will."""
    state = side.rows("SELECT state FROM dag_run WHERE dag_id = %s AND run_id = %s", dag_id, run_id)
    xcoms: dict[tuple[str, int], dict[str, str]] = collections.defaultdict(dict)
    query = "SELECT task_id, map_index, key, value FROM xcom WHERE dag_id = %s AND run_id = %s"
    for task_id, index, key, value in side.rows(query, dag_id, run_id):
        xcoms[task_id, index][key] = _normalised(json.dumps(value, sort_keys=True))
    tasks = {}
    query = "SELECT task_id, map_index, state, try_number FROM task_instance WHERE dag_id = %s AND run_id = %s"
    for task_id, index, task_state, tries in side.rows(query, dag_id, run_id):
        lines = collections.Counter(_lines(side, (dag_id, run_id, task_id), index, tries)) if tries else {}
        name = task_id if index < 0 else f"{task_id}[{index}]"
        tasks[name] = TaskOutcome(task_state or "none", tries, xcoms[task_id, index], lines)
    return RunOutcome(state[0][0] if state else "never began", tasks)


def _lines(side: Side, about: tuple[str, str, str], index: int, tries: int) -> list[str]:
    """The log of the last try as Airflow's UI gets it: what the task said, not what was said about it."""
    dag_id, run_id, task_id = (quote(one, safe="") for one in about)
    query = urlencode({"map_index": index, "full_content": "true"})
    path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{tries}?{query}"
    try:
        content = side.call("GET", path)["content"]
    except urllib.error.HTTPError as error:
        return [f"the log cannot be read: {error.code}"]
    found = []
    for line in content:
        one = line if isinstance(line, dict) else {"event": line}
        said, logger = str(one.get("event", "")), str(one.get("logger", ""))
        if logger and not logger.startswith(_MACHINERY) and said and not _is_aside(said):
            found.append(f"{one.get('level', '')} {logger}: {_normalised(said)}")
    return found


def _is_aside(said: str) -> bool:
    """Whether the line is about the machine: groups of lines, bundles, the shell's set-up of whoever runs it."""
    return said.startswith(("::", *_BUNDLES)) or ".bashrc: line" in said


def _normalised(said: str) -> str:
    """Without what differs by the machine, the moment and the place."""
    return _NUMBERS.sub("#", _PATHS.sub("/…", _ORIGIN.sub("", said)))
