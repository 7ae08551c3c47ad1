"""Where the demo's agent lives: as far from the plane as one machine allows.

As root, the agent's control process and its tasks get two user numbers that nobody else has, directories that only
they read, and a Python that these users can run. If the checkout is shut to other users (a clone below ``/root``) the
Python environment is copied, by hard links where possible, to where they can read it. Without root, or without such a
Python, everything runs as one user; the notes say so.
"""

import contextlib
import hashlib
import os
import pwd
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import isthmus
from isthmus.kit import processes

#: Where copies go when we are root; open to all, like the rest of /var/lib.
SHARED_DIRECTORY: Final = Path("/var/lib/isthmus")

#: systemd hands these numbers out to services that need a user for a while (systemd.exec, DynamicUser=).
_FREE_NUMBERS: Final = range(61184, 65520)

_SOURCE: Final = Path(isthmus.__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class AgentPlace:
    """Directories, users and the Python of one agent."""

    #: Only the control process's user reads it: the token, the settings.
    control: Path
    #: Only the tasks' user reads it: Airflow's home and the logs.
    tasks: Path
    #: The agent's own copy of DAGs and data.
    bundle: Path
    #: The agent's state directory.
    state: Path
    python: Path
    control_user: processes.User | None
    task_user: processes.User | None
    notes: tuple[str, ...] = field(default=())

    @property
    def is_split(self) -> bool:
        """Whether control process and tasks run as different users."""
        return self.control_user is not None


def prepare(directory: Path, examples: Path, *, python: Path | None = None) -> AgentPlace:
    """Make the agent's place, with a fresh copy of ``examples``. ``directory`` is used if other users can enter it.

    ``python`` is the one that another place of this machine got, which this one can share.
    """
    python = python or Path(sys.executable)
    control_user = task_user = None
    notes: list[str] = []
    if os.geteuid() != 0:
        notes.append(
            "not root: the agent's control process and its tasks run as you; in production they have two users"
        )
    else:
        control_user, task_user = _two_users()
        shared = shared_directory(directory)
        if not _can_run(python, control_user):
            python = _copied_python(shared)
        if not _can_run(python, control_user):
            control_user = task_user = None
            python = Path(sys.executable)
            notes.append(f"other users cannot run {python.resolve()}: control process and tasks run as root here")
        elif not _open(directory):
            notes.append(f"other users cannot read {directory}: the agent lives in {shared}")
            directory = shared
    place = AgentPlace(
        control=directory / "control",
        tasks=directory / "tasks",
        bundle=directory / "bundle",
        state=directory / "state",
        python=python,
        control_user=control_user,
        task_user=task_user,
        notes=tuple(notes),
    )
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755 if place.is_split else 0o700)
    for path, user in ((place.control, control_user), (place.tasks, task_user)):
        path.mkdir(exist_ok=True)
        path.chmod(0o700)
        if user is not None:
            os.chown(path, user.uid, user.gid)
    shutil.rmtree(place.bundle, ignore_errors=True)
    shutil.copytree(examples, place.bundle, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (place.bundle, *place.bundle.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return place


def write_private(path: Path, text: str, user: processes.User | None) -> None:
    """Write a file that only ``user`` (or we) can read."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        if user is not None:
            os.fchown(file.fileno(), user.uid, user.gid)
        file.write(text)


def remove(directory: Path) -> None:
    """Remove what ``prepare`` made elsewhere."""
    shared = shared_directory(directory)
    if shared.exists():
        shutil.rmtree(shared)


def _two_users() -> tuple[processes.User, processes.User]:
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    free = (number for number in _FREE_NUMBERS if number not in taken)
    control, tasks = (processes.find_user(f"{number}:{number}") for number in (next(free), next(free)))
    return control, tasks


def shared_directory(directory: Path) -> Path:
    """Where the agent lives instead when other users cannot enter ``directory``."""
    return SHARED_DIRECTORY / f"demo-{hashlib.sha256(os.fsencode(directory.absolute())).hexdigest()[:12]}"


def _open(directory: Path) -> bool:
    """Whether any user can enter ``directory`` by way of its parents."""
    return all(parent.stat().st_mode & 0o001 for parent in directory.absolute().parents if parent.exists())


def _can_run(python: Path, user: processes.User) -> bool:
    """Whether ``user`` can run ``python`` and import from it what an agent needs."""
    code = "import importlib.util as u, isthmus.kit.errors, sys; sys.exit(u.find_spec('airflow') is None)"
    with contextlib.suppress(OSError):
        done = subprocess.run(
            [python, "-c", code],
            env={"PATH": "/usr/bin:/bin"},
            cwd="/",
            user=user.uid,
            group=user.gid,
            extra_groups=user.groups,
            capture_output=True,
            check=False,
        )
        return done.returncode == 0
    return False


def _copied_python(shared: Path) -> Path:
    """A copy of this virtual environment and of the package's source, for other users to read."""
    venv, source = shared / "venv", shared / "src"
    stamp = Path(sys.prefix) / "pyvenv.cfg"
    if not venv.exists() or (venv / "pyvenv.cfg").stat().st_mtime != stamp.stat().st_mtime:
        SHARED_DIRECTORY.mkdir(mode=0o755, parents=True, exist_ok=True)
        draft = shared / "venv.new"
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(venv, ignore_errors=True)
        shutil.copytree(sys.prefix, draft, symlinks=True, copy_function=_link_or_copy)
        for path in draft.glob("lib/python*/site-packages/*.pth"):
            text = path.read_text(encoding="utf-8")
            if str(_SOURCE) in text:  # an editable install: never write through the link
                path.unlink()
                path.write_text(text.replace(str(_SOURCE), str(source)), encoding="utf-8")
        draft.rename(venv)
        shared.chmod(0o755)
    if _SOURCE.name == "src":  # an editable install
        shutil.rmtree(source, ignore_errors=True)
        shutil.copytree(_SOURCE, source)
        for path in (source, *source.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
    return venv / "bin" / "python"


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
