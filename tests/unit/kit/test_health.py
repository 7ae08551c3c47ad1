"""Conditions: shown when they last, hidden by what explains them, told once."""

import asyncio

from isthmus.kit.clocks import ManualClock
from isthmus.kit.health import Condition, Health, Occurrence, Severity

ROAD = Condition("road", Severity.ERROR, visible_after_seconds=5.0)
CLAIM = Condition("claim", Severity.WARNING, depends_on=frozenset({"road"}))
NOTE = Condition("note", Severity.INFO)


def build() -> tuple[Health, ManualClock, list[tuple[str, bool]]]:
    clock = ManualClock()
    health = Health(clock)
    told: list[tuple[str, bool]] = []

    def observe(occurrence: Occurrence, came: bool) -> None:
        told.append((occurrence.code, came))

    health.observe(observe)
    return health, clock, told


def test_a_condition_is_told_once_however_often_it_is_raised() -> None:
    health, _, told = build()
    for number in range(5):
        health.raise_(NOTE, f"the {number}th time")
    assert told == [("note", True)]
    assert health.visible()[0].summary == "the 4th time"
    health.clear(NOTE)
    health.clear(NOTE)
    assert told == [("note", True), ("note", False)]


def test_what_does_not_last_is_not_shown() -> None:
    health, clock, told = build()
    health.raise_(ROAD, "gone")
    clock.advance(4.9)
    assert not health.visible()
    assert health.well
    assert health.holds(ROAD)
    health.clear(ROAD)
    clock.advance(10)
    assert not health.visible()
    assert told == []


def test_what_lasts_is_shown_since_its_beginning() -> None:
    health, clock, told = build()
    began = clock.now()
    health.raise_(ROAD, "gone")
    clock.advance(3)
    health.raise_(ROAD, "still gone", "look at the road")
    clock.advance(2)
    (shown,) = health.visible()
    assert (shown.since, shown.summary, shown.hint) == (began, "still gone", "look at the road")
    assert not health.well
    assert told == [("road", True)]


def test_what_is_explained_is_hidden_at_once() -> None:
    health, _, told = build()
    health.raise_(CLAIM, "no claims")
    health.raise_(ROAD, "gone")
    assert not health.visible()
    health.clear(ROAD)
    assert [one.code for one in health.visible()] == ["claim"]
    assert told == [("claim", True), ("claim", False), ("claim", True)]


def test_the_worst_comes_first() -> None:
    health, clock, _ = build()
    health.raise_(NOTE, "note")
    clock.advance(1)
    health.raise_(Condition("bad", Severity.ERROR), "bad")
    health.raise_(Condition("so-so", Severity.WARNING), "so-so")
    assert [one.code for one in health.visible()] == ["bad", "so-so", "note"]


async def test_watch_tells_of_what_comes_into_sight_by_waiting() -> None:
    health, _, told = build()
    watching = asyncio.create_task(health.watch())
    health.raise_(ROAD, "gone")
    for _ in range(20):
        await asyncio.sleep(0)
    assert told == [("road", True)]
    watching.cancel()
