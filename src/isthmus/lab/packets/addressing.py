"""Names, addresses and marks of what is on the machine, made of a picture's numbers. Pure.

No customer's address is ever used between the namespaces: links have no addresses but link-local ones (RFC 3927),
next hops are permanent neighbours, and what the fabric needs for itself lies in 240.0.0.0/4 (reserved, RFC 1112).
Azure lets virtual networks have neither (FAQ of Azure Virtual Network, "address ranges"), so they may have anything
else, and several may have the same.

A mark is 31 bits wide. An endpoint's is its number and a few bits of its key, so that a flow of an endpoint that is
gone never belongs to a later one with its number; a public flow's is ``PUBLIC``, the side where it goes to and the
side where it came from.
"""

import re
import zlib
from ipaddress import IPv4Address, IPv4Network
from typing import Final, NewType

from isthmus.kit.errors import ConfigError
from isthmus.lab.ids import Key

LabId = NewType("LabId", str)
"""A few letters and digits that tell labs on one machine apart."""

PREFIX: Final = "isthmus-lab-"
#: The fabric's interface in every other namespace, and the internet's in the fabric.
FABRIC: Final = "fabric"
INTERNET: Final = "internet"
#: What a network's interfaces to its peers begin with.
PEERS: Final = "p"

AZURE_RESOLVER: Final = IPv4Address("168.63.129.16")
#: Between namespaces: what the fabric has, what each network has towards it, and the next hop on every link.
FABRIC_ADDRESS: Final = IPv4Address("169.254.1.1")
LINK_ADDRESS: Final = IPv4Address("169.254.1.2")
NEXT_HOP: Final = IPv4Address("169.254.1.3")

#: What the fabric has for itself; all of it is local to it.
INSIDE: Final = IPv4Network("240.0.0.0/4")
_NAT_FIRST: Final = int(IPv4Address("240.0.0.0"))
_RELAY_FIRST: Final = int(IPv4Address("248.0.0.0"))
#: Azure: eight NAT addresses a service ("Private Link limits").
NAT_ADDRESSES_PER_SERVICE: Final = 8
RELAY_PORT: Final = 9

PUBLIC: Final = 0x8000_0000
#: Marks that say which side a packet goes to.
SIDE_MASK: Final = 0x7FFF
INTERNET_SIDE: Final = 1
_FIRST_NETWORK_SIDE: Final = 16
_TABLES: Final = 10_000

_LAB_ID: Final = re.compile(r"[a-z0-9]{1,12}")
_KEY_BITS: Final = 15


def lab_id(text: str) -> LabId:
    """``text`` as a lab's id; ConfigError if it is not 1 to 12 small letters and digits."""
    if not _LAB_ID.fullmatch(text):
        raise ConfigError(f"{text!r} is no lab id", code="lab_id_malformed", hint="use 1 to 12 of a-z and 0-9")
    return LabId(text)


def namespace_prefix(lab: LabId) -> str:
    """What all names of a lab's namespaces begin with."""
    return f"{PREFIX}{lab}-"


def fabric(lab: LabId) -> str:
    """The fabric's namespace."""
    return f"{namespace_prefix(lab)}fabric"


def internet(lab: LabId) -> str:
    """The public internet's namespace."""
    return f"{namespace_prefix(lab)}internet"


def network(lab: LabId, number: int) -> str:
    """A virtual network's namespace."""
    return f"{namespace_prefix(lab)}n{number}"


def network_interface(number: int) -> str:
    """A network's interface in the fabric."""
    return f"n{number}"


def peering_interface(number: int) -> str:
    """A peering's interface in both networks."""
    return f"{PEERS}{number}"


def mac(interface: str, namespace: str) -> str:
    """A locally administered MAC address that follows from where it is."""
    digits = f"{zlib.crc32(f'{namespace}/{interface}'.encode()):08x}"
    return ":".join(("02", "1a", *(digits[place : place + 2] for place in range(0, 8, 2))))


def side(number: int) -> int:
    """The mark of what goes to a network. ConfigError for a number that is too large."""
    return _checked(number + _FIRST_NETWORK_SIDE, SIDE_MASK, "networks")


def table(side: int) -> int:
    """The routing table of what goes to a side."""
    return _TABLES + side


def public_mark(source: int, destination: int) -> int:
    """The mark of a flow over the public internet, from side to side."""
    return PUBLIC | destination << 16 | source


def public_from(side: int) -> tuple[int, int]:
    """Mark and mask of all flows over the public internet that came from a side."""
    return PUBLIC | side, PUBLIC | 0xFFFF


def public_to(side: int) -> tuple[int, int]:
    """Mark and mask of all flows over the public internet that go to a side."""
    return PUBLIC | side << 16, PUBLIC | SIDE_MASK << 16


def endpoint_mark(number: int, key: Key) -> int:
    """The mark of flows through an endpoint. ConfigError for a number that is too large."""
    return _checked(number + 1, 0xFFFF, "endpoints") << _KEY_BITS | zlib.crc32(key.encode()) & (1 << _KEY_BITS) - 1


def nat_address(service: int, place: int) -> IPv4Address:
    """What a service's NAT address is inside the fabric."""
    return IPv4Address(_NAT_FIRST + _checked(service, 1 << 24, "services") * NAT_ADDRESSES_PER_SERVICE + place)


def relay_address(endpoint: int) -> IPv4Address:
    """Where the relay takes an endpoint's connections."""
    return IPv4Address(_RELAY_FIRST + _checked(endpoint, 1 << 26, "endpoints"))


def _checked(number: int, most: int, what: str) -> int:
    if not 0 <= number <= most:
        raise ConfigError(f"there are too many {what}: number {number}", code="too_many", hint="delete some")
    return number
