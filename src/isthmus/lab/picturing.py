"""Documents → picture: what packets need to know of what clients asked for. Pure.

What Azure leaves to its fabric is decided here: the address that programs of a network have when they bind to none, and
the public address that a network leaves from. What leads nowhere is left out: IPv6, services whose frontend is gone.

Invariant: equal documents give equal pictures; things come in the order of creation.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from typing import Any, Final, TypeVar

from isthmus.lab import ids, private_dns
from isthmus.lab import picture as pictures
from isthmus.lab.documents import PUBLIC_NAMES, Document, World
from isthmus.lab.ids import Key
from isthmus.lab.network import (
    addresses,
    approvals,
    load_balancers,
    network_interfaces,
    peerings,
    public_addresses,
    subnets,
    virtual_networks,
)

#: The address of the first subnet that programs of a network have: one of those that Azure reserves.
_HOST_POSITION: Final = 3

_AZURE_RESOLVER: Final = IPv4Address("168.63.129.16")

_PROTOCOLS: Final = {"Tcp": pictures.Protocol.TCP, "Udp": pictures.Protocol.UDP, "All": pictures.Protocol.ALL}

_T = TypeVar("_T")
_G = TypeVar("_G")


def picture(world: World) -> pictures.Picture:
    """All of it."""
    index = _Index.of(world)
    services = tuple(_services(world, index))
    return pictures.Picture(
        networks=tuple(_network(world, index, one) for one in world.all(virtual_networks.KIND)),
        peerings=tuple(_peerings(world)),
        services=services,
        endpoints=tuple(_endpoints(world, index, {one.key for one in services})),
        public_names=_public_names(world),
    )


@dataclass(frozen=True, slots=True)
class _Placed:
    """A frontend: the key of its id, and the network that it leads into (None if nothing is behind it)."""

    key: Key
    network: Key | None
    frontend: pictures.Frontend


@dataclass(frozen=True, slots=True)
class _Index:
    """What is asked for again and again, looked up once: by network, by frontend, by alias."""

    subnets: Mapping[Key, tuple[Document, ...]]
    interfaces: Mapping[Key, tuple[Document, ...]]
    frontends: Mapping[Key | None, tuple[pictures.Frontend, ...]]
    by_frontend: Mapping[Key, pictures.Frontend]
    by_alias: Mapping[str, Document]

    @classmethod
    def of(cls, world: World) -> "_Index":
        """Of a world."""
        backends = _backends(world)
        placed = [one for document in world.all(load_balancers.KIND) for one in _frontends(world, document, backends)]
        return cls(
            _grouped((one.id.outer.key, one) for one in world.all(subnets.KIND)),
            _grouped((_network_of(one), one) for one in world.all(network_interfaces.KIND)),
            _grouped((one.network, one.frontend) for one in placed),
            {one.key: one.frontend for one in placed},
            {approvals.alias_of(one): one for one in world.all(approvals.SERVICE_KIND)},
        )

    def service(self, world: World, text: str) -> Document | None:
        """The service with that id or alias."""
        return self.by_alias.get(text.lower()) if approvals.is_alias(text) else approvals.find_service(world, text)


def _grouped(found: Iterable[tuple[_G, _T]]) -> dict[_G, tuple[_T, ...]]:
    groups: dict[_G, list[_T]] = {}
    for key, one in found:
        groups.setdefault(key, []).append(one)
    return {key: tuple(ones) for key, ones in groups.items()}


def _ipv4(text: str | None) -> Iterator[IPv4Address]:
    """The addresses in ``text`` (one, or a block) if they are of IPv4."""
    return (one for one in addresses.addresses_in(text) if isinstance(one, IPv4Address))


def _prefixes(properties: Mapping[str, Any]) -> tuple[IPv4Network, ...]:
    return tuple(one for one in addresses.prefixes_of(properties) if isinstance(one, IPv4Network))


# -- networks


def _network_of(interface: Document) -> Key:
    return subnets.network_key(interface.properties["ipConfigurations"][0]["properties"]["subnet"]["id"])


def _network(world: World, index: _Index, document: Document) -> pictures.Network:
    inner = index.subnets.get(document.key, ())
    configurations = [
        one["properties"]
        for interface in index.interfaces.get(document.key, ())
        if network_interfaces.owner_of(interface) is None
        for one in interface.properties["ipConfigurations"]
    ]
    servers = (document.properties.get("dhcpOptions") or {}).get("dnsServers") or ()
    return pictures.Network(
        key=document.key,
        name=document.id.name,
        number=document.number,
        prefixes=_prefixes(document.properties["addressSpace"]),
        host_address=_host_address(inner),
        addresses=tuple(found for one in configurations for found in _ipv4(one.get("privateIPAddress"))),
        public_addresses=dict(_public_addresses(world, configurations)),
        outbound_address=_outbound_address(document, inner),
        frontends=index.frontends.get(document.key, ()),
        zones=private_dns.zones_of(world, document.id),
        dns_servers=tuple(found for one in servers for found in _ipv4(one) if found != _AZURE_RESOLVER),
    )


def _host_address(inner: Iterable[Document]) -> IPv4Address | None:
    for subnet in inner:
        for prefix in _prefixes(subnet.properties):
            return prefix.network_address + _HOST_POSITION
    return None


def _public_addresses(
    world: World, configurations: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[IPv4Address, IPv4Address]]:
    for one in configurations:
        reference = one.get("publicIPAddress")
        document = world.get(reference["id"]) if reference else None
        if document is not None:
            for private in _ipv4(one.get("privateIPAddress")):
                for public in _ipv4(document.properties["ipAddress"]):
                    yield private, public


def _outbound_address(document: Document, inner: Iterable[Document]) -> IPv4Address | None:
    """The public address that a network leaves from, by its number; None if no subnet may."""
    said = [subnet.properties.get("defaultOutboundAccess", True) for subnet in inner]
    address = public_addresses.FIRST_OUTBOUND + (document.number - 1)
    is_shut = bool(said) and not any(said)
    return None if is_shut or address > public_addresses.LAST_OUTBOUND else address


def _peerings(world: World) -> Iterator[pictures.Peering]:
    """The pairs that both networks want, that are connected, and that let packets pass both ways."""
    seen: set[Key] = set()
    for half in world.all(peerings.KIND):
        other = peerings.other_half(world, half)
        if half.key in seen or other is None or peerings.state_of(world, half) != "Connected":
            continue
        seen.add(other.key)
        if all(one.properties["allowVirtualNetworkAccess"] for one in (half, other)):
            number = min(half.number, other.number)
            yield pictures.Peering(number, half.id.outer.key, other.id.outer.key)


def _public_names(world: World) -> dict[str, tuple[IPv4Address | IPv6Address, ...]]:
    """What the public resolver answers: names that were set by hand, and those of public IP addresses."""
    found: dict[str, tuple[IPv4Address | IPv6Address, ...]] = {}
    for document in world.all(public_addresses.KIND):
        name = public_addresses.fqdn_of(document)
        if name is not None:
            found[name] = (ip_address(document.properties["ipAddress"]),)
    for name, values in world.notes(PUBLIC_NAMES).items():
        found[name] = tuple(ip_address(one) for one in values)
    return found


# -- load balancers


@dataclass(frozen=True, slots=True)
class _Backend:
    """An address in a backend pool, and the network that it is in, if that is said."""

    address: IPv4Address
    network: Key | None


def _backends(world: World) -> dict[Key, tuple[_Backend, ...]]:
    """What is in each backend pool, by the key of the pool."""
    return _grouped([*_said_backends(world), *_member_backends(world)])


def _said_backends(world: World) -> Iterator[tuple[Key, _Backend]]:
    for pool in world.all(load_balancers.POOL_KIND):
        for one in pool.properties["loadBalancerBackendAddresses"]:
            said = one["properties"]
            network = said.get("virtualNetwork") or pool.properties.get("virtualNetwork")
            if said.get("adminState") != "Down":
                for address in _ipv4(said.get("ipAddress")):
                    yield pool.key, _Backend(address, ids.key(network["id"]) if network else None)


def _member_backends(world: World) -> Iterator[tuple[Key, _Backend]]:
    for interface in world.all(network_interfaces.KIND):
        for one in interface.properties["ipConfigurations"]:
            said = one["properties"]
            for pool in said.get("loadBalancerBackendAddressPools") or ():
                for address in _ipv4(said["privateIPAddress"]):
                    yield ids.key(pool["id"]), _Backend(address, subnets.network_key(said["subnet"]["id"]))


def _frontends(world: World, balancer: Document, backends: Mapping[Key, tuple[_Backend, ...]]) -> Iterator[_Placed]:
    """The frontends of a load balancer that have an address."""
    for one in load_balancers.parts_of(balancer, "frontendIPConfigurations"):
        said = one["properties"]
        frontend = balancer.id.child("frontendIPConfigurations", one["name"])
        rules = [
            (rule["properties"], _pools_of(rule["properties"], backends))
            for rule in load_balancers.parts_of(balancer, "loadBalancingRules")
            if ids.key(rule["properties"]["frontendIPConfiguration"]["id"]) == frontend.key
        ]
        shown = tuple(
            pictures.Rule(
                _PROTOCOLS[rule["protocol"]],
                rule["frontendPort"],
                rule["backendPort"],
                tuple(dict.fromkeys(backend.address for backend in behind)),
            )
            for rule, behind in rules
        )
        if "subnet" in said:
            for address in _ipv4(said["privateIPAddress"]):
                inside = subnets.network_key(said["subnet"]["id"])
                yield _Placed(frontend.key, inside, pictures.Frontend(address, False, shown))
        elif (public := world.get((said.get("publicIPAddress") or {}).get("id", ""))) is not None:
            behind = [backend.network for _, found in rules for backend in found if backend.network is not None]
            for address in _ipv4(public.properties["ipAddress"]):
                yield _Placed(frontend.key, behind[0] if behind else None, pictures.Frontend(address, True, shown))


def _pools_of(rule: Mapping[str, Any], backends: Mapping[Key, tuple[_Backend, ...]]) -> list[_Backend]:
    """The backends of a rule."""
    one = rule.get("backendAddressPool")
    references = [*([one] if one else []), *(rule.get("backendAddressPools") or ())]
    pools = dict.fromkeys(ids.key(reference["id"]) for reference in references)
    return [backend for pool in pools for backend in backends.get(pool, ())]


# -- private links


def _services(world: World, index: _Index) -> Iterator[pictures.Service]:
    for document in world.all(approvals.SERVICE_KIND):
        frontend = _frontend_of(index, document)
        if frontend is None:
            continue
        interface = world.get(approvals.service_interface_id(document))
        held = addresses.holdings_of(interface) if interface is not None else iter(())
        yield pictures.Service(
            key=document.key,
            number=document.number,
            network=subnets.network_key(document.properties["ipConfigurations"][0]["properties"]["subnet"]["id"]),
            nat_addresses=tuple(one for holding in held for one in holding.addresses if isinstance(one, IPv4Address)),
            frontend=frontend,
            has_proxy_protocol=document.properties["enableProxyProtocol"],
        )


def _frontend_of(index: _Index, service: Document) -> pictures.Frontend | None:
    """What a service stands in front of: the first of its frontends, or its destination with every port of it."""
    for address in _ipv4(service.properties.get("destinationIPAddress")):
        return pictures.Frontend(address, False, (pictures.Rule(pictures.Protocol.ALL, 0, 0, (address,)),))
    for reference in service.properties.get("loadBalancerFrontendIpConfigurations") or ():
        return index.by_frontend.get(ids.key(reference["id"]))
    return None


def _endpoints(world: World, index: _Index, services: set[Key]) -> Iterator[pictures.Endpoint]:
    for document in world.all(approvals.ENDPOINT_KIND):
        address = next((one for one in approvals.addresses_of(world, document) if isinstance(one, IPv4Address)), None)
        if address is None:
            continue
        service = index.service(world, approvals.request_of(document)[1]["properties"]["privateLinkServiceId"])
        connection = world.get(approvals.connection_id(service.id, document)) if service is not None else None
        is_connected = service is not None and connection is not None and service.key in services
        yield pictures.Endpoint(
            key=document.key,
            number=document.number,
            network=subnets.network_key(document.properties["subnet"]["id"]),
            address=address,
            service=service.key if service is not None and is_connected else None,
            is_approved=is_connected and approvals.is_approved(connection),
            link_identifier=approvals.link_identifier(connection) if connection is not None else 0,
        )
