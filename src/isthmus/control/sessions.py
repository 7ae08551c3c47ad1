"""Sessions of people who work in a browser: what stands in for an operator's token there.

A session is begun with a token, and ends when it is left, when it is old, or when its operator is revoked. Its secret
(256 bits) is in a cookie alone; the table has its SHA-256. Invariant: a session never outlives its operator.
"""

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from isthmus.control import auditing, operators
from isthmus.control.auditing import Actor
from isthmus.control.errors import ControlRefusedError
from isthmus.control.operators import Operator
from isthmus.control.tables import operator as operators_table
from isthmus.control.tables import session
from isthmus.wire.control import OperatorRole
from isthmus.wire.problems import Code

#: A working day, so that a forgotten browser is shut out overnight.
LIFETIME: Final = timedelta(hours=12)


@dataclass(frozen=True, slots=True)
class Session:
    """Who is at the browser. ``form_token`` is in each form: a page of another site cannot know it."""

    operator: Operator
    form_token: str
    expires_at: datetime


async def begin(connection: AsyncConnection, token: str, address: str | None) -> tuple[str, Session]:
    """Sign an operator in; the cookie's secret. Raises ControlRefusedError(OPERATOR_TOKEN_INVALID)."""
    operator = await operators.verify(connection, token)
    await connection.execute(delete(session).where(session.c.expires_at < func.now()))
    secret = secrets.token_urlsafe(32)
    values = {"id": digest(secret), "operator": operator.name, "expires_at": func.now() + LIFETIME}
    row = (await connection.execute(insert(session).values(**values).returning(session.c.expires_at))).one()
    await auditing.write(connection, Actor(operator.name, address), "session.begin", f"operator/{operator.name}")
    return secret, Session(operator, _form_token(secret), row.expires_at)


async def find(connection: AsyncConnection, secret: str) -> Session:
    """The session of a cookie. Raises ControlRefusedError(OPERATOR_TOKEN_INVALID), the same for every reason."""
    query = select(session).where(session.c.id == digest(secret), session.c.expires_at > func.now())
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise ControlRefusedError(Code.OPERATOR_TOKEN_INVALID)
    operator = await operators.admitted(connection, row.operator)
    return Session(operator, _form_token(secret), row.expires_at)


async def roles(connection: AsyncConnection, ids: Collection[str]) -> dict[str, OperatorRole]:
    """The operators' roles of those of these sessions (``digest``) that have not ended."""
    known = operators_table
    query = (
        select(session.c.id, known.c.role)
        .join(known, known.c.name == session.c.operator)
        .where(session.c.id.in_(ids), session.c.expires_at > func.now(), known.c.revoked_at.is_(None))
    )
    return {row.id: OperatorRole(row.role) for row in await connection.execute(query)}


async def end(connection: AsyncConnection, secret: str) -> None:
    """Leave a session; nothing happens when there is none."""
    await connection.execute(delete(session).where(session.c.id == digest(secret)))


def digest(secret: str) -> str:
    """A session's name in the table."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _form_token(secret: str) -> str:
    return urlsafe_b64encode(hmac.digest(secret.encode(), b"isthmus forms", "sha256")).decode().rstrip("=")
