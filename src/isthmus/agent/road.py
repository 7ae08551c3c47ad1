"""Whether the plane serves us, as the latest exchanges have shown.

Every exchange reports here; the gateway asks before it lets a task wait. One flag for the whole agent, so that an
outage is one line in the log and not one per request.
"""

import asyncio

from isthmus.agent import conditions
from isthmus.kit.clocks import Clock
from isthmus.kit.errors import IsthmusError
from isthmus.kit.health import Health


class Road:
    """The way to the plane: open or not."""

    def __init__(self, health: Health, clock: Clock) -> None:
        self._health = health
        self._clock = clock
        self._open = asyncio.Event()
        self._open.set()
        #: On the monotonic clock; None while the road is open.
        self.closed_since: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether the latest exchange was answered by the plane."""
        return self._open.is_set()

    def opened(self) -> None:
        """The plane has answered."""
        if not self._open.is_set():
            self._open.set()
            self.closed_since = None
            self._health.clear(conditions.UNREACHABLE)

    def closed(self, error: IsthmusError) -> None:
        """The plane could not be asked, or cannot answer anybody now."""
        if self.closed_since is None:
            self.closed_since = self._clock.monotonic()
        self._open.clear()
        self._health.raise_(conditions.UNREACHABLE, str(error), error.hint)

    async def wait_open(self, seconds: float) -> bool:
        """Return when the road is open, or after ``seconds``; whether it is."""
        return await self._clock.wait(self._open, seconds)
