"""Before the agent begins: its state directory, its lock, its sockets, and whom it runs as (ADR 0008).

Done by root where there are two users, and in this order: directories and the sockets get their owners, the lock is
won, and then the process becomes the control user with the three capabilities that it needs to start and to end the
fork server as somebody else. From then on nobody of the same user may read its memory either.
"""

import os
import socket
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from isthmus.agent import locking
from isthmus.agent.config import AgentConfig, Timing
from isthmus.kit import processes
from isthmus.kit.errors import ConfigError
from isthmus.kit.processes import Capability, User
from isthmus.wire.names import Role

_NEEDED = (Capability.SETUID, Capability.SETGID, Capability.KILL)
#: Waiting supervisors; each connects once.
_BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the control process was given to work with."""

    lock_fd: int
    #: One for each role.
    gateways: Mapping[Role, socket.socket]
    #: Whom the fork server runs as; None means like the control process.
    task_user: User | None
    #: Whether tasks run under the control process's own user.
    one_user: bool


def prepare(config: AgentConfig, timing: Timing) -> Prepared:
    """Set everything up and become the control user. Raises ConfigError, and TemporaryError for a held lock."""
    user = processes.find_user(config.user) if config.user is not None else None
    task_user = processes.find_user(config.task_user) if config.task_user is not None else None
    uid = os.geteuid() if user is None else user.uid
    separate = task_user is not None and task_user.uid != uid
    _check_powers(user, separate=separate)

    _make_directory(config.state_dir, 0o711, user)
    folder = config.gateway_socket().parent
    _make_directory(folder, 0o750 if separate else 0o700, user, group=task_user)
    if task_user is not None and separate:
        _check_reach(folder, task_user)
    lock_fd = locking.lock(config.state_dir, wait_seconds=timing.locking)
    gateways = {role: _bind(config.gateway_socket(role), user, group=task_user) for role in config.roles}
    if user is not None and os.geteuid() == 0:
        os.fchown(lock_fd, user.uid, user.gid)
        processes.drop_privileges(user, keep=_NEEDED if separate else ())
        os.environ.update(user.environment())
    processes.set_dumpable(False)
    processes.set_subreaper()
    return Prepared(lock_fd, gateways, task_user if separate else None, one_user=not separate)


def _check_powers(user: User | None, *, separate: bool) -> None:
    root = os.geteuid() == 0
    if user is not None and user.uid != os.geteuid() and not root:
        raise ConfigError(
            f"only root can become {user.name}",
            code="user_change_refused",
            hint="Start the agent as root, or drop user.",
        )
    if separate and not root and not all(map(processes.has_capability, _NEEDED)):
        raise ConfigError(
            "only root can run tasks as another user",
            code="user_change_refused",
            hint="Start the agent as root with user and task_user: it keeps three capabilities and nothing else.",
        )


def _make_directory(path: Path, mode: int, user: User | None, *, group: User | None = None) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        _set_mode(path, mode)
        _own(path, user, group)
    except OSError as error:
        raise ConfigError(
            f"the state directory {path} cannot be used: {error.strerror}",
            code="state_dir_unusable",
            hint="Name one with state_dir that the agent's user may write.",
        ) from None


def _set_mode(path: Path, mode: int) -> None:
    """Give ``path`` a mode, before it is given away: root without CAP_FOWNER may not change what others own.

    What a former start gave away is taken back for that; CAP_CHOWN, which the agent has, is enough.
    """
    found = path.stat()
    if stat.S_IMODE(found.st_mode) == mode:
        return
    if os.geteuid() == 0 and found.st_uid != 0:
        os.chown(path, 0, -1, follow_symlinks=False)
    path.chmod(mode)


def _own(path: Path, user: User | None, group: User | None) -> None:
    uid = -1 if user is None or os.geteuid() != 0 else user.uid
    gid = -1 if group is None else group.gid
    if group is None and uid != -1 and user is not None:
        gid = user.gid
    if (uid, gid) != (-1, -1):
        os.chown(path, uid, gid, follow_symlinks=False)


def _check_reach(folder: Path, user: User) -> None:
    """Whether ``user`` can walk down to ``folder``: a task that cannot would fail without a clear word."""
    for step in [*reversed(folder.parents), folder]:
        found = step.stat()
        if found.st_uid == user.uid:
            bit = stat.S_IXUSR
        elif found.st_gid in {user.gid, *user.groups}:
            bit = stat.S_IXGRP
        else:
            bit = stat.S_IXOTH
        if user.uid != 0 and not found.st_mode & bit:
            raise ConfigError(
                f"the task user {user.name} cannot enter {step}, where the agent's socket is",
                code="state_dir_unreachable",
                hint="Name a state_dir below directories that the task user may enter, such as /var/lib/isthmus.",
            )


def _bind(path: Path, user: User | None, *, group: User | None) -> socket.socket:
    """A listening socket at ``path`` for the control user and the task user's group."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)  # a former instance's, which is gone: we hold the lock
        # Nobody but root connects before the owner is set.
        mask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        _set_mode(path, 0o660)
        _own(path, user, group)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"the socket {path} cannot be made: {error.strerror}", code="state_dir_unusable") from None
    listener.setblocking(False)
    return listener
