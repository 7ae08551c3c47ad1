"""The allow list: which source addresses may come in.

Kept in memory and refreshed when the access channel is notified. An empty list admits every address. An IPv4 address
that arrives in IPv6 form (``::ffff:192.0.2.1``) is the IPv4 address. Invariant: nobody is admitted before the list was
read.
"""

import ipaddress
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from isthmus.deployment.errors import DatabaseError, PlaneRefusedError, translated
from isthmus.deployment.pooling import Pool
from isthmus.deployment.refreshing import Refresher
from isthmus.deployment.tables import ACCESS_CHANNEL
from isthmus.wire.problems import Code

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

#: Verdicts are remembered: agents come from few addresses, and 1,000 ranges take 0.1 ms to go through.
_REMEMBERED: Final = 4096


def plain_address(text: str) -> Address:
    """The address in ``text``: without a zone, and IPv4 where it is IPv4 in IPv6 form. Raises ValueError."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def plain_network(network: Network) -> Network:
    """The network, as IPv4 where it is IPv4 in IPv6 form (``::ffff:10.0.0.0/104`` is ``10.0.0.0/8``)."""
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - 96))
    return network


class AllowList:
    """The allowed ranges of one deployment."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._ranges: tuple[Network, ...] | None = None
        self._verdicts: dict[str, tuple[str, bool]] = {}
        self._refresher = Refresher("allow list", self.load)

    @property
    def ranges(self) -> tuple[Network, ...]:
        """The ranges in force in this process. Raises DatabaseError when the list was never read."""
        if self._ranges is None:
            raise DatabaseError("the allow list has not been read yet")
        return self._ranges

    def refresh(self) -> None:
        """Callback of the access channel: read again soon."""
        self._refresher.request()

    async def run(self) -> None:
        """Read again when asked to, and every half minute."""
        await self._refresher.run()

    async def load(self) -> None:
        """Read the list. Raises DatabaseError."""
        with translated():
            rows = await self._pool.fetch("SELECT range FROM isthmus_allowed_range")
        self._put(row["range"] for row in rows)

    def check(self, address: str) -> str:
        """The address in its plain form.

        Raises PlaneRefusedError(SOURCE_NOT_ALLOWED) with the address that was seen, DatabaseError when the list was
        never read.
        """
        ranges = self.ranges
        if address not in self._verdicts:
            if len(self._verdicts) >= _REMEMBERED:
                self._verdicts.clear()
            self._verdicts[address] = _verdict(address, ranges)
        plain, admitted = self._verdicts[address]
        if not admitted:
            raise PlaneRefusedError(Code.SOURCE_NOT_ALLOWED, f"{plain} is not in the allow list.", source_address=plain)
        return plain

    async def replace(self, ranges: Iterable[Network]) -> tuple[Network, ...]:
        """Put a whole list in force, in every process. Returns it, sorted and without duplicates."""
        wanted = _sorted(plain_network(network) for network in ranges)
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                # Two replacements at once take turns: the outcome is one of the two lists.
                await connection.execute("LOCK TABLE isthmus_allowed_range IN EXCLUSIVE MODE")
                await connection.execute("DELETE FROM isthmus_allowed_range")
                await connection.execute(
                    "INSERT INTO isthmus_allowed_range (range) SELECT unnest($1::text[])::cidr",
                    [str(network) for network in wanted],
                )
                await connection.execute("SELECT pg_notify($1, '')", ACCESS_CHANNEL)
        self._put(wanted)
        return wanted

    def _put(self, ranges: Iterable[Network]) -> None:
        self._ranges = _sorted(ranges)
        self._verdicts.clear()


def _sorted(ranges: Iterable[Network]) -> tuple[Network, ...]:
    return tuple(
        sorted(set(ranges), key=lambda network: (network.version, int(network.network_address), network.prefixlen))
    )


def _verdict(address: str, ranges: tuple[Network, ...]) -> tuple[str, bool]:
    """The plain form and whether it may come in. What is no address (a UNIX socket) is in no range."""
    try:
        plain = plain_address(address)
    except ValueError:
        return address, not ranges
    return str(plain), not ranges or any(plain in network for network in ranges)
