"""Connections to the deployment's database: one pool a process, tuned for few short statements.

Takes the URL as Airflow writes it (``databases``). JSON comes and goes as Python values. Unlike asyncpg's default, a
connection that comes back is not reset by a statement of its own: our code leaves no session state behind, and a
connection that was cut in the middle of a transaction is rolled back.
"""

import ipaddress
import json
import math
from typing import Any, Final, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from isthmus.deployment import databases
from isthmus.deployment.errors import translated

Record: TypeAlias = asyncpg.Record
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
#: One connection, on which a transaction can be open.
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
#: Where a single statement can run: a pool, or a connection with its transaction.
Database: TypeAlias = "Pool | Connection"

CONNECT_SECONDS: Final = 10.0
#: No statement of ours takes longer unless the database is in trouble; then an error is better than a queue.
STATEMENT_SECONDS: Final = 15.0
APPLICATION_NAME: Final = "isthmus-api"


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def plain_text(text: str) -> str:
    """``text`` without what PostgreSQL's text cannot hold: NUL, and halves of surrogate pairs.

    It comes from agents: one of them must not be able to make a statement fail that carries the words of many.
    """
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


def json_text(value: Any) -> str:
    """``value`` as JSON that ``jsonb`` accepts, whatever an agent has put into it."""
    try:
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    except ValueError:  # NaN and the infinities are not JSON
        return _dumps(_plain(value))
    # Escapes, not characters: ``dumps`` writes ASCII. A false alarm costs a copy.
    return _dumps(_plain(value)) if "\\u0000" in text or "\\ud" in text else text


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {plain_text(str(key)): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


def inet_text(address: str | None) -> str | None:
    """``address`` as ``inet`` accepts it: without a zone; None when it is not an address (a UNIX socket)."""
    if address is None:
        return None
    try:
        return str(ipaddress.ip_address(address.partition("%")[0]))
    except ValueError:
        return None


async def _prepare(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    for name in ("json", "jsonb"):
        await connection.set_type_codec(name, schema="pg_catalog", encoder=_dumps, decoder=json.loads, format="text")


async def _keep(connection: object) -> None:
    """Leave the session as it is; asyncpg has rolled back an open transaction before it calls this."""


async def _is_direct(dsn: str) -> bool:
    """Whether a connection is one to the server itself. A pooler says another number of the session than the server.

    What lies behind a pooler may be another session for each transaction, and prepared statements belong to one.
    """
    connection = await asyncpg.connect(dsn, timeout=CONNECT_SECONDS, command_timeout=STATEMENT_SECONDS)
    try:
        async with connection.transaction():
            return connection.get_server_pid() == int(await connection.fetchval("SELECT pg_backend_pid()"))
    finally:
        await connection.close(timeout=CONNECT_SECONDS)


async def open_pool(url: str, *, size: int = 8) -> Pool:
    """A pool of at most ``size`` connections, opened as they are needed; one is opened first, to look, and closed.

    Through a pooler (PgBouncer) it keeps no prepared statements. Raises ConfigError for a URL that will not do, and
    DatabaseError.
    """
    dsn = databases.asyncpg_dsn(url)
    with translated():
        prepared = await _is_direct(dsn)
        return await asyncpg.create_pool(
            dsn,
            min_size=0,
            max_size=size,
            init=_prepare,
            reset=_keep,
            timeout=CONNECT_SECONDS,
            command_timeout=STATEMENT_SECONDS,
            statement_cache_size=100 if prepared else 0,
            server_settings={"application_name": APPLICATION_NAME},
        )


async def connect(url: str) -> "asyncpg.Connection[asyncpg.Record]":
    """A connection outside any pool, for listening. Raises ConfigError and DatabaseError."""
    dsn = databases.asyncpg_dsn(url)
    with translated():
        return await asyncpg.connect(
            dsn,
            timeout=CONNECT_SECONDS,
            command_timeout=STATEMENT_SECONDS,
            server_settings={"application_name": f"{APPLICATION_NAME}-listener"},
        )
