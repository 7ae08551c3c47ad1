"""Addresses: prefixes, and who has which address in a subnet.

An address is held by an IP configuration: of a network interface (those of endpoints and link services among them) or
of a load balancer's frontend. Nothing else is kept: what is taken is read from those documents, and a dynamic address
is the lowest that is free. Azure reserves the first four addresses of a subnet and the last ("Azure Virtual Network
FAQ").
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final

from isthmus.lab import ids
from isthmus.lab.documents import Document, World
from isthmus.lab.errors import ArmError
from isthmus.lab.ids import Key, ResourceId
from isthmus.lab.network.refusals import refused

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network

INTERFACES: Final = "Microsoft.Network/networkInterfaces"
BALANCERS: Final = "Microsoft.Network/loadBalancers"

_RESERVED_FIRST: Final = 4
_VERSIONS: Final = {"IPv4": 4, "IPv6": 6}

#: The one length of a block of private addresses (Azure, "Private IP address prefix").
_BLOCK_LENGTH: Final = 28


def parse_prefix(text: str, owner: ResourceId) -> Prefix:
    """A prefix in CIDR notation; refused (InvalidAddressPrefixFormat, InvalidCIDRNotation) if it is none."""
    try:
        loose = ip_network(text, strict=False)
    except ValueError:
        loose = None
    if loose is None or "/" not in text or not text.rpartition("/")[2].isdigit():
        raise refused(
            "InvalidAddressPrefixFormat",
            f"Address prefix {text} of resource {owner} is not formatted correctly. It should follow CIDR "
            "notation, for example 10.0.0.0/24.",
        )
    if ip_address(text.partition("/")[0]) != loose.network_address:
        raise refused(
            "InvalidCIDRNotation",
            f"The address prefix {text} in resource {owner} has an invalid CIDR notation. For the given prefix length, "
            f"the address prefix should be {loose}.",
        )
    return loose


def parse_address(text: str, owner: ResourceId) -> Address:
    """An address; refused (InvalidIPAddressFormat) if it is none."""
    try:
        return ip_address(text)
    except ValueError:
        raise refused(
            "InvalidIPAddressFormat",
            f"IP address {text} of resource {owner} is not formatted correctly.",
        ) from None


def is_within(inner: Prefix, outer: Prefix) -> bool:
    """All of ``inner`` lies in ``outer``."""
    if isinstance(inner, IPv4Network) and isinstance(outer, IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(inner, IPv6Network) and isinstance(outer, IPv6Network):
        return inner.subnet_of(outer)
    return False


def overlap(one: Iterable[Prefix], other: Sequence[Prefix]) -> tuple[Prefix, Prefix] | None:
    """The first two prefixes, one of each, that share an address."""
    return next(((left, right) for left in one for right in other if left.overlaps(right)), None)


def prefixes_of(properties: Mapping[str, Any]) -> tuple[Prefix, ...]:
    """The prefixes of a subnet's properties or of an address space."""
    given = [properties["addressPrefix"]] if properties.get("addressPrefix") else []
    found = dict.fromkeys([*given, *(properties.get("addressPrefixes") or ())])
    return tuple(ip_network(one) for one in found)


def space_of(network: Document) -> tuple[Prefix, ...]:
    """The address space of a virtual network."""
    return prefixes_of(network.properties.get("addressSpace") or {})


@dataclass(frozen=True, slots=True)
class Holding:
    """An IP configuration in a subnet. ``addresses`` are those that it has: one, or a block of them, or none."""

    id: ResourceId
    subnet: Key
    addresses: tuple[Address, ...]


def addresses_in(text: str | None) -> tuple[Address, ...]:
    """The addresses that an IP configuration says it has: ``10.0.0.4``, or a block like ``10.0.0.16/28``."""
    if not text:
        return ()
    return tuple(ip_network(text)) if "/" in text else (ip_address(text),)


def holdings_of(document: Document) -> Iterator[Holding]:
    """The IP configurations of an interface or a load balancer that lie in subnets."""
    member = "ipConfigurations" if document.kind == INTERFACES else "frontendIPConfigurations"
    for one in document.properties.get(member) or ():
        said = one.get("properties") or {}
        if said.get("subnet"):
            held = addresses_in(said.get("privateIPAddress"))
            yield Holding(document.id.child(member, one["name"]), ids.key(said["subnet"]["id"]), held)


def all_holdings(world: World) -> Iterator[Holding]:
    """Every IP configuration that lies in a subnet: the interfaces' in the order of creation, then the frontends'."""
    for kind in (INTERFACES, BALANCERS):
        for document in world.all(kind):
            yield from holdings_of(document)


def holdings_in(world: World, subnet: ResourceId) -> list[Holding]:
    """Those of one subnet."""
    return [one for one in all_holdings(world) if one.subnet == subnet.key]


def hosts_of(prefix: Prefix) -> Iterator[Address]:
    """The addresses of a subnet's prefix that Azure gives out, from the lowest."""
    first, last = int(prefix.network_address) + _RESERVED_FIRST, int(prefix.broadcast_address) - 1
    make = IPv4Address if isinstance(prefix, IPv4Network) else IPv6Address
    return (make(number) for number in range(first, last + 1))


def is_host(address: Address, prefix: Prefix) -> bool:
    """Azure gives it out in a subnet with that prefix."""
    position = int(address) - int(prefix.network_address)
    return address in prefix and position >= _RESERVED_FIRST and address != prefix.broadcast_address


def capacity_of(subnet: Document) -> int:
    """How many addresses Azure gives out in a subnet."""
    return sum(max(0, one.num_addresses - _RESERVED_FIRST - 1) for one in prefixes_of(subnet.properties))


def by_claim(given: Iterable[Mapping[str, Any]], old: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """IP configurations in the order in which they get addresses: static ones, those that had one, new ones.

    ``old`` has the names, in lower case, of those that had one.
    """

    def claim(one: Mapping[str, Any]) -> int:
        if one["properties"].get("privateIPAllocationMethod") == "Static":
            return 0
        return 1 if one["name"].lower() in old else 2

    return sorted(given, key=claim)


class Allocation:
    """The addresses that one resource takes. Give them all in one change, then store them with the resource."""

    def __init__(self, world: World, owner: ResourceId) -> None:
        self._owner = owner
        self._taken: dict[Key, dict[Address, ResourceId]] = {}
        for one in all_holdings(world):
            if one.id.outer.key != owner.key:
                self._taken.setdefault(one.subnet, {}).update(dict.fromkeys(one.addresses, one.id))

    def give(self, subnet: Document, holder: ResourceId, wanted: str | None, *, version: int = 4) -> Address:
        """An address of ``subnet`` for the IP configuration ``holder``: ``wanted``, or the lowest that is free."""
        taken = self._taken.setdefault(subnet.key, {})
        prefixes = [one for one in prefixes_of(subnet.properties) if one.version == version]
        found = (
            self._lowest(subnet, prefixes, taken) if wanted is None else self._check(prefixes, holder, wanted, taken)
        )
        taken[found] = holder
        return found

    def fill(self, subnet: Document, holder: ResourceId, said: dict[str, Any], old: Mapping[str, Any]) -> None:
        """Complete the properties of the IP configuration ``holder``; ``old`` are those that it had, or nothing.

        A static address is checked; a dynamic one stays what it was as long as the subnet is the same. With
        ``privateIPAddressPrefixLength`` it is a block.
        """
        said.setdefault("privateIPAllocationMethod", "Dynamic")
        version = _VERSIONS[said.setdefault("privateIPAddressVersion", "IPv4")]
        if said.get("privateIPAddressPrefixLength"):
            said["privateIPAddress"] = str(self._block(subnet, holder, said, old))
            return
        if said["privateIPAllocationMethod"] == "Static":
            if not said.get("privateIPAddress"):
                raise refused(
                    "StaticPrivateIPAddressRequired",
                    f"IP configuration {holder} has static allocation and no private IP address.",
                )
            found = self.give(subnet, holder, said["privateIPAddress"], version=version)
        elif old.get("privateIPAddress") and ids.key(old["subnet"]["id"]) == subnet.key:
            found = self._keep(subnet, holder, old["privateIPAddress"], version)
        else:
            found = self.give(subnet, holder, None, version=version)
        said["privateIPAddress"] = str(found)

    def _block(
        self, subnet: Document, holder: ResourceId, said: Mapping[str, Any], old: Mapping[str, Any]
    ) -> IPv4Network:
        """The block that ``holder`` had, or the lowest that is free."""
        if said["privateIPAddressPrefixLength"] != _BLOCK_LENGTH or said["privateIPAddressVersion"] != "IPv4":
            raise refused(
                "InvalidPrivateIPAddressPrefixLength",
                f"IP configuration {holder} has private IP address prefix length "
                f"{said['privateIPAddressPrefixLength']}. It can be {_BLOCK_LENGTH}, with IPv4.",
            )
        taken = self._taken.setdefault(subnet.key, {})
        prefixes = [one for one in prefixes_of(subnet.properties) if isinstance(one, IPv4Network)]
        wide = [one for one in prefixes if one.prefixlen < _BLOCK_LENGTH]
        had = [IPv4Network(one) for one in [old.get("privateIPAddress") or ""] if "/" in one]
        for block in (*had, *(block for one in wide for block in one.subnets(new_prefix=_BLOCK_LENGTH))):
            outer = next((one for one in wide if is_within(block, one)), None)
            if outer is not None and all(is_host(one, outer) and one not in taken for one in block):
                taken.update(dict.fromkeys(block, holder))
                return block
        raise _full(subnet, prefixes, 1 << (32 - _BLOCK_LENGTH))

    def _keep(self, subnet: Document, holder: ResourceId, address: str, version: int) -> Address:
        """The address that ``holder`` had, if it still may have it; else another one."""
        prefixes = [one for one in prefixes_of(subnet.properties) if one.version == version]
        taken = self._taken.setdefault(subnet.key, {})
        for had in addresses_in(address)[:1]:
            if had not in taken and any(had in one for one in prefixes):
                taken[had] = holder
                return had
        return self.give(subnet, holder, None, version=version)

    def _lowest(self, subnet: Document, prefixes: list[Prefix], taken: Mapping[Address, ResourceId]) -> Address:
        for prefix in prefixes:
            for address in hosts_of(prefix):
                if address not in taken:
                    return address
        raise _full(subnet, prefixes, 1)

    def _check(
        self, prefixes: list[Prefix], holder: ResourceId, wanted: str, taken: Mapping[Address, ResourceId]
    ) -> Address:
        address = parse_address(wanted, holder)
        prefix = next((one for one in prefixes if address in one), None)
        if prefix is None:
            raise refused(
                "PrivateIPAddressNotInSubnet",
                f"Private static IP address {wanted} does not belong to the range of subnet prefix "
                f"{', '.join(map(str, prefixes))}.",
            )
        if not is_host(address, prefix):
            raise refused(
                "PrivateIPAddressInReservedRange",
                f"Private static IP address {wanted} falls within reserved IP range of subnet prefix {prefix}.",
            )
        if address in taken:
            raise refused(
                "PrivateIPAddressIsAllocated",
                f"IP configuration {holder} is using the private IP address {wanted} which is already allocated to "
                f"resource {taken[address]}.",
            )
        return address


def _full(subnet: Document, prefixes: Sequence[Prefix], wanted: int) -> ArmError:
    shown = ", ".join(map(str, prefixes)) or "of this version"
    return refused(
        "SubnetIsFull",
        f"Subnet {subnet.id.name} with address prefix {shown} does not have enough capacity for {wanted} IP addresses.",
    )
