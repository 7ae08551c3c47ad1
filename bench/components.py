"""Programs that the benchmarks start: one component is one child process and everything below it.

Whatever way a benchmark ends, nothing stays: components die with their parent (``PR_SET_PDEATHSIG``), ``stop_all`` ends
their trees, and the process that started the benchmark is a subreaper that kills what is left (``__main__``).
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from isthmus.kit import processes


class ComponentError(RuntimeError):
    """A program ended or did not become ready; the end of its log says why."""


class Component:
    """A running program with a log file."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        log: Path,
        cores: Sequence[int] | None = None,
    ) -> None:
        """Start it, on these cores alone if any are given."""
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        parent = os.getpid()

        def prepare() -> None:
            processes.die_with_parent(parent, signal.SIGTERM)
            if cores is not None:
                os.sched_setaffinity(0, cores)

        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=prepare,  # noqa: PLW1509 - the benchmark has a single thread
            )

    @property
    def pid(self) -> int:
        """The pid of the program itself."""
        return self._process.pid

    def check(self) -> None:
        """Raise ComponentError if it has ended."""
        if self._process.poll() is not None:
            raise ComponentError(f"{self.name} ended with {self._process.returncode}:\n{self.tail()}")

    def tail(self, lines: int = 25) -> str:
        """The last lines of its log."""
        with suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def terminate(self) -> None:
        """Ask it to end."""
        if self._process.poll() is None:
            self._process.terminate()

    def stop(self, deadline: float) -> None:
        """Wait for its end until ``deadline`` (monotonic seconds), then kill it."""
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def stop_all(components: Sequence[Component], *, spared: Collection[int] = (), grace_seconds: float = 15.0) -> None:
    """End these components, all at once, and then everything below this process except the ``spared`` trees.

    What a component leaves behind becomes this process's child (a subreaper), so nothing escapes.
    """
    for component in components:
        component.terminate()
    deadline = time.monotonic() + grace_seconds
    for component in components:
        component.stop(deadline)
    processes.kill_below(spared=spared)


def wait_until(
    what: str, ready: Callable[[], bool], components: Sequence[Component], *, timeout_seconds: float
) -> None:
    """Call ``ready`` until it says yes. Raises ComponentError when time is over or a component has ended."""
    deadline = time.monotonic() + timeout_seconds
    while not ready():
        for component in components:
            component.check()
        if time.monotonic() > deadline:
            logs = "\n".join(f"--- {component.name}\n{component.tail(8)}" for component in components)
            raise ComponentError(f"{what}: not within {timeout_seconds:.0f} s\n{logs}")
        time.sleep(0.2)
