"""``make demo`` for real, in a directory of its own with this virtual environment."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from isthmus.cli import demo, places

ROOT = Path(__file__).resolve().parents[2]
KEYS = ["dag_id", "task_id", "map_index", "try_number", "state", "agent", "queued", "started", "ended"]


class Run:
    """A demo over a copy of the examples."""

    def __init__(self, root: Path) -> None:
        shutil.copytree(ROOT / "examples", root / "examples")
        self.root = root
        self.state = root / ".demo"
        self.output = root / "output"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *flags: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "isthmus.cli.demo", "--root", str(self.root), *flags]
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        return self._process

    def text(self) -> str:
        return self.output.read_text()

    def wait_for(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self._process is not None
            assert self._process.poll() is None, self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.1)

    def processes(self) -> list[psutil.Process]:
        """Every process that names this demo's directories in its command line or environment."""
        marks = (str(self.state), str(places.shared_directory(self.state / "agent")))
        found = []
        for process in psutil.process_iter():
            try:
                words = [*process.cmdline(), *process.environ().values()]
                if process.pid != os.getpid() and any(mark in word for word in words for mark in marks):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def clean(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(60)
        subprocess.run(
            [sys.executable, "-m", "isthmus.cli.demo", "--root", str(self.root), "--clean"], check=True, timeout=60
        )


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path)
    yield run
    run.clean()
    assert not run.state.exists()


def _secrets(state: Path) -> list[str]:
    """What the agent must not hold, apart from its own token."""
    values = dict(line.split("=", 1) for line in (state / "plane" / "airflow.env").read_text().splitlines()[1:])
    names = [name for name in values if any(word in name for word in ("SQL_ALCHEMY_CONN", "SECRET", "FERNET"))]
    assert len(names) >= 4
    return [values[name].strip("'") for name in names] + [(state / "plane" / "admin-token").read_text().strip()]


def test_the_examples_run_on_an_agent_that_holds_nothing_but_its_token(run: Run) -> None:
    with ExitStack() as stack:
        for port in (8080, 8443, 8444):  # somebody else has the usual ports
            taken = stack.enter_context(socket.socket())
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                taken.bind(("127.0.0.1", port))
                taken.listen()
            except OSError:
                continue
        process = run.start("--keep")
        run.wait_for(lambda: "everything is left running" in run.text(), 280)

        rows = json.loads((run.state / "summary.json").read_text())
        assert all(list(row) == KEYS for row in rows)
        ended = sorted(
            (row["dag_id"], row["task_id"], row["map_index"], row["try_number"], row["state"]) for row in rows
        )
        assert ended == sorted(
            (dag_id, task_id, index if expected.instances > 1 else -1, expected.try_number, expected.state)
            for dag_id, tasks in demo.EXPECTED.items()
            for task_id, expected in tasks.items()
            for index in range(expected.instances)
        )
        assert {row["agent"] for row in rows} == {"demo-agent"}
        assert all(row["queued"] <= row["started"] <= row["ended"] for row in rows)

        agents = [one for one in run.processes() if "isthmus.cli.main agent" in " ".join(one.cmdline())]
        assert len(agents) == 1
        family = [agents[0], *agents[0].children(recursive=True)]
        environments = [json.dumps(one.environ()) for one in family]
        assert not any(secret in text for secret in _secrets(run.state) for text in environments)
        if os.geteuid() == 0:
            control, tasks = agents[0].uids().real, {one.uids().real for one in family[1:]}
            assert len({0, control, *tasks}) == 3, "root, control process and tasks are three users"
            _assert_apart(run, control, tasks.pop())

        os.killpg(process.pid, signal.SIGINT)  # Ctrl-C
        assert process.wait(60) == 0
    assert run.processes() == []


def _assert_apart(run: Run, control: int, tasks: int) -> None:
    """Neither user reads what is the other's, and neither reads the plane's."""
    agent, plane = run.state / "agent", run.state / "plane"
    if not (agent / "control").exists():  # the folder of the tests is shut to other users
        agent = places.shared_directory(agent)
    for user, forbidden in (
        (tasks, [agent / "control" / "token", plane / "airflow.env", plane / "admin-token"]),
        (control, [agent / "tasks" / "logs", plane / "airflow.env", plane / "admin-token"]),
    ):
        for path in forbidden:
            assert path.exists(), path
            done = subprocess.run(
                ["/usr/bin/test", "-r", str(path)], user=user, group=user, extra_groups=[], check=False
            )
            assert done.returncode != 0, f"user {user} reads {path}"
    assert places


@pytest.mark.parametrize("moment", ["PostgreSQL is ready", "are triggered"])
def test_it_can_be_stopped_at_any_time_and_leaves_nothing(run: Run, moment: str) -> None:
    process = run.start()
    run.wait_for(lambda: moment in run.text(), 200)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert run.processes() == []


def test_two_demos_of_one_checkout_do_not_meet(run: Run) -> None:
    process = run.start()
    run.wait_for(lambda: "PostgreSQL is ready" in run.text(), 60)
    command = [sys.executable, "-m", "isthmus.cli.demo", "--root", str(run.root)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert "directory_busy" in second.stderr
    process.send_signal(signal.SIGTERM)
    process.wait(60)
