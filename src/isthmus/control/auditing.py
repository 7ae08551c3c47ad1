"""The audit log: who did what to what, from where, and what it was before and after.

An entry is written in the transaction of the change that it is about: there is no change without one, and none without
its change. Secrets are in neither half.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from isthmus.control.tables import audit

#: Who decides when nobody does: a rule that an operator made.
ISTHMUS: Final = "isthmus"
#: What was found to have changed without us.
OUTSIDE: Final = "outside"


@dataclass(frozen=True, slots=True)
class Actor:
    """Whoever changes something, and the address that they come from, if they came."""

    name: str
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the log."""

    entry_id: int
    at: datetime
    operator: str
    source_address: str | None
    action: str
    subject: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which entries; None: whatever it is. ``action`` is one (``link.publish``) or all of a thing's (``link``)."""

    subject: str | None = None
    operator: str | None = None
    action: str | None = None
    since: datetime | None = None
    until: datetime | None = None


EVERYTHING: Final = Filter()


async def write(
    connection: AsyncConnection,
    actor: Actor,
    action: str,
    subject: str,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """Add an entry to the transaction. ``action`` is ``thing.verb``; values are JSON."""
    values = {"operator": actor.name, "source_address": actor.address, "action": action, "subject": subject}
    await connection.execute(insert(audit).values(**values, before=before, after=after))


async def entries(
    connection: AsyncConnection, *, before: int | None, limit: int, which: Filter = EVERYTHING
) -> Sequence[Entry]:
    """The newest entries older than ``before``, at most ``limit``."""
    query = select(audit).order_by(audit.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(audit.c.id < before)
    if which.subject is not None:
        query = query.where(audit.c.subject == which.subject)
    if which.operator is not None:
        query = query.where(audit.c.operator == which.operator)
    if which.action is not None:
        is_whole = "." in which.action
        query = query.where(
            audit.c.action == which.action
            if is_whole
            else audit.c.action.startswith(f"{which.action}.", autoescape=True)
        )
    if which.since is not None:
        query = query.where(audit.c.at >= which.since)
    if which.until is not None:
        query = query.where(audit.c.at < which.until)
    rows = (await connection.execute(query)).all()
    return [
        Entry(
            row.id,
            row.at,
            row.operator,
            None if row.source_address is None else str(row.source_address),
            row.action,
            row.subject,
            row.before,
            row.after,
        )
        for row in rows
    ]
