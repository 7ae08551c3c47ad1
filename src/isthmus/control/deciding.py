"""What follows from what is known: differences with the cloud, and decisions that need nobody. Pure.

A pending connection is approved when an operator has said so beforehand (an expectation), or when the same
customer has another one that was let in (inherited approval) after the last time that one of theirs was refused; it
expires when nobody has decided for 14 days.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final, TypeAlias

from isthmus.control.links import Connection, Expectation
from isthmus.link import names, states
from isthmus.link.services import Connection as Seen
from isthmus.link.states import ConnectionState, Decision
from isthmus.wire.control import ExpectationKind


@dataclass(frozen=True, slots=True)
class Appeared:
    """A connection that was not known."""

    seen: Seen


@dataclass(frozen=True, slots=True)
class Changed:
    """A connection that is not as it was; None when the cloud does not list it any more."""

    known: Connection
    seen: Seen | None


@dataclass(frozen=True, slots=True)
class Carried:
    """A decision that the cloud has taken, although nobody has kept that."""

    known: Connection
    state: ConnectionState


Difference: TypeAlias = Appeared | Changed | Carried


@dataclass(frozen=True, slots=True)
class Automatic:
    """A decision that follows from a rule; ``expectation_id`` is the one that it follows from."""

    connection: Connection
    decision: Decision
    reason: str
    expectation_id: str | None = None


#: What the cloud calls a connection that we let expire.
_EXPIRED_AS: Final = ConnectionState.REJECTED


def differences(known: Iterable[Connection], seen: Iterable[Seen]) -> list[Difference]:
    """What has changed at the cloud since it was looked at last."""
    listed = {one.name: one for one in seen}
    found: list[Difference] = []
    for one in known:
        found.extend(_difference(one, listed.pop(one.name, None)))
    found.extend(Appeared(one) for one in listed.values())
    return found


def _difference(known: Connection, seen: Seen | None) -> Iterable[Difference]:
    if known.wanted is not None:
        target = states.transition(known.state, known.wanted)
        if seen is None and target is not ConnectionState.DISCONNECTED:
            yield Changed(known, None)
        elif target is not None and (seen is None or _is_as(target, seen.state)):
            yield Carried(known, target)
        return
    if seen is None:
        yield Changed(known, None)
    elif not _is_as(known.state, seen.state):
        yield Changed(known, seen)
    elif known.link_id != seen.link_id or (seen.state is ConnectionState.PENDING and known.message != seen.message):
        # After a decision the message stays: the cloud puts the decision's words where the request's were.
        yield Changed(known, seen)


def _is_as(ours: ConnectionState, theirs: ConnectionState) -> bool:
    return ours is theirs or (ours is ConnectionState.EXPIRED and theirs is _EXPIRED_AS)


def automatic(
    connections: Sequence[Connection],
    expectations: Sequence[Expectation],
    now: datetime,
    *,
    inherits: bool,
    refusals: Mapping[str, datetime] = MappingProxyType({}),
) -> list[Automatic]:
    """The decisions that follow from rules. ``refusals``: subscription → when one of its connections was refused last.

    Those that are gone count as well: who was rejected does not come in by asking again.
    """
    pending = [one for one in connections if one.state is ConnectionState.PENDING and one.wanted is None]
    decided = []
    for one in pending:
        if one.problem is not None:  # the cloud has refused it once: people have to look
            continue
        if (match := _expectation(one, expectations)) is not None:
            reason = match.reason or f"expected by {match.created_by}"
            decided.append(Automatic(one, Decision.APPROVE, reason, match.expectation_id))
        elif inherits and (like := _approved_like(one, connections, refusals)) is not None:
            decided.append(Automatic(one, Decision.APPROVE, f"as {names.parse_id(like.endpoint_id).name}"))
        elif states.has_expired(one.state, one.first_seen_at, now):
            decided.append(Automatic(one, Decision.EXPIRE, "nobody has decided in time"))
    return decided


def _expectation(connection: Connection, expectations: Sequence[Expectation]) -> Expectation | None:
    wanted = {
        (ExpectationKind.ENDPOINT, names.key(connection.endpoint_id)),
        (ExpectationKind.SUBSCRIPTION, connection.subscription),
    }
    return next((one for one in expectations if (one.kind, one.value) in wanted), None)


def _approved_like(
    connection: Connection, others: Sequence[Connection], refusals: Mapping[str, datetime]
) -> Connection | None:
    """A connection of the same customer that somebody here has approved, unless another one was refused since."""
    customers = [one for one in others if one.subscription == connection.subscription and one is not connection]
    if any(one.state is ConnectionState.REJECTED or one.wanted is Decision.REJECT for one in customers):
        return None
    approved = [one for one in customers if one.state is ConnectionState.APPROVED and one.decided_by is not None]
    if (refused_at := refusals.get(connection.subscription)) is not None:
        approved = [one for one in approved if one.decided_at is not None and one.decided_at > refused_at]
    return next((one for one in approved if one.wanted is None), None)
