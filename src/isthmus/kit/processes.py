"""Processes: their tree, their end, their privileges. Linux only; alone in talking to prctl, capset and ``/proc``.

Who kills whom rests on one fact of Linux: when a process dies, its children go to the nearest ancestor that called
``set_subreaper``. So a process that is a subreaper finds everything that was ever started below it, grandchildren
that called ``setsid`` included, among its descendants, and can end it all with ``sweep``. Neighbours: the fork server
and its supervisors (each a subreaper for its tasks), the agent's control process (a subreaper for the fork server).

Process ids are read and used at once; a pid is not kept for longer than its parent keeps it unreaped.
"""

import ctypes
import os
import pwd
import select
import signal
import subprocess
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Final

from isthmus.kit.errors import ConfigError, PermanentError

# <linux/prctl.h>
_PR_SET_PDEATHSIG: Final = 1
_PR_GET_DUMPABLE: Final = 3
_PR_SET_DUMPABLE: Final = 4
_PR_SET_KEEPCAPS: Final = 8
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

# <linux/capability.h>
_CAPABILITY_VERSION_3: Final = 0x20080522

#: Killed processes vanish within microseconds unless they hold much memory; looking again this soon costs little.
_SWEEP_PAUSE_SECONDS: Final = 0.002

_OOM_SCORE_ADJ_MAX: Final = 1000


class Capability(IntEnum):
    """The few capabilities that matter here, by their number in <linux/capability.h>."""

    KILL = 5
    SETGID = 6
    SETUID = 7


class ProcessError(PermanentError):
    """The kernel refused something that concerns a process."""


# --- what a process is towards its parent and its children -------------------------------------------------------


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, argument: int = 0) -> None:
    if _libc().prctl(option, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise ProcessError(f"prctl({option}, {argument}): {os.strerror(number)}", code="prctl_refused")


def set_subreaper() -> None:
    """Make the calling process the new parent of every orphan below it. Not inherited by children."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_dumpable(dumpable: bool) -> None:
    """Whether processes of the same user may read this process's memory and environment.

    False also gives ``/proc/<pid>`` to root; the execution of a program sets it back to True.
    """
    _prctl(_PR_SET_DUMPABLE, int(dumpable))


def die_with_parent(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Receive ``number`` when the calling process's parent dies.

    ``parent`` is the pid that the caller expects: if it is gone already, the signal is sent at once. Not inherited by
    children, and cleared by the execution of a set-user-id program.
    """
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def raise_oom_score(by: int) -> None:
    """Make the calling process die earlier than its parent when memory ends; children inherit it.

    Relative, because container runtimes set a value of their own. Raising needs no privilege, but ``/proc`` belongs to
    root for a process that is not dumpable: such a one is so for a moment. Call it before there are secrets.
    """
    path = Path("/proc/self/oom_score_adj")
    dumpable = _libc().prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) == 1
    if not dumpable:
        set_dumpable(True)
    with suppress(OSError):  # a read-only /proc: then the kernel's own choice stands
        path.write_text(str(min(_OOM_SCORE_ADJ_MAX, int(path.read_text()) + by)))
    if not dumpable:
        set_dumpable(False)


# --- the tree ----------------------------------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    """The pids of the children of ``pid``, zombies included; none when ``pid`` is gone."""
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                found.extend(map(int, (thread / "children").read_bytes().split()))
    return found


def descendants(pid: int, *, spared: Collection[int] = ()) -> list[int]:
    """Everything below ``pid``, parents before children; ``spared`` pids and what is below them are left out."""
    found: list[int] = []
    pending = [pid]
    while pending:
        below = [child for child in children(pending.pop()) if child not in spared]
        found += below
        pending += below
    return found


def _stat(pid: int) -> tuple[str, int] | None:
    """The state letter and the process group of ``pid``; None when it is gone."""
    try:
        # The name comes second, in parentheses, and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return fields[0].decode(), int(fields[2])


def is_alive(pid: int) -> bool:
    """Whether ``pid`` runs; a zombie does not."""
    stat = _stat(pid)
    return stat is not None and stat[0] not in "ZX"


def sweep(*, spared: Collection[int] = (), below: int | None = None) -> list[int]:
    """One round of killing: SIGKILL to everything below ``below`` (the caller by default) except ``spared`` trees.

    Reaps what is the caller's child: spare those whose exit status you want to read yourself. Returns the pids that
    it found, so only an empty list means that nothing is left. Repeat it until then: what is killed leaves its
    children to the next subreaper, and what forks as fast as it can shows itself by the zombies it leaves. Groups are
    signalled before single processes, because only that is atomic against a fork.
    """
    root = os.getpid() if below is None else below
    found: list[int] = []
    living: list[int] = []
    groups: set[int] = set()
    for pid in descendants(root, spared=spared):
        stat = _stat(pid)
        if stat is None:
            continue
        state, group = stat
        groups.add(group)
        if state not in "ZX":
            living.append(pid)
        elif root == os.getpid():
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        else:
            continue  # its parent's to reap, not ours
        found.append(pid)
    # Group 0 is one whose leader lives outside this process namespace, and means "my own" to killpg.
    groups -= {0, os.getpgid(0), *(stat[1] for pid in (root, *spared) if (stat := _stat(pid)))}
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    for pid in living:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return found


def kill_below(*, spared: Collection[int] = (), below: int | None = None, timeout_seconds: float = 5.0) -> list[int]:
    """``sweep`` until nothing is left, or ``timeout_seconds`` are over; returns what could not be killed.

    The caller has to be a subreaper, or ``below`` one of its descendants that is one. What stays is stuck in the
    kernel or belongs to another user.
    """
    deadline = time.monotonic() + timeout_seconds
    while left := sweep(spared=spared, below=below):
        if time.monotonic() >= deadline:
            return left
        time.sleep(_SWEEP_PAUSE_SECONDS)
    return []


def kill_of(pids: Collection[int], *, below: int) -> list[int]:
    """SIGKILL to those of ``pids`` that are below ``below``, whoever asks for it; returns those that it was sent to."""
    sent: list[int] = []
    for pid in descendants(below):
        if pid in pids:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
                sent.append(pid)
    return sent


def may_signal(pid: int) -> bool:
    """Whether the calling process may signal ``pid``; True when it is gone."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return True


def kill_tree(pid: int, *, timeout_seconds: float = 5.0) -> list[int]:
    """Kill and reap ``pid``, a child of the calling subreaper, and all below it; returns what could not be killed.

    Children of the caller that exist before the call are spared, the others are taken for what ``pid`` left behind.
    """
    others = [child for child in children(os.getpid()) if child != pid]
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
    return kill_below(spared=others, timeout_seconds=timeout_seconds)


# --- the end of one process --------------------------------------------------------------------------------------


def open_pidfd(pid: int) -> int:
    """A descriptor that becomes readable when ``pid`` ends. Close it."""
    return os.pidfd_open(pid)


def wait_pidfd(pidfd: int, timeout_seconds: float | None) -> bool:
    """Whether the process behind ``pidfd`` ended within ``timeout_seconds`` (None waits for ever)."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(None if timeout_seconds is None else timeout_seconds * 1000))


# --- users and privileges ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class User:
    """Whom a process runs as. Need not be in the password database: containers use bare numbers."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str
    home: str

    def may_enter(self, directory: Path) -> bool:
        """Whether the mode of ``directory`` lets this user reach what is in it; access control lists are not read."""
        stat = directory.stat()
        if self.uid == 0:
            return True
        if self.uid == stat.st_uid:
            return bool(stat.st_mode & 0o100)
        return bool(stat.st_mode & (0o010 if stat.st_gid in {self.gid, *self.groups} else 0o001))

    def environment(self) -> dict[str, str]:
        """What login programs set, which ``getpass.getuser`` and ``Path.home`` read."""
        return {"USER": self.name, "LOGNAME": self.name, "HOME": self.home}


def find_user(text: str) -> User:
    """The user called ``text``: a name, a number, or ``number:number`` with the group. Raises ConfigError."""
    user, _, group = text.partition(":")
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except KeyError:
        if not user.isdecimal():
            raise ConfigError(
                f"there is no user {user!r}", code="user_unknown", hint="create it, or give a number"
            ) from None
        gid = int(group or user)
        return User(int(user), gid, (gid,), user, "/")
    if group and not group.isdecimal():
        raise ConfigError(f"{group!r} is not a group number", code="user_unknown", hint="write it as number:number")
    gid = int(group) if group else entry.pw_gid
    return User(entry.pw_uid, gid, tuple(os.getgrouplist(entry.pw_name, gid)), entry.pw_name, entry.pw_dir)


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilitySets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _capability_sets() -> ctypes.Array[_CapabilitySets]:
    return (_CapabilitySets * 2)()


def has_capability(capability: Capability) -> bool:
    """Whether the calling thread may use ``capability``."""
    sets = _capability_sets()
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    if _libc().capget(ctypes.byref(header), sets) != 0:
        return False
    return bool(sets[capability // 32].effective >> (capability % 32) & 1)


def drop_privileges(user: User, *, keep: Iterable[Capability] = ()) -> None:
    """Become ``user`` for good, with the ``keep`` capabilities and no others. Root only; before any thread starts.

    Programs that are executed afterwards get none of them, because none is made inheritable. Raises ProcessError.
    """
    kept = tuple(keep)
    _prctl(_PR_SET_KEEPCAPS, 1)
    try:
        os.setgroups(user.groups)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    except PermissionError as error:
        raise ProcessError(
            f"cannot become user {user.name}: {error.strerror}", code="user_change_refused", hint="start as root"
        ) from error
    _prctl(_PR_SET_KEEPCAPS, 0)
    _libc().prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    sets = _capability_sets()
    for capability in kept:
        sets[capability // 32].effective |= 1 << capability % 32
        sets[capability // 32].permitted |= 1 << capability % 32
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    if _libc().capset(ctypes.byref(header), sets) != 0:
        raise ProcessError(f"capset: {os.strerror(ctypes.get_errno())}", code="capset_refused", hint="start as root")


def spawn(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    user: User | None = None,
    pass_fds: Collection[int] = (),
    stdin: int | None = subprocess.DEVNULL,
    stdout: int | None = None,
    stderr: int | None = None,
    cwd: str | None = None,
) -> subprocess.Popen[bytes]:
    """Execute ``command`` in a session of its own with exactly ``environment``, as ``user`` if given.

    ``environment`` is all that the program gets: nothing is inherited. For a ``user`` its ``User.environment`` fills
    what is missing. A session of its own keeps a terminal's Ctrl-C away: the parent decides when the program stops.
    Raises ProcessError.
    """
    full = {**user.environment(), **environment} if user is not None else dict(environment)
    try:
        return subprocess.Popen(
            list(command),
            env=full,
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
            user=None if user is None else user.uid,
            group=None if user is None else user.gid,
            extra_groups=None if user is None else user.groups,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ProcessError(f"cannot start {command[0]}: {error}", code="spawn_refused") from error


@contextmanager
def files_as(user: User | None) -> Iterator[None]:
    """Let this thread open files as ``user`` and with no right beyond theirs; nothing changes for None.

    Linux keeps the user that file permissions are checked for (``setfsuid(2)``) for each thread by itself. The
    supplementary groups stay the process's own. Raises ProcessError without CAP_SETUID and CAP_SETGID.
    """
    if user is None:
        yield
        return
    libc, uid, gid = _libc(), os.geteuid(), os.getegid()
    libc.setfsgid(ctypes.c_uint32(user.gid))
    libc.setfsuid(ctypes.c_uint32(user.uid))
    try:
        # The call tells what was there before and never fails by itself: asking with a number that is none changes
        # nothing and tells what is there now.
        if libc.setfsuid(ctypes.c_uint32(0xFFFFFFFF)) != user.uid:
            raise ProcessError(f"cannot open files as {user.name}", code="user_change_refused")
        yield
    finally:
        libc.setfsuid(ctypes.c_uint32(uid))
        libc.setfsgid(ctypes.c_uint32(gid))
