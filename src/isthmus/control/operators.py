"""Operators: who may look at the control plane, and who may change it.

A token's text is ``isthmus_op_<token id>_<secret>``: 12 base-32 characters name it, 43 base64url characters (256 bits)
prove it; its SHA-256 is stored. Invariants: a secret is compared in constant time, and there is always an admin, once
there was one.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Row, func, or_, select, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from isthmus.control import auditing
from isthmus.control.auditing import Actor
from isthmus.control.errors import ControlRefusedError
from isthmus.control.names import base32
from isthmus.control.tables import operator
from isthmus.wire.control import OperatorRole
from isthmus.wire.problems import Code

_TEXT: Final = re.compile(r"isthmus_op_([a-z2-7]{12})_([A-Za-z0-9_-]{43})")
#: How exact "last used" is: a write for every look would cost more than it tells.
_USE: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator as stored, without the secret's digest."""

    name: str
    role: OperatorRole
    created_by: str
    created_at: datetime
    revoked_at: datetime | None
    last_used_at: datetime | None


async def verify(connection: AsyncConnection, text: str) -> Operator:
    """Whose token ``text`` is. Raises ControlRefusedError(OPERATOR_TOKEN_INVALID), the same for every reason."""
    matched = _TEXT.fullmatch(text)
    token_id, secret = matched.groups() if matched else ("", "")
    row = (await connection.execute(select(operator).where(operator.c.token_id == token_id))).one_or_none()
    expected = row.secret_sha256 if row is not None else "0" * 64
    if not hmac.compare_digest(_digest(secret), expected) or row is None or row.revoked_at is not None:
        raise ControlRefusedError(Code.OPERATOR_TOKEN_INVALID)
    await _note_use(connection, row.name)
    return _operator(row)


async def admitted(connection: AsyncConnection, name: str) -> Operator:
    """An operator who may still come in. Raises ControlRefusedError(OPERATOR_TOKEN_INVALID)."""
    query = select(operator).where(operator.c.name == name, operator.c.revoked_at.is_(None))
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise ControlRefusedError(Code.OPERATOR_TOKEN_INVALID)
    await _note_use(connection, name)
    return _operator(row)


async def create(connection: AsyncConnection, actor: Actor, name: str, role: OperatorRole) -> tuple[Operator, str]:
    """A new operator and the token's text. Raises ControlRefusedError(OPERATOR_EXISTS)."""
    token_id, secret = base32(12), secrets.token_urlsafe(32)
    values = {"role": role, "token_id": token_id, "secret_sha256": _digest(secret), "created_by": actor.name}
    statement = postgresql.insert(operator).values(name=name, **values).on_conflict_do_nothing()
    row = (await connection.execute(statement.returning(operator))).one_or_none()
    if row is None:
        raise ControlRefusedError(Code.OPERATOR_EXISTS, f"There is an operator {name!r}; names are not used twice.")
    await auditing.write(connection, actor, "operator.create", f"operator/{name}", after={"role": role})
    return _operator(row), f"isthmus_op_{token_id}_{secret}"


async def revoke(connection: AsyncConnection, actor: Actor, name: str) -> Operator:
    """End an operator's token; doing so again changes nothing.

    Raises ControlRefusedError: OPERATOR_NOT_FOUND, OPERATOR_LAST_ADMIN.
    """
    admins = select(operator).where(operator.c.role == OperatorRole.ADMIN, operator.c.revoked_at.is_(None))
    # All admins are locked, so that two of them cannot revoke each other at once.
    left = [row.name for row in (await connection.execute(admins.order_by(operator.c.name).with_for_update())).all()]
    row = (await connection.execute(select(operator).where(operator.c.name == name).with_for_update())).one_or_none()
    if row is None:
        raise ControlRefusedError(Code.OPERATOR_NOT_FOUND, f"There is no operator {name!r}.")
    if row.revoked_at is not None:
        return _operator(row)
    if left == [name]:
        raise ControlRefusedError(Code.OPERATOR_LAST_ADMIN)
    statement = update(operator).where(operator.c.name == name).values(revoked_at=func.now()).returning(operator)
    after = (await connection.execute(statement)).one()
    await auditing.write(connection, actor, "operator.revoke", f"operator/{name}", before={"role": row.role})
    return _operator(after)


async def listed(
    connection: AsyncConnection,
    *,
    after: str | None = None,
    limit: int | None = None,
    containing: str | None = None,
    is_active: bool | None = None,
) -> Sequence[Operator]:
    """Operators by name, after the name ``after``. ``containing``: a part of the name; ``is_active``: not revoked."""
    query = select(operator).order_by(operator.c.name).limit(limit)
    if after is not None:
        query = query.where(operator.c.name > after)
    if containing is not None:
        query = query.where(operator.c.name.icontains(containing, autoescape=True))
    if is_active is not None:
        query = query.where(operator.c.revoked_at.is_(None) if is_active else operator.c.revoked_at.is_not(None))
    return [_operator(row) for row in (await connection.execute(query)).all()]


async def _note_use(connection: AsyncConnection, name: str) -> None:
    stale = or_(operator.c.last_used_at.is_(None), operator.c.last_used_at < func.now() - _USE)
    await connection.execute(update(operator).where(operator.c.name == name, stale).values(last_used_at=func.now()))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _operator(row: Row[Any]) -> Operator:
    return Operator(row.name, OperatorRole(row.role), row.created_by, row.created_at, row.revoked_at, row.last_used_at)
