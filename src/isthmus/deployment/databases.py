"""Database URLs: which ones a deployment accepts, and the same database said in three dialects.

One URL goes in, as people write it; out come Airflow's (psycopg2, and asyncpg for its API server), ours (asyncpg) and
libpq's. Only PostgreSQL 14 and later is accepted: the queue lives on ``SKIP LOCKED``, ``LISTEN``/``NOTIFY``, partial
indexes, transactional DDL (ADR 0003). Invariant: what ``airflow_url`` returns is PostgreSQL through psycopg2, never a
bare ``postgresql://``, whose driver depends on the version of SQLAlchemy. Passwords never reach an error's text.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import psycopg2
import psycopg2.extensions
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from isthmus.kit.errors import ConfigError, UnreachableError

#: The oldest major version that PostgreSQL's own project supports while Airflow 3.3 does, and the oldest that CI runs.
LEAST_MAJOR_VERSION: Final = 14

_NAMES: Final = frozenset({"postgresql", "postgres"})

#: Keywords that libpq reads and asyncpg would send to the server as settings, where they are errors.
_LIBPQ_ONLY: Final = frozenset(
    {
        "channel_binding",
        "connect_timeout",
        "fallback_application_name",
        "gssdelegation",
        "gssencmode",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "load_balance_hosts",
        "require_auth",
        "requirepeer",
        "sslcompression",
        "sslnegotiation",
        "sslsni",
        "tcp_user_timeout",
    }
)


def _parse(url: str) -> URL:
    """The URL with its hosts in one form. Raises ConfigError for anything that is not PostgreSQL."""
    try:
        parsed = make_url(url.strip())
        backend = parsed.drivername.partition("+")[0]
    except (ArgumentError, ValueError):
        raise ConfigError(
            "the database URL is malformed",
            code="database_malformed",
            hint="Write it as postgresql://user:password@host:5432/database; special characters percent-encoded.",
        ) from None
    if backend not in _NAMES:
        raise ConfigError(
            f"{backend} is not supported as the metadata database: Isthmus needs PostgreSQL",
            code="database_unsupported",
            hint="Set [database] sql_alchemy_conn to postgresql+psycopg2://user:password@host:5432/database, "
            f"PostgreSQL {LEAST_MAJOR_VERSION} or later, or use the embedded PostgreSQL (isthmus deployment init).",
        )
    return parsed


def _hosts(parsed: URL) -> dict[str, str]:
    """Hosts and ports of a URL that names several (SQLAlchemy's ``?host=a:1&host=b:2``), as libpq's two lists."""
    given = parsed.query.get("host")
    if not isinstance(given, tuple):
        return {}
    pairs = [host.partition(":") for host in given]
    return {
        "host": ",".join(host for host, _, _ in pairs),
        "port": ",".join(port or "5432" for _, _, port in pairs),
    }


def _plain(parsed: URL) -> URL:
    return parsed.set(drivername="postgresql").update_query_dict(_hosts(parsed))


def airflow_url(url: str) -> str:
    """The URL for ``[database] sql_alchemy_conn``. Raises ConfigError."""
    return _parse(url).set(drivername="postgresql+psycopg2").render_as_string(hide_password=False)


def airflow_async_url(url: str) -> str:
    """The URL for ``[database] sql_alchemy_conn_async``, where asyncpg takes ``ssl`` for ``sslmode``.

    Raises ConfigError.
    """
    parsed = _parse(url).set(drivername="postgresql+asyncpg").difference_update_query(_LIBPQ_ONLY)
    if (mode := parsed.query.get("sslmode")) is not None:
        parsed = parsed.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
    return parsed.render_as_string(hide_password=False)


def asyncpg_dsn(url: str) -> str:
    """The data source name for ``asyncpg.connect``. Raises ConfigError."""
    return _plain(_parse(url)).difference_update_query(_LIBPQ_ONLY).render_as_string(hide_password=False)


def libpq_dsn(url: str) -> str:
    """The connection URI for libpq, as ``psycopg2.connect`` takes it. Raises ConfigError."""
    return _plain(_parse(url)).render_as_string(hide_password=False)


def redacted(url: str) -> str:
    """The URL for people: without its password. Raises ConfigError."""
    return _parse(url).render_as_string(hide_password=True)


@contextlib.contextmanager
def connected(url: str, *, connect_seconds: int = 10, **parameters: Any) -> Iterator[psycopg2.extensions.connection]:
    """An autocommitting connection that is closed afterwards. Raises ConfigError, UnreachableError."""
    try:
        connection = psycopg2.connect(libpq_dsn(url), connect_timeout=connect_seconds, **parameters)
    except psycopg2.OperationalError as error:
        raise UnreachableError(
            f"cannot connect to {redacted(url)}: {str(error).strip()}",
            code="database_unreachable",
            hint="Check host, port, user and password of the database URL, and that PostgreSQL accepts this address.",
        ) from None
    try:
        connection.autocommit = True
        yield connection
    finally:
        connection.close()


def check(url: str) -> int:
    """The server's version number (160004 is 16.4), if it will do. Connects once.

    Raises ConfigError where it is not PostgreSQL or too old, UnreachableError where there is no answer.
    """
    with connected(url) as connection:
        number = connection.server_version
    if number < LEAST_MAJOR_VERSION * 10_000:
        raise ConfigError(
            f"{redacted(url)} is PostgreSQL {number // 10_000}; Isthmus needs {LEAST_MAJOR_VERSION} or later",
            code="database_too_old",
            hint=f"Upgrade the server to PostgreSQL {LEAST_MAJOR_VERSION} or later.",
        )
    return number
