"""A cluster's link, published, changed and unpublished: a form, the plan of what it would do, and agreeing to that.

A plan is a page with an address, because nothing is changed by it: the form's values are in the address. From there it
is agreed to by its digest; a plan that has become another one meanwhile is shown instead of being done.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from isthmus.control import clusters, links, overviews, proposing
from isthmus.control.api import refusals, views
from isthmus.control.api.refusals import field
from isthmus.control.api.routes import ProblemError
from isthmus.control.clusters import Cluster
from isthmus.control.errors import DatabaseError
from isthmus.control.links import Link, LinkSpec
from isthmus.control.overviews import SeenAgent
from isthmus.control.proposing import Proposal
from isthmus.control.web import admitting
from isthmus.control.web.visits import Form, Moved, Notice, Page, View, Visit, address, body_of
from isthmus.kit.errors import ConfigError, IsthmusError
from isthmus.link import names
from isthmus.link.states import ConnectionState
from isthmus.wire import control
from isthmus.wire.control import LinkState

_FIELDS: Final = (
    "frontend_id",
    "nat_subnet_id",
    "service_id",
    "nat_addresses",
    "visible_to",
    "approved_at_once",
    "has_proxy_protocol",
    "inherits_approval",
)
_YES_OR_NO: Final = {"yes": True, "no": False}


@dataclass(frozen=True, slots=True)
class CutOff:
    """An endpoint that would lose its connection, and the agents that come through it."""

    connection: control.ConnectionView
    agents: Sequence[SeenAgent]


async def publish(visit: Visit) -> View:
    """The form, with what is there today or what was typed; and what that would do."""
    _check_admin(visit)
    cluster, found = await _cluster(visit)
    typed = {name: visit.query(name) for name in _FIELDS}
    # Sent once, an empty field is an answer as well.
    is_asked = "frontend_id" in visit.request.query_params
    values: dict[str, Any] = {
        "cluster": views.cluster(cluster, ()),
        "link": None if found is None else views.link(found, {}),
        "typed": typed if is_asked else _today(found),
        "proposal": None,
        "may_move": found is None or found.state is not LinkState.PUBLISHED,
        "base": address("clusters", cluster.cluster_id, "link", "publish"),
    }
    status = 200
    if is_asked:
        try:
            wish = _wish(cluster, found, typed)
            proposal = await proposing.propose(visit.core.database, visit.core.carrier, cluster, wish)
            values |= _shown(proposal) | {"flags": _flags(wish), "changes": _changes(proposal)}
        except (IsthmusError, ProblemError) as error:
            values["problem"] = _problem(visit, error)
            status = values["problem"].status
    title = "Publish a link" if found is None else "Change the link"
    return View("clusters/publish.html", f"{title} of {cluster.cluster_id}", "clusters", values, status=status)


async def publish_as_planned(visit: Visit, form: Form) -> Moved:
    """Publish what the address says, if that does what was shown."""
    cluster, found = await _cluster(visit)
    wish = _wish(cluster, found, {name: visit.query(name) for name in _FIELDS})
    core = visit.core
    await proposing.publish(core.database, core.carrier, visit.actor, cluster, wish, digest=_digest(form))
    core.watch.wake()
    said = "The link is being published." if found is None else "The link is being changed."
    return Moved(address("clusters", cluster.cluster_id, "link"), Notice(said))


async def unpublish(visit: Visit) -> View:
    """What would be removed, and who would be cut off by that."""
    _check_admin(visit)
    cluster, found = await _cluster(visit)
    force = visit.query("force") == "true"
    values: dict[str, Any] = {
        "cluster": views.cluster(cluster, ()),
        "link": None if found is None else views.link(found, {}),
        "force": force,
        "proposal": None,
        "cut_off": (),
        "base": address("clusters", cluster.cluster_id, "link", "unpublish"),
    }
    status = 200
    try:
        proposal = await proposing.propose(visit.core.database, visit.core.carrier, cluster, None, force=force)
        values |= _shown(proposal) | {"cut_off": await _cut_off(visit, cluster)}
    except (IsthmusError, ProblemError) as error:
        values["problem"] = _problem(visit, error)
        status = values["problem"].status
    title = f"Unpublish the link of {cluster.cluster_id}"
    return View("clusters/unpublish.html", title, "clusters", values, status=status)


async def unpublish_as_planned(visit: Visit, form: Form) -> Moved:
    """Unpublish, if that does what was shown, and if they know which cluster they are at."""
    cluster, _ = await _cluster(visit)
    if form.get("confirmation") != cluster.cluster_id:
        raise ProblemError(field("confirmation", f"is not {cluster.cluster_id}"))
    core = visit.core
    force = visit.query("force") == "true"
    await proposing.unpublish(core.database, core.carrier, visit.actor, cluster, force=force, digest=_digest(form))
    core.watch.wake()
    return Moved(address("clusters", cluster.cluster_id, "link"), Notice("The link is being unpublished."))


async def _cluster(visit: Visit) -> tuple[Cluster, Link | None]:
    async with visit.core.database.begin() as database:
        cluster = await clusters.get(database, visit.part("cluster_id"))
        return cluster, await links.find(database, cluster.cluster_id)


async def _cut_off(visit: Visit, cluster: Cluster) -> list[CutOff]:
    async with visit.core.database.begin() as database:
        connected = await links.connections(database, cluster.cluster_id)
    agents = (await visit.core.operating.overview(cluster.cluster_id)).agents
    return [
        CutOff(views.connection(one), overviews.through(agents, one))
        for one in connected
        if one.state is ConnectionState.APPROVED
    ]


def _check_admin(visit: Visit) -> None:
    """A plan asks the cloud, with the rights of the control plane. Raises ProblemError."""
    if not visit.is_admin:
        raise admitting.role_refused(visit.session)


def _problem(visit: Visit, error: Exception) -> Any:
    """What the page says is wrong: what was refused just now, or why there is no plan."""
    if isinstance(error, DatabaseError):
        raise error
    return visit.problem or (error.problem if isinstance(error, ProblemError) else refusals.problem_of(error))


def _digest(form: Form) -> str:
    return form.get("plan") or "none"


def _shown(proposal: Proposal) -> dict[str, Any]:
    return {"proposal": views.plan(proposal), "is_empty": proposal.is_empty}


def _today(found: Link | None) -> dict[str, str | None]:
    """What the form has when it is opened."""
    if found is None:
        return dict.fromkeys(_FIELDS)
    body = views.body(found.spec).model_dump(mode="json")
    return {name: _typed(body[name]) for name in _FIELDS}


def _typed(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "\n".join(value) if isinstance(value, list) else str(value)


def _wish(cluster: Cluster, found: Link | None, typed: dict[str, str | None]) -> LinkSpec:
    """The link that was asked for. Raises ProblemError."""
    frontend_id = typed["frontend_id"] or ""
    body = body_of(
        control.LinkBody,
        service_id=typed["service_id"] or _service_id(cluster, found, frontend_id),
        frontend_id=frontend_id,
        nat_subnet_id=typed["nat_subnet_id"] or "",
        nat_addresses=Form({"nat_addresses": typed["nat_addresses"] or "1"}).number("nat_addresses"),
        visible_to=_lines(typed["visible_to"]) or ("*",),
        approved_at_once=_lines(typed["approved_at_once"]),
        has_proxy_protocol=_YES_OR_NO.get(typed["has_proxy_protocol"] or "yes", True),
        inherits_approval=_YES_OR_NO.get(typed["inherits_approval"] or "yes", True),
    )
    return views.spec(body, cluster)


def _service_id(cluster: Cluster, found: Link | None, frontend_id: str) -> str:
    if found is not None:
        return found.spec.service.service_id
    try:
        return names.service_beside(frontend_id, cluster.cluster_id)
    except ConfigError as error:
        raise ProblemError(field("frontend_id", "is not the id of a load balancer's frontend")) from error


def _lines(text: str | None) -> tuple[str, ...]:
    return tuple(one.lower() for one in Form({"text": text or ""}).lines("text"))


def _changes(proposal: Proposal) -> list[tuple[str, str, str]]:
    """What is another value than today: its field, what it was, what it becomes."""
    if proposal.before is None or proposal.wish is None:
        return []
    before, after = (views.body(one).model_dump(mode="json") for one in (proposal.before.spec, proposal.wish))
    return [(name, _typed(before[name]), _typed(after[name])) for name in _FIELDS if before[name] != after[name]]


def _flags(wish: LinkSpec) -> list[tuple[str, str | None]]:
    """The options of ``isthmus link publish`` that ask for the same."""
    service = wish.service
    flags: list[tuple[str, str | None]] = [
        ("--frontend", service.frontend_id),
        ("--nat-subnet", service.nat_subnet_id),
        ("--service", service.service_id),
        ("--nat-addresses", str(service.nat_addresses)),
    ]
    flags += [("--visible-to", one) for one in service.visible_to if service.visible_to != ("*",)]
    flags += [("--approve-at-once", one) for one in service.approved_at_once]
    flags += [] if service.has_proxy_protocol else [("--no-proxy-protocol", None)]
    flags += [] if wish.inherits_approval else [("--no-inherit", None)]
    return flags


PAGES: Final = (
    Page("/clusters/{cluster_id}/link/publish", publish, {"publish": publish_as_planned}),
    Page("/clusters/{cluster_id}/link/unpublish", unpublish, {"unpublish": unpublish_as_planned}),
)
