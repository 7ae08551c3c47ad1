"""A cluster as a picture: networks and their endpoints, the two entrances, deployments, and the way of traffic. Pure.

Boxes stand in three columns, in units of pixels; lines lead from left to right. What is drawn is what agents were seen
to do: a way is ``used`` while a healthy agent comes by it.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from isthmus.control.links import Connection, Link
from isthmus.control.overviews import SeenAgent
from isthmus.control.sights import Sight
from isthmus.link.states import ConnectionState
from isthmus.wire.admin import AgentHealth
from isthmus.wire.control import LinkState
from isthmus.wire.names import PathKind
from isthmus.wire.problems import Code

WIDTH: Final = 900
_BOX: Final = 240
_HEIGHT: Final = 58
_STEP: Final = 72
_COLUMNS: Final = (10, 350, 650)
#: More endpoints, or deployments, than these are counted in a last box.
_MOST: Final = 6
#: So many characters fit into a box.
_FITS: Final = 30


@dataclass(frozen=True, slots=True)
class Box:
    """A thing. ``kind`` is what it looks like: good, bad, waiting, plain. ``parts`` lead to its page."""

    x: int
    y: int
    kind: str
    title: str
    text: str
    parts: tuple[str, ...] = ()

    width: int = _BOX
    height: int = _HEIGHT


@dataclass(frozen=True, slots=True)
class Way:
    """A line between two boxes. ``kind``: used, open, waiting, shut; or kept, shut on purpose by an allow list."""

    start: tuple[int, int]
    end: tuple[int, int]
    kind: str


@dataclass(frozen=True, slots=True)
class Picture:
    """What is drawn, and the same in words."""

    height: int
    boxes: tuple[Box, ...]
    ways: tuple[Way, ...]
    words: str


def picture(
    cluster_id: str,
    link: Link | None,
    connections: Sequence[Connection],
    sights: Sequence[Sight],
    agents: Sequence[SeenAgent],
    *,
    cidr: str,
) -> Picture:
    """The picture of one cluster, whose own network is ``cidr``."""
    by_public = [one for one in agents if one.agent.path is PathKind.PUBLIC]
    link_page = ("clusters", cluster_id, "link")
    left = [_endpoint(one, agents, cluster_id) for one in connections[:_MOST]]
    if len(connections) > _MOST:
        left.append(("plain", f"{len(connections) - _MOST} further endpoints", "see all of them", link_page, "open"))
    public = _public(by_public, cluster_id)
    rows = max(len(left) + 1, len(sights[:_MOST]), 2)
    height = rows * _STEP + 10

    boxes: list[Box] = []
    ways: list[Way] = []
    kind, title, text = _link(link, connections)
    middle = 10 + (max(len(left), 1) - 1) * _STEP // 2
    link_box = Box(_COLUMNS[1], middle, kind, title, _cut(text), link_page)
    public_y = height - _STEP + 5
    entrance = Box(_COLUMNS[1], public_y, "good" if public[3] == "used" else "plain", "Public entrance", "HTTPS", ())
    boxes += [link_box, entrance]
    for index, (kind, title, text, parts, way) in enumerate(left):
        box = Box(_COLUMNS[0], index * _STEP + 10, kind, _cut(title), _cut(text), parts)
        boxes.append(box)
        ways.append(_way(box, link_box, way))
    outside = Box(_COLUMNS[0], public_y, public[0], "Public internet", public[1], public[2])
    boxes.append(outside)
    ways.append(_way(outside, entrance, public[3]))
    through = any(one.kind == "used" for one in ways if one.end[1] == _middle(link_box))
    for index, sight in enumerate(sights[:_MOST]):
        kind, text = _deployment(sight)
        name = sight.deployment.deployment_id
        box = Box(_COLUMNS[2], index * _STEP + 10, kind, name, text, ("clusters", cluster_id, "deployments", name))
        boxes.append(box)
        own = [one for one in agents if one.sight.deployment.deployment_id == name and _is_well(one)]
        used = {one.agent.path for one in own}
        ways.append(_way(link_box, box, "used" if PathKind.LINK in used and through else "open"))
        public_way = "kept" if _is_restricted(sight, cidr) else "open"
        ways.append(_way(entrance, box, "used" if PathKind.PUBLIC in used else public_way))
    return Picture(height, tuple(boxes), tuple(ways), _words(cluster_id, link, connections, sights, agents))


def _endpoint(
    one: Connection, agents: Sequence[SeenAgent], cluster_id: str
) -> tuple[str, str, str, tuple[str, ...], str]:
    own = [
        seen for seen in agents if seen.connection is not None and seen.connection.connection_id == one.connection_id
    ]
    well = sum(_is_well(seen) for seen in own)
    ill = sum(seen.agent.health is AgentHealth.UNHEALTHY for seen in own)
    title = one.endpoint_id.rpartition("/")[2]
    parts = ("clusters", cluster_id, "link", "connections", one.connection_id)
    match one.state:
        case ConnectionState.APPROVED:
            kind = "bad" if ill else "good" if well else "plain"
            return kind, title, f"approved, {_agents(well, ill)}", parts, "used" if well else "open"
        case ConnectionState.PENDING:
            return "waiting", title, "pending: nobody has decided", parts, "waiting"
        case _:
            return "bad", title, f"{one.state}, {_agents(well, ill)}", parts, "shut"


def _public(agents: Sequence[SeenAgent], cluster_id: str) -> tuple[str, str, tuple[str, ...], str]:
    well = sum(_is_well(one) for one in agents)
    ill = sum(one.agent.health is AgentHealth.UNHEALTHY for one in agents)
    kind = "bad" if ill else "good" if well else "plain"
    return kind, _agents(well, ill), ("clusters", cluster_id), "used" if well else "open"


def _link(link: Link | None, connections: Sequence[Connection]) -> tuple[str, str, str]:
    if link is None:
        return "plain", "No private link", "publish one"
    if link.state is LinkState.MISSING:
        return "bad", "Link service", "missing: somebody removed it"
    if link.problem is not None:
        return "bad", "Link service", link.problem.sentence
    waiting = sum(one.state is ConnectionState.PENDING for one in connections)
    if link.state is not LinkState.PUBLISHED:
        return "waiting", "Link service", link.state.value
    return "waiting" if waiting else "good", "Link service", f"{waiting} waiting" if waiting else "published"


def _deployment(sight: Sight) -> tuple[str, str]:
    if sight.problem is not None:
        is_wrong = sight.problem.code != Code.ADMIN_NOT_CONFIGURED
        return ("bad", "does not answer") if is_wrong else ("plain", "not asked: no admin URL or token")
    if sight.view is None:
        return "plain", "not seen yet"
    view = sight.view
    kind = "bad" if view.agents_unhealthy else "good" if view.agents_healthy else "plain"
    return kind, f"{view.workloads_queued} queued, {view.workloads_active} running"


def _is_restricted(sight: Sight, cidr: str) -> bool:
    """Whether the deployment lets in nobody but what comes from the cluster's own network: through the link."""
    ranges = () if sight.view is None else sight.view.allowed_ranges
    own = ipaddress.IPv4Network(cidr)
    found = [ipaddress.ip_network(one) for one in ranges]
    return bool(found) and all(isinstance(one, ipaddress.IPv4Network) and one.subnet_of(own) for one in found)


def _agents(well: int, ill: int) -> str:
    if not well and not ill:
        return "no agent"
    healthy = f"{well} {'agent' if well == 1 else 'agents'}"
    return f"{healthy}, {ill} unhealthy" if ill else healthy


def _is_well(one: SeenAgent) -> bool:
    return one.agent.health is AgentHealth.HEALTHY


def _way(start: Box, end: Box, kind: str) -> Way:
    return Way((start.x + start.width, _middle(start)), (end.x, _middle(end)), kind)


def _middle(box: Box) -> int:
    return box.y + box.height // 2


def _cut(text: str) -> str:
    return text if len(text) <= _FITS else f"{text[: _FITS - 1]}…"


def _words(
    cluster_id: str,
    link: Link | None,
    connections: Sequence[Connection],
    sights: Sequence[Sight],
    agents: Sequence[SeenAgent],
) -> str:
    through = sum(one.agent.path is PathKind.LINK and _is_well(one) for one in agents)
    public = sum(one.agent.path is PathKind.PUBLIC and _is_well(one) for one in agents)
    ill = sum(one.agent.health is AgentHealth.UNHEALTHY for one in agents)
    state = "no private link" if link is None else f"a link that is {link.state}, {len(connections)} endpoints"
    return (
        f"Cluster {cluster_id}: {state}, {len(sights)} deployments; {through} healthy agents come through the link, "
        f"{public} by the public path, {ill} are unhealthy."
    )
