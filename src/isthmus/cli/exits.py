"""Exit codes: what a script can tell from how ``isthmus`` ended.

The codes are a promise, documented in ``docs/cli.md`` and at the end of ``isthmus --help``. ``code_for`` is the one
place that maps the families of ``isthmus.kit.errors`` to them.
"""

from enum import IntEnum
from typing import Final

from isthmus.kit.errors import ConfigError, IsthmusError, NotFoundError, TemporaryError


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
