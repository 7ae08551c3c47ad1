"""Resets for flows that were idle for too long, to both ends, as Azure sends them.

The kernel forgets an idle flow, and the fabric answers its next segment with a reset (``fabric``, "strays"); but an
end that only listens would never send one. So an end of a flow that was forgotten while it was established is asked
for a segment: it gets one that it cannot place, and RFC 9293 (3.10.7.4) has it say where it stands.

The kernel forgets late, unless somebody asks for its table; that is done now and then, and what it says is not wanted.
"""

import asyncio
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import IPv4Address
from typing import Final

from isthmus.kit import logs
from isthmus.lab.packets import namespaces, tracking
from isthmus.lab.packets.machines import Ends
from isthmus.lab.packets.tracking import Forgotten

log = logs.get(component="lab")

_ACK: Final = 0x10
_TTL: Final = 64
_IPV4_HEADER: Final = struct.Struct("!BBHHHBBH4s4s")
_TCP_HEADER: Final = struct.Struct("!HHIIBBHHH")
_VERSION_AND_LENGTH: Final = 0x45
_TCP_LENGTH: Final = 5 << 4
_CHECKS_PER_IDLE: Final = 8
_MOST_SECONDS: Final = 5.0


class IdleResets:
    """Watches the flows of one lab, while it is open. Use it from one event loop's thread."""

    def __init__(self, namespace: str, idle_seconds: float) -> None:
        self._namespace = namespace
        self._pause_seconds = min(idle_seconds / _CHECKS_PER_IDLE, _MOST_SECONDS)
        self._events: socket.socket | None = None
        self._sender: socket.socket | None = None
        self._sweeping: asyncio.Task[None] | None = None
        #: By the mark of an endpoint's flows.
        self.ends: Mapping[int, Ends] = {}

    @property
    def is_open(self) -> bool:
        """Whether it watches."""
        return self._events is not None

    async def open(self) -> None:
        """Begin, in the namespace as it is now. Raises PacketsError."""
        await self.close()
        events, self._sender = await namespaces.within(self._namespace, _sockets)
        asyncio.get_running_loop().add_reader(events, self._take)
        self._events = events
        self._sweeping = asyncio.create_task(self._sweep(), name="forgetting idle flows")

    async def close(self) -> None:
        """End; sockets in a namespace would keep it."""
        sweeping, self._sweeping = self._sweeping, None
        if sweeping is not None:
            sweeping.cancel()
            with suppress(asyncio.CancelledError):
                await sweeping
        events, self._events = self._events, None
        if events is not None:
            asyncio.get_running_loop().remove_reader(events)
            events.close()
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._pause_seconds)
            try:
                await namespaces.within(self._namespace, tracking.evict)
            except namespaces.PacketsError as error:
                # The next look finds out what is wrong with the namespace.
                log.debug("idle flows were not looked for", error=str(error))

    def _take(self) -> None:
        events = self._events
        while events is not None:
            try:
                received = events.recv(tracking.RECEIVED_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                # More ended at a time than could be told: those ends hear of it with their next segment.
                log.debug("some flows ended untold", error=str(error))
                return
            for one in tracking.forgotten(received):
                self._ask(one)

    def _ask(self, one: Forgotten) -> None:
        ends = self.ends.get(one.mark)
        if ends is None or not one.was_established or self._sender is None:
            return
        for side, flow in ((ends.customer, one.original), (ends.provider, one.reply)):
            with suppress(OSError):
                self._sender.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, side)
                # From the one that the end was talking to.
                segment = out_of_place(flow.destination, flow.source)
                self._sender.sendto(segment, (str(flow.source[0]), 0))


def out_of_place(source: tuple[IPv4Address, int], destination: tuple[IPv4Address, int]) -> bytes:
    """An IPv4 packet with a TCP acknowledgement of nothing."""
    tcp = _TCP_HEADER.pack(source[1], destination[1], 0, 0, _TCP_LENGTH, _ACK, 0, 0, 0)
    pseudo = source[0].packed + destination[0].packed + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(tcp))
    checksum = _checksum(pseudo + tcp)
    tcp = _TCP_HEADER.pack(source[1], destination[1], 0, 0, _TCP_LENGTH, _ACK, 0, checksum, 0)
    # The kernel fills in length and checksum (raw(7)).
    ip = _IPV4_HEADER.pack(
        *(_VERSION_AND_LENGTH, 0, 0, 0, 0, _TTL, socket.IPPROTO_TCP, 0), source[0].packed, destination[0].packed
    )
    return ip + tcp


def _checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _sockets() -> tuple[socket.socket, socket.socket]:
    events = tracking.listen()
    try:
        return events, socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    except OSError:
        events.close()
        raise
