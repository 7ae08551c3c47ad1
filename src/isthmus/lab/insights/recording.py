"""From the packets' counters to grains: a sample now and then, and before every question.

Counters only grow, so a sample is worth what came since the last one. What was there when recording began is not
counted: nobody knows which minutes it belongs to.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from isthmus.kit.clocks import Clock
from isthmus.lab.ids import Key
from isthmus.lab.insights import definitions
from isthmus.lab.insights.grains import Grains, SeriesId
from isthmus.lab.picture import Picture

#: How often samples are taken when nobody asks: several a minute, so that a minute's average of ports means something.
EVERY_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Sample:
    """What the packets counted. Bytes are (to the service, back), since the endpoint was made."""

    shown: Picture
    bytes: Mapping[Key, tuple[int, int]]
    ports_used: Mapping[Key, Mapping[IPv4Address, int]]


class Recorder:
    """Takes samples with ``take``, which answers None when nothing can be counted now."""

    def __init__(self, take: Callable[[], Awaitable[Sample | None]], clock: Clock, *, ports_per_address: int) -> None:
        self.grains = Grains()
        self._take = take
        self._clock = clock
        self._ports_per_address = ports_per_address
        self._turn = asyncio.Lock()
        self._last: dict[Key, tuple[int, int]] | None = None

    async def run(self) -> None:
        """Take samples until cancelled."""
        while True:
            await self.record()
            await self._clock.sleep(EVERY_SECONDS)

    async def record(self) -> None:
        """Take a sample now."""
        async with self._turn:
            sample = await self._take()
            if sample is not None:
                self._record(sample)

    def _record(self, sample: Sample) -> None:
        minute = int(self._clock.now().timestamp() // 60)
        carried: dict[Key, tuple[int, int]] = {one.key: (0, 0) for one in sample.shown.services}
        for endpoint in sample.shown.endpoints:
            if endpoint.key not in sample.bytes:
                continue  # the packets do not know of it yet
            # In the customer's network, what comes from the service comes in: what users of Azure have measured.
            there, back = self._grown(endpoint.key, sample.bytes[endpoint.key])
            self._add(endpoint.key, definitions.ENDPOINT_BYTES_IN, minute, back)
            self._add(endpoint.key, definitions.ENDPOINT_BYTES_OUT, minute, there)
            if endpoint.service in carried:
                before = carried[endpoint.service]
                carried[endpoint.service] = (before[0] + there, before[1] + back)
        for key, (there, back) in carried.items():
            self._add(key, definitions.SERVICE_BYTES_IN, minute, there)
            self._add(key, definitions.SERVICE_BYTES_OUT, minute, back)
        for service in sample.shown.services:
            used = sample.ports_used.get(service.key, {})
            for address in service.nat_addresses:
                percent = 100 * used.get(address, 0) / self._ports_per_address
                self._add(service.key, definitions.NAT_PORTS, minute, percent, str(address))
        self._last = dict(sample.bytes)
        self.grains.keep(self._last.keys() | carried.keys())

    def _grown(self, key: Key, now: tuple[int, int]) -> tuple[int, int]:
        """What was counted since the last sample; counters that have begun anew count from nothing."""
        if self._last is None:
            return 0, 0
        there, back = self._last.get(key, (0, 0))
        return (now[0] - there if now[0] >= there else now[0]), (now[1] - back if now[1] >= back else now[1])

    def _add(self, key: Key, metric: definitions.Metric, minute: int, value: float, dimension: str = "") -> None:
        self.grains.add(SeriesId(key, metric.name, dimension), minute, value)
