"""The one exception root, and its families by what the caller must do.

::

    IsthmusError            code, hint, retryable
    ├── TemporaryError      the same call may succeed later: back off and try again
    │   └── UnreachableError    no answer, or an answer that is not ours (a proxy's page, a captive portal)
    ├── PermanentError      the same call will fail again: change something first
    │   ├── ConfigError         a setting is missing, unknown or malformed
    │   ├── RefusedError        the other side said no, and said why
    │   └── NotFoundError       the thing that was named does not exist
    └── InternalError       a bug: an invariant of ours does not hold

Third-party exceptions never cross a package's edge: each package turns them into one of these.
"""

from typing import ClassVar


class IsthmusError(Exception):
    """Something went wrong that has a name.

    ``code`` is stable and machine-readable; ``hint`` says what to do about it.
    """

    retryable: ClassVar[bool] = False

    def __init__(self, summary: str, *, code: str, hint: str = "") -> None:
        super().__init__(summary)
        self.summary = summary
        self.code = code
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.summary} ({self.code})"


class TemporaryError(IsthmusError):
    """The same call may succeed later."""

    retryable = True


class UnreachableError(TemporaryError):
    """The other side did not answer, or something between us answered in its place."""


class PermanentError(IsthmusError):
    """The same call will fail again until something changes."""


class ConfigError(PermanentError):
    """A setting is missing, unknown or malformed."""


class RefusedError(PermanentError):
    """The other side refused, and said why."""


class NotFoundError(PermanentError):
    """What was named does not exist."""


class InternalError(IsthmusError):
    """An invariant of ours does not hold: please report it."""
