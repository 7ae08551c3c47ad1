"""The states of a connection between an endpoint and a link service, and who may move it where.

Source: Azure Private Link, "Manage private endpoint connections": only an approved connection carries traffic; a
rejected or disconnected one can only be removed, and the endpoint created again. That pending requests expire is ours.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, assert_never

#: A request that nobody has decided on by then is removed.
PENDING_LIFETIME: Final = timedelta(days=14)


class ConnectionState(StrEnum):
    """Where a connection is. EXPIRED and DISCONNECTED are what the customer sees when the provider's side is gone."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    DISCONNECTED = "disconnected"
    EXPIRED = "expired"
    #: A state that this version does not know; the cloud's own word is in the reason.
    UNKNOWN = "unknown"


class Decision(StrEnum):
    """What a provider can do about a connection, and what time does."""

    APPROVE = "approve"
    REJECT = "reject"
    REMOVE = "remove"
    EXPIRE = "expire"


def transition(state: ConnectionState, decision: Decision) -> ConnectionState | None:
    """Where ``decision`` leads from ``state``; the same state if there is nothing to do, None if it cannot be done."""
    match decision:
        case Decision.APPROVE:
            may = state in (ConnectionState.PENDING, ConnectionState.APPROVED)
            return ConnectionState.APPROVED if may else None
        case Decision.REJECT:
            may = state in (ConnectionState.PENDING, ConnectionState.APPROVED, ConnectionState.REJECTED)
            return ConnectionState.REJECTED if may else None
        case Decision.REMOVE:
            gone = (ConnectionState.DISCONNECTED, ConnectionState.EXPIRED)
            return state if state in gone else ConnectionState.DISCONNECTED
        case Decision.EXPIRE:
            return ConnectionState.EXPIRED if state is ConnectionState.PENDING else None
        case _:
            assert_never(decision)


def is_final(state: ConnectionState) -> bool:
    """Whether only a new endpoint helps."""
    return state in (ConnectionState.REJECTED, ConnectionState.DISCONNECTED, ConnectionState.EXPIRED)


def has_expired(state: ConnectionState, requested_at: datetime, now: datetime) -> bool:
    """Whether a request has waited too long. Both times are aware."""
    return state is ConnectionState.PENDING and now - requested_at >= PENDING_LIFETIME
