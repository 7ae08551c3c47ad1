"""The pages of ``Microsoft.Insights`` at a resource: its metrics, and which it has.

``GET {resource}/providers/Microsoft.Insights/metrics`` is what was counted; ``.../metricDefinitions`` and
``.../metricNamespaces`` are what clients look up before they ask.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from isthmus.kit.clocks import Clock
from isthmus.lab import ids
from isthmus.lab.arm import addresses, paging, rules, versions
from isthmus.lab.arm.calls import Answer, Call
from isthmus.lab.arm.engine import Engine, Page
from isthmus.lab.documents import Document
from isthmus.lab.ids import ResourceId
from isthmus.lab.insights import querying
from isthmus.lab.insights.definitions import METRICS, Aggregation, Metric
from isthmus.lab.insights.grains import Grain, Grains
from isthmus.lab.insights.querying import Query
from isthmus.lab.insights.recording import Recorder

_TYPE: Final = "Microsoft.Insights/metrics"
#: As long as Azure keeps metrics; asked for by definitions alone.
_RETENTION: Final = "P93D"


class Insights:
    """The pages over what ``recorder`` has."""

    def __init__(self, recorder: Recorder, clock: Clock) -> None:
        self._recorder = recorder
        self._clock = clock

    def pages(self) -> tuple[Page, ...]:
        """All of them."""
        at = ("{*scope}", "providers", "microsoft.insights")
        return (
            Page("GET", (*at, "metrics"), self.metrics),
            Page("GET", (*at, "metricdefinitions"), self.definitions),
            Page("GET", (*at, "metricnamespaces"), self.namespaces),
        )

    async def metrics(self, engine: Engine, call: Call, words: Mapping[str, str]) -> Answer:
        """``.../metrics``."""
        document = _resource(engine, call, words)
        query = querying.read(call.query, document.kind, METRICS.get(document.kind, ()), self._clock.now())
        await self._recorder.record()
        return Answer(200, answer(document, query, self._recorder.grains))

    async def definitions(self, engine: Engine, call: Call, words: Mapping[str, str]) -> Answer:
        """``.../metricDefinitions``."""
        document = _resource(engine, call, words)
        return Answer(200, {"value": [_definition(document, one) for one in METRICS.get(document.kind, ())]})

    async def namespaces(self, engine: Engine, call: Call, words: Mapping[str, str]) -> Answer:
        """``.../metricNamespaces``: the kind's own, if it has metrics."""
        document = _resource(engine, call, words)
        one = {
            "id": f"{document.id}/providers/microsoft.insights/metricNamespaces/{document.kind}",
            "type": "Microsoft.Insights/metricNamespaces",
            "name": document.kind,
            "classification": "Platform",
            "properties": {"metricNamespaceName": document.kind},
        }
        return Answer(200, paging.shown([one] if document.kind in METRICS else [], None))


def _resource(engine: Engine, call: Call, words: Mapping[str, str]) -> Document:
    """The resource that a path is about. Raises errors.ArmError (404)."""
    versions.check(versions.read(call.query), _TYPE)
    id = ids.parse(f"/{words['scope']}")
    if not id.namespace:
        raise addresses.nothing_there()
    world = engine.store.world
    if id.group is not None and world.get(ResourceId(id.subscription, id.group)) is None:
        raise rules.group_not_found(id.group)
    document = world.get(id)
    if document is None:
        raise rules.resource_missing(id)
    return document


def answer(document: Document, query: Query, grains: Grains) -> dict[str, Any]:
    """What ``Metrics - List`` answers."""
    shown: dict[str, Any] = {
        "cost": int((query.end - query.start).total_seconds() // 60),
        "timespan": f"{_time(query.start)}/{_time(query.end)}",
        "value": [_metric(document, query, one, grains) for one in query.metrics],
        "namespace": document.kind,
        "resourceregion": document.body.get("location", ""),
    }
    if not query.names_alone:
        shown["interval"] = querying.interval_name(query.interval)
    return shown


def _metric(document: Document, query: Query, metric: Metric, grains: Grains) -> dict[str, Any]:
    found = {value: minutes for value, minutes in grains.of(document.key, metric.name) if query.fits(value)}
    series = sorted(found.items()) if query.comparisons else [("", _together(found.values()))] if found else []
    if query.by is not None:
        aggregation, is_falling = query.by
        series.sort(key=lambda one: _value(_sum(one[1].values()), aggregation), reverse=is_falling)
    return {
        "id": f"{document.id}/providers/{_TYPE}/{metric.name}",
        "type": _TYPE,
        "name": {"value": metric.name, "localizedValue": metric.title},
        "displayDescription": metric.description,
        "unit": metric.unit,
        "timeseries": [_series(query, metric, value, minutes) for value, minutes in series[: query.top]],
        "errorCode": "Success",
    }


def _together(all_minutes: Iterable[Mapping[int, Grain]]) -> dict[int, Grain]:
    together: dict[int, Grain] = {}
    for minutes in all_minutes:
        for minute, grain in minutes.items():
            together[minute] = together[minute] + grain if minute in together else grain
    return together


def _sum(grains: Iterable[Grain]) -> Grain | None:
    total: Grain | None = None
    for one in grains:
        total = one if total is None else total + one
    return total


def _series(query: Query, metric: Metric, value: str, minutes: Mapping[int, Grain]) -> dict[str, Any]:
    name = (metric.dimension or "").lower()
    about = [{"name": {"value": name, "localizedValue": name}, "value": value}] if query.comparisons else []
    if query.names_alone:
        return {"metadatavalues": about}
    wanted = query.aggregations or (metric.aggregation,)
    return {"metadatavalues": about, "data": [_point(start, grain, wanted) for start, grain in _spans(query, minutes)]}


def _spans(query: Query, minutes: Mapping[int, Grain]) -> Iterator[tuple[datetime, Grain | None]]:
    """The beginnings of the spans of time that are asked for, and what was counted in each."""
    step = query.interval or (query.end - query.start)
    start = query.start
    while start < query.end:
        end = min(start + step, query.end)
        first, last = _number(start), _number(end + timedelta(minutes=1, microseconds=-1))
        yield start, _sum(minutes[minute] for minute in range(first, last) if minute in minutes)
        start = end


def _number(moment: datetime) -> int:
    return int(moment.timestamp() // 60)


def _point(start: datetime, grain: Grain | None, wanted: tuple[Aggregation, ...]) -> dict[str, Any]:
    values = {} if grain is None else {str(one): _value(grain, one) for one in wanted}
    return {"timeStamp": _time(start), **values}


def _value(grain: Grain | None, aggregation: Aggregation) -> float:
    if grain is None:
        return 0.0
    match aggregation:
        case Aggregation.AVERAGE:
            return float(grain.total / grain.count)
        case Aggregation.MINIMUM:
            return float(grain.minimum)
        case Aggregation.MAXIMUM:
            return float(grain.maximum)
        case Aggregation.TOTAL:
            return float(grain.total)
        case Aggregation.COUNT:
            return float(grain.count)


def _definition(document: Document, metric: Metric) -> dict[str, Any]:
    name = metric.dimension
    return {
        "id": f"{document.id}/providers/microsoft.insights/metricdefinitions/{metric.name}",
        "resourceId": str(document.id),
        "namespace": document.kind,
        "name": {"value": metric.name, "localizedValue": metric.title},
        "displayDescription": metric.description,
        "unit": metric.unit,
        "isDimensionRequired": False,
        "primaryAggregationType": metric.aggregation.capitalize(),
        "supportedAggregationTypes": [one.capitalize() for one in Aggregation],
        "metricAvailabilities": [{"timeGrain": one, "retention": _RETENTION} for one in querying.INTERVALS],
        **({"dimensions": [{"value": name, "localizedValue": name}]} if name else {}),
    }


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
