"""What goes through a link, as the cloud measured it: bytes, and how full NAT addresses are.

Clouds measure late (Azure: a minute or two, now and then ten) and leave out what is idle. None says which connection
the bytes of a link service belong to; the customer sees those of its own endpoint.
"""

from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Address
from typing import Final

#: What is asked for unless somebody chooses: long enough that a cloud's lag does not matter.
LAST_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes in the last ``span``; None where the cloud has measured nothing.

    In and out are as seen from the network where the resource is: into a link service comes what customers send, into
    an endpoint what the provider sends.
    """

    span: timedelta
    bytes_in: int | None
    bytes_out: int | None


@dataclass(frozen=True, slots=True)
class PortUse:
    """How many percent of a NAT address's ports were in use: in the last minute that was measured, and at most.

    An address without free ports takes no further connections: it is time for another one.
    """

    address: IPv4Address
    last_percent: float
    most_percent: float


@dataclass(frozen=True, slots=True)
class ServiceTraffic:
    """A link service's bytes and ports, the addresses in order."""

    traffic: Traffic
    ports: tuple[PortUse, ...]
