"""The kernel's table of flows: counted, forgotten by mark, and what it forgets by itself. To be called in a namespace.

Netlink by hand (``linux/netfilter/nfnetlink_conntrack.h``), because there is no program that is always there for this.
"""

import errno
import os
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from isthmus.lab.packets.namespaces import PacketsError

_NETLINK_NETFILTER: Final = 12
_REQUEST: Final = 0x1
_ACK: Final = 0x4
_DUMP: Final = 0x300
_ERROR: Final = 2
_DONE: Final = 3
_SUBSYSTEM: Final = 1 << 8
_NEW, _GET, _DELETE = _SUBSYSTEM, _SUBSYSTEM | 1, _SUBSYSTEM | 2
_MARK: Final = 8
_MARK_MASK: Final = 21
_ALL_BITS: Final = 0xFFFF_FFFF
_HEADER: Final = struct.Struct("=IHHII")
_FAMILY: Final = struct.pack("!BBH", socket.AF_INET, 0, 0)
_ATTRIBUTE: Final = struct.Struct("=HH")
_SECONDS: Final = 5.0
#: As much as the kernel says at a time.
RECEIVED_BYTES: Final = 1 << 17
_BUFFER_BYTES: Final = 1 << 22
_DESTROY_GROUP: Final = 1 << 2
_TUPLE_ORIGINAL, _TUPLE_REPLY, _PROTOCOL_INFO = 1, 2, 4
_NESTED: Final = 0x7FFF
_ESTABLISHED: Final = 3


@dataclass(frozen=True, slots=True)
class Flow:
    """One direction: addresses and ports."""

    source: tuple[IPv4Address, int]
    destination: tuple[IPv4Address, int]


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A TCP flow that the kernel has forgotten. A kernel that does not say in which state is taken at the worst."""

    mark: int
    original: Flow
    reply: Flow
    was_established: bool


def forget(mark: int, mask: int = _ALL_BITS) -> None:
    """Forget all flows with that mark: their next packet belongs to no flow. Raises PacketsError."""
    asked = _attribute(_MARK, mark) + _attribute(_MARK_MASK, mask)
    for _ in _ask(_DELETE, _ACK, asked):
        pass


def flows() -> Counter[int]:
    """How many flows there are with each mark. Raises PacketsError."""
    found: Counter[int] = Counter()
    for body in _ask(_GET, _DUMP, b""):
        found[_mark(body)] += 1
    return found


def translated() -> Counter[tuple[int, IPv4Address]]:
    """How many flows there are with each mark and each address that answers come to. Raises PacketsError."""
    found: Counter[tuple[int, IPv4Address]] = Counter()
    for body in _ask(_GET, _DUMP, b""):
        about = dict(_attributes(body[len(_FAMILY) :]))
        addresses = dict(_attributes(dict(_attributes(about.get(_TUPLE_REPLY, b""))).get(1, b"")))
        if 2 in addresses:
            found[int.from_bytes(about.get(_MARK, b""), "big"), IPv4Address(addresses[2])] += 1
    return found


def evict() -> None:
    """Have the kernel forget now what has expired: it does so with those that it comes by. Raises PacketsError."""
    # No flow has all bits of its mark set, so nothing is said.
    for _ in _ask(_GET, _DUMP, _attribute(_MARK, _ALL_BITS) + _attribute(_MARK_MASK, _ALL_BITS)):
        pass


def listen() -> socket.socket:
    """A socket that tells of flows that are forgotten, not blocking; ``forgotten`` reads what it says."""
    channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER)
    try:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        channel.bind((0, _DESTROY_GROUP))
    except OSError as error:
        channel.close()
        raise PacketsError(f"the kernel does not tell of flows: {error}", code="tracking_failed") from error
    return channel


def forgotten(received: bytes) -> Iterator[Forgotten]:
    """The TCP flows over IPv4 in what the kernel told."""
    for kind, content in _messages(received):
        if kind != _DELETE or not content.startswith(_FAMILY[:1]):
            continue
        about = dict(_attributes(content[len(_FAMILY) :]))
        original, reply = _flow(about.get(_TUPLE_ORIGINAL, b"")), _flow(about.get(_TUPLE_REPLY, b""))
        if original is not None and reply is not None:
            # Both levels have one member: what is known of TCP, and there first the state.
            tcp = dict(_attributes(about.get(_PROTOCOL_INFO, b""))).get(1)
            state = None if tcp is None else dict(_attributes(tcp)).get(1)
            yield Forgotten(
                int.from_bytes(about.get(_MARK, b""), "big"),
                original,
                reply,
                state is None or state[0] == _ESTABLISHED,
            )


def _flow(tuple_: bytes) -> Flow | None:
    parts = dict(_attributes(tuple_))
    addresses, ports = dict(_attributes(parts.get(1, b""))), dict(_attributes(parts.get(2, b"")))
    if ports.get(1, b"")[:1] != bytes([socket.IPPROTO_TCP]):
        return None
    return Flow(
        (IPv4Address(addresses[1]), int.from_bytes(ports[2], "big")),
        (IPv4Address(addresses[2]), int.from_bytes(ports[3], "big")),
    )


def _mark(body: bytes) -> int:
    return next((int.from_bytes(value, "big") for kind, value in _attributes(body[len(_FAMILY) :]) if kind == _MARK), 0)


def _attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, place)
        yield kind & _NESTED, body[place + _ATTRIBUTE.size : place + length]
        place += max((length + 3) & ~3, _ATTRIBUTE.size)


def _messages(received: bytes) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place + _HEADER.size <= len(received):
        length, kind, _, _, _ = _HEADER.unpack_from(received, place)
        yield kind, received[place + _HEADER.size : place + length]
        place += max((length + 3) & ~3, _HEADER.size)


def _attribute(kind: int, value: int) -> bytes:
    return _ATTRIBUTE.pack(8, kind) + struct.pack("!I", value)


def _ask(kind: int, flags: int, attributes: bytes) -> Iterator[bytes]:
    """The bodies of what the kernel answers."""
    body = _FAMILY + attributes
    with closing(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)) as channel:
        channel.settimeout(_SECONDS)
        try:
            channel.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, 1, 0) + body)
            while True:
                for said, content in _messages(channel.recv(RECEIVED_BYTES)):
                    if said == _DONE:
                        return
                    if said == _ERROR:
                        _check(content)
                        return
                    if said == _NEW:
                        yield content
        except OSError as error:
            raise PacketsError(f"the kernel's table of flows: {error}", code="tracking_failed") from error


def _check(content: bytes) -> None:
    number = -struct.unpack_from("=i", content)[0]
    if number not in {0, errno.ENOENT}:
        raise PacketsError(f"the kernel's table of flows: {os.strerror(number)}", code="tracking_failed")
