"""How the deployment's side says no, and which database faults pass by themselves.

::

    PlaneRefusedError   a RefusedError with the problem code that goes on the wire
    DatabaseError       a TemporaryError: the database does not answer; the wire says database_unavailable

``translated`` turns what asyncpg and the network raise into ``DatabaseError``; mistakes of ours (a constraint, bad SQL)
pass through and are loud.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg

from isthmus.kit.errors import RefusedError, TemporaryError
from isthmus.wire.problems import MEANINGS, Code

#: What a database that restarts, is full, is cut off, or lets nobody in looks like. The same call may succeed later.
DATABASE_FAULTS: Final[tuple[type[BaseException], ...]] = (
    OSError,  # refused, reset, timed out: asyncio.TimeoutError and ConnectionError are OSErrors since 3.11
    asyncio.TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,  # the pool or the connection is closed or closing
    asyncpg.InternalClientError,  # the connection broke in the middle of an answer
    asyncpg.InvalidAuthorizationSpecificationError,  # a password that is being changed
    asyncpg.InvalidCatalogNameError,
    asyncpg.OperatorInterventionError,  # shutdown, crash, cannot connect now
    asyncpg.InsufficientResourcesError,  # too many connections, disk full
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.ReadOnlySQLTransactionError,  # a standby that was not promoted yet
)


class PlaneRefusedError(RefusedError):
    """The plane refuses; ``problem`` is the code on the wire and ``detail`` what is special about this occurrence."""

    def __init__(
        self, problem: Code, detail: str = "", *, source_address: str | None = None, link_id: int | None = None
    ) -> None:
        meaning = MEANINGS[problem]
        super().__init__(detail or meaning.title, code=problem.value, hint=meaning.hint)
        self.problem = problem
        self.detail = detail
        self.source_address = source_address
        self.link_id = link_id


class DatabaseError(TemporaryError):
    """The database did not answer; nothing is known about what was asked of it."""

    problem: Final = Code.DATABASE_UNAVAILABLE

    def __init__(self, summary: str) -> None:
        meaning = MEANINGS[Code.DATABASE_UNAVAILABLE]
        super().__init__(summary, code=Code.DATABASE_UNAVAILABLE.value, hint=meaning.hint)


@contextmanager
def translated() -> Iterator[None]:
    """Raise DatabaseError in place of a database fault that may pass."""
    try:
        yield
    except DATABASE_FAULTS as error:
        raise DatabaseError(f"{type(error).__name__}: {error}") from error
