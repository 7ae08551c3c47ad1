"""Everything at one look: deployments and their agents, joined with the links' connections. Reads alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from isthmus.control import clusters, links, reasons
from isthmus.control.clusters import Cluster, Deployment
from isthmus.control.databases import Database
from isthmus.control.links import Connection, Link, Problem
from isthmus.control.sights import Lookout, Sight
from isthmus.kit.clocks import Clock
from isthmus.wire import admin
from isthmus.wire.admin import AgentHealth
from isthmus.wire.names import PathKind


@dataclass(frozen=True, slots=True)
class SeenAgent:
    """An agent of a deployment; ``reason`` is None while it is healthy."""

    agent: admin.AgentView
    sight: Sight
    heartbeat_seconds_ago: float | None
    connection: Connection | None
    reason: Problem | None


@dataclass(frozen=True, slots=True)
class Crowd:
    """So many agents of a deployment that come the same way, some by name; ``connection`` where it is known."""

    deployment_id: str
    cluster_id: str
    path: PathKind
    connection: Connection | None
    healthy: int
    unhealthy: int
    last_heartbeat_at: datetime | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """Deployments by id, each with its cluster's host; how many agents come by which way; some that are unhealthy."""

    deployments: tuple[tuple[Cluster, Sight], ...]
    crowds: tuple[Crowd, ...]
    unhealthy: tuple[SeenAgent, ...]


@dataclass(frozen=True, slots=True)
class Overview:
    """Deployments by id, each with its cluster's host; agents by deployment and name."""

    deployments: tuple[tuple[Cluster, Sight], ...]
    agents: tuple[SeenAgent, ...]


@dataclass(frozen=True, slots=True)
class _Link:
    link: Link | None
    connections: Sequence[Connection]


async def overview(
    database: Database, lookout: Lookout, clock: Clock, cluster_id: str | None = None, *, waits: bool = True
) -> Overview:
    """One cluster, or all; without ``waits`` as deployments were seen last, and not at all if nobody has looked yet.

    Raises ControlRefusedError(CLUSTER_NOT_FOUND), DatabaseError.
    """
    by_id, registered = await _registered(database, cluster_id)
    sights = await lookout.sights(registered) if waits else lookout.glance(registered)
    joined = await _links(database, {one.deployment.cluster_id for one in sights if one.agents})
    agents = _explained(sights, joined, clock)
    return Overview(tuple((by_id[one.deployment.cluster_id], one) for one in sights), agents)


async def summary(database: Database, lookout: Lookout, clock: Clock) -> Summary:
    """All deployments, with agents counted. Raises DatabaseError."""
    by_id, registered = await _registered(database, None)
    sights = await lookout.summaries(registered)
    joined = await _links(database, {one.deployment.cluster_id for one in sights if one.view is not None})
    crowds = [
        Crowd(
            sight.deployment.deployment_id,
            sight.deployment.cluster_id,
            way.path,
            reasons.connection_by(way.path, way.link_id, joined[sight.deployment.cluster_id].connections),
            way.healthy,
            way.unhealthy,
            way.last_heartbeat_at,
            way.names,
        )
        for sight in sights
        if sight.view is not None
        for way in sight.view.agents_by_way
    ]
    shown = tuple((by_id[one.deployment.cluster_id], one) for one in sights)
    return Summary(shown, tuple(crowds), _explained(sights, joined, clock))


async def explained(
    database: Database, lookout: Lookout, clock: Clock, deployment: Deployment, agents: Sequence[admin.AgentView]
) -> tuple[Sight, tuple[SeenAgent, ...]]:
    """Some agents of a deployment with the reasons, and the deployment's summary. Raises DatabaseError."""
    sight = (await lookout.summaries([deployment]))[0]
    joined = await _links(database, {deployment.cluster_id})
    return sight, _explained([replace(sight, agents=tuple(agents))], joined, clock)


async def _registered(database: Database, cluster_id: str | None) -> tuple[dict[str, Cluster], list[Deployment]]:
    async with database.begin() as connection:
        if cluster_id is None:
            found = list(await clusters.listed(connection, after=None, limit=None))
        else:
            found = [await clusters.get(connection, cluster_id)]
        registered = [one for cluster in found for one in await clusters.deployments(connection, cluster.cluster_id)]
    return {one.cluster_id: one for one in found}, registered


async def _links(database: Database, cluster_ids: Iterable[str]) -> dict[str, _Link]:
    """Asked for after the look: what is said of connections must not be older than what is said of agents."""
    async with database.begin() as connection:
        return {
            one: _Link(await links.find(connection, one), await links.ever_known(connection, one))
            for one in cluster_ids
        }


def _explained(sights: Sequence[Sight], joined: dict[str, _Link], clock: Clock) -> tuple[SeenAgent, ...]:
    now = clock.now()
    agents = []
    for sight in sights:
        for agent in sight.agents:
            side = joined[sight.deployment.cluster_id]
            through = reasons.connection_of(agent, side.connections)
            reason = reasons.why(agent, sight, through, side.link, now)
            agents.append(SeenAgent(agent, sight, reasons.heartbeat_age(agent, sight, now), through, reason))
    return tuple(agents)


def through(agents: Sequence[SeenAgent], connection: Connection) -> list[SeenAgent]:
    """The agents that came through a connection last, without those that have left; by name."""
    found = [
        one
        for one in agents
        if one.connection is not None
        and one.connection.connection_id == connection.connection_id
        and one.agent.health is not AgentHealth.LEFT
    ]
    return sorted(found, key=lambda one: one.agent.name)
