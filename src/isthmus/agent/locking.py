"""One instance of an agent at a time (ADR 0006).

The control process locks a file in its state directory, and the fork server and the supervisors inherit the
descriptor. A lock of this kind (flock(2)) belongs to the open file and not to a process, so it is held until the last
of them is gone: whoever gets it knows that no process of an earlier instance is left, however that one ended.
"""

import errno
import fcntl
import os
import time
from pathlib import Path

from isthmus.kit.errors import ConfigError, TemporaryError
from isthmus.kit.logs import get

log = get(component="locking")

_LOOK_AGAIN_SECONDS = 0.1


def lock(state_dir: Path, *, wait_seconds: float) -> int:
    """The descriptor that holds the lock. Waits for the processes of a former instance.

    Raises TemporaryError when they do not end in time, and ConfigError when the directory cannot be used.
    """
    path = state_dir / "lock"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ConfigError(
            f"the state directory {state_dir} cannot be used: {error.strerror}",
            code="state_dir_unusable",
            hint="Name one with state_dir that the agent's user may write.",
        ) from None
    deadline = time.monotonic() + wait_seconds
    told = False
    while not _try(fd):
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        if time.monotonic() >= deadline:
            os.close(fd)
            raise TemporaryError(
                f"processes of another instance (pid {holder}) still use {state_dir}",
                code="state_dir_locked",
                hint="Give every agent on a host a name or a state_dir of its own; end what is left of the old one.",
            )
        if not told:
            log.info("waiting for the processes of the former instance to end", pid=holder, state_dir=str(state_dir))
            told = True
        time.sleep(_LOOK_AGAIN_SECONDS)
    os.truncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _try(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EWOULDBLOCK, errno.EINTR}:
            return False
        raise
    return True
