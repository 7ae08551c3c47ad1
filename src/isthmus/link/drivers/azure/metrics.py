"""Azure Monitor's metrics of private links: their names, and what is in an answer. Pure.

Source: Azure Monitor's reference of supported metrics for ``Microsoft.Network/privateLinkServices`` and
``.../privateEndpoints``. Bytes have no dimension, ports one: the NAT address. The client is ``azure-mgmt-monitor``: the
newer ``azure-monitor-querymetrics`` asks a region's own address with tokens of its own, and not the resource manager.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from ipaddress import IPv4Address
from typing import Any, Final

from isthmus.link.traffic import PortUse

Json = Mapping[str, Any]

SERVICE_IN: Final = "PLSBytesIn"
SERVICE_OUT: Final = "PLSBytesOut"
PORTS: Final = "PLSNatPortsUsage"
#: The dimension of PORTS.
ADDRESS: Final = "PrivateLinkServiceIPAddress"
ENDPOINT_IN: Final = "PEBytesIn"
ENDPOINT_OUT: Final = "PEBytesOut"


def timespan(start: datetime, end: datetime) -> str:
    """A span of time as Azure Monitor reads it: in UTC with a Z, since a plus sign gets lost on its way."""
    return "/".join(f"{one:%Y-%m-%dT%H:%M:%SZ}" for one in (start, end))


def total(answer: Json, metric: str) -> int | None:
    """The sum of a metric; None where nothing was measured."""
    points = [
        one["total"] for series in _series(answer, metric) for one in _data(series) if one.get("total") is not None
    ]
    return int(sum(points)) if points else None


def ports(answer: Json) -> tuple[PortUse, ...]:
    """How full the NAT addresses are: the average of the last minute that has one, and the most of all."""
    found = []
    for series in _series(answer, PORTS):
        averages = [one["average"] for one in _data(series) if one.get("average") is not None]
        maxima = [one["maximum"] for one in _data(series) if one.get("maximum") is not None]
        address = next(
            (one["value"] for one in series.get("metadatavalues") or () if _name(one).lower() == ADDRESS.lower()), ""
        )
        if averages and address:
            found.append(PortUse(IPv4Address(address), averages[-1], max([*maxima, *averages])))
    return tuple(sorted(found, key=lambda one: one.address))


def _series(answer: Json, metric: str) -> Iterable[Json]:
    for one in answer.get("value") or ():
        if _name(one).lower() == metric.lower():
            yield from one.get("timeseries") or ()


def _data(series: Json) -> Iterable[Json]:
    """The points of a series, the oldest first, as Azure lists them."""
    found: Iterable[Json] = series.get("data") or ()
    return found


def _name(one: Json) -> str:
    return str((one.get("name") or {}).get("value") or "")
