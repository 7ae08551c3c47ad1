"""Control process and tasks as two users (ADR 0008): who runs as whom, with what powers, and who may touch what."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.fakes import plane as planes
from tests.integration.agent.conftest import ROOT, TIMING, AgentProcess

CONTROL, TASKS = 65501, 65502
#: CAP_KILL, CAP_SETGID, CAP_SETUID as bits (linux/capability.h).
KEPT = 1 << 5 | 1 << 6 | 1 << 7

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become two users")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that everybody may enter, unlike pytest's."""
    path = Path(tempfile.mkdtemp(prefix="isthmus-users-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def agent(plane: planes.FakePlane, folder: Path) -> Iterator[AgentProcess]:
    for step in [ROOT, *ROOT.parents]:
        if not step.stat().st_mode & stat.S_IXOTH:
            pytest.skip(f"other users cannot enter {step}")
    token = folder / "token"
    token.write_text(planes.TOKEN, encoding="ascii")
    token.chmod(0o600)
    os.chown(token, CONTROL, CONTROL)
    work = folder / "agent"
    work.mkdir(mode=0o777)
    work.chmod(0o777)
    started = AgentProcess(
        work,
        plane.url,
        environment={"ISTHMUS_AGENT_LOG_LEVEL": "debug"},
        timing=TIMING,
        user=f"{CONTROL}:{CONTROL}",
        task_user=f"{TASKS}:{TASKS}",
        token_file=str(token),
    )
    plane.put({"sleep": 600, "detached": True})
    plane.wait_for(lambda: started.process.poll() is not None or len(started.lines("launched")) == 1)
    assert started.process.poll() is None, started.log.read_text(encoding="utf-8")
    yield started
    started.end()


def status(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}


def as_task_user(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-S", "-c", code],
        user=TASKS,
        group=TASKS,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )


def test_two_users(agent: AgentProcess, plane: planes.FakePlane, folder: Path) -> None:
    control = status(agent.pid)
    assert set(control["Uid"]) == {str(CONTROL)}
    assert set(control["Gid"]) == {str(CONTROL)}
    assert {int(control[name][0], 16) for name in ("CapEff", "CapPrm")} == {KEPT}
    assert {int(control[name][0], 16) for name in ("CapInh", "CapAmb")} == {0}
    below = agent.descendants()
    assert len(below) == 3
    for process in below:
        found = status(process.pid)
        assert set(found["Uid"]) == {str(TASKS)}
        assert set(found["Gid"]) == {str(TASKS)}
        assert found["Groups"] == [str(TASKS)] or found["Groups"] == []
        assert int(found["CapEff"][0], 16) == 0

    # What belongs to the control process is closed to tasks, but for the socket.
    state = folder / "agent" / "state"
    for path in (folder / "token", state / "lock", Path(f"/proc/{agent.pid}/environ"), Path(f"/proc/{agent.pid}/mem")):
        refused = as_task_user(f"open({str(path)!r})")
        assert "PermissionError" in refused.stderr, path
    assert "PermissionError" in as_task_user(f"import os; os.listdir({str(state)!r})").stderr
    assert "PermissionError" in as_task_user(f"import os; os.kill({agent.pid}, 9)").stderr
    sock = state / "gateway" / "gateway.sock"
    connected = as_task_user(f"import socket; socket.socket(socket.AF_UNIX).connect({str(sock)!r}); print('in')")
    assert connected.stdout == "in\n", connected.stderr
    assert "PermissionError" in as_task_user(f"import os; os.unlink({str(sock)!r})").stderr

    # And the control process still ends what the task user left behind.
    agent.terminate()
    plane.wait_for(lambda: agent.lines("draining"))
    agent.terminate()
    assert agent.wait() == 0
    assert not psutil.wait_procs(below, timeout=2)[1]


def test_a_killed_fork_server_of_another_user_is_swept(agent: AgentProcess, plane: planes.FakePlane) -> None:
    below = agent.descendants()
    psutil.Process(agent.orders("launch")[0]["pid"]).kill()
    plane.wait_for(lambda: plane.settled)
    assert not psutil.wait_procs(below, timeout=2)[1]
    two = plane.put({"exit": 0})
    plane.wait_for(lambda: two in plane.settled)


def test_a_state_directory_that_the_task_user_cannot_enter_is_refused(plane: planes.FakePlane, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    agent = AgentProcess(
        closed,
        plane.url,
        environment={"ISTHMUS_AGENT_TOKEN": planes.TOKEN},
        timing=TIMING,
        user=str(CONTROL),
        task_user=str(TASKS),
    )
    try:
        assert agent.wait() == 2
        assert "cannot enter" in agent.log.read_text(encoding="utf-8")
    finally:
        agent.end()
