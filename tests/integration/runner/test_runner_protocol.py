"""The fork server's two ways to be reached, and what it makes of a peer that does not keep to the protocol."""

import contextlib
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from tests.fakes import control as controls
from tests.fakes.execution_api import FakeExecutionApi
from tests.integration.runner.conftest import BUNDLE, Runner, Start, all_gone, wait_until

from isthmus.kit import processes
from isthmus.wire import frames
from isthmus.wire.names import Kind

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")


def test_a_peer_that_breaks_the_protocol_loses_everything(start_runner: Start) -> None:
    runner = start_runner(arguments=("--without=warming",))
    workload, _ = runner.launch("nap")
    wait_until(lambda: list(runner.out.glob("nap-*")))
    runner.control.socket.sendall(b"\x00\x00\x00\x05hello")
    assert runner.control.process.wait(20) == 0
    assert all_gone(runner.supervisor(workload))
    assert any(event["event"] == "The control process broke the protocol" for event in runner.events())


def test_frames_in_pieces(runner: Runner) -> None:
    ti, payload = controls.task_payload("runner", "noop", file="runner_dags.py")
    launch = frames.Launch(
        workload_id=uuid4(), kind=Kind.TASK, payload=payload, gateway_socket=str(runner.api.socket_path),
        gateway_token="pieces",
    )  # fmt: skip
    data = frames.encode(launch)
    for start in range(0, len(data), 300):
        runner.control.socket.sendall(data[start : start + 300])
        time.sleep(0.005)
    assert runner.exited(launch.workload_id).exit_code == 0
    assert runner.states(ti) == ["success"]


def test_many_frames_at_once(runner: Runner) -> None:
    launches = []
    for _ in range(6):
        _, payload = controls.task_payload("runner", "noop", file="runner_dags.py")
        launches.append(
            frames.Launch(
                workload_id=uuid4(), kind=Kind.TASK, payload=payload, gateway_socket=str(runner.api.socket_path),
                gateway_token="many",
            )
        )  # fmt: skip
    runner.control.socket.sendall(b"".join(map(frames.encode, launches)))
    assert [runner.exited(launch.workload_id).exit_code for launch in launches] == [0] * 6


def test_a_workload_that_runs_already_is_not_started_again(runner: Runner) -> None:
    workload, _ = runner.launch("nap")
    wait_until(lambda: list(runner.out.glob("nap-*")))
    runner.launch("nap", workload_id=workload)
    time.sleep(0.5)
    assert len(list(runner.out.glob("nap-*"))) == 1
    runner.control.send(frames.Kill(workload_id=workload, grace_seconds=0))
    runner.exited(workload)


# --- a socket of its own ---------------------------------------------------------------------------------------------


class Peer:
    """A control process that connects."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(20)
        self.socket.connect(str(path))
        self._reader = frames.FrameReader()
        self._pending: list[frames.Frame] = []

    def next(self) -> frames.Frame | None:
        """The next frame; None when the connection was closed."""
        while not self._pending:
            data = self.socket.recv(65536)
            if not data:
                return None
            self._pending += self._reader.feed(data)
        return self._pending.pop(0)

    def close(self) -> None:
        self.socket.close()


Listening = tuple[Path, FakeExecutionApi, Path]


@pytest.fixture(scope="module")
def listening() -> Iterator[Listening]:
    """A fork server that listens: its socket, its gateway, and where its tasks write."""
    with (
        tempfile.TemporaryDirectory(prefix="runner-test-") as name,
        FakeExecutionApi(Path(name) / "gateway.sock") as api,
    ):
        folder = Path(name)
        path, out = folder / "runner.sock", folder / "out"
        out.mkdir()
        process = processes.spawn(
            [sys.executable, "-m", "isthmus.runner", "--socket", str(path)],
            environment=controls.environment(folder, BUNDLE, RUNNER_TEST_OUT=str(out)),
        )
        try:
            wait_until(path.exists, timeout=120)
            yield path, api, out
            with contextlib.closing(Peer(path)) as peer:
                daemon = run_stubborn(peer, api, out, 1)
                process.terminate()
                assert process.wait(20) == 0
                assert all_gone(*daemon)  # SIGTERM, too, leaves nothing
        finally:
            process.kill()
            process.wait()
        assert not path.exists()


def run_stubborn(peer: Peer, api: FakeExecutionApi, out: Path, number: int) -> list[int]:
    """Have a stubborn task run; the pids of the task and of its daemon."""
    assert isinstance(peer.next(), frames.Ready)
    _, payload = controls.task_payload("runner", f"stubborn_{number}", file="runner_dags.py")
    launch = frames.Launch(
        workload_id=uuid4(), kind=Kind.TASK, payload=payload, gateway_socket=str(api.socket_path), gateway_token="x"
    )
    peer.socket.sendall(frames.encode(launch))
    assert isinstance(peer.next(), frames.Launched)
    wait_until((out / f"pid-stubborn_{number}").exists)
    return [int((out / name).read_text()) for name in (f"pid-stubborn_{number}", f"daemon-stubborn_{number}")]


def test_one_control_process_after_another(listening: Listening) -> None:
    path, api, out = listening
    assert path.stat().st_mode & 0o777 == 0o660
    with contextlib.closing(Peer(path)) as first:
        pids = run_stubborn(first, api, out, 0)
        with contextlib.closing(Peer(path)) as second:
            assert second.next() is None  # one at a time
    with contextlib.closing(Peer(path)) as third:
        assert isinstance(third.next(), frames.Ready)
        assert all_gone(*pids)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x00\x00\x05hello",
        b"\x00\x00\x00\x02{}",
        b'\x00\x00\x00\x14{"type":"surprise!"} ',
        struct.pack(">I", frames.MAX_FRAME_BYTES + 1) + b"x",
        frames.encode(frames.Ready(pid=1, airflow="3", task_sdk="1", python="3")),
        b'\x00\x00\x00\x11{"type":"launch"}',
    ],
    ids=["no json", "no type", "unknown type", "oversize", "from the wrong side", "no workload"],
)
def test_a_malformed_frame_ends_the_connection(listening: Listening, data: bytes) -> None:
    with contextlib.closing(Peer(listening[0])) as peer:
        assert isinstance(peer.next(), frames.Ready)
        peer.socket.sendall(data)
        assert peer.next() is None
    with contextlib.closing(Peer(listening[0])) as peer:
        assert isinstance(peer.next(), frames.Ready)


@as_root
def test_only_the_control_user_may_connect(listening: Listening) -> None:
    path = listening[0]
    path.chmod(0o666)
    path.parent.chmod(0o755)
    script = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(100))"
    stranger = processes.spawn(
        [sys.executable, "-c", script, str(path)],
        environment={},
        user=processes.find_user("4001"),
        stdout=subprocess.PIPE,
    )
    assert stranger.communicate(timeout=20)[0] == b"b''\n"


# --- starting --------------------------------------------------------------------------------------------------------


def run(code: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=controls.environment(tmp_path, BUNDLE),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


CHANGES = {
    "supervise_task": "supervisor.supervise_task = lambda *, ti, client: 0",
    "_register_pipe_readers": "supervisor.WatchedSubprocess._register_pipe_readers = lambda self: 0",
    "_on_child_started": "supervisor.ActivitySubprocess._on_child_started = lambda self, ti: 0",
    "_configure_logs_over_json_channel": "del supervisor._configure_logs_over_json_channel",
    "3.4.0": "compat.airflow_version = '3.4.0'",
}


def test_an_airflow_that_changed_is_refused_by_name(tmp_path: Path) -> None:
    """Each change in a process of its own, forked from one that has imported Airflow."""
    script = f"""
import os, sys
from isthmus.runner import __main__ as program
program.prepare_environment(os.environ)
from airflow.sdk.execution_time import supervisor
from isthmus.runner import compat
compat.check()
for named, change in {CHANGES!r}.items():
    pid = os.fork()
    if pid == 0:
        exec(change)
        os._exit(program.main(["--socket", "/nonexistent/socket"]))
    print(named, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
    done = run(script, tmp_path)
    assert done.stdout.splitlines() == [f"{named} 2" for named in CHANGES], done.stderr
    errors = [line for line in done.stderr.splitlines() if "airflow_incompatible" in line]
    assert len(errors) == len(CHANGES)
    for named, error in zip(CHANGES, errors, strict=True):
        assert named in error


def test_an_installation_without_airflow_is_refused(tmp_path: Path) -> None:
    done = run(
        """
import sys
sys.modules["airflow"] = None
from isthmus.runner import __main__ as program
raise SystemExit(program.main(["--socket", "/nonexistent/socket"]))
""",
        tmp_path,
    )
    assert done.returncode == 2, done.stderr
    assert "airflow_missing" in done.stderr


def test_a_configuration_that_airflow_refuses_is_told(tmp_path: Path) -> None:
    environment = controls.environment(tmp_path, BUNDLE, AIRFLOW__LOGGING__LOGGING_LEVEL="CHATTY")
    command = [sys.executable, "-m", "isthmus.runner", "--socket", str(tmp_path / "socket")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "airflow_unusable" in last
    assert "logging_level" in last
