"""The manual clock, and what both clocks promise about waiting for an event."""

import asyncio
from datetime import timedelta

import pytest

from isthmus.kit.clocks import Clock, ManualClock, SystemClock


async def test_the_manual_clock_moves_when_told() -> None:
    clock = ManualClock()
    began, at = clock.now(), clock.monotonic()
    await clock.sleep(90.0)
    assert clock.now() - began == timedelta(seconds=90)
    assert clock.monotonic() - at == 90.0
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1.0)


@pytest.mark.parametrize("clock", [ManualClock(), SystemClock()])
async def test_wait_returns_for_the_event_or_the_time(clock: Clock) -> None:
    event = asyncio.Event()
    assert not await clock.wait(event, 0.01)
    event.set()
    assert await clock.wait(event, 1000.0)
    assert await clock.wait(event)


@pytest.mark.parametrize("clock", [ManualClock(), SystemClock()])
async def test_wait_without_a_limit_waits_for_the_event(clock: Clock) -> None:
    event = asyncio.Event()
    waiting = asyncio.create_task(clock.wait(event))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    event.set()
    assert await waiting
