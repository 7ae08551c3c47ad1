"""Several programs as one: started in order, watched, and stopped in order, with nothing left behind.

``contained`` runs a function in a child process below a container process that does nothing but wait: the container is
a subreaper, so that whatever happens to the child (an exception, SIGTERM, SIGKILL) everything that was started below it
is ended before the container ends. ``Composition`` is what the child uses: each ``Program`` is started, waited for
until it says that it is ready, and ended by SIGTERM and a deadline. A program that ends by itself ends the whole:
nothing is restarted in silence.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, NoReturn, Self

from isthmus.cli.exits import Exit, conclude
from isthmus.kit import processes
from isthmus.kit.errors import IsthmusError, PermanentError

_PAUSE_SECONDS: Final = 0.2
#: How much of a program's log is shown when it ends unexpectedly.
_TAIL_LINES: Final = 15


class ProgramError(PermanentError):
    """A program ended by itself, or was not ready in time."""


class StopRequested(BaseException):
    """SIGTERM or SIGINT asked us to stop. Not an Exception, so that nothing mistakes it for a failure."""


@dataclass(frozen=True, slots=True)
class Program:
    """One program of a composition. ``environment`` is all that it gets."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    log: Path
    #: Whether it does its work; asked again and again after the start.
    ready: Callable[[], bool]
    ready_seconds: float = 90.0
    #: How long it may take to end after SIGTERM.
    stop_seconds: float = 15.0
    cwd: Path | None = None
    #: Whether the others stay until it has ended, because it takes its leave of them.
    leaves_first: bool = False
    #: The signal on which it ends in an orderly way.
    stop_signal: signal.Signals = signal.SIGTERM


@dataclass(slots=True)
class _Started:
    program: Program
    process: "subprocess.Popen[bytes]"
    is_ready: bool = False


class Composition:
    """Programs that run together. Leaving the context stops them."""

    def __init__(self) -> None:
        self._started: list[_Started] = []

    def __enter__(self) -> Self:
        """Nothing runs yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop everything."""
        self.stop()

    def start(self, program: Program) -> int:
        """Start ``program`` and return its pid; it is not ready yet. Raises ProgramError."""
        program.log.parent.mkdir(parents=True, exist_ok=True)
        parent = os.getpid()

        def prepare() -> None:
            processes.die_with_parent(parent, program.stop_signal)

        with program.log.open("ab") as log:
            try:
                process = subprocess.Popen(
                    program.command,
                    env=dict(program.environment),
                    cwd=program.cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # a terminal's Ctrl-C is ours: we stop them in order
                    preexec_fn=prepare,  # noqa: PLW1509 - one system call in a single-threaded process
                )
            except OSError as error:
                raise ProgramError(
                    f"{program.name} cannot be started: {error.strerror}",
                    code="program_not_started",
                    hint=f"The command is: {' '.join(program.command)}",
                ) from None
        self._started.append(_Started(program, process))
        return process.pid

    def await_ready(self, *names: str, told: Callable[[str], None] | None = None) -> None:
        """Wait until the named programs (all by default) are ready; ``told`` hears of each. Raises ProgramError."""
        waiting = [one for one in self._started if not one.is_ready and (not names or one.program.name in names)]
        began = time.monotonic()
        while waiting:
            self.check()
            # One question a round, in the order of starting: asking costs programs time that they need to start.
            first, program = waiting[0], waiting[0].program
            if program.ready():
                first.is_ready = True
                waiting.remove(first)
                if told is not None:
                    told(program.name)
                continue
            if time.monotonic() - began > program.ready_seconds:
                raise ProgramError(
                    f"{program.name} was not ready within {program.ready_seconds:g} s",
                    code="program_not_ready",
                    hint=_last_words(program),
                )
            time.sleep(_PAUSE_SECONDS)

    def check(self) -> None:
        """Raise ProgramError if a program has ended by itself."""
        for one in self._started:
            code = one.process.poll()
            if code is not None:
                how = f"signal {-code}" if code < 0 else f"code {code}"
                raise ProgramError(
                    f"{one.program.name} ended by itself with {how}",
                    code="program_ended",
                    hint=_last_words(one.program),
                )

    def watch(self) -> NoReturn:
        """Check for as long as nothing ends. Raises ProgramError, StopRequested."""
        while True:
            self.check()
            time.sleep(1.0)

    def end(self, name: str) -> int | None:
        """Stop one program and return how it ended; None if there is no such program."""
        for one in self._started:
            if one.program.name == name:
                self._end([one])
                self._started.remove(one)
                return one.process.returncode
        return None

    def stop(self) -> None:
        """Stop what runs: first what takes its leave of the others, then all others at once."""
        started, self._started = self._started, []
        self._end([one for one in started if one.program.leaves_first])
        self._end([one for one in started if not one.program.leaves_first])

    @staticmethod
    def _end(started: list[_Started]) -> None:
        for one in started:
            if one.process.poll() is None:
                with suppress(ProcessLookupError):
                    one.process.send_signal(one.program.stop_signal)
        for one in started:
            try:
                one.process.wait(timeout=one.program.stop_seconds)
            except subprocess.TimeoutExpired:
                processes.sweep(below=one.process.pid)
                one.process.kill()
                one.process.wait()


def _last_words(program: Program) -> str:
    try:
        lines = program.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
    except OSError:
        lines = []
    return "\n".join([f"the end of {program.log}:", *(f"  {line}" for line in lines)])


def contained(run: Callable[[], int]) -> int:
    """Run ``run`` in a child process and return its exit code, with every process below it ended.

    Must be called in a single-threaded process. SIGTERM and SIGINT reach ``run`` as ``StopRequested``.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    processes.set_subreaper()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os._exit(_inside(run, parent))

    def forward(number: int, _frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, number)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGHUP, forward)
    # Ctrl-C goes to the whole foreground group, so the child has it already.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, status = os.waitpid(child, 0)
    processes.kill_below()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _inside(run: Callable[[], int], parent: int) -> int:
    def stop(number: int, _frame: FrameType | None) -> None:
        # A second signal must not interrupt the stopping.
        for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)
        raise StopRequested(signal.Signals(number).name)

    for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(each, stop)
    processes.die_with_parent(parent, signal.SIGTERM)
    # Programs that outlive their own parent come to us, where the end of a composition finds them.
    processes.set_subreaper()
    try:
        code = run()
    except StopRequested:
        code = Exit.INTERRUPTED
    except IsthmusError as error:
        code = conclude(error)
    except (SystemExit, BrokenPipeError):  # whoever read our output has seen enough
        code = Exit.FAILED
    except BaseException:  # this process ends here: say what happened, and clean up all the same
        sys.excepthook(*sys.exc_info())
        code = Exit.FAILED
    finally:
        for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)
    processes.kill_below()
    with suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    return code
