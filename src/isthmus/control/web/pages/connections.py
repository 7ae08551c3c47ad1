"""A cluster's private link: its alias, its connections and what to do about them, what is expected."""

from typing import Any, Final

from isthmus.control import auditing, clusters, links
from isthmus.control.api import traffic, views
from isthmus.control.api.refusals import field
from isthmus.control.api.routes import ProblemError
from isthmus.control.web.visits import Form, Moved, Notice, Page, View, Visit, address, body_of
from isthmus.link import names, states
from isthmus.link.states import ConnectionState, Decision
from isthmus.wire import control
from isthmus.wire.control import ExpectationKind, Verb

#: So many connections are on a page.
_PAGE: Final = 50
#: So much of a connection's history is shown; the rest is in the audit log.
_HISTORY: Final = 20

_DONE: Final = {
    Verb.APPROVE: "is approved: its packets pass.",
    Verb.REJECT: "is rejected: its packets are stopped.",
    Verb.REMOVE: "is removed. Only a new endpoint can connect again.",
}


async def link(visit: Visit) -> View:
    """The link, its connections, the oldest first, and what is expected."""
    cluster_id = visit.part("cluster_id")
    wanted = _state(visit.query("state"))
    async with visit.core.database.begin() as database:
        cluster = await clusters.get(database, cluster_id)
        found = await links.find(database, cluster_id)
        values: dict[str, Any] = {"cluster": views.cluster(cluster, ()), "link": None, "state": wanted}
        if found is not None:
            connected = await links.connections(database, cluster_id)
            page = await links.page(database, cluster_id, state=wanted, after=visit.query("after"), limit=_PAGE + 1)
            expected = await links.expected(database, cluster_id)
            values |= {
                "link": views.link(found, connected),
                "connections": [views.connection(one) for one in page[:_PAGE]],
                "next": _next(cluster_id, wanted, page),
                "expectations": [views.expectation(one) for one in expected],
                "can": _can,
                "traffic": traffic.view(cluster_id, visit.core.carrier.meter.glance(found.spec.service.service_id)),
            }
    live = (
        "clusters/link_facts",
        "clusters/link_traffic",
        "clusters/link_connections",
        "clusters/link_expectations",
    )
    return View(
        "clusters/link.html", f"Private link of {cluster_id}", "clusters", values, () if found is None else live
    )


async def connection(visit: Visit) -> View:
    """One connection: whose it is, what has become of it, what can be done."""
    cluster_id, connection_id = visit.part("cluster_id"), visit.part("connection_id")
    async with visit.core.database.begin() as database:
        cluster = await clusters.get(database, cluster_id)
        found = await links.connection(database, cluster_id, connection_id)
        subject = f"connection/{connection_id}"
        history = await auditing.entries(database, before=None, limit=_HISTORY, which=auditing.Filter(subject=subject))
    shown = views.connection(found)
    values = {
        "cluster": views.cluster(cluster, ()),
        "connection": shown,
        "can": _can,
        "subject": subject,
        "history": [views.entry(one) for one in history],
    }
    title = f"Connection of {found.endpoint_id.rpartition('/')[2]}"
    return View("clusters/connection.html", title, "clusters", values, ("clusters/connection_facts",))


async def decide(visit: Visit, form: Form) -> Moved:
    """Approve, reject or remove a connection that was looked at in a certain version."""
    cluster_id = visit.part("cluster_id")
    connection_id = str(visit.request.path_params.get("connection_id") or form.get("connection_id", ""))
    verb = Verb(form["do"])
    body = body_of(control.DecisionBody, reason=form.get("reason", ""), version=form.number("version"))
    decided, is_carried = await visit.core.carrier.decide(
        visit.actor, cluster_id, connection_id, Decision(verb.value), reason=body.reason, version=body.version
    )
    name = decided.endpoint_id.rpartition("/")[2]
    if is_carried:
        return Moved(visit.here, Notice(f"The connection of {name} {_DONE[verb]}"))
    visit.core.watch.wake()
    said = f"To {verb} the connection of {name} is written down. Azure does not answer now; it is done when it does."
    return Moved(visit.here, Notice(said, is_warning=True))


async def expect(visit: Visit, form: Form) -> Moved:
    """Approve an endpoint, or any of a subscription, as it appears."""
    cluster_id, text = visit.part("cluster_id"), form.get("expected", "")
    is_endpoint = text.startswith("/")
    body = body_of(
        control.ExpectationCreateRequest,
        endpoint_id=text if is_endpoint else None,
        subscription=None if is_endpoint else text.lower(),
        reason=form.get("reason", ""),
    )
    kind = ExpectationKind.ENDPOINT if is_endpoint else ExpectationKind.SUBSCRIPTION
    value = names.key(body.endpoint_id) if body.endpoint_id else body.subscription or ""
    async with visit.core.database.begin() as database:
        await clusters.get(database, cluster_id)
        _, is_new = await links.expect(database, visit.actor, cluster_id, kind=kind, value=value, reason=body.reason)
    visit.core.watch.wake()
    said = "It will be approved as it appears." if is_new else "It was expected already."
    return Moved(visit.here, Notice(said))


async def unexpect(visit: Visit, form: Form) -> Moved:
    """Expect it no longer."""
    cluster_id = visit.part("cluster_id")
    async with visit.core.database.begin() as database:
        await clusters.get(database, cluster_id)
        await links.unexpect(database, visit.actor, cluster_id, form.get("expectation_id", ""))
    return Moved(visit.here, Notice("It is expected no longer. What was approved stays approved."))


def _can(one: control.ConnectionView, verb: str) -> bool:
    """Whether a decision is one that the connection can still take."""
    state = ConnectionState(one.state.value)
    after = states.transition(state, Decision(verb))
    return one.wanted is None and after is not None and after is not state


def _state(text: str | None) -> ConnectionState | None:
    if text is None:
        return None
    try:
        return ConnectionState(text)
    except ValueError:
        raise ProblemError(field("state", "is no state of a connection")) from None


def _next(cluster_id: str, state: ConnectionState | None, page: Any) -> str | None:
    if len(page) <= _PAGE:
        return None
    return address("clusters", cluster_id, "link", state=state, after=page[_PAGE - 1].connection_id)


_DECISIONS: Final = {verb.value: decide for verb in Verb}

PAGES: Final = (
    Page("/clusters/{cluster_id}/link", link, {**_DECISIONS, "expect": expect, "unexpect": unexpect}),
    Page("/clusters/{cluster_id}/link/connections/{connection_id}", connection, _DECISIONS),
)
