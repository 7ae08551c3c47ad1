"""What was counted, minute by minute. A series is a metric of a resource, of one value of its dimension if it has one.

Minutes are numbered since 1970 in UTC. Invariant: no series is longer than ``KEPT_MINUTES``, and a resource that is
gone has none.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from isthmus.lab.ids import Key

#: A day: enough to look at, and little enough to hold for a thousand endpoints.
KEPT_MINUTES: Final = 24 * 60


@dataclass(frozen=True, slots=True)
class Grain:
    """The values of a span of time."""

    total: float
    count: int
    minimum: float
    maximum: float

    def __add__(self, other: "Grain") -> "Grain":
        return Grain(
            self.total + other.total,
            self.count + other.count,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
        )


@dataclass(frozen=True, slots=True)
class SeriesId:
    """Which series: ``value`` is that of the metric's dimension, empty without one."""

    resource: Key
    metric: str
    value: str = ""


@dataclass(slots=True)
class Grains:
    """All series."""

    _series: dict[SeriesId, dict[int, Grain]] = field(default_factory=dict)

    def add(self, series: SeriesId, minute: int, value: float) -> None:
        """Take a value. Minutes come in order; what is too old goes."""
        minutes = self._series.setdefault(series, {})
        grain = Grain(value, 1, value, value)
        minutes[minute] = minutes[minute] + grain if minute in minutes else grain
        while (oldest := next(iter(minutes))) <= minute - KEPT_MINUTES:
            del minutes[oldest]

    def of(self, resource: Key, metric: str) -> Iterator[tuple[str, Mapping[int, Grain]]]:
        """The series of a resource's metric, by the values of its dimension."""
        for series, minutes in self._series.items():
            if series.resource == resource and series.metric == metric:
                yield series.value, minutes

    def keep(self, resources: Collection[Key]) -> None:
        """Forget all others."""
        self._series = {series: minutes for series, minutes in self._series.items() if series.resource in resources}
