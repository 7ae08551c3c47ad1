"""A deployment's admin API through the control plane, and the overview of all of them.

Paths and bodies are the deployment's own (``wire.admin``), below ``paths.CONTROL_DEPLOYMENT``: whatever speaks the one
speaks the other, with an operator's token in the place of the admin token. What the deployment refuses, it refuses here
in the same words; the problems that are added say why it could not be asked.
"""

from enum import StrEnum
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Path, Query

from isthmus.control.api import views
from isthmus.control.api.routes import ClusterId, Core, DeploymentId, Who, may
from isthmus.wire import admin, control, paths
from isthmus.wire.names import Kind, QueueName, Role
from isthmus.wire.problems import Code

TokenId = Annotated[str, Path(pattern=r"^[a-z2-7]{12}$")]
Limit = Annotated[int, Query(ge=1, le=500)]
Start = Annotated[int, Query(ge=0, le=1_000_000)]
Name = Annotated[str, Query(max_length=512, pattern=r"^[^\x00]*$")]
#: Where the next page begins: the deployment says so.
Cursor = Annotated[str, Query(max_length=128, pattern=r"^[-+.:T0-9]+~[-0-9a-f]+$")]

_BELOW: Final = paths.CONTROL_DEPLOYMENT


class AgentVerb(StrEnum):
    """What can be asked of an agent."""

    CORDON = "cordon"
    UNCORDON = "uncordon"
    DRAIN = "drain"


def add(routes: APIRouter, core: Core) -> None:
    """Add all routes of this module."""
    _add_overviews(routes, core)
    _add_settings(routes, core)
    _add_tokens(routes, core)
    _add_agents(routes, core)
    _add_verifications(routes, core)
    _add_workloads(routes, core)
    _add_tallies(routes, core)


def _asked(*codes: Code) -> dict[int | str, dict[str, Any]]:
    """What a route that asks a deployment may answer with."""
    return may(
        Code.CLUSTER_NOT_FOUND,
        Code.DEPLOYMENT_NOT_FOUND,
        Code.ADMIN_NOT_CONFIGURED,
        Code.ADMIN_REFUSED,
        Code.ADMIN_UNREACHABLE,
        Code.ADMIN_ANSWER_FOREIGN,
        *codes,
    )


def _add_overviews(routes: APIRouter, core: Core) -> None:
    @routes.get(paths.CONTROL_OVERVIEW, operation_id="overview")
    async def overview() -> control.OverviewView:
        """All deployments and their agents, and why one is not healthy; at most a few seconds old."""
        return views.overview(await core.operating.overview())

    @routes.get(paths.CONTROL_CLUSTER_OVERVIEW, operation_id="cluster_overview", responses=may(Code.CLUSTER_NOT_FOUND))
    async def cluster_overview(cluster_id: ClusterId) -> control.OverviewView:
        """The same of one cluster."""
        return views.overview(await core.operating.overview(cluster_id))


def _add_settings(routes: APIRouter, core: Core) -> None:
    @routes.get(_BELOW + paths.ADMIN_DEPLOYMENT, operation_id="deployment_settings", responses=_asked())
    async def deployment(cluster_id: ClusterId, deployment_id: DeploymentId) -> admin.DeploymentView:
        """The deployment's settings, and how it is doing."""
        return await (await core.operating.deployment(cluster_id, deployment_id)).show()

    @routes.get(_BELOW + paths.ADMIN_ALLOW_LIST, operation_id="deployment_allow_list", responses=_asked())
    async def allow_list(cluster_id: ClusterId, deployment_id: DeploymentId) -> admin.AllowListView:
        """The allow list in force."""
        return await (await core.operating.deployment(cluster_id, deployment_id)).allow_list()

    @routes.put(
        _BELOW + paths.ADMIN_ALLOW_LIST,
        operation_id="replace_deployment_allow_list",
        responses=_asked(Code.AGENTS_CUT_OFF),
    )
    async def replace_allow_list(
        cluster_id: ClusterId, deployment_id: DeploymentId, body: admin.AllowListBody, who: Who
    ) -> admin.AllowListView:
        """Put a whole allow list in force."""
        return await (await core.operating.deployment(cluster_id, deployment_id)).replace_allow_list(who, body)

    @routes.put(
        _BELOW + paths.ADMIN_RESTRICTION, operation_id="restrict_deployment", responses=_asked(Code.AGENTS_CUT_OFF)
    )
    async def restrict(
        cluster_id: ClusterId, deployment_id: DeploymentId, body: admin.RestrictionRequest, who: Who
    ) -> admin.RestrictionView:
        """Let only these ranges in, once a healthy agent comes from one of them; or say what that would do."""
        return await (await core.operating.deployment(cluster_id, deployment_id)).restrict(who, body)

    @routes.delete(_BELOW + paths.ADMIN_RESTRICTION, operation_id="unrestrict_deployment", responses=_asked())
    async def unrestrict(cluster_id: ClusterId, deployment_id: DeploymentId, who: Who) -> admin.RestrictionView:
        """Let every address in; tokens are still asked for."""
        return await (await core.operating.deployment(cluster_id, deployment_id)).unrestrict(who)


def _add_tokens(routes: APIRouter, core: Core) -> None:
    @routes.get(_BELOW + paths.ADMIN_TOKENS, operation_id="deployment_tokens", responses=_asked())
    async def tokens(cluster_id: ClusterId, deployment_id: DeploymentId) -> admin.TokenPage:
        """All agent tokens, newest first, without their secrets."""
        return await (await core.operating.deployment(cluster_id, deployment_id)).tokens()

    @routes.post(
        _BELOW + paths.ADMIN_TOKENS,
        operation_id="create_deployment_token",
        status_code=201,
        responses=_asked(Code.TOKEN_LIMIT),
    )
    async def create_token(
        cluster_id: ClusterId, deployment_id: DeploymentId, body: admin.TokenCreateRequest, who: Who
    ) -> admin.TokenCreated:
        """Make an agent token; its secret is shown this once."""
        return await (await core.operating.deployment(cluster_id, deployment_id)).create_token(who, body)

    @routes.post(
        _BELOW + paths.ADMIN_TOKEN_REVOKE,
        operation_id="revoke_deployment_token",
        responses=_asked(Code.TOKEN_NOT_FOUND),
    )
    async def revoke_token(
        cluster_id: ClusterId, deployment_id: DeploymentId, token_id: TokenId, who: Who
    ) -> admin.TokenView:
        """Close the door to a token now. Doing so again changes nothing."""
        return await (await core.operating.deployment(cluster_id, deployment_id)).revoke_token(who, token_id)

    @routes.post(
        _BELOW + paths.ADMIN_TOKEN_ROTATE,
        operation_id="rotate_deployment_token",
        status_code=201,
        responses=_asked(Code.TOKEN_NOT_FOUND, Code.TOKEN_LIMIT),
    )
    async def rotate_token(
        cluster_id: ClusterId, deployment_id: DeploymentId, token_id: TokenId, body: admin.TokenRotateRequest, who: Who
    ) -> admin.TokenCreated:
        """Make a successor of the same name and scope; the old token works a while longer."""
        return await (await core.operating.deployment(cluster_id, deployment_id)).rotate_token(who, token_id, body)


def _add_agents(routes: APIRouter, core: Core) -> None:
    @routes.get(_BELOW + paths.ADMIN_AGENTS, operation_id="deployment_agents", responses=_asked())
    async def agents(
        *,
        cluster_id: ClusterId,
        deployment_id: DeploymentId,
        role: Role | None = None,
        name: Name | None = None,
        after: Name | None = None,
        limit: Limit = 100,
        order: admin.AgentOrder | None = None,
        health: admin.AgentHealth | None = None,
        search: Name | None = None,
        start: Start | None = None,
    ) -> admin.AgentPage:
        """A page of agents. By name the next page begins after the last name; by urgency at a place, ``start``."""
        found = await core.operating.deployment(cluster_id, deployment_id)
        chosen = {"order": order, "health": health, "search": search, "start": start}
        return await found.agents(role=role, name=name, after=after, limit=limit, **chosen)

    @routes.get(_BELOW + paths.ADMIN_AGENT, operation_id="deployment_agent", responses=_asked(Code.AGENT_UNKNOWN))
    async def agent(cluster_id: ClusterId, deployment_id: DeploymentId, agent_id: UUID) -> admin.AgentView:
        """One agent, with its last verification."""
        return await (await core.operating.deployment(cluster_id, deployment_id)).agent(agent_id)

    @routes.delete(
        _BELOW + paths.ADMIN_AGENT,
        operation_id="remove_deployment_agent",
        status_code=204,
        responses=_asked(Code.AGENT_UNKNOWN, Code.AGENT_BUSY),
    )
    async def remove_agent(
        cluster_id: ClusterId, deployment_id: DeploymentId, agent_id: UUID, who: Who, force: bool = False
    ) -> None:
        """Strike an agent off the roster; its leases end at once."""
        found = await core.operating.deployment(cluster_id, deployment_id)
        await found.remove_agent(who, agent_id, force=force)

    @routes.post(
        _BELOW + paths.ADMIN_AGENT_PROBES,
        operation_id="order_deployment_probes",
        status_code=202,
        responses=_asked(Code.AGENT_UNKNOWN),
    )
    async def order_probes(
        cluster_id: ClusterId, deployment_id: DeploymentId, agent_id: UUID, body: admin.ProbesRequest, who: Who
    ) -> admin.AgentView:
        """Have an agent verify its way to its plane; its report comes with a heartbeat after the next one."""
        return await (await core.operating.deployment(cluster_id, deployment_id)).order_probes(who, agent_id, body)

    @routes.get(
        _BELOW + paths.ADMIN_AGENT_LOG, operation_id="deployment_log_tail", responses=_asked(Code.AGENT_UNKNOWN)
    )
    async def log_tail(cluster_id: ClusterId, deployment_id: DeploymentId, agent_id: UUID) -> admin.LogTailView:
        """The end of an agent's own log, if somebody asked for it in the last hour."""
        return await (await core.operating.deployment(cluster_id, deployment_id)).log_tail(agent_id)

    @routes.post(
        _BELOW + paths.ADMIN_AGENT_LOG,
        operation_id="order_deployment_log_tail",
        status_code=202,
        responses=_asked(Code.AGENT_UNKNOWN),
    )
    async def order_log_tail(
        cluster_id: ClusterId, deployment_id: DeploymentId, agent_id: UUID, _body: admin.LogOrderRequest, who: Who
    ) -> admin.LogTailView:
        """Ask an agent for the end of its own log; it comes within a heartbeat. Who asked is the operator."""
        return await (await core.operating.deployment(cluster_id, deployment_id)).order_log_tail(who, agent_id)

    @routes.post(
        _BELOW + paths.ADMIN_AGENT_VERB, operation_id="steer_deployment_agent", responses=_asked(Code.AGENT_UNKNOWN)
    )
    async def steer_agent(
        cluster_id: ClusterId, deployment_id: DeploymentId, agent_id: UUID, verb: AgentVerb, who: Who
    ) -> admin.AgentView:
        """Cordon an agent (no new work), uncordon it, or drain it (no new work, then leave)."""
        found = await core.operating.deployment(cluster_id, deployment_id)
        return await found.steer_agent(who, agent_id, verb.value)


def _add_tallies(routes: APIRouter, core: Core) -> None:
    @routes.get(_BELOW + paths.ADMIN_BUNDLES, operation_id="deployment_bundles", responses=_asked())
    async def bundles(
        cluster_id: ClusterId, deployment_id: DeploymentId, start: Start = 0, limit: Limit = 100
    ) -> admin.BundlePage:
        """A page of DAG bundles: who parses each, its files, DAGs and errors; those that nobody parses first."""
        return await (await core.operating.deployment(cluster_id, deployment_id)).bundles(start=start, limit=limit)

    @routes.get(_BELOW + paths.ADMIN_TRIGGERS, operation_id="deployment_triggers", responses=_asked())
    async def triggers(
        cluster_id: ClusterId, deployment_id: DeploymentId, start: Start = 0, limit: Limit = 100
    ) -> admin.TriggersView:
        """Who runs how many triggers, a page of them; and what nobody runs, that which nobody could run first."""
        return await (await core.operating.deployment(cluster_id, deployment_id)).triggers(start=start, limit=limit)

    @routes.get(_BELOW + paths.ADMIN_QUEUES, operation_id="deployment_queues", responses=_asked())
    async def queues(cluster_id: ClusterId, deployment_id: DeploymentId) -> admin.QueuePage:
        """All queues: what waits, what runs, and which agents serve them; those that nobody serves first."""
        return await (await core.operating.deployment(cluster_id, deployment_id)).queues()

    @routes.get(_BELOW + paths.ADMIN_THROUGHPUT, operation_id="deployment_throughput", responses=_asked())
    async def throughput(cluster_id: ClusterId, deployment_id: DeploymentId) -> admin.ThroughputView:
        """How many workloads were settled in each minute of the last hour."""
        return await (await core.operating.deployment(cluster_id, deployment_id)).throughput()

    @routes.get(_BELOW + paths.ADMIN_REFUSED, operation_id="deployment_refused", responses=_asked())
    async def refused(
        cluster_id: ClusterId, deployment_id: DeploymentId, before: Cursor | None = None, limit: Limit = 100
    ) -> admin.RefusedPage:
        """A page of those who were turned away at the door in the last day, the last one first."""
        found = await core.operating.deployment(cluster_id, deployment_id)
        return await found.refused(before=before, limit=limit)


def _add_verifications(routes: APIRouter, core: Core) -> None:
    @routes.get(_BELOW + paths.ADMIN_VERIFICATIONS, operation_id="deployment_verifications", responses=_asked())
    async def verifications(
        *,
        cluster_id: ClusterId,
        deployment_id: DeploymentId,
        agent: Name | None = None,
        before: Cursor | None = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> admin.VerificationPage:
        """A page of verifications, newest first, of all agents or of the one called ``agent``."""
        found = await core.operating.deployment(cluster_id, deployment_id)
        return await found.verifications(agent=agent, before=before, limit=limit)

    @routes.get(
        _BELOW + paths.ADMIN_VERIFICATION,
        operation_id="deployment_verification",
        responses=_asked(Code.VERIFICATION_NOT_FOUND),
    )
    async def verification(
        cluster_id: ClusterId, deployment_id: DeploymentId, verification_id: UUID
    ) -> admin.VerificationView:
        """One verification with its rows, as they come."""
        return await (await core.operating.deployment(cluster_id, deployment_id)).verification(verification_id)


def _add_workloads(routes: APIRouter, core: Core) -> None:
    @routes.get(_BELOW + paths.ADMIN_WORKLOADS, operation_id="deployment_workloads", responses=_asked())
    async def workloads(
        *,
        cluster_id: ClusterId,
        deployment_id: DeploymentId,
        state: admin.WorkloadState | None = None,
        queue: Annotated[QueueName, Query()] | None = None,
        kind: Kind | None = None,
        dag_id: Name | None = None,
        agent_id: UUID | None = None,
        before: Cursor | None = None,
        limit: Limit = 100,
    ) -> admin.WorkloadPage:
        """A page of workloads, newest first."""
        found = await core.operating.deployment(cluster_id, deployment_id)
        return await found.workloads(
            state=state, queue=queue, kind=kind, dag_id=dag_id, agent_id=agent_id, before=before, limit=limit
        )

    @routes.get(
        _BELOW + paths.ADMIN_WORKLOAD, operation_id="deployment_workload", responses=_asked(Code.WORKLOAD_NOT_FOUND)
    )
    async def workload(cluster_id: ClusterId, deployment_id: DeploymentId, workload_id: UUID) -> admin.WorkloadDetail:
        """One workload with Airflow's payload, which holds no token."""
        return await (await core.operating.deployment(cluster_id, deployment_id)).workload(workload_id)

    @routes.post(
        _BELOW + paths.ADMIN_WORKLOAD_CANCEL,
        operation_id="cancel_deployment_workload",
        status_code=202,
        responses=_asked(Code.WORKLOAD_NOT_FOUND),
    )
    async def cancel_workload(
        cluster_id: ClusterId, deployment_id: DeploymentId, workload_id: UUID, who: Who
    ) -> admin.WorkloadView:
        """Cancel a workload that has not started, or ask its agent to stop it."""
        return await (await core.operating.deployment(cluster_id, deployment_id)).cancel_workload(who, workload_id)
