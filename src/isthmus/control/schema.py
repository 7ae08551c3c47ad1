"""The tables of a database: made, brought up to date, compared. ``isthmus control migrate`` calls this.

Two processes that migrate at once do so one after the other: the second finds nothing to do.
"""

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from isthmus.control.databases import LEAST_MAJOR_VERSION, Database
from isthmus.control.tables import SCHEMA
from isthmus.kit.errors import ConfigError

VERSION_TABLE: Final = "alembic_version"
#: "isthctrl": held while tables change.
_LOCK: Final = 0x697374686374726C

_FOLDER: Final = Path(__file__).parent / "migrations"


async def migrate(database: Database) -> str:
    """Create or upgrade the tables; the revision that they have then. Raises ConfigError, DatabaseError."""
    async with database.begin() as connection:
        await connection.run_sync(_upgrade)
        return await connection.run_sync(_revision) or ""


async def check(database: Database) -> None:
    """Raise ConfigError unless the tables are of this version, DatabaseError if nobody answers."""
    async with database.begin() as connection:
        found = await connection.run_sync(_revision)
    expected = ScriptDirectory.from_config(_config()).get_current_head()
    if found != expected:
        raise ConfigError(
            f"the database has the tables of revision {found or 'none'}; this version needs {expected}",
            code="database_not_migrated",
            hint="Run: isthmus control migrate",
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER))
    return config


def _upgrade(connection: Connection) -> None:
    number = int(connection.execute(text("SHOW server_version_num")).scalar_one())
    if number < LEAST_MAJOR_VERSION * 10_000:
        raise ConfigError(
            f"the database is PostgreSQL {number // 10_000}; Isthmus needs {LEAST_MAJOR_VERSION} or later",
            code="database_too_old",
            hint=f"Upgrade the server to PostgreSQL {LEAST_MAJOR_VERSION} or later.",
        )
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _revision(connection: Connection) -> str | None:
    if connection.execute(text("SELECT to_regclass(:name)"), {"name": f"{SCHEMA}.{VERSION_TABLE}"}).scalar() is None:
        return None
    context = MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE, "version_table_schema": SCHEMA}
    )
    return context.get_current_revision()
