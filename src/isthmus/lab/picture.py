"""The picture: everything that packets need to know, and nothing else.

``picturing`` derives it from the documents; ``packets`` makes the machine look like it. It is plain data that can be
compared, so that what changed between two pictures is what has to be done.

Numbers (``number``) are small, stable and unique among the things of one sort: names of interfaces, addresses of links,
conntrack zones and marks are made of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Final

from isthmus.lab.ids import Key

#: The public internet (RFC 5737), what programs in its namespace have when they ask for nothing else, and its
#: resolver. No network gets one of the first 16 addresses.
PUBLIC_INTERNET: Final = IPv4Network("203.0.113.0/24")
INTERNET_HOST: Final = IPv4Address("203.0.113.1")
PUBLIC_RESOLVER: Final = IPv4Address("203.0.113.2")


class Protocol(StrEnum):
    """What a load balancer's rule carries."""

    TCP = "tcp"
    UDP = "udp"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Rule:
    """A frontend's ``port`` goes to ``backend_port`` of one of ``backends``; with protocol ALL every port as it is."""

    protocol: Protocol
    port: int
    backend_port: int
    backends: tuple[IPv4Address, ...]


@dataclass(frozen=True, slots=True)
class Frontend:
    """A load balancer's address in a network, or (``is_public``) on the internet, with its rules."""

    address: IPv4Address
    is_public: bool
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """A record set of a private zone. ``name`` is relative (``@`` the apex, ``*`` a wildcard), ``ttl_seconds`` its TTL.

    ``values`` by ``type``: A and AAAA addresses; CNAME and PTR names; MX ``"preference exchange"``; SRV
    ``"priority weight port target"``; TXT one string a value, its parts joined.
    """

    name: str
    type: str
    ttl_seconds: int
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Zone:
    """A private zone as a linked network sees it.

    With ``falls_back`` names that it lacks are asked of the public resolver.
    """

    name: str
    falls_back: bool
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Network:
    """A virtual network: one namespace.

    ``host_address`` is what programs that run in it have when nothing else is said (an address that Azure reserves: the
    third of the first subnet), None for a network without subnets; ``addresses`` are those of its network interfaces,
    which programs can bind to; ``public_addresses`` translate one of them to the internet and back;
    ``outbound_address`` is the public address that everything else leaves from, None for none. ``dns_servers`` are the
    network's own, empty for Azure's 168.63.129.16.
    """

    key: Key
    name: str
    number: int
    prefixes: tuple[IPv4Network, ...]
    host_address: IPv4Address | None
    addresses: tuple[IPv4Address, ...] = ()
    public_addresses: Mapping[IPv4Address, IPv4Address] = field(default_factory=dict)
    outbound_address: IPv4Address | None = None
    frontends: tuple[Frontend, ...] = ()
    zones: tuple[Zone, ...] = ()
    dns_servers: tuple[IPv4Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Peering:
    """Two networks that are peered both ways.

    Packets pass, names do not; what a third network peers with one stays there.
    """

    number: int
    one: Key
    other: Key


@dataclass(frozen=True, slots=True)
class Service:
    """A private link service: what comes to it arrives at ``frontend`` of ``network`` from one of ``nat_addresses``.

    ``nat_addresses`` lie in ``network``; ``ports_per_address`` is how many flows at a time each carries. With
    ``has_proxy_protocol`` every connection begins with a PROXY v2 header that names the endpoint's link identifier. A
    service without a load balancer (Azure's Direct Connect) has one rule of protocol ALL to its destination.
    """

    key: Key
    number: int
    network: Key
    nat_addresses: tuple[IPv4Address, ...]
    frontend: Frontend
    has_proxy_protocol: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A private endpoint: an address in a network that leads to a service, as long as its connection is approved.

    ``service`` is None when the service is gone (Disconnected); the address stays.
    """

    key: Key
    number: int
    network: Key
    address: IPv4Address
    service: Key | None
    is_approved: bool
    link_identifier: int


@dataclass(frozen=True, slots=True)
class Picture:
    """All of it. ``public_names`` are what the public resolver answers: name without the last dot, addresses."""

    networks: tuple[Network, ...] = ()
    peerings: tuple[Peering, ...] = ()
    services: tuple[Service, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    public_names: Mapping[str, tuple[IPv4Address | IPv6Address, ...]] = field(default_factory=dict)
