"""What goes through links: asked of the cloud when somebody wants to know, and remembered for a minute.

It is apart from the loop over the links, which it must never slow down: a cloud's metrics are late, sometimes slow, and
need a permission of their own. Whoever asks gets what is known and, if that is not fresh, why not; never an error.
"""

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import structlog

from isthmus.control.links import Problem
from isthmus.kit.clocks import Clock
from isthmus.kit.errors import IsthmusError
from isthmus.link import names
from isthmus.link.clouds import ProviderCloud
from isthmus.link.traffic import LAST_HOUR, ServiceTraffic

#: Clouds measure by the minute: asking more often shows nothing new.
_FRESH_SECONDS: Final = 60.0
#: So long somebody waits; what comes later is there for the next one who asks.
_WAIT_SECONDS: Final = 10.0
#: More link services than any control plane has at hand; the ones that were asked for first are forgotten.
_REMEMBERED: Final = 2000

log = structlog.get_logger(__name__)

_SLOW: Final = Problem(
    "metrics_late", "The cloud has not said yet what goes through the link.", "Ask again in a minute."
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What is known of a link service. ``problem`` is why it is not fresh, or not there."""

    traffic: ServiceTraffic | None = None
    measured_at: datetime | None = None
    problem: Problem | None = None


class Meter:
    """Readings of one cloud. Many who ask at once are one question."""

    def __init__(self, cloud: ProviderCloud, clock: Clock) -> None:
        self._cloud = cloud
        self._clock = clock
        self._readings: dict[str, Reading] = {}
        self._asked_at: dict[str, float] = {}
        self._under_way: dict[str, asyncio.Task[None]] = {}

    async def read(self, service_id: str) -> Reading:
        """What went through a link service in the last hour."""
        key = names.key(service_id)
        task = self._asking(key, service_id)
        if task is not None:
            done, _ = await asyncio.wait([task], timeout=_WAIT_SECONDS)
            if not done:
                return replace(self._readings.get(key, Reading()), problem=_SLOW)
            task.result()  # a bug is not to be silent
        return self._readings[key]

    def glance(self, service_id: str) -> Reading:
        """What is remembered now, without waiting; the cloud is asked for the next one who looks."""
        key = names.key(service_id)
        task = self._asking(key, service_id)
        if task is not None:
            task.add_done_callback(_tell)
        return self._readings.get(key, Reading())

    def _asking(self, key: str, service_id: str) -> asyncio.Task[None] | None:
        """The question that is under way, or begins now; None if what is known is fresh."""
        task = self._under_way.get(key)
        if task is None and not self._is_fresh(key):
            task = self._under_way[key] = asyncio.create_task(self._ask(key, service_id), name=f"traffic of {key}")
        return task

    async def close(self) -> None:
        """Ask no further."""
        for task in self._under_way.values():
            task.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    def _is_fresh(self, key: str) -> bool:
        return key in self._readings and self._clock.monotonic() - self._asked_at[key] < _FRESH_SECONDS

    async def _ask(self, key: str, service_id: str) -> None:
        try:
            traffic = await self._cloud.measure_service(service_id, LAST_HOUR)
        except IsthmusError as error:
            known = self._readings.pop(key, Reading())
            reading = replace(known, problem=Problem(error.code, error.summary, error.hint))
        else:
            self._readings.pop(key, None)
            reading = Reading(traffic, self._clock.now())
        finally:
            del self._under_way[key]
        self._asked_at[key] = self._clock.monotonic()
        self._readings[key] = reading
        while len(self._readings) > _REMEMBERED:
            oldest = next(iter(self._readings))
            del self._readings[oldest], self._asked_at[oldest]


def _tell(task: asyncio.Task[None]) -> None:
    """Nobody waits for this one: a bug is not to be silent."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("traffic could not be asked for", exc_info=error)
