"""Keeping a copy in memory close to the database.

A ``Refresher`` reads again when a notification asks for it and, because a notification can be missed, at an interval.
Requests that come while it reads make one more reading, however many they are. An outage changes nothing in memory: the
copy stays in force and the reading is tried again.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from isthmus.deployment.errors import DatabaseError

log = structlog.get_logger(__name__)

#: How old a copy may get where a notification was missed.
INTERVAL_SECONDS: Final = 30.0
#: Requests are gathered for this long: 2,000 enrolments at once are a few readings, not 2,000.
GATHER_SECONDS: Final = 0.05
RETRY_SECONDS: Final = 1.0


class Refresher:
    """Calls ``read`` when asked to and at an interval. ``read`` raises DatabaseError when it could not."""

    def __init__(
        self,
        name: str,
        read: Callable[[], Awaitable[None]],
        *,
        interval_seconds: float = INTERVAL_SECONDS,
    ) -> None:
        self._name = name
        self._read = read
        self._interval_seconds = interval_seconds
        self._asked = asyncio.Event()

    def request(self) -> None:
        """Read again soon."""
        self._asked.set()

    async def run(self) -> None:
        """Read until cancelled."""
        failing = False
        while True:
            try:
                async with asyncio.timeout(self._interval_seconds):
                    await self._asked.wait()
            except TimeoutError:
                pass
            await asyncio.sleep(GATHER_SECONDS)
            self._asked.clear()
            try:
                await self._read()
                failing = False
            except DatabaseError as error:
                if not failing:
                    log.warning("cannot be read; going on with what is known", copy=self._name, why=str(error))
                failing = True
                self._asked.set()
                await asyncio.sleep(RETRY_SECONDS)
