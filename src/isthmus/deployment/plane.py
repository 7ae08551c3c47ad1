"""The core of one Remote Execution API process: what its requests share, and its loops.

``Plane`` holds the pool, the listener, the tokens, the allow list, the roster, the dispatcher and the reaper, wires
their notifications, and runs their loops. It knows nothing of HTTP. The order of stopping: claims are answered with
nothing (``stop``), the last heartbeats are written, then the loops end and the pool closes.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from isthmus.deployment import pooling
from isthmus.deployment.access import AllowList
from isthmus.deployment.config import DeploymentConfig
from isthmus.deployment.dispatching import Dispatcher
from isthmus.deployment.errors import DatabaseError
from isthmus.deployment.leasing import LeaseTimes
from isthmus.deployment.listening import Listener
from isthmus.deployment.pooling import Pool
from isthmus.deployment.reaping import Reaper
from isthmus.deployment.roster import Roster
from isthmus.deployment.tables import ACCESS_CHANNEL, AGENTS_CHANNEL, QUEUED_CHANNEL
from isthmus.deployment.tokens import TokenBook
from isthmus.kit import guarding
from isthmus.kit.clocks import Clock

#: How long statements that still run at the end may take.
CLOSE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Plane:
    """What the requests of one process share."""

    config: DeploymentConfig
    times: LeaseTimes
    pool: Pool
    listener: Listener
    tokens: TokenBook
    allow_list: AllowList
    roster: Roster
    dispatcher: Dispatcher
    reaper: Reaper

    async def stop(self) -> None:
        """Answer waiting claims and write the last heartbeats; safe to call again."""
        await self.dispatcher.stop()
        with contextlib.suppress(DatabaseError):
            await self.roster.flush()


def assemble(config: DeploymentConfig, pool: Pool, listen_url: str, *, clock: Clock | None = None) -> Plane:
    """The parts of a plane, wired to each other; nothing runs yet."""
    times = LeaseTimes(config.lease_seconds, config.running_lease_seconds)
    tokens = TokenBook(pool, config.deployment_id, limit=config.token_limit, clock=clock)
    allow_list = AllowList(pool, heartbeat_seconds=config.heartbeat_seconds)
    roster = Roster(pool, tokens, times, heartbeat_seconds=config.heartbeat_seconds, clock=clock)
    dispatcher = Dispatcher(pool, times, clock=clock)
    listener = Listener(pool, listen_url, clock=clock)
    reaper = Reaper(
        pool,
        times,
        trusted_seconds=roster.writable_seconds,
        retention_hours=config.retention_hours,
        clock=clock,
    )
    roster.on_withdrawn(dispatcher.withdraw)
    listener.subscribe(QUEUED_CHANNEL, dispatcher.notify)
    listener.subscribe(AGENTS_CHANNEL, roster.refresh)
    listener.subscribe(ACCESS_CHANNEL, tokens.refresh)
    listener.subscribe(ACCESS_CHANNEL, allow_list.refresh)
    return Plane(config, times, pool, listener, tokens, allow_list, roster, dispatcher, reaper)


@asynccontextmanager
async def running(
    config: DeploymentConfig, database_url: str, *, clock: Clock | None = None, pool_size: int = 8
) -> AsyncIterator[Plane]:
    """A plane whose loops run. Raises DatabaseError when the database does not answer at first.

    An unexpected end of a loop ends the body with its exception, in a group. Where [isthmus] notify_url is set, the
    database URL leads through a pooler, and no prepared statements are kept.
    """
    pool = await pooling.open_pool(database_url, size=pool_size, prepared=config.notify_url is None)
    try:
        plane = assemble(config, pool, config.notify_url or database_url, clock=clock)
        await plane.tokens.load()
        await plane.allow_list.load()
        async with asyncio.TaskGroup() as group:
            loops = [
                guarding.start(group, "listening", plane.listener.run()),
                guarding.start(group, "tokens", plane.tokens.run()),
                guarding.start(group, "allow list", plane.allow_list.run()),
                guarding.start(group, "roster", plane.roster.run()),
                guarding.start(group, "dispatching", plane.dispatcher.run()),
                guarding.start(group, "reaping", plane.reaper.run()),
            ]
            try:
                yield plane
                await plane.stop()
            finally:
                for loop in loops:
                    loop.cancel()
    finally:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await pool.close()
        except TimeoutError:
            pool.terminate()
