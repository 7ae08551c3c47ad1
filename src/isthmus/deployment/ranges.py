"""Address ranges: in their plain form, sorted, and what they admit. Pure.

An IPv4 address that arrives in IPv6 form (``::ffff:192.0.2.1``) is the IPv4 address. An empty list of ranges stands for
every address, as the allow list has it.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address
Ranges = tuple[Network, ...]

_EVERYTHING: Final[Ranges] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))


def plain_address(text: str) -> Address:
    """The address in ``text``: without a zone, and IPv4 where it is IPv4 in IPv6 form. Raises ValueError."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def plain_network(network: Network) -> Network:
    """The network, as IPv4 where it is IPv4 in IPv6 form (``::ffff:10.0.0.0/104`` is ``10.0.0.0/8``)."""
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - 96))
    return network


def plain(ranges: Iterable[Network]) -> Ranges:
    """The ranges in their plain form, sorted and without duplicates."""
    return tuple(
        sorted(
            {plain_network(network) for network in ranges},
            key=lambda network: (network.version, int(network.network_address), network.prefixlen),
        )
    )


def admits(ranges: Sequence[Network], address: str | None) -> bool:
    """Whether ``address`` may come in. What is no address (a UNIX socket) is in no range."""
    if not ranges:
        return True
    try:
        found = plain_address(address or "")
    except ValueError:
        return False
    return any(found in network for network in ranges)


def covers(outer: Sequence[Network], inner: Sequence[Network]) -> bool:
    """Whether whatever ``inner`` admits is admitted by ``outer`` as well."""
    return all(_covered(network, outer or _EVERYTHING) for network in inner or _EVERYTHING)


def _covered(network: Network, outer: Sequence[Network]) -> bool:
    if isinstance(network, IPv4Network):
        v4 = [one for one in outer if isinstance(one, IPv4Network)]
        return any(network.subnet_of(one) for one in ipaddress.collapse_addresses(v4))
    v6 = [one for one in outer if isinstance(one, IPv6Network)]
    return any(network.subnet_of(one) for one in ipaddress.collapse_addresses(v6))
