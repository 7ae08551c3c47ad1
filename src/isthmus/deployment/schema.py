"""The tables' manager, through which ``airflow db migrate`` creates and upgrades them.

Airflow finds it in the provider's metadata and runs it after its own migrations, under its own lock. A new database
gets the tables from ``tables.metadata``; an older one gets there by ``migrations``, which must lead to the very same
schema (a test compares the two). The revision is kept in a table of our own, so Airflow's and ours never meet.

Airflow installations that merely have the package, such as an agent's, may use any database: they are left alone.
"""

from pathlib import Path
from typing import Any, Final

from sqlalchemy.orm import Session

from isthmus.deployment import compat, databases, provider, tables
from isthmus.kit.errors import ConfigError

VERSION_TABLE: Final = "isthmus_alembic_version"
FOLDER: Final = Path(__file__).parent / "migrations"


class IsthmusDBManager(compat.BaseDBManager):
    """Airflow's interface to our schema. See ``airflow.utils.db_manager``."""

    metadata = tables.metadata
    migration_dir = str(FOLDER)
    alembic_file = str(FOLDER / "alembic.ini")
    version_table_name = VERSION_TABLE
    supports_table_dropping = True
    revision_heads_map = {"0.1.0": "0011"}  # noqa: RUF012 - declared so by Airflow

    def initdb(self, *arguments: Any, **options: Any) -> None:
        """Create the tables of a new database. Raises ConfigError where it is not PostgreSQL 14 or later."""
        if self._is_ours():
            databases.check(compat.database_url())
            manager: Any = super()  # untyped in Airflow, as the two below
            manager.initdb(*arguments, **options)

    def upgradedb(self, *arguments: Any, **options: Any) -> None:
        """Create or upgrade the tables. Raises ConfigError where the database is not PostgreSQL 14 or later."""
        if self._is_ours():
            databases.check(compat.database_url())
            manager: Any = super()
            manager.upgradedb(*arguments, **options)

    def check_migration(self) -> bool:
        """Whether the tables are of this version."""
        manager: Any = super()
        return bool(manager.check_migration()) if self._is_ours() else True

    def _is_ours(self) -> bool:
        """Whether this database is to hold our tables.

        Raises ConfigError where the executor is configured and the database is not PostgreSQL.
        """
        try:
            databases.airflow_url(compat.database_url())
        except ConfigError as error:
            if compat.is_configured_executor(provider.EXECUTOR):
                error.add_note(error.hint)  # Airflow prints the traceback and nothing else of ours
                raise
            self.log.info("No tables of Isthmus here: its executor is not configured and this is not PostgreSQL")
            return False
        return True


def is_current(session: Session) -> bool:
    """Whether the database that ``session`` is on has our tables in this version."""
    manager: Any = IsthmusDBManager  # Airflow's constructor is untyped
    return bool(manager(session).check_migration())
