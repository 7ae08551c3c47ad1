"""Plans: tables of cases, and any world at all."""

from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.link_cloud import ALIAS, HOST, NETWORK, SIBLING, SUBNET, FakeCloud, id_of, spec

from isthmus.link import names, states, steps
from isthmus.link.endpoints import (
    CustomerStatus,
    EndpointStatus,
    ForeignZone,
    NetworkLinkStatus,
    RecordStatus,
    ZoneScope,
    ZoneStatus,
)
from isthmus.link.planning import (
    Caution,
    Obstacle,
    Permissions,
    Plan,
    plan_endpoint,
    plan_removal,
    plan_service,
    plan_unpublishing,
)
from isthmus.link.services import Connection, ProviderStatus, ServiceSpec, ServiceStatus
from isthmus.link.states import ConnectionState

ADDRESS, ELSEWHERE = IPv4Address("10.1.0.4"), IPv4Address("10.1.0.99")
OURS, OTHERS = HOST.cluster_id, SIBLING.cluster_id


def endpoint(**more: Any) -> EndpointStatus:
    said: dict[str, Any] = {
        "endpoint_id": spec().endpoint_id,
        "alias": ALIAS,
        "location": "westeurope",
        "subnet_id": SUBNET,
        "address": ADDRESS,
        "state": ConnectionState.APPROVED,
        "owner": OURS,
        **more,
    }
    return EndpointStatus(**said)


def link(network: str = NETWORK, owner: str = OURS) -> NetworkLinkStatus:
    return NetworkLinkStatus(f"{spec().zone_id}/virtualNetworkLinks/{names.link_name(network)}", network, owner)


def zone(**more: Any) -> ZoneStatus:
    said: dict[str, Any] = {
        "zone_id": spec().zone_id,
        "owner": OURS,
        "record": RecordStatus((ADDRESS,), OURS, "e"),
        "links": (link(),),
        **more,
    }
    return ZoneStatus(**said)


def status(**more: Any) -> CustomerStatus:
    said: dict[str, Any] = {
        "is_registered": True,
        "is_visible": None,
        "endpoint": endpoint(),
        "zone": zone(),
        **more,
    }
    return CustomerStatus(**said)


NOTHING = status(is_visible=True, endpoint=None, zone=None)


def kinds(plan: Plan[Any]) -> list[str]:
    return [steps.kind_of(one) for one in plan.steps]


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        (status(), []),
        (
            NOTHING,
            ["create_endpoint", "create_zone", "put_record", "await_approval", "link_network"],
        ),
        (replace(NOTHING, is_registered=False), ["register_provider", "create_endpoint", "create_zone", "put_record"]),
        # A name that is answered is changed after the approval, and not before.
        (
            status(endpoint=None, is_visible=True, zone=zone(record=RecordStatus((ELSEWHERE,), OURS, "e"))),
            ["create_endpoint", "await_approval", "put_record"],
        ),
        (
            status(endpoint=endpoint(state=ConnectionState.PENDING), zone=zone(links=())),
            ["await_approval", "link_network"],
        ),
        (status(endpoint=endpoint(state=ConnectionState.UNKNOWN)), ["await_approval"]),
        (status(endpoint=endpoint(is_settled=False)), ["await_cloud"]),
        (status(endpoint=endpoint(address=None)), ["await_cloud"]),
        (status(zone=zone(is_settled=False)), ["await_cloud"]),
        (status(zone=zone(links=(replace(link(), is_settled=False),))), ["await_cloud"]),
        (status(zone=None), ["create_zone", "put_record", "link_network"]),
        (status(zone=zone(record=None)), ["put_record"]),
        (status(zone=zone(record=RecordStatus((ELSEWHERE,), OURS, "e"))), ["put_record"]),
        (status(zone=zone(record=RecordStatus((ADDRESS, ELSEWHERE), OURS, "e"))), ["put_record"]),
        (status(zone=zone(record=RecordStatus((ADDRESS, ELSEWHERE), "", "e"))), []),
        (status(zone=zone(owner="", record=RecordStatus((ADDRESS,), "", "e"), links=(link(owner=""),))), []),
        (status(endpoint=endpoint(owner="")), []),
    ],
)
def test_steps(seen: CustomerStatus, wanted: list[str]) -> None:
    plan = plan_endpoint(spec(), seen)
    assert plan.blocks == ()
    assert kinds(plan)[: len(wanted)] == wanted
    assert (kinds(plan) == []) is (wanted == [])
    assert all(one.sentence and "\n" not in one.sentence for one in plan.steps)


FINAL = [ConnectionState.REJECTED, ConnectionState.DISCONNECTED, ConnectionState.EXPIRED]


@pytest.mark.parametrize(
    ("seen", "obstacle"),
    [
        (replace(NOTHING, is_visible=False), Obstacle.ALIAS_NOT_VISIBLE),
        *((status(endpoint=endpoint(state=one)), Obstacle(f"connection_{one}")) for one in FINAL),
        (status(endpoint=endpoint(alias="other")), Obstacle.ENDPOINT_DIFFERS),
        (status(endpoint=endpoint(subnet_id=f"{SUBNET}2")), Obstacle.ENDPOINT_DIFFERS),
        (
            status(endpoint=endpoint(state=ConnectionState.PENDING, problem="Failed")),
            Obstacle.ENDPOINT_FAILED,
        ),
        (status(endpoint=endpoint(owner=OTHERS)), Obstacle.ENDPOINT_NOT_OURS),
        (status(endpoint=endpoint(owner="", alias="other")), Obstacle.ENDPOINT_NOT_OURS),
        (status(endpoint=endpoint(owner="", state=ConnectionState.REJECTED)), Obstacle.ENDPOINT_NOT_OURS),
        (status(zone=zone(record=RecordStatus((ELSEWHERE,), "", "e"))), Obstacle.RECORD_POINTS_ELSEWHERE),
        (status(zone=zone(record=RecordStatus((), "", "e"))), Obstacle.RECORD_POINTS_ELSEWHERE),
        (
            status(endpoint=None, is_visible=True, zone=zone(record=RecordStatus((ELSEWHERE,), "", "e"))),
            Obstacle.RECORD_POINTS_ELSEWHERE,
        ),
        (
            status(foreign_zones=(ForeignZone(id_of(f"privateDnsZones/{HOST}", "hub"), NETWORK.upper()),)),
            Obstacle.ZONE_LINKED_ELSEWHERE,
        ),
    ],
)
def test_blocks(seen: CustomerStatus, obstacle: Obstacle) -> None:
    plan = plan_endpoint(spec(), seen)
    assert [one.code for one in plan.blocks] == [obstacle]
    assert all(one.sentence and one.hint for one in plan.blocks)
    assert not plan.is_done


def test_a_static_address_that_is_another_blocks() -> None:
    plan = plan_endpoint(spec(address=ELSEWHERE), status())
    assert plan.blocks[0].code is Obstacle.ENDPOINT_DIFFERS


def test_registering_can_be_forbidden() -> None:
    plan = plan_endpoint(spec(), replace(NOTHING, is_registered=False), Permissions(may_register=False))
    assert [one.code for one in plan.blocks] == [Obstacle.PROVIDER_NOT_REGISTERED]


@pytest.mark.parametrize("state", FINAL)
def test_creating_again_is_done_when_it_was_asked_for(state: ConnectionState) -> None:
    plan = plan_endpoint(spec(), status(endpoint=endpoint(state=state)), Permissions(may_recreate=True))
    assert plan.blocks == ()
    assert kinds(plan) == ["delete_endpoint", "create_endpoint", "await_approval", "put_record"]


@pytest.mark.parametrize("state", [ConnectionState.PENDING, ConnectionState.APPROVED])
def test_what_works_is_not_created_again(state: ConnectionState) -> None:
    plan = plan_endpoint(spec(), status(endpoint=endpoint(state=state)), Permissions(may_recreate=True))
    assert "delete_endpoint" not in kinds(plan)


def test_a_network_is_taken_from_another_zone_of_ours_when_that_is_allowed() -> None:
    zone = id_of(f"privateDnsZones/{HOST}", "hub")
    foreign = ForeignZone(zone, NETWORK, f"{zone}/virtualNetworkLinks/net", OURS)
    cloud = FakeCloud(foreign_zones=(foreign,), first_state=ConnectionState.APPROVED)
    [block] = plan_endpoint(spec(), cloud.status()).blocks
    assert (block.code, "--move-networks" in block.hint) == (Obstacle.ZONE_LINKED_ELSEWHERE, True)
    allowed = Permissions(may_move=True)
    taken = []
    while (plan := plan_endpoint(spec(), cloud.status(), allowed)).steps:
        assert not plan.blocks
        if isinstance(plan.steps[0], steps.UnlinkNetwork):
            # Only once the endpoint answers: until then the network goes on with what it has.
            assert cloud.zone is not None
            assert cloud.zone.record is not None
        cloud.do(plan.steps[0])
        taken.append(type(plan.steps[0]))
    assert taken[-2:] == [steps.UnlinkNetwork, steps.LinkNetwork]
    theirs = replace(NOTHING, foreign_zones=(replace(foreign, owner=""),))
    assert [one.code for one in plan_endpoint(spec(), theirs, allowed).blocks] == [Obstacle.ZONE_LINKED_ELSEWHERE]


def test_foreign_zones_of_other_networks_or_less_narrow_ones_are_nobody_s_concern() -> None:
    foreign = (
        ForeignZone(id_of(f"privateDnsZones/{HOST}", "hub"), f"{NETWORK}-2"),
        ForeignZone(id_of(f"privateDnsZones/{HOST.zone}", "hub"), NETWORK),
    )
    assert plan_endpoint(spec(), status(foreign_zones=foreign)).is_done


def test_a_narrower_zone_hides_the_wide_one() -> None:
    foreign = (ForeignZone(id_of(f"privateDnsZones/{HOST}", "hub"), NETWORK),)
    wide = spec(zone_scope=ZoneScope.DOMAIN)
    plan = plan_endpoint(wide, replace(NOTHING, foreign_zones=foreign))
    assert [one.code for one in plan.blocks] == [Obstacle.ZONE_HIDDEN]


def test_the_wide_zone_is_warned_of() -> None:
    wide, allowed = spec(zone_scope=ZoneScope.DOMAIN), Permissions(siblings=(HOST, SIBLING))
    plan = plan_endpoint(wide, NOTHING, allowed)
    assert [one.code for one in plan.warnings] == [Caution.HIDES_NAMES, Caution.HIDES_CLUSTER]
    assert SIBLING.cluster_id in plan.warnings[1].sentence
    has_it = zone(zone_id=wide.zone_id, other_records=(SIBLING.cluster_id,), record=None, links=())
    plan = plan_endpoint(wide, replace(NOTHING, zone=has_it), allowed)
    assert [one.code for one in plan.warnings] == [Caution.HIDES_NAMES]
    assert plan_endpoint(spec(), NOTHING, allowed).warnings == ()


@pytest.mark.parametrize(
    ("seen", "caution"),
    [
        (replace(NOTHING, is_visible=None), Caution.VISIBILITY_UNKNOWN),
        (status(endpoint=endpoint(owner="")), Caution.ENDPOINT_NOT_OURS),
        (status(endpoint=endpoint(state=ConnectionState.UNKNOWN)), Caution.STATE_UNKNOWN),
        (status(zone=zone(owner="")), Caution.SHARED_ZONE),
        (status(zone=zone(record=RecordStatus((ADDRESS, ELSEWHERE), "", "e"))), Caution.SEVERAL_ADDRESSES),
    ],
)
def test_warnings(seen: CustomerStatus, caution: Caution) -> None:
    assert [one.code for one in plan_endpoint(spec(), seen).warnings] == [caution]


# --- removal


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        (status(), ["unlink_network", "delete_record", "delete_zone", "delete_endpoint"]),
        (status(endpoint=None, zone=None), []),
        (status(endpoint=endpoint(owner="")), ["unlink_network", "delete_record", "delete_zone"]),
        (status(zone=zone(owner="")), ["unlink_network", "delete_record", "delete_endpoint"]),
        (status(zone=zone(links=(link(owner=""),))), ["delete_record", "delete_endpoint"]),
        (status(zone=zone(other_records=("x",))), ["delete_record", "delete_endpoint"]),
        (status(zone=zone(record=RecordStatus((ADDRESS,), "", "e"))), ["delete_endpoint"]),
        (status(zone=zone(record=None)), ["unlink_network", "delete_zone", "delete_endpoint"]),
    ],
)
def test_removal(seen: CustomerStatus, wanted: list[str]) -> None:
    assert kinds(plan_removal(spec(), seen)) == wanted


def test_a_name_that_vanishes_is_warned_of() -> None:
    plan = plan_removal(spec(), status(zone=zone(other_records=("x",))))
    assert [one.code for one in plan.warnings] == [Caution.KEPT, Caution.NAME_VANISHES]


# --- any world


states_ = st.sampled_from(list(ConnectionState))
owners = st.sampled_from(["", OURS, OTHERS])
addresses = st.sampled_from([(ADDRESS,), (ELSEWHERE,), (ADDRESS, ELSEWHERE), ()])
networks = st.sets(st.sampled_from([NETWORK, f"{NETWORK}-2", f"{NETWORK}-3"]))


@st.composite
def worlds(draw: st.DrawFn) -> FakeCloud:
    there = endpoint(
        state=draw(states_),
        owner=draw(owners),
        alias=draw(st.sampled_from([ALIAS, "other"])),
        subnet_id=draw(st.sampled_from([SUBNET, f"{SUBNET}-2"])),
        problem=draw(st.sampled_from(["", "", "Failed"])),
    )
    record = RecordStatus(draw(addresses), draw(owners), "etag")
    links = tuple(link(one, draw(owners)) for one in sorted(draw(networks)))
    their_zone = zone(
        owner=draw(owners),
        record=draw(st.sampled_from([None, record])),
        links=links,
        other_records=draw(st.sampled_from([(), ("x",)])),
    )
    foreign = ForeignZone(id_of(f"privateDnsZones/{HOST}", "hub"), f"{NETWORK}-3")
    return FakeCloud(
        is_registered=draw(st.booleans()),
        is_visible=draw(st.booleans()),
        endpoint=draw(st.sampled_from([None, there])),
        zone=draw(st.sampled_from([None, their_zone])),
        foreign_zones=draw(st.sampled_from([(), (foreign,)])),
        first_state=draw(st.sampled_from([ConnectionState.PENDING, ConnectionState.APPROVED])),
    )


def foreign_things(cloud: FakeCloud) -> dict[str, object]:
    """All that carries no tag of this cluster."""
    found: dict[str, object] = {}
    if cloud.endpoint is not None and cloud.endpoint.owner != OURS:
        found["endpoint"] = cloud.endpoint
    if cloud.zone is not None:
        if not cloud.zone.owner:
            found["zone"] = (cloud.zone.zone_id, cloud.zone.other_records)
        if cloud.zone.record is not None and cloud.zone.record.owner != OURS:
            found["record"] = cloud.zone.record
        found["links"] = {one for one in cloud.zone.links if not one.owner}
    return found


def kept(before: dict[str, object], after: FakeCloud) -> bool:
    """Whether all of ``before`` is still there; more may have come."""
    now = foreign_things(after)
    if before.get("links") and not before["links"] <= now.get("links", set()):  # type: ignore[operator]
        return False
    return all(now.get(name) == value for name, value in before.items() if name != "links")


def approve(cloud: FakeCloud) -> None:
    cloud.decide(ConnectionState.APPROVED)


@settings(max_examples=300, deadline=None)
@given(world=worlds(), may_recreate=st.booleans(), wanted=networks, scope=st.sampled_from(list(ZoneScope)))
def test_any_world_converges_after_a_crash_at_any_step(
    world: FakeCloud, may_recreate: bool, wanted: set[str], scope: ZoneScope
) -> None:
    """Each step is followed by a new plan from what is there: that is what a crash after each step is."""
    asked = spec(networks=(NETWORK, *sorted(wanted - {NETWORK})), zone_scope=scope)
    if world.zone is not None:
        world.zone = replace(world.zone, zone_id=asked.zone_id)
    allowed = Permissions(may_recreate=may_recreate)
    before, had_endpoint = foreign_things(world), world.endpoint
    answered_before = world.zone.record if world.zone is not None and world.zone.links else None
    taken: list[steps.CustomerStep] = []
    for _ in range(30):
        plan = plan_endpoint(asked, world.status(), allowed)
        if plan.blocks or not plan.steps:
            break
        step = plan.steps[0]
        if isinstance(step, steps.AwaitApproval):
            # Until then nothing that a program could be using has changed.
            if answered_before is not None:
                assert world.zone is not None
                assert world.zone.record == answered_before
            approve(world)
            before = foreign_things(world)  # an endpoint of somebody else's may have been approved
            continue
        if isinstance(step, steps.LinkNetwork):
            assert world.endpoint is not None
            assert world.endpoint.state is ConnectionState.APPROVED
        taken.append(step)
        world.do(step)
        assert kept(before, world), step
    else:
        raise AssertionError("it does not converge")
    assert len(taken) == len(set(taken)), "a step was taken twice"
    if plan.blocks:
        return
    assert world.endpoint is not None
    assert world.endpoint.state is ConnectionState.APPROVED
    assert world.endpoint.address is not None
    assert world.zone is not None
    assert world.zone.record is not None
    assert world.endpoint.address in world.zone.record.addresses
    assert {one.network_id for one in world.zone.links} >= set(asked.networks)
    is_same = had_endpoint is not None and not states.is_final(had_endpoint.state) and had_endpoint.alias == ALIAS
    if is_same and had_endpoint is not None and had_endpoint.subnet_id == SUBNET and not had_endpoint.problem:
        assert world.endpoint.address == had_endpoint.address
    assert plan_endpoint(asked, world.status(), allowed).is_done


@settings(max_examples=200, deadline=None)
@given(world=worlds())
def test_any_world_is_left_with_what_is_not_ours(world: FakeCloud) -> None:
    before = foreign_things(world)
    for _ in range(20):
        plan = plan_removal(spec(), world.status())
        if plan.blocks or not plan.steps:
            break
        world.do(plan.steps[0])
        assert kept(before, world), plan.steps[0]
    else:
        raise AssertionError("it does not end")
    if not plan.blocks:
        assert world.endpoint is None or not world.endpoint.owner
        assert world.zone is None or world.zone.record is None or world.zone.record.owner != OURS


# --- the provider's side


def path(rest: str) -> str:
    return id_of(rest)


SERVICE = ServiceSpec(
    path("privateLinkServices/ingress"),
    OURS,
    "westeurope",
    path("loadBalancers/front/frontendIPConfigurations/front"),
    path("virtualNetworks/plane/subnets/nat"),
)


def service(**more: Any) -> ServiceStatus:
    said: dict[str, Any] = {
        "service_id": SERVICE.service_id,
        "alias": ALIAS,
        "location": "westeurope",
        "frontend_id": SERVICE.frontend_id,
        "nat_subnet_id": SERVICE.nat_subnet_id,
        "nat_addresses": (IPv4Address("10.9.0.4"),),
        "visible_to": ("*",),
        "approved_at_once": (),
        "has_proxy_protocol": True,
        "owner": OURS,
        **more,
    }
    return ServiceStatus(**said)


@pytest.mark.parametrize(
    ("asked", "seen", "wanted"),
    [
        (SERVICE, ProviderStatus(True, False, service()), []),
        (SERVICE, ProviderStatus(True, False, service(visible_to=("*",), frontend_id=SERVICE.frontend_id.upper())), []),
        (
            SERVICE,
            ProviderStatus(False, True, None),
            ["register_provider", "disable_subnet_policies", "create_service"],
        ),
        (SERVICE, ProviderStatus(True, False, service(is_settled=False)), ["await_cloud"]),
        (SERVICE, ProviderStatus(True, False, service(visible_to=("a",))), ["change_service"]),
        (SERVICE, ProviderStatus(True, False, service(has_proxy_protocol=False)), ["change_service"]),
        (replace(SERVICE, nat_addresses=2), ProviderStatus(True, False, service()), ["change_service"]),
    ],
)
def test_service_steps(asked: ServiceSpec, seen: ProviderStatus, wanted: list[str]) -> None:
    plan = plan_service(asked, seen)
    assert (kinds(plan), plan.blocks) == (wanted, ())
    assert all(one.sentence for one in plan.steps)


@pytest.mark.parametrize(
    ("asked", "seen", "obstacle"),
    [
        (replace(SERVICE, nat_addresses=9), None, Obstacle.NAT_ADDRESSES_OUT_OF_RANGE),
        (replace(SERVICE, visible_to=("a",), approved_at_once=("b",)), None, Obstacle.APPROVED_BUT_INVISIBLE),
        (SERVICE, service(owner=""), Obstacle.SERVICE_NOT_OURS),
        (SERVICE, service(owner=OTHERS), Obstacle.SERVICE_NOT_OURS),
        (SERVICE, service(frontend_id=path("loadBalancers/x/frontendIPConfigurations/y")), Obstacle.SERVICE_DIFFERS),
        (SERVICE, service(nat_subnet_id=SUBNET), Obstacle.SERVICE_DIFFERS),
        (SERVICE, service(problem="Failed"), Obstacle.SERVICE_FAILED),
        (
            SERVICE,
            service(nat_addresses=(IPv4Address("10.9.0.4"), IPv4Address("10.9.0.5"))),
            Obstacle.NAT_ADDRESSES_STAY,
        ),
    ],
)
def test_service_blocks(asked: ServiceSpec, seen: ServiceStatus | None, obstacle: Obstacle) -> None:
    assert [one.code for one in plan_service(asked, ProviderStatus(True, False, seen)).blocks] == [obstacle]


def test_unpublishing() -> None:
    def seen(**more: Any) -> ProviderStatus:
        return ProviderStatus(True, False, service(**more))

    waiting = Connection("c1", "/e/1", ConnectionState.PENDING, "", None)
    approved = Connection("c2", "/e/2", ConnectionState.APPROVED, "", 7)
    assert plan_unpublishing(SERVICE, ProviderStatus(True, False, None)).is_done
    assert kinds(plan_unpublishing(SERVICE, seen(connections=(waiting,)))) == ["remove_connection", "delete_service"]
    blocked = plan_unpublishing(SERVICE, seen(connections=(waiting, approved)))
    assert [one.code for one in blocked.blocks] == [Obstacle.CUSTOMERS_CONNECTED]
    forced = plan_unpublishing(SERVICE, seen(connections=(waiting, approved)), Permissions(may_disconnect=True))
    assert (forced.blocks, [one.code for one in forced.warnings]) == ((), [Caution.CUSTOMERS_CUT])
    theirs = plan_unpublishing(SERVICE, seen(owner=""))
    assert (theirs.steps, [one.code for one in theirs.blocks]) == ((), [Obstacle.SERVICE_NOT_OURS])
