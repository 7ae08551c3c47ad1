"""A whole deployment on one machine: its database, its programs, when each is ready, and where it can be looked at.

``opened`` reads or makes a deployment's directory and starts the embedded PostgreSQL if the directory has one; a
``Stack`` is the programs on top. Invariants: the programs get exactly the deployment's environment and nothing of the
terminal's; a directory is used by one stack at a time.
"""

import fcntl
import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import httpx

from isthmus.cli.airflows import Airflow
from isthmus.cli.calling import internal_url
from isthmus.cli.composing import Program, ProgramError
from isthmus.deployment import embedded, initializing
from isthmus.deployment.initializing import Deployment, DeploymentSpec
from isthmus.kit import processes
from isthmus.kit.errors import NotFoundError, PermanentError
from isthmus.wire.names import Role

#: Our command line, of this Python.
COMMAND: Final = (sys.executable, "-m", "isthmus.cli.main")

API_SERVER: Final = "Airflow API server"
SCHEDULER: Final = "Airflow scheduler"
DAG_PROCESSOR: Final = "Airflow DAG processor"
TRIGGERER: Final = "Airflow triggerer"
REMOTE_EXECUTION_API: Final = "Remote Execution API"

#: In the environment file: where the embedded PostgreSQL is, if there is one.
_POSTGRES: Final = "ISTHMUS_EMBEDDED_POSTGRES"

#: A cold start on a small machine, where four programs import Airflow at once.
_READY_SECONDS: Final = 180.0


class BusyError(PermanentError):
    """The directory is in use by another process of ours."""


def free_port(preferred: int, host: str = "127.0.0.1", taken: tuple[int, ...] = ()) -> int:
    """``preferred`` if nothing listens there, else a port that is free now."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            found = int(probe.getsockname()[1])
            if found not in taken:
                return found
    return free_port(0, host, taken)


def bare_environment() -> dict[str, str]:
    """What any program needs of a system, and nothing else of the terminal that we were started from."""
    kept = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR")
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", **{name: os.environ[name] for name in kept if name in os.environ}}


def find_postgres(directory: Path) -> Path | None:
    """The directory of the embedded PostgreSQL of a deployment's directory; None if its database is another.

    A directory that is not a deployment's yet gets an embedded one.
    """
    try:
        kept = initializing.load(directory).environment.get(_POSTGRES)
    except NotFoundError:
        return directory / "postgres"
    return Path(kept) if kept else None


@contextmanager
def opened(spec: DeploymentSpec, postgres: Path | None) -> Iterator[Deployment]:
    """The deployment that ``spec`` describes, with its database running; alone in its directory.

    ``postgres`` is the directory of its embedded PostgreSQL, which is made if needed; None for a deployment with a
    database of its own. Raises BusyError, and what ``embedded`` and ``initializing`` raise.
    """
    with ExitStack() as stack:
        stack.enter_context(alone(spec.directory))
        url = spec.database_url
        if postgres is not None:
            url = stack.enter_context(embedded.start(postgres)).url  # its port may have changed
        kept = {_POSTGRES: "" if postgres is None else str(postgres.absolute())}
        yield initializing.initialize(replace(spec, database_url=url, environment={**spec.environment, **kept}))


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Have ``directory``, which is made if needed, for this process alone. Raises BusyError."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("a+", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise BusyError(
                f"{directory} is in use by process {lock.read().strip() or 'unknown'}",
                code="directory_busy",
                hint="Stop that one first (Ctrl-C, or kill with its number).",
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@dataclass(frozen=True, slots=True)
class Stack:
    """The programs of one deployment whose database runs; ``postgres`` is its directory if it is an embedded one."""

    deployment: Deployment
    postgres: Path | None

    @property
    def logs(self) -> Path:
        """Where each program has its log."""
        return self.deployment.directory / "logs"

    @property
    def admin_url(self) -> str:
        """The internal listener."""
        config = self.deployment.config
        return internal_url(config.admin_host, config.admin_port)

    @property
    def password_file(self) -> Path:
        """Where Airflow's simple auth manager writes the passwords that it makes."""
        return self.deployment.directory / "airflow" / "simple_auth_manager_passwords.json.generated"

    def migrate(self) -> bool:
        """Create or upgrade the tables of Airflow and of Isthmus; False if these versions did so before.

        Asking the database by ``airflow db migrate`` takes seconds of imports, so that what was done to an embedded
        one, which is ours alone, is remembered beside it. Raises ProgramError.
        """
        mark = None if self.postgres is None else self.postgres / "migrated"
        wanted = self._fingerprint()
        if mark is not None and mark.exists() and mark.read_text() == wanted:
            return False
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / "migrate.log"
        with log.open("wb") as file:
            process = processes.spawn(
                (sys.executable, "-m", "airflow", "db", "migrate"),
                environment=self._environment(),
                stdout=file.fileno(),
                stderr=subprocess.STDOUT,
            )
            code = process.wait()
        if code != 0:
            tail = "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-15:])
            raise ProgramError(
                f"airflow db migrate ended with code {code}",
                code="migration_failed",
                hint=f"the end of {log}:\n{tail}",
            )
        if mark is not None:
            mark.write_text(wanted)
        return True

    def programs(self, airflow: Airflow) -> tuple[Program, ...]:
        """Ours, and those of Airflow whose work agents do not do, in the order in which they are started."""
        began = datetime.now(UTC)
        port = self.deployment.environment["AIRFLOW__API__PORT"]
        roles = self.deployment.config.roles
        programs = [
            self._program(REMOTE_EXECUTION_API, ("isthmus.cli.main", "api"), self._api_is_up),
            self._program(
                API_SERVER,
                # The Execution API is served to agents by our own process, and by no other.
                ("airflow", "api-server", "--apps", "core", "--port", port, "--workers", "1"),
                lambda: airflow.health() is not None,
            ),
            self._program(
                SCHEDULER, ("airflow", "scheduler", "--skip-serve-logs"), lambda: airflow.beats("scheduler", began)
            ),
        ]
        if Role.DAG_PROCESSOR not in roles:
            programs.append(
                self._program(
                    DAG_PROCESSOR, ("airflow", "dag-processor"), lambda: airflow.beats("dag_processor", began)
                )
            )
        if Role.TRIGGERER not in roles:
            programs.append(
                self._program(
                    TRIGGERER, ("airflow", "triggerer", "--skip-serve-logs"), lambda: airflow.beats("triggerer", began)
                )
            )
        return tuple(programs)

    def _program(self, name: str, module: tuple[str, ...], ready: Callable[[], bool]) -> Program:
        return Program(
            name=name,
            command=(sys.executable, "-m", *module),
            environment=self._environment(),
            log=self.logs / f"{name.lower().replace(' ', '-')}.log",
            ready=ready,
            ready_seconds=_READY_SECONDS,
        )

    def _environment(self) -> dict[str, str]:
        return {**bare_environment(), **self.deployment.environment}

    def _fingerprint(self) -> str:
        """Which versions' tables are in which database."""
        migrations = (Path(initializing.__file__).parent / "migrations" / "versions").glob("*.py")
        parts = [version("apache-airflow-core"), self.deployment.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]]
        parts += sorted(path.name for path in migrations)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _api_is_up(self) -> bool:
        try:
            return httpx.get(f"{self.admin_url}/healthz", timeout=2.0, trust_env=False).is_success
        except httpx.TransportError:
            return False
