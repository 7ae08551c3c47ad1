"""A fake plane, and agents as real processes against it."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.fakes import plane as planes

ROOT = Path(__file__).parents[3]
PROGRAM = Path(__file__).with_name("program.py")

#: Short waits; everything else as in production.
TIMING: dict[str, Any] = {
    "outage": {"first_seconds": 0.05, "longest_seconds": 0.3},
    "refusal": {"first_seconds": 0.2, "longest_seconds": 0.5},
    "restart": {"first_seconds": 0.05, "longest_seconds": 0.2},
    "answer": 3.0,
    "farewell": 3.0,
    "reaping": 3.0,
    "locking": 10.0,
}


class AgentProcess:
    """One control process, with the fork server of ``tests.fakes.fork_server``."""

    def __init__(
        self,
        folder: Path,
        url: str,
        *,
        environment: dict[str, str],
        timing: dict[str, Any],
        entered: tuple[str, ...] = (),
        default_roles: tuple[str, ...] = ("worker",),
        **flags: Any,
    ):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.record = folder / "orders"
        self.log = folder / "log"
        runner_environment = folder / "environment"
        runner_environment.write_text(f"FAKE_RECORD={self.record}\nPYTHONPATH={ROOT}\n", encoding="utf-8")
        given = {
            "url": url,
            "name": "agent",
            "state_dir": str(folder / "state"),
            "slots": 4,
            "health_listen": "off",
            "log_format": "json",
            "runner_command": [sys.executable, "-m", "tests.fakes.fork_server"],
            "runner_environment_file": str(runner_environment),
            "drain_seconds": 20,
            "kill_grace_seconds": 0.5,
            **flags,
        }
        settings = json.dumps({"flags": given, "timing": {**TIMING, **timing}, "default_roles": default_roles})
        inherited = {name: os.environ[name] for name in ("PATH", "LANG", "HOME") if name in os.environ}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*entered, sys.executable, str(PROGRAM), settings],
                env={**inherited, "PYTHONPATH": str(ROOT), **environment},
                stderr=log,
                stdout=log,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def orders(self, kind: str | None = None) -> list[dict[str, Any]]:
        """What the fork server was told."""
        if not self.record.exists():
            return []
        lines = [json.loads(line) for line in self.record.read_text(encoding="utf-8").splitlines()]
        return [line for line in lines if kind in {None, line["type"]}]

    def lines(self, text: str = "") -> list[dict[str, Any]]:
        """The lines of the log that contain ``text``."""
        raw = self.log.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in raw if text in line and line.startswith("{")]

    def descendants(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = 20.0) -> int:
        return self.process.wait(seconds)

    def end(self) -> None:
        """Whatever it was doing."""
        below = self.descendants()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for process in below:
            with suppress(psutil.NoSuchProcess):
                process.kill()


Start = Callable[..., AgentProcess]


@pytest.fixture
def plane() -> Iterator[planes.FakePlane]:
    with planes.FakePlane() as started:
        yield started


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start an agent; flags by name, and ``environment``, ``timing``, ``folder``."""
    agents: list[AgentProcess] = []

    def starting(
        url: str,
        *,
        environment: dict[str, str] | None = None,
        timing: dict[str, Any] | None = None,
        folder: str = "agent",
        **flags: Any,
    ) -> AgentProcess:
        given = {"ISTHMUS_AGENT_TOKEN": planes.TOKEN} if environment is None else environment
        agent = AgentProcess(tmp_path / folder, url, environment=given, timing=timing or {}, **flags)
        agents.append(agent)
        return agent

    yield starting
    for agent in agents:
        agent.end()


def healthz(port: int) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
    except OSError:
        return 0, {}
