"""An hour of workloads as bars: what a plot's template draws, and the words for who does not see it. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from isthmus.control.web import times
from isthmus.wire.admin import MinuteView

#: In the plot's own units, which the page scales.
WIDTH: Final = 720
HEIGHT: Final = 120
_ENDS: Final = ("succeeded", "failed", "lost", "cancelled")
_GAP: Final = 2
#: Below this, bars would say that little is much.
_LEAST_TOP: Final = 10


@dataclass(frozen=True, slots=True)
class Bar:
    """A minute: from the bottom up what succeeded, then what did not. ``title`` is shown where the pointer is."""

    x: int
    width: int
    good_y: int
    good_height: int
    bad_y: int
    bad_height: int
    title: str


@dataclass(frozen=True, slots=True)
class Plot:
    """All bars; ``top`` is how many workloads the height stands for."""

    bars: tuple[Bar, ...]
    top: int
    words: str


def throughput(minutes: Sequence[MinuteView]) -> Plot:
    """Bars for the last hour, the oldest on the left."""
    totals = [one.succeeded + _bad(one) for one in minutes]
    top = max(_LEAST_TOP, *totals, 0)
    step = WIDTH // max(len(minutes), 1)
    bars = []
    for index, one in enumerate(minutes):
        good, bad = round(one.succeeded * HEIGHT / top), round(_bad(one) * HEIGHT / top)
        good, bad = max(good, int(one.succeeded > 0)), max(bad, int(_bad(one) > 0))
        bars.append(
            Bar(
                x=index * step,
                width=step - _GAP,
                good_y=HEIGHT - good,
                good_height=good,
                bad_y=HEIGHT - good - bad,
                bad_height=bad,
                title=f"{times.short(one.at)}: {one.succeeded} succeeded, {_bad(one)} did not",
            )
        )
    return Plot(tuple(bars), top, _words(minutes, totals))


def together(hours: Iterable[Sequence[MinuteView]]) -> list[MinuteView]:
    """The last hours of several deployments as one. Their clocks may be a minute apart: the latest sixty are shown."""
    sums: dict[datetime, Counter[str]] = {}
    for hour in hours:
        for one in hour:
            sums.setdefault(one.at, Counter()).update({name: getattr(one, name) for name in _ENDS})
    return [MinuteView(at=at, **{name: sums[at][name] for name in _ENDS}) for at in sorted(sums)[-60:]]


def _bad(one: MinuteView) -> int:
    return one.failed + one.lost + one.cancelled


def _words(minutes: Sequence[MinuteView], totals: Sequence[int]) -> str:
    if not any(totals):
        return "No workload ended in the last hour."
    succeeded, failed, lost, cancelled = (
        sum(getattr(one, name) for one in minutes) for name in ("succeeded", "failed", "lost", "cancelled")
    )
    most = max(range(len(totals)), key=totals.__getitem__)
    return (
        f"In the last hour {succeeded} succeeded, {failed} failed, {lost} were lost, {cancelled} were cancelled; "
        f"at most {totals[most]} ended in one minute, the one of {times.short(minutes[most].at)} UTC."
    )
