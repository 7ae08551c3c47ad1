"""Files of task logs, opened so that nothing but a task's log can come out.

The path comes from the plane and the files from tasks, and neither is trusted. A path leads down from the log folder by
plain names, one directory at a time, and no step of it follows a link; what is at its end is a regular file with one
name, and not the control process's own. Where tasks run as another user, files are opened with that user's rights: a
log can hold nothing that a task could not have read by itself.
"""

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Final

from isthmus.kit import processes
from isthmus.kit.errors import PermanentError
from isthmus.wire.logs import LogFault

#: Airflow's templates make four or five steps.
_MOST_STEPS: Final = 16
_NAME_BYTES: Final = 255
#: Triggerers that wrote beside one task: one for each instance of an agent that ran its trigger.
_MOST_TRIGGER_FILES: Final = 32
#: Names looked at for them.
_MOST_NAMES: Final = 10_000

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Without waiting: a pipe that somebody put there has no writer.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class LogFileError(PermanentError):
    """There is no log to give; ``fault`` is what the plane is told."""

    def __init__(self, fault: LogFault, summary: str) -> None:
        super().__init__(summary, code=f"log_{fault.value}")
        self.fault = fault


def folder_of(environment: Mapping[str, str], told: str = "") -> Path:
    """Where tasks write their logs: as their fork server says, or as Airflow would find it in ``environment``."""
    if told:
        return Path(told)
    home = environment.get("AIRFLOW_HOME") or str(Path(environment.get("HOME") or "/") / "airflow")
    return Path(environment.get("AIRFLOW__LOGGING__BASE_LOG_FOLDER") or Path(home) / "logs")


def steps_of(path: str) -> list[str]:
    """The names that lead to a log. Raises LogFileError for a path that is not plain."""
    steps = path.split("/")
    for step in steps:
        if step in {"", ".", ".."} or "\0" in step or len(os.fsencode(_encodable(step))) > _NAME_BYTES:
            raise LogFileError(LogFault.REFUSED, "the path is not a plain one below the log folder")
    if len(steps) > _MOST_STEPS:
        raise LogFileError(LogFault.REFUSED, "the path has too many steps")
    return steps


def open_log(folder: Path, path: str, user: processes.User | None) -> BinaryIO:
    """The log at ``path`` below ``folder``, read with the rights of ``user``. Raises LogFileError."""
    *directories, name = steps_of(path)
    with processes.files_as(user):
        directory = _descend(folder, directories)
        try:
            return _open(directory, name, foreign=user is not None)
        finally:
            os.close(directory)


def open_trigger_logs(folder: Path, path: str, user: processes.User | None) -> list[BinaryIO]:
    """What triggers wrote beside the log at ``path``, oldest first. Raises LogFileError when there is nothing."""
    *directories, name = steps_of(path)
    prefix = f"{name}.trigger."
    opened: list[BinaryIO] = []
    with processes.files_as(user):
        directory = _descend(folder, directories)
        try:
            names: list[str] = []
            with os.scandir(directory) as entries:
                for number, entry in enumerate(entries):
                    if number >= _MOST_NAMES:
                        break
                    if entry.name.startswith(prefix) and entry.name.endswith(".log"):
                        names.append(entry.name)
            for found in sorted(names, key=lambda one: (len(one), one))[:_MOST_TRIGGER_FILES]:
                try:
                    opened.append(_open(directory, found, foreign=user is not None))
                except LogFileError:
                    continue  # the others are logs all the same
        except OSError as error:
            raise _fault_of(error) from None
        finally:
            os.close(directory)
    if not opened:
        raise LogFileError(LogFault.MISSING, "no trigger has written here")
    return opened


def _descend(folder: Path, names: list[str]) -> int:
    """A descriptor of the directory; the folder itself may be a link, because whoever set the agent up named it."""
    try:
        directory = os.open(folder, _DIRECTORY & ~os.O_NOFOLLOW)
        for name in names:
            upper = directory
            try:
                directory = os.open(_encodable(name), _DIRECTORY, dir_fd=upper)
            finally:
                os.close(upper)
    except OSError as error:
        raise _fault_of(error) from None
    return directory


def _open(directory: int, name: str, *, foreign: bool) -> BinaryIO:
    try:
        descriptor = os.open(_encodable(name), _FILE, dir_fd=directory)
    except OSError as error:
        raise _fault_of(error) from None
    found = os.fstat(descriptor)
    refused = ""
    if not stat.S_ISREG(found.st_mode):
        refused = "it is no regular file"
    elif found.st_nlink > 1:
        refused = "it has other names as well"
    elif foreign and found.st_uid == os.geteuid():
        refused = "it is the agent's own"
    if refused:
        os.close(descriptor)
        raise LogFileError(LogFault.REFUSED, refused)
    return os.fdopen(descriptor, "rb", buffering=0)


def _encodable(name: str) -> str:
    """Half of a surrogate pair cannot be in a name that the plane's database has held; here it must not be an error."""
    return name.encode("utf-8", "replace").decode("utf-8")


def _fault_of(error: OSError) -> LogFileError:
    match error.errno:
        case errno.ENOENT:
            return LogFileError(LogFault.MISSING, "there is no such file")
        case errno.ELOOP | errno.ENOTDIR:
            return LogFileError(LogFault.REFUSED, "a step of the path is a link, or no directory")
        case errno.EACCES | errno.EPERM:
            return LogFileError(LogFault.REFUSED, "the tasks' user may not read it")
        case errno.ENXIO:
            return LogFileError(LogFault.REFUSED, "it is no regular file")
        case _:
            return LogFileError(LogFault.FAILED, os.strerror(error.errno or 0))
