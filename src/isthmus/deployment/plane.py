"""The core of one Remote Execution API process: what its requests share, and its loops.

``Plane`` holds the pool, the listener, the tokens, the allow list, the roster, the dispatcher, the reaper, those who
were turned away and the loads of triggers, wires their notifications, and runs their loops. It knows nothing of HTTP.
The order of stopping: claims and loads are answered as they are (``stop``), the last heartbeats and refusals are
written, then the loops end and the pool closes.
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
from isthmus.deployment.logreads import LogDesk
from isthmus.deployment.pooling import Pool
from isthmus.deployment.reaping import Reaper
from isthmus.deployment.refused import RefusedCallers
from isthmus.deployment.roster import HEALTHY_HEARTBEATS, Roster
from isthmus.deployment.standby import Standby
from isthmus.deployment.tables import (
    ACCESS_CHANNEL,
    AGENTS_CHANNEL,
    LOG_ROOM_CHANNEL,
    LOGS_CHANNEL,
    QUEUED_CHANNEL,
    TRIGGERS_CHANNEL,
)
from isthmus.deployment.tokens import TokenBook
from isthmus.deployment.triggers.holding import Patience
from isthmus.deployment.triggers.loading import LOAD_PAUSE_SECONDS, Loads
from isthmus.kit import guarding
from isthmus.kit.clocks import Clock

#: How long statements that still run at the end may take.
CLOSE_SECONDS: Final = 5.0
#: A triggerer of Airflow's own, beside ours, keeps its triggers while its heartbeat is no older: Airflow's default of
#: [triggerer] triggerer_health_check_threshold.
CENTRAL_TRIGGERER_SECONDS: Final = 30.0


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
    refused: RefusedCallers
    standby: Standby
    log_desk: LogDesk
    loads: Loads

    async def stop(self) -> None:
        """Answer waiting claims, write the last heartbeats and refusals; safe to call again."""
        self.loads.stop()
        await self.dispatcher.stop()
        self.log_desk.stop()
        with contextlib.suppress(DatabaseError):
            await self.roster.flush()
            await self.refused.flush()


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
        shipped_days=config.ship_logs_days,
        healthy_seconds=HEALTHY_HEARTBEATS * config.heartbeat_seconds,
        clock=clock,
    )
    roster.on_withdrawn(dispatcher.withdraw)
    listener.subscribe(QUEUED_CHANNEL, dispatcher.notify)
    listener.subscribe(AGENTS_CHANNEL, roster.refresh)
    listener.subscribe(ACCESS_CHANNEL, tokens.refresh)
    listener.subscribe(ACCESS_CHANNEL, allow_list.refresh)
    refused = RefusedCallers(pool, clock=clock)
    standby = Standby(
        pool,
        trusted_seconds=roster.writable_seconds,
        healthy_seconds=HEALTHY_HEARTBEATS * config.heartbeat_seconds,
        clock=clock,
    )
    log_desk = LogDesk(pool, clock=clock)
    listener.subscribe(LOGS_CHANNEL, log_desk.asked)
    listener.subscribe(LOG_ROOM_CHANNEL, log_desk.moved)
    patience = Patience(
        agent_seconds=HEALTHY_HEARTBEATS * config.heartbeat_seconds,
        triggerer_seconds=config.claim_wait_seconds + LOAD_PAUSE_SECONDS,
        central_seconds=CENTRAL_TRIGGERER_SECONDS,
    )
    loads = Loads(pool, patience, trusted_seconds=roster.writable_seconds, clock=clock)
    roster.on_withdrawn(lambda _agent_id: loads.look())
    listener.subscribe(AGENTS_CHANNEL, loads.look)
    listener.subscribe(TRIGGERS_CHANNEL, loads.look)
    return Plane(
        config, times, pool, listener, tokens, allow_list, roster, dispatcher, reaper, refused, standby, log_desk, loads
    )


@asynccontextmanager
async def running(
    config: DeploymentConfig, database_url: str, *, clock: Clock | None = None, pool_size: int = 8
) -> AsyncIterator[Plane]:
    """A plane whose loops run. Raises DatabaseError when the database does not answer at first.

    An unexpected end of a loop ends the body with its exception, in a group.
    """
    pool = await pooling.open_pool(database_url, size=pool_size)
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
                guarding.start(group, "refused callers", plane.refused.run()),
                guarding.start(group, "standby", plane.standby.run()),
                guarding.start(group, "task logs", plane.log_desk.run()),
                guarding.start(group, "triggers", plane.loads.run()),
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
