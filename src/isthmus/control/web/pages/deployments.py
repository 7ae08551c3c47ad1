"""Deployments: the list, and one deployment's details.

What is the deployment's own comes from its admin API. One that does not answer has its pages all the same, with the
reason and what was seen last; ``asked`` is how every page asks.
"""

import functools
from collections.abc import Awaitable, Callable
from typing import Any, Final

from isthmus.control import clusters
from isthmus.control.api import refusals, views
from isthmus.control.errors import ControlRefusedError, DatabaseError
from isthmus.control.operating import OperatedDeployment
from isthmus.control.web.visits import Page, View, Visit, address
from isthmus.kit.errors import IsthmusError
from isthmus.wire.problems import Code

_PAGE: Final = 50


async def listed(visit: Visit) -> View:
    """All deployments, and how they are doing."""
    overview = await visit.core.operating.summary()
    after = visit.query("after") or ""
    rows = [(cluster, sight) for cluster, sight in overview.deployments if sight.deployment.deployment_id > after]
    rows.sort(key=lambda one: one[1].deployment.deployment_id)
    values = {
        "rows": rows[:_PAGE],
        "last": rows[_PAGE - 1][1].deployment.deployment_id if len(rows) > _PAGE else None,
        "clusters_there": bool(overview.deployments) or await _any_cluster(visit),
    }
    return View("deployments/list.html", "Deployments", "deployments", values, ("deployments/rows",))


async def details(visit: Visit) -> View:
    """One deployment: what agents are given, versions, what it holds."""

    async def ask(operated: OperatedDeployment) -> dict[str, Any]:
        return {"view": await operated.show()}

    return await asked(visit, "details", "Details", ask, ("deployments/facts",))


async def asked(
    visit: Visit,
    tab: str,
    title: str,
    ask: Callable[[OperatedDeployment], Awaitable[dict[str, Any]]],
    live: tuple[str, ...] = (),
) -> View:
    """A page of a deployment. ``ask`` gives the template's values; without an answer the page says why there is none.

    Raises ControlRefusedError: CLUSTER_NOT_FOUND, DEPLOYMENT_NOT_FOUND.
    """
    cluster_id, deployment_id = visit.part("cluster_id"), visit.part("deployment_id")
    async with visit.core.database.begin() as database:
        cluster = await clusters.get(database, cluster_id)
    operated = await visit.core.operating.deployment(cluster_id, deployment_id)
    values: dict[str, Any] = {
        "tab": tab,
        "cluster": views.cluster(cluster, ()),
        "registration": views.registration(operated.registered, cluster.host),
        "where": f"--deployment-id {deployment_id} --cluster {cluster_id}",
        "api": f"/control/v1/clusters/{cluster_id}/deployments/{deployment_id}/admin/v1",
        "below": functools.partial(address, "clusters", cluster_id, "deployments", deployment_id),
        "away": None,
    }
    heading = f"{title} · {deployment_id}"
    try:
        values |= await ask(operated)
    except DatabaseError:
        raise
    except IsthmusError as error:
        if isinstance(error, ControlRefusedError) and error.problem in _OURS:
            raise
        values["away"] = refusals.problem_of(error)
        return View("deployments/away.html", heading, "deployments", values, ("deployments/away_note",))
    return View(f"deployments/{tab}.html", heading, "deployments", values, live)


async def operated_by(visit: Visit) -> OperatedDeployment:
    """The deployment that a form is about."""
    return await visit.core.operating.deployment(visit.part("cluster_id"), visit.part("deployment_id"))


async def _any_cluster(visit: Visit) -> bool:
    async with visit.core.database.begin() as database:
        return bool(await clusters.listed(database, after=None, limit=1))


_OURS: Final = (Code.CLUSTER_NOT_FOUND, Code.DEPLOYMENT_NOT_FOUND)

#: What the addresses of a deployment's pages begin with.
BASE: Final = "/clusters/{cluster_id}/deployments/{deployment_id}"

PAGES: Final = (Page("/deployments", listed), Page(BASE, details))
