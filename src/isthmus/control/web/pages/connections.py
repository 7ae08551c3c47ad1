"""A cluster's private link: its alias, its connections and what to do about them, what is expected."""

import functools
from collections.abc import Mapping
from typing import Any, Final

from isthmus.control import auditing, clusters, links
from isthmus.control.api import traffic, views
from isthmus.control.api.refusals import field
from isthmus.control.api.routes import ProblemError
from isthmus.control.web.pages import reports
from isthmus.control.web.visits import Form, Moved, Notice, Page, View, Visit, address, body_of
from isthmus.link import names, states
from isthmus.link.states import ConnectionState, Decision
from isthmus.wire import control
from isthmus.wire.control import ExpectationKind, Verb

#: So many connections, and so much that is expected, are on a page.
_PAGE: Final = 50
_LONGEST: Final = 200
#: So much of a connection's history is shown; the rest is in the audit log.
_HISTORY: Final = 20

_DONE: Final = {
    Verb.APPROVE: "is approved: its packets pass.",
    Verb.REJECT: "is rejected: its packets are stopped.",
    Verb.REMOVE: "is removed. Only a new endpoint can connect again.",
}


async def link(visit: Visit) -> View:
    """The link, its connections, the oldest first, what is expected, and how agents find the way."""
    cluster_id = visit.part("cluster_id")
    #: The state of both lists is in the address, each with names of its own.
    asked = {name: visit.query(name) for name in ("state", "find", "after", "expected", "expected_after")}
    wanted = _state(asked["state"])
    _check_lengths(asked)
    async with visit.core.database.begin() as database:
        cluster = await clusters.get(database, cluster_id)
        found = await links.find(database, cluster_id)
        values: dict[str, Any] = {"cluster": views.cluster(cluster, ()), "link": None}
        if found is not None:
            page = await links.page(
                database, cluster_id, state=wanted, after=asked["after"], limit=_PAGE + 1, containing=asked["find"]
            )
            expected = await links.expected_page(
                database, cluster_id, after=asked["expected_after"], limit=_PAGE + 1, containing=asked["expected"]
            )
            here = functools.partial(_address, cluster_id, asked)
            values |= {
                "link": views.link(
                    found, await links.counts(database, cluster_id), visit.core.carrier.progress.of(cluster_id)
                ),
                "asked": asked,
                "state": wanted,
                "connections": [views.connection(one) for one in page[:_PAGE]],
                "first": here(after=None) if asked["after"] else None,
                "next": here(after=page[_PAGE - 1].connection_id) if len(page) > _PAGE else None,
                "expectations": [views.expectation(one) for one in expected[:_PAGE]],
                "expected_first": here(expected_after=None) if asked["expected_after"] else None,
                "expected_next": (
                    here(expected_after=expected[_PAGE - 1].expectation_id) if len(expected) > _PAGE else None
                ),
                "can": _can,
            }
    if found is not None and found.alias:
        values |= {
            "traffic": traffic.view(cluster_id, visit.core.carrier.meter.glance(found.spec.service.service_id)),
            "reports": await reports.through_link(visit, cluster_id),
            "reports_shown": reports.SHOWN,
            "worst": reports.worst,
        }
    live = _LIVE if found is None else _LIVE_ON_ITS_WAY if not found.alias else _LIVE_WITH_A_LINK
    return View("clusters/link.html", f"Private link of {cluster_id}", "clusters", values, live)


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


def _check_lengths(asked: Mapping[str, str | None]) -> None:
    for name, text in asked.items():
        if text is not None and len(text) > _LONGEST:
            raise ProblemError(field(name, f"is longer than {_LONGEST} characters"))


def _address(cluster_id: str, asked: Mapping[str, str | None], **changes: str | None) -> str:
    """This page in another state."""
    return address("clusters", cluster_id, "link", **{**asked, **changes})


#: The page has other parts while there is no link, until its alias is there, and from then on.
_LIVE: Final = ("clusters/link_progress",)
_LIVE_ON_ITS_WAY: Final = (*_LIVE, "clusters/link_facts", "clusters/link_expectations")
_LIVE_WITH_A_LINK: Final = (
    *_LIVE_ON_ITS_WAY,
    "clusters/link_traffic",
    "clusters/link_connections",
    "clusters/link_reports",
)
_DECISIONS: Final = {verb.value: decide for verb in Verb}

PAGES: Final = (
    Page("/clusters/{cluster_id}/link", link, {**_DECISIONS, "expect": expect, "unexpect": unexpect}),
    Page("/clusters/{cluster_id}/link/connections/{connection_id}", connection, _DECISIONS),
)
