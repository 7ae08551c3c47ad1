"""What is on the machine, as far as a lab made it: read with ``ip`` and ``nft``, in the terms of ``machines``.

Routes of the kernel's own making, other address families and the loopback device's own address are left out. Of a
table its shape is read (``rulesets.Shape``), which is compared with what should be there.
"""

import asyncio
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, Final

from isthmus.lab.packets import namespaces, rulesets
from isthmus.lab.packets.addressing import LabId
from isthmus.lab.packets.machines import Address, Cable, End, Machine, Namespace, Neighbour, Route

_QUESTIONS: Final = "addr show\nroute show table all\nneigh show\nrule show\n"
_LOOPBACK: Final = IPv4Address("127.0.0.1")
#: How many namespaces are looked at at a time: each takes two programs.
_AT_A_TIME: Final = 4

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Seen:
    namespace: Namespace
    #: Interfaces that are up, with their MAC addresses.
    interfaces: Mapping[str, str]
    #: Interfaces that are down.
    down: frozenset[str]


async def observe(lab: LabId, wanted: Machine) -> Machine:
    """The lab's machine as it is. ``wanted`` says which cables and sysctls are looked for. Raises PacketsError."""
    turns = asyncio.Semaphore(_AT_A_TIME)

    async def look(name: str) -> _Seen:
        its = wanted.namespaces.get(name, Namespace())
        async with turns:
            return await namespaces.within(name, lambda: _look(its))

    names = [name for name in namespaces.of_lab(lab) if namespaces.is_alive(name)]
    seen = dict(zip(names, await asyncio.gather(*map(look, names)), strict=True))
    return Machine(
        namespaces={name: one.namespace for name, one in seen.items()}, cables=frozenset(_cables(seen, wanted.cables))
    )


def _look(wanted: Namespace) -> _Seen:
    said = namespaces.run_program("ip", "-json", "-batch", "-", given=_QUESTIONS)
    addresses, routes, neighbours, rules = (json.loads(line) for line in said.splitlines() if line)
    links = [one for one in addresses if one["ifname"] != "lo"]
    is_up = any(one["ifname"] == "lo" and "UP" in one["flags"] for one in addresses)
    return _Seen(
        Namespace(
            addresses=frozenset(_addresses(addresses)),
            neighbours=frozenset(
                Neighbour(one["dev"], IPv4Address(one["dst"]), one["lladdr"])
                for one in neighbours
                if "PERMANENT" in one["state"] and ":" not in one["dst"]
            ),
            routes=frozenset(_routes(routes)),
            rules=frozenset(
                (int(one["fwmark"], 16), int(one["table"]))
                for one in rules
                if "fwmark" in one and one["table"].isdecimal()
            ),
            base=_sysctls(wanted.base) if is_up else {},
            sysctls=_sysctls(wanted.sysctls),
            ruleset=rulesets.found(json.loads(namespaces.run_program("nft", "--json", "list", "ruleset"))["nftables"]),
        ),
        {one["ifname"]: one["address"] for one in links if "UP" in one["flags"]},
        frozenset(one["ifname"] for one in links if "UP" not in one["flags"]),
    )


def _addresses(links: Iterable[Json]) -> Iterator[Address]:
    for link in links:
        for one in link["addr_info"]:
            if one["family"] == "inet" and (address := IPv4Address(one["local"])) != _LOOPBACK:
                yield Address(link["ifname"], address)


def _routes(routes: Iterable[Json]) -> Iterator[Route]:
    for one in routes:
        kind = one.get("type", "unicast")
        if ":" in one["dst"] or "protocol" in one or kind not in {"unicast", "local"}:
            continue
        yield Route(
            IPv4Network("0.0.0.0/0" if one["dst"] == "default" else one["dst"]),
            one["dev"],
            table=one.get("table", "main"),
            source=IPv4Address(one["prefsrc"]) if "prefsrc" in one else None,
            is_local=kind == "local",
        )


def _sysctls(wanted: Mapping[str, str]) -> dict[str, str]:
    """What is set of what is wanted; a protocol that the kernel lacks is as it should be."""
    found = {}
    for path, value in wanted.items():
        there = Path("/proc/sys/net", path)
        if there.exists():
            found[path] = there.read_text().strip()
        elif path.startswith("ipv6/"):
            found[path] = value
    return found


def _cables(seen: Mapping[str, _Seen], wanted: Collection[Cable]) -> Iterator[Cable]:
    """Those wanted whose ends are there and up; every other interface as a cable by itself."""
    used: set[End] = set()
    for cable in wanted:
        if _is_up(seen, cable.one) and _is_up(seen, cable.other):
            used |= {cable.one, cable.other}
            yield cable
    for name, one in seen.items():
        for interface in (*one.interfaces, *one.down):
            if (end := End(name, interface)) not in used:
                yield Cable(end, End("", ""))


def _is_up(seen: Mapping[str, _Seen], end: End) -> bool:
    return end.namespace in seen and end.interface in seen[end.namespace].interfaces
