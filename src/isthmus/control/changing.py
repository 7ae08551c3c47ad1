"""Changes that deployments make for an operator, and their entries in the audit log.

The change is elsewhere, so it cannot share a transaction with its entry. What is asked for is therefore written down
before the deployment hears of it, and replaced by the entry when it has answered; what nobody knows the end of, because
this process died or the answer never came, gets an entry that says so. Invariant: there is no change without an entry,
and none for what was refused.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import structlog
from sqlalchemy import delete, func, insert, text
from sqlalchemy.ext.asyncio import AsyncConnection

from isthmus.control import auditing
from isthmus.control.auditing import Actor
from isthmus.control.databases import Database
from isthmus.control.errors import AdminUnreachableError, ControlRefusedError, DatabaseError, DeploymentRefusedError
from isthmus.control.tables import asked
from isthmus.wire.problems import Code

#: Longer than any call takes: whoever asked is not there any more.
_LOST_AFTER: Final = "2 minutes"

Json = dict[str, Any]
Result = TypeVar("Result")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What was written down before a deployment heard of it."""

    asked_id: int
    actor: Actor
    action: str
    subject: str
    before: Json | None


class Changes:
    """Makes changes, each with its entry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def make(
        self,
        actor: Actor,
        action: str,
        subject: str,
        *,
        before: Json | None,
        wanted: Json | None,
        change: Callable[[], Awaitable[Result]],
        after: Callable[[Result], Json | None],
    ) -> Result:
        """Have a deployment change something. ``after`` makes the entry of what it answered; None: nothing changed.

        Raises what ``change`` does, and DatabaseError if nothing has been asked for yet.
        """
        values = {"operator": actor.name, "source_address": actor.address, "action": action, "subject": subject}
        statement = insert(asked).values(**values, before=before, wanted=wanted).returning(asked.c.id)
        async with self._database.begin() as database:
            asked_id = int((await database.execute(statement)).scalar_one())
        one = _Asked(asked_id, actor, action, subject, before)
        try:
            result = await change()
        except Exception as error:
            await self._end(one, _lost(wanted) if _may_be_done(error) else None)
            raise
        await self._end(one, after(result))
        return result

    async def _end(self, one: _Asked, after: Json | None) -> None:
        try:
            async with self._database.begin() as database:
                gone = await database.execute(delete(asked).where(asked.c.id == one.asked_id).returning(asked.c.id))
                if gone.one_or_none() is not None and after is not None:
                    await auditing.write(database, one.actor, one.action, one.subject, before=one.before, after=after)
        except DatabaseError as error:
            # It is done, and the operator has to hear of it; the entry follows when somebody settles what was lost.
            log.warning("a change is in no audit entry yet", action=one.action, subject=one.subject, why=error.summary)


async def settle_lost(database: AsyncConnection) -> int:
    """Make entries of changes whose end nobody knows; how many there were."""
    old = asked.c.at < func.now() - text(f"interval '{_LOST_AFTER}'")
    rows = (await database.execute(delete(asked).where(old).returning(asked))).all()
    for row in rows:
        actor = Actor(row.operator, None if row.source_address is None else str(row.source_address))
        await auditing.write(database, actor, row.action, row.subject, before=row.before, after=_lost(row.wanted))
    return len(rows)


def _lost(wanted: Json | None) -> Json:
    """What is known of a change that was asked for and never heard of again."""
    return {"outcome": "unknown", "wanted": wanted}


def _may_be_done(error: Exception) -> bool:
    match error:
        case DeploymentRefusedError():
            return error.problem.status >= 500
        case AdminUnreachableError():
            return error.was_sent
        case ControlRefusedError():
            return error.problem is Code.ADMIN_ANSWER_FOREIGN
        case _:
            return True
