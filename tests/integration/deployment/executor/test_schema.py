"""The tables: made by ``airflow db migrate``, and the same whether created at once or by every migration in turn."""

# ruff: noqa: PLC0415 - Airflow is imported by the fixture that sets its environment

from collections.abc import Callable
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from isthmus.deployment import databases, tables
from isthmus.kit.errors import ConfigError

_COLUMNS = """
    SELECT table_name, column_name, data_type, udt_name, is_nullable, column_default, ordinal_position
    FROM information_schema.columns WHERE table_name LIKE 'isthmus%' AND table_name <> 'isthmus_alembic_version'
    ORDER BY 1, 2
"""
_INDEXES = (
    "SELECT indexdef FROM pg_indexes WHERE tablename LIKE 'isthmus%' AND tablename NOT LIKE '%alembic%' ORDER BY 1"
)
_CONSTRAINTS = """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid::regclass::text LIKE 'isthmus%' AND conrelid::regclass::text NOT LIKE '%alembic%' ORDER BY 1, 2
"""


def shape(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Columns, indexes and constraints of our tables, as PostgreSQL describes them."""
    with databases.connected(url) as connection, connection.cursor() as cursor:
        found = {}
        for name, query in (("columns", _COLUMNS), ("indexes", _INDEXES), ("constraints", _CONSTRAINTS)):
            cursor.execute(query)
            found[name] = cursor.fetchall()
        return found


def migrate(url: str, revision: str = "heads", *, down: bool = False) -> None:
    from isthmus.deployment import schema

    engine = create_engine(databases.airflow_url(url))
    config = Config(str(schema.FOLDER / "alembic.ini"))
    try:
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            (command.downgrade if down else command.upgrade)(config, revision)
            connection.commit()
    finally:
        engine.dispose()


def test_migrating_and_creating_lead_to_the_same_schema(airflow_url: str, new_database: Callable[[], str]) -> None:
    migrated, created = new_database(), new_database()
    migrate(migrated)
    engine = create_engine(databases.airflow_url(created))
    tables.metadata.create_all(engine)
    engine.dispose()
    assert shape(migrated) == shape(created)
    assert shape(migrated)["columns"]


def test_there_is_nothing_left_to_migrate(airflow_url: str, new_database: Callable[[], str]) -> None:
    url = new_database()
    migrate(url)
    engine = create_engine(databases.airflow_url(url))
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "include_name": lambda name, *_: name != "isthmus_alembic_version"}
        )
        assert compare_metadata(context, tables.metadata) == []
    engine.dispose()


def test_every_migration_can_be_taken_back(airflow_url: str, new_database: Callable[[], str]) -> None:
    url = new_database()
    migrate(url)
    migrate(url, "base", down=True)
    assert shape(url) == {"columns": [], "indexes": [], "constraints": []}


def test_airflow_db_migrate_has_made_the_tables(airflow_database: str) -> None:
    """The template was made by nothing but ``airflow db migrate``: it found us by the provider's metadata."""
    from isthmus.deployment.schema import IsthmusDBManager

    assert {row[0] for row in shape(airflow_database)["columns"]} == set(tables.metadata.tables)
    with databases.connected(airflow_database) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT version_num FROM isthmus_alembic_version")
        assert cursor.fetchall() == [(IsthmusDBManager.revision_heads_map["0.1.0"],)]


def test_the_manager_knows_whether_the_tables_are_up_to_date(airflow_url: str) -> None:
    from airflow.utils.session import create_session

    from isthmus.deployment.schema import IsthmusDBManager

    with create_session() as session:
        manager = IsthmusDBManager(session)
        assert manager.check_migration()
        manager.upgradedb()
    with databases.connected(airflow_url) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE isthmus_alembic_version SET version_num = '0000'")
        try:
            with create_session() as session:
                assert not IsthmusDBManager(session).check_migration()
        finally:
            head = IsthmusDBManager.revision_heads_map["0.1.0"]
            cursor.execute("UPDATE isthmus_alembic_version SET version_num = %s", (head,))


def test_another_database_is_refused_where_the_executor_is_configured(
    airflow_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from isthmus.deployment.schema import IsthmusDBManager

    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "sqlite:////tmp/airflow.db")
    with pytest.raises(ConfigError) as caught:
        IsthmusDBManager(None).upgradedb()
    assert caught.value.code == "database_unsupported"


def test_an_old_postgresql_gets_no_tables(airflow_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from isthmus.deployment.schema import IsthmusDBManager

    monkeypatch.setattr(databases, "LEAST_MAJOR_VERSION", 99)
    with pytest.raises(ConfigError, match="database_too_old"):
        IsthmusDBManager(None).initdb()


def test_another_database_is_left_alone_where_it_is_not(airflow_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an agent, which has the package and no use for the tables."""
    from isthmus.deployment.schema import IsthmusDBManager

    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "sqlite:////tmp/airflow.db")
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "LocalExecutor")
    manager = IsthmusDBManager(None)
    manager.upgradedb()
    manager.initdb()
    assert manager.check_migration()
