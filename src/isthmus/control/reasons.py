"""Why an agent is not healthy: what its deployment says of it, joined with what is known of its connection. Pure.

From the deployment's side every cause looks alike: no heartbeat. What tells them apart is known elsewhere: the state of
the connection that it came through last, the end of its token, the allow list. The first cause that holds is the one
that is named, and where none does, that is said.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from isthmus.control import auditing
from isthmus.control.links import Connection, Link, Problem
from isthmus.control.sights import Sight
from isthmus.link import names
from isthmus.link.states import ConnectionState
from isthmus.wire import admin
from isthmus.wire.admin import AgentHealth, TokenState
from isthmus.wire.control import LinkState
from isthmus.wire.names import PathKind


@dataclass(frozen=True, slots=True)
class Cause:
    """What is wrong and what to do about it; ``sentence`` goes on after "no heartbeat for 34 s; "."""

    code: str
    sentence: str
    hint: str


_STOPPED: Final = Cause(
    "heartbeat_missing",
    "nothing is known to be in its way",
    "Is the agent running, and its host? Its log and /healthz say why the deployment does not hear it; isthmus verify "
    "in its network looks at the way.",
)
_RECREATE: Final = (
    "Only a new endpoint helps: the customer runs isthmus endpoint create --recreate, and it is approved."
)


def connection_of(agent: admin.AgentView, connections: Sequence[Connection]) -> Connection | None:
    """The connection that an agent came through last; None for the public path, or where that cannot be told.

    Where the ingress does not learn the link's id, the link's only connection is the one. Where the endpoint has been
    created again since, its new connection is: that is what the agent's packets meet now.
    """
    return connection_by(agent.path, agent.link_id, connections)


def connection_by(path: PathKind, link_id: int | None, connections: Sequence[Connection]) -> Connection | None:
    """The same of all agents that came by a path with a link's id."""
    if path is not PathKind.LINK:
        return None
    if link_id is None:
        return connections[0] if len(connections) == 1 else None
    last = _newest([one for one in connections if one.link_id == link_id])
    if last is None:
        return None
    return _newest([one for one in connections if names.are_same(one.endpoint_id, last.endpoint_id)])


def why(
    agent: admin.AgentView, sight: Sight, connection: Connection | None, link: Link | None, now: datetime
) -> Problem | None:
    """Why an agent is not healthy; None if it is. ``now`` is ours, used where the deployment does not say its time."""
    if agent.health is AgentHealth.HEALTHY:
        return None
    silence = _silence(heartbeat_age(agent, sight, now))
    if agent.health is AgentHealth.LEFT:
        return Problem("agent_left", f"it has left; {silence}", "Start it again, or: isthmus agents remove.")
    cause = (
        (_of_connection(connection) if connection is not None else None)
        or (_of_link(link) if agent.path is PathKind.LINK else None)
        or _of_token(agent, sight)
        or _of_address(agent, sight)
        or _STOPPED
    )
    return Problem(cause.code, f"{silence}; {cause.sentence}", cause.hint)


def heartbeat_age(agent: admin.AgentView, sight: Sight, now: datetime) -> float | None:
    """Seconds since its last heartbeat, by the deployment's clock; None if it never had one."""
    if agent.last_heartbeat_at is None:
        return None
    return max(0.0, ((sight.deployment_time or now) - agent.last_heartbeat_at).total_seconds())


def _silence(seconds: float | None) -> str:
    if seconds is None:
        return "no heartbeat yet"
    if seconds < 600:
        return f"no heartbeat for {seconds:.0f} s"
    return f"no heartbeat for {seconds / 60:.0f} min" if seconds < 36000 else f"no heartbeat for {seconds / 3600:.0f} h"


def _of_connection(connection: Connection) -> Cause | None:
    endpoint = endpoint_of(connection)
    what = f"the connection of its endpoint {endpoint}"
    because = f": {connection.reason}" if connection.reason else ""
    match connection.state:
        case ConnectionState.PENDING:
            return Cause(
                "connection_pending",
                f"{what} is pending: nobody has approved it",
                f"Approve it: isthmus link approve {endpoint}.",
            )
        case ConnectionState.REJECTED:
            return Cause("connection_rejected", f"{what} was rejected {_by(connection)}{because}", _RECREATE)
        case ConnectionState.DISCONNECTED:
            return Cause("connection_disconnected", f"{what} was removed {_by(connection)}{because}", _RECREATE)
        case ConnectionState.EXPIRED:
            return Cause("connection_expired", f"{what} expired before anybody approved it", _RECREATE)
        case _:
            return None


def endpoint_of(connection: Connection) -> str:
    """The endpoint's name."""
    return names.parse_id(connection.endpoint_id).name if names.is_id(connection.endpoint_id) else "unknown"


def _by(connection: Connection) -> str:
    if connection.decided_by is None:
        return "outside of Isthmus (by the cloud's portal, or with the endpoint itself)"
    return "by a rule" if connection.decided_by == auditing.ISTHMUS else f"by {connection.decided_by}"


def _of_link(link: Link | None) -> Cause | None:
    if link is None:
        return Cause("link_unpublished", "the cluster has no link any more", "Publish it: isthmus link publish.")
    match link.state:
        case LinkState.MISSING:
            return Cause(
                "link_missing", "the link service was removed outside of Isthmus", "Publish it: isthmus link publish."
            )
        case LinkState.UNPUBLISHING:
            return Cause("link_unpublished", "the link is being unpublished", "Publish it: isthmus link publish.")
        case _:
            return None


def _of_token(agent: admin.AgentView, sight: Sight) -> Cause | None:
    token = next((one for one in sight.tokens if one.token_id == agent.token_id), None)
    if token is None or token.state is TokenState.ACTIVE:
        return None
    ended = "was revoked" if token.state is TokenState.REVOKED else "has expired"
    hint = "Give the agent a new one: isthmus token create."
    return Cause(f"token_{token.state}", f"its token {token.name} ({token.token_id}) {ended}", hint)


def _of_address(agent: admin.AgentView, sight: Sight) -> Cause | None:
    if sight.view is None or not sight.view.allowed_ranges or agent.address is None:
        return None
    address = ipaddress.ip_address(agent.address)
    if any(address in ipaddress.ip_network(one) for one in sight.view.allowed_ranges):
        return None
    return Cause(
        "source_not_allowed",
        f"it came from {address}, which the allow list does not let in",
        "Have it come through the link, or allow the address: isthmus deployment allow add.",
    )


def _newest(connections: Sequence[Connection]) -> Connection | None:
    return max(connections, key=lambda one: (not one.is_gone, one.first_seen_at), default=None)
