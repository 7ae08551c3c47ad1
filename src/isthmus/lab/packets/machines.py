"""A machine as data: namespaces, the cables between them, their tables, resolvers and relay; as wanted, or as found.
Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from isthmus.lab.packets.addressing import NEXT_HOP
from isthmus.lab.packets.rulesets import Found, Ruleset


@dataclass(frozen=True, slots=True, order=True)
class End:
    """One end of a cable."""

    namespace: str
    interface: str


@dataclass(frozen=True, slots=True, order=True)
class Cable:
    """A veth pair. ``one`` is where it is made."""

    one: End
    other: End


@dataclass(frozen=True, slots=True)
class Route:
    """A route. ``device`` is ``lo`` for what is local, else it leads to the device's other end."""

    destination: IPv4Network
    device: str
    table: str = "main"
    source: IPv4Address | None = None
    is_local: bool = False

    @property
    def place(self) -> tuple[str, IPv4Network]:
        """What a routing table has once."""
        return self.table, self.destination

    @property
    def next_hop(self) -> IPv4Address | None:
        """The next hop."""
        return None if self.device == "lo" else NEXT_HOP


@dataclass(frozen=True, slots=True, order=True)
class Neighbour:
    """A permanent neighbour."""

    device: str
    address: IPv4Address
    mac: str


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """An address of a device, by itself (/32)."""

    device: str
    address: IPv4Address


@dataclass(frozen=True)
class Namespace:
    """What is in one network namespace, with its loopback device up. ``rules`` lead marks to tables.

    ``base`` are settings that have to be there before anything else, ``sysctls`` those that come with connection
    tracking: paths below /proc/sys/net.
    """

    addresses: frozenset[Address] = frozenset()
    neighbours: frozenset[Neighbour] = frozenset()
    routes: frozenset[Route] = frozenset()
    rules: frozenset[tuple[int, int]] = frozenset()
    base: Mapping[str, str] = field(default_factory=dict)
    sysctls: Mapping[str, str] = field(default_factory=dict)
    ruleset: Ruleset | Found | None = None


@dataclass(frozen=True, slots=True)
class Resolver:
    """A dnsmasq in a namespace: the address that it answers on, and its configuration."""

    address: IPv4Address
    configuration: str


@dataclass(frozen=True, slots=True)
class Relayed:
    """An endpoint whose connections the relay takes, and where they go.

    ``sources`` are the service's NAT addresses as they are inside the fabric; ``side`` marks what goes to its
    network; ``rules`` are (port, backend's port, backends), with port 0 for every port as it is.
    """

    endpoint: str
    listens_on: IPv4Address
    link_identifier: int
    service: int
    sources: tuple[IPv4Address, ...]
    side: int
    rules: tuple[tuple[int, int, tuple[IPv4Address, ...]], ...]


@dataclass(frozen=True, slots=True)
class Ends:
    """The marks of what goes to the two ends of an endpoint's flows."""

    customer: int
    provider: int


@dataclass(frozen=True)
class Machine:
    """All of it. ``resolvers`` and ``files`` by namespace; ``open_marks`` are those of flows that may pass."""

    namespaces: Mapping[str, Namespace] = field(default_factory=dict)
    cables: frozenset[Cable] = frozenset()
    resolvers: Mapping[str, Resolver] = field(default_factory=dict)
    name_servers: Mapping[str, tuple[IPv4Address, ...]] = field(default_factory=dict)
    relayed: tuple[Relayed, ...] = ()
    open_marks: frozenset[int] = frozenset()
    ends: Mapping[int, Ends] = field(default_factory=dict)
