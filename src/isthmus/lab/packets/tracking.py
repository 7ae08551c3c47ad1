"""The kernel's table of flows: counted, and forgotten by mark. To be called in a namespace.

Netlink by hand (``linux/netfilter/nfnetlink_conntrack.h``), because there is no program that is always there for this.
"""

import errno
import os
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
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
_RECEIVED_BYTES: Final = 1 << 17


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


def _mark(body: bytes) -> int:
    place = len(_FAMILY)
    while place + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, place)
        if kind == _MARK:
            return int.from_bytes(body[place + 4 : place + 8], "big")
        place += max((length + 3) & ~3, _ATTRIBUTE.size)
    return 0


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
                received = channel.recv(_RECEIVED_BYTES)
                place = 0
                while place < len(received):
                    length, kind, _, _, _ = _HEADER.unpack_from(received, place)
                    content = received[place + _HEADER.size : place + length]
                    if kind == _DONE:
                        return
                    if kind == _ERROR:
                        _check(content)
                        return
                    if kind == _NEW:
                        yield content
                    place += (length + 3) & ~3
        except OSError as error:
            raise PacketsError(f"the kernel's table of flows: {error}", code="tracking_failed") from error


def _check(content: bytes) -> None:
    number = -struct.unpack_from("=i", content)[0]
    if number not in {0, errno.ENOENT}:
        raise PacketsError(f"the kernel's table of flows: {os.strerror(number)}", code="tracking_failed")
