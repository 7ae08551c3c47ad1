"""The routes of the control plane's API. Each calls the core in one transaction and shows what came out.

Whoever calls has been let in by ``guarding`` already, which leaves the operator in the request's scope; ``GET`` needs
the role viewer and everything else admin, decided there as well.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Query, Response
from fastapi import Request as HttpRequest
from pydantic import AwareDatetime, BaseModel, BeforeValidator

from isthmus import __version__
from isthmus.control import auditing, clusters, links, operators, proposing
from isthmus.control.api import views
from isthmus.control.api.documents import responses
from isthmus.control.api.refusals import field
from isthmus.control.auditing import Actor
from isthmus.control.carrying import Carrier
from isthmus.control.databases import Database
from isthmus.control.operating import Operating
from isthmus.control.watching import Watch
from isthmus.link import names
from isthmus.link.states import ConnectionState, Decision
from isthmus.wire import control, paths
from isthmus.wire import names as wire_names
from isthmus.wire.control import CLUSTER_ID_PATTERN
from isthmus.wire.names import DEPLOYMENT_ID_PATTERN
from isthmus.wire.problems import Code, Problem

#: Where ``guarding`` leaves who calls.
ACTOR: Final = "isthmus.actor"

#: What any route may answer with.
EVERYWHERE: Final = (
    Code.OPERATOR_TOKEN_INVALID,
    Code.OPERATOR_ROLE,
    Code.REQUEST_INVALID,
    Code.BODY_MALFORMED,
    Code.BODY_TOO_LARGE,
    Code.METHOD_NOT_ALLOWED,
    Code.DATABASE_UNAVAILABLE,
    Code.INTERNAL,
)

ClusterId = Annotated[str, Path(pattern=CLUSTER_ID_PATTERN)]
DeploymentId = Annotated[str, Path(pattern=DEPLOYMENT_ID_PATTERN)]
ConnectionId = Annotated[str, Path(pattern=r"^cn[a-z2-7]{10}$")]
ExpectationId = Annotated[str, Path(pattern=r"^ex[a-z2-7]{10}$")]
OperatorName = Annotated[str, Path(max_length=64, pattern=r"^[a-z0-9][-a-z0-9._@]*$")]
Limit = Annotated[int, Query(ge=1, le=500)]
After = Annotated[str, Query(max_length=64, pattern=r"^[a-z0-9]+$")]
Before = Annotated[int, Query(ge=1, le=2**62)]
AfterName = Annotated[str, Query(max_length=64, pattern=r"^[a-z0-9][-a-z0-9._@]*$")]
Find = Annotated[str, Query(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]
PlanDigest = Annotated[str, Query(pattern=r"^[0-9a-f]{32}$")]
Subject = Annotated[str, Query(max_length=200, pattern=r"^[a-z]+/[-a-z0-9._@]+$")]


def _is_written_out(value: object) -> object:
    """Numbers are times too, to pydantic; on the wire they are a mistake."""
    if isinstance(value, str) and "-" not in value[1:]:
        raise ValueError("a time is written as 2026-11-23T08:00:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_is_written_out)]
OperatorFilter = Annotated[str, Query(max_length=64, pattern=r"^[a-z0-9][-a-z0-9._@]*$")]
ActionFilter = Annotated[str, Query(max_length=64, pattern=r"^[a-z]+(\.[a-z_]+)?$")]


class ProblemError(Exception):
    """A request that cannot be taken as it is; ``problem`` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Core:
    """What the routes work on."""

    database: Database
    carrier: Carrier
    watch: Watch
    organization: str
    operating: Operating


def router(core: Core) -> APIRouter:
    """All routes."""
    routes = APIRouter(responses=responses(EVERYWHERE), dependencies=[Depends(_known_parameters)])
    _add_organization(routes, core)
    _add_clusters(routes, core)
    _add_deployments(routes, core)
    _add_links(routes, core)
    _add_connections(routes, core)
    _add_expectations(routes, core)
    _add_operators(routes, core)
    return routes


async def _known_parameters(request: HttpRequest) -> None:
    """A query parameter that the route does not have is a typo, not a wish to be ignored."""
    known = {one.alias for one in request.scope["route"].dependant.query_params}
    for name in request.query_params:
        if name not in known:
            raise ProblemError(field(f"query.{name}"[:100], "is not a parameter of this path"))


def _actor(request: HttpRequest) -> Actor:
    actor: Actor = request.scope[ACTOR]
    return actor


Who = Annotated[Actor, Depends(_actor)]


def may(*codes: Code, also: dict[int, type[BaseModel]] | None = None) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that may answer with these besides what any may; ``also``: bodies by status."""
    found = responses((*EVERYWHERE, *codes))
    for status, model in (also or {}).items():
        found[status] = {"model": model, "description": "Successful Response"}
    return found


def _add_organization(routes: APIRouter, core: Core) -> None:
    @routes.get(paths.CONTROL_ORGANIZATION, operation_id="organization")
    async def organization() -> control.OrganizationView:
        """The organization, in numbers."""
        async with core.database.begin() as database:
            counts = await clusters.counts(database)
        return control.OrganizationView(name=core.organization, version=__version__, **counts)

    @routes.get(paths.CONTROL_AUDIT, operation_id="audit")
    async def audit(
        *,
        before: Before | None = None,
        limit: Limit = 100,
        subject: Subject | None = None,
        operator: OperatorFilter | None = None,
        action: ActionFilter | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
    ) -> control.AuditPage:
        """A page of the audit log, newest first. ``action`` is one, or all of a thing's, as in ``link``."""
        which = auditing.Filter(subject, operator, action, since, until)
        async with core.database.begin() as database:
            found = await auditing.entries(database, before=before, limit=limit, which=which)
        last = found[-1].entry_id if len(found) == limit else None
        return control.AuditPage(entries=tuple(views.entry(one) for one in found), next_before=last)


def _add_clusters(routes: APIRouter, core: Core) -> None:
    @routes.get(paths.CONTROL_CLUSTERS, operation_id="clusters")
    async def list_clusters(after: After | None = None, limit: Limit = 100) -> control.ClusterPage:
        """A page of clusters by id."""
        async with core.database.begin() as database:
            found = await clusters.listed(database, after=after, limit=limit)
            deployments = await clusters.deployment_ids(database, [one.cluster_id for one in found])
        shown = tuple(views.cluster(one, deployments.get(one.cluster_id, ())) for one in found)
        return control.ClusterPage(clusters=shown, next_after=found[-1].cluster_id if len(found) == limit else None)

    @routes.post(
        paths.CONTROL_CLUSTERS,
        operation_id="create_cluster",
        status_code=201,
        responses=may(Code.CLUSTER_EXISTS, also={200: control.ClusterView}),
    )
    async def create_cluster(body: control.ClusterCreateRequest, who: Who, response: Response) -> control.ClusterView:
        """Record a cluster. One that is there just so is as good: 200."""
        async with core.database.begin() as database:
            made, is_new = await clusters.create(database, who, **body.model_dump())
            deployments = await clusters.deployment_ids(database, [made.cluster_id])
        response.status_code = 201 if is_new else 200
        return views.cluster(made, deployments.get(made.cluster_id, ()))

    @routes.get(paths.CONTROL_CLUSTER, operation_id="cluster", responses=may(Code.CLUSTER_NOT_FOUND))
    async def cluster(cluster_id: ClusterId) -> control.ClusterView:
        """One cluster."""
        async with core.database.begin() as database:
            found = await clusters.get(database, cluster_id)
            deployments = await clusters.deployment_ids(database, [cluster_id])
        return views.cluster(found, deployments.get(cluster_id, ()))

    @routes.get(paths.CONTROL_INGRESS, operation_id="ingress", responses=may(Code.CLUSTER_NOT_FOUND))
    async def ingress(cluster_id: ClusterId) -> control.IngressView:
        """What the cluster's ingress should do."""
        async with core.database.begin() as database:
            found = await clusters.get(database, cluster_id)
            deployments = await clusters.deployments(database, cluster_id)
            return views.ingress(found, deployments, await links.find(database, cluster_id))


def _add_deployments(routes: APIRouter, core: Core) -> None:
    @routes.get(paths.CONTROL_DEPLOYMENTS, operation_id="deployments", responses=may(Code.CLUSTER_NOT_FOUND))
    async def deployments(cluster_id: ClusterId) -> control.DeploymentPage:
        """The deployments of a cluster."""
        async with core.database.begin() as database:
            cluster = await clusters.get(database, cluster_id)
            found = await clusters.deployments(database, cluster_id)
        return control.DeploymentPage(deployments=tuple(views.registration(one, cluster.host) for one in found))

    @routes.put(
        paths.CONTROL_DEPLOYMENT,
        operation_id="register_deployment",
        responses=may(Code.CLUSTER_NOT_FOUND, Code.DEPLOYMENT_EXISTS),
    )
    async def register(
        cluster_id: ClusterId, deployment_id: DeploymentId, body: control.DeploymentBody, who: Who
    ) -> control.DeploymentRegistration:
        """Register a deployment, or change where it is: the ingress follows within seconds."""
        async with core.database.begin() as database:
            cluster = await clusters.get(database, cluster_id)
            values = body.model_dump(mode="json")
            made = await clusters.register(database, who, cluster_id, deployment_id, values)
        return views.registration(made, cluster.host)

    @routes.delete(
        paths.CONTROL_DEPLOYMENT,
        operation_id="unregister_deployment",
        status_code=204,
        responses=may(Code.CLUSTER_NOT_FOUND),
    )
    async def unregister(cluster_id: ClusterId, deployment_id: DeploymentId, who: Who) -> None:
        """Strike a deployment off the registry: the ingress does not lead to it any more."""
        async with core.database.begin() as database:
            await clusters.unregister(database, who, cluster_id, deployment_id)
        await core.operating.forget(deployment_id)


def _add_links(routes: APIRouter, core: Core) -> None:
    @routes.get(paths.CONTROL_LINK, operation_id="link", responses=may(Code.CLUSTER_NOT_FOUND, Code.LINK_NOT_FOUND))
    async def link(cluster_id: ClusterId) -> control.LinkView:
        """The cluster's link as it was seen last."""
        async with core.database.begin() as database:
            await clusters.get(database, cluster_id)
            found = await links.get(database, cluster_id)
            connected = await links.counts(database, cluster_id)
        return views.link(found, connected, core.carrier.progress.of(cluster_id))

    @routes.put(
        paths.CONTROL_LINK,
        operation_id="publish_link",
        status_code=202,
        responses=may(
            Code.CLUSTER_NOT_FOUND, Code.LINK_EXISTS, Code.PLAN_CHANGED, Code.CLOUD_REFUSED, Code.CLOUD_UNAVAILABLE
        ),
    )
    async def publish(
        cluster_id: ClusterId, body: control.LinkBody, who: Who, plan: PlanDigest | None = None
    ) -> control.LinkView:
        """Publish a link, or change the one that there is. It is done in the background: look at its state.

        ``plan`` is the digest of the plan that was agreed to; without one the cloud is not asked first.
        """
        cluster = await _cluster(core, cluster_id)
        wish = views.spec(body, cluster)
        wished = await proposing.publish(core.database, core.carrier, who, cluster, wish, digest=plan)
        core.watch.wake()
        return await _shown(core, wished)

    @routes.delete(
        paths.CONTROL_LINK,
        operation_id="unpublish_link",
        status_code=202,
        responses=may(
            Code.CLUSTER_NOT_FOUND,
            Code.LINK_NOT_FOUND,
            Code.LINK_IN_USE,
            Code.PLAN_CHANGED,
            Code.CLOUD_REFUSED,
            Code.CLOUD_UNAVAILABLE,
        ),
    )
    async def unpublish(
        *, cluster_id: ClusterId, who: Who, force: bool = False, plan: PlanDigest | None = None
    ) -> control.LinkView:
        """Unpublish the link, in the background. With ``force`` connected endpoints are cut off for good.

        ``plan`` is the digest of the plan that was agreed to; without one the cloud is not asked first.
        """
        cluster = await _cluster(core, cluster_id)
        wished = await proposing.unpublish(core.database, core.carrier, who, cluster, force=force, digest=plan)
        core.watch.wake()
        return await _shown(core, wished)

    @routes.post(
        paths.CONTROL_LINK_PLAN,
        operation_id="plan_link",
        responses=may(
            Code.CLUSTER_NOT_FOUND, Code.LINK_NOT_FOUND, Code.LINK_EXISTS, Code.CLOUD_REFUSED, Code.CLOUD_UNAVAILABLE
        ),
    )
    async def plan(cluster_id: ClusterId, body: control.LinkPlanRequest) -> control.PlanView:
        """What publishing or unpublishing would do now; nothing is changed."""
        cluster = await _cluster(core, cluster_id)
        wish = None if body.link is None else views.spec(body.link, cluster)
        return views.plan(await proposing.propose(core.database, core.carrier, cluster, wish, force=body.force))


async def _cluster(core: Core, cluster_id: str) -> clusters.Cluster:
    async with core.database.begin() as database:
        return await clusters.get(database, cluster_id)


async def _shown(core: Core, wished: links.Link) -> control.LinkView:
    async with core.database.begin() as database:
        return views.link(wished, await links.counts(database, wished.cluster_id))


def _add_connections(routes: APIRouter, core: Core) -> None:
    @routes.get(
        paths.CONTROL_CONNECTIONS,
        operation_id="connections",
        responses=may(Code.CLUSTER_NOT_FOUND, Code.LINK_NOT_FOUND),
    )
    async def connections(
        cluster_id: ClusterId,
        state: wire_names.ConnectionState | None = None,
        find: Find | None = None,
        after: After | None = None,
        limit: Limit = 100,
    ) -> control.ConnectionPage:
        """A page of connections, the oldest first; those that are gone only with ``state=disconnected``.

        ``find`` is a part of the endpoint's id or of the request message.
        """
        wanted = None if state is None else ConnectionState(state.value)
        async with core.database.begin() as database:
            await clusters.get(database, cluster_id)
            await links.get(database, cluster_id)
            found = await links.page(database, cluster_id, state=wanted, after=after, limit=limit, containing=find)
        last = found[-1].connection_id if len(found) == limit else None
        return control.ConnectionPage(connections=tuple(views.connection(one) for one in found), next_after=last)

    @routes.post(
        paths.CONTROL_DECISION,
        operation_id="decide",
        responses=may(
            Code.CLUSTER_NOT_FOUND,
            Code.LINK_NOT_FOUND,
            Code.CONNECTION_NOT_FOUND,
            Code.CONNECTION_DECIDED,
            Code.CONNECTION_FINAL,
            Code.CLOUD_REFUSED,
            also={202: control.ConnectionView},
        ),
    )
    async def decide(
        *,
        cluster_id: ClusterId,
        connection_id: ConnectionId,
        verb: control.Verb,
        body: control.DecisionBody,
        who: Who,
        response: Response,
    ) -> control.ConnectionView:
        """Approve, reject or remove a connection; 202 while the cloud does not answer: it is tried on."""
        decided, is_carried = await core.carrier.decide(
            who, cluster_id, connection_id, Decision(verb.value), reason=body.reason, version=body.version
        )
        if not is_carried:
            core.watch.wake()
            response.status_code = 202
        return views.connection(decided)


def _add_expectations(routes: APIRouter, core: Core) -> None:
    @routes.get(paths.CONTROL_EXPECTATIONS, operation_id="expectations", responses=may(Code.CLUSTER_NOT_FOUND))
    async def expectations(
        cluster_id: ClusterId, find: Find | None = None, after: After | None = None, limit: Limit | None = None
    ) -> control.ExpectationPage:
        """What is approved as it appears, newest first; all of it without ``limit``.

        ``find`` is a part of the endpoint's or subscription's id, or of the reason.
        """
        async with core.database.begin() as database:
            await clusters.get(database, cluster_id)
            found = await links.expected_page(database, cluster_id, after=after, limit=limit, containing=find)
        last = found[-1].expectation_id if found and len(found) == limit else None
        return control.ExpectationPage(expectations=tuple(views.expectation(one) for one in found), next_after=last)

    @routes.post(
        paths.CONTROL_EXPECTATIONS,
        operation_id="expect",
        status_code=201,
        responses=may(Code.CLUSTER_NOT_FOUND, also={200: control.ExpectationView}),
    )
    async def expect(
        cluster_id: ClusterId, body: control.ExpectationCreateRequest, who: Who, response: Response
    ) -> control.ExpectationView:
        """Approve an endpoint, or any of a subscription, as it appears; also one that is pending already."""
        if (body.endpoint_id is None) == (body.subscription is None):
            raise ProblemError(field("body", "needs either endpoint_id or subscription"))
        kind = control.ExpectationKind.ENDPOINT if body.endpoint_id else control.ExpectationKind.SUBSCRIPTION
        value = names.key(body.endpoint_id) if body.endpoint_id else body.subscription or ""
        async with core.database.begin() as database:
            await clusters.get(database, cluster_id)
            made, is_new = await links.expect(database, who, cluster_id, kind=kind, value=value, reason=body.reason)
        core.watch.wake()
        response.status_code = 201 if is_new else 200
        return views.expectation(made)

    @routes.delete(
        paths.CONTROL_EXPECTATION,
        operation_id="unexpect",
        status_code=204,
        responses=may(Code.CLUSTER_NOT_FOUND, Code.EXPECTATION_NOT_FOUND),
    )
    async def unexpect(cluster_id: ClusterId, expectation_id: ExpectationId, who: Who) -> None:
        """Expect it no longer. What was approved stays approved."""
        async with core.database.begin() as database:
            await clusters.get(database, cluster_id)
            await links.unexpect(database, who, cluster_id, expectation_id)


def _add_operators(routes: APIRouter, core: Core) -> None:
    @routes.get(paths.CONTROL_OPERATORS, operation_id="operators")
    async def list_operators(
        find: Find | None = None,
        is_active: bool | None = None,
        after: AfterName | None = None,
        limit: Limit | None = None,
    ) -> control.OperatorPage:
        """Operators by name, without their tokens; all of them without ``limit``. ``find`` is a part of the name."""
        async with core.database.begin() as database:
            found = await operators.listed(database, after=after, limit=limit, containing=find, is_active=is_active)
        last = found[-1].name if found and len(found) == limit else None
        return control.OperatorPage(operators=tuple(views.operator(one) for one in found), next_after=last)

    @routes.post(
        paths.CONTROL_OPERATORS,
        operation_id="create_operator",
        status_code=201,
        responses=may(Code.OPERATOR_EXISTS),
    )
    async def create_operator(body: control.OperatorCreateRequest, who: Who) -> control.OperatorCreated:
        """Make an operator; the token is shown this once."""
        async with core.database.begin() as database:
            made, secret = await operators.create(database, who, body.name, body.role)
        return control.OperatorCreated(operator=views.operator(made), secret=secret)

    @routes.post(
        paths.CONTROL_OPERATOR_REVOKE,
        operation_id="revoke_operator",
        responses=may(Code.OPERATOR_NOT_FOUND, Code.OPERATOR_LAST_ADMIN),
    )
    async def revoke_operator(name: OperatorName, who: Who) -> control.OperatorView:
        """Shut an operator out now. Doing so again changes nothing."""
        async with core.database.begin() as database:
            return views.operator(await operators.revoke(database, who, name))
