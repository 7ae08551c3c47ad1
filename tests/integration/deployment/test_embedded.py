"""The embedded PostgreSQL: started, reused, stopped, and gone when its starter is."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from isthmus.deployment import databases, embedded
from isthmus.kit import processes
from isthmus.kit.errors import ConfigError

FAST = {"fsync": "off"}


@pytest.fixture
def directory() -> Iterator[Path]:
    """A place that the server's user can reach; pytest's own temporary folders are private."""
    made = Path(tempfile.mkdtemp(prefix="isthmus-test-embedded-"))
    made.chmod(0o711)
    yield made / "postgres"
    embedded.stop(made / "postgres") if (made / "postgres").exists() else None
    shutil.rmtree(made)


def answers(url: str) -> bool:
    try:
        with databases.connected(url, connect_seconds=2) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            return True
    except Exception:
        return False


def until_gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while processes.is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not processes.is_alive(pid)


def test_a_server_with_the_database(directory: Path) -> None:
    with embedded.start(directory, settings=FAST) as server:
        assert server.started
        assert databases.check(server.url) >= databases.LEAST_MAJOR_VERSION * 10_000
        assert embedded.find(directory) is not None
        if os.geteuid() == 0:
            assert Path(f"/proc/{server.pid}").owner() == embedded.SYSTEM_USER
    assert not processes.is_alive(server.pid)
    assert embedded.find(directory) is None
    server.stop()


def test_data_port_and_password_last(directory: Path) -> None:
    with (
        embedded.start(directory, settings=FAST) as first,
        databases.connected(first.url) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("CREATE TABLE kept (number int)")
    with embedded.start(directory, settings=FAST) as second:
        assert second.url == first.url
        with databases.connected(second.url) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM kept")


def test_only_with_the_password_and_only_from_this_machine(directory: Path) -> None:
    with embedded.start(directory, settings=FAST) as server:
        with pytest.raises(psycopg2.OperationalError, match="password"):
            psycopg2.connect(host=embedded.HOST, port=server.port, user=embedded.ROLE, password="x", dbname="airflow")
        with databases.connected(server.url) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW listen_addresses")
            assert cursor.fetchone() == ("127.0.0.1",)
        for path in [directory / "embedded.json", *directory.glob("data")]:
            assert path.stat().st_mode & 0o077 == 0


def test_a_running_one_is_used_and_not_stopped(directory: Path) -> None:
    with embedded.start(directory, settings=FAST) as server:
        with embedded.start(directory) as other:
            assert not other.started
            assert other.pid == server.pid
        assert answers(server.url)


def test_a_port_that_is_taken_meanwhile_is_changed(directory: Path) -> None:
    import socket  # noqa: PLC0415

    with embedded.start(directory, settings=FAST) as first:
        pass
    with socket.create_server((embedded.HOST, first.port)), embedded.start(directory, settings=FAST) as second:
        assert second.port != first.port
        assert answers(second.url)


PROGRAM = """
import sys, time
from pathlib import Path
from isthmus.deployment import embedded
server = embedded.start(Path(sys.argv[1]), outlive=sys.argv[2] == "outlive", settings={"fsync": "off"})
print(server.pid, server.url, flush=True)
time.sleep(60)
"""


def start_elsewhere(directory: Path, how: str) -> tuple[subprocess.Popen[str], int, str]:
    child = subprocess.Popen([sys.executable, "-c", PROGRAM, str(directory), how], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    pid, url = child.stdout.readline().split()
    return child, int(pid), url


def end(child: subprocess.Popen[str]) -> None:
    child.send_signal(signal.SIGKILL)
    child.communicate()


def test_it_ends_with_its_starter_even_after_sigkill(directory: Path) -> None:
    child, pid, url = start_elsewhere(directory, "bound")
    try:
        assert answers(url)
    finally:
        end(child)
    assert until_gone(pid)


def test_it_outlives_its_starter_when_told_to(directory: Path) -> None:
    child, pid, url = start_elsewhere(directory, "outlive")
    end(child)
    time.sleep(0.5)
    assert answers(url)
    assert embedded.stop(directory)
    assert not processes.is_alive(pid)
    assert not embedded.stop(directory)


def test_after_a_crash_it_starts_again(directory: Path) -> None:
    server = embedded.start(directory, settings=FAST)
    os.kill(server.pid, signal.SIGKILL)
    assert server._child is not None
    server._child.wait()
    with embedded.start(directory, settings=FAST) as again:
        assert again.started
        assert answers(again.url)


def test_a_failed_start_says_why(directory: Path) -> None:
    with pytest.raises(embedded.EmbeddedDatabaseError) as caught:
        embedded.start(directory, settings={"shared_buffers": "not a size"})
    assert caught.value.code == "embedded_start_failed"
    with embedded.start(directory, settings=FAST) as server:
        assert answers(server.url)


def test_a_damaged_directory_is_not_overwritten(directory: Path) -> None:
    with embedded.start(directory, settings=FAST):
        pass
    kept = (directory / "embedded.json").read_text()
    (directory / "embedded.json").unlink()
    with pytest.raises(ConfigError, match="embedded_damaged"):
        embedded.start(directory)
    (directory / "embedded.json").write_text("{")
    with pytest.raises(ConfigError, match="embedded_damaged"):
        embedded.start(directory)
    (directory / "embedded.json").write_text(kept)
    with embedded.start(directory, settings=FAST) as server:
        assert answers(server.url)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_as_root_behind_a_private_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest's folder is closed to others, as /root is: data and programs move to where the server's user gets in."""
    elsewhere = Path(tempfile.mkdtemp(prefix="isthmus-test-shared-"))
    elsewhere.chmod(0o711)
    monkeypatch.setattr(embedded, "SHARED_DIRECTORY", elsewhere)
    monkeypatch.setattr(embedded, "_reachable", lambda path, user: elsewhere in path.parents)
    try:
        with embedded.start(tmp_path / "postgres", settings=FAST) as server:
            assert answers(server.url)
        assert [path.name for path in elsewhere.glob("pginstall*/*/*/bin/postgres")] == ["postgres"]
        assert tmp_path.stat().st_mode & 0o077 == 0
        with embedded.start(tmp_path / "postgres", settings=FAST) as again:
            assert again.url == server.url
    finally:
        shutil.rmtree(elsewhere)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_as_another_user_than_root(directory: Path) -> None:
    user = processes.find_user("nobody")
    directory.mkdir()
    os.chown(directory, user.uid, user.gid)
    program = PROGRAM.replace("time.sleep(60)", "server.stop()")
    done = subprocess.run(
        [sys.executable, "-c", program, str(directory), "bound"],
        user=user.uid,
        group=user.gid,
        extra_groups=[],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (directory / "data").owner() == "nobody"
