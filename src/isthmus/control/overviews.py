"""Everything at one look: deployments and their agents, joined with the links' connections. Reads alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from isthmus.control import clusters, links, reasons
from isthmus.control.clusters import Cluster
from isthmus.control.databases import Database
from isthmus.control.links import Connection, Link, Problem
from isthmus.control.sights import Lookout, Sight
from isthmus.kit.clocks import Clock
from isthmus.wire import admin


@dataclass(frozen=True, slots=True)
class SeenAgent:
    """An agent of a deployment; ``reason`` is None while it is healthy."""

    agent: admin.AgentView
    sight: Sight
    heartbeat_seconds_ago: float | None
    connection: Connection | None
    reason: Problem | None


@dataclass(frozen=True, slots=True)
class Overview:
    """Deployments by id, each with its cluster's host; agents by deployment and name."""

    deployments: tuple[tuple[Cluster, Sight], ...]
    agents: tuple[SeenAgent, ...]


@dataclass(frozen=True, slots=True)
class _Link:
    link: Link | None
    connections: Sequence[Connection]


async def overview(database: Database, lookout: Lookout, clock: Clock, cluster_id: str | None = None) -> Overview:
    """One cluster, or all. Raises ControlRefusedError(CLUSTER_NOT_FOUND), DatabaseError."""
    async with database.begin() as connection:
        if cluster_id is None:
            found = list(await clusters.listed(connection, after=None, limit=None))
        else:
            found = [await clusters.get(connection, cluster_id)]
        registered = [one for cluster in found for one in await clusters.deployments(connection, cluster.cluster_id)]
    sights = await lookout.sights(registered)
    by_id = {one.cluster_id: one for one in found}
    # After the look: what is said of connections must not be older than what is said of agents.
    async with database.begin() as connection:
        joined = {
            one: _Link(await links.find(connection, one), await links.ever_known(connection, one))
            for one in {sight.deployment.cluster_id for sight in sights if sight.agents}
        }
    now = clock.now()
    agents = []
    for sight in sights:
        for agent in sight.agents:
            side = joined[sight.deployment.cluster_id]
            through = reasons.connection_of(agent, side.connections)
            reason = reasons.why(agent, sight, through, side.link, now)
            agents.append(SeenAgent(agent, sight, reasons.heartbeat_age(agent, sight, now), through, reason))
    return Overview(tuple((by_id[one.deployment.cluster_id], one) for one in sights), tuple(agents))
