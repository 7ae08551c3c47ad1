"""Standby groups: agents that take over when a primary group cannot work, and stand back when it can again.

An agent may belong to a group, and may stand by for another one. While the group that it stands by for has an agent
of the same role that takes work (healthy, neither cordoned nor draining), a standby agent gets none. When the group has
had no such agent for as long as the standby agent was told, it takes over; when the group has had one again for as
long, it stands back, and finishes what it runs. So an agent that flaps moves nothing.

What a group can do, and since when, is a row of the database that every process of the plane keeps by the same
statement, so they need no agreement; ``active`` is a flag of the agent, like its cordon, and everything that hands out
work asks ``Agent.admits_work``. The plane doubts itself first: after an outage of its own a group is judged only when
heartbeats have been written again for as long as an agent may be silent.
"""

from collections.abc import Callable
from typing import Final

import structlog

from isthmus.deployment.errors import DatabaseError, translated
from isthmus.deployment.pooling import Pool
from isthmus.deployment.tables import AGENTS_CHANNEL
from isthmus.kit.clocks import Clock, SystemClock

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 1.0

_ANY: Final = "SELECT EXISTS (SELECT FROM isthmus_agent WHERE standby_for IS NOT NULL)"

# Two processes that find a change at once write the same: the second one finds nothing left to change.
_OBSERVE: Final = """
INSERT INTO isthmus_group AS g (name, role, able, since)
SELECT watched.name, watched.role, EXISTS (
    SELECT FROM isthmus_agent AS a
    WHERE a.group_name = watched.name AND a.role = watched.role AND a.phase = 'ready'
      AND NOT a.cordoned AND NOT a.draining
      AND coalesce(a.last_heartbeat_at, a.enrolled_at) > now() - $1::float * interval '1 second'
), now()
FROM (SELECT DISTINCT standby_for AS name, role FROM isthmus_agent WHERE standby_for IS NOT NULL) AS watched
ON CONFLICT (name, role) DO UPDATE SET able = excluded.able, since = excluded.since WHERE g.able <> excluded.able
"""

_DECIDE: Final = """
UPDATE isthmus_agent AS a SET standby_active = NOT g.able
FROM isthmus_group AS g
WHERE a.standby_for = g.name AND a.role = g.role AND a.standby_active = g.able
  AND g.since <= now() - a.standby_seconds * interval '1 second'
RETURNING a.name, a.standby_for, a.standby_active
"""

_FORGET: Final = """
DELETE FROM isthmus_group AS g WHERE NOT EXISTS (
    SELECT FROM isthmus_agent AS a WHERE a.standby_for = g.name AND a.role = g.role
)
"""


class Standby:
    """The loop that decides. ``trusted_seconds`` is ``Roster.writable_seconds``."""

    def __init__(
        self, pool: Pool, *, trusted_seconds: Callable[[], float], healthy_seconds: float, clock: Clock | None = None
    ) -> None:
        self._pool = pool
        self._trusted_seconds = trusted_seconds
        self._healthy_seconds = healthy_seconds
        self._clock = clock or SystemClock()

    async def look(self) -> int:
        """Look at the groups once; how many agents have taken over or stood back. Raises DatabaseError."""
        if self._trusted_seconds() < self._healthy_seconds:
            return 0
        with translated():
            if not await self._pool.fetchval(_ANY):
                return 0
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(_OBSERVE, self._healthy_seconds)
                changed = await connection.fetch(_DECIDE)
                await connection.execute(_FORGET)
                if changed:
                    await connection.execute("SELECT pg_notify($1, '')", AGENTS_CHANNEL)
        for row in changed:
            what = "takes over" if row["standby_active"] else "stands back"
            log.info(f"a standby agent {what}", agent=row["name"], group=row["standby_for"])
        return len(changed)

    async def run(self) -> None:
        """Look every second, through every outage, until cancelled."""
        while True:
            await self._clock.sleep(LOOK_SECONDS)
            try:
                await self.look()
            except DatabaseError as error:
                log.debug("groups cannot be looked at now", why=str(error))
