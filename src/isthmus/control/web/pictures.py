"""A cluster as a picture: networks and their endpoints, the two entrances, deployments, and the way of traffic. Pure.

Boxes stand in three columns, in units of pixels; lines lead from left to right. What is drawn is what agents were seen
to do: a way is ``used`` while a healthy agent comes by it.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from isthmus.control.links import Connection, Link
from isthmus.control.overviews import Crowd
from isthmus.control.sights import Sight
from isthmus.link import names
from isthmus.link.states import ConnectionState
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
_TITLE_FITS: Final = 25
#: So many agents are named where the pointer rests.
_NAMED: Final = 20


@dataclass(frozen=True, slots=True)
class Box:
    """A thing. ``kind`` is what it looks like: good, bad, waiting, plain. ``parts`` lead to its page.

    ``heard`` is when one of its agents was heard last; ``agents`` are their names, as many as there are.
    """

    x: int
    y: int
    kind: str
    title: str
    text: str
    parts: tuple[str, ...] = ()
    heard: datetime | None = None
    agents: tuple[str, ...] = ()

    width: int = _BOX
    height: int = _HEIGHT


@dataclass(frozen=True, slots=True)
class Way:
    """A line between two boxes. ``kind``: used, open, waiting, shut; or kept, shut on purpose by an allow list."""

    start: tuple[int, int]
    end: tuple[int, int]
    kind: str


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where agents come from: what its box says, and the way on from there."""

    kind: str
    title: str
    text: str
    parts: tuple[str, ...]
    way: str
    crowds: tuple[Crowd, ...] = ()

    def box(self, y: int) -> Box:
        heard = (one.last_heartbeat_at for one in self.crowds)
        names_of = tuple(sorted(name for one in self.crowds for name in one.names)[:_NAMED])
        further = sum(one.healthy + one.unhealthy for one in self.crowds) - len(names_of)
        return Box(
            *(_COLUMNS[0], y, self.kind, _cut(self.title, _TITLE_FITS), _cut(self.text), self.parts),
            heard=max((one for one in heard if one is not None), default=None),
            agents=(*names_of, f"and {further} more") if further > 0 else names_of,
        )


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
    crowds: Sequence[Crowd],
    *,
    cidr: str,
) -> Picture:
    """The picture of one cluster, whose own network is ``cidr``."""
    link_page = ("clusters", cluster_id, "link")
    left = [_endpoint(one, crowds, cluster_id) for one in connections[:_MOST]]
    if len(connections) > _MOST:
        further = f"{len(connections) - _MOST} further endpoints"
        left.append(_Origin("plain", further, "see all of them", link_page, "open"))
    public = _public(crowds, cluster_id)
    rows = max(len(left) + 1, len(sights[:_MOST]), 2)
    height = rows * _STEP + 10

    boxes: list[Box] = []
    ways: list[Way] = []
    kind, title, text = _link(link, connections)
    middle = 10 + (max(len(left), 1) - 1) * _STEP // 2
    link_box = Box(_COLUMNS[1], middle, kind, title, _cut(text), link_page)
    public_y = height - _STEP + 5
    entrance = Box(_COLUMNS[1], public_y, "good" if public.way == "used" else "plain", "Public entrance", "HTTPS", ())
    boxes += [link_box, entrance]
    for index, origin in enumerate(left):
        box = origin.box(index * _STEP + 10)
        boxes.append(box)
        ways.append(_way(box, link_box, origin.way))
    outside = public.box(public_y)
    boxes.append(outside)
    ways.append(_way(outside, entrance, public.way))
    through = any(one.kind == "used" for one in ways if one.end[1] == _middle(link_box))
    for index, sight in enumerate(sights[:_MOST]):
        kind, text = _deployment(sight)
        name = sight.deployment.deployment_id
        box = Box(_COLUMNS[2], index * _STEP + 10, kind, name, text, ("clusters", cluster_id, "deployments", name))
        boxes.append(box)
        used = {one.path for one in crowds if one.deployment_id == name and one.healthy}
        ways.append(_way(link_box, box, "used" if PathKind.LINK in used and through else "open"))
        public_way = "kept" if _is_restricted(sight, cidr) else "open"
        ways.append(_way(entrance, box, "used" if PathKind.PUBLIC in used else public_way))
    return Picture(height, tuple(boxes), tuple(ways), _words(cluster_id, link, connections, sights, crowds))


def _endpoint(one: Connection, crowds: Sequence[Crowd], cluster_id: str) -> _Origin:
    own = tuple(
        seen for seen in crowds if seen.connection is not None and seen.connection.connection_id == one.connection_id
    )
    title, parts = names.brief(one.endpoint_id), ("clusters", cluster_id, "link", "connections", one.connection_id)
    match one.state:
        case ConnectionState.APPROVED:
            text = _agents(own) if own else "approved, no agent"
            return _Origin(_kind(own), title, text, parts, "used" if _well(own) else "open", own)
        case ConnectionState.PENDING:
            return _Origin("waiting", title, "pending: nobody has decided", parts, "waiting", own)
        case _:
            return _Origin("bad", title, f"{one.state}, {_agents(own)}", parts, "shut", own)


def _public(crowds: Sequence[Crowd], cluster_id: str) -> _Origin:
    own = tuple(one for one in crowds if one.path is PathKind.PUBLIC)
    way = "used" if _well(own) else "open"
    return _Origin(_kind(own), "Public internet", _agents(own), ("clusters", cluster_id), way, own)


def _kind(crowds: Sequence[Crowd]) -> str:
    if _ill(crowds):
        return "bad"
    return "good" if _well(crowds) else "plain"


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


def _agents(crowds: Sequence[Crowd]) -> str:
    well, ill = _well(crowds), _ill(crowds)
    if not well and not ill:
        return "no agent"
    healthy = f"{well} {'agent' if well == 1 else 'agents'}"
    if not ill:
        return healthy
    return f"{healthy}, {ill} unhealthy" if well else f"{ill} unhealthy"


def _well(crowds: Sequence[Crowd]) -> int:
    return sum(one.healthy for one in crowds)


def _ill(crowds: Sequence[Crowd]) -> int:
    return sum(one.unhealthy for one in crowds)


def _way(start: Box, end: Box, kind: str) -> Way:
    return Way((start.x + start.width, _middle(start)), (end.x, _middle(end)), kind)


def _middle(box: Box) -> int:
    return box.y + box.height // 2


def _cut(text: str, fits: int = _FITS) -> str:
    return text if len(text) <= fits else f"{text[: fits - 1]}…"


def _words(
    cluster_id: str,
    link: Link | None,
    connections: Sequence[Connection],
    sights: Sequence[Sight],
    crowds: Sequence[Crowd],
) -> str:
    through = _well([one for one in crowds if one.path is PathKind.LINK])
    public = _well([one for one in crowds if one.path is PathKind.PUBLIC])
    ill = _ill(crowds)
    state = "no private link" if link is None else f"a link that is {link.state}, {len(connections)} endpoints"
    return (
        f"Cluster {cluster_id}: {state}, {len(sights)} deployments; {through} healthy agents come through the link, "
        f"{public} by the public path, {ill} are unhealthy."
    )
