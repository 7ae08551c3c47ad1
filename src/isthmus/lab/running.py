"""Finding, starting and ending the process that serves a lab.

Beside the state a home has one file, ``lab.json``, that says which process serves it (its pid and when it began,
because pids come again) and what clients need to know. It is written when the process begins, again when it answers,
and stays when the process is killed: that is how ``down`` finds what to end. What is served is asked for over
``control.sock`` in the home, which belongs to the user that serves.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import httpx

from isthmus.kit.errors import ConfigError, NotFoundError, PermanentError, RefusedError, UnreachableError

FILE: Final = "lab.json"
SOCKET: Final = "control.sock"
LOG: Final = "log"

#: How long a process may take to end by itself; what it finishes takes milliseconds.
_TERM_SECONDS: Final = 10.0
_KILL_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 0.05
_TAIL_LINES: Final = 20
#: The longest path that fits into ``sockaddr_un`` (unix(7)), with its final zero.
_SOCKET_PATH_BYTES: Final = 107


class Phase(StrEnum):
    """How far the process is."""

    STARTING = "starting"
    SERVING = "serving"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Served:
    """What ``lab.json`` says. ``began`` is the process's start in clock ticks since the machine's (0 where unknown)."""

    pid: int
    began: int
    phase: Phase
    arm: str = ""
    identity_endpoint: str = ""
    identity_header: str = ""
    tenant: str = ""
    client_id: str = ""
    provider_subscription: str = ""
    customer_subscription: str = ""
    authorities: str = ""
    has_packets: bool = True

    @property
    def is_alive(self) -> bool:
        """Whether that process still runs."""
        return self.phase is not Phase.STOPPED and began(self.pid) == self.began


def began(pid: int) -> int | None:
    """When ``pid`` began, in clock ticks; 0 where the system does not say; None when it does not run."""
    try:
        # proc(5): field 3 is the state, 22 the start; the name before them may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(pid, 0)
        except OSError:
            return None
        return 0
    return None if fields[0] in "ZX" else int(fields[19])


def read(home: Path) -> Served | None:
    """Who serves ``home``, or did last; None if nobody has left word."""
    try:
        told = json.loads((home / FILE).read_text(encoding="utf-8"))
        return Served(**{**told, "phase": Phase(told["phase"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{home / FILE} cannot be read: {error}",
            code="lab_file_unreadable",
            hint="Use the same user as the lab; if the file is damaged, end the lab's process and remove it.",
        ) from None


def write(home: Path, served: Served) -> None:
    """Leave word, whole or not at all."""
    beside = home / f"{FILE}.new"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(served), file, indent=2)
    beside.replace(home / FILE)


def serving(home: Path) -> Served:
    """Who serves ``home`` now. Raises UnreachableError when nobody does."""
    served = read(home)
    if served is None or not served.is_alive or served.phase is not Phase.SERVING:
        raise UnreachableError(
            f"no lab is served from {home}",
            code="lab_not_running",
            hint="Start it: isthmus lab up. Another home is named with --home or ISTHMUS_LAB_HOME.",
        )
    return served


def environment(served: Served) -> dict[str, str]:
    """What clients need: ``az``, the SDKs, curl."""
    return {
        "ISTHMUS_LAB_ARM": served.arm,
        "REQUESTS_CA_BUNDLE": served.authorities,
        "SSL_CERT_FILE": served.authorities,
        "IDENTITY_ENDPOINT": served.identity_endpoint,
        "IDENTITY_HEADER": served.identity_header,
        "ISTHMUS_LAB_TENANT": served.tenant,
        "ISTHMUS_LAB_CLIENT_ID": served.client_id,
        "ISTHMUS_LAB_PROVIDER_SUBSCRIPTION": served.provider_subscription,
        "ISTHMUS_LAB_CUSTOMER_SUBSCRIPTION": served.customer_subscription,
    }


def exports(served: Served) -> str:
    """The same as lines for a shell to evaluate."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment(served).items())


# --- starting ----------------------------------------------------------------------------------------------------


def start(home: Path, command: Sequence[str], *, timeout_seconds: float) -> tuple[Served, bool]:
    """Have ``command`` serve ``home`` in the background and wait until it does; whether it was started now.

    Raises PermanentError with the end of its log if it ends before, and UnreachableError if it takes too long.
    """
    served = read(home)
    if served is None or not served.is_alive:
        process = _spawn(home, command)
        return _awaited(home, process, timeout_seconds), True
    deadline = time.monotonic() + timeout_seconds
    while served is not None and served.is_alive and served.phase is Phase.STARTING and time.monotonic() < deadline:
        time.sleep(_PAUSE_SECONDS)
        served = read(home)
    return serving(home), False


def _spawn(home: Path, command: Sequence[str]) -> "subprocess.Popen[bytes]":
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        log = os.open(home / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"the lab's home {home} cannot be used: {error.strerror}",
            code="lab_home_unusable",
            hint="Name one that you may write with --home or ISTHMUS_LAB_HOME.",
        ) from None
    try:
        return subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, close_fds=True
        )
    finally:
        os.close(log)


def _awaited(home: Path, process: "subprocess.Popen[bytes]", timeout_seconds: float) -> Served:
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise _ended(home, process.returncode)
        served = read(home)
        if served is not None and served.pid == process.pid and served.phase is Phase.SERVING:
            return served
        time.sleep(_PAUSE_SECONDS)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_TERM_SECONDS)
    raise UnreachableError(
        f"the lab did not answer within {timeout_seconds:g} s",
        code="lab_slow",
        hint=f"See {home / LOG}, or run it in the foreground: isthmus lab serve.",
    )


def _ended(home: Path, returncode: int) -> PermanentError:
    """What the process said last: its own error and hint, if it had one."""
    lines = (home / LOG).read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
    said = [line for line in lines if line.startswith(("error: ", "hint: "))]
    kind: type[PermanentError] = ConfigError if returncode == 2 else PermanentError
    if len(said) >= 1 and said[-1].startswith("hint: ") and len(said) >= 2:
        summary, _, code = said[-2].removeprefix("error: ").rpartition(" (")
        return kind(summary, code=code.rstrip(")"), hint=said[-1].removeprefix("hint: "))
    tail = "\n".join(lines)
    return kind(f"the lab ended with {returncode}:\n{tail}", code="lab_ended", hint=f"The whole log: {home / LOG}.")


def command(flags: Mapping[str, object]) -> list[str]:
    """The command line that serves a lab with these flags."""
    words = [sys.executable, "-m", "isthmus.cli.main", "lab", "serve"]
    for name, value in flags.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


# --- ending ------------------------------------------------------------------------------------------------------


def stop(home: Path) -> bool:
    """End the process that serves ``home``; whether there was one. Raises PermanentError if it cannot be ended."""
    served = read(home)
    if served is None or not served.is_alive:
        return False
    for number, seconds in ((signal.SIGTERM, _TERM_SECONDS), (signal.SIGKILL, _KILL_SECONDS)):
        try:
            os.kill(served.pid, number)
        except ProcessLookupError:
            return True
        except PermissionError:
            break
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if began(served.pid) != served.began:
                return True
            time.sleep(_PAUSE_SECONDS)
    raise PermanentError(
        f"process {served.pid}, which serves {home}, cannot be ended",
        code="lab_not_ended",
        hint="Use its user, or root.",
    )


# --- asking ------------------------------------------------------------------------------------------------------


@contextmanager
def socket_path(home: Path) -> Iterator[str]:
    """A path to the control socket that fits into a socket address, however deep the home lies."""
    path = home.absolute() / SOCKET
    if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET}"
    finally:
        os.close(folder)


_REFUSALS: Final[Mapping[int, type[PermanentError]]] = {400: ConfigError, 404: NotFoundError}


def ask(home: Path, method: str, path: str, body: Any = None) -> Any:
    """Ask the process that serves ``home``.

    Raises UnreachableError when there is none; NotFoundError, ConfigError or RefusedError as it answers.
    """
    serving(home)
    try:
        with (
            socket_path(home) as socket,
            httpx.Client(transport=httpx.HTTPTransport(uds=socket), timeout=30.0) as client,
        ):
            response = client.request(method, f"http://lab{path}", json=body)
    except httpx.HTTPError as error:
        raise UnreachableError(
            f"the lab does not answer: {error}", code="lab_silent", hint=f"See {home / LOG}; isthmus lab up starts it."
        ) from None
    answer = response.json()
    if response.is_success:
        return answer
    kind = _REFUSALS.get(response.status_code, RefusedError)
    raise kind(answer["summary"], code=answer["code"], hint=answer["hint"])
