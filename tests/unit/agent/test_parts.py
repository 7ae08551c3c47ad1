"""The small pieces: patience, the clean environment, the wire form of a condition, the lock."""

import fcntl
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from isthmus.agent import conditions, locking
from isthmus.agent.children import clean_environment
from isthmus.agent.config import Timing
from isthmus.agent.patience import Patience, ReplacedError
from isthmus.kit.backoffs import BackoffConfig
from isthmus.kit.clocks import ManualClock
from isthmus.kit.errors import ConfigError, RefusedError, TemporaryError
from isthmus.kit.health import Condition, Occurrence, Severity
from isthmus.kit.processes import User
from isthmus.wire.problems import Code


def test_an_outage_is_tried_soon_and_a_refusal_late() -> None:
    timing = Timing(
        outage=BackoffConfig(first_seconds=1, jitter=0),
        refusal=BackoffConfig(first_seconds=60, longest_seconds=600, jitter=0),
    )
    patience = Patience(timing, ManualClock())
    assert patience.after(TemporaryError("x", code="x")) == 1
    assert patience.after(RefusedError("x", code=Code.TOKEN_REVOKED)) == 60
    assert patience.after(TemporaryError("x", code="x")) == 2
    with pytest.raises(ReplacedError):
        patience.after(RefusedError("x", code=Code.AGENT_REPLACED))


def test_tasks_get_nothing_of_ours() -> None:
    user = User(1000, 1000, (1000,), "airflow", "/home/airflow")
    environment = clean_environment(
        {"PATH": "/bin", "HOME": "/root", "ISTHMUS_AGENT_TOKEN": "x", "ISTHMUS_AGENT_URL": "y"},
        {"AIRFLOW_HOME": "/airflow", "PATH": "/usr/bin"},
        user,
    )
    assert environment == {
        "PATH": "/usr/bin",
        "HOME": "/home/airflow",
        "USER": "airflow",
        "LOGNAME": "airflow",
        "AIRFLOW_HOME": "/airflow",
    }


def test_a_condition_fits_the_wire() -> None:
    since = datetime.now(UTC)
    occurrence = Occurrence(Condition("x", Severity.ERROR), "s" * 900, "h" * 900, since)
    warning = conditions.to_wire(occurrence)
    assert (warning.code, warning.severity.value, warning.since) == ("x", "error", since)
    assert len(warning.summary) == len(warning.hint) == 512


def test_the_lock_is_free_when_the_last_descriptor_is_closed(tmp_path: Path) -> None:
    first = locking.lock(tmp_path, wait_seconds=0)
    assert (tmp_path / "lock").read_text(encoding="ascii") == f"{os.getpid()}\n"
    inherited = os.dup(first)
    os.close(first)
    with pytest.raises(TemporaryError) as caught:
        locking.lock(tmp_path, wait_seconds=0)
    assert caught.value.code == "state_dir_locked"
    assert str(os.getpid()) in str(caught.value)
    os.close(inherited)
    again = locking.lock(tmp_path, wait_seconds=0)
    fcntl.flock(again, fcntl.LOCK_UN)
    os.close(again)


def test_a_state_directory_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        locking.lock(tmp_path / "missing", wait_seconds=0)
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError):
        locking.lock(tmp_path, wait_seconds=0)
