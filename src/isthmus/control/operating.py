"""What operators see and change of a deployment, through the control plane.

Reads are asked on as they are. Each change looks first at what it changes, has the deployment make it, and leaves an
entry in the audit log with both (``changing``); secrets are in neither. Errors are those of ``asking``, and
ControlRefusedError: CLUSTER_NOT_FOUND, DEPLOYMENT_NOT_FOUND; DatabaseError.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar
from uuid import UUID

from isthmus.control import clusters, links, overviews, reasons
from isthmus.control.asking import AdminApis
from isthmus.control.auditing import Actor
from isthmus.control.changing import Changes, Json
from isthmus.control.clusters import Deployment
from isthmus.control.databases import Database
from isthmus.control.overviews import Overview, SeenAgent, Summary
from isthmus.control.sights import Lookout, Sight
from isthmus.kit.clocks import Clock
from isthmus.wire import admin, paths
from isthmus.wire.bodies import Response
from isthmus.wire.names import ConnectionState
from isthmus.wire.probes import KnownConnection

Body = TypeVar("Body", bound=Response)
Result = TypeVar("Result")

#: The verbs of ``paths.ADMIN_AGENT_VERB``, and what they change.
_STEERED: Final[dict[str, Json]] = {
    "cordon": {"cordoned": True},
    "uncordon": {"cordoned": False, "draining": False},
    "drain": {"draining": True},
}


class Operating:
    """Deployments' admin APIs, for operators."""

    def __init__(self, database: Database, apis: AdminApis, lookout: Lookout, clock: Clock) -> None:
        self._database = database
        self._apis = apis
        self._lookout = lookout
        self._clock = clock
        self._changes = Changes(database)

    async def overview(self, cluster_id: str | None = None) -> Overview:
        """All deployments and agents, of one cluster or of the organization, and why an agent is not healthy."""
        return await overviews.overview(self._database, self._lookout, self._clock, cluster_id)

    async def glance(self, cluster_id: str) -> Overview:
        """A cluster's as they were seen last: nobody waits for a deployment."""
        return await overviews.overview(self._database, self._lookout, self._clock, cluster_id, waits=False)

    async def summary(self) -> Summary:
        """All deployments, with agents counted; which way they come, and why some are not healthy."""
        return await overviews.summary(self._database, self._lookout, self._clock)

    async def deployment(self, cluster_id: str, deployment_id: str) -> "OperatedDeployment":
        """One deployment that is registered with a cluster."""
        async with self._database.begin() as database:
            found = await clusters.registered(database, cluster_id, deployment_id)
        return OperatedDeployment(found, self._database, self._apis, self._changes, self._lookout, clock=self._clock)

    async def forget(self, deployment_id: str) -> None:
        """It is not registered any more."""
        await self._lookout.drop(deployment_id)
        await self._apis.forget(deployment_id)


class OperatedDeployment:
    """One deployment."""

    def __init__(
        self,
        registered: Deployment,
        database: Database,
        apis: AdminApis,
        changes: Changes,
        lookout: Lookout,
        *,
        clock: Clock,
    ) -> None:
        self.registered = registered
        self._database = database
        self._apis = apis
        self._changes = changes
        self._lookout = lookout
        self._clock = clock

    # --- what there is

    async def show(self) -> admin.DeploymentView:
        """The deployment and how it is doing."""
        return await self._get(admin.DeploymentView, paths.ADMIN_DEPLOYMENT)

    async def allow_list(self) -> admin.AllowListView:
        """The ranges in force."""
        return await self._get(admin.AllowListView, paths.ADMIN_ALLOW_LIST)

    async def tokens(self) -> admin.TokenPage:
        """All agent tokens, without their secrets."""
        return await self._get(admin.TokenPage, paths.ADMIN_TOKENS)

    async def agents(self, **query: Any) -> admin.AgentPage:
        """A page of agents."""
        return await self._get(admin.AgentPage, paths.ADMIN_AGENTS, **query)

    async def explained(self, agents: Sequence[admin.AgentView]) -> tuple[Sight, tuple[SeenAgent, ...]]:
        """Agents of it with the reason why one is not healthy, and the deployment's summary."""
        return await overviews.explained(self._database, self._lookout, self._clock, self.registered, agents)

    async def agent(self, agent_id: UUID) -> admin.AgentView:
        """One agent, with its last verification."""
        return await self._get(admin.AgentView, paths.ADMIN_AGENT.format(agent_id=agent_id))

    async def workloads(self, **query: Any) -> admin.WorkloadPage:
        """A page of workloads."""
        return await self._get(admin.WorkloadPage, paths.ADMIN_WORKLOADS, **query)

    async def workload(self, workload_id: UUID) -> admin.WorkloadDetail:
        """One workload with Airflow's payload."""
        return await self._get(admin.WorkloadDetail, paths.ADMIN_WORKLOAD.format(workload_id=workload_id))

    async def bundles(self, **query: Any) -> admin.BundlePage:
        """A page of DAG bundles, those that nobody parses first."""
        return await self._get(admin.BundlePage, paths.ADMIN_BUNDLES, **query)

    async def triggers(self, **query: Any) -> admin.TriggersView:
        """Who runs triggers, and what waits for somebody to."""
        return await self._get(admin.TriggersView, paths.ADMIN_TRIGGERS, **query)

    async def queues(self) -> admin.QueuePage:
        """All queues, those with work that nobody serves first."""
        return await self._get(admin.QueuePage, paths.ADMIN_QUEUES)

    async def throughput(self) -> admin.ThroughputView:
        """The last hour, by minute."""
        return await self._get(admin.ThroughputView, paths.ADMIN_THROUGHPUT)

    async def refused(self, **query: Any) -> admin.RefusedPage:
        """A page of those who were turned away at the door."""
        return await self._get(admin.RefusedPage, paths.ADMIN_REFUSED, **query)

    async def verifications(self, **query: Any) -> admin.VerificationPage:
        """A page of the history of verifications, newest first."""
        return await self._get(admin.VerificationPage, paths.ADMIN_VERIFICATIONS, **query)

    async def verification(self, verification_id: UUID) -> admin.VerificationView:
        """One verification with the rows that have come."""
        path = paths.ADMIN_VERIFICATION.format(verification_id=verification_id)
        return await self._get(admin.VerificationView, path)

    async def log_tail(self, agent_id: UUID) -> admin.LogTailView:
        """The end of an agent's own log, if somebody asked for it in the last hour."""
        return await self._get(admin.LogTailView, paths.ADMIN_AGENT_LOG.format(agent_id=agent_id))

    # --- who may come in

    async def replace_allow_list(self, actor: Actor, body: admin.AllowListBody) -> admin.AllowListView:
        """Put a whole allow list in force, or hear what that would do."""

        async def ask() -> admin.AllowListView:
            return await self._apis.ask(self.registered, admin.AllowListView, "PUT", paths.ADMIN_ALLOW_LIST, body)

        if body.dry_run:
            return await ask()
        before = await self.allow_list()
        return await self._change(
            actor,
            "allow_list.replace",
            before={"ranges": before.ranges},
            wanted={"ranges": [str(one) for one in body.ranges], "force": body.force},
            change=ask,
            after=lambda made: None if made.ranges == before.ranges else _replaced(made, forced=body.force),
        )

    async def restrict(self, actor: Actor, body: admin.RestrictionRequest) -> admin.RestrictionView:
        """Let only some ranges in, or hear what that would do."""

        async def ask() -> admin.RestrictionView:
            return await self._apis.ask(self.registered, admin.RestrictionView, "PUT", paths.ADMIN_RESTRICTION, body)

        if body.dry_run:
            return await ask()
        before = await self.allow_list()
        return await self._change(
            actor,
            "deployment.restrict",
            before={"ranges": before.ranges},
            wanted={"ranges": [str(one) for one in body.ranges], "force": body.force},
            change=ask,
            after=_restricted,
        )

    async def unrestrict(self, actor: Actor) -> admin.RestrictionView:
        """Let every address in."""
        before = await self.allow_list()
        return await self._change(
            actor,
            "deployment.unrestrict",
            before={"ranges": before.ranges},
            wanted={"ranges": []},
            change=lambda: self._apis.ask(self.registered, admin.RestrictionView, "DELETE", paths.ADMIN_RESTRICTION),
            after=_restricted,
        )

    # --- agent tokens

    async def create_token(self, actor: Actor, body: admin.TokenCreateRequest) -> admin.TokenCreated:
        """A new agent token, with its secret."""
        return await self._change(
            actor,
            "token.create",
            before=None,
            wanted=body.model_dump(mode="json"),
            change=lambda: self._apis.ask(
                self.registered, admin.TokenCreated, "POST", paths.ADMIN_TOKENS, body, once=True
            ),
            after=lambda made: _token(made.token),
        )

    async def revoke_token(self, actor: Actor, token_id: str) -> admin.TokenView:
        """End a token now."""
        before = await self._token(token_id)
        path = paths.ADMIN_TOKEN_REVOKE.format(token_id=token_id)
        return await self._change(
            actor,
            "token.revoke",
            before=before,
            wanted={"token_id": token_id},
            change=lambda: self._apis.ask(self.registered, admin.TokenView, "POST", path),
            after=lambda made: None if before == _token(made) else _token(made),
        )

    async def rotate_token(self, actor: Actor, token_id: str, body: admin.TokenRotateRequest) -> admin.TokenCreated:
        """A successor for a token, with its secret."""
        path = paths.ADMIN_TOKEN_ROTATE.format(token_id=token_id)
        return await self._change(
            actor,
            "token.rotate",
            before=await self._token(token_id),
            wanted={"token_id": token_id, **body.model_dump(mode="json")},
            change=lambda: self._apis.ask(self.registered, admin.TokenCreated, "POST", path, body, once=True),
            after=lambda made: _token(made.token),
        )

    # --- agents and workloads

    async def steer_agent(self, actor: Actor, agent_id: UUID, verb: str) -> admin.AgentView:
        """``cordon``, ``uncordon`` or ``drain``."""
        before = _agent(await self.agent(agent_id))
        path = paths.ADMIN_AGENT_VERB.format(agent_id=agent_id, verb=verb)
        return await self._change(
            actor,
            f"agent.{verb}",
            before=before,
            wanted={**before, **_STEERED[verb]},
            change=lambda: self._apis.ask(self.registered, admin.AgentView, "POST", path),
            after=lambda made: None if before == _agent(made) else _agent(made),
        )

    async def order_probes(self, actor: Actor, agent_id: UUID, body: admin.ProbesRequest) -> admin.AgentView:
        """Have an agent verify its way to the plane.

        It is told of the connection that it came through last, whose state it cannot see itself, unless the body names
        one.
        """
        agent = await self.agent(agent_id)
        before = _agent(agent)
        if body.connection is None:
            body = body.model_copy(update={"connection": await self._connection(agent)})
        body = body.model_copy(update={"ordered_by": actor.name})
        path = paths.ADMIN_AGENT_PROBES.format(agent_id=agent_id)
        wanted = {**before, "probes": body.model_dump(mode="json")}
        return await self._change(
            actor,
            "agent.verify",
            before=before,
            wanted=wanted,
            change=lambda: self._apis.ask(self.registered, admin.AgentView, "POST", path, body),
            after=lambda made: {**wanted, "order_id": str(made.probes_order_id)},
        )

    async def order_log_tail(self, actor: Actor, agent_id: UUID) -> admin.LogTailView:
        """Ask an agent for the end of its own log. Who looks is in the audit log."""
        agent = _agent(await self.agent(agent_id))
        path = paths.ADMIN_AGENT_LOG.format(agent_id=agent_id)
        body = admin.LogOrderRequest(ordered_by=actor.name)
        return await self._change(
            actor,
            "agent.log",
            before=None,
            wanted=agent,
            change=lambda: self._apis.ask(self.registered, admin.LogTailView, "POST", path, body),
            after=lambda made: {**agent, "order_id": str(made.order_id)},
        )

    async def remove_agent(self, actor: Actor, agent_id: UUID, *, force: bool) -> None:
        """Strike an agent off the roster."""
        path = paths.ADMIN_AGENT.format(agent_id=agent_id)
        await self._change(
            actor,
            "agent.remove",
            before=_agent(await self.agent(agent_id)),
            wanted={"force": force},
            change=lambda: self._apis.command(self.registered, "DELETE", path, force=force),
            after=lambda _: {"force": force},
        )

    async def cancel_workload(self, actor: Actor, workload_id: UUID) -> admin.WorkloadView:
        """Cancel a workload, or ask it to stop."""
        before = _workload((await self.workload(workload_id)).workload)
        path = paths.ADMIN_WORKLOAD_CANCEL.format(workload_id=workload_id)
        return await self._change(
            actor,
            "workload.cancel",
            before=before,
            wanted={"workload_id": str(workload_id)},
            change=lambda: self._apis.ask(self.registered, admin.WorkloadView, "POST", path),
            after=_workload,
        )

    async def _connection(self, agent: admin.AgentView) -> KnownConnection | None:
        async with self._database.begin() as database:
            known = await links.ever_known(database, self.registered.cluster_id)
        found = reasons.connection_of(agent, known)
        if found is None:
            return None
        name = reasons.endpoint_of(found)
        return KnownConnection(endpoint=name, state=ConnectionState(found.state.value), reason=found.reason)

    async def _get(self, kind: type[Body], path: str, /, **query: Any) -> Body:
        return await self._apis.ask(self.registered, kind, "GET", path, **query)

    async def _token(self, token_id: str) -> Json | None:
        """A token as it is; None for one that there is not: the deployment says so to whoever changes it."""
        tokens = (await self.tokens()).tokens
        return next((_token(one) for one in tokens if one.token_id == token_id), None)

    async def _change(
        self,
        actor: Actor,
        action: str,
        *,
        before: Json | None,
        wanted: Json,
        change: Callable[[], Awaitable[Result]],
        after: Callable[[Result], Json | None],
    ) -> Result:
        subject = f"deployment/{self.registered.deployment_id}"
        try:
            return await self._changes.make(
                actor, action, subject, before=before, wanted=wanted, change=change, after=after
            )
        finally:
            self._lookout.forget(self.registered.deployment_id)


def _replaced(made: admin.AllowListView, *, forced: bool) -> Json:
    cut_off = () if made.change is None else made.change.cut_off
    return {"ranges": made.ranges, "forced": forced, "cut_off": [one.name for one in cut_off]}


def _restricted(made: admin.RestrictionView) -> Json | None:
    """The entry of a restriction: what was decided, on what grounds."""
    if made.ranges_before == made.ranges_after:
        return None
    return {
        "ranges": made.ranges_after,
        "outcome": made.outcome,
        "forced": made.forced,
        "reason": made.reason,
        "cut_off": [one.name for one in made.cut_off],
    }


def _token(token: admin.TokenView) -> Json:
    known = token.model_dump(mode="json", include={"token_id", "name", "state", "roles", "queues", "links", "bundles"})
    return {**known, "expires_at": None if token.expires_at is None else token.expires_at.isoformat()}


def _agent(agent: admin.AgentView) -> Json:
    return agent.model_dump(mode="json", include={"agent_id", "name", "health", "cordoned", "draining"})


def _workload(workload: admin.WorkloadView) -> Json:
    known = {"workload_id", "state", "kind", "dag_id", "task_id", "run_id", "agent_name"}
    return workload.model_dump(mode="json", include=known)
