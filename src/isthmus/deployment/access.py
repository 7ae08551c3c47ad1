"""The allow list: which source addresses may come in.

Kept in memory and refreshed when the access channel is notified. An empty list admits every address. An IPv4 address that
arrives in IPv6 form (``::ffff:192.0.2.1``) is the IPv4 address. Invariant: nobody is admitted before the list was read.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from isthmus.deployment.pooling import Pool

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


class AllowList:
    """The allowed ranges of one deployment."""

    def __init__(self, pool: Pool) -> None:
        raise NotImplementedError

    @property
    def ranges(self) -> tuple[Network, ...]:
        """The ranges in force in this process."""
        raise NotImplementedError

    async def load(self) -> None:
        """Read the list. Raises DatabaseError."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Callback of the access channel: read again soon."""
        raise NotImplementedError

    async def run(self) -> None:
        """Read again when asked to, and every half minute."""
        raise NotImplementedError

    def check(self, address: str) -> str:
        """The address in its plain form. Raises PlaneRefusedError(SOURCE_NOT_ALLOWED) with the address that was seen."""
        raise NotImplementedError

    async def replace(self, ranges: Iterable[Network]) -> tuple[Network, ...]:
        """Put a whole list in force, in every process. Returns it, sorted and without duplicates."""
        raise NotImplementedError
