"""Microsoft.Network/privateDnsZones: zones, record sets and network links."""

from typing import Final

from isthmus.lab.kinds import Kind, Virtual
from isthmus.lab.private_dns import links, records, registering, zones
from isthmus.lab.private_dns.picturing import zones_of

KINDS: Final[tuple[Kind, ...]] = (
    zones.Zones(),
    links.Links(),
    *(records.RecordSets(type_, registering.shown) for type_ in records.TYPES.values()),
)
VIRTUALS: Final[tuple[Virtual, ...]] = (records.AllRecordSets(registering.shown),)

__all__ = ["KINDS", "VIRTUALS", "zones_of"]
