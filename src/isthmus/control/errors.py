"""How the control plane says no, and which database faults pass by themselves.

::

    ControlRefusedError      a RefusedError with the problem code that goes on the wire
    DeploymentRefusedError   a RefusedError: a deployment said no, in its own words
    AdminUnreachableError    a TemporaryError: a deployment does not answer; the wire says admin_unreachable
    DatabaseError            a TemporaryError: the database does not answer; the wire says database_unavailable
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from isthmus.kit.errors import RefusedError, TemporaryError
from isthmus.wire.problems import MEANINGS, Code, Problem

#: SQLSTATE classes of what passes: connections, resources, an operator's intervention, deadlocks; and a password that
#: is being changed (PostgreSQL, appendix A).
_PASSING: Final = ("08", "53", "57", "40", "28")


class ControlRefusedError(RefusedError):
    """The control plane refuses; ``detail`` is what is special about this occurrence, ``hint`` replaces the code's."""

    def __init__(self, problem: Code, detail: str = "", *, hint: str = "") -> None:
        meaning = MEANINGS[problem]
        super().__init__(detail or meaning.title, code=problem.value, hint=hint or meaning.hint)
        self.problem = problem
        self.detail = detail


class DeploymentRefusedError(RefusedError):
    """A deployment refuses. Its problem goes on to whoever asked."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail, code=problem.code, hint=problem.hint)
        self.problem = problem


class AdminUnreachableError(TemporaryError):
    """A deployment's admin API does not answer. ``was_sent``: what was asked may have been done all the same."""

    def __init__(self, summary: str, *, hint: str = "", was_sent: bool = False) -> None:
        code = Code.ADMIN_UNREACHABLE
        super().__init__(summary, code=code.value, hint=hint or MEANINGS[code].hint)
        self.was_sent = was_sent


class DatabaseError(TemporaryError):
    """The database did not answer; nothing is known about what was asked of it."""

    def __init__(self, summary: str) -> None:
        meaning = MEANINGS[Code.DATABASE_UNAVAILABLE]
        super().__init__(summary, code=Code.DATABASE_UNAVAILABLE.value, hint=meaning.hint)


@contextmanager
def translated() -> Iterator[None]:
    """Raise DatabaseError in place of a database fault that may pass; mistakes of ours stay loud."""
    try:
        yield
    except (TimeoutError, OSError, PoolTimeoutError) as error:
        raise DatabaseError(f"{type(error).__name__}: {error}") from error
    except DBAPIError as error:
        if not _passes(error):
            raise
        raise DatabaseError(f"{type(error.orig).__name__}: {error.orig}") from error


def _passes(error: DBAPIError) -> bool:
    state = getattr(error.orig, "sqlstate", None) or ""
    if error.connection_invalidated or state.startswith(_PASSING):
        return True
    return not state and isinstance(error, OperationalError | InterfaceError | InternalError)
