"""The program as a whole: its table of commands, what it loads, and how it ends."""

import importlib
import os
import subprocess
import sys

import pytest
import typer

from isthmus.cli import main
from isthmus.cli.exits import Exit, code_for
from isthmus.kit import errors


@pytest.mark.parametrize(("name", "lazy"), main.COMMANDS.items(), ids=main.COMMANDS)
def test_every_command_exists_and_explains_itself(
    name: str, lazy: main.Lazy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(importlib.import_module(lazy.module).app, typer.Typer)
    assert main.run([name, "--help"]) == 0
    assert f"isthmus {name}" in capsys.readouterr().out


def test_help_names_every_command_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert all(f" {name} " in out for name in main.COMMANDS)
    assert all(f"{code.value} " in out for code in Exit)
    assert main.run([]) == Exit.USAGE


def test_settings_are_explained_before_what_is_needed_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in [name for name in os.environ if name.startswith("ISTHMUS_AGENT_")]:
        monkeypatch.delenv(variable)
    assert main.run(["config", "explain"]) == Exit.USAGE
    out, err = capsys.readouterr()
    assert "url = (required)" in out
    assert "slots = " in out
    assert "ISTHMUS_AGENT_URL" in err


def test_help_is_there_at_once() -> None:
    """In processor time, which another program on the machine does not change."""
    command = [sys.executable, "-m", "isthmus.cli.main", "--help"]
    subprocess.run(command, check=True, capture_output=True)  # compiles
    assert min(_cpu_seconds(command) for _ in range(3)) < 0.5


def _cpu_seconds(command: list[str]) -> float:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("x", code="x"), Exit.USAGE),
        (errors.NotFoundError("x", code="x"), Exit.NOT_FOUND),
        (errors.UnreachableError("x", code="x"), Exit.UNREACHABLE),
        (errors.TemporaryError("x", code="x"), Exit.UNREACHABLE),
        (errors.RefusedError("x", code="x"), Exit.FAILED),
        (errors.InternalError("x", code="x"), Exit.FAILED),
    ],
)
def test_each_family_of_errors_has_its_exit_code(error: errors.IsthmusError, code: Exit) -> None:
    assert code_for(error) is code


def test_a_usage_error_names_the_help_that_helps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["token", "create"]) == Exit.USAGE
    assert "hint: see: isthmus token create --help" in capsys.readouterr().err


def test_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["version"]) == 0
    assert capsys.readouterr().out.startswith("isthmus ")


def _run_without(blocked: list[str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``isthmus`` as if ``blocked`` packages were not installed."""
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); from isthmus.cli import main; main.main()"
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)


#: What the bare install does not have.
PLANE = ["airflow", "alembic", "asyncpg", "cryptography", "fastapi", "psycopg2", "sqlalchemy", "uvicorn"]


def test_the_bare_install_is_enough_for_an_agent() -> None:
    """It gets as far as its settings, of which none are given."""
    done = _run_without([*PLANE, "rich", "httpx"], "agent", "--url", "https://plane.example.org/dtest234")
    assert done.returncode == Exit.USAGE
    assert "the agent needs one agent token" in done.stderr


@pytest.mark.parametrize("words", [("api",), ("deployment", "init", "/nonexistent"), ("token", "list", "-d", "/tmp")])
def test_a_command_of_the_plane_says_what_is_not_installed(words: tuple[str, ...]) -> None:
    done = _run_without(PLANE, *words)
    assert done.returncode == Exit.USAGE
    assert "(not_installed)" in done.stderr
    assert "isthmus[plane]" in done.stderr


def test_an_agent_loads_nothing_of_the_plane() -> None:
    code = f"""
import sys
import isthmus.cli.main, isthmus.cli.agent, isthmus.agent.control
print([name for name in {[*PLANE, "rich", "httpx", "isthmus.deployment", "isthmus.runner"]!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
