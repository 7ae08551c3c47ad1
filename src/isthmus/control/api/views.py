"""Rows into the bodies of ``wire.control``: the one place where the two meet."""

from collections.abc import Iterable, Mapping

from isthmus.control.auditing import Entry
from isthmus.control.clusters import Cluster, Deployment
from isthmus.control.links import Connection, Expectation, Link, LinkSpec, Problem
from isthmus.control.operators import Operator
from isthmus.control.overviews import Overview, SeenAgent
from isthmus.control.progress import StepProgress
from isthmus.control.proposing import Proposal
from isthmus.control.sights import Sight
from isthmus.link.services import ServiceSpec
from isthmus.link.states import PENDING_LIFETIME, ConnectionState
from isthmus.link.steps import kind_of
from isthmus.wire import control
from isthmus.wire import names as wire_names
from isthmus.wire.control import NoteView


def cluster(one: Cluster, deployments: Iterable[str]) -> control.ClusterView:
    """A cluster."""
    return control.ClusterView(
        cluster_id=one.cluster_id,
        cidr=str(one.cidr),
        domain=one.domain,
        region=one.region,
        host=one.host,
        alias=one.alias,
        deployments=tuple(deployments),
        created_at=one.created_at,
    )


def registration(one: Deployment, host: str) -> control.DeploymentRegistration:
    """A deployment, with the URL that its agents are given."""
    return control.DeploymentRegistration(
        deployment_id=one.deployment_id,
        cluster_id=one.cluster_id,
        url=f"https://{host}/{one.deployment_id}",
        servers=one.servers,
        tls_name=one.tls_name,
        admin_url=one.admin_url,
        admin_token_reference=one.admin_token_reference,
        created_at=one.created_at,
    )


def ingress(one: Cluster, deployments: Iterable[Deployment], link: Link | None) -> control.IngressView:
    """What a cluster's ingress should do. The link's entrance opens with the wish, so that nothing waits for it."""
    return control.IngressView(
        cluster_id=one.cluster_id,
        host=one.host,
        routes=tuple(
            control.RouteView(deployment_id=item.deployment_id, servers=item.servers, tls_name=item.tls_name)
            for item in deployments
        ),
        link_networks=() if link is None else (str(one.cidr),),
        has_proxy_protocol=link is None or link.spec.service.has_proxy_protocol,
    )


def spec(body: control.LinkBody, one: Cluster) -> LinkSpec:
    """What a link should be."""
    service = ServiceSpec(
        service_id=body.service_id,
        cluster_id=one.cluster_id,
        location=one.region,
        frontend_id=body.frontend_id,
        nat_subnet_id=body.nat_subnet_id,
        nat_addresses=body.nat_addresses,
        visible_to=body.visible_to,
        approved_at_once=body.approved_at_once,
        has_proxy_protocol=body.has_proxy_protocol,
    )
    return LinkSpec(service, body.inherits_approval)


def body(one: LinkSpec) -> control.LinkBody:
    """What a link should be, as it is asked for."""
    service = one.service
    return control.LinkBody(
        service_id=service.service_id,
        frontend_id=service.frontend_id,
        nat_subnet_id=service.nat_subnet_id,
        nat_addresses=service.nat_addresses,
        visible_to=service.visible_to,
        approved_at_once=service.approved_at_once,
        has_proxy_protocol=service.has_proxy_protocol,
        inherits_approval=one.inherits_approval,
    )


def link(
    one: Link, connections: Mapping[ConnectionState, int], progress: Iterable[StepProgress] = ()
) -> control.LinkView:
    """A link, with how many of its connections are in which state."""
    service = one.spec.service
    return control.LinkView(
        cluster_id=one.cluster_id,
        state=one.state,
        alias=one.alias,
        service_id=service.service_id,
        frontend_id=service.frontend_id,
        nat_subnet_id=service.nat_subnet_id,
        nat_addresses=one.nat_addresses,
        visible_to=service.visible_to,
        approved_at_once=service.approved_at_once,
        has_proxy_protocol=service.has_proxy_protocol,
        inherits_approval=one.spec.inherits_approval,
        connections={state.value: number for state, number in connections.items()},
        problem=_note(one.problem),
        published_at=one.published_at,
        observed_at=one.observed_at,
        progress=tuple(_progress(item) for item in progress),
    )


def _progress(one: StepProgress) -> control.StepProgressView:
    return control.StepProgressView(
        kind=kind_of(one.step),
        sentence=one.step.sentence,
        state=one.state.value,
        trouble=one.trouble,
        since=one.since,
        seconds=one.seconds,
    )


def plan(one: Proposal) -> control.PlanView:
    """A plan, and the name for it."""
    found = one.plan
    return control.PlanView(
        steps=tuple(control.StepView(kind=kind_of(step), sentence=step.sentence) for step in found.steps),
        warnings=tuple(NoteView(code=item.code.value, sentence=item.sentence) for item in found.warnings),
        blocks=tuple(NoteView(code=item.code.value, sentence=item.sentence, hint=item.hint) for item in found.blocks),
        digest=one.digest,
    )


def connection(one: Connection) -> control.ConnectionView:
    """A connection; a pending one with the time at which it expires."""
    is_pending = one.state is ConnectionState.PENDING
    return control.ConnectionView(
        connection_id=one.connection_id,
        endpoint_id=one.endpoint_id,
        subscription=one.subscription,
        state=wire_names.ConnectionState(one.state.value),
        wanted=None if one.wanted is None else one.wanted.value,
        reason=one.reason,
        message=one.message,
        link_id=one.link_id,
        location=one.location,
        first_seen_at=one.first_seen_at,
        changed_at=one.changed_at,
        expires_at=one.first_seen_at + PENDING_LIFETIME if is_pending else None,
        decided_by=one.decided_by,
        decided_at=one.decided_at,
        version=one.version,
        problem=_note(one.problem),
    )


def expectation(one: Expectation) -> control.ExpectationView:
    """An expectation."""
    return control.ExpectationView(
        expectation_id=one.expectation_id,
        kind=one.kind,
        value=one.value,
        reason=one.reason,
        created_by=one.created_by,
        created_at=one.created_at,
        matched_at=one.matched_at,
    )


def operator(one: Operator) -> control.OperatorView:
    """An operator."""
    return control.OperatorView(
        name=one.name,
        role=one.role,
        created_by=one.created_by,
        created_at=one.created_at,
        revoked_at=one.revoked_at,
        last_used_at=one.last_used_at,
    )


def entry(one: Entry) -> control.AuditEntry:
    """A line of the audit log."""
    return control.AuditEntry(
        entry_id=one.entry_id,
        at=one.at,
        operator=one.operator,
        source_address=one.source_address,
        action=one.action,
        subject=one.subject,
        before=one.before,
        after=one.after,
    )


def overview(one: Overview) -> control.OverviewView:
    """All deployments and agents."""
    return control.OverviewView(
        deployments=tuple(_sight(sight, cluster.host) for cluster, sight in one.deployments),
        agents=tuple(_seen(agent) for agent in one.agents),
    )


def _sight(one: Sight, host: str) -> control.DeploymentSight:
    return control.DeploymentSight(
        cluster_id=one.deployment.cluster_id,
        deployment_id=one.deployment.deployment_id,
        url=f"https://{host}/{one.deployment.deployment_id}",
        problem=_note(one.problem),
        observed_at=one.observed_at,
        deployment=one.view,
        more_agents=one.has_more_agents,
    )


def _seen(one: SeenAgent) -> control.AgentSight:
    agent, through = one.agent, one.connection
    return control.AgentSight(
        cluster_id=one.sight.deployment.cluster_id,
        deployment_id=one.sight.deployment.deployment_id,
        agent_id=agent.agent_id,
        name=agent.name,
        role=agent.role,
        health=agent.health,
        phase=agent.phase,
        cordoned=agent.cordoned,
        draining=agent.draining,
        queues=agent.queues,
        slots=agent.slots,
        slots_used=agent.slots_used,
        warnings=agent.warnings,
        token_id=agent.token_id,
        path=agent.path,
        link_id=agent.link_id,
        address=agent.address,
        path_since=agent.path_since,
        last_heartbeat_at=agent.last_heartbeat_at,
        heartbeat_seconds_ago=one.heartbeat_seconds_ago,
        verified=None if agent.probe_report is None else agent.probe_report.status,
        verified_at=agent.probe_reported_at,
        connection_id=None if through is None else through.connection_id,
        connection_state=None if through is None else wire_names.ConnectionState(through.state.value),
        endpoint_id=None if through is None else through.endpoint_id,
        reason=_note(one.reason),
    )


def _note(problem: Problem | None) -> NoteView | None:
    return None if problem is None else NoteView(code=problem.code, sentence=problem.sentence, hint=problem.hint)
