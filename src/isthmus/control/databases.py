"""The control plane's database: PostgreSQL 14 or later, through SQLAlchemy and asyncpg.

One URL goes in, as people write it. Passwords never reach an error's text. All statements of a decision run in one
transaction with the audit entry about it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final, Self

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from isthmus.control.errors import translated
from isthmus.kit.errors import ConfigError

#: As for deployments (ADR 0003).
LEAST_MAJOR_VERSION: Final = 14

_CONNECT_SECONDS: Final = 10
_STATEMENT_SECONDS: Final = 15
_CLOSE_SECONDS: Final = 5


def asyncpg_url(url: str) -> URL:
    """``url`` for SQLAlchemy's asyncpg dialect. Raises ConfigError."""
    try:
        parsed = make_url(url.strip())
        backend = parsed.drivername.partition("+")[0]
    except (ArgumentError, ValueError):
        raise ConfigError(
            "the database URL is malformed",
            code="database_malformed",
            hint="Write it as postgresql://user:password@host:5432/database; special characters percent-encoded.",
        ) from None
    if backend not in {"postgresql", "postgres"}:
        raise ConfigError(
            f"{backend} is not supported as the control plane's database: Isthmus needs PostgreSQL",
            code="database_unsupported",
            hint="Give --database-url postgresql://user:password@host:5432/database.",
        )
    parsed = parsed.set(drivername="postgresql+asyncpg")
    if (mode := parsed.query.get("sslmode")) is not None:  # asyncpg's word for libpq's
        parsed = parsed.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
    return parsed


class Database:
    """A pool of connections to one database."""

    def __init__(self, url: str, *, size: int = 8) -> None:
        self._engine: AsyncEngine = create_async_engine(
            asyncpg_url(url),
            pool_size=size,
            max_overflow=0,
            pool_timeout=_CONNECT_SECONDS,
            pool_pre_ping=True,
            hide_parameters=True,
            connect_args={
                "timeout": _CONNECT_SECONDS,
                "command_timeout": _STATEMENT_SECONDS,
                "server_settings": {"application_name": "isthmus-control"},
            },
        )
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        # Who was cancelled gives its connection back a moment later.
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._unused.wait()
        await self._engine.dispose()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A connection in a transaction, committed unless something is raised. Raises DatabaseError."""
        with translated(), self._in_use():
            connection = self._engine.connect()
            try:
                await _to_the_end(connection.start())
                async with connection.begin():
                    yield connection
            finally:
                if connection.sync_connection is not None:
                    await _to_the_end(connection.close())

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        self._users += 1
        self._unused.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()


async def _to_the_end(work: Awaitable[object]) -> None:
    """Await ``work``, also when cancelled meanwhile: a connection that is half open or half closed is nobody's."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
