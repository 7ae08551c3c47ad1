"""The admin API: what operators see and change of a deployment. Served by the internal listener (``internal``).

Thin on purpose: each route calls one function of the core and turns its rows into the bodies of ``wire.admin``. Rows
and bodies are different types, and this module is the one place where they meet. FastAPI validates and documents;
every refusal is a ``PlaneRefusedError`` of the core or a validation error, and becomes a problem in ``internal``.
"""

from collections.abc import Callable, Coroutine, Iterable
from dataclasses import asdict
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any, Final
from uuid import UUID, uuid4

from fastapi import APIRouter, Depends, Path, Query
from fastapi import Request as HttpRequest
from pydantic import ValidationError

from isthmus import __version__
from isthmus.deployment import logtails, reading, refused, steering, tallies, verifications
from isthmus.deployment.access import Decided
from isthmus.deployment.api import documents
from isthmus.deployment.api.refusals import BadRequestError
from isthmus.deployment.dags import shown as shown_dags
from isthmus.deployment.logtails import LogTail
from isthmus.deployment.plane import Plane
from isthmus.deployment.pooling import Database
from isthmus.deployment.reading import AgentFilter, AgentRow, WorkloadFilter, WorkloadRow
from isthmus.deployment.restricting import Place
from isthmus.deployment.tokens import Token
from isthmus.deployment.triggers import shown as shown_triggers
from isthmus.deployment.verifications import Unanswered, Verification
from isthmus.kit.clocks import Clock
from isthmus.wire import admin, paths
from isthmus.wire.agents import AgentWarning
from isthmus.wire.names import Kind, QueueName, Role
from isthmus.wire.probes import ProbeOrder, ProbeReport, ProbeStatus
from isthmus.wire.problems import MEANINGS, Code

#: What any route may answer with.
EVERYWHERE: Final = (
    Code.ADMIN_TOKEN_INVALID,
    Code.REQUEST_INVALID,
    Code.BODY_MALFORMED,
    Code.BODY_TOO_LARGE,
    Code.METHOD_NOT_ALLOWED,
    Code.DATABASE_UNAVAILABLE,
    Code.INTERNAL,
)

Limit = Annotated[int, Query(ge=1, le=500)]
Start = Annotated[int, Query(ge=0, le=1_000_000)]
#: Names in queries: what PostgreSQL's text cannot hold is no name of anything.
Name = Annotated[str, Query(max_length=512, pattern=r"^[^\x00]*$")]
#: Where the next page begins: what ``next_before`` of the page before said.
Cursor = Annotated[str, Query(max_length=128, pattern=r"^[-+.:T0-9]+~[-0-9a-f]+$")]
#: Each has the row that failed.
VerificationLimit = Annotated[int, Query(ge=1, le=200)]
TokenId = Annotated[str, Path(pattern=r"^[a-z2-7]{12}$")]


#: Who asked, where no operator of a control plane did.
DIRECTLY: Final = "admin token"


class Verb(StrEnum):
    """What can be asked of an agent."""

    CORDON = "cordon"
    UNCORDON = "uncordon"
    DRAIN = "drain"


_STEERING: Final[dict[Verb, Callable[[Database, UUID], Coroutine[Any, Any, None]]]] = {
    Verb.CORDON: steering.cordon,
    Verb.UNCORDON: steering.uncordon,
    Verb.DRAIN: steering.drain,
}


def router(plane: Plane, clock: Clock, *, airflow_version: str, airflow_url: str | None = None) -> APIRouter:
    """All routes of the admin API."""
    routes = APIRouter(responses=documents.responses(EVERYWHERE), dependencies=[Depends(_known_parameters)])
    _add_deployment(routes, plane, airflow_version, airflow_url)
    _add_tokens(routes, plane, clock)
    _add_agents(routes, plane)
    _add_verifications(routes, plane)
    _add_workloads(routes, plane)
    _add_tallies(routes, plane)
    _add_refused(routes, plane)
    return routes


async def _known_parameters(request: HttpRequest) -> None:
    """A query parameter that the route does not have is a typo, not a wish to be ignored."""
    known = {field.alias for field in request.scope["route"].dependant.query_params}
    for name in request.query_params:
        if name not in known:
            raise BadRequestError.field(f"query.{name}"[:100], "is not a parameter of this path")


def _may(*codes: Code) -> dict[int | str, dict[str, Any]]:
    return documents.responses((*EVERYWHERE, *codes))


def _add_deployment(routes: APIRouter, plane: Plane, airflow_version: str, airflow_url: str | None) -> None:
    config = plane.config

    @routes.get(paths.ADMIN_DEPLOYMENT, operation_id="deployment")
    async def deployment() -> admin.DeploymentView:
        """The deployment and how it is doing."""
        counts = await reading.counts(plane.pool, heartbeat_seconds=config.heartbeat_seconds)
        return admin.DeploymentView(
            deployment_id=config.deployment_id,
            version=__version__,
            airflow_version=airflow_version,
            airflow_url=airflow_url,
            heartbeat_seconds=config.heartbeat_seconds,
            lease_seconds=config.lease_seconds,
            running_lease_seconds=config.running_lease_seconds,
            token_limit=config.token_limit,
            allowed_ranges=_texts(plane.allow_list.ranges),
            allowed_connections=config.allowed_connections,
            allowed_variables=config.allowed_variables,
            agents_healthy=counts.agents_healthy,
            agents_unhealthy=counts.agents_unhealthy,
            agents_left=counts.agents_left,
            agents_by_way=tuple(admin.WayView(**asdict(one)) for one in counts.ways),
            agents_healthy_by_path=counts.healthy_by_path,
            workloads_queued=counts.workloads_queued,
            workloads_active=counts.workloads_active,
            callers_refused=await refused.recent(plane.pool),
        )

    @routes.get(paths.ADMIN_ALLOW_LIST, operation_id="allow_list")
    async def allow_list() -> admin.AllowListView:
        """The allow list in force."""
        return admin.AllowListView(ranges=_texts(plane.allow_list.ranges))

    @routes.put(paths.ADMIN_ALLOW_LIST, operation_id="replace_allow_list", responses=_may(Code.AGENTS_CUT_OFF))
    async def replace_allow_list(body: admin.AllowListBody) -> admin.AllowListView:
        """Put a whole allow list in force, in every process within a second; or say what that would do."""
        decided = await plane.allow_list.replace(body.ranges, force=body.force, dry_run=body.dry_run)
        return admin.AllowListView(
            ranges=_texts(decided.decision.before if body.dry_run else decided.decision.after),
            change=_restriction(config.deployment_id, decided, dry_run=body.dry_run, forced=body.force),
        )

    @routes.put(paths.ADMIN_RESTRICTION, operation_id="restrict", responses=_may(Code.AGENTS_CUT_OFF))
    async def restrict(body: admin.RestrictionRequest) -> admin.RestrictionView:
        """Let only these ranges in, once a healthy agent comes from one of them; or say what that would do."""
        decided = await plane.allow_list.restrict(body.ranges, force=body.force, dry_run=body.dry_run)
        return _restriction(config.deployment_id, decided, dry_run=body.dry_run, forced=body.force)

    @routes.delete(paths.ADMIN_RESTRICTION, operation_id="unrestrict")
    async def unrestrict() -> admin.RestrictionView:
        """Let every address in; tokens are still asked for."""
        return _restriction(config.deployment_id, await plane.allow_list.unrestrict())


def _add_tokens(routes: APIRouter, plane: Plane, clock: Clock) -> None:
    book = plane.tokens

    @routes.get(paths.ADMIN_TOKENS, operation_id="tokens")
    async def tokens() -> admin.TokenPage:
        """All agent tokens, newest first, without their secrets."""
        return admin.TokenPage(tokens=tuple(_token(token, clock) for token in await book.all()))

    @routes.post(paths.ADMIN_TOKENS, operation_id="create_token", status_code=201, responses=_may(Code.TOKEN_LIMIT))
    async def create_token(body: admin.TokenCreateRequest) -> admin.TokenCreated:
        """Make an agent token; its secret is shown this once."""
        token, text = await book.create(
            body.name,
            expires_days=body.expires_days,
            roles=body.roles,
            queues=body.queues,
            links=body.links,
            bundles=body.bundles,
        )
        return admin.TokenCreated(token=_token(token, clock), secret=str(text))

    @routes.post(paths.ADMIN_TOKEN_REVOKE, operation_id="revoke_token", responses=_may(Code.TOKEN_NOT_FOUND))
    async def revoke_token(token_id: TokenId) -> admin.TokenView:
        """Close the door to a token now. Doing so again changes nothing."""
        return _token(await book.revoke(token_id), clock)

    @routes.post(
        paths.ADMIN_TOKEN_ROTATE,
        operation_id="rotate_token",
        status_code=201,
        responses=_may(Code.TOKEN_NOT_FOUND, Code.TOKEN_LIMIT),
    )
    async def rotate_token(token_id: TokenId, body: admin.TokenRotateRequest) -> admin.TokenCreated:
        """Make a successor of the same name and scope; the old token works a while longer."""
        token, text = await book.rotate(
            token_id, overlap=timedelta(hours=body.overlap_hours), expires_days=body.expires_days
        )
        return admin.TokenCreated(token=_token(token, clock), secret=str(text))


def _add_agents(routes: APIRouter, plane: Plane) -> None:
    heartbeat_seconds = plane.config.heartbeat_seconds

    @routes.get(paths.ADMIN_AGENTS, operation_id="agents")
    async def agents(
        *,
        role: Role | None = None,
        name: Name | None = None,
        after: Name | None = None,
        limit: Limit = 100,
        order: admin.AgentOrder = admin.AgentOrder.NAME,
        health: admin.AgentHealth | None = None,
        search: Name | None = None,
        start: Start = 0,
    ) -> admin.AgentPage:
        """A page of agents. By name the next page begins after the last name; by urgency at a place, ``start``."""
        page = await reading.agents(
            plane.pool,
            AgentFilter(health=health, role=role, name=name, search=search),
            heartbeat_seconds=heartbeat_seconds,
            order=order,
            after=after,
            start=start,
            limit=limit,
        )
        by_name = order is admin.AgentOrder.NAME
        return admin.AgentPage(
            agents=tuple(_agent(row) for row in page.agents),
            next_after=page.agents[-1].name if page.has_more and by_name else None,
            next_start=start + limit if page.has_more and not by_name else None,
            matching=page.matching,
        )

    @routes.get(paths.ADMIN_AGENT, operation_id="agent", responses=_may(Code.AGENT_UNKNOWN))
    async def agent(agent_id: UUID) -> admin.AgentView:
        """One agent."""
        return _agent(await reading.agent(plane.pool, agent_id, heartbeat_seconds=heartbeat_seconds))

    @routes.delete(
        paths.ADMIN_AGENT,
        operation_id="remove_agent",
        status_code=204,
        responses=_may(Code.AGENT_UNKNOWN, Code.AGENT_BUSY),
    )
    async def remove_agent(agent_id: UUID, force: bool = False) -> None:
        """Strike an agent off the roster; its leases end at once."""
        await steering.remove(plane.pool, agent_id, heartbeat_seconds=heartbeat_seconds, force=force)

    @routes.post(
        paths.ADMIN_AGENT_PROBES, operation_id="order_probes", status_code=202, responses=_may(Code.AGENT_UNKNOWN)
    )
    async def order_probes(agent_id: UUID, body: admin.ProbesRequest) -> admin.AgentView:
        """Have an agent verify its way to here; its rows come with the heartbeats after the next one."""
        order = ProbeOrder(
            order_id=uuid4(),
            endpoint=body.endpoint,
            public_addresses=body.public_addresses,
            public_allowed=body.public_allowed,
            connection=body.connection,
            live=True,
        )
        await steering.order_probes(
            plane.pool, agent_id, order.model_dump(mode="json"), ordered_by=body.ordered_by or DIRECTLY
        )
        return _agent(await reading.agent(plane.pool, agent_id, heartbeat_seconds=heartbeat_seconds))

    @routes.get(paths.ADMIN_AGENT_LOG, operation_id="log_tail", responses=_may(Code.AGENT_UNKNOWN))
    async def log_tail(agent_id: UUID) -> admin.LogTailView:
        """The end of an agent's own log, if somebody asked for it in the last hour."""
        return await log_of(agent_id)

    @routes.post(
        paths.ADMIN_AGENT_LOG, operation_id="order_log_tail", status_code=202, responses=_may(Code.AGENT_UNKNOWN)
    )
    async def order_log_tail(agent_id: UUID, body: admin.LogOrderRequest) -> admin.LogTailView:
        """Ask an agent for the end of its own log; it comes within a heartbeat."""
        await steering.order_log(plane.pool, agent_id, uuid4(), ordered_by=body.ordered_by or DIRECTLY)
        return await log_of(agent_id)

    async def log_of(agent_id: UUID) -> admin.LogTailView:
        await reading.agent(plane.pool, agent_id, heartbeat_seconds=heartbeat_seconds)
        return _log_tail(agent_id, await logtails.find(plane.pool, agent_id))

    @routes.post(paths.ADMIN_AGENT_VERB, operation_id="steer_agent", responses=_may(Code.AGENT_UNKNOWN))
    async def steer_agent(agent_id: UUID, verb: Verb) -> admin.AgentView:
        """Cordon an agent (no new work), uncordon it, or drain it (no new work, then leave)."""
        await _STEERING[verb](plane.pool, agent_id)
        return _agent(await reading.agent(plane.pool, agent_id, heartbeat_seconds=heartbeat_seconds))


def _add_verifications(routes: APIRouter, plane: Plane) -> None:
    @routes.get(paths.ADMIN_VERIFICATIONS, operation_id="verifications")
    async def listed(
        agent: Name | None = None, before: Cursor | None = None, limit: VerificationLimit = 50
    ) -> admin.VerificationPage:
        """A page of verifications, newest first, of all agents or of the one called ``agent``."""
        begin = None if before is None else reading.parse_cursor(before)
        page, following = await verifications.listed(plane.pool, agent=agent, before=begin, limit=limit)
        return admin.VerificationPage(
            verifications=tuple(admin.VerificationEntry(**_entry(one)) for one in page),
            next_before=None if following is None else reading.cursor_text(*following),
        )

    @routes.get(paths.ADMIN_VERIFICATION, operation_id="verification", responses=_may(Code.VERIFICATION_NOT_FOUND))
    async def one(verification_id: UUID) -> admin.VerificationView:
        """One verification with its rows, as they come."""
        return _verification(await verifications.find(plane.pool, verification_id))


def _add_tallies(routes: APIRouter, plane: Plane) -> None:
    @routes.get(paths.ADMIN_QUEUES, operation_id="queues")
    async def queues() -> admin.QueuePage:
        """All queues: what waits, what runs, and which agents serve them; those that nobody serves first."""
        found = await tallies.queues(plane.pool, heartbeat_seconds=plane.config.heartbeat_seconds)
        return admin.QueuePage(queues=tuple(_queue(one) for one in found))

    @routes.get(paths.ADMIN_BUNDLES, operation_id="bundles")
    async def bundles(start: Start = 0, limit: Limit = 100) -> admin.BundlePage:
        """A page of DAG bundles: who parses each, its files, DAGs and errors; those that nobody parses first."""
        found = await shown_dags.bundles(plane.pool, start=start, limit=limit + 1)
        return admin.BundlePage(
            bundles=tuple(admin.BundleView(**asdict(one)) for one in found[:limit]),
            next_start=start + limit if len(found) > limit else None,
            refused=tuple(admin.RefusedBundleView(**asdict(one)) for one in await shown_dags.refused(plane.pool)),
        )

    @routes.get(paths.ADMIN_TRIGGERS, operation_id="triggers")
    async def triggers(start: Start = 0, limit: Limit = 100) -> admin.TriggersView:
        """Who runs how many triggers, a page of them; and what nobody runs, that which nobody could run first."""
        found = await shown_triggers.summary(plane.pool, plane.loads.patience, start=start, limit=limit)
        return _triggers(found, next_start=start + limit if found.has_more else None)

    @routes.get(paths.ADMIN_THROUGHPUT, operation_id="throughput")
    async def throughput() -> admin.ThroughputView:
        """How many workloads were settled in each minute of the last hour."""
        found = await tallies.last_hour(plane.pool)
        return admin.ThroughputView(minutes=tuple(admin.MinuteView(**asdict(one)) for one in found))


def _add_refused(routes: APIRouter, plane: Plane) -> None:
    @routes.get(paths.ADMIN_REFUSED, operation_id="refused")
    async def refused_callers(before: Cursor | None = None, limit: Limit = 100) -> admin.RefusedPage:
        """A page of those who were turned away at the door in the last day, the last one first."""
        cursor = None if before is None else refused.parse_cursor(before)
        rows = await refused.listed(plane.pool, before=cursor, limit=limit + 1)
        return admin.RefusedPage(
            callers=tuple(_refused(row) for row in rows[:limit]),
            next_before=refused.cursor(rows[limit - 1]) if len(rows) > limit else None,
        )


def _refused(row: refused.RefusedCaller) -> admin.RefusedCaller:
    meaning = MEANINGS[Code(row.code)]
    return admin.RefusedCaller(
        code=row.code,
        title=meaning.title,
        hint=meaning.hint,
        detail=row.detail,
        address=row.address,
        path=row.path,
        link_id=row.link_id,
        token_id=row.token_id,
        token_name=row.token_name,
        times=row.times,
        first_at=row.first_at,
        last_at=row.last_at,
        is_recent=row.is_recent,
    )


def _queue(one: tallies.QueueTally) -> admin.QueueView:
    return admin.QueueView(
        queue=one.queue,
        queued=one.queued,
        oldest_queued_seconds=one.oldest_seconds,
        leased=one.leased,
        running=one.running,
        agents=one.agents,
        agents_count=one.agents_count,
        slots=one.slots,
        slots_used=one.slots_used,
    )


def _triggers(found: shown_triggers.TriggersSummary, next_start: int | None) -> admin.TriggersView:
    return admin.TriggersView(
        triggerers=tuple(admin.TriggererView(**asdict(one)) for one in found.triggerers),
        next_start=next_start,
        held=found.held,
        capacity=found.capacity,
        held_centrally=found.held_centrally,
        waiting_count=found.waiting,
        oldest_waiting_seconds=found.oldest_seconds,
        waiting=tuple(admin.WaitingTriggersView(**asdict(one)) for one in found.groups),
    )


def _add_workloads(routes: APIRouter, plane: Plane) -> None:
    @routes.get(paths.ADMIN_WORKLOADS, operation_id="workloads")
    async def workloads(
        *,
        state: admin.WorkloadState | None = None,
        queue: Annotated[QueueName, Query()] | None = None,
        kind: Kind | None = None,
        dag_id: Name | None = None,
        agent_id: UUID | None = None,
        before: Cursor | None = None,
        limit: Limit = 100,
    ) -> admin.WorkloadPage:
        """A page of workloads, newest first."""
        which = WorkloadFilter(state=state, queue=queue, kind=kind, dag_id=dag_id, agent_id=agent_id)
        rows, next_before = await reading.workloads(plane.pool, which, before=before, limit=limit)
        return admin.WorkloadPage(workloads=tuple(_workload(row) for row in rows), next_before=next_before)

    @routes.get(paths.ADMIN_WORKLOAD, operation_id="workload", responses=_may(Code.WORKLOAD_NOT_FOUND))
    async def workload(workload_id: UUID) -> admin.WorkloadDetail:
        """One workload with Airflow's payload, which holds no token."""
        row, payload = await reading.workload(plane.pool, workload_id)
        return admin.WorkloadDetail(workload=_workload(row), payload=payload)

    @routes.post(
        paths.ADMIN_WORKLOAD_CANCEL,
        operation_id="cancel_workload",
        status_code=202,
        responses=_may(Code.WORKLOAD_NOT_FOUND),
    )
    async def cancel_workload(workload_id: UUID) -> admin.WorkloadView:
        """Cancel a workload that has not started, or ask its agent to stop it. One that has ended stays as it is."""
        await steering.cancel(plane.pool, workload_id)
        row, _ = await reading.workload(plane.pool, workload_id)
        return _workload(row)


def _texts(networks: Iterable[object]) -> tuple[str, ...]:
    return tuple(str(network) for network in networks)


def _token(token: Token, clock: Clock) -> admin.TokenView:
    return admin.TokenView(
        token_id=token.token_id,
        name=token.name,
        state=token.state(clock.now()),
        roles=tuple(sorted(token.roles)),
        queues=tuple(sorted(token.queues)),
        links=tuple(sorted(token.links)),
        bundles=tuple(sorted(token.bundles)),
        created_at=token.created_at,
        expires_at=token.expires_at,
        revoked_at=token.revoked_at,
        last_used_at=token.last_used_at,
        last_used_address=token.last_used_address,
        successor_id=token.successor_id,
    )


def _agent(row: AgentRow) -> admin.AgentView:
    return admin.AgentView(
        agent_id=row.agent_id,
        name=row.name,
        role=row.role,
        health=row.health,
        phase=row.phase,
        cordoned=row.cordoned,
        draining=row.draining,
        queues=row.queues,
        slots=row.slots,
        slots_used=row.slots_used,
        versions=row.versions,
        labels=row.labels,
        warnings=tuple(warning for one in row.warnings if (warning := _warning(one)) is not None),
        token_id=row.token_id,
        address=row.arrival.address,
        enrolled_at=row.enrolled_at,
        last_heartbeat_at=row.last_heartbeat_at,
        path=row.arrival.path,
        link_id=row.arrival.link_id,
        path_since=row.path_since,
        probes_order_id=None if row.probes_order is None else UUID(row.probes_order["order_id"]),
        probe_report=None if row.probe_report is None else _report(row.probe_report),
        probe_reported_at=row.probe_reported_at,
        group=row.group,
        standby=row.standby,
    )


def _report(stored: dict[str, Any]) -> ProbeReport | None:
    """A report as it was stored; None for one that another version of ours stored in another form."""
    try:
        return ProbeReport.model_validate(stored)
    except ValidationError:
        return None


_REASONS: Final = {
    Unanswered.REPLACED: ("Another verification was ordered of this agent before this one had ended.", ""),
    Unanswered.REMOVED: ("The agent was struck off the roster.", ""),
    Unanswered.LEFT: ("The agent left.", "Start it again, and order a verification then."),
    Unanswered.UNHEALTHY: (
        "The agent is not heard of: it did not heartbeat.",
        "It may not reach the plane. Run isthmus verify on its host, and look at its log there.",
    ),
    Unanswered.SILENT: (
        "The agent heartbeats and sent no report.",
        "Look at its log tail. An agent of an older version may not know what is asked.",
    ),
}


def _entry(one: Verification) -> dict[str, Any]:
    """The fields of a ``VerificationEntry``."""
    report = None if one.report is None else _report(dict(one.report))
    order = None if one.ordered is None else _order(dict(one.ordered))
    reason, hint = ("", "") if one.unanswered is None else _REASONS[one.unanswered]
    if one.finished_at is not None:
        state = admin.VerificationState.FINISHED
    elif one.unanswered is not None:
        state = admin.VerificationState.UNANSWERED
    else:
        state = admin.VerificationState.ORDERED if report is None else admin.VerificationState.RUNNING
    rows = () if report is None else report.rows
    return {
        "verification_id": one.verification_id,
        "agent_id": one.agent_id,
        "agent_name": one.agent_name,
        "state": state,
        "ordered_by": one.ordered_by,
        "ordered_at": one.ordered_at,
        "started_at": None if report is None else report.started_at,
        "finished_at": one.finished_at,
        "status": None if report is None else report.status,
        "failed": next((row for row in rows if row.status is ProbeStatus.FAIL), None),
        "endpoint": None if order is None else order.endpoint,
        "connection": None if order is None else order.connection,
        "reason": reason,
        "hint": hint,
    }


def _verification(one: Verification) -> admin.VerificationView:
    report = None if one.report is None else _report(dict(one.report))
    order = None if one.ordered is None else _order(dict(one.ordered))
    return admin.VerificationView(
        **_entry(one),
        url="" if report is None else report.url,
        public_addresses=() if order is None else order.public_addresses,
        public_allowed=order is None or order.public_allowed,
        rows=() if report is None else report.rows,
    )


def _order(stored: dict[str, Any]) -> ProbeOrder | None:
    """An order as it was stored; None for one that another version of ours stored in another form."""
    try:
        return ProbeOrder.model_validate(stored)
    except ValidationError:
        return None


def _log_tail(agent_id: UUID, found: LogTail | None) -> admin.LogTailView:
    if found is None:
        return admin.LogTailView(
            agent_id=agent_id, order_id=None, ordered_by=None, ordered_at=None, received_at=None, lines=()
        )
    return admin.LogTailView(agent_id=agent_id, **asdict(found))


def _restriction(
    deployment_id: str, decided: Decided, *, dry_run: bool = False, forced: bool = False
) -> admin.RestrictionView:
    decision = decided.decision
    return admin.RestrictionView(
        deployment_id=deployment_id,
        decided_at=decided.at,
        outcome=decision.outcome,
        reason=decision.reason,
        dry_run=dry_run,
        forced=forced,
        ranges_before=_texts(decision.before),
        ranges_after=_texts(decision.after),
        cut_off=tuple(_place(place) for place in decision.cut_off),
        stays=tuple(_place(place) for place in decision.stays),
    )


def _place(place: Place) -> admin.AgentPlace:
    return admin.AgentPlace(
        agent_id=place.agent_id,
        name=place.name,
        health=place.health,
        path=place.arrival.path,
        link_id=place.arrival.link_id,
        address=place.arrival.address,
        last_heartbeat_at=place.last_heartbeat_at,
    )


def _warning(stored: dict[str, Any]) -> AgentWarning | None:
    """A warning as it was stored; None for one that another version of ours stored in another form."""
    try:
        return AgentWarning.model_validate(stored)
    except ValidationError:
        return None


def _workload(row: WorkloadRow) -> admin.WorkloadView:
    return admin.WorkloadView(
        workload_id=row.workload_id,
        kind=row.kind,
        state=row.state,
        queue=row.queue,
        priority=row.priority,
        dag_id=row.dag_id,
        task_id=row.task_id,
        run_id=row.run_id,
        map_index=row.map_index,
        try_number=row.try_number,
        subject_id=row.subject_id,
        agent_id=row.agent_id,
        agent_name=row.agent_name,
        fence=row.fence,
        queued_at=row.queued_at,
        leased_at=row.leased_at,
        started_at=row.started_at,
        settled_at=row.settled_at,
        lease_expires_at=row.lease_expires_at,
        exit_code=row.exit_code,
        detail=row.detail,
    )
