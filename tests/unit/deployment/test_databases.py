"""Which database URLs are accepted, and how each driver gets them."""

from urllib.parse import parse_qsl, urlsplit

import pytest

from isthmus.deployment import databases
from isthmus.kit.errors import ConfigError


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:pa%40ss@db:5432/airflow",
        "postgres://user:pa%40ss@db:5432/airflow",
        "postgresql+psycopg2://user:pa%40ss@db:5432/airflow",
        "postgresql+psycopg://user:pa%40ss@db:5432/airflow",
        "postgresql+asyncpg://user:pa%40ss@db:5432/airflow",
        "  postgresql://user:pa%40ss@db:5432/airflow\n",
    ],
)
def test_postgresql_in_every_spelling(url: str) -> None:
    assert databases.airflow_url(url) == "postgresql+psycopg2://user:pa%40ss@db:5432/airflow"
    assert databases.airflow_async_url(url) == "postgresql+asyncpg://user:pa%40ss@db:5432/airflow"
    assert databases.asyncpg_dsn(url) == "postgresql://user:pa%40ss@db:5432/airflow"
    assert databases.libpq_dsn(url) == "postgresql://user:pa%40ss@db:5432/airflow"


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////var/lib/airflow.db",
        "mysql+mysqldb://user:secret@db/airflow",
        "mariadb://user:secret@db/airflow",
        "cockroachdb://user:secret@db/airflow",
        "mssql+pyodbc://user:secret@db/airflow",
    ],
)
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        databases.airflow_url(url)
    assert caught.value.code == "database_unsupported"
    assert "PostgreSQL" in str(caught.value)
    assert "secret" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize(
    "url", ["", "airflow", "postgresql:/secret@db/airflow", "postgresql://u:secret@db:port/airflow"]
)
def test_nonsense_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        databases.airflow_url(url)
    assert caught.value.code == "database_malformed"
    assert "secret" not in str(caught.value) + caught.value.hint


def options(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))


def test_options_go_where_they_are_understood() -> None:
    url = "postgresql://user@db/airflow?sslmode=require&connect_timeout=5&keepalives_idle=30&options=-csearch_path%3Da"
    shared = {"options": "-csearch_path=a"}
    libpq = {**shared, "sslmode": "require", "connect_timeout": "5", "keepalives_idle": "30"}
    assert options(databases.airflow_url(url)) == libpq
    assert options(databases.libpq_dsn(url)) == libpq
    assert options(databases.asyncpg_dsn(url)) == {**shared, "sslmode": "require"}
    assert options(databases.airflow_async_url(url)) == {**shared, "ssl": "require"}


def test_unix_sockets() -> None:
    url = "postgresql://user@/airflow?host=/run/postgresql"
    assert databases.libpq_dsn(url) == "postgresql://user@/airflow?host=%2Frun%2Fpostgresql"
    assert databases.asyncpg_dsn(url) == "postgresql://user@/airflow?host=%2Frun%2Fpostgresql"


def test_several_hosts() -> None:
    url = "postgresql+psycopg2://user@/airflow?host=one:5433&host=two&target_session_attrs=read-write"
    expected = {"host": "one,two", "port": "5433,5432", "target_session_attrs": "read-write"}
    assert options(databases.libpq_dsn(url)) == expected
    assert options(databases.asyncpg_dsn(url)) == expected


def test_passwords_are_not_shown() -> None:
    assert databases.redacted("postgresql://user:secret@db/airflow") == "postgresql://user:***@db/airflow"
