"""A task that the fork server runs itself, once, before it freezes.

Airflow fills many caches on its way through a task: lazily imported modules, compiled expressions, ABC caches,
configuration look-ups, validators, templates. In a fork they are filled and thrown away with each task, and every one
of them copies pages that were shared. Running one task in the fork server itself leaves them filled for all.

It is the real task runner on a DAG of ours in a temporary folder. It talks to a socket on which all answers wait
already, and is kept from listeners, plugins, metrics, traces and logs (``compat.run_task_here``). What it does to the
process is undone here. A rehearsal that fails costs speed and nothing else.
"""

import contextvars
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import structlog

from isthmus.runner import compat

log = structlog.get_logger(logger_name="isthmus.rehearsing")

_DAG_ID: Final = "isthmus_rehearsal"
_FILE: Final = "isthmus_rehearsal.py"
_BUNDLE: Final = "isthmus-rehearsal"
_NOW: Final = "2026-01-01T00:00:00Z"

#: One task that renders a template and returns a value, among a few that are only parsed.
_DAG: Final = f'''
from __future__ import annotations
from datetime import timedelta
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG, task

with DAG("{_DAG_ID}", schedule=None, catchup=False, tags=["isthmus"], default_args={{"retries": 1}}) as dag:
    @task
    def played(day):
        return {{"day": day}}

    @task
    def mapped(x):
        return x

    last = played("{{{{ ds }}}}")
    last >> EmptyOperator(task_id="empty") >> BashOperator(task_id="bash", bash_command="true")
    last >> PythonOperator(task_id="python", python_callable=print, execution_timeout=timedelta(minutes=1))
    mapped.expand(x=[1, 2])
'''


def rehearse() -> None:
    """Run the rehearsal."""
    try:
        with tempfile.TemporaryDirectory(prefix="isthmus-rehearsal-") as folder, _process_restored():
            bundle = Path(folder)
            (bundle / _FILE).write_text(_DAG)
            with _waiting_at_stdin(compat.startup_frames(_payload(), _context(), answers=20)):
                # In a context of its own: the task binds its ids to every later log line.
                contextvars.copy_context().run(compat.run_task_here, bundle)
    except (Exception, SystemExit) as error:
        log.warning("The rehearsal failed; tasks will start slower", error=f"{type(error).__name__}: {error}")


def _payload() -> dict[str, Any]:
    return {
        "type": "ExecuteTask",
        "ti": {
            "id": str(uuid4()),
            "dag_version_id": str(uuid4()),
            "task_id": "played",
            "dag_id": _DAG_ID,
            "run_id": "rehearsal",
            "try_number": 1,
            "map_index": -1,
            "pool_slots": 1,
            "queue": "default",
            "priority_weight": 1,
        },
        "dag_rel_path": _FILE,
        "bundle_info": {"name": _BUNDLE, "version": None},
        "log_path": None,
    }


def _context() -> dict[str, Any]:
    return {
        "dag_run": {
            "dag_id": _DAG_ID,
            "run_id": "rehearsal",
            "logical_date": _NOW,
            "data_interval_start": _NOW,
            "data_interval_end": _NOW,
            "run_after": _NOW,
            "start_date": _NOW,
            "end_date": None,
            "run_type": "manual",
            "state": "running",
            "conf": {},
            "consumed_asset_events": [],
            "partition_key": None,
        },
        "max_tries": 1,
        "should_retry": False,
    }


@contextmanager
def _waiting_at_stdin(data: bytes) -> Iterator[None]:
    """A socket at descriptor 0, where a task expects its supervisor, with ``data`` to be read."""
    ours, theirs = socket.socketpair()
    stdin = os.dup(0)
    try:
        ours.sendall(data)
        os.dup2(theirs.fileno(), 0)
        yield
    finally:
        os.dup2(stdin, 0)
        os.close(stdin)
        ours.close()
        theirs.close()


@contextmanager
def _process_restored() -> Iterator[None]:
    """Undo what a task does to its process."""
    environment = dict(os.environ)
    path = sys.path[:]
    modules = set(sys.modules)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if _FILE.removesuffix(".py") in name:
                del sys.modules[name]
        signal.signal(signal.SIGTERM, handler)
