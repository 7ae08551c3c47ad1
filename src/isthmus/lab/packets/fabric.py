"""The fabric's namespace: every translation, once per flow. Pure.

A packet's way through it::

    raw        its conntrack zone is the side that it came from, in the original direction alone: two customers may
               have the same addresses. A NAT address that a reply goes to becomes the one that only the fabric has,
               so that replies are told apart in the common zone 0 although two providers may have the same addresses
    mangle     the flow's mark says which endpoint it goes through. Only marks in ``roads`` pass, for every packet,
               so what is taken out stops at once; its chain counts, and marks the packet with its destination's side
    nat        the first packet of a flow: destination by service, source by NAT address and port range
    routing    by mark, one table a side
    after nat  the source becomes the NAT address that the provider has

Everything else is dropped without a word; a segment of a flow that is over is answered with a reset.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from itertools import chain as chained
from typing import Final

from isthmus.lab import picture
from isthmus.lab.ids import Key
from isthmus.lab.packets import addressing
from isthmus.lab.packets.addressing import FABRIC_ADDRESS, INTERNET, INTERNET_SIDE, LINK_ADDRESS, NEXT_HOP, PUBLIC
from isthmus.lab.packets.machines import Address, Ends, Namespace, Neighbour, Relayed, Route
from isthmus.lab.packets.rulesets import Chain, Elements, Ruleset

_FIRST_NAT_PORT: Final = 1024

_ZONE: Final = "prerouting priority raw"
_ANYWHERE: Final = IPv4Network("0.0.0.0/0")
#: What is nowhere on the public internet: RFC 6890.
_NOT_PUBLIC: Final = (
    "0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16, 224.0.0.0/3"
)

#: Reverse path filtering knows nothing of marks, and there is no better way than through the fabric.
BASE: Final[Mapping[str, str]] = {
    "ipv4/ip_forward": "1",
    **{f"ipv4/conf/{place}/rp_filter": "0" for place in ("all", "default", "lo")},
    **{f"ipv4/conf/{place}/send_redirects": "0" for place in ("all", "default")},
    **{f"ipv6/conf/{place}/disable_ipv6": "1" for place in ("all", "default")},
}

SYSCTLS: Final[Mapping[str, str]] = {
    # Resets that the fabric sends, and the relay's answers, go where the packet came from.
    "ipv4/fwmark_reflect": "1",
    "ipv4/tcp_fwmark_accept": "1",
    "ipv4/tcp_tw_reuse": "1",
    # A segment of no known flow is answered with a reset, and not taken for the middle of a new one.
    "netfilter/nf_conntrack_tcp_loose": "0",
    "netfilter/nf_conntrack_tcp_be_liberal": "1",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """``idle_seconds``: Azure resets flows that were idle for four to five minutes. ``ports_per_nat_address``: at
    most 64,512.
    """

    idle_seconds: int = 240
    ports_per_nat_address: int = 64_512

    @property
    def ports(self) -> range:
        """The ports of each NAT address."""
        return range(_FIRST_NAT_PORT, _FIRST_NAT_PORT + self.ports_per_nat_address)


def counters(endpoint: picture.Endpoint) -> tuple[str, str, str]:
    """The names of an endpoint's counters: bytes in (to the service), bytes out, connections."""
    name = _endpoint(endpoint)
    return f"{name}.in", f"{name}.out", f"{name}.connections"


def _endpoint(endpoint: picture.Endpoint) -> str:
    return f"e{addressing.endpoint_mark(endpoint.number, endpoint.key):x}"


def plan(lab: addressing.LabId, wanted: picture.Picture, limits: Limits) -> Namespace:
    """The fabric of ``wanted``."""
    here = addressing.fabric(lab)
    sides = {
        INTERNET: (INTERNET_SIDE, addressing.internet(lab)),
        **{
            addressing.network_interface(one.number): (
                addressing.side(one.number),
                addressing.network(lab, one.number),
            )
            for one in wanted.networks
        },
    }
    return Namespace(
        addresses=frozenset({Address("lo", FABRIC_ADDRESS)}),
        neighbours=frozenset(
            Neighbour(interface, NEXT_HOP, addressing.mac(addressing.FABRIC, there))
            for interface, (_, there) in sides.items()
        ),
        routes=frozenset(
            {
                Route(addressing.INSIDE, "lo", table="local", is_local=True),
                # Never taken: but resets are refused a route before they have their mark.
                Route(_ANYWHERE, "lo"),
                *(
                    Route(_ANYWHERE, interface, table=str(addressing.table(side)))
                    for interface, (side, _) in sides.items()
                ),
            }
        ),
        rules=frozenset((side, addressing.table(side)) for side, _ in sides.values()),
        base=BASE,
        sysctls=SYSCTLS,
        ruleset=_Rules(wanted, limits, {name: side for name, (side, _) in sides.items()}, here).ruleset(),
    )


def relayed(wanted: picture.Picture) -> tuple[Relayed, ...]:
    """The endpoints whose service asks for PROXY v2, as far as they are approved."""
    networks = {one.key: one for one in wanted.networks}
    services = {one.key: one for one in wanted.services if one.has_proxy_protocol and one.network in networks}
    return tuple(
        Relayed(
            endpoint=str(one.address),
            listens_on=addressing.relay_address(one.number),
            link_identifier=one.link_identifier,
            service=service.number,
            sources=tuple(_nat_addresses(service)),
            side=addressing.side(networks[service.network].number),
            rules=tuple(
                (0 if rule.protocol is picture.Protocol.ALL else rule.port, rule.backend_port, rule.backends)
                for rule in service.frontend.rules
                if rule.protocol is not picture.Protocol.UDP and rule.backends
            ),
        )
        for one in wanted.endpoints
        if one.is_approved and one.service is not None and (service := services.get(one.service)) is not None
    )


def ends(wanted: picture.Picture) -> dict[int, Ends]:
    """The sides of the two ends of flows, by mark, for endpoints whose flows the fabric translates itself."""
    sides = {one.key: addressing.side(one.number) for one in wanted.networks}
    providers = {
        one.key: sides[one.network] for one in wanted.services if one.network in sides and not one.has_proxy_protocol
    }
    return {
        addressing.endpoint_mark(one.number, one.key): Ends(sides[one.network], providers[one.service])
        for one in wanted.endpoints
        if one.is_approved and one.service in providers and one.network in sides
    }


def open_marks(wanted: picture.Picture) -> frozenset[int]:
    """The marks of endpoints' flows that may pass."""
    services = {one.key for one in wanted.services}
    return frozenset(
        addressing.endpoint_mark(one.number, one.key)
        for one in wanted.endpoints
        if one.is_approved and one.service in services
    )


def _nat_addresses(service: picture.Service) -> Iterator[IPv4Address]:
    return (addressing.nat_address(service.number, place) for place in range(len(service.nat_addresses)))


def destinations(rules: Sequence[picture.Rule]) -> Iterator[str]:
    """Translations of a load balancer's rules: by port, spread over the backends by source address and port."""
    for rule in rules:
        if not rule.backends:
            continue
        match rule.protocol:
            case picture.Protocol.ALL:
                yield f"meta l4proto {{ tcp, udp }} dnat ip to {_spread(rule.backends, 'ip saddr')}"
            case picture.Protocol.TCP | picture.Protocol.UDP:
                word = rule.protocol.value
                targets = tuple(f"{backend} . {rule.backend_port}" for backend in rule.backends)
                if len(targets) == 1:
                    yield f"{word} dport {rule.port} dnat ip to {rule.backends[0]}:{rule.backend_port}"
                else:
                    yield f"{word} dport {rule.port} dnat ip to {_spread(targets, f'ip saddr . {word} sport')}"


def _spread(targets: Sequence[object], by: str) -> str:
    if len(targets) == 1:
        return str(targets[0])
    places = ", ".join(f"{place} : {target}" for place, target in enumerate(targets))
    return f"jhash {by} mod {len(targets)} map {{ {places} }}"


class _Rules:
    """The fabric's table."""

    def __init__(self, wanted: picture.Picture, limits: Limits, sides: Mapping[str, int], here: str) -> None:
        self._limits = limits
        self._sides = sides
        self._here = here
        self._networks = {one.key: one for one in wanted.networks}
        self._services = {one.key: one for one in wanted.services if one.network in self._networks}
        self._endpoints = [one for one in wanted.endpoints if one.network in self._networks]
        self._pictured = wanted

    def ruleset(self) -> Ruleset:
        """All of it."""
        idle = self._limits.idle_seconds
        return Ruleset(
            timeouts={
                "idle-tcp": "protocol tcp; l3proto ip; policy = { "
                f"established : {idle}, close_wait : {idle}, fin_wait : 30, last_ack : 10, time_wait : 2, close : 2, "
                "syn_sent : 20, syn_recv : 20 }",
                # The relay resets its own flows, which has to come first.
                "idle-relayed": f"protocol tcp; l3proto ip; policy = {{ established : {3 * idle + 10} }}",
                "idle-udp": f"protocol udp; l3proto ip; policy = {{ unreplied : 30, replied : {idle} }}",
            },
            counters=frozenset(chained.from_iterable(counters(one) for one in self._endpoints)),
            sets=self._sets(),
            chains={**self._hooks(), **self._parts()},
        )

    # --- sets: what changes often ---------------------------------------------------------------------------------

    def _sets(self) -> dict[str, Elements]:
        ends = {one.key: self._door(one) for one in self._endpoints}
        led = {one.key: service for one in self._endpoints if (service := self._service(one)) is not None}
        approved = [one for one in self._endpoints if one.is_approved and one.key in led]
        marks = {one.key: f"0x{addressing.endpoint_mark(one.number, one.key):08x}" for one in self._endpoints}
        nat = {
            address: (addressing.network_interface(self._networks[service.network].number), shown)
            for service in self._services.values()
            for address, shown in zip(_nat_addresses(service), service.nat_addresses, strict=True)
        }
        return {
            "zones": Elements(
                "typeof iifname : ct zone", {f'"{name}"': str(side) for name, side in self._sides.items()}
            ),
            "sides": Elements(
                "typeof iifname : meta mark", {f'"{name}"': f"0x{side:08x}" for name, side in self._sides.items()}
            ),
            "starts": Elements(
                "typeof iifname : ct mark",
                {f'"{name}"': f"0x{PUBLIC | side:08x}" for name, side in self._sides.items()},
            ),
            "doors": Elements(
                "typeof iifname . ip daddr : ct mark", {ends[one.key]: marks[one.key] for one in self._endpoints}
            ),
            "open": Elements("typeof iifname . ip daddr", {ends[one.key]: None for one in approved}),
            "roads": Elements("type mark : verdict", {marks[one.key]: f"goto {_endpoint(one)}" for one in approved}),
            "connections": Elements(
                "type mark : counter", {marks[one.key]: f'"{counters(one)[2]}"' for one in self._endpoints}
            ),
            "services": Elements(
                "type mark : verdict",
                {marks[key]: f"goto {self._destination(key, service)}" for key, service in led.items()},
            ),
            "sources": Elements(
                "type mark : verdict",
                {marks[key]: f"goto from-s{one.number}" for key, one in led.items() if one.nat_addresses},
            ),
            "inside": Elements(
                "typeof iifname . ip daddr : ip daddr",
                {f'"{name}" . {shown}': str(address) for address, (name, shown) in nat.items()},
            ),
            "outside": Elements(
                "typeof ip saddr : ip saddr", {str(address): str(shown) for address, (_, shown) in nat.items()}
            ),
            "leaving": Elements(
                "typeof iifname : verdict",
                {f'"{addressing.network_interface(one.number)}"': f"jump leave-n{one.number}" for one in self._all()},
            ),
            "public": Elements(
                "type ipv4_addr : verdict",
                {str(address): f"goto to-n{one.number}" for one in self._all() for address in _taken(one)},
            ),
            "published": Elements(
                "type ipv4_addr : verdict",
                {str(address): f"goto at-{address}" for one in self._all() for address in _taken(one)},
            ),
            "outbound": Elements(
                "type mark : verdict",
                {f"0x{PUBLIC | addressing.side(one.number):08x}": f"goto out-n{one.number}" for one in self._all()},
            ),
        }

    def _all(self) -> Iterable[picture.Network]:
        return self._pictured.networks

    def _door(self, endpoint: picture.Endpoint) -> str:
        network = self._networks[endpoint.network]
        return f'"{addressing.network_interface(network.number)}" . {endpoint.address}'

    def _service(self, endpoint: picture.Endpoint) -> picture.Service | None:
        return None if endpoint.service is None else self._services.get(endpoint.service)

    def _destination(self, endpoint: Key, service: picture.Service) -> str:
        if not service.has_proxy_protocol:
            return f"to-s{service.number}"
        return "relay-" + next(_endpoint(one) for one in self._endpoints if one.key == endpoint)

    # --- chains -----------------------------------------------------------------------------------------------------

    def _hooks(self) -> dict[str, Chain]:
        return {
            "zoning": Chain(
                ("ct original zone set iifname map @zones", "ip daddr set iifname . ip daddr map @inside"),
                "type filter hook prerouting priority raw; policy accept",
            ),
            "arriving": Chain(
                (
                    "ct mark vmap @roads",
                    f"ct mark and 0x{PUBLIC:08x} != 0 goto public-road",
                    "ct state new goto opening",
                    "ct state invalid goto strays",
                    # The relay's own connections.
                    f"ip daddr {addressing.INSIDE} ct state established accept",
                ),
                "type filter hook prerouting priority mangle; policy drop",
            ),
            "answering": Chain(
                ("ct state invalid accept", "ct mark 0 accept", "ct mark vmap @roads", "drop"),
                "type filter hook output priority mangle; policy accept",
            ),
            "destining": Chain(
                (
                    "counter name ct mark map @connections",
                    "ct mark vmap @services",
                    f"ct mark and 0x{PUBLIC:08x} != 0 ip daddr vmap @published",
                ),
                "type nat hook prerouting priority dstnat; policy accept",
            ),
            "sourcing": Chain(
                ("ct mark vmap @sources", "ct mark and 0x8000ffff vmap @outbound"),
                "type nat hook postrouting priority srcnat; policy accept",
            ),
            "showing": Chain(
                ("ip saddr set ip saddr map @outside",),
                "type filter hook postrouting priority 110; policy accept",
            ),
        }

    def _parts(self) -> dict[str, Chain]:
        return {
            "public-road": Chain(
                ("ct direction original meta mark set ct mark >> 16 accept", "meta mark set ct mark and 0xffff accept")
            ),
            "opening": Chain(
                (
                    "ct mark set iifname . ip daddr map @doors",
                    'meta l4proto tcp ct timeout set "idle-tcp"',
                    'meta l4proto udp ct timeout set "idle-udp"',
                    "ct mark vmap @roads",
                    "ct mark != 0 drop",
                    "ct mark set iifname map @starts",
                    (
                        f"ip saddr {LINK_ADDRESS} ip daddr {picture.PUBLIC_RESOLVER} meta l4proto {{ tcp, udp }} "
                        "th dport 53 goto to-internet"
                    ),
                    "iifname vmap @leaving",
                    "ip daddr vmap @public",
                    f'iifname "{INTERNET}" drop',
                    f"ip daddr {{ {_NOT_PUBLIC} }} drop",
                    "goto to-internet",
                )
            ),
            "to-internet": Chain((f"ct mark set ct mark or 0x{INTERNET_SIDE << 16:08x}", "goto public-road")),
            "strays": Chain(
                (
                    "meta mark set iifname map @sides",
                    f"ip daddr {addressing.INSIDE} accept",
                    "iifname . ip daddr @open meta l4proto tcp reject with tcp reset",
                    "drop",
                )
            ),
            **dict(chained.from_iterable(self._network(one) for one in self._all())),
            **dict(chained.from_iterable(self._of_service(one) for one in self._services.values())),
            **dict(chained.from_iterable(self._of_endpoint(one) for one in self._endpoints)),
        }

    def _network(self, network: picture.Network) -> Iterator[tuple[str, Chain]]:
        number, side = network.number, addressing.side(network.number)
        own = ", ".join(map(str, network.prefixes))
        with_address = ", ".join(map(str, network.public_addresses))
        yield (
            f"leave-n{number}",
            Chain(
                (
                    *((f"ip daddr {{ {own} }} drop",) if own else ()),
                    *((f"ip saddr {{ {with_address} }} return",) if with_address else ()),
                    *(() if network.outbound_address else ("drop",)),
                )
            ),
        )
        yield f"to-n{number}", Chain((f"ct mark set ct mark or 0x{side << 16:08x}", "goto public-road"))
        published = {str(private): str(public) for private, public in network.public_addresses.items()}
        places = ", ".join(f"{private} : {public}" for private, public in published.items())
        yield (
            f"out-n{number}",
            Chain(
                (
                    f"ip saddr {LINK_ADDRESS} snat to {FABRIC_ADDRESS}",
                    *((f"snat to ip saddr map {{ {places} }}",) if places else ()),
                    *((f"snat to {network.outbound_address}",) if network.outbound_address else ()),
                )
            ),
        )
        for address, rules in _taken(network).items():
            yield f"at-{address}", Chain((*rules, "drop"))

    def _of_service(self, service: picture.Service) -> Iterator[tuple[str, Chain]]:
        number = service.number
        yield f"to-s{number}", Chain((*destinations(service.frontend.rules), "drop"))
        if not service.nat_addresses:
            return
        inside = tuple(_nat_addresses(service))
        ports = self._limits.ports
        names = [f"from-s{number}.{place}" for place in range(len(inside))]
        places = ", ".join(f"{place} : goto {name}" for place, name in enumerate(names))
        yield f"from-s{number}", Chain((f"numgen inc mod {len(names)} vmap {{ {places} }}",))
        for name, address in zip(names, inside, strict=True):
            yield (
                name,
                Chain((f"meta l4proto {{ tcp, udp }} snat to {address}:{ports[0]}-{ports[-1]}",)),
            )

    def _of_endpoint(self, endpoint: picture.Endpoint) -> Iterator[tuple[str, Chain]]:
        name = _endpoint(endpoint)
        bytes_in, bytes_out, _ = counters(endpoint)
        customer = addressing.side(self._networks[endpoint.network].number)
        service = self._service(endpoint)
        relays = service is not None and service.has_proxy_protocol
        provider = customer if service is None else addressing.side(self._networks[service.network].number)
        yield (
            name,
            Chain(
                (
                    *(('ct state new meta l4proto tcp ct timeout set "idle-relayed"',) if relays else ()),
                    # What the relay takes is answered by the fabric itself, with the mark that it came with.
                    (
                        f"ct direction original counter name {bytes_in} "
                        f"meta mark set 0x{customer if relays else provider:08x} accept"
                    ),
                    f"counter name {bytes_out} meta mark set 0x{customer:08x} accept",
                )
            ),
        )
        if relays:
            address = addressing.relay_address(endpoint.number)
            yield f"relay-{name}", Chain((f"meta l4proto tcp dnat to {address}:{addressing.RELAY_PORT}", "drop"))


def _taken(network: picture.Network) -> dict[IPv4Address, tuple[str, ...]]:
    """The public addresses where a network takes packets, and what becomes of them there."""
    taken: dict[IPv4Address, tuple[str, ...]] = {
        frontend.address: tuple(destinations(frontend.rules)) for frontend in network.frontends if frontend.is_public
    }
    for private, public in network.public_addresses.items():
        taken[public] = (*taken.get(public, ()), f"dnat to {private}")
    return taken
