"""Overview: what there is, which way traffic takes, and what is wrong with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from isthmus.control import clusters, conditions, links
from isthmus.control.api import views
from isthmus.control.overviews import Summary
from isthmus.control.web import pictures, plots
from isthmus.control.web.visits import Page, View, Visit, address
from isthmus.link import names
from isthmus.link.states import ConnectionState
from isthmus.wire.problems import Code

#: So many clusters are drawn, and so many things that are wrong are named; the rest is counted.
_DRAWN: Final = 4
_NAMED: Final = 20


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is wrong: what, why, what to do, and where."""

    severity: str
    what: str
    url: str
    why: str
    hint: str = ""


async def overview(visit: Visit) -> View:
    """Everything at a glance."""
    seen = await visit.core.operating.summary()
    async with visit.core.database.begin() as database:
        counts = await clusters.counts(database)
        found = await clusters.listed(database, after=None, limit=_DRAWN + 1)
        published = {one.cluster_id: one for one in await links.all_of_them(database)}
        connected = {one: await links.connections(database, one) for one in published}
    drawn = [
        (
            views.cluster(one, ()),
            pictures.picture(
                one.cluster_id,
                published.get(one.cluster_id),
                connected.get(one.cluster_id, ()),
                [sight for cluster, sight in seen.deployments if cluster.cluster_id == one.cluster_id],
                [crowd for crowd in seen.crowds if crowd.cluster_id == one.cluster_id],
                cidr=str(one.cidr),
            ),
        )
        for one in found[:_DRAWN]
    ]
    troubles = [
        *_of_deployments(seen),
        *_of_doors(seen),
        *_of_links(published),
        *_of_connections(connected),
        *_of_agents(seen),
    ]
    values = {
        "counts": counts,
        "numbers": _numbers(seen),
        "pictures": drawn,
        "has_more": len(found) > _DRAWN,
        "troubles": troubles[:_NAMED],
        "further": max(0, len(troubles) + _unnamed(seen) - _NAMED),
        "plot": plots.throughput(plots.together(sight.minutes for _, sight in seen.deployments)),
        "width": plots.WIDTH,
        "height": plots.HEIGHT,
        "warnings": [conditions.to_wire(one) for one in visit.health.visible()],
    }
    live = ("overview/state", "overview/throughput", "overview/pictures")
    return View("overview/overview.html", "Overview", "overview", values, live)


def _numbers(seen: Summary) -> dict[str, int]:
    shown = [sight.view for _, sight in seen.deployments if sight.view is not None]
    return {
        "seen": len(shown),
        "healthy": sum(one.agents_healthy for one in shown),
        "unhealthy": sum(one.agents_unhealthy for one in shown),
        "queued": sum(one.workloads_queued for one in shown),
        "active": sum(one.workloads_active for one in shown),
    }


def _unnamed(seen: Summary) -> int:
    """Unhealthy agents that are counted alone."""
    known = (sight.view.agents_unhealthy for _, sight in seen.deployments if sight.view is not None)
    return max(0, sum(known) - len(seen.unhealthy))


def _of_deployments(seen: Summary) -> list[Trouble]:
    return [
        Trouble(
            "warning" if sight.problem.code == Code.ADMIN_NOT_CONFIGURED else "error",
            f"Deployment {sight.deployment.deployment_id}",
            address("clusters", cluster.cluster_id, "deployments", sight.deployment.deployment_id),
            sight.problem.sentence,
            sight.problem.hint,
        )
        for cluster, sight in seen.deployments
        if sight.problem is not None
    ]


def _of_doors(seen: Summary) -> list[Trouble]:
    return [
        Trouble(
            "error",
            f"The door of {sight.deployment.deployment_id}",
            address("clusters", cluster.cluster_id, "deployments", sight.deployment.deployment_id, "refused"),
            "turns away one caller that still knocks"
            if sight.view.callers_refused == 1
            else f"turns away {sight.view.callers_refused} callers that still knock",
            "See who, and why.",
        )
        for cluster, sight in seen.deployments
        if sight.problem is None and sight.view is not None and sight.view.callers_refused
    ]


def _of_links(published: dict[str, links.Link]) -> list[Trouble]:
    return [
        Trouble("error", f"Link of {one}", address("clusters", one, "link"), link.problem.sentence, link.problem.hint)
        for one, link in published.items()
        if link.problem is not None
    ]


def _of_connections(connected: Mapping[str, Sequence[links.Connection]]) -> list[Trouble]:
    return [
        Trouble(
            "warning",
            f"Endpoint {names.brief(one.endpoint_id)}",
            address("clusters", cluster_id, "link", "connections", one.connection_id),
            "waits for a decision: nothing of it passes",
            "Approve or reject it.",
        )
        for cluster_id, found in connected.items()
        for one in found
        if one.state is ConnectionState.PENDING and one.wanted is None
    ]


def _of_agents(seen: Summary) -> list[Trouble]:
    found = []
    for one in seen.unhealthy:
        if one.reason is None:
            continue
        registered = one.sight.deployment
        parts = ("clusters", registered.cluster_id, "deployments", registered.deployment_id, "agents")
        url = address(*parts, str(one.agent.agent_id))
        found.append(Trouble("error", f"Agent {one.agent.name}", url, one.reason.sentence, one.reason.hint))
    return found


PAGES: Final = (Page("/overview", overview),)
