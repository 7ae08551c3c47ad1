"""PostgreSQL and redis, started once and shared by all stacks.

PostgreSQL is the embedded one that Isthmus itself starts by default, with its own settings except for the number of
connections. Each executor gets a database of its own, all copies of one that was migrated once, so that all start from
the same state.
"""

import subprocess
from collections.abc import Mapping
from contextlib import closing

import psycopg2
import psycopg2.extensions

from bench import components, places
from isthmus.deployment import embedded

TEMPLATE = "bench_template"


class Database:
    """The PostgreSQL server of a benchmark."""

    def __init__(self) -> None:
        """Start it; it dies with this process."""
        self._server = embedded.start(places.POSTGRES, settings={"max_connections": "300"})

    @property
    def pid(self) -> int:
        """The pid of the postmaster."""
        return self._server.pid

    def url(self, name: str, driver: str = "psycopg2") -> str:
        """The SQLAlchemy URL of a database."""
        return self._server.database_url(name).replace("+psycopg2", f"+{driver}", 1)

    def dsn(self, name: str) -> str:
        """The libpq URL of a database."""
        return self._server.database_url(name).replace("+psycopg2", "", 1)

    def connect(self, name: str) -> psycopg2.extensions.connection:
        """A connection that commits each statement."""
        connection = psycopg2.connect(self.dsn(name))
        connection.autocommit = True
        return connection

    def create(self, name: str, template: str = "template1") -> None:
        """Create a database anew, as a copy of ``template``."""
        with closing(self.connect("postgres")) as connection, connection.cursor() as cursor:
            cursor.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            cursor.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')

    def migrate(self, environment: Mapping[str, str]) -> None:
        """Create the template that the executors' databases are copies of."""
        self.create(TEMPLATE)
        log = places.LOGS / "migrate.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            ended = subprocess.run(
                [places.VENV / "bin" / "airflow", "db", "migrate"],
                env=dict(environment),
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if ended.returncode:
            raise components.ComponentError(f"airflow db migrate failed, see {log}")

    def stop(self) -> None:
        """Stop the server."""
        self._server.stop()


def start_redis(program: str, port: int, environment: Mapping[str, str]) -> components.Component:
    """A redis that keeps nothing, on loopback."""
    return components.Component(
        "redis",
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
        environment=environment,
        log=places.LOGS / "redis.log",
    )
