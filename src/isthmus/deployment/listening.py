"""One listening connection a process, and what to do where notifications cannot arrive.

PostgreSQL's notifications wake the loops of this process: ``subscribe`` gives a callback to a channel. A callback means
"look again", never more: it may come without cause, and always comes after a reconnect, so that nothing is missed.
Whether notifications arrive is tested, at the start and then regularly: an echo that is sent through the pool must
come back within a second. Where it does not (PgBouncer in transaction mode, a connection that cannot be opened) every
channel is called once a second instead, by one loop a process, and ``health`` says so. [isthmus] notify_url names a
direct connection.
"""

import asyncio
import random
import uuid
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import structlog

from isthmus.deployment import pooling
from isthmus.deployment.errors import DatabaseError, translated
from isthmus.deployment.tables import (
    ACCESS_CHANNEL,
    AGENTS_CHANNEL,
    LOG_ROOM_CHANNEL,
    LOGS_CHANNEL,
    QUEUED_CHANNEL,
    SCHEDULER_CHANNEL,
    TRIGGERS_CHANNEL,
)
from isthmus.kit.clocks import Clock, SystemClock
from isthmus.wire.agents import AgentWarning, Severity

log = structlog.get_logger(__name__)

CHANNELS: Final = (
    QUEUED_CHANNEL,
    AGENTS_CHANNEL,
    ACCESS_CHANNEL,
    SCHEDULER_CHANNEL,
    LOGS_CHANNEL,
    LOG_ROOM_CHANNEL,
    TRIGGERS_CHANNEL,
)
#: On which a process talks to itself, with its own name as the payload.
ECHO_CHANNEL: Final = "isthmus_echo"

ECHO_SECONDS: Final = 1.0
#: A connection that is dead without having said so is found after this long.
ECHO_INTERVAL_SECONDS: Final = 10.0
#: How often listening is tried again where notifications do not arrive.
RETRY_SECONDS: Final = 15.0
POLL_SECONDS: Final = 1.0
RECONNECT_SECONDS: Final = (0.05, 5.0)


class Mode(StrEnum):
    """How this process learns of changes."""

    CONNECTING = "connecting"
    NOTIFIED = "notified"
    POLLING = "polling"


class Listener:
    """Calls back when a channel of ``tables`` is notified. ``url`` is [isthmus] notify_url, or the pool's own."""

    def __init__(
        self,
        pool: pooling.Pool,
        url: str,
        *,
        clock: Clock | None = None,
        echo_seconds: float = ECHO_SECONDS,
        echo_interval_seconds: float = ECHO_INTERVAL_SECONDS,
    ) -> None:
        self._pool = pool
        self._url = url
        self._clock = clock or SystemClock()
        self._echo_seconds = echo_seconds
        self._echo_interval_seconds = echo_interval_seconds
        self._name = uuid.uuid4().hex
        self._callbacks: dict[str, list[Callable[[], None]]] = {channel: [] for channel in CHANNELS}
        self._mode = Mode.CONNECTING
        self._since: datetime = self._clock.now()
        self._why = ""
        self._echo = asyncio.Event()
        self._closed = asyncio.Event()

    @property
    def mode(self) -> Mode:
        """How changes arrive now."""
        return self._mode

    def subscribe(self, channel: str, callback: Callable[[], None]) -> None:
        """Call ``callback`` on the event loop whenever ``channel`` may have news. It must be quick and not raise."""
        self._callbacks[channel].append(callback)

    def health(self) -> tuple[AgentWarning, ...]:
        """What is wrong with listening, for ``/healthz``; empty when notifications arrive."""
        if self._mode is not Mode.POLLING:
            return ()
        return (
            AgentWarning(
                code="notifications_missing",
                severity=Severity.WARNING,
                summary=f"Notifications of the database do not arrive: looking once a second. {self._why}"[:512],
                hint="Set [isthmus] notify_url to a direct connection; a pooler in transaction mode drops LISTEN.",
                since=self._since,
            ),
        )

    async def run(self) -> None:
        """Listen until cancelled, through every outage."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(), name="listening.connection")
            group.create_task(self._poll(), name="listening.poll")

    async def _listen(self) -> None:
        least, most = RECONNECT_SECONDS
        pause = least
        while True:
            try:
                with translated():
                    was_notified = await self._listen_once()
            except DatabaseError as error:
                self._enter(Mode.POLLING, f"{error}")
                was_notified = False
                wait = pause
                pause = min(most, pause * 2)
            else:
                wait = least if was_notified else RETRY_SECONDS
            if was_notified:
                pause = least
            await self._clock.sleep(wait * random.uniform(0.8, 1.2))  # noqa: S311 - jitter

    async def _listen_once(self) -> bool:
        """Listen on one connection until it ends. Returns whether notifications ever arrived on it."""
        connection = await pooling.connect(self._url)
        self._closed = asyncio.Event()
        closed = self._closed
        try:
            connection.add_termination_listener(lambda _connection: closed.set())
            await connection.add_listener(ECHO_CHANNEL, self._heard_echo)
            for channel in CHANNELS:
                await connection.add_listener(channel, self._heard)
            if not await self._echoes():
                self._enter(Mode.POLLING, "An echo did not come back within a second.")
                return False
            self._enter(Mode.NOTIFIED)
            self._call_all()  # what came while nobody listened
            while not closed.is_set():
                try:
                    async with asyncio.timeout(self._echo_interval_seconds):
                        await closed.wait()
                except TimeoutError:
                    if not closed.is_set() and not await self._echoes():
                        break
            self._enter(Mode.POLLING, "The listening connection was lost.")
            return True
        finally:
            connection.terminate()

    async def _echoes(self) -> bool:
        """Whether a notification that is sent through the pool comes back in time."""
        self._echo.clear()
        try:
            await self._pool.execute(f"SELECT pg_notify('{ECHO_CHANNEL}', $1)", self._name)
            async with asyncio.timeout(self._echo_seconds):
                await self._echo.wait()
        except TimeoutError:
            return False
        return True

    async def _poll(self) -> None:
        while True:
            await self._clock.sleep(POLL_SECONDS)
            if self._mode is not Mode.NOTIFIED:
                self._call_all()

    def _enter(self, mode: Mode, why: str = "") -> None:
        if mode is not self._mode:
            self._since = self._clock.now()
            if mode is Mode.POLLING:
                log.warning("notifications of the database do not arrive; looking once a second", why=why)
            else:
                log.info("listening to the database's notifications")
        self._mode = mode
        self._why = why

    def _heard(self, _connection: Any, _pid: int, channel: str, _payload: object) -> None:
        for callback in self._callbacks[channel]:
            callback()

    def _heard_echo(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        if payload == self._name:
            self._echo.set()

    def _call_all(self) -> None:
        for callbacks in self._callbacks.values():
            for callback in callbacks:
                callback()
