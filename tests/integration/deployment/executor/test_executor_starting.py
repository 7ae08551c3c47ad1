"""What the executor refuses to start with, and what it says about itself."""

import inspect
import logging
from collections.abc import Callable
from typing import Any

import pytest

from isthmus.deployment import databases
from isthmus.kit.errors import ConfigError, UnreachableError


@pytest.mark.parametrize("url", ["sqlite:////tmp/airflow.db", "mysql+mysqldb://a:b@localhost/airflow"])
def test_other_databases_are_refused(plane: Any, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    executor = type(plane.executor)()
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", url)
    with pytest.raises(ConfigError) as caught:
        executor.start()
    assert caught.value.code == "database_unsupported"
    assert "postgresql+psycopg2://" in caught.value.__notes__[0]


def test_an_old_postgresql_is_refused(plane: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "LEAST_MAJOR_VERSION", 99)
    with pytest.raises(ConfigError) as caught:
        type(plane.executor)().start()
    assert caught.value.code == "database_too_old"


def test_a_database_that_does_not_answer_is_not_started_with(plane: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://user:secret@127.0.0.1:1/airflow")
    with pytest.raises(UnreachableError) as caught:
        type(plane.executor)().start()
    assert "secret" not in str(caught.value)


def test_tables_of_another_version_are_refused(plane: Any) -> None:
    ((version,),) = plane.execute("SELECT version_num FROM isthmus_alembic_version")
    plane.execute("UPDATE isthmus_alembic_version SET version_num = '0000'")
    try:
        with pytest.raises(ConfigError) as caught:
            type(plane.executor)().start()
    finally:
        plane.execute("UPDATE isthmus_alembic_version SET version_num = %s", version)
    assert caught.value.code == "tables_outdated"
    assert "airflow db migrate" in caught.value.__notes__[0]


def test_unknown_settings_are_refused(plane: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__ISTHMUS__HEARTBEAT_SECOND", "3")
    with pytest.raises(ConfigError, match=r"(?i)heartbeat_second"):
        type(plane.executor)().start()


def test_an_airflow_that_is_not_the_one_we_know_is_refused(plane: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def queue_workload(self: object, workload: object, session: object, urgency: int) -> None:
        pass

    base = type(plane.executor).__mro__[1]
    monkeypatch.setattr(base, "queue_workload", queue_workload)
    with pytest.raises(ConfigError) as caught:
        type(plane.executor)().start()
    assert caught.value.code == "airflow_incompatible"
    assert "BaseExecutor.queue_workload takes (self, workload, session, urgency)" in str(caught.value)


@pytest.mark.parametrize("version", ["3.2.9", "3.4.0", "3.4.0b2", "4.0.0"])
def test_another_version_of_airflow_is_refused(plane: Any, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    from isthmus.deployment import compat  # noqa: PLC0415

    monkeypatch.setattr(compat, "airflow_version", version)
    with pytest.raises(ConfigError) as caught:
        compat.check()
    assert caught.value.code == "airflow_version"


@pytest.fixture
def hasty(plane: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for an agent that is not there."""
    from isthmus.deployment import tasklogs  # noqa: PLC0415

    for seconds in ("FILE_SECONDS", "STORE_SECONDS"):
        monkeypatch.setattr(tasklogs, seconds, 1.0)


@pytest.mark.usefixtures("hasty")
def test_a_running_tasks_log_is_with_its_agent(plane: Any, run_dag: Callable[..., str]) -> None:
    run_dag({"task_id": "one"})
    plane.loop()
    asked = type(plane.executor)()  # in the API server: never started
    assert "queued in queue default" in asked.get_task_log(plane.task_instance(), 1)[0][0]
    plane.start()
    messages, texts = asked.get_task_log(plane.task_instance(), 1)
    assert messages[0].startswith("Agent agent-"), "which nobody plays here"
    assert messages[0] in "".join(texts)
    plane.execute("DELETE FROM isthmus_workload")
    assert "No agent is known" in "".join(asked.get_task_log(plane.task_instance(), 1)[0])


@pytest.mark.usefixtures("hasty")
def test_airflow_shows_that_message_instead_of_fetching_from_the_host(plane: Any, run_dag: Callable[..., str]) -> None:
    run_dag({"task_id": "one"})
    plane.loop()
    plane.start()
    plane.set_task("running")
    lines = plane.read_log()
    assert any("Agent agent-" in line for line in lines)
    assert not any("8793" in line or "Could not read served logs" in line for line in lines)


def test_a_dump_says_what_is_held(plane: Any, run_dag: Callable[..., str], caplog: pytest.LogCaptureFixture) -> None:
    run_dag({"task_id": "one"})
    plane.loop()
    plane.executor._log = logging.getLogger("test.executor")
    with caplog.at_level(logging.INFO, "test.executor"):
        plane.executor.debug_dump()
    assert plane.workloads()[0]["id"] in caplog.text
    assert "event-driven scheduling on" in caplog.text


def test_everything_of_airflows_interface_is_there(plane: Any) -> None:
    """What ``BaseExecutor`` leaves to its subclasses is overridden."""
    executor = type(plane.executor)
    for name in ("end", "terminate", "sync", "start", "revoke_task", "try_adopt_task_instances", "get_task_log"):
        assert name in vars(executor)
        assert inspect.getdoc(getattr(executor, name))
