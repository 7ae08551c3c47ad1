"""What the demo shows as it happens, and what it remembers of it for the summary.

A step is a heading, the commands that are typed in it (each is really run, as a program of its own), and sentences
with the time since the demo began. Steps that ended are kept with their durations.
"""

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console

from isthmus.kit.errors import PermanentError

#: No command of the demo waits for anything that takes longer.
_COMMAND_SECONDS: Final = 120.0
_INDENT: Final = " " * 10
_RESOURCE_ID: Final = re.compile(r"/subscriptions/[^\s,;]+")


class DemoError(PermanentError):
    """The demo did not end as it should."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step that has ended. ``began`` is RFC 3339; ``facts`` are what was measured in it."""

    name: str
    title: str
    began: str
    seconds: float
    commands: tuple[str, ...] = ()
    facts: Mapping[str, float | str] = field(default_factory=dict)


class Teller:
    """One run of the demo, told."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """``environment`` is what all commands get; more can be added with ``know``."""
        self.console = Console(highlight=False)
        self.steps: list[Step] = []
        self._began = time.monotonic()
        self._environment = dict(environment)
        self._commands: list[str] = []
        self._facts: dict[str, float | str] = {}

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[None]:
        """Everything until the end of the block belongs to this step."""
        self.console.print(f"\n[bold]{len(self.steps) + 1:2d}  {title}[/]", soft_wrap=True)
        began, at = time.monotonic(), datetime.now(UTC)
        self._commands, self._facts = [], {}
        yield
        seconds = round(time.monotonic() - began, 3)
        self.steps.append(Step(name, title, at.isoformat(), seconds, tuple(self._commands), self._facts))

    def say(self, text: str) -> None:
        """A sentence, with the seconds since the beginning."""
        self.console.print(f"{time.monotonic() - self._began:6.1f} s  {text}", soft_wrap=True, markup=False)

    def show(self, text: str) -> None:
        """Lines that somebody else said."""
        for line in _RESOURCE_ID.sub(lambda found: short(found[0]), text).splitlines():
            self.console.print(f"{_INDENT}{line}".rstrip(), soft_wrap=True, markup=False, style="dim")

    def note(self, name: str, value: float | str) -> None:
        """Keep a fact of this step."""
        self._facts[name] = value

    def ready(self, name: str) -> None:
        """A program does its work."""
        self.say(f"{name} is ready")

    # --- commands -------------------------------------------------------------------------------------------------

    def know(self, environment: Mapping[str, str]) -> None:
        """Give these variables to all commands from now on."""
        self._environment.update(environment)

    @property
    def environment(self) -> Mapping[str, str]:
        """What all commands get."""
        return self._environment

    def isthmus(self, *words: str, shows: bool = True, quietly: Sequence[str] = (), codes: Sequence[int] = (0,)) -> str:
        """Type a command of ours and return what it answers; ``quietly`` are words that are not shown.

        Raises DemoError when it ends with a code that is not in ``codes``.
        """
        shown = shlex.join(("isthmus", *map(short, words)))
        self._commands.append(shown)
        self.console.print(f"{_INDENT}$ {shown}", soft_wrap=True, markup=False)
        done = subprocess.run(
            (sys.executable, "-m", "isthmus.cli.main", *words, *quietly),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
        if done.returncode not in codes:
            raise DemoError(
                f"isthmus {' '.join(words[:2])} ended with code {done.returncode}",
                code="demo_command_failed",
                hint=(done.stderr or done.stdout).strip(),
            )
        if shows:
            self.show(done.stdout)
        return done.stdout


def short(word: str | Path) -> str:
    """``word`` as one would type it here: paths below the current directory, and resource ids without their middle."""
    if str(word).startswith("/subscriptions/"):
        return f"/subscriptions/…/{'/'.join(str(word).split('/')[8:])}"
    path, here = Path(word), Path.cwd()
    return str(path.relative_to(here)) if path.is_absolute() and path.is_relative_to(here) else str(word)
