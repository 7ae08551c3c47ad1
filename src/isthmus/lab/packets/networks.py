"""The namespace of a virtual network, of a peering's two ends, and of the public internet. Pure.

What is a network's own is local on its loopback device; everything else goes to the fabric, which swallows what is
nowhere. A packet from a peer may go to an endpoint, and nowhere else: so peering is not transitive, and the outbound
address is not shared. A load balancer's private frontend is translated in the namespace itself, because client and
backend are both in it; nothing else is tracked there.
"""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from isthmus.lab import picture
from isthmus.lab.ids import Key
from isthmus.lab.packets import addressing, fabric
from isthmus.lab.packets.addressing import (
    AZURE_RESOLVER,
    FABRIC,
    FABRIC_ADDRESS,
    INTERNET,
    LINK_ADDRESS,
    NEXT_HOP,
    PEERS,
)
from isthmus.lab.packets.machines import Address, Cable, End, Namespace, Neighbour, Route
from isthmus.lab.packets.rulesets import Chain, Elements, Ruleset

_ANYWHERE: Final = IPv4Network("0.0.0.0/0")


def cables(lab: addressing.LabId, wanted: picture.Picture) -> frozenset[Cable]:
    """What connects the namespaces."""
    here = addressing.fabric(lab)
    networks = {one.key: addressing.network(lab, one.number) for one in wanted.networks}
    links = {Cable(End(here, INTERNET), End(addressing.internet(lab), FABRIC))}
    links |= {
        Cable(End(here, addressing.network_interface(one.number)), End(networks[one.key], FABRIC))
        for one in wanted.networks
    }
    for peering in wanted.peerings:
        interface = addressing.peering_interface(peering.number)
        if peering.one in networks and peering.other in networks:
            links.add(Cable(End(networks[peering.one], interface), End(networks[peering.other], interface)))
    return frozenset(links)


def plan(lab: addressing.LabId, wanted: picture.Picture, network: picture.Network) -> Namespace:
    """The namespace of ``network``."""
    peers = dict(_peers(wanted, network))
    endpoints = frozenset(one.address for one in wanted.endpoints if one.network == network.key)
    return Namespace(
        addresses=frozenset(
            {
                Address("lo", AZURE_RESOLVER),
                Address(FABRIC, LINK_ADDRESS),
                *(Address("lo", address) for address in _local(network, endpoints, wanted)),
            }
        ),
        neighbours=frozenset(
            {
                Neighbour(
                    FABRIC,
                    NEXT_HOP,
                    addressing.mac(addressing.network_interface(network.number), addressing.fabric(lab)),
                ),
                *(
                    Neighbour(
                        addressing.peering_interface(number),
                        NEXT_HOP,
                        addressing.mac(addressing.peering_interface(number), addressing.network(lab, other.number)),
                    )
                    for number, other in peers.items()
                ),
            }
        ),
        routes=frozenset(
            {
                Route(_ANYWHERE, FABRIC, source=network.host_address),
                *(
                    Route(prefix, addressing.peering_interface(number), source=network.host_address)
                    for number, other in peers.items()
                    for prefix in other.prefixes
                ),
            }
        ),
        base=fabric.BASE,
        ruleset=_ruleset(network, endpoints),
    )


def internet(lab: addressing.LabId, wanted: picture.Picture) -> Namespace:
    """The public internet: all of its addresses are local to it, but those that networks have."""
    return Namespace(
        base={**fabric.BASE, "ipv4/ip_forward": "0"},
        addresses=frozenset({Address("lo", picture.INTERNET_HOST)}),
        neighbours=frozenset({Neighbour(FABRIC, NEXT_HOP, addressing.mac(INTERNET, addressing.fabric(lab)))}),
        routes=frozenset(
            {
                Route(picture.PUBLIC_INTERNET, "lo", table="local", is_local=True),
                Route(IPv4Network((FABRIC_ADDRESS, 32)), FABRIC, source=picture.INTERNET_HOST),
                *(
                    Route(IPv4Network((address, 32)), FABRIC, table="local", source=picture.INTERNET_HOST)
                    for network in wanted.networks
                    for address in _public(network)
                ),
            }
        ),
    )


def _peers(wanted: picture.Picture, network: picture.Network) -> Iterator[tuple[int, picture.Network]]:
    networks: dict[Key, picture.Network] = {one.key: one for one in wanted.networks}
    for peering in wanted.peerings:
        for one, other in ((peering.one, peering.other), (peering.other, peering.one)):
            if one == network.key and other in networks:
                yield peering.number, networks[other]


def _local(
    network: picture.Network, endpoints: frozenset[IPv4Address], wanted: picture.Picture
) -> frozenset[IPv4Address]:
    elsewhere = endpoints | {one.address for one in network.frontends}
    for service in wanted.services:
        if service.network == network.key:
            elsewhere |= set(service.nat_addresses)
    own = {*network.addresses, *((network.host_address,) if network.host_address else ())}
    return frozenset(own - elsewhere)


def _public(network: picture.Network) -> frozenset[IPv4Address]:
    addresses = {one.address for one in network.frontends if one.is_public} | set(network.public_addresses.values())
    return frozenset(addresses | ({network.outbound_address} if network.outbound_address else set()))


def _ruleset(network: picture.Network, endpoints: frozenset[IPv4Address]) -> Ruleset:
    frontends = [one for one in network.frontends if not one.is_public]
    return Ruleset(
        sets={
            "endpoints": Elements("type ipv4_addr", {str(address): None for address in sorted(endpoints)}),
            "frontends": Elements("type ipv4_addr", {str(one.address): None for one in frontends}),
        },
        chains={
            "forwarding": Chain(
                (
                    f'iifname "{PEERS}*" oifname "{FABRIC}" ip daddr @endpoints accept',
                    f'iifname "{FABRIC}" oifname "{PEERS}*" ip saddr @endpoints accept',
                ),
                "type filter hook forward priority filter; policy drop",
            ),
            "silence": Chain(
                # While the resolver starts again, questions wait instead of failing.
                (f"ip saddr {AZURE_RESOLVER} icmp type destination-unreachable drop",),
                "type filter hook output priority filter; policy accept",
            ),
            **(_balancing(frontends) if frontends else {}),
        },
    )


def _balancing(frontends: list[picture.Frontend]) -> dict[str, Chain]:
    return {
        "untracked": Chain((f'iifname "{FABRIC}" notrack',), "type filter hook prerouting priority raw; policy accept"),
        "untracked-too": Chain(
            (f'oifname "{FABRIC}" ip daddr != @frontends notrack',),
            "type filter hook output priority raw; policy accept",
        ),
        **{f"at-{one.address}": Chain(tuple(fabric.destinations(one.rules))) for one in frontends},
        "balancing": Chain(tuple(f"ip daddr {one.address} goto at-{one.address}" for one in frontends)),
        "from-peers": Chain(
            (f'iifname "{PEERS}*" goto balancing',), "type nat hook prerouting priority dstnat; policy accept"
        ),
        "from-here": Chain(("goto balancing",), "type nat hook output priority -100; policy accept"),
    }
