"""Links as they are stored: what was asked for, what was seen last, and what has been decided.

Each wish is written down, with its audit entry, before the cloud hears of it (``carrying`` brings it there): whatever
dies in between, the wish is carried on. Invariant: of two operators who decide on what they saw, one decides, and the
other is told who was faster.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, delete, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from isthmus.control import auditing
from isthmus.control.auditing import Actor
from isthmus.control.clusters import Cluster
from isthmus.control.errors import ControlRefusedError
from isthmus.control.names import base32
from isthmus.control.tables import connection as connections_table
from isthmus.control.tables import expectation, link
from isthmus.link import names, states
from isthmus.link.services import Connection as Seen
from isthmus.link.services import ServiceSpec, ServiceStatus
from isthmus.link.states import ConnectionState, Decision
from isthmus.wire.control import ExpectationKind, LinkState
from isthmus.wire.problems import Code

#: A link service takes up to 1,000 connections (Azure's limits); the rest are gone for long.
_KNOWN: Final = 2000
_REFUSALS: Final = frozenset({Decision.REJECT, Decision.REMOVE})


@dataclass(frozen=True, slots=True)
class Problem:
    """What holds something up, and what to do about it."""

    code: str
    sentence: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """What a link should be: the cloud's part, and our rule about further endpoints of a customer."""

    service: ServiceSpec
    inherits_approval: bool = True


@dataclass(frozen=True, slots=True)
class Link:
    """A cluster's link."""

    cluster_id: str
    state: LinkState
    spec: LinkSpec
    may_disconnect: bool
    alias: str
    nat_addresses: tuple[str, ...]
    problem: Problem | None
    published_at: datetime | None
    observed_at: datetime | None
    version: int


@dataclass(frozen=True, slots=True)
class Connection:
    """An endpoint's connection, and what we know beyond the cloud: since when, by whom, why."""

    connection_id: str
    cluster_id: str
    name: str
    endpoint_id: str
    subscription: str
    state: ConnectionState
    wanted: Decision | None
    reason: str
    message: str
    link_id: int | None
    location: str
    first_seen_at: datetime
    changed_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    version: int
    is_gone: bool = False
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Expectation:
    """What is approved as it appears. ``value`` is an endpoint's id or a subscription, lower case."""

    expectation_id: str
    cluster_id: str
    kind: ExpectationKind
    value: str
    reason: str
    created_by: str
    created_at: datetime
    matched_at: datetime | None


# --- links


async def publish(database: AsyncConnection, actor: Actor, cluster: Cluster, spec: LinkSpec) -> Link:
    """Write down that a link should be like ``spec``. Asking again changes nothing, unless it was changed elsewhere.

    Raises ControlRefusedError(LINK_EXISTS) for another service, or while one is being unpublished.
    """
    before = await find(database, cluster.cluster_id, lock=True)
    check_wish(before, spec)
    if before is not None and before.spec == spec and not is_off(before):
        return before
    values = {"state": LinkState.PUBLISHING, "spec": dataclasses.asdict(spec), "problem": None}
    statement = insert(link).values(cluster_id=cluster.cluster_id, **values)
    statement = statement.on_conflict_do_update(
        index_elements=["cluster_id"], set_={**values, "version": link.c.version + 1}
    )
    after = _link((await database.execute(statement.returning(link))).one())
    await auditing.write(
        database,
        actor,
        "link.publish",
        f"link/{cluster.cluster_id}",
        before=None if before is None else dataclasses.asdict(before.spec),
        after=dataclasses.asdict(spec),
    )
    return after


def check_wish(before: Link | None, spec: LinkSpec) -> None:
    """A link can become like ``spec``. Raises ControlRefusedError(LINK_EXISTS)."""
    if before is None:
        return
    if not names.are_same(before.spec.service.service_id, spec.service.service_id):
        raise ControlRefusedError(
            Code.LINK_EXISTS, f"The link of {before.cluster_id} is {before.spec.service.service_id}."
        )
    if before.state is LinkState.UNPUBLISHING:
        raise ControlRefusedError(Code.LINK_EXISTS, "The link is being unpublished.", hint="Wait until it is gone.")


def is_off(link: Link) -> bool:
    """Whether a link that was published is not as it was published."""
    return link.state is LinkState.MISSING or (link.state is LinkState.PUBLISHED and link.problem is not None)


async def unpublish(database: AsyncConnection, actor: Actor, cluster_id: str, *, force: bool) -> Link:
    """Write down that a link should go. Raises ControlRefusedError: LINK_NOT_FOUND, LINK_IN_USE unless forced."""
    before = await get(database, cluster_id, lock=True)
    if before.state is LinkState.UNPUBLISHING and (before.may_disconnect or not force):
        return before
    approved = [one for one in await connections(database, cluster_id) if one.state is ConnectionState.APPROVED]
    if approved and not force:
        raise ControlRefusedError(Code.LINK_IN_USE, f"Connected: {', '.join(one.endpoint_id for one in approved)}.")
    values = {"state": LinkState.UNPUBLISHING, "may_disconnect": force, "problem": None, "version": before.version + 1}
    after = await _change(database, cluster_id, values)
    details = {"force": force, "approved": [one.endpoint_id for one in approved]}
    await auditing.write(
        database, actor, "link.unpublish", f"link/{cluster_id}", before={"state": before.state}, after=details
    )
    return after


async def find(database: AsyncConnection, cluster_id: str, *, lock: bool = False) -> Link | None:
    """A cluster's link, or None."""
    query = select(link).where(link.c.cluster_id == cluster_id)
    row = (await database.execute(query.with_for_update() if lock else query)).one_or_none()
    return None if row is None else _link(row)


async def get(database: AsyncConnection, cluster_id: str, *, lock: bool = False) -> Link:
    """A cluster's link. Raises ControlRefusedError(LINK_NOT_FOUND)."""
    found = await find(database, cluster_id, lock=lock)
    if found is None:
        raise ControlRefusedError(Code.LINK_NOT_FOUND, f"The cluster {cluster_id} has no link.")
    return found


async def all_of_them(database: AsyncConnection) -> Sequence[Link]:
    """Every link."""
    return [_link(row) for row in (await database.execute(select(link).order_by(link.c.cluster_id))).all()]


async def note_service(database: AsyncConnection, seen: Link, status: ServiceStatus, problem: Problem | None) -> None:
    """Keep what the cloud shows of a link that is there, unless somebody has changed the wish since ``seen``."""
    values: dict[str, Any] = {
        "state": LinkState.PUBLISHED,
        "alias": status.alias,
        "nat_addresses": [str(address) for address in status.nat_addresses],
        "observed_at": func.now(),
        "published_at": func.coalesce(link.c.published_at, func.now()),
        "problem": _json(problem),
    }
    where = (link.c.cluster_id == seen.cluster_id) & (link.c.version == seen.version)
    await database.execute(update(link).where(where).values(**values))


async def note_missing(database: AsyncConnection, seen: Link) -> None:
    """Keep that a link that was published is not there any more; the audit log has it once."""
    where = (link.c.cluster_id == seen.cluster_id) & (link.c.version == seen.version)
    statement = update(link).where(where, link.c.state != LinkState.MISSING)
    row = (await database.execute(statement.values(state=LinkState.MISSING).returning(link.c.cluster_id))).one_or_none()
    if row is not None:
        await auditing.write(
            database,
            Actor(auditing.OUTSIDE),
            "link.removed",
            f"link/{seen.cluster_id}",
            before={"alias": seen.alias, "service_id": seen.spec.service.service_id},
        )


async def note_problem(database: AsyncConnection, seen: Link, problem: Problem) -> None:
    """Keep what holds a link up."""
    where = (link.c.cluster_id == seen.cluster_id) & (link.c.version == seen.version)
    await database.execute(update(link).where(where).values(problem=_json(problem)))


async def forget(database: AsyncConnection, seen: Link) -> None:
    """Strike a link off that has been unpublished, its connections with it."""
    where = (link.c.cluster_id == seen.cluster_id) & (link.c.version == seen.version)
    row = (await database.execute(delete(link).where(where).returning(link.c.alias))).one_or_none()
    if row is not None:
        actor = Actor(auditing.ISTHMUS)
        before = {"alias": row.alias}
        await auditing.write(database, actor, "link.unpublished", f"link/{seen.cluster_id}", before=before)


# --- connections


async def connections(database: AsyncConnection, cluster_id: str, *, lock: bool = False) -> Sequence[Connection]:
    """The connections that the cloud lists, the oldest first."""
    query = select(connections_table).where(connections_table.c.cluster_id == cluster_id, ~connections_table.c.is_gone)
    query = query.order_by(connections_table.c.first_seen_at, connections_table.c.id)
    rows = (await database.execute(query.with_for_update() if lock else query)).all()
    return [_connection(row) for row in rows]


async def ever_known(database: AsyncConnection, cluster_id: str) -> Sequence[Connection]:
    """The connections that there are and were, the last changed first; of many only the newest."""
    table = connections_table
    query = select(table).where(table.c.cluster_id == cluster_id).order_by(table.c.changed_at.desc(), table.c.id)
    return [_connection(row) for row in (await database.execute(query.limit(_KNOWN))).all()]


async def last_refusals(database: AsyncConnection, cluster_id: str) -> Mapping[str, datetime]:
    """Subscription → when a connection of it was rejected or removed last, be it still there or not."""
    table = connections_table
    query = select(table.c.subscription, func.max(table.c.refused_at)).group_by(table.c.subscription)
    query = query.where(table.c.cluster_id == cluster_id, table.c.refused_at.is_not(None))
    return {row[0]: row[1] for row in (await database.execute(query)).all()}


async def counts(database: AsyncConnection, cluster_id: str) -> Mapping[ConnectionState, int]:
    """How many connections that the cloud lists are in which state."""
    table = connections_table
    query = select(table.c.state, func.count()).where(table.c.cluster_id == cluster_id, ~table.c.is_gone)
    return {ConnectionState(row[0]): row[1] for row in (await database.execute(query.group_by(table.c.state))).all()}


async def page(
    database: AsyncConnection,
    cluster_id: str,
    *,
    state: ConnectionState | None,
    after: str | None,
    limit: int,
    containing: str | None = None,
) -> Sequence[Connection]:
    """A page, the oldest first, after the connection ``after``; those that are gone only if asked for by state.

    ``containing``: a part of the endpoint's id (with its subscription and group) or of the request message.
    """
    table = connections_table
    query = select(table).where(table.c.cluster_id == cluster_id).order_by(table.c.first_seen_at, table.c.id)
    query = query.where(~table.c.is_gone) if state is None else query.where(table.c.state == state)
    if containing is not None:
        of_endpoint = table.c.endpoint_id.icontains(containing, autoescape=True)
        query = query.where(of_endpoint | table.c.message.icontains(containing, autoescape=True))
    if after is not None:
        last = select(table.c.first_seen_at, table.c.id).where(table.c.id == after).subquery()
        beyond = (table.c.first_seen_at > last.c.first_seen_at) | (
            (table.c.first_seen_at == last.c.first_seen_at) & (table.c.id > last.c.id)
        )
        query = query.join(last, beyond)
    return [_connection(row) for row in (await database.execute(query.limit(limit))).all()]


async def connection(database: AsyncConnection, cluster_id: str, connection_id: str) -> Connection:
    """One connection. Raises ControlRefusedError(CONNECTION_NOT_FOUND)."""
    return await _one(database, cluster_id, connection_id, lock=False)


async def decide(
    database: AsyncConnection,
    actor: Actor,
    cluster_id: str,
    connection_id: str,
    decision: Decision,
    *,
    reason: str = "",
    version: int | None = None,
) -> Connection:
    """Write a decision down. One that stands already is left as it is.

    Raises ControlRefusedError: CONNECTION_NOT_FOUND; CONNECTION_DECIDED when ``version`` is not the one that is there,
    or another decision is on its way; CONNECTION_FINAL.
    """
    before = await _one(database, cluster_id, connection_id, lock=True)
    after = states.transition(before.state, decision)
    if before.wanted is decision or (before.wanted is None and after is before.state):
        return before
    if (version is not None and version != before.version) or before.wanted is not None:
        raise ControlRefusedError(Code.CONNECTION_DECIDED, _who(before))
    if after is None or before.is_gone:
        raise ControlRefusedError(Code.CONNECTION_FINAL, f"The connection is {before.state}.")
    values = {"wanted": decision, "reason": reason, "decided_by": actor.name, "decided_at": func.now(), "problem": None}
    if decision in _REFUSALS:
        values["refused_at"] = func.now()
    fresh = await _change_connection(database, before, values)
    await auditing.write(
        database,
        actor,
        f"connection.{decision}",
        f"connection/{connection_id}",
        before={"state": before.state},
        after={"state": after, "endpoint_id": before.endpoint_id, "reason": reason},
    )
    return fresh


async def settle(database: AsyncConnection, decided: Connection, state: ConnectionState) -> Connection | None:
    """Keep that the cloud has taken a decision; None if somebody has decided anew meanwhile."""
    values = {
        "state": state,
        "wanted": None,
        "problem": None,
        "changed_at": func.now(),
        "is_gone": state is ConnectionState.DISCONNECTED,
    }
    return await _change_if_same(database, decided, values)


async def fail(database: AsyncConnection, decided: Connection, problem: Problem) -> Connection | None:
    """Keep that the cloud refuses a decision: it is not wanted any more."""
    return await _change_if_same(database, decided, {"wanted": None, "problem": _json(problem)})


async def note_new(database: AsyncConnection, cluster_id: str, seen: Seen, subscription: str) -> Connection | None:
    """Keep a connection that was not there before; None if another process was faster."""
    values = {
        "id": f"cn{base32(10)}",
        "cluster_id": cluster_id,
        "name": seen.name,
        "endpoint_id": seen.endpoint_id,
        "subscription": subscription,
        "state": seen.state,
        "message": seen.message,
        "link_id": seen.link_id,
        "location": seen.location,
    }
    statement = insert(connections_table).values(**values).on_conflict_do_nothing().returning(connections_table)
    row = (await database.execute(statement)).one_or_none()
    if row is None:
        return None
    made = _connection(row)
    await auditing.write(
        database,
        Actor(auditing.OUTSIDE),
        "connection.request",
        f"connection/{made.connection_id}",
        after={"endpoint_id": seen.endpoint_id, "state": seen.state, "message": seen.message},
    )
    return made


async def note_change(database: AsyncConnection, known: Connection, seen: Seen | None) -> None:
    """Keep what the cloud shows of a connection now; None: nothing any more.

    The customer's message stays: once decided, the cloud has the decision's words in its place.
    """
    if seen is None:
        values: dict[str, Any] = {"state": ConnectionState.DISCONNECTED, "is_gone": True, "wanted": None}
    else:
        values = {"state": seen.state, "link_id": seen.link_id, "location": seen.location}
        if seen.state is ConnectionState.PENDING:
            values["message"] = seen.message
    state = values["state"]
    if state is not known.state:
        reason = "" if seen is None or state is ConnectionState.PENDING else seen.message
        values |= {"changed_at": func.now(), "decided_by": None, "decided_at": None, "reason": reason}
        if seen is not None and states.is_final(state):
            values["refused_at"] = func.now()
    fresh = await _change_if_same(database, known, values)
    if fresh is not None and state is not known.state:
        await auditing.write(
            database,
            Actor(auditing.OUTSIDE),
            "connection.change",
            f"connection/{known.connection_id}",
            before={"state": known.state},
            after={"state": state, "endpoint_id": known.endpoint_id},
        )


# --- expectations


async def expect(
    database: AsyncConnection, actor: Actor, cluster_id: str, *, kind: ExpectationKind, value: str, reason: str
) -> tuple[Expectation, bool]:
    """Approve what matches as it appears; and whether that is new."""
    where = (
        (expectation.c.cluster_id == cluster_id) & (expectation.c.kind == kind) & (expectation.c.value == value.lower())
    )
    values = {"cluster_id": cluster_id, "kind": kind, "value": value.lower(), "reason": reason}
    statement = insert(expectation).values(id=f"ex{base32(10)}", created_by=actor.name, **values)
    row = (await database.execute(statement.on_conflict_do_nothing().returning(expectation))).one_or_none()
    if row is None:
        return _expectation((await database.execute(select(expectation).where(where))).one()), False
    await auditing.write(database, actor, "expectation.create", f"expectation/{row.id}", after=values)
    return _expectation(row), True


async def expected(database: AsyncConnection, cluster_id: str) -> Sequence[Expectation]:
    """All that is expected, newest first."""
    return await expected_page(database, cluster_id, after=None, limit=None)


async def expected_page(
    database: AsyncConnection, cluster_id: str, *, after: str | None, limit: int | None, containing: str | None = None
) -> Sequence[Expectation]:
    """What is expected, newest first, after the expectation ``after``. ``containing``: a part of its id or reason."""
    table = expectation
    query = select(table).where(table.c.cluster_id == cluster_id).order_by(table.c.created_at.desc(), table.c.id.desc())
    if containing is not None:
        of_value = table.c.value.icontains(containing, autoescape=True)
        query = query.where(of_value | table.c.reason.icontains(containing, autoescape=True))
    if after is not None:
        last = select(table.c.created_at, table.c.id).where(table.c.id == after).subquery()
        beyond = tuple_(table.c.created_at, table.c.id) < tuple_(last.c.created_at, last.c.id)
        query = query.join(last, beyond)
    return [_expectation(row) for row in (await database.execute(query.limit(limit))).all()]


async def unexpect(database: AsyncConnection, actor: Actor, cluster_id: str, expectation_id: str) -> None:
    """Expect something no longer; what was approved stays so. Raises ControlRefusedError(EXPECTATION_NOT_FOUND)."""
    where = (expectation.c.cluster_id == cluster_id) & (expectation.c.id == expectation_id)
    row = (await database.execute(delete(expectation).where(where).returning(expectation))).one_or_none()
    if row is None:
        raise ControlRefusedError(Code.EXPECTATION_NOT_FOUND, f"Nothing is expected under {expectation_id}.")
    before = {"kind": row.kind, "value": row.value}
    await auditing.write(database, actor, "expectation.remove", f"expectation/{expectation_id}", before=before)


async def note_match(database: AsyncConnection, expectation_id: str) -> None:
    """Keep that an expectation has been met."""
    where = (expectation.c.id == expectation_id) & expectation.c.matched_at.is_(None)
    await database.execute(update(expectation).where(where).values(matched_at=func.now()))


# --- rows


async def _change(database: AsyncConnection, cluster_id: str, values: dict[str, Any]) -> Link:
    statement = update(link).where(link.c.cluster_id == cluster_id).values(**values).returning(link)
    return _link((await database.execute(statement)).one())


async def _one(database: AsyncConnection, cluster_id: str, connection_id: str, *, lock: bool) -> Connection:
    table = connections_table
    query = select(table).where(table.c.id == connection_id, table.c.cluster_id == cluster_id)
    row = (await database.execute(query.with_for_update() if lock else query)).one_or_none()
    if row is None:
        raise ControlRefusedError(Code.CONNECTION_NOT_FOUND, f"The link has no connection {connection_id}.")
    return _connection(row)


async def _change_connection(database: AsyncConnection, before: Connection, values: dict[str, Any]) -> Connection:
    changed = await _change_if_same(database, before, values)
    if changed is None:
        raise ControlRefusedError(Code.CONNECTION_DECIDED)
    return changed


async def _change_if_same(database: AsyncConnection, before: Connection, values: dict[str, Any]) -> Connection | None:
    table = connections_table
    where = (table.c.id == before.connection_id) & (table.c.version == before.version)
    statement = update(table).where(where).values(version=before.version + 1, **values).returning(table)
    row = (await database.execute(statement)).one_or_none()
    return None if row is None else _connection(row)


def _who(before: Connection) -> str:
    if before.wanted is not None:
        return f"{before.decided_by} has decided to {before.wanted} it."
    who = "It has changed outside" if before.decided_by is None else f"{before.decided_by} has decided on it"
    return f"{who}: it is {before.state} now (version {before.version})."


def _json(problem: Problem | None) -> dict[str, str] | None:
    return None if problem is None else dataclasses.asdict(problem)


def _problem(value: dict[str, str] | None) -> Problem | None:
    return None if value is None else Problem(**value)


def _link(row: Row[Any]) -> Link:
    service = dict(row.spec["service"])
    for name in ("visible_to", "approved_at_once"):
        service[name] = tuple(service[name])
    return Link(
        cluster_id=row.cluster_id,
        state=LinkState(row.state),
        spec=LinkSpec(ServiceSpec(**service), row.spec["inherits_approval"]),
        may_disconnect=row.may_disconnect,
        alias=row.alias,
        nat_addresses=tuple(row.nat_addresses),
        problem=_problem(row.problem),
        published_at=row.published_at,
        observed_at=row.observed_at,
        version=row.version,
    )


def _connection(row: Row[Any]) -> Connection:
    return Connection(
        connection_id=row.id,
        cluster_id=row.cluster_id,
        name=row.name,
        endpoint_id=row.endpoint_id,
        subscription=row.subscription,
        state=ConnectionState(row.state),
        wanted=None if row.wanted is None else Decision(row.wanted),
        reason=row.reason,
        message=row.message,
        link_id=row.link_id,
        location=row.location,
        first_seen_at=row.first_seen_at,
        changed_at=row.changed_at,
        decided_by=row.decided_by,
        decided_at=row.decided_at,
        version=row.version,
        is_gone=row.is_gone,
        problem=_problem(row.problem),
    )


def _expectation(row: Row[Any]) -> Expectation:
    return Expectation(
        row.id,
        row.cluster_id,
        ExpectationKind(row.kind),
        row.value,
        row.reason,
        row.created_by,
        row.created_at,
        row.matched_at,
    )
