"""Which metrics a kind of resource has.

Source: Azure Monitor's reference of supported metrics, ``Microsoft.Network/privateLinkServices`` (April 2025) and
``Microsoft.Network/privateEndpoints``. Neither has a dimension for the connection or its other end.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from isthmus.lab.network.approvals import ENDPOINT_KIND, SERVICE_KIND


class Aggregation(StrEnum):
    """What is made of the values of a time grain, by the name that answers have for it."""

    AVERAGE = "average"
    MINIMUM = "minimum"
    MAXIMUM = "maximum"
    TOTAL = "total"
    COUNT = "count"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: its name on the wire and for people, its unit, what it is aggregated by unless somebody asks."""

    name: str
    title: str
    description: str
    unit: str
    aggregation: Aggregation
    dimension: str | None = None


#: The NAT address of a link service, as it is in the provider's network.
NAT_ADDRESS: Final = "PrivateLinkServiceIPAddress"

SERVICE_BYTES_IN: Final = Metric("PLSBytesIn", "Bytes In", "Total number of Bytes In", "Count", Aggregation.TOTAL)
SERVICE_BYTES_OUT: Final = Metric("PLSBytesOut", "Bytes Out", "Total number of Bytes Out", "Count", Aggregation.TOTAL)
NAT_PORTS: Final = Metric(
    "PLSNatPortsUsage", "Nat Ports Usage", "Nat Ports Usage", "Percent", Aggregation.AVERAGE, NAT_ADDRESS
)
ENDPOINT_BYTES_IN: Final = Metric("PEBytesIn", "Bytes In", "Total number of Bytes In", "Count", Aggregation.TOTAL)
ENDPOINT_BYTES_OUT: Final = Metric("PEBytesOut", "Bytes Out", "Total number of Bytes Out", "Count", Aggregation.TOTAL)

#: By kind of resource, in Azure's order.
METRICS: Final[Mapping[str, tuple[Metric, ...]]] = {
    SERVICE_KIND: (SERVICE_BYTES_IN, SERVICE_BYTES_OUT, NAT_PORTS),
    ENDPOINT_KIND: (ENDPOINT_BYTES_IN, ENDPOINT_BYTES_OUT),
}
