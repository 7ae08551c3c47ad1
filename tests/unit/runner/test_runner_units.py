"""The runner's parts that need no Airflow: its command line and the environment that it prepares."""

from pathlib import Path

import pytest

from isthmus.kit.errors import ConfigError
from isthmus.runner import __main__ as program
from isthmus.runner.config import RunnerConfig, Shortcut
from isthmus.wire import frames


def test_the_agents_command_line() -> None:
    config = program.parse([frames.SOCKET_OPTION, "5", frames.LOCK_OPTION, "6"])
    assert config == RunnerConfig(socket_fd=5, lock_fd=6)


def test_a_command_line_with_everything() -> None:
    config = program.parse(
        ["--socket", "/run/x", "--control-user", "4001:4002", "--spares", "0", "--preload", "a", "--preload", "b.c",
         "--without", "pidfd"]
    )  # fmt: skip
    assert config.socket_path == Path("/run/x")
    assert config.control_user is not None
    assert config.control_user.uid == 4001
    assert config.preload == ("a", "b.c")
    assert config.without == {Shortcut.PIDFD}
    assert config.spares == 0


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [frames.SOCKET_OPTION, "5", "--socket", "/run/x"],
        [frames.SOCKET_OPTION, "five"],
        [frames.SOCKET_OPTION, "5", "--spares", "-1"],
        [frames.SOCKET_OPTION, "5", "--without", "care"],
        [frames.SOCKET_OPTION, "5", "--unheard-of"],
    ],
)
def test_a_command_line_that_makes_no_sense(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        program.parse(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_a_control_user_that_does_not_exist() -> None:
    with pytest.raises(ConfigError):
        program.parse(["--socket", "/run/x", "--control-user", "no-such-user-here"])


def test_no_environment_leads_to_a_database() -> None:
    environment = {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://u:p@db/airflow",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_CMD": "cat /run/secrets/db",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC_SECRET": "db",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "True",
        "PATH": "/bin",
    }
    program.prepare_environment(environment)
    assert environment == {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite://",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": "sqlite+aiosqlite://",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "True",
        "PATH": "/bin",
    }


def test_examples_are_left_out_unless_asked_for() -> None:
    environment: dict[str, str] = {}
    program.prepare_environment(environment)
    assert environment["AIRFLOW__CORE__LOAD_EXAMPLES"] == "False"
