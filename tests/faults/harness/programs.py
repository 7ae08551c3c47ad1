"""A program that a test runs: started with an exact environment, its output in a file, killed by its own pid.

Everything that was started and not stopped is killed when the interpreter ends, so a broken test leaves nothing behind;
neither does one that is told to end by SIGTERM.
"""

import atexit
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from faults.harness import waits

#: What every Python program of ours needs, whatever else its environment holds: nothing of the test's own.
PLAIN_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}

_running: set["Program"] = set()


@atexit.register
def _kill_the_rest() -> None:
    for program in list(_running):
        program.kill_group()


if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


class Program:
    """One program, which may be started again after it ended; the log file goes on."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        log: Path,
        user: int | None = None,
        stdin: int = subprocess.DEVNULL,
        stdout: int | None = None,
    ) -> None:
        self.name = name
        self.command = [str(part) for part in command]
        self.environment = {**PLAIN_ENVIRONMENT, **environment}
        self.log = log
        self.starts = 0
        #: When it was started last, in seconds since the epoch.
        self.started_at = 0.0
        self._user = user
        self._stdin = stdin
        self._stdout = stdout
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> "Program":
        assert not self.running, f"{self.name} runs already"
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                self.command,
                env=self.environment,
                cwd="/",
                stdin=self._stdin,
                stdout=log if self._stdout is None else self._stdout,
                stderr=log,
                start_new_session=True,
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else (),
            )
        self.starts += 1
        self.started_at = time.time()
        _running.add(self)
        return self

    @property
    def popen(self) -> subprocess.Popen[bytes]:
        assert self._popen is not None, f"{self.name} was not started"
        return self._popen

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def exit_code(self) -> int | None:
        return self.popen.poll()

    def children(self) -> list[psutil.Process]:
        """Every living process below the program."""
        with suppress(psutil.NoSuchProcess):
            return [child for child in psutil.Process(self.pid).children(recursive=True) if is_alive(child)]
        return []

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to the program alone: what it started is left to fend for itself."""
        self.send(signal.SIGKILL)
        self.wait(10)

    def kill_group(self) -> None:
        """SIGKILL to the program and to everything in its session, as when a machine loses its power."""
        if self._popen is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait(10)

    def stop(self, seconds: float = 20) -> int:
        """SIGTERM, and wait for the end; the exit code."""
        if self.running:
            self.send(signal.SIGTERM)
        return self.wait(seconds)

    def wait(self, seconds: float) -> int:
        try:
            code = self.popen.wait(seconds * waits.PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {seconds:g} s\n{self.tail()}") from None
        _running.discard(self)
        return code

    def written(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def tail(self, lines: int = 40) -> str:
        return f"--- {self.name}, the end of {self.log}\n" + "\n".join(self.written().splitlines()[-lines:])

    def await_ready(
        self,
        what: str,
        condition: Callable[[], object],
        *,
        seconds: float,
        evidence: Callable[[], str] | None = None,
    ) -> None:
        """Wait for ``condition``; fail at once when the program ends instead."""

        def ready() -> object:
            if not self.running:
                raise AssertionError(f"{self.name} ended with {self.exit_code} instead of: {what}\n{self.tail()}")
            return condition()

        waits.until(what, ready, seconds=seconds, evidence=evidence or self.tail)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    except psutil.NoSuchProcess:
        return False


def processes_of(uid: int) -> list[psutil.Process]:
    """Every living process that runs as ``uid``."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.uids().real == uid and is_alive(process):
                found.append(process)
    return found


def describe(processes: Sequence[psutil.Process]) -> str:
    lines = []
    for process in processes:
        with suppress(psutil.Error):
            age = time.time() - process.create_time()
            lines.append(f"pid {process.pid}, {age:.1f} s old: {' '.join(process.cmdline())[:200]}")
    return "\n".join(lines)
