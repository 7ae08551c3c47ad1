"""Exit codes, and the two lines that go with an error: what a script and what a person can tell from how we ended.

The codes are a promise, documented in ``docs/cli.md`` and at the end of ``isthmus --help``. ``code_for`` is the one
place that maps the families of ``isthmus.kit.errors`` to them.
"""

import sys
from enum import IntEnum
from typing import Final

from isthmus.kit.errors import ConfigError, InternalError, IsthmusError, NotFoundError, TemporaryError


class Exit(IntEnum):
    """How a command ended."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_FOUND = 4
    #: What shells use for a program that ended by Ctrl-C: 128 + SIGINT.
    INTERRUPTED = 130


MEANINGS: Final[dict[Exit, str]] = {
    Exit.DONE: "done",
    Exit.FAILED: "failed or refused",
    Exit.USAGE: "wrong usage or configuration",
    Exit.UNREACHABLE: "the other side cannot be reached (trying again may help)",
    Exit.NOT_FOUND: "what was named does not exist",
    Exit.INTERRUPTED: "interrupted by Ctrl-C",
}


def code_for(error: IsthmusError) -> Exit:
    """The exit code for ``error``."""
    match error:
        case ConfigError():
            return Exit.USAGE
        case NotFoundError():
            return Exit.NOT_FOUND
        case TemporaryError():
            return Exit.UNREACHABLE
        case _:
            return Exit.FAILED


def report(summary: str, hint: str = "") -> None:
    """Say on standard error what happened and what to do."""
    sys.stdout.flush()
    sys.stderr.write(f"error: {summary}\n")
    if hint:
        sys.stderr.write(f"hint: {hint}\n")
    sys.stderr.flush()


def conclude(error: IsthmusError) -> Exit:
    """Report ``error``; how the command ends with it."""
    hint = error.hint
    if isinstance(error, InternalError):
        hint = hint or "this is a bug: please report it with what you did"
    report(str(error), hint)
    return code_for(error)
