"""The machine follows the picture: one object that starts, converges, looks and stops. The only module that others
call.

Invariants: one thing at a time; what is known of the machine is what was last done to it, and when doing failed or
was interrupted, it is looked at before the next step. Whatever is there when ``start`` is called, namespaces, flows
and counters that are as they should be stay untouched.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from isthmus.kit import logs
from isthmus.lab import picture
from isthmus.lab.ids import Key
from isthmus.lab.packets import (
    addressing,
    applying,
    fabric,
    namespaces,
    observing,
    planning,
    requirements,
    rulesets,
    tracking,
)
from isthmus.lab.packets.addressing import LabId
from isthmus.lab.packets.fabric import Limits
from isthmus.lab.packets.idling import IdleResets
from isthmus.lab.packets.machines import Machine
from isthmus.lab.packets.namespaces import PacketsError
from isthmus.lab.packets.relays import Relays
from isthmus.lab.packets.resolving import Resolvers
from isthmus.lab.packets.rulesets import Found, Tally

log = logs.get(component="lab")


@dataclass(frozen=True, slots=True)
class EndpointCounters:
    """What went through an endpoint: bytes of IP packets to the service and back, and connections that were let
    through.
    """

    bytes_in: int = 0
    bytes_out: int = 0
    connections: int = 0


class Packets:
    """The packets of one lab. Use it from one event loop's thread, which its programs end with."""

    def __init__(self, lab: LabId, limits: Limits | None = None, *, watch: applying.Watch | None = None) -> None:
        self._lab = lab
        self._limits = limits or Limits()
        self._watch = watch
        self._turn = asyncio.Lock()
        self._fabric = addressing.fabric(lab)
        self._resolvers = Resolvers()
        self._relays = Relays(self._fabric, self._limits)
        self._idle = IdleResets(self._fabric, self._limits.idle_seconds)
        self._pictured = picture.Picture()
        self._wanted = Machine()
        #: What is there; None when that has to be looked at.
        self._actual: Machine | None = None
        self._tallies: dict[str, Tally] = {}

    # --- the machine ------------------------------------------------------------------------------------------------

    async def start(self, wanted: picture.Picture) -> list[str]:
        """Make whatever is there look like ``wanted``; what had to be repaired, in words. Raises PacketsError."""
        async with self._turn:
            if lacking := requirements.missing():
                raise PacketsError("; ".join(lacking), code="packets_unfit", hint="See the lab's requirements.")
            await asyncio.to_thread(namespaces.kill, namespaces.of_lab(self._lab), only_parts=True)
            was_empty = not namespaces.of_lab(self._lab)
            self._picture(wanted)
            repairs = await self._repair()
            await namespaces.within(self._fabric, self._forget_closed)
            return [] if was_empty else _told(repairs)

    async def converge(self, wanted: picture.Picture) -> None:
        """Make the machine look like ``wanted``, and return when it does. Raises PacketsError."""
        async with self._turn:
            before = {one.number: one.key for one in self._pictured.networks}
            replaced = {one.key for one in wanted.networks if before.get(one.number, one.key) != one.key}
            if replaced:
                # Another network with an old one's number: that one's namespace goes first, with what runs in it.
                self._picture(
                    replace(wanted, networks=tuple(one for one in wanted.networks if one.key not in replaced))
                )
                await self._approach()
            self._picture(wanted)
            await self._approach()

    async def look(self) -> list[str]:
        """Compare the machine with what it should look like, and repair it; what was repaired, in words.

        Looking holds up nothing: what changes meanwhile is looked at the next time. Raises PacketsError.
        """
        wanted = self._actual
        if wanted is not None:
            try:
                seen = await observing.observe(self._lab, wanted)
            except PacketsError:
                seen = Machine()  # it changed under our eyes
            if self._actual is not wanted:
                return []
            if not planning.steps(seen, wanted) and not self._ended():
                self._write_name_servers()
                return []
        async with self._turn:
            return _told(await self._repair())

    async def close(self) -> None:
        """End the lab's programs here. Namespaces and flows stay, for the next ``start``."""
        async with self._turn:
            await self._resolvers.stop()
            await self._relays.stop()
            await self._idle.close()

    async def stop(self) -> None:
        """Remove everything. Raises PacketsError."""
        await self.close()
        async with self._turn:
            await asyncio.to_thread(remove, self._lab)
            self._actual = None

    # --- what is asked --------------------------------------------------------------------------------------------

    def namespaces(self) -> Mapping[Key, str]:
        """The namespaces of the virtual networks."""
        return {one.key: addressing.network(self._lab, one.number) for one in self._pictured.networks}

    @property
    def internet(self) -> str:
        """The namespace of the public internet."""
        return addressing.internet(self._lab)

    async def counters(self) -> Mapping[Key, EndpointCounters]:
        """What went through each endpoint since it was made. Raises PacketsError."""
        async with self._turn:
            self._tallies |= await namespaces.within(self._fabric, _tallies)
            return {one.key: self._counters(one) for one in self._pictured.endpoints}

    async def nat_ports_used(self) -> Mapping[Key, Mapping[IPv4Address, int]]:
        """How many ports of each service's NAT addresses are in use. Raises PacketsError."""
        async with self._turn:
            flows = await namespaces.within(self._fabric, tracking.translated)
            relayed = await self._relays.ports_used()
            services, endpoints = self._pictured.services, self._pictured.endpoints
        inside = Counter(relayed)
        relaying = {one.key for one in services if one.has_proxy_protocol}
        # What the relay takes is translated as well, but to the relay.
        marks = {addressing.endpoint_mark(one.number, one.key) for one in endpoints if one.service not in relaying}
        for (mark, address), count in flows.items():
            if mark in marks:
                inside[address] += count
        return {
            one.key: {
                shown: inside[addressing.nat_address(one.number, place)]
                for place, shown in enumerate(one.nat_addresses)
            }
            for one in services
        }

    # --- how ------------------------------------------------------------------------------------------------------

    def _picture(self, wanted: picture.Picture) -> None:
        self._wanted = planning.plan(self._lab, wanted, self._limits)
        self._pictured = wanted

    def _counters(self, endpoint: picture.Endpoint) -> EndpointCounters:
        bytes_in, bytes_out, connections = (self._tallies.get(name, Tally()) for name in fabric.counters(endpoint))
        return EndpointCounters(bytes_in.bytes, bytes_out.bytes, connections.packets)

    async def _repair(self) -> list[str]:
        before = await self._observe()
        steps = planning.steps(before, self._wanted, self._tallies)
        repairs = [words for step in steps for words in step.repairs] + self._ended(before)
        await self._take(before, steps)
        self._write_name_servers()
        return repairs

    def _ended(self, there: Machine | None = None) -> list[str]:
        """Programs that are not there any more, in words; those of namespaces that are not ``there`` do not count."""
        names = [name for name in self._resolvers.ended() if there is None or name in there.namespaces]
        repairs = [f"started the resolver of {name} again" for name in names]
        return [*repairs, "started the relay again"] if self._relays.has_ended else repairs

    async def _approach(self) -> None:
        before, self._actual = self._actual, None
        try:
            if before is None:
                before = await self._observe()
            await self._take(before, planning.steps(before, self._wanted, self._tallies))
        except PacketsError as error:
            log.warning("something has changed the machine; looking at it", error=str(error))
            before = await self._observe()
            await self._take(before, planning.steps(before, self._wanted, self._tallies))
        if before.name_servers != self._wanted.name_servers:
            self._write_name_servers()

    async def _observe(self) -> Machine:
        self._actual = None
        seen = await observing.observe(self._lab, self._wanted)
        there = seen.namespaces.get(self._fabric)
        if there is not None and isinstance(there.ruleset, Found):
            self._tallies |= there.ruleset.tallies
        return seen

    async def _take(self, before: Machine, steps: list[planning.Step]) -> None:
        wanted = self._wanted
        self._actual = None
        made = wanted.namespaces.keys() - before.namespaces.keys()
        if self._fabric in made:
            await self._relays.stop()
        elif more := tuple(one for one in wanted.relayed if one not in before.relayed):
            # The relay knows of an endpoint before anything comes through it, and for as long as anything does.
            await self._relays.converge((*before.relayed, *more))
        await applying.apply(steps, self._watch)
        await self._forget(before, wanted)
        await self._relays.converge(wanted.relayed)
        await self._resolvers.converge(wanted.resolvers, anew=made)
        self._idle.ends = wanted.ends
        if self._fabric in made or not self._idle.is_open:
            await self._idle.open()
        self._tallies = {name: tally for name, tally in self._tallies.items() if name in self._counted()}
        self._actual = wanted

    def _counted(self) -> frozenset[str]:
        return frozenset(name for one in self._pictured.endpoints for name in fabric.counters(one))

    async def _forget(self, before: Machine, wanted: Machine) -> None:
        """Flows of what is closed now: their ports are free again."""
        closed = before.open_marks - wanted.open_marks
        sides = _sides(before, self._fabric) - _sides(wanted, self._fabric)
        if not closed and not sides:
            return

        def forget() -> None:
            for mark in closed:
                tracking.forget(mark)
            for side in sides:
                tracking.forget(*addressing.public_from(side))
                tracking.forget(*addressing.public_to(side))

        await namespaces.within(self._fabric, forget)

    def _forget_closed(self) -> None:
        """Flows that were closed by somebody who could not finish it."""
        for mark in tracking.flows():
            if mark and not mark & addressing.PUBLIC and mark not in self._wanted.open_marks:
                tracking.forget(mark)

    def _write_name_servers(self) -> None:
        for namespace, servers in self._wanted.name_servers.items():
            namespaces.write_resolv_conf(namespace, servers)


def remove(lab: LabId) -> None:
    """Remove everything of a lab, whoever made it: programs in its namespaces, and the namespaces. Raises
    PacketsError.
    """
    namespaces.remove(namespaces.of_lab(lab))


def _told(repairs: list[str]) -> list[str]:
    for words in repairs:
        log.warning("repaired", what=words)
    return repairs


def _sides(machine: Machine, fabric_name: str) -> frozenset[int]:
    there = machine.namespaces.get(fabric_name)
    return frozenset() if there is None else frozenset(mark for mark, _ in there.rules)


def _tallies() -> dict[str, Tally]:
    listing = namespaces.run_program("nft", "--json", "list", "counters", "table", *rulesets.TABLE.split())
    return rulesets.tallies(json.loads(listing)["nftables"])
