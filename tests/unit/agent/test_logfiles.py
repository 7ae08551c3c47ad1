"""Which files come out as task logs, and which do not."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.agent import logfiles
from isthmus.agent.logfiles import LogFileError
from isthmus.kit import processes
from isthmus.wire.logs import LogFault

LOG = "dag_id=d/run_id=r/task_id=t/attempt=1.log"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    (folder / LOG).parent.mkdir(parents=True)
    (folder / LOG).write_text("words\n")
    (tmp_path / "secret").write_text("s3cret")
    return folder


def read(folder: Path, path: str) -> bytes:
    with logfiles.open_log(folder, path, None) as file:
        return file.read()


def fault(folder: Path, path: str = LOG) -> LogFault:
    with pytest.raises(LogFileError) as raised:
        logfiles.open_log(folder, path, None).close()
    return raised.value.fault


def test_a_log_is_read_whatever_its_name_holds(folder: Path) -> None:
    assert read(folder, LOG) == b"words\n"
    odd = "run_id=manual__2026-01-01T00:00:00+00:00/ \n'..x/ü.log"
    (folder / odd).parent.mkdir(parents=True)
    (folder / odd).write_text("odd")
    assert read(folder, odd) == b"odd"


def test_the_folder_itself_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(folder)
    assert read(tmp_path / "linked", LOG) == b"words\n"


@pytest.mark.parametrize(
    "path", ["../secret", "/etc/passwd", "a/../../secret", "", "a//b", "./x", "a/", "x\0y", "a/" * 20 + "b", "n" * 300]
)
def test_a_path_that_is_not_plain_is_refused(folder: Path, path: str) -> None:
    assert fault(folder, path) is LogFault.REFUSED


@given(
    st.text(max_size=60) | st.lists(st.sampled_from(["..", ".", "", "a", "\0", "dag_id=d"]), max_size=8).map("/".join)
)
def test_no_path_leads_out(tmp_path_factory: pytest.TempPathFactory, path: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed" / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / "a").write_text("s3cret")
    with pytest.raises(LogFileError):
        logfiles.open_log(folder, path, None).close()


def test_a_link_at_any_step_is_refused(folder: Path, tmp_path: Path) -> None:
    log = folder / LOG
    log.unlink()
    log.symlink_to(tmp_path / "secret")
    assert fault(folder) is LogFault.REFUSED
    log.unlink()
    log.parent.rmdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / log.name).write_text("s3cret")
    log.parent.symlink_to(tmp_path / "elsewhere")
    assert fault(folder) is LogFault.REFUSED


def test_what_is_no_file_of_its_own_is_refused(folder: Path, tmp_path: Path) -> None:
    log = folder / LOG
    log.unlink()
    os.mkfifo(log)
    assert fault(folder) is LogFault.REFUSED, "and nobody waits for a writer"
    log.unlink()
    log.mkdir()
    assert fault(folder) is LogFault.REFUSED
    log.rmdir()
    os.link(tmp_path / "secret", log)
    assert fault(folder) is LogFault.REFUSED
    log.unlink()
    assert fault(folder) is LogFault.MISSING


def test_triggers_logs_are_found_beside_the_tasks(folder: Path, tmp_path: Path) -> None:
    for number, text in ((9, "first"), (10, "second")):
        (folder / f"{LOG}.trigger.{number}.log").write_text(text)
    (folder / f"{LOG}.trigger.11.log").symlink_to(tmp_path / "secret")
    (folder / f"{LOG}.trigger.12").write_text("no log")
    files = logfiles.open_trigger_logs(folder, LOG, None)
    assert [file.read() for file in files] == [b"first", b"second"]
    for file in files:
        file.close()
    with pytest.raises(LogFileError) as raised:
        logfiles.open_trigger_logs(folder, LOG + "x", None)
    assert raised.value.fault is LogFault.MISSING


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can read as somebody else")
def test_files_are_opened_with_the_tasks_rights(folder: Path, tmp_path: Path) -> None:
    for directory in [tmp_path, *tmp_path.parents[:2]]:  # pytest's own, and never the folder of everybody's
        directory.chmod(0o755)
    user = processes.find_user("1234567:1234567")
    log = folder / LOG
    os.chown(log, user.uid, user.gid)
    with logfiles.open_log(folder, LOG, user) as file:
        assert file.read() == b"words\n"
    assert (tmp_path / "secret").read_text() == "s3cret", "and this thread is itself again"
    os.chown(log, 7654321, 7654321)
    log.chmod(0o600)
    with pytest.raises(LogFileError) as raised:
        logfiles.open_log(folder, LOG, user)
    assert raised.value.fault is LogFault.REFUSED
    os.chown(log, 0, 0)
    log.chmod(0o644)
    with pytest.raises(LogFileError) as raised:
        logfiles.open_log(folder, LOG, user)
    assert raised.value.summary == "it is the agent's own"


def test_the_folder_is_airflows(tmp_path: Path) -> None:
    assert logfiles.folder_of({}, "/told") == Path("/told")
    assert logfiles.folder_of({"AIRFLOW__LOGGING__BASE_LOG_FOLDER": "/set"}) == Path("/set")
    assert logfiles.folder_of({"AIRFLOW_HOME": "/home/a"}) == Path("/home/a/logs")
    assert logfiles.folder_of({"HOME": "/home/b"}) == Path("/home/b/airflow/logs")
