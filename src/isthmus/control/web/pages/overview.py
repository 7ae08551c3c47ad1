"""Overview: what there is, which way traffic takes, and what is wrong with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from isthmus.control import clusters, conditions, links
from isthmus.control.api import views
from isthmus.control.overviews import Overview
from isthmus.control.web import pictures
from isthmus.control.web.visits import Page, View, Visit, address
from isthmus.link.states import ConnectionState
from isthmus.wire.admin import AgentHealth
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
    seen = await visit.core.operating.overview()
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
                [agent for agent in seen.agents if agent.sight.deployment.cluster_id == one.cluster_id],
                cidr=str(one.cidr),
            ),
        )
        for one in found[:_DRAWN]
    ]
    troubles = [*_of_deployments(seen), *_of_links(published), *_of_connections(connected), *_of_agents(seen)]
    values = {
        "counts": counts,
        "numbers": _numbers(seen),
        "pictures": drawn,
        "has_more": len(found) > _DRAWN,
        "troubles": troubles[:_NAMED],
        "further": max(0, len(troubles) - _NAMED),
        "warnings": [conditions.to_wire(one) for one in visit.health.visible()],
    }
    return View("overview/overview.html", "Overview", "overview", values, ("overview/state", "overview/pictures"))


def _numbers(seen: Overview) -> dict[str, int]:
    shown = [sight.view for _, sight in seen.deployments if sight.view is not None]
    return {
        "healthy": sum(one.agents_healthy for one in shown),
        "unhealthy": sum(one.agents_unhealthy for one in shown),
        "queued": sum(one.workloads_queued for one in shown),
        "active": sum(one.workloads_active for one in shown),
    }


def _of_deployments(seen: Overview) -> list[Trouble]:
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
            f"Endpoint {one.endpoint_id.rpartition('/')[2]}",
            address("clusters", cluster_id, "link", "connections", one.connection_id),
            "waits for a decision: nothing of it passes",
            "Approve or reject it.",
        )
        for cluster_id, found in connected.items()
        for one in found
        if one.state is ConnectionState.PENDING and one.wanted is None
    ]


def _of_agents(seen: Overview) -> list[Trouble]:
    found = []
    for one in seen.agents:
        if one.agent.health is not AgentHealth.UNHEALTHY or one.reason is None:
            continue
        registered = one.sight.deployment
        parts = ("clusters", registered.cluster_id, "deployments", registered.deployment_id, "agents")
        url = address(*parts, str(one.agent.agent_id))
        found.append(Trouble("error", f"Agent {one.agent.name}", url, one.reason.sentence, one.reason.hint))
    return found


PAGES: Final = (Page("/overview", overview),)
