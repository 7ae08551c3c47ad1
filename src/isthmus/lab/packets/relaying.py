"""The relay: a program in the fabric that takes the connections of services that ask for PROXY v2, and carries them on.

It is told what to do in lines of JSON on standard input, each the whole of it, answers each with a line that says how
many ports of each service are in use, and ends with its input. What passes is decided by the fabric's table; the
relay knows approved endpoints alone. A connection to an endpoint arrives at an address of its own, so two customers
may have the same addresses; it leaves from one of the service's NAT addresses as the fabric has them, marked with the
provider's side.
"""

import asyncio
import json
import os
import socket
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any, Final, cast

import uvloop

from isthmus.lab.packets import proxy_protocol
from isthmus.lab.packets.addressing import RELAY_PORT
from isthmus.lab.packets.machines import Relayed

_BACKLOG: Final = 4096
_CONNECT_SECONDS: Final = 20.0
#: <linux/netfilter_ipv4.h>
_SO_ORIGINAL_DST: Final = 80
#: Closing with this resets the connection.
_RESET: Final = struct.pack("ii", 1, 0)
#: How many ports in a row may be busy for reasons of the kernel's.
_TRIES: Final = 16
#: Written and not yet taken by the other side, before reading stops.
_HIGH_WATER_BYTES: Final = 1 << 18
_IDLE_CHECKS: Final = 8

Port = tuple[IPv4Address, int]


def told(relayed: Sequence[Relayed], *, idle_seconds: float, ports: range) -> bytes:
    """The line that tells a relay what to do."""
    said = {
        "idle_seconds": idle_seconds,
        "ports": [ports.start, ports.stop],
        "relayed": [
            {
                "endpoint": one.endpoint,
                "listens_on": str(one.listens_on),
                "link_identifier": one.link_identifier,
                "service": one.service,
                "sources": list(map(str, one.sources)),
                "side": one.side,
                "rules": [[port, target, list(map(str, backends))] for port, target, backends in one.rules],
            }
            for one in relayed
        ],
    }
    return json.dumps(said).encode() + b"\n"


def _understood(one: Mapping[str, Any]) -> Relayed:
    return Relayed(
        endpoint=one["endpoint"],
        listens_on=IPv4Address(one["listens_on"]),
        link_identifier=one["link_identifier"],
        service=one["service"],
        sources=tuple(map(IPv4Address, one["sources"])),
        side=one["side"],
        rules=tuple((port, target, tuple(map(IPv4Address, backends))) for port, target, backends in one["rules"]),
    )


@dataclass(slots=True)
class Ports:
    """The ports of a service's NAT addresses, each for one connection at a time, in turn."""

    sources: tuple[IPv4Address, ...]
    numbers: range
    used: set[Port] = field(default_factory=set)
    _next: int = 0

    def free(self) -> Iterator[Port]:
        """Those that are free, the longest unused first; each is to be taken with ``used.add``."""
        count = len(self.sources) * len(self.numbers)
        for _ in range(count):
            place = self._next % count
            self._next = place + 1
            one = self.sources[place % len(self.sources)], self.numbers[place // len(self.sources)]
            if one not in self.used:
                yield one


class Relay:
    """All connections."""

    def __init__(self) -> None:
        self._by_address: dict[str, Relayed] = {}
        self._ports: dict[int, Ports] = {}
        self._pairs: set[_Pair] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._idle_seconds = 240.0

    def take(self, said: Mapping[str, Any]) -> dict[str, int]:
        """Do what was said; the ports in use by NAT address."""
        self._idle_seconds = said["idle_seconds"]
        numbers = range(*said["ports"])
        self._by_address = {one["listens_on"]: _understood(one) for one in said["relayed"]}
        for one in self._by_address.values():
            ports = self._ports.setdefault(one.service, Ports(one.sources, numbers))
            ports.sources, ports.numbers = one.sources, numbers
        for pair in list(self._pairs):
            if str(pair.relayed.listens_on) not in self._by_address:
                pair.reset()
        return Counter(str(source) for ports in self._ports.values() for source, _ in ports.used)

    async def accept(self) -> None:
        """Take connections. Runs until cancelled."""
        loop = asyncio.get_running_loop()
        with socket.create_server(("0.0.0.0", RELAY_PORT), backlog=_BACKLOG) as listener:  # noqa: S104 - in the fabric
            listener.setblocking(False)
            while True:
                client, address = await loop.sock_accept(listener)
                opening = loop.create_task(self._open(client, address))
                self._opening.add(opening)
                opening.add_done_callback(self._opening.discard)

    async def watch(self) -> None:
        """Reset what was idle for too long. Runs until cancelled."""
        while True:
            await asyncio.sleep(min(1.0, self._idle_seconds / _IDLE_CHECKS))
            oldest = asyncio.get_running_loop().time() - self._idle_seconds
            for pair in list(self._pairs):
                if pair.last < oldest:
                    pair.reset()

    async def _open(self, client: socket.socket, address: tuple[str, int]) -> None:
        relayed = self._by_address.get(client.getsockname()[0])
        try:
            if relayed is None or not await self._carry(relayed, client, address):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                client.close()
        except OSError:
            client.close()

    async def _carry(self, relayed: Relayed, client: socket.socket, address: tuple[str, int]) -> bool:
        """Whether a backend was reached."""
        original = struct.unpack("!2xH4s8x", client.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, 16))
        dialled = IPv4Address(original[1]), int(original[0])
        reached = await self._reach(relayed, dialled[1], address)
        if reached is None:
            return False
        server, port = reached
        loop = asyncio.get_running_loop()
        pair = _Pair(relayed, loop.time(), lambda: self._over(pair, port))
        self._pairs.add(pair)
        await loop.create_connection(lambda: pair.server, sock=server)
        pair.server.write(
            proxy_protocol.header((IPv4Address(address[0]), address[1]), dialled, relayed.link_identifier)
        )
        await loop.create_connection(lambda: pair.client, sock=client)
        if str(relayed.listens_on) not in self._by_address:  # revoked in between
            pair.reset()
        return True

    def _over(self, pair: "_Pair", port: Port) -> None:
        self._pairs.discard(pair)
        self._ports[pair.relayed.service].used.discard(port)

    async def _reach(self, relayed: Relayed, port: int, client: tuple[str, int]) -> tuple[socket.socket, Port] | None:
        """A connection to one of the backends, and the port of the service's that it leaves from; None without."""
        fitting = next(((target, to) for own, target, to in relayed.rules if own in {port, 0}), None)
        if fitting is None:
            return None
        target, backends = fitting[0] or port, fitting[1]
        backend = backends[zlib.crc32(repr(client).encode()) % len(backends)]
        ports = self._ports[relayed.service]
        for _, source in zip(range(_TRIES), ports.free(), strict=False):
            ports.used.add(source)
            server = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, relayed.side)
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                server.bind((str(source[0]), source[1]))
                async with asyncio.timeout(_CONNECT_SECONDS):
                    await asyncio.get_running_loop().sock_connect(server, (str(backend), target))
            except OSError as error:
                server.close()
                ports.used.discard(source)
                if isinstance(error, ConnectionRefusedError | TimeoutError):
                    return None
            else:
                return server, source
        return None


class _Pair:
    """A client's connection and the one to its backend: what one says the other hears, at the slower one's pace."""

    def __init__(self, relayed: Relayed, now: float, over: Callable[[], None]) -> None:
        self.relayed = relayed
        self.last = now
        self._over = over
        self._lost = 0
        self.client = _Half(self)
        self.server = _Half(self)
        self.client.other, self.server.other = self.server, self.client

    def reset(self) -> None:
        """Reset both."""
        for half in (self.client, self.server):
            half.reset()

    def lost(self) -> None:
        """One of both is gone."""
        self._lost += 1
        if self._lost == 2:
            self._over()


class _Half(asyncio.Protocol):
    """One of a pair's connections. What is said before it is there is kept."""

    other: "_Half"

    def __init__(self, pair: _Pair) -> None:
        self._pair = pair
        self.transport: asyncio.Transport | None = None
        self.has_ended = False
        self._kept = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say what was kept."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's classes are not subclasses
        self.transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)
        self.write(bytes(self._kept))
        if self.other.has_ended:
            self.transport.write_eof()

    def data_received(self, data: bytes) -> None:
        """Tell the other one."""
        self._pair.last = asyncio.get_running_loop().time()
        self.other.write(data)

    def eof_received(self) -> bool:
        """Tell the other one; what it still says is carried on."""
        other = self.other.transport
        if other is not None and not other.is_closing():
            other.write_eof()
        self.has_ended = True
        return not self.other.has_ended

    def pause_writing(self) -> None:
        """Too much is waiting here: the other one stops reading."""
        if self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """The other one may go on."""
        if self.other.transport is not None and not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the other one in the same way."""
        other = self.other.transport
        if exc is not None:
            self.other.reset()
        elif other is not None and not other.is_closing():
            other.close()
        self._pair.lost()

    def write(self, data: bytes) -> None:
        """Say something, if it is still there."""
        if self.transport is None:
            self._kept += data
        elif data and not self.transport.is_closing():
            self.transport.write(data)

    def reset(self) -> None:
        """End it with a reset."""
        if self.transport is None:
            return
        with suppress(OSError):
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()


async def _listen(relay: Relay) -> None:
    """What comes on standard input, until it ends."""
    reader = asyncio.StreamReader(limit=1 << 26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        answer = json.dumps(relay.take(json.loads(line)))
        os.write(sys.stdout.fileno(), answer.encode() + b"\n")


async def _run() -> None:
    relay = Relay()
    loops = [asyncio.create_task(relay.accept()), asyncio.create_task(relay.watch())]
    await _listen(relay)
    for loop in loops:
        loop.cancel()


if __name__ == "__main__":
    uvloop.run(_run())
