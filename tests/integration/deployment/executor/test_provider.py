"""What Airflow makes of the provider's metadata."""

# ruff: noqa: PLC0415 - Airflow is imported by the fixture that sets its environment

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from isthmus.deployment import config, provider


def test_the_metadata_is_what_airflow_accepts(airflow_url: str) -> None:
    import airflow

    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())
    jsonschema.validate(provider.get_provider_info(), schema)


def test_airflow_finds_the_provider(airflow_url: str) -> None:
    from airflow.providers_manager import ProvidersManager

    manager = ProvidersManager()
    assert "isthmus" in manager.providers
    assert provider.DATABASE_MANAGER in manager.db_managers


def test_every_setting_is_documented_and_read(airflow_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from isthmus.deployment import compat

    options = provider.get_provider_info()["config"]["isthmus"]["options"]
    assert set(options) == {option.name for option in config.OPTIONS}
    assert all(option["description"] and option["version_added"] for option in options.values())
    assert options["notify_url"]["sensitive"]
    monkeypatch.setenv("AIRFLOW__ISTHMUS__HEARTBEAT_SECONDS", "7")
    monkeypatch.setenv("AIRFLOW__ISTHMUS__NOTIFY_URL_CMD", "echo postgresql://direct/airflow")
    read = compat.deployment_config()
    assert read.heartbeat_seconds == 7
    assert read.notify_url == "postgresql://direct/airflow"
    assert read.lease_seconds == 30


def test_the_metadata_costs_no_airflow() -> None:
    """It is imported by every process that looks for providers, tasks included."""
    heavy = "{'airflow', 'sqlalchemy', 'fastapi', 'psycopg2', 'asyncpg'}"
    program = f"import sys; import isthmus.deployment.provider; sys.exit(str({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.stderr.strip() == "set()"
