"""What ``lab status`` shows: the documents as people think of them, and what the packets counted. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from isthmus.kit.health import Occurrence
from isthmus.lab import ids, picture
from isthmus.lab.documents import World
from isthmus.lab.ids import Key
from isthmus.lab.network import approvals
from isthmus.lab.packets.following import EndpointCounters

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted: by endpoint, and the ports in use by link service and NAT address."""

    endpoints: Mapping[Key, EndpointCounters]
    ports_used: Mapping[Key, Mapping[IPv4Address, int]]


def networks(world: World, shown: picture.Picture, namespaces: Mapping[Key, str]) -> list[Json]:
    """The virtual networks."""
    return [
        {
            "id": _spelled(world, one.key),
            "name": one.name,
            "group": ids.parse(_spelled(world, one.key)).group,
            "prefixes": [str(prefix) for prefix in one.prefixes],
            "peered": [_spelled(world, other) for other in _peers(shown, one.key)],
            "zones": [zone.name for zone in one.zones],
            "namespace": namespaces.get(one.key),
        }
        for one in shown.networks
    ]


def endpoints(world: World, shown: picture.Picture, counts: Counts | None) -> list[Json]:
    """The private endpoints, with the state of their connection."""
    found = []
    for one in shown.endpoints:
        traffic = counts.endpoints.get(one.key) if counts is not None else None
        found.append(
            {
                "id": _spelled(world, one.key),
                "name": ids.parse(_spelled(world, one.key)).name,
                "network": _spelled(world, one.network),
                "address": str(one.address),
                "state": _state(world, one.key),
                "service": _spelled(world, one.service) if one.service is not None else None,
                "bytes_in": traffic.bytes_in if traffic else None,
                "bytes_out": traffic.bytes_out if traffic else None,
                "connections": traffic.connections if traffic else None,
            }
        )
    return found


def services(world: World, shown: picture.Picture, counts: Counts | None, ports_per_address: int) -> list[Json]:
    """The link services, with their NAT ports."""
    return [
        {
            "id": _spelled(world, one.key),
            "name": ids.parse(_spelled(world, one.key)).name,
            "nat_addresses": [str(address) for address in one.nat_addresses],
            "nat_ports": ports_per_address * len(one.nat_addresses),
            "nat_ports_used": sum(counts.ports_used.get(one.key, {}).values()) if counts is not None else None,
        }
        for one in shown.services
    ]


def health(occurrences: Iterable[Occurrence]) -> Sequence[Json]:
    """What is wrong."""
    return [
        {
            "code": one.code,
            "severity": str(one.severity),
            "summary": one.summary,
            "hint": one.hint,
            "since": one.since.isoformat(),
        }
        for one in occurrences
    ]


def _state(world: World, key: Key) -> str:
    endpoint = world.get(key)
    connection = approvals.connection_of(world, endpoint) if endpoint is not None else None
    return str(approvals.state_of(connection)["status"]) if connection is not None else approvals.Status.DISCONNECTED


def _peers(shown: picture.Picture, key: Key) -> list[Key]:
    pairs = [(one.one, one.other) for one in shown.peerings]
    return [other if one == key else one for one, other in pairs if key in (one, other)]


def _spelled(world: World, key: Key) -> str:
    document = world.get(key)
    return str(document.id) if document is not None else key
