"""Connections to the deployment's database: one pool a process, tuned for few short statements.

Takes the URL as Airflow writes it (``postgresql+psycopg2://…``). JSON comes and goes as Python values. Unlike asyncpg's
default, a connection that comes back is not reset by a statement of its own: our code leaves no session state behind,
and a connection that was cut in the middle of a transaction is rolled back.
"""

import json
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from isthmus.deployment.errors import translated
from isthmus.kit.errors import ConfigError

Pool = asyncpg.Pool
#: What the modules of this package run statements on.
Connection = asyncpg.Connection | PoolConnectionProxy
Database = asyncpg.Pool | asyncpg.Connection | PoolConnectionProxy

CONNECT_SECONDS: Final = 10.0
#: No statement of ours takes longer unless the database is in trouble; then an error is better than a queue.
STATEMENT_SECONDS: Final = 15.0
