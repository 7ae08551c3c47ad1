"""Metrics of the lab: from counters to minutes, and from a question's parameters to Azure's JSON."""

from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from typing import Any

import pytest

from isthmus.kit.clocks import ManualClock
from isthmus.lab import ids, picture
from isthmus.lab.documents import Document, ProvisioningState
from isthmus.lab.errors import ArmError
from isthmus.lab.ids import Key
from isthmus.lab.insights import answering, grains, querying
from isthmus.lab.insights.definitions import METRICS
from isthmus.lab.insights.grains import Grain, Grains, SeriesId
from isthmus.lab.insights.recording import Recorder, Sample
from isthmus.lab.network.approvals import ENDPOINT_KIND, SERVICE_KIND

START = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
MINUTE = int(START.timestamp() // 60)
NAT, OTHER_NAT = IPv4Address("10.1.1.4"), IPv4Address("10.1.1.5")
_PREFIX = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network"
SERVICE = ids.parse(f"{_PREFIX}/privateLinkServices/svc")
ENDPOINT, SECOND = (ids.parse(f"{_PREFIX}/privateEndpoints/{name}") for name in ("one", "two"))


def document(id: Any, kind: str) -> Document:  # noqa: A002
    return Document(id, kind, 1, "etag", "guid", ProvisioningState.SUCCEEDED, {"location": "westeurope"})


def shown(*endpoints: Any) -> picture.Picture:
    frontend = picture.Frontend(IPv4Address("10.1.0.10"), False, ())
    service = picture.Service(SERVICE.key, 1, Key("/net"), (NAT, OTHER_NAT), frontend)
    listed = tuple(
        picture.Endpoint(one.key, number, Key("/net"), IPv4Address("10.1.0.4"), SERVICE.key, True, number)
        for number, one in enumerate(endpoints)
    )
    return picture.Picture(services=(service,), endpoints=listed)


class Counters:
    """A recorder over counters that a test sets."""

    def __init__(self) -> None:
        self.clock = ManualClock(START)
        self.sample: Sample | None = None
        self.recorder = Recorder(self._take, self.clock, ports_per_address=200)

    async def _take(self) -> Sample | None:
        return self.sample

    async def count(self, carried: dict[Any, tuple[int, int]], ports: dict[IPv4Address, int] | None = None) -> None:
        counted = {one.key: both for one, both in carried.items()}
        self.sample = Sample(shown(*carried), counted, {SERVICE.key: ports or {}})
        await self.recorder.record()

    def totals(self, resource: Any, metric: str) -> list[float]:
        return [
            grain.total
            for _, minutes in self.recorder.grains.of(resource.key, metric)
            for _, grain in sorted(minutes.items())
        ]


async def test_what_came_since_the_last_sample_is_its_minutes() -> None:
    counters = Counters()
    await counters.count({ENDPOINT: (1000, 9000)})
    await counters.count({ENDPOINT: (1100, 9500)})
    await counters.count({ENDPOINT: (1100, 9700), SECOND: (7, 70)})
    await counters.clock.sleep(60)
    await counters.count({ENDPOINT: (1101, 9700), SECOND: (7, 70)})
    # In the customer's network what the service sends comes in, in the provider's what it is sent.
    assert counters.totals(ENDPOINT, "PEBytesIn") == [700, 0]
    assert counters.totals(ENDPOINT, "PEBytesOut") == [100, 1]
    assert counters.totals(SECOND, "PEBytesIn") == [70, 0], "what is new has nothing from before"
    assert counters.totals(SERVICE, "PLSBytesIn") == [107, 1]
    assert counters.totals(SERVICE, "PLSBytesOut") == [770, 0]


async def test_counters_that_begin_anew_count_from_nothing() -> None:
    counters = Counters()
    await counters.count({ENDPOINT: (1000, 1000)})
    await counters.count({ENDPOINT: (5, 8)})
    assert counters.totals(ENDPOINT, "PEBytesOut") == [5]
    assert counters.totals(ENDPOINT, "PEBytesIn") == [8]


async def test_what_is_gone_or_cannot_be_counted_leaves_nothing() -> None:
    counters = Counters()
    await counters.recorder.record()
    assert counters.totals(ENDPOINT, "PEBytesIn") == []
    await counters.count({ENDPOINT: (1, 1)})
    await counters.count({})
    assert counters.totals(ENDPOINT, "PEBytesIn") == []


async def test_ports_are_percent_by_nat_address() -> None:
    counters = Counters()
    await counters.count({}, {NAT: 50})
    await counters.count({}, {NAT: 100, OTHER_NAT: 2})
    found = {value: next(iter(minutes.values())) for value, minutes in counters.recorder.grains.of(SERVICE.key, PORTS)}
    assert found == {"10.1.1.4": Grain(75.0, 2, 25.0, 50.0), "10.1.1.5": Grain(1.0, 2, 0.0, 1.0)}


PORTS = "PLSNatPortsUsage"


def test_a_day_is_kept() -> None:
    kept = Grains()
    series = SeriesId(SERVICE.key, PORTS)
    for minute in range(2 * grains.KEPT_MINUTES):
        kept.add(series, minute, 1)
    [(_, minutes)] = kept.of(SERVICE.key, PORTS)
    assert (len(minutes), min(minutes)) == (grains.KEPT_MINUTES, grains.KEPT_MINUTES)


def read(kind: str = SERVICE_KIND, **query: str) -> querying.Query:
    named = {name.replace("filter", "$filter"): value for name, value in query.items()}
    return querying.read(named, kind, METRICS.get(kind, ()), START + timedelta(minutes=90, seconds=5))


def ask(kept: Grains, kind: str = SERVICE_KIND, **query: str) -> dict[str, Any]:
    id = SERVICE if kind == SERVICE_KIND else ENDPOINT  # noqa: A001
    return answering.answer(document(id, kind), read(kind, **query), kept)


@pytest.fixture
def kept() -> Grains:
    """Three minutes of ports, and of bytes."""
    kept = Grains()
    for minute, value in enumerate((10.0, 30.0, 20.0)):
        kept.add(SeriesId(SERVICE.key, PORTS, "10.1.1.4"), MINUTE + minute, value)
        kept.add(SeriesId(SERVICE.key, PORTS, "10.1.1.5"), MINUTE + minute, value / 10)
        kept.add(SeriesId(SERVICE.key, "PLSBytesIn"), MINUTE + minute, 1000 * value)
    return kept


SPAN = "2026-11-23T10:00:00Z/2026-11-23T10:04:00Z"


def test_an_answer_is_azures(kept: Grains) -> None:
    answer = ask(kept, metricnames="PLSBytesIn", timespan=SPAN, aggregation="total")
    assert answer == {
        "cost": 4,
        "timespan": SPAN,
        "interval": "PT1M",
        "namespace": "Microsoft.Network/privateLinkServices",
        "resourceregion": "westeurope",
        "value": [
            {
                "id": f"{SERVICE}/providers/Microsoft.Insights/metrics/PLSBytesIn",
                "type": "Microsoft.Insights/metrics",
                "name": {"value": "PLSBytesIn", "localizedValue": "Bytes In"},
                "displayDescription": "Total number of Bytes In",
                "unit": "Count",
                "timeseries": [
                    {
                        "metadatavalues": [],
                        "data": [
                            {"timeStamp": "2026-11-23T10:00:00Z", "total": 10_000.0},
                            {"timeStamp": "2026-11-23T10:01:00Z", "total": 30_000.0},
                            {"timeStamp": "2026-11-23T10:02:00Z", "total": 20_000.0},
                            {"timeStamp": "2026-11-23T10:03:00Z"},
                        ],
                    }
                ],
                "errorCode": "Success",
            }
        ],
    }


def values(answer: dict[str, Any]) -> list[tuple[str, list[dict[str, float]]]]:
    """The series of the first metric: the value of its dimension, and points without their times."""
    return [
        (
            "".join(about["value"] for about in series["metadatavalues"]),
            [{name: value for name, value in point.items() if name != "timeStamp"} for point in series["data"]],
        )
        for series in answer["value"][0]["timeseries"]
    ]


def test_a_filter_takes_series_apart(kept: Grains) -> None:
    every = {"metricnames": PORTS, "timespan": SPAN, "interval": "FULL", "aggregation": "Average,Maximum,Count"}
    one = {"average": 20.0, "maximum": 30.0, "count": 3.0}
    other = {"average": 2.0, "maximum": 3.0, "count": 3.0}
    assert values(ask(kept, **every)) == [("", [{"average": 11.0, "maximum": 30.0, "count": 6.0}])]
    name = "privatelinkserviceipaddress"
    assert values(ask(kept, **every, filter=f"{name} eq '*'")) == [("10.1.1.4", [one]), ("10.1.1.5", [other])]
    assert values(ask(kept, **every, filter=f"{name} eq '10.1.1.5'")) == [("10.1.1.5", [other])]
    assert values(ask(kept, **every, filter=f"{name} ne '10.1.1.5'")) == [("10.1.1.4", [one])]
    assert values(ask(kept, **every, filter=f"{name} eq '1' or {name} sw '10.1.1.'", top="1")) == [("10.1.1.4", [one])]
    by = {"filter": f"{name} eq '*'", "orderby": "average asc"}
    assert [value for value, _ in values(ask(kept, **every, **by))] == ["10.1.1.5", "10.1.1.4"]
    assert ask(kept, **every, filter=f"{name} eq '*'", resulttype="metadata")["value"][0]["timeseries"][0] == {
        "metadatavalues": [{"name": {"value": name, "localizedValue": name}, "value": "10.1.1.4"}]
    }


def test_spans_of_time(kept: Grains) -> None:
    # An hour until now, in minutes, of the first metric, by its own aggregation: what is asked for when nothing is.
    answer = ask(kept)
    assert answer["timespan"] == "2026-11-23T10:30:00Z/2026-11-23T11:30:05Z"
    assert answer["value"][0]["name"]["value"] == "PLSBytesIn"
    assert len(answer["value"][0]["timeseries"][0]["data"]) == 61
    query = {"timespan": "2026-11-23T09:58:30.1234567Z%2F2026-11-23T10:09:00+00:00", "interval": "pt5m"}
    points = ask(kept, **query)["value"][0]["timeseries"][0]["data"]
    assert points == [
        {"timeStamp": "2026-11-23T09:58:00Z", "total": 60_000.0},
        {"timeStamp": "2026-11-23T10:03:00Z"},
        {"timeStamp": "2026-11-23T10:08:00Z"},
    ]
    # The minute that is not over yet counts.
    tail = ask(kept, timespan="2026-11-23T10:02:00Z/2026-11-23T10:02:01Z")
    assert tail["value"][0]["timeseries"][0]["data"] == [{"timeStamp": "2026-11-23T10:02:00Z", "total": 20_000.0}]


def test_nothing_was_counted() -> None:
    assert ask(Grains(), ENDPOINT_KIND, metricnames="PEBytesIn,PEBytesOut")["value"][1]["timeseries"] == []


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (
            {"metricnames": "PLSBytesIn,Nothing"},
            (
                "Failed to find metric configuration for provider: Microsoft.Network, resource Type: "
                "privateLinkServices, metric: Nothing, Valid metrics: PLSBytesIn,PLSBytesOut,PLSNatPortsUsage"
            ),
        ),
        ({"timespan": "yesterday"}, "Detected invalid time interval input: yesterday"),
        ({"timespan": "2026-11-23T10:00:00Z/2026-11-23T10:00:00Z"}, "Detected invalid time interval input"),
        ({"timespan": "2026-01-01T00:00:00Z/2026-11-23T10:00:00Z"}, "Detected invalid time interval input"),
        ({"interval": "PT2M"}, "Detected invalid time grain input: PT2M"),
        ({"interval": "hour"}, "Detected invalid time grain input: hour"),
        ({"aggregation": "Median"}, "Detected invalid aggregation input: Median"),
        (
            {"metricnames": "PLSBytesIn", "filter": "LinkId eq '*'"},
            "Metric: PLSBytesIn does not support requested dimension combination: linkid, supported ones are: ",
        ),
        ({"filter": "LinkId"}, "Detected invalid filter input: LinkId"),
        ({"filter": "a eq 'b' but c eq 'd'"}, "Detected invalid filter input"),
        ({"top": "0"}, "Detected invalid top input: 0"),
        ({"orderby": "shoe size"}, "Detected invalid orderby input: shoe size"),
        ({"metricnamespace": "Microsoft.Compute/virtualMachines"}, "Detect invalid value"),
    ],
)
def test_what_is_refused(query: dict[str, str], words: str) -> None:
    with pytest.raises(ArmError) as refused:
        read(**query)
    assert refused.value.status == 400
    assert refused.value.refusal.answer()["code"] == "BadRequest", "bare, as Azure Monitor has it"
    assert refused.value.refusal.message.startswith(words)
