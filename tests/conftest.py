"""Fixtures that several suites share: a real PostgreSQL for the whole run, and databases in it that cost milliseconds.

``postgres_url`` leads to the embedded server, without durability, or to the one that ``ISTHMUS_TEST_POSTGRES_URL``
names (its role must be a superuser). ``new_database`` makes databases that are dropped after the test;
``airflow_database`` is one with Airflow's schema and ours, migrated once a run and emptied before each test.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from isthmus.deployment import databases, embedded

#: ``api``: a Remote Execution API process.
pytest_plugins = ["tests.apis", "tests.submitting"]

_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a database of a real PostgreSQL, in which other databases can be created."""
    given = os.environ.get("ISTHMUS_TEST_POSTGRES_URL")
    if given:
        yield databases.airflow_url(given)
        return
    directory = Path(tempfile.mkdtemp(prefix="isthmus-test-postgres-"))
    directory.chmod(0o711)  # as root the server runs as another user
    try:
        with embedded.start(directory, settings=_FAST) as server:
            yield server.database_url("postgres")
    finally:
        shutil.rmtree(directory)


def _execute(url: str, statement: str) -> None:
    with databases.connected(url) as connection, connection.cursor() as cursor:
        cursor.execute(statement)


@contextlib.contextmanager
def _database(postgres_url: str, template: str | None = None) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    _execute(postgres_url, f'CREATE DATABASE "{name}"' + (f' TEMPLATE "{template}"' if template else ""))
    try:
        yield make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    finally:
        _execute(postgres_url, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def new_database(postgres_url: str) -> Iterator[Callable[[], str]]:
    """A function that makes an empty database and returns its URL."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(_database(postgres_url))


@pytest.fixture(scope="session")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An AIRFLOW_HOME for the whole run."""
    return tmp_path_factory.mktemp("airflow")


@pytest.fixture(scope="session")
def airflow_environment(airflow_home: Path) -> Callable[[str], dict[str, str]]:
    """A function from a database's URL to the environment of a quiet Airflow on it."""

    def environment(url: str) -> dict[str, str]:
        return {
            "AIRFLOW_HOME": str(airflow_home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "RemoteExecutor:isthmus.deployment.executor.RemoteExecutor",
            "AIRFLOW__CORE__FERNET_KEY": "",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__API_AUTH__JWT_SECRET": "a-secret-for-tests-that-is-long-enough-for-hs512-" * 2,
            "AIRFLOW__API__SECRET_KEY": "a-secret-for-tests",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": databases.airflow_url(url),
            "AIRFLOW__ISTHMUS__DEPLOYMENT_ID": "dtest234",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        }

    return environment


@pytest.fixture(scope="session")
def airflow_template(postgres_url: str, airflow_environment: Callable[[str], dict[str, str]]) -> Iterator[str]:
    """The name of a database that ``airflow db migrate`` has just made, as a template for others."""
    with _database(postgres_url) as url:
        subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"],
            env={"PATH": os.environ["PATH"], **airflow_environment(url)},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        name = make_url(url).database
        assert name is not None
        yield name


#: Everything but what migrations put there. Deleting from empty tables is forty times as fast as cloning a database.
_EMPTY = """
    DO $$
    DECLARE name text;
    BEGIN
        PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid();
        PERFORM set_config('session_replication_role', 'replica', true);  -- no foreign keys, so no order
        FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public'
            AND tablename NOT IN ('alembic_version', 'isthmus_alembic_version', 'log_template', 'slot_pool')
        LOOP
            EXECUTE format('DELETE FROM %I', name);
        END LOOP;
    END $$
"""


@pytest.fixture(scope="session")
def airflow_clone(postgres_url: str, airflow_template: str) -> Iterator[str]:
    """The URL of the database behind ``airflow_database``."""
    with _database(postgres_url, airflow_template) as url:
        yield url


@pytest.fixture
def airflow_database(airflow_clone: str) -> str:
    """The URL of a database with Airflow's schema and ours, empty. A test that changes the schema changes it back."""
    _execute(airflow_clone, _EMPTY)
    return airflow_clone
