"""The allow list: which source addresses may come in, and what it takes to change that.

Kept in memory and refreshed when the access channel is notified. An empty list admits every address. A change is
decided (``restricting``) in the transaction that makes it, and changes take turns, so that none is decided on the
grounds of a list that another one has changed meanwhile. Invariant: nobody is admitted before the list was read.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from isthmus.deployment import ranges, reading, restricting
from isthmus.deployment.errors import DatabaseError, PlaneRefusedError, translated
from isthmus.deployment.pooling import Pool
from isthmus.deployment.ranges import Network, Ranges
from isthmus.deployment.refreshing import Refresher
from isthmus.deployment.restricting import Decision, Place
from isthmus.deployment.tables import ACCESS_CHANNEL
from isthmus.wire.admin import RestrictionOutcome
from isthmus.wire.problems import Code

#: Verdicts are remembered: agents come from few addresses, and 1,000 ranges take 0.1 ms to go through.
_REMEMBERED: Final = 4096

Judge = Callable[[Ranges, list[Place]], Decision]


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision, and when it was made (the database's time)."""

    decision: Decision
    at: datetime


class AllowList:
    """The allowed ranges of one deployment."""

    def __init__(self, pool: Pool, *, heartbeat_seconds: float = 10.0) -> None:
        self._pool = pool
        self._heartbeat_seconds = heartbeat_seconds
        self._ranges: Ranges | None = None
        self._verdicts: dict[str, tuple[str, bool]] = {}
        self._refresher = Refresher("allow list", self.load)

    @property
    def ranges(self) -> Ranges:
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
        allowed = self.ranges
        if address not in self._verdicts:
            if len(self._verdicts) >= _REMEMBERED:
                self._verdicts.clear()
            self._verdicts[address] = _verdict(address, allowed)
        plain, admitted = self._verdicts[address]
        if not admitted:
            raise PlaneRefusedError(Code.SOURCE_NOT_ALLOWED, f"{plain} is not in the allow list.", source_address=plain)
        return plain

    async def replace(self, wanted: Iterable[Network], *, force: bool = False, dry_run: bool = False) -> Decided:
        """Put a whole list in force, in every process; or say with ``dry_run`` what would happen.

        Raises PlaneRefusedError(AGENTS_CUT_OFF) if it shuts out the last healthy agent, unless forced; DatabaseError.
        """
        listed = tuple(wanted)
        return await self._decide(
            lambda before, places: restricting.replace(before, listed, places, force=force), dry_run=dry_run
        )

    async def restrict(self, wanted: Iterable[Network], *, force: bool = False, dry_run: bool = False) -> Decided:
        """Let only ``wanted`` in, or say with ``dry_run`` what would happen.

        Raises PlaneRefusedError(AGENTS_CUT_OFF) while no healthy agent comes from there, unless forced; DatabaseError.
        """
        listed = tuple(wanted)
        return await self._decide(
            lambda before, places: restricting.restrict(before, listed, places, force=force), dry_run=dry_run
        )

    async def unrestrict(self) -> Decided:
        """Let every address in."""
        return await self._decide(restricting.unrestrict)

    async def _decide(self, judge: Judge, *, dry_run: bool = False) -> Decided:
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                # Changes take turns: each one sees what the one before has made.
                await connection.execute("LOCK TABLE isthmus_allowed_range IN EXCLUSIVE MODE")
                rows = await connection.fetch("SELECT range FROM isthmus_allowed_range")
                places = await reading.places(connection, heartbeat_seconds=self._heartbeat_seconds)
                decision = judge(ranges.plain(row["range"] for row in rows), places)
                at = await connection.fetchval("SELECT now()")
                if dry_run:
                    return Decided(decision, at)
                if decision.outcome is RestrictionOutcome.REFUSED:
                    raise PlaneRefusedError(Code.AGENTS_CUT_OFF, decision.reason)
                if decision.changes:
                    await connection.execute("DELETE FROM isthmus_allowed_range")
                    await connection.execute(
                        "INSERT INTO isthmus_allowed_range (range) SELECT unnest($1::text[])::cidr",
                        [str(network) for network in decision.after],
                    )
                    await connection.execute("SELECT pg_notify($1, '')", ACCESS_CHANNEL)
        self._put(decision.after)
        return Decided(decision, at)

    def _put(self, allowed: Iterable[Network]) -> None:
        self._ranges = ranges.plain(allowed)
        self._verdicts.clear()


def _verdict(address: str, allowed: Ranges) -> tuple[str, bool]:
    """The plain form and whether it may come in."""
    try:
        plain = str(ranges.plain_address(address))
    except ValueError:
        plain = address
    return plain, ranges.admits(allowed, address)
