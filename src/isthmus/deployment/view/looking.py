"""What the page shows, read from the deployment's database. It only reads.

Invariants: a process of Airflow's API server has at most ``POOL_SIZE`` connections for the page, opened when somebody
looks and closed again when nobody does; and the page is answered within ``ANSWER_SECONDS``, whatever the database does.
"""

import asyncio
from typing import Final

import asyncpg

from isthmus.deployment import compat, pooling, reading
from isthmus.deployment.access import AllowList
from isthmus.deployment.config import DeploymentConfig
from isthmus.deployment.errors import DatabaseError, translated
from isthmus.deployment.pooling import Pool
from isthmus.deployment.view.page import Seen
from isthmus.kit.errors import ConfigError
from isthmus.wire.admin import AgentOrder

#: Few people look at a time, and each look takes milliseconds.
POOL_SIZE: Final = 2
#: Agents on one page.
ROWS: Final = 200
#: Longer, and people think that Airflow hangs.
ANSWER_SECONDS: Final = 5.0


class Looker:
    """Reads the deployment that Airflow's configuration names, through a pool that is made when it is first needed."""

    def __init__(self) -> None:
        self._opened: tuple[DeploymentConfig, Pool] | None = None
        self._opening = asyncio.Lock()

    async def look(self, start: int) -> Seen:
        """The counts, and the agents from the place ``start`` on. Raises ConfigError and DatabaseError."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                config, pool = await self._open()
                return await _look(config, pool, start)
        except TimeoutError:
            raise DatabaseError(f"no answer within {ANSWER_SECONDS:g} s") from None
        except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
            raise ConfigError(
                "the database does not have Isthmus' tables, or not those of this version",
                code="database_not_migrated",
                hint="Run: airflow db migrate",
            ) from None

    async def _open(self) -> tuple[DeploymentConfig, Pool]:
        async with self._opening:
            if self._opened is None:
                config = compat.deployment_config()
                pool = await pooling.open_pool(compat.database_url(), size=POOL_SIZE)
                self._opened = config, pool
            return self._opened


async def _look(config: DeploymentConfig, pool: Pool, start: int) -> Seen:
    heartbeat = config.heartbeat_seconds
    with translated():
        at = await pool.fetchval("SELECT now()")
    found = await reading.agents(pool, heartbeat_seconds=heartbeat, order=AgentOrder.URGENCY, start=start, limit=ROWS)
    allowed = AllowList(pool)
    await allowed.load()
    return Seen(
        deployment_id=config.deployment_id,
        control_url=config.control_url,
        at=at,
        counts=await reading.counts(pool, heartbeat_seconds=heartbeat),
        agents=tuple(found.agents),
        tokens=await reading.token_ends(pool, {one.token_id for one in found.agents}),
        allowed=allowed.ranges,
        start=start,
        next_start=start + ROWS if found.has_more else None,
    )
