"""Organization settings › Clusters: the list, a new one, and one cluster's details."""

from typing import Final

from isthmus.control import clusters
from isthmus.control.api import views
from isthmus.control.web.visits import Form, Moved, Notice, Page, View, Visit, address, body_of
from isthmus.wire import control
from isthmus.wire.bodies import Request

#: So many are on a page of a list.
_PAGE: Final = 50


async def listed(visit: Visit) -> View:
    """All clusters, by id."""
    async with visit.core.database.begin() as database:
        found = await clusters.listed(database, after=visit.query("after"), limit=_PAGE + 1)
        ids = await clusters.deployment_ids(database, [one.cluster_id for one in found])
    shown = [views.cluster(one, ids.get(one.cluster_id, ())) for one in found[:_PAGE]]
    after = shown[-1].cluster_id if len(found) > _PAGE else None
    values = {"clusters": shown, "next": address("clusters", after=after) if after else None}
    return View("clusters/list.html", "Clusters", "clusters", values)


async def new(visit: Visit) -> View:
    """The form for a cluster."""
    return View("clusters/new.html", "Create a cluster", "clusters")


async def create(visit: Visit, form: Form) -> Moved:
    """Create a cluster."""
    body = body_of(
        control.ClusterCreateRequest,
        cluster_id=form.text("cluster_id"),
        cidr=form.get("cidr", ""),
        domain=form.get("domain", ""),
        region=form.get("region", ""),
    )
    async with visit.core.database.begin() as database:
        made, is_new = await clusters.create(database, visit.actor, **body.model_dump())
    said = f"Cluster {made.cluster_id} is created." if is_new else f"Cluster {made.cluster_id} was there just so."
    return Moved(address("clusters", made.cluster_id), Notice(said))


async def details(visit: Visit) -> View:
    """One cluster: its facts, and the deployments behind its ingress."""
    async with visit.core.database.begin() as database:
        found = await clusters.get(database, visit.part("cluster_id"))
        registered = await clusters.deployments(database, found.cluster_id)
    shown = views.cluster(found, (one.deployment_id for one in registered))
    values = {"cluster": shown, "deployments": [views.registration(one, found.host) for one in registered]}
    return View("clusters/details.html", found.cluster_id, "clusters", values)


async def register(visit: Visit, form: Form) -> Moved:
    """Register a deployment, or change its registration."""
    deployment_id = form.get("deployment_id", "")
    body_of(_Named, deployment_id=deployment_id)
    body = body_of(
        control.DeploymentBody,
        servers=form.lines("servers"),
        tls_name=form.text("tls_name"),
        admin_url=form.text("admin_url"),
        admin_token_reference=form.get("admin_token_reference", ""),
    )
    cluster_id = visit.part("cluster_id")
    values = body.model_dump() | {"servers": list(body.servers)}
    async with visit.core.database.begin() as database:
        await clusters.register(database, visit.actor, cluster_id, deployment_id, values)
    return Moved(address("clusters", cluster_id), Notice(f"Deployment {deployment_id} is registered."))


async def unregister(visit: Visit, form: Form) -> Moved:
    """Strike a deployment off."""
    cluster_id, deployment_id = visit.part("cluster_id"), form.get("deployment_id", "")
    async with visit.core.database.begin() as database:
        await clusters.unregister(database, visit.actor, cluster_id, deployment_id)
    said = f"Deployment {deployment_id} is struck off: the ingress leads there no more. It goes on by itself."
    return Moved(address("clusters", cluster_id), Notice(said))


class _Named(Request):
    """What is in the path of the API, and a field here."""

    deployment_id: control.DeploymentId


PAGES: Final = (
    Page("/clusters", listed),
    Page("/clusters/new", new, {"create": create}),
    Page("/clusters/{cluster_id}", details, {"register": register, "unregister": unregister}),
)
