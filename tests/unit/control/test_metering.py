"""What goes through links is asked for once a minute at most, and never in anybody's way."""

import asyncio
from datetime import timedelta
from ipaddress import IPv4Address
from typing import Any, cast

import pytest

from isthmus.control import metering
from isthmus.control.metering import Meter
from isthmus.kit.clocks import ManualClock
from isthmus.link.clouds import ProviderCloud
from isthmus.link.errors import NotPermittedError
from isthmus.link.traffic import LAST_HOUR, PortUse, ServiceTraffic, Traffic

SERVICE = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/privateLinkServices/svc"
DENIED = NotPermittedError("No permission to read metrics", hint="Monitoring Reader", action="a", scope="s")


class Cloud:
    """Answers when it may, with as many bytes as it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.failure: Exception | None = None

    async def measure_service(self, service_id: str, span: timedelta) -> ServiceTraffic:
        self.asked += 1
        number = self.asked
        await self.answers.wait()
        if self.failure is not None:
            raise self.failure
        return ServiceTraffic(Traffic(span, number, 0), (PortUse(IPv4Address("10.1.1.4"), 1.0, 2.0),))


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def meter(cloud: Cloud, clock: ManualClock) -> Meter:
    return Meter(cast("ProviderCloud", cloud), clock)


def bytes_of(reading: metering.Reading) -> int | None:
    return reading.traffic.traffic.bytes_in if reading.traffic else None


async def test_a_minute_is_remembered(meter: Meter, cloud: Cloud, clock: ManualClock) -> None:
    first = await meter.read(SERVICE)
    assert (bytes_of(first), first.measured_at, first.problem) == (1, clock.now(), None)
    await clock.sleep(59)
    assert await meter.read(SERVICE.upper()) == first
    await clock.sleep(2)
    assert bytes_of(await meter.read(SERVICE)) == 2
    assert first.traffic is not None
    assert first.traffic.traffic.span == LAST_HOUR


async def test_a_glance_waits_for_nobody(meter: Meter, cloud: Cloud, clock: ManualClock) -> None:
    cloud.answers.clear()
    assert meter.glance(SERVICE) == metering.Reading()
    assert meter.glance(SERVICE) == metering.Reading()
    cloud.answers.set()
    first = await meter.read(SERVICE)
    assert (bytes_of(first), cloud.asked) == (1, 1)
    assert meter.glance(SERVICE.upper()) == first
    await clock.sleep(61)
    assert meter.glance(SERVICE) == first, "the old one until there is a new one"
    assert bytes_of(await meter.read(SERVICE)) == 2
    await clock.sleep(61)
    cloud.failure = DENIED
    meter.glance(SERVICE)
    refused = await meter.read(SERVICE)
    assert refused.problem is not None
    assert bytes_of(meter.glance(SERVICE)) == 2, "what was known stays, with the problem"


async def test_many_who_ask_are_one_question(meter: Meter, cloud: Cloud) -> None:
    cloud.answers.clear()
    readers = [asyncio.create_task(meter.read(SERVICE)) for _ in range(20)]
    await asyncio.sleep(0)
    cloud.answers.set()
    assert {bytes_of(one) for one in await asyncio.gather(*readers)} == {1}
    assert cloud.asked == 1


async def test_one_who_goes_away_takes_nothing_from_the_others(meter: Meter, cloud: Cloud) -> None:
    cloud.answers.clear()
    gone = asyncio.create_task(meter.read(SERVICE))
    stays = asyncio.create_task(meter.read(SERVICE))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    cloud.answers.set()
    assert bytes_of(await stays) == 1


async def test_a_refusal_is_a_note_beside_what_is_known(meter: Meter, cloud: Cloud, clock: ManualClock) -> None:
    cloud.failure = DENIED
    nothing = await meter.read(SERVICE)
    assert nothing.problem is not None
    assert (nothing.problem.code, nothing.problem.hint) == ("permission_missing", "Monitoring Reader")
    assert (nothing.traffic, nothing.measured_at) == (None, None)
    assert await meter.read(SERVICE) == nothing
    assert cloud.asked == 1, "who may not ask is not asking every second"

    cloud.failure = None
    await clock.sleep(61)
    known = await meter.read(SERVICE)
    assert (bytes_of(known), known.problem) == (2, None)
    cloud.failure = DENIED
    await clock.sleep(61)
    old = await meter.read(SERVICE)
    assert (old.traffic, old.measured_at) == (known.traffic, known.measured_at)
    assert old.problem is not None


async def test_a_slow_cloud_is_not_waited_for(meter: Meter, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metering, "_WAIT_SECONDS", 0.01)
    cloud.answers.clear()
    late = await meter.read(SERVICE)
    assert late.problem is not None
    assert late.problem.code == "metrics_late"
    assert (await meter.read(SERVICE)).problem == late.problem
    assert cloud.asked == 1
    cloud.answers.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert bytes_of(await meter.read(SERVICE)) == 1


async def test_a_bug_is_loud_and_does_not_last(meter: Meter, cloud: Cloud) -> None:
    cloud.failure = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await meter.read(SERVICE)
    cloud.failure = None
    assert bytes_of(await meter.read(SERVICE)) == 2


async def test_closing_ends_what_is_under_way(meter: Meter, cloud: Cloud) -> None:
    cloud.answers.clear()
    reader = asyncio.create_task(meter.read(SERVICE))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await meter.close()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert not [one for one in asyncio.all_tasks() if one.get_name().startswith("traffic of")]


async def test_what_is_remembered_is_bounded(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metering, "_REMEMBERED", 3)
    for number in range(5):
        await meter.read(f"{SERVICE}{number}")
    kept: dict[str, Any] = meter._readings
    assert [one[-1] for one in kept] == ["2", "3", "4"]
