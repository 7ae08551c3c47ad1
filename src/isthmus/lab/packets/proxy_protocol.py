"""The first bytes of a relayed connection: PROXY protocol version 2 with the endpoint's link identifier. Pure.

Sources: the PROXY protocol, section 2.2; Azure Private Link service, "Getting connection information using TCP Proxy
v2": a TLV of type 0xEE and length 5, whose value is the subtype 0x01 and the link identifier, four bytes,
little-endian.
"""

import struct
from ipaddress import IPv4Address
from typing import Final

_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_VERSION_2_PROXY: Final = 0x21
_TCP_OVER_IPV4: Final = 0x11
_AZURE: Final = 0xEE
_LINK_IDENTIFIER: Final = 0x01


def header(source: tuple[IPv4Address, int], destination: tuple[IPv4Address, int], link_identifier: int) -> bytes:
    """36 bytes: who connected (a client's private address), to what (the endpoint's), through which connection."""
    addresses = source[0].packed + destination[0].packed + struct.pack("!HH", source[1], destination[1])
    value = struct.pack("<BI", _LINK_IDENTIFIER, link_identifier)
    tlv = struct.pack("!BH", _AZURE, len(value)) + value
    length = len(addresses) + len(tlv)
    return _SIGNATURE + struct.pack("!BBH", _VERSION_2_PROXY, _TCP_OVER_IPV4, length) + addresses + tlv
