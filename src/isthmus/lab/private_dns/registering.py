"""Automatic registration: the network interfaces of a network whose link says so are A records of the zone.

They are found when they are asked for and never stored, so they come and go with interfaces and links. In Azure virtual
machines register; the lab has none, so an interface stands for its machine: by its internal DNS name label, or by its
own name. Interfaces of private endpoints and link services do not register, in Azure neither. A record set of the same
name that a client has put wins (Azure: "What is the autoregistration feature", section Restrictions).
"""

import uuid
from collections.abc import Iterator, Mapping
from ipaddress import AddressValueError, IPv4Address
from typing import Any, Final

from isthmus.lab import ids
from isthmus.lab.documents import Document, World
from isthmus.lab.ids import Key, ResourceId
from isthmus.lab.private_dns import links, names, records

_INTERFACE_KIND: Final = "Microsoft.Network/networkInterfaces"

#: What Azure gives automatically registered records.
TTL_SECONDS: Final = 10

_NAMESPACE: Final = uuid.UUID("5f7b9a52-5f43-4f0a-8f4e-2f8f0a1d9c11")


def registered(world: World, zone: ResourceId) -> dict[str, IPv4Address]:
    """Names relative to the zone, and their addresses."""
    networks = {
        links.network_of(one) for one in world.children(zone, links.KIND) if one.properties["registrationEnabled"]
    }
    if not networks:
        return {}
    taken = {one.id.name for one in records.sets_of(world, zone)}
    found: dict[str, IPv4Address] = {}
    for interface in world.all(_INTERFACE_KIND):
        name = _name(interface)
        address = _address(interface, networks)
        if address is not None and name not in taken and names.is_domain(name):
            found.setdefault(name, address)
    return found


def shown(world: World, zone: ResourceId) -> list[dict[str, Any]]:
    """The record sets as Azure shows them."""
    return [
        records.shape(
            zone.child("A", name),
            str(uuid.uuid5(_NAMESPACE, f"{zone.key}/{name}/{address}")),
            {"ttl": TTL_SECONDS, "aRecords": [{"ipv4Address": str(address)}]},
            is_auto_registered=True,
        )
        for name, address in sorted(registered(world, zone).items())
    ]


def _name(interface: Document) -> str:
    settings = interface.properties.get("dnsSettings") or {}
    return str(settings.get("internalDnsNameLabel") or interface.id.name).lower()


def _address(interface: Document, networks: set[Key]) -> IPv4Address | None:
    """The first address that it has in one of the networks; None for an interface of an endpoint or a link service."""
    properties = interface.properties
    if properties.get("privateEndpoint") or properties.get("privateLinkService"):
        return None
    for said in _configurations(properties):
        subnet = said.get("subnet")
        if not isinstance(subnet, Mapping) or _network(str(subnet.get("id", ""))) not in networks:
            continue
        try:
            return IPv4Address(str(said.get("privateIPAddress")))
        except AddressValueError:
            continue
    return None


def _configurations(properties: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for one in properties.get("ipConfigurations") or ():
        yield one.get("properties") or {}


def _network(subnet: str) -> Key:
    return ids.key(subnet.rpartition("/subnets/")[0] if "/subnets/" in subnet else subnet)
