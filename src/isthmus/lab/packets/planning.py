"""From a picture to the machine that looks like it, and from one machine to another in steps. Pure.

A step concerns one namespace, and steps of one ``Stage`` do not depend on each other, so they are done at the same
time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Final

from isthmus.lab import picture
from isthmus.lab.packets import addressing, fabric, naming, networks
from isthmus.lab.packets.machines import End, Machine, Namespace, Resolver, Route
from isthmus.lab.packets.rulesets import Found, Ruleset, Tally

_RULE_PRIORITY: Final = 1000


class Stage(IntEnum):
    """What comes after what. Tables come before links: nothing passes that was not allowed."""

    CUTS = 0
    NAMESPACES = 1
    TABLES = 2
    LINKS = 3
    ADDRESSES = 4


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do in ``namespace`` (empty: where namespaces are made).

    ``sysctls`` come first, then ``commands`` of ``ip -batch``, then ``table`` for ``nft --file``. ``repairs`` says in
    words what was wrong, in case that it should have been there already.
    """

    stage: Stage
    namespace: str
    commands: tuple[str, ...] = ()
    table: str = ""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    repairs: tuple[str, ...] = ()


def plan(lab: addressing.LabId, wanted: picture.Picture, limits: fabric.Limits) -> Machine:
    """The machine that looks like ``wanted``."""
    here = {one.key: addressing.network(lab, one.number) for one in wanted.networks}
    public = addressing.internet(lab)
    upstream = f"{picture.PUBLIC_RESOLVER}@{addressing.LINK_ADDRESS}"
    return Machine(
        namespaces={
            addressing.fabric(lab): fabric.plan(lab, wanted, limits),
            public: networks.internet(lab, wanted),
            **{here[one.key]: networks.plan(lab, wanted, one) for one in wanted.networks},
        },
        cables=networks.cables(lab, wanted),
        resolvers={
            public: Resolver(picture.PUBLIC_RESOLVER, naming.public(wanted.public_names)),
            **{
                here[one.key]: Resolver(
                    addressing.AZURE_RESOLVER, naming.private(one.zones, wanted.public_names, upstream)
                )
                for one in wanted.networks
            },
        },
        name_servers={
            public: (picture.PUBLIC_RESOLVER,),
            **{here[one.key]: one.dns_servers or (addressing.AZURE_RESOLVER,) for one in wanted.networks},
        },
        relayed=fabric.relayed(wanted),
        open_marks=fabric.open_marks(wanted),
        ends=fabric.ends(wanted),
    )


def steps(before: Machine, after: Machine, tallies: Mapping[str, Tally] | None = None) -> list[Step]:
    """What makes ``before`` ``after``, in order. Counters of a table that is made anew go on from ``tallies``."""
    found = [*_cuts(before, after), *_namespaces(before, after), *_links(before, after)]
    cut = {end for cable in before.cables - after.cables for end in (cable.one, cable.other)}
    for name, wanted in after.namespaces.items():
        is_new = name not in before.namespaces
        old = _without(
            before.namespaces.get(name, Namespace()), {end.interface for end in cut if end.namespace == name}
        )
        its = (*_base(name, old, wanted), *_table(name, old, wanted, tallies or {}), *_addresses(name, old, wanted))
        # That a namespace was made again says it all.
        found += [replace(step, repairs=()) for step in its] if is_new else its
    return sorted(found, key=lambda step: step.stage)


def _base(name: str, before: Namespace, after: Namespace) -> Iterator[Step]:
    """Before there are interfaces, which take what the defaults are."""
    if before.base != after.base:
        yield Step(
            Stage.TABLES,
            name,
            ("link set lo up",),
            sysctls=after.base,
            repairs=(f"set up the loopback device and sysctls of {name} again",),
        )


def _without(namespace: Namespace, devices: set[str]) -> Namespace:
    """What is left when some of its interfaces are gone."""
    return replace(
        namespace,
        addresses=frozenset(one for one in namespace.addresses if one.device not in devices),
        neighbours=frozenset(one for one in namespace.neighbours if one.device not in devices),
        routes=frozenset(one for one in namespace.routes if one.device not in devices),
    )


def _cuts(before: Machine, after: Machine) -> Iterator[Step]:
    """Cables are cut by hand even if a namespace goes: the kernel takes its time with that."""
    for cable in sorted(before.cables - after.cables):
        end = next((end for end in (cable.one, cable.other) if end.namespace in before.namespaces), None)
        if end is not None:
            yield Step(
                Stage.CUTS,
                end.namespace,
                (f"link del {end.interface}",),
                repairs=(f"removed the interface {end.interface} of {end.namespace}, which was not as it should be",)
                if end.namespace in after.namespaces
                else (),
            )


def _namespaces(before: Machine, after: Machine) -> Iterator[Step]:
    gone = sorted(before.namespaces.keys() - after.namespaces.keys())
    new = sorted(after.namespaces.keys() - before.namespaces.keys())
    if gone or new:
        yield Step(
            Stage.NAMESPACES,
            "",
            (*(f"netns del {name}" for name in gone), *(f"netns add {name}" for name in new)),
            repairs=(
                *(f"removed the namespace {name}, which was left over" for name in gone),
                *(f"made the namespace {name}, which was missing" for name in new),
            ),
        )


def _links(before: Machine, after: Machine) -> Iterator[Step]:
    for cable in sorted(after.cables - before.cables):
        is_new = any(end.namespace not in before.namespaces for end in (cable.one, cable.other))
        one, other = cable.one, cable.other
        yield Step(
            Stage.LINKS,
            one.namespace,
            (
                (
                    f"link add {one.interface} address {_mac(one)} type veth "
                    f"peer name {other.interface} address {_mac(other)} netns {other.namespace}"
                ),
                f"link set {one.interface} up",
            ),
            repairs=() if is_new else (f"made the link between {one.namespace} and {other.namespace} again",),
        )
        yield Step(Stage.ADDRESSES, other.namespace, (f"link set {other.interface} up",))


def _mac(end: End) -> str:
    return addressing.mac(end.interface, end.namespace)


def _table(name: str, before: Namespace, after: Namespace, tallies: Mapping[str, Tally]) -> Iterator[Step]:
    wanted = after.ruleset
    if not isinstance(wanted, Ruleset):
        return
    match before.ruleset:
        case Ruleset() as old:
            text = wanted.change_from(old) if wanted.keeps_tallies_from(old) else wanted.whole(tallies)
        case Found(shape=shape) if shape == wanted.shape:
            text = ""
        case Found(tallies=found):
            text = wanted.whole({**tallies, **found})
        case None:
            text = wanted.whole(tallies)
    if text:
        yield Step(Stage.TABLES, name, table=text, repairs=(f"wrote the nftables table of {name} again",))


def _addresses(name: str, before: Namespace, after: Namespace) -> Iterator[Step]:
    kept = {route.place for route in after.routes}
    commands = (
        *(f"rule del {_rule(rule)}" for rule in sorted(before.rules - after.rules)),
        *(f"route del {_place(route)}" for route in _in_order(before.routes - after.routes) if route.place not in kept),
        *(f"neigh del {one.address} dev {one.device}" for one in sorted(before.neighbours - after.neighbours)),
        *(f"addr replace {one.address}/32 dev {one.device}" for one in sorted(after.addresses - before.addresses)),
        *(
            f"neigh replace {one.address} dev {one.device} lladdr {one.mac} nud permanent"
            for one in sorted(after.neighbours - before.neighbours)
        ),
        *(f"route replace {_route(route)}" for route in _in_order(after.routes - before.routes)),
        *(f"rule add {_rule(rule)}" for rule in sorted(after.rules - before.rules)),
        # Last: with an address go the routes whose source it is.
        *(f"addr del {one.address}/32 dev {one.device}" for one in sorted(before.addresses - after.addresses)),
    )
    # The kernel has the settings of connection tracking once there is a table that tracks.
    sysctls = {path: value for path, value in after.sysctls.items() if before.sysctls.get(path) != value}
    if commands or sysctls:
        yield Step(
            Stage.ADDRESSES, name, commands, sysctls=sysctls, repairs=(f"set addresses and routes of {name} again",)
        )


def _in_order(routes: frozenset[Route]) -> list[Route]:
    return sorted(routes, key=lambda route: (route.table, route.destination, route.device))


def _place(route: Route) -> str:
    kind = "local " if route.is_local else ""
    return f"{kind}{route.destination} table {route.table}"


def _route(route: Route) -> str:
    via = f" via {route.next_hop} dev {route.device} onlink" if route.next_hop else f" dev {route.device}"
    source = f" src {route.source}" if route.source else ""
    return f"{_place(route)}{via}{source}"


def _rule(rule: tuple[int, int]) -> str:
    mark, table = rule
    return f"fwmark {mark}/{addressing.SIDE_MASK} lookup {table} priority {_RULE_PRIORITY}"
