"""What the overview draws of a cluster: the way that healthy agents come by, and what is in the way of others."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.fakes import admin_api

from isthmus.control.clusters import Deployment
from isthmus.control.links import Connection, Link, LinkSpec, Problem
from isthmus.control.overviews import Crowd
from isthmus.control.sights import Sight
from isthmus.control.web import pictures
from isthmus.link.services import ServiceSpec
from isthmus.link.states import ConnectionState
from isthmus.wire.admin import AgentHealth
from isthmus.wire.control import LinkState
from isthmus.wire.names import PathKind
from isthmus.wire.problems import Code

NOW = datetime(2026, 11, 23, tzinfo=UTC)
CLUSTER = "clabcdefgh2"
CIDR = "10.20.0.0/16"
SIGHT = Sight(Deployment("dtest234", CLUSTER, ("https://api:8443",), None, None, "", NOW))


def connection(name: str, state: ConnectionState) -> Connection:
    path = f"/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/privateEndpoints/{name}"
    words = {"name": name, "subscription": "s", "wanted": None, "reason": "", "message": "", "location": "westeurope"}
    times: dict[str, Any] = {"first_seen_at": NOW, "changed_at": NOW, "decided_by": None, "decided_at": None}
    return Connection(f"cn{name}", CLUSTER, endpoint_id=path, state=state, link_id=7, version=1, **words, **times)


def link(state: LinkState = LinkState.PUBLISHED, problem: Problem | None = None) -> Link:
    spec = LinkSpec(ServiceSpec("/service", CLUSTER, "westeurope", "/frontend", "/subnet"))
    return Link(CLUSTER, state, spec, False, "alias", ("10.1.1.4",), problem, NOW, NOW, 1)


def agent(number: int, through: Connection | None, health: AgentHealth = AgentHealth.HEALTHY) -> Crowd:
    path = PathKind.PUBLIC if through is None else PathKind.LINK
    well = health is AgentHealth.HEALTHY
    heard, names = admin_api.NOW - timedelta(seconds=4), (f"agent-{number} ({health})",)
    return Crowd("dtest234", CLUSTER, path, through, int(well), int(not well), heard, names)


def kinds(drawn: pictures.Picture) -> dict[str, str]:
    return {box.title: box.kind for box in drawn.boxes}


def ways(drawn: pictures.Picture) -> dict[tuple[str, str], str]:
    starts = {(box.x + box.width, box.y + box.height // 2): box.title for box in drawn.boxes}
    ends = {(box.x, box.y + box.height // 2): box.title for box in drawn.boxes}
    return {(starts[way.start], ends[way.end]): way.kind for way in drawn.ways}


def test_traffic_is_drawn_where_healthy_agents_come() -> None:
    oslo, bergen = connection("oslo", ConnectionState.APPROVED), connection("bergen", ConnectionState.PENDING)
    drawn = pictures.picture(CLUSTER, link(), [oslo, bergen], [SIGHT], [agent(1, oslo)], cidr=CIDR)
    assert ways(drawn) == {
        ("g/oslo", "Link service"): "used",
        ("g/bergen", "Link service"): "waiting",
        ("Public internet", "Public entrance"): "open",
        ("Link service", "dtest234"): "used",
        ("Public entrance", "dtest234"): "open",
    }
    assert kinds(drawn)["g/bergen"] == "waiting"
    assert "1 healthy agents come through the link" in drawn.words
    [box] = [one for one in drawn.boxes if one.title == "g/oslo"]
    assert (box.text, len(box.agents)) == ("1 agent", 1)
    assert box.heard is not None


def test_what_is_broken_is_drawn_as_such() -> None:
    oslo = connection("oslo", ConnectionState.REJECTED)
    away = Sight(SIGHT.deployment, Problem(Code.ADMIN_UNREACHABLE, "It does not answer."))
    agents = [agent(1, oslo, AgentHealth.UNHEALTHY), agent(2, None, AgentHealth.UNHEALTHY), agent(3, None)]
    drawn = pictures.picture(
        CLUSTER, link(problem=Problem("x", "The NAT is outside.")), [oslo], [away], agents, cidr=CIDR
    )
    assert kinds(drawn) == {
        "g/oslo": "bad",
        "Link service": "bad",
        "Public internet": "bad",
        "Public entrance": "good",
        "dtest234": "bad",
    }
    assert ways(drawn)["g/oslo", "Link service"] == "shut"
    assert ways(drawn)["Public internet", "Public entrance"] == "used"


def test_a_deployment_that_nobody_configured_is_no_alarm() -> None:
    unknown = Sight(SIGHT.deployment, Problem(Code.ADMIN_NOT_CONFIGURED, "It has no admin URL."))
    assert kinds(pictures.picture(CLUSTER, None, [], [unknown], [], cidr=CIDR))["dtest234"] == "plain"


def test_many_endpoints_fit_and_none_is_forgotten() -> None:
    many = [connection(f"endpoint-{number}-{'x' * 60}", ConnectionState.APPROVED) for number in range(50)]
    drawn = pictures.picture(CLUSTER, link(), many, [], [], cidr=CIDR)
    assert "44 further endpoints" in kinds(drawn)
    assert all(len(box.title) <= 30 and box.y + box.height <= drawn.height for box in drawn.boxes)
    places = [(box.x, box.y) for box in drawn.boxes]
    assert len(set(places)) == len(places)


def test_a_public_path_that_is_shut_on_purpose_is_drawn_so() -> None:
    oslo = connection("oslo", ConnectionState.APPROVED)
    for ranges, kind in {
        ("10.20.0.0/16",): "kept",
        ("10.20.2.0/24",): "kept",
        ("10.20.0.0/16", "203.0.113.0/24"): "open",
        ("10.0.0.0/8",): "open",
        ("2001:db8::/32",): "open",
        (): "open",
    }.items():
        view = admin_api.deployment(admin_api.FakeAdminApi("")).model_copy(update={"allowed_ranges": ranges})
        drawn = pictures.picture(CLUSTER, link(), [oslo], [replace(SIGHT, view=view)], [agent(1, oslo)], cidr=CIDR)
        assert ways(drawn)["Public entrance", "dtest234"] == kind, ranges
