"""The DAG processor's hooks are checked by name before anything is parsed: an Airflow that changed says so at start."""

import json
import os
import subprocess
import sys

#: One process for all: Airflow takes seconds to import. Each change is undone before the next one.
PROGRAM = """
import json, os
from isthmus.runner.__main__ import prepare_environment
prepare_environment(os.environ)
from airflow.dag_processing.manager import DagFileProcessorManager as Loop
from isthmus.runner import compat_dags

def said():
    try:
        compat_dags.check()
    except compat_dags.compat.IncompatibleAirflowError as error:
        return str(error)
    return "fits"

found = {"as it is": said()}
kept = Loop.fetch_callbacks
del Loop.fetch_callbacks
found["a hook is gone"] = said()
Loop.fetch_callbacks = lambda self, session: []
found["a hook wants more"] = said()
Loop.fetch_callbacks = kept
retried = compat_dags.compat.Client.request
compat_dags.compat.Client.request = lambda self: None
found["no retries"] = said()
compat_dags.compat.Client.request = retried
found["as it was"] = said()
print("FOUND" + json.dumps(found))
"""


def test_a_changed_hook_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, env=dict(os.environ), timeout=120
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert lines, done.stderr
    found = json.loads(lines[0].removeprefix("FOUND"))
    assert found["as it is"] == found["as it was"] == "fits"
    assert "has no fetch_callbacks" in found["a hook is gone"]
    assert "fetch_callbacks has changed" in found["a hook wants more"]
    assert "retries in another way" in found["no retries"]
