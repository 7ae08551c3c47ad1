"""``make demo`` for real, in a directory of its own with this virtual environment."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from isthmus.cli import places
from isthmus.cli.demo import examples, story
from isthmus.lab import removing

ROOT = Path(__file__).resolve().parents[2]
STEPS = [
    *("networks", "plane", "agents", "public_path", "publish", "endpoint", "approve", "peering", "own_endpoint"),
    *("verify", "restrict", "reject", "let_in_again"),
]
#: Run → which paths its tasks may have come by, as they are shown.
PATHS = {
    "public": r"public 203\.0\.113\.\d+",
    "east_private": r"public 203\.0\.113\.\d+|link \d+",
    **dict.fromkeys(("peered", "restricted", "rejected", "let_in_again"), r"link \d+"),
}
#: The whole story needs two minutes on a busy machine; the first time it prepares a database as well.
SECONDS = 420


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
        names = ("agent", *(f"agent-{name}" for name in story.NETWORKS))
        marks = (str(self.state), *(str(places.shared_directory(self.state / name)) for name in names))
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


@pytest.mark.timeout(SECONDS + 120)
def test_the_whole_story(run: Run) -> None:
    with ExitStack() as stack:
        for port in (8080, 8443, 8444, 8446):  # somebody else has the usual ports
            taken = stack.enter_context(socket.socket())
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                taken.bind(("127.0.0.1", port))
                taken.listen()
            except OSError:
                continue
        process = run.start("--keep")
        run.wait_for(lambda: "everything is left running" in run.text(), SECONDS)

        summary = json.loads((run.state / "summary.json").read_text())
        assert (summary["has_link"], summary["wrong"]) == (True, [])
        assert [step["name"] for step in summary["steps"]] == STEPS
        assert all(step["seconds"] > 0 for step in summary["steps"])
        facts = {step["name"]: step["facts"] for step in summary["steps"]}
        assert facts["public_path"]["seconds_to_read_a_log"] < 5
        assert facts["approve"]["seconds_from_approval_to_healthy_on_the_link"] < 60
        _assert_tasks(summary["tasks"])
        _assert_reached_from_the_desk(run)

        agents = [one for one in run.processes() if "isthmus.cli.main agent" in " ".join(one.cmdline())]
        assert len(agents) == 2
        for agent in agents:
            family = [agent, *agent.children(recursive=True)]
            environments = [json.dumps(one.environ()) for one in family]
            assert not any(secret in text for secret in _secrets(run.state) for text in environments)
            control, tasks = agent.uids().real, {one.uids().real for one in family[1:]}
            assert len({0, control, *tasks}) == 3, "root, control process and tasks are three users"
            _assert_apart(run, control, tasks.pop())

        os.killpg(process.pid, signal.SIGINT)  # Ctrl-C
        assert process.wait(60) == 0
    _assert_nothing_left(run)


def _assert_tasks(rows: list[dict[str, Any]]) -> None:
    names = [field.name for field in fields(examples.Row)]
    assert all(list(row) == names for row in rows)
    runs = {row["run_id"].rpartition("__")[2] for row in rows}
    assert runs == set(PATHS)
    for name, pattern in PATHS.items():
        of_run = [row for row in rows if row["run_id"].endswith(f"__{name}")]
        dag_ids = examples.EXPECTED if name == "public" else (story.DAG,)
        ended = sorted(
            (row["dag_id"], row["task_id"], row["map_index"], row["try_number"], row["state"]) for row in of_run
        )
        assert ended == sorted(
            (dag_id, task_id, index if expected.instances > 1 else -1, expected.try_number, expected.state)
            for dag_id in dag_ids
            for task_id, expected in examples.EXPECTED[dag_id].items()
            for index in range(expected.instances)
        )
        assert all(re.fullmatch(pattern, row["path"]) for row in of_run), name
        assert {row["agent"] for row in of_run} <= ({"east"} if name == "rejected" else {"east", "west"})
        assert all(row["queued"] <= row["ended"] and row["started"] <= row["ended"] for row in of_run)
    [link] = {row["path"] for row in rows if row["run_id"].endswith("__peered")}
    assert link != {row["path"] for row in rows if row["agent"] == "west"}, "later west has a link of its own"


def _assert_reached_from_the_desk(run: Run) -> None:
    """Airflow's page, the admin API and the control plane are where the demo says, outside of its networks."""
    said = run.text()
    for pattern in (r"Airflow: (http://127\.0\.0\.1:\d+)", r"ISTHMUS_CONTROL_URL=(http://127\.0\.0\.1:\d+)"):
        found = re.search(pattern, said)
        assert found is not None, said
        assert httpx.get(found[1], follow_redirects=True, trust_env=False).status_code < 500
    listed = subprocess.run(
        [
            sys.executable,
            "-m",
            "isthmus.cli.main",
            "agents",
            "list",
            "--deployment",
            str(run.state / "plane"),
            "--json",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert {one["path"] for one in json.loads(listed.stdout)["agents"]} == {"link"}


def _assert_nothing_left(run: Run) -> None:
    assert run.processes() == []
    lab = run.state / "lab"
    assert not lab.exists()
    mark = f"isthmus-lab-{removing.lab_id(lab)}-"
    told = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert mark not in told


def test_without_root_it_is_the_public_part(run: Run) -> None:
    process = run.start("--public-only")
    assert process.wait(SECONDS) == 0, run.text()
    summary = json.loads((run.state / "summary.json").read_text())
    assert (summary["has_link"], summary["wrong"]) == (False, [])
    assert [step["name"] for step in summary["steps"]] == ["plane", "agent", "public_path"]
    assert {(row["agent"], row["path"]) for row in summary["tasks"]} == {("demo-agent", "public 127.0.0.1")}
    assert "The private link is left out" in run.text()
    assert run.processes() == []


def _assert_apart(run: Run, control: int, tasks: int) -> None:
    """Neither user reads what is the other's, and neither reads the plane's."""
    agent, plane = run.state / "agent-east", run.state / "plane"
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


def test_it_is_alone_in_its_checkout_and_stops_at_once(run: Run) -> None:
    process = run.start()
    run.wait_for(lambda: "PostgreSQL is ready" in run.text(), SECONDS)
    command = [sys.executable, "-m", "isthmus.cli.demo", "--root", str(run.root)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert "directory_busy" in second.stderr
    _assert_stops(run, process)


def test_it_stops_in_the_middle_of_the_story_and_leaves_nothing(run: Run) -> None:
    process = run.start()
    run.wait_for(lambda: "$ isthmus link connections" in run.text(), SECONDS)
    _assert_stops(run, process)


def _assert_stops(run: Run, process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    _assert_nothing_left(run)
