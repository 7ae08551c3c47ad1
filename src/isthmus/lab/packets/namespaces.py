"""Network namespaces: doing something in one, what runs in one, and the end of both. Linux and root only.

A thread that enters a namespace is the only one there, and ends with what it does: so the process itself stays where
it is. Programs that such a thread starts are in the namespace as well, and so are sockets that it makes, for as long
as they live.
"""

import asyncio
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final, TypeVar

from isthmus.kit.errors import PermanentError
from isthmus.lab.packets.addressing import LabId, namespace_prefix

Result = TypeVar("Result")

DIRECTORY: Final = Path("/run/netns")
#: Programs that were started in a namespace say so in their environment, and are found when the namespace's name is
#: gone.
VARIABLE: Final = "ISTHMUS_LAB_NAMESPACE"
#: Of those, the resolvers and the relay, which a new process starts again.
_PART_VARIABLE: Final = "ISTHMUS_LAB_PART"
#: What is beside a namespace's name: ``resolv.conf`` of programs in it.
FILES: Final = Path("/run/isthmus-lab")

#: Where programs are that a user's PATH often lacks.
SYSTEM_PATHS: Final = ("/usr/sbin", "/sbin")

_CLONE_NEWNET: Final = 0x4000_0000
_PROGRAM_SECONDS: Final = 30.0
_KILL_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 0.005


class PacketsError(PermanentError):
    """The machine could not be made to look like the picture."""


@cache
def libc() -> ctypes.CDLL:
    """The C library, for what Python 3.11 has no function for."""
    return ctypes.CDLL(None, use_errno=True)


def enter(namespace: str) -> None:
    """Move the calling thread into ``namespace``. Raises PacketsError."""
    try:
        descriptor = os.open(DIRECTORY / namespace, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise PacketsError(
            f"there is no namespace {namespace}", code="namespace_missing", hint="Is the lab running?"
        ) from error
    try:
        if libc().setns(descriptor, _CLONE_NEWNET) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise PacketsError(f"cannot enter {namespace}: {reason}", code="namespace_refused", hint="Are you root?")
    finally:
        os.close(descriptor)


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Have the calling thread in ``namespace``, and what it starts meanwhile; afterwards it is where it was.

    Raises PacketsError.
    """
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(namespace)
        try:
            yield
        finally:
            if libc().setns(before, _CLONE_NEWNET) != 0:
                raise PacketsError(f"cannot leave {namespace}", code="namespace_refused")
    finally:
        os.close(before)


def environment(namespace: str, given: Mapping[str, str]) -> dict[str, str]:
    """The environment of a part of the lab that is started in ``namespace``."""
    return {"PATH": _path(given), VARIABLE: namespace, _PART_VARIABLE: "1"}


def _path(given: Mapping[str, str]) -> str:
    return os.pathsep.join((given.get("PATH", os.defpath), *SYSTEM_PATHS))


async def within(namespace: str, act: Callable[[], Result]) -> Result:
    """The result of ``act`` in a thread of its own in ``namespace``; what it raises is raised. Raises PacketsError."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def tell(settle: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(lambda: None if done.done() else settle())

    def run() -> None:
        try:
            if namespace:
                enter(namespace)
            result = act()
        except Exception as error:
            failure = error
            tell(lambda: done.set_exception(failure))
        else:
            tell(lambda: done.set_result(result))

    threading.Thread(target=run, name=f"in {namespace or 'the host'}", daemon=True).start()
    # What has begun is finished, so that what is known of the machine stays true.
    return await asyncio.shield(done)


def run_program(*command: str, given: str = "") -> str:
    """What ``command`` prints, with ``given`` on its standard input. Raises PacketsError with what it said on
    failure.
    """
    try:
        done = subprocess.run(
            command,
            input=given,
            capture_output=True,
            text=True,
            timeout=_PROGRAM_SECONDS,
            check=False,
            env={"PATH": _path(os.environ)},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PacketsError(f"{command[0]} failed: {error}", code="program_failed") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise PacketsError(f"{' '.join(command)} failed: {said}", code="program_failed")
    return done.stdout


def of_lab(lab: LabId) -> list[str]:
    """The names of a lab's namespaces that there are."""
    try:
        names = [entry.name for entry in DIRECTORY.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(name for name in names if name.startswith(namespace_prefix(lab)))


def is_alive(namespace: str) -> bool:
    """Whether a name stands for a namespace; one whose mount is gone is a plain file."""
    try:
        return (DIRECTORY / namespace).stat().st_dev != DIRECTORY.stat().st_dev
    except OSError:
        return False


def forget(names: Collection[str]) -> None:
    """Remove names that stand for nothing: what is left when somebody unmounts a namespace."""
    for name in names:
        if not is_alive(name):
            with suppress(FileNotFoundError):
                (DIRECTORY / name).unlink()


def remove(names: Collection[str]) -> None:
    """Remove namespaces, with all programs in them. Raises PacketsError."""
    kill(names)
    for name in names:
        if is_alive(name):
            run_program("ip", "netns", "del", name)
    forget(names)
    for name in names:
        resolv_conf(name).unlink(missing_ok=True)
    with suppress(OSError):
        FILES.rmdir()


def resolv_conf(namespace: str) -> Path:
    """What programs in ``namespace`` have at /etc/resolv.conf."""
    return FILES / f"{namespace}.resolv.conf"


def write_resolv_conf(namespace: str, servers: Iterable[IPv4Address]) -> None:
    """Have programs in ``namespace`` ask these servers. Those that ask when it changes see the old or the new ones."""
    # While a resolver starts again it does not answer: a second question comes soon.
    text = "".join((*(f"nameserver {server}\n" for server in servers), "options timeout:1 attempts:5\n"))
    path = resolv_conf(namespace)
    with suppress(OSError):
        if path.read_text() == text:
            return
    FILES.mkdir(mode=0o755, exist_ok=True)
    draft = path.with_suffix(".new")
    draft.write_text(text)
    draft.replace(path)


def kill(names: Collection[str], *, only_parts: bool = False) -> None:
    """End all programs in namespaces, and those that were started there by us. Raises PacketsError if some stay.

    With ``only_parts`` those of users stay: just resolvers and relay end.
    """
    chosen = _Chosen.of(names, only_parts=only_parts)
    deadline = time.monotonic() + _KILL_SECONDS
    while found := [pid for pid in _processes() if chosen.has(pid)]:
        for pid in found:
            _kill_if(pid, chosen)
        if time.monotonic() > deadline:
            raise PacketsError(f"processes {found} do not end", code="processes_stay")
        time.sleep(_PAUSE_SECONDS)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Processes in some namespaces."""

    identities: frozenset[tuple[int, int]]
    words: frozenset[bytes]
    only_parts: bool

    @classmethod
    def of(cls, names: Collection[str], *, only_parts: bool) -> "_Chosen":
        stats = [(DIRECTORY / name).stat() for name in names if is_alive(name)]
        return cls(
            frozenset((stat.st_dev, stat.st_ino) for stat in stats),
            frozenset(f"{VARIABLE}={name}".encode() for name in names),
            only_parts,
        )

    def has(self, pid: int) -> bool:
        """Whether ``pid`` is one of them, and runs."""
        try:
            stat = Path(f"/proc/{pid}/ns/net").stat()
            words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
        except OSError:
            return False
        if state in {b"Z", b"X"} or (self.only_parts and f"{_PART_VARIABLE}=1".encode() not in words):
            return False
        return (stat.st_dev, stat.st_ino) in self.identities or not self.words.isdisjoint(words)


def _processes() -> Iterator[int]:
    ourselves = os.getpid()
    return (
        int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal() and int(entry.name) != ourselves
    )


def _kill_if(pid: int, chosen: _Chosen) -> None:
    """SIGKILL to ``pid``, looked at again once it cannot be another process any more."""
    with suppress(ProcessLookupError, PermissionError):
        descriptor = os.pidfd_open(pid)
        try:
            if chosen.has(pid):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)
