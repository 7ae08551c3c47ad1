"""The control process's side of a real fork server, for tests and benchmarks that have no agent."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID, uuid4

from isthmus.kit import processes
from isthmus.wire import frames
from isthmus.wire.names import Kind

BUNDLE = "bundle"


def environment(home: Path, bundle: Path, **extra: str) -> dict[str, str]:
    """A clean environment as the agent gives it to its fork server: no database, no Airflow secret."""
    bundles = [
        {
            "name": BUNDLE,
            "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
            "kwargs": {"path": str(bundle), "refresh_interval": 0},
        }
    ]
    inherited = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG", "TZ") if name in os.environ}
    return {
        **inherited,
        "HOME": str(home),
        "USER": "worker",
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
        **extra,
    }


def task_payload(
    dag_id: str, task_id: str, *, file: str, map_index: int = -1, queue: str = "default"
) -> tuple[UUID, dict[str, Any]]:
    """Airflow's ``ExecuteTask`` without its token, and the id of its task instance."""
    ti_id = uuid4()
    run_id = "manual__2026-01-01T00:00:00+00:00"
    return ti_id, {
        "type": "ExecuteTask",
        "ti": {
            "id": str(ti_id),
            "dag_version_id": str(uuid4()),
            "task_id": task_id,
            "dag_id": dag_id,
            "run_id": run_id,
            "try_number": 1,
            "map_index": map_index,
            "pool_slots": 1,
            "queue": queue,
            "priority_weight": 1,
            "parent_context_carrier": None,
            "context_carrier": {},
        },
        "dag_rel_path": file,
        "bundle_info": {"name": BUNDLE, "version": None},
        "log_path": f"dag_id={dag_id}/run_id={run_id}/task_id={task_id}/{ti_id}/attempt=1.log",
        "sentry_integration": "",
    }


class Control:
    """Starts a fork server and talks to it; a thread collects what it says, with the time of each frame."""

    def __init__(
        self,
        *,
        environment: dict[str, str],
        gateway: Path,
        arguments: Iterable[str] = (),
        log: Path | None = None,
        pass_fds: Iterable[int] = (),
        user: processes.User | None = None,
    ) -> None:
        self._environment = environment
        self._gateway = gateway
        self._arguments = tuple(arguments)
        self._log = log
        self._pass_fds = tuple(pass_fds)
        self._user = user
        self._arrived = threading.Condition()
        self.frames: list[tuple[float, frames.Frame]] = []
        self.closed = False

    def __enter__(self) -> Self:
        self.socket, theirs = socket.socketpair()
        stderr = self._log.open("ab") if self._log else None
        self.process: subprocess.Popen[bytes] = processes.spawn(
            [sys.executable, "-m", "isthmus.runner", frames.SOCKET_OPTION, str(theirs.fileno()), *self._arguments],
            environment=self._environment,
            user=self._user,
            pass_fds=(theirs.fileno(), *self._pass_fds),
            stderr=stderr.fileno() if stderr else None,
        )
        if stderr:
            stderr.close()
        theirs.close()
        self._thread = threading.Thread(target=self._collect, name="control", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        self._thread.join(10)
        self.socket.close()

    def _collect(self) -> None:
        reader = frames.FrameReader()
        while True:
            try:
                data = self.socket.recv(65536)
            except OSError:
                data = b""
            now = time.monotonic()
            with self._arrived:
                self.frames += [(now, frame) for frame in reader.feed(data)]
                self.closed = not data
                self._arrived.notify_all()
            if not data:
                return

    def wait_for(
        self,
        kind: type[frames.Ready | frames.Launched | frames.Exited],
        workload_id: UUID | None = None,
        timeout: float = 20.0,
    ) -> tuple[float, Any]:
        """The first frame of this kind (for this workload), and when it came."""
        deadline = time.monotonic() + timeout
        with self._arrived:
            while True:
                for at, frame in self.frames:
                    if isinstance(frame, kind) and (
                        isinstance(frame, frames.Ready) or workload_id in (None, frame.workload_id)
                    ):
                        return at, frame
                if not self._arrived.wait(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError(f"no {kind.__name__} for {workload_id} within {timeout} s")
                if self.closed:
                    said = self._log.read_text()[-3000:] if self._log else ""
                    raise ConnectionError(f"no {kind.__name__} for {workload_id}: the fork server is gone. {said}")

    def exited(self, workload_id: UUID) -> bool:
        """Whether ``Exited`` came."""
        with self._arrived:
            return any(
                isinstance(frame, frames.Exited) and frame.workload_id == workload_id for _, frame in self.frames
            )

    def send(self, frame: frames.Frame) -> float:
        """Send ``frame``; returns when."""
        data = frames.encode(frame)
        at = time.monotonic()
        self.socket.sendall(data)
        return at

    def launch(
        self, payload: dict[str, Any], *, kind: Kind = Kind.TASK, workload_id: UUID | None = None, token: str = ""
    ) -> tuple[float, UUID]:
        """Launch a workload; returns when, and its id."""
        launch = frames.Launch(
            workload_id=workload_id or uuid4(),
            kind=kind,
            payload=payload,
            gateway_socket=str(self._gateway),
            gateway_token=token or f"gateway-token-{uuid4()}",
        )
        return self.send(launch), launch.workload_id


def callback_payload(path: str, **kwargs: object) -> dict[str, Any]:
    """A callback of the test bundle, as the plane hands it over."""
    callback_id = str(uuid4())
    return {
        "type": "ExecuteCallback",
        "callback": {
            "id": callback_id,
            "fetch_method": "import_path",
            "data": {"path": path, "kwargs": kwargs, "dag_id": "runner"},
        },
        "dag_rel_path": "runner_dags.py",
        "bundle_info": {"name": BUNDLE, "version": None},
        "log_path": f"executor_callbacks/runner/{callback_id}",
    }
