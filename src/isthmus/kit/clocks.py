"""Time, from outside: what a loop needs to know of it, and nothing global.

Everything that waits, backs off or stamps takes a ``Clock``, so that tests run in virtual time. ``monotonic``
measures (never goes back, no meaning by itself); ``now`` stamps (UTC, for people and for the wire). Two machines'
clocks are never compared.
"""

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Reads time and waits for it to pass."""

    def now(self) -> datetime:
        """The current moment, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed point; only differences mean something."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``."""
        ...

    async def wait(self, event: asyncio.Event, seconds: float | None = None) -> bool:
        """Return once ``event`` is set, or after ``seconds``; whether it is set."""
        ...


class SystemClock:
    """The machine's time."""

    def now(self) -> datetime:
        """The current moment, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds of the system's monotonic clock."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Sleep on the running event loop."""
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, seconds: float | None = None) -> bool:
        """Wait on the running event loop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
        return event.is_set()


class ManualClock:
    """A clock that moves when it is told to, for tests: ``sleep`` moves it and gives the others a turn."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._elapsed = 0.0

    def now(self) -> datetime:
        """The start plus what has been advanced."""
        return self._start + timedelta(seconds=self._elapsed)

    def monotonic(self) -> float:
        """Seconds that have been advanced."""
        return self._elapsed

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        if seconds < 0:
            raise ValueError("time does not go back")
        self._elapsed += seconds

    async def sleep(self, seconds: float) -> None:
        """Advance at once, and yield to the event loop."""
        self.advance(max(seconds, 0.0))
        await asyncio.sleep(0)

    async def wait(self, event: asyncio.Event, seconds: float | None = None) -> bool:
        """Give the others a turn; if they do not set ``event``, advance by ``seconds``, or wait if there are none."""
        await asyncio.sleep(0)
        if event.is_set():
            return True
        if seconds is None:
            return await event.wait()
        await self.sleep(seconds)
        return event.is_set()
