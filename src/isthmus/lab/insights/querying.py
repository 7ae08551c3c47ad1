"""The query parameters of a question for metrics. Pure.

Source: the REST reference of ``Metrics - List``. What Azure Monitor says no with is ``BadRequest`` and a sentence,
without the ``error`` around it that others have; sentences are recorded ones as far as there are recordings.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import unquote

from isthmus.lab.errors import ArmError
from isthmus.lab.insights.definitions import Aggregation, Metric

_MINUTE: Final = timedelta(minutes=1)
#: The spans of time that values can be asked for, and the word for all of it.
INTERVALS: Final = {
    "PT1M": _MINUTE,
    "PT5M": timedelta(minutes=5),
    "PT15M": timedelta(minutes=15),
    "PT30M": timedelta(minutes=30),
    "PT1H": timedelta(hours=1),
    "PT6H": timedelta(hours=6),
    "PT12H": timedelta(hours=12),
    "P1D": timedelta(days=1),
}
FULL: Final = "FULL"
#: As long as Azure keeps metrics.
_LONGEST: Final = timedelta(days=93)
_DEFAULT_SPAN: Final = timedelta(hours=1)
_DEFAULT_TOP: Final = 10

_DURATION: Final = re.compile(r"P(?:(\d{1,3})D)?(?:T(?:(\d{1,4})H)?(?:(\d{1,5})M)?)?")
_COMPARISON: Final = re.compile(
    r"\s*(?P<name>[\w.-]+)\s+(?P<operator>eq|ne|sw)\s+'(?P<value>(?:[^']|'')*)'\s*", re.IGNORECASE
)
_JOINT: Final = re.compile(r"(and|or)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the value of a dimension is compared with. ``operator`` is ``eq``, ``ne`` or ``sw`` (starts with)."""

    name: str
    operator: str
    value: str

    def holds(self, value: str) -> bool:
        """Whether it does for a value; ``*`` is any."""
        if self.value == "*":
            return True
        match self.operator:
            case "eq":
                return value.lower() == self.value.lower()
            case "ne":
                return value.lower() != self.value.lower()
            case _:
                return value.lower().startswith(self.value.lower())


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked for. Times are in UTC, on whole minutes; ``interval`` is None for all of the time at once.

    With ``comparisons`` values come apart by dimension, ``top`` series at most, ``by`` the values of an aggregation.
    """

    metrics: tuple[Metric, ...]
    start: datetime
    end: datetime
    interval: timedelta | None
    aggregations: tuple[Aggregation, ...]
    comparisons: tuple[Comparison, ...]
    top: int
    by: tuple[Aggregation, bool] | None
    names_alone: bool

    def fits(self, value: str) -> bool:
        """Whether a value of the dimension is asked for: all that is excluded, and any that is included."""
        included = [one for one in self.comparisons if one.operator != "ne"]
        excluded = [one for one in self.comparisons if one.operator == "ne"]
        return all(one.holds(value) for one in excluded) and (not included or any(one.holds(value) for one in included))


def read(query: Mapping[str, str], kind: str, metrics: Sequence[Metric], now: datetime) -> Query:
    """The query in parameters, whose names are in lower case. Raises errors.ArmError (400).

    Values are decoded once more: Azure Monitor does so, and the ``az`` command relies on it.
    """
    query = {name: unquote(value) for name, value in query.items()}
    namespace = query.get("metricnamespace", "")
    if namespace and namespace.lower() != kind.lower():
        raise refused(
            f"Detect invalid value: {namespace} for query parameter: 'metricnamespace', the value must be: {kind} if "
            "the query parameter is provided"
        )
    start, end = _span(query.get("timespan", ""), now)
    asked = _metrics(query.get("metricnames", ""), kind, metrics)
    comparisons = _comparisons(query.get("$filter", ""))
    for metric in asked:
        _check_dimensions(metric, comparisons)
    return Query(
        metrics=asked,
        start=start,
        end=end,
        interval=_interval(query.get("interval", "")),
        aggregations=_aggregations(query.get("aggregation", "")),
        comparisons=comparisons,
        top=_top(query.get("top", "")),
        by=_order(query.get("orderby", "")),
        names_alone=query.get("resulttype", "").lower() == "metadata",
    )


def refused(message: str) -> ArmError:
    """No, as Azure Monitor says it."""
    return ArmError(400, "BadRequest", message, is_bare=True)


def _metrics(text: str, kind: str, known: Sequence[Metric]) -> tuple[Metric, ...]:
    namespace, _, rest = kind.partition("/")
    found = []
    for name in text.split(",") if text else [one.name for one in known[:1]]:
        metric = next((one for one in known if one.name.lower() == name.strip().lower()), None)
        if metric is None:
            valid = ",".join(one.name for one in known)
            raise refused(
                f"Failed to find metric configuration for provider: {namespace}, resource Type: {rest}, "
                f"metric: {name}, Valid metrics: {valid}"
            )
        found.append(metric)
    return tuple(dict.fromkeys(found))


def _span(text: str, now: datetime) -> tuple[datetime, datetime]:
    if not text:
        return _whole(now - _DEFAULT_SPAN), now
    try:
        first, last = (_moment(part) for part in text.split("/"))
    except ValueError:
        raise refused(f"Detected invalid time interval input: {text}") from None
    if not first < last or last - first > _LONGEST:
        raise refused(f"Detected invalid time interval input: {text}")
    return _whole(first), last


def _moment(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _whole(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0)


def _interval(text: str) -> timedelta | None:
    if text.upper() == FULL:
        return None
    match = _DURATION.fullmatch(text.upper() or "PT1M")
    days, hours, minutes = (int(one or 0) for one in match.groups()) if match else (0, 0, 0)
    interval = timedelta(days=days, hours=hours, minutes=minutes)
    if interval not in INTERVALS.values():
        supported = ",".join(INTERVALS)
        raise refused(f"Detected invalid time grain input: {text}, supported ones are: {supported},{FULL}")
    return interval


def _aggregations(text: str) -> tuple[Aggregation, ...]:
    found = []
    for name in text.split(",") if text else ():
        try:
            found.append(Aggregation(name.strip().lower()))
        except ValueError:
            valid = ",".join(one.name.capitalize() for one in Aggregation)
            raise refused(f"Detected invalid aggregation input: {name}, supported ones are: {valid}") from None
    return tuple(dict.fromkeys(found))


def _comparisons(text: str) -> tuple[Comparison, ...]:
    if not text.strip():
        return ()
    found, position = [], 0
    while True:
        match = _COMPARISON.match(text, position)
        if match is None:
            raise refused(f"Detected invalid filter input: {text[:500]}")
        found.append(Comparison(match["name"], match["operator"].lower(), match["value"].replace("''", "'")))
        position = match.end()
        if position == len(text):
            return tuple(found)
        joint = _JOINT.match(text, position)
        if joint is None:
            raise refused(f"Detected invalid filter input: {text[:500]}")
        position = joint.end()


def _check_dimensions(metric: Metric, comparisons: Sequence[Comparison]) -> None:
    asked = dict.fromkeys(one.name.lower() for one in comparisons)
    if any(name != (metric.dimension or "").lower() for name in asked):
        raise refused(
            f"Metric: {metric.name} does not support requested dimension combination: {','.join(asked)}, supported "
            f"ones are: {metric.dimension or ''}"
        )


def _top(text: str) -> int:
    if not text:
        return _DEFAULT_TOP
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 10_000):
        raise refused(f"Detected invalid top input: {text}")
    return int(text)


_ORDERS: Final[Mapping[str, Aggregation]] = {"sum": Aggregation.TOTAL, **{str(one): one for one in Aggregation}}


def _order(text: str) -> tuple[Aggregation, bool] | None:
    """Which aggregation series are in the order of, and whether the largest is the first."""
    if not text.strip():
        return None
    name, _, direction = text.strip().lower().partition(" ")
    if name not in _ORDERS or direction.strip() not in ("", "asc", "desc"):
        raise refused(f"Detected invalid orderby input: {text}")
    return _ORDERS[name], direction.strip() == "desc"


def interval_name(interval: timedelta | None) -> str:
    """``PT1M``, or ``FULL`` for None."""
    return next((name for name, span in INTERVALS.items() if span == interval), FULL)
