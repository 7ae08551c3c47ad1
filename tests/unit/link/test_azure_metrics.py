"""Azure Monitor's answers, as far as a driver reads them."""

from datetime import UTC, datetime
from ipaddress import IPv4Address
from typing import Any

from isthmus.link.drivers.azure import metrics
from isthmus.link.traffic import PortUse


def series(*points: dict[str, float], address: str | None = None) -> dict[str, Any]:
    named = {"name": {"value": "privatelinkserviceipaddress"}, "value": address}
    return {"metadatavalues": [named] if address else [], "data": list(points)}


def answer(name: str, *found: dict[str, Any]) -> dict[str, Any]:
    return {"value": [{"name": {"value": name, "localizedValue": "x"}, "timeseries": list(found)}]}


def test_a_total_is_that_of_the_minutes_that_were_measured() -> None:
    found = answer("PLSBytesIn", series({"total": 10.0}, {}, {"total": 5.0}))
    assert metrics.total(found, metrics.SERVICE_IN) == 15
    assert metrics.total(found, metrics.SERVICE_OUT) is None
    assert metrics.total(answer("PLSBytesIn", series({}, {})), metrics.SERVICE_IN) is None, "nothing is not zero"
    assert metrics.total(answer("PLSBytesIn"), metrics.SERVICE_IN) is None
    assert metrics.total({"value": None}, metrics.SERVICE_IN) is None


def test_ports_by_address_in_order() -> None:
    found = answer(
        "plsnatportsusage",
        series({"average": 2.0, "maximum": 9.0}, {"average": 3.5}, {}, address="10.0.0.12"),
        series({"average": 1.0}, address="10.0.0.4"),
        series({}, address="10.0.0.5"),
        series({"average": 7.0}),
    )
    assert metrics.ports(found) == (
        PortUse(IPv4Address("10.0.0.4"), 1.0, 1.0),
        PortUse(IPv4Address("10.0.0.12"), 3.5, 9.0),
    )


def test_a_span_of_time_has_no_plus_sign() -> None:
    start, end = datetime(2026, 11, 23, 9, 5, 1, 250, UTC), datetime(2026, 11, 23, 10, 5, 1, tzinfo=UTC)
    assert metrics.timespan(start, end) == "2026-11-23T09:05:01Z/2026-11-23T10:05:01Z"
