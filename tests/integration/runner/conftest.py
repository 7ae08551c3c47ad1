"""One warm fork server for each module, and the stand-in for the gateway that it talks to."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.fakes import control as controls
from tests.fakes.execution_api import Answer, Call, FakeExecutionApi

from isthmus.kit import processes
from isthmus.wire import frames
from isthmus.wire.names import Kind

BUNDLE = Path(__file__).parent / "bundle"


def found_by(program: str, **environment: str) -> dict[str, Any]:
    """What ``program``, in a process of its own, prints as JSON in a line that begins with FOUND."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        timeout=120,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert lines, done.stderr
    return dict(json.loads(lines[0].removeprefix("FOUND")))


class Runner:
    """A fork server under test, its gateway, and the folder where its tasks leave what they learn."""

    def __init__(self, control: controls.Control, api: FakeExecutionApi, home: Path) -> None:
        self.control = control
        self.api = api
        self.home = home
        self.out = home / "out"
        self.log = home / "forkserver.log"

    def launch(self, task_id: str, **more: Any) -> tuple[UUID, UUID]:
        """Launch a task of the test DAG; its workload and its task instance."""
        ti, payload = controls.task_payload("runner", task_id, file="runner_dags.py")
        _, workload = self.control.launch(payload, **more)
        return workload, ti

    def run(self, task_id: str, timeout: float = 30, **more: Any) -> tuple[frames.Exited, UUID]:
        """Run a task of the test DAG to its end."""
        workload, ti = self.launch(task_id, **more)
        return self.exited(workload, timeout), ti

    def run_payload(self, kind: Kind, payload: dict[str, Any]) -> frames.Exited:
        """Run any workload to its end."""
        _, workload = self.control.launch(payload, kind=kind)
        return self.exited(workload)

    def run_connection_test(self, connection: dict[str, Any]) -> dict[str, Any]:
        """Test a connection that the plane knows; the result that is reported. Fields that are not given are None."""
        whole = dict.fromkeys(("host", "login", "password", "schema", "port", "extra")) | connection
        test_id, results = uuid4(), []

        def take(call: Call) -> Answer:
            results.append(call.json)
            return Answer(204)

        self.api.answer(f"GET /connection-tests/{test_id}/connection", lambda call: Answer(200, whole))
        self.api.answer(f"PATCH /connection-tests/{test_id}", take)
        ids = {"connection_test_id": str(test_id), "connection_id": connection["conn_id"]}
        exited = self.run_payload(Kind.CONNECTION_TEST, {"type": "TestConnection", **ids, "timeout": 10})
        assert (exited.exit_code, exited.detail) == (0, "")
        return dict(results[0])

    def exited(self, workload: UUID, timeout: float = 30) -> frames.Exited:
        return self.control.wait_for(frames.Exited, workload, timeout)[1]

    def supervisor(self, workload: UUID) -> int:
        return self.control.wait_for(frames.Launched, workload)[1].pid

    def wait_for_file(self, name: str, timeout: float = 20) -> str:
        """The content of a file that a task writes."""
        path = self.out / name
        wait_until(path.exists, timeout)
        return path.read_text()

    def events(self) -> list[dict[str, Any]]:
        """What the fork server and the supervisors logged."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def task_log(self, ti: UUID) -> list[dict[str, Any]]:
        """The lines of a task's log."""
        (path,) = self.home.glob(f"logs/**/{ti}/attempt=1.log")
        return [json.loads(line) for line in path.read_text().splitlines()]

    def states(self, ti: UUID) -> list[str]:
        """The states that were reported for a task instance."""
        return [call.json["state"] for call in self.api.matching(f"PATCH /task-instances/{ti}/state")]


def wait_until(condition: Callable[[], object], timeout: float = 20) -> None:
    """Poll a process that cannot be waited for."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.01)


def all_gone(*pids: int) -> bool:
    return not any(processes.is_alive(pid) for pid in pids)


Start = Callable[..., Runner]


@pytest.fixture(scope="module")
def start_runner() -> Iterator[Start]:
    """Start fork servers: ``start(arguments=..., environment=..., prepare=..., pass_fds=...)``."""
    with tempfile.TemporaryDirectory(prefix="runner-test-") as folder:
        running: list[tuple[controls.Control, FakeExecutionApi]] = []

        def start(
            arguments: tuple[str, ...] = (),
            environment: dict[str, str] | None = None,
            prepare: Callable[[Path], None] | None = None,
            pass_fds: tuple[int, ...] = (),
            user: processes.User | None = None,
        ) -> Runner:
            home = Path(folder) / str(len(running))
            (home / "out").mkdir(parents=True)
            if prepare is not None:
                prepare(home)
            api = FakeExecutionApi(home / "gateway.sock").__enter__()
            if user is not None:
                Path(folder).chmod(0o755)
                for path in (home, *home.rglob("*")):
                    os.chown(path, user.uid, user.gid)
            full = controls.environment(home, BUNDLE, RUNNER_TEST_OUT=str(home / "out"), **(environment or {}))
            control = controls.Control(
                environment=full,
                gateway=api.socket_path,
                arguments=arguments,
                log=home / "forkserver.log",
                pass_fds=pass_fds,
                user=user,
            ).__enter__()
            running.append((control, api))
            control.wait_for(frames.Ready, timeout=120)
            return Runner(control, api, home)

        yield start
        for control, api in running:
            control.__exit__(None, None, None)
            api.__exit__(None, None, None)


@pytest.fixture(scope="module")
def shared_runner(start_runner: Start) -> Runner:
    return start_runner()


@pytest.fixture
def runner(shared_runner: Runner) -> Runner:
    """The module's fork server, with an empty record."""
    shared_runner.api.reset()
    for path in shared_runner.out.iterdir():
        path.unlink()
    return shared_runner
