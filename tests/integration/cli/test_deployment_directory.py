"""``deployment init`` and ``env``, with the embedded PostgreSQL that they make."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from isthmus.cli import main, stacks
from isthmus.deployment import databases
from isthmus.deployment.initializing import DeploymentSpec


@pytest.fixture
def directory() -> Iterator[Path]:
    """A place that other users can enter: as root, the embedded PostgreSQL is another user."""
    folder = Path(tempfile.mkdtemp(prefix="isthmus-test-"))
    folder.chmod(0o711)
    yield folder / "plane"
    shutil.rmtree(folder)


def test_a_directory_is_made_once_and_kept(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["deployment", "init", str(directory), "--name", "plane.example.org", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["agent_url"] == f"https://plane.example.org:8443/{made['deployment_id']}"
    assert Path(made["admin_token_file"]).stat().st_mode & 0o777 == 0o600

    assert main.run(["deployment", "init", str(directory), "--listen-port", "9443", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["deployment_id"] == made["deployment_id"]
    assert again["agent_url"] == f"https://plane.example.org:9443/{made['deployment_id']}"

    assert main.run(["deployment", "env", str(directory), "--json"]) == 0
    environment = json.loads(capsys.readouterr().out)
    assert environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].startswith("postgresql+psycopg2://")
    assert main.run(["deployment", "env", str(directory)]) == 0
    assert f"AIRFLOW__ISTHMUS__DEPLOYMENT_ID={made['deployment_id']}" in capsys.readouterr().out.splitlines()

    # The admin API is found by the directory; nothing runs there.
    assert main.run(["deployment", "show", "--deployment", str(directory)]) == 3
    assert "http://127.0.0.1:8444 does not answer" in capsys.readouterr().err


def test_a_directory_has_one_stack_at_a_time(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    postgres = stacks.find_postgres(directory)
    with stacks.opened(DeploymentSpec(directory=directory), postgres) as deployment:
        with databases.connected(deployment.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]) as connection:
            assert not connection.closed
        assert main.run(["deployment", "init", str(directory)]) == 1
        assert "directory_busy" in capsys.readouterr().err
    assert stacks.find_postgres(directory) == postgres


def test_a_deployment_with_its_own_database_gets_no_embedded_one(tmp_path: Path) -> None:
    directory = tmp_path / "plane"
    url = "postgresql://airflow:secret@db.example.org/airflow"
    assert main.run(["deployment", "init", str(directory), "--database-url", url]) == 0
    assert stacks.find_postgres(directory) is None
    assert not (directory / "postgres").exists()


def test_what_is_wrong_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = str(tmp_path / "plane")
    assert main.run(["deployment", "init", directory, "--database-url", "mysql://x/y"]) == 2
    assert "PostgreSQL" in capsys.readouterr().err
    assert main.run(["deployment", "init", directory, "--database-url", "postgresql://x/y", "--id", "x"]) == 2
    assert main.run(["deployment", "run", str(tmp_path / "other")]) == 4
    assert main.run(["deployment", "env", str(tmp_path / "other")]) == 4
