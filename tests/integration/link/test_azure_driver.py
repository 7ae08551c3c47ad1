"""The Azure driver on a lab: both sides from nothing to done and back, and what Azure refuses."""

import asyncio
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from tests.fakes.lab import FakeLab
from tests.fakes.link_scene import HOST, SIBLING, LabCredential, Scene, network_body

from isthmus.kit.backoffs import BackoffConfig
from isthmus.kit.clocks import SystemClock
from isthmus.kit.errors import RefusedError
from isthmus.link import joining, publishing, reconciling, steps
from isthmus.link.drivers.azure.config import AzureConfig
from isthmus.link.drivers.azure.driver import AzureCloud
from isthmus.link.endpoints import ZoneScope
from isthmus.link.errors import BlockedError, CloudRefusedError, CloudUnreachableError, NotThereError, SignInError
from isthmus.link.planning import Obstacle, Permissions
from isthmus.link.reconciling import End, Patience
from isthmus.link.services import ServiceStatus
from isthmus.link.states import ConnectionState

PATIENCE = Patience(failure_seconds=5, look_seconds=0.02, backoff=BackoffConfig(first_seconds=0.01))


async def run(side: Any, patience: Patience = PATIENCE) -> Any:
    return await reconciling.reconcile(side, SystemClock(), patience)


async def published(cloud: AzureCloud, scene: Scene, **more: Any) -> ServiceStatus:
    return await publishing.publish(publishing.Publishing(cloud, scene.service_spec(**more)), SystemClock(), PATIENCE)


async def test_both_sides_from_nothing_to_done_and_back(cloud: AzureCloud, scene: Scene) -> None:
    service = await published(cloud, scene)
    assert service.alias.startswith("ingress.")
    assert [str(one) for one in service.nat_addresses] == ["10.1.1.4"]
    assert service.has_proxy_protocol

    scene.put(scene.network_id("second"), network_body("10.2", "agents"))
    spec = scene.endpoint_spec(service.alias, networks=(scene.network_id(), scene.network_id("second")))
    joined = joining.Joining(cloud, spec)
    first = await run(joined)
    assert first.end is End.AWAITING_APPROVAL
    assert first.status.endpoint.address == IPv4Address("10.1.0.4")
    assert first.status.endpoint.state is ConnectionState.PENDING
    # The name is prepared, and still leads where it led before.
    assert (scene.record(), scene.linked()) == (["10.1.0.4"], set())

    [waiting] = (await publishing.observe(cloud, scene.service_id)).connections
    assert (waiting.state, waiting.message, waiting.location) == (
        ConnectionState.PENDING,
        "let us in",
        "westeurope",
    )
    approved = await publishing.approve(cloud, scene.service_id, spec.endpoint_id.upper(), "welcome")
    assert (approved.state, approved.message) == (ConnectionState.APPROVED, "welcome")
    assert approved.link_id is not None

    second = await run(joined)
    assert second.end is End.DONE
    assert scene.linked() == {"net", "second"}
    assert (await run(joined)).plan.is_done
    [listed] = await cloud.list_endpoints(scene.customer)
    assert (listed.owner, listed.host, listed.zone_id) == (HOST.cluster_id, str(HOST), spec.zone_id)

    gone = await run(joining.Leaving(cloud, spec))
    assert gone.end is End.DONE
    assert not scene.exists(scene.endpoint_id)
    assert not scene.exists(scene.zone_path())
    leaving = publishing.Unpublishing(cloud, scene.service_spec())
    await publishing.unpublish(leaving, SystemClock(), PATIENCE)
    assert not scene.exists(scene.service_id)
    with pytest.raises(NotThereError):
        await publishing.observe(cloud, scene.service_id)


async def test_the_wide_zone_is_shared_by_clusters_and_goes_with_the_last(cloud: AzureCloud, scene: Scene) -> None:
    service = await published(cloud, scene, approved_at_once=(scene.customer,))
    spec = scene.endpoint_spec(service.alias, zone_scope=ZoneScope.DOMAIN)
    other = replace(spec, host=SIBLING, endpoint_id=f"{spec.endpoint_id}-2")
    for one in (spec, other):
        assert (await run(joining.Joining(cloud, one))).end is End.DONE
    zone = spec.zone_name
    assert (scene.record(zone, HOST.cluster_id), scene.record(zone, SIBLING.cluster_id)) == (["10.1.0.4"], ["10.1.0.5"])
    await run(joining.Leaving(cloud, spec))
    assert (scene.record(zone, HOST.cluster_id), scene.linked(zone)) == ([], {"net"})
    await run(joining.Leaving(cloud, other))
    assert not scene.exists(scene.zone_path(zone))


async def test_what_is_not_ours_stays(cloud: AzureCloud, scene: Scene) -> None:
    service = await published(cloud, scene, approved_at_once=(scene.customer,))
    scene.put(scene.zone_path(), {"location": "global", "tags": {"team": "other"}})
    theirs = {"ttl": 300, "aRecords": [{"ipv4Address": "10.1.0.77"}]}
    scene.put(f"{scene.zone_path()}/A/@", {"properties": theirs})
    spec = scene.endpoint_spec(service.alias)
    blocked = await run(joining.Joining(cloud, spec))
    assert [one.code for one in blocked.plan.blocks] == [Obstacle.RECORD_POINTS_ELSEWHERE]
    assert not scene.exists(scene.endpoint_id)
    scene.delete(f"{scene.zone_path()}/A/@")
    assert (await run(joining.Joining(cloud, spec))).end is End.DONE
    await run(joining.Leaving(cloud, spec))
    assert (scene.record(), scene.linked()) == ([], set())
    assert scene.get(scene.zone_path())["tags"] == {"team": "other"}


async def test_a_zone_of_the_same_name_elsewhere_blocks(cloud: AzureCloud, scene: Scene) -> None:
    service = await published(cloud, scene)
    scene.put(f"/subscriptions/{scene.customer}/resourceGroups/hub", {"location": "westeurope"})
    zone = scene.zone_path(group="hub")
    scene.put(zone, {"location": "global"})
    link = {"virtualNetwork": {"id": scene.network_id()}, "registrationEnabled": False}
    scene.put(f"{zone}/virtualNetworkLinks/theirs", {"location": "global", "properties": link})
    spec = scene.endpoint_spec(service.alias)
    blocked = await run(joining.Joining(cloud, spec))
    assert [one.code for one in blocked.plan.blocks] == [Obstacle.ZONE_LINKED_ELSEWHERE]
    hidden = await run(joining.Joining(cloud, replace(spec, zone_scope=ZoneScope.DOMAIN)))
    assert [one.code for one in hidden.plan.blocks] == [Obstacle.ZONE_HIDDEN]
    # Where the other zone cannot be seen, linking tells.
    await cloud.apply_customer(steps.CreateZone(spec.zone_id, spec.cluster_id))
    with pytest.raises(CloudRefusedError) as refused:
        await cloud.apply_customer(steps.LinkNetwork(spec.zone_id, scene.network_id(), spec.cluster_id))
    assert refused.value.code == "zone_linked_elsewhere"


@pytest.mark.parametrize("how", ["rejected", "disconnected", "expired"])
async def test_what_is_final_is_created_again_when_asked(cloud: AzureCloud, scene: Scene, how: str) -> None:
    service = await published(cloud, scene)
    spec = scene.endpoint_spec(service.alias)
    await run(joining.Joining(cloud, spec))
    match how:
        case "rejected":
            await publishing.reject(cloud, scene.service_id, spec.endpoint_id, "who are you?")
            with pytest.raises(RefusedError) as late:
                await publishing.approve(cloud, scene.service_id, spec.endpoint_id)
            assert late.value.code == "connection_rejected"
        case "expired":
            await publishing.expire(cloud, scene.service_id, spec.endpoint_id)
        case _:
            await publishing.remove(cloud, scene.service_id, spec.endpoint_id)
            await publishing.remove(cloud, scene.service_id, spec.endpoint_id)
    blocked = await run(joining.Joining(cloud, spec))
    assert [one.code for one in blocked.plan.blocks] == [f"connection_{how}"]
    again = await run(joining.Joining(cloud, spec, Permissions(may_recreate=True)))
    assert again.end is End.AWAITING_APPROVAL
    await publishing.approve(cloud, scene.service_id, spec.endpoint_id)
    assert (await run(joining.Joining(cloud, spec))).end is End.DONE


async def test_a_service_is_changed_in_place(cloud: AzureCloud, scene: Scene) -> None:
    before = await published(cloud, scene)
    after = await published(
        cloud,
        scene,
        visible_to=(scene.customer,),
        approved_at_once=(scene.customer,),
        has_proxy_protocol=False,
        nat_addresses=3,
    )
    assert after.alias == before.alias
    assert (after.visible_to, after.approved_at_once) == ((scene.customer,), (scene.customer,))
    assert (after.has_proxy_protocol, len(after.nat_addresses)) == (False, 3)
    with pytest.raises(BlockedError) as blocked:
        await published(cloud, scene, nat_addresses=2)
    assert blocked.value.code == "nat_addresses_stay"


async def test_connected_customers_are_not_cut_unasked(cloud: AzureCloud, scene: Scene) -> None:
    service = await published(cloud, scene, approved_at_once=(scene.customer,))
    spec = scene.endpoint_spec(service.alias)
    await run(joining.Joining(cloud, spec))
    side = publishing.Unpublishing(cloud, scene.service_spec())
    with pytest.raises(BlockedError) as blocked:
        await publishing.unpublish(side, SystemClock(), PATIENCE)
    assert blocked.value.code == "customers_connected"
    forced = replace(side, allowed=Permissions(may_disconnect=True))
    await publishing.unpublish(forced, SystemClock(), PATIENCE)
    found = await cloud.find_endpoint(spec.endpoint_id)
    assert found is not None
    assert found.state is ConnectionState.DISCONNECTED


async def test_two_operators_decide_at_once(cloud: AzureCloud, scene: Scene) -> None:
    service = await published(cloud, scene)
    spec = scene.endpoint_spec(service.alias)
    await run(joining.Joining(cloud, spec))
    outcomes = await asyncio.gather(
        publishing.approve(cloud, scene.service_id, spec.endpoint_id, "yes"),
        publishing.reject(cloud, scene.service_id, spec.endpoint_id, "no"),
        return_exceptions=True,
    )
    [connection] = (await publishing.observe(cloud, scene.service_id)).connections
    # Whoever is second waits for the first; rejecting goes from any state, and approving what is rejected is refused.
    assert connection.state is ConnectionState.REJECTED
    assert all(not isinstance(one, BaseException) or isinstance(one, RefusedError) for one in outcomes)


# --- refusals


async def test_an_alias_that_nobody_has_or_shows(cloud: AzureCloud, scene: Scene) -> None:
    alias = f"ingress.{'0' * 8}-0000-0000-0000-{'0' * 12}.westeurope.azure.privatelinkservice"
    spec = scene.endpoint_spec(alias)
    blocked = await run(joining.Joining(cloud, spec))
    assert [one.code for one in blocked.plan.blocks] == [Obstacle.ALIAS_NOT_VISIBLE]
    with pytest.raises(CloudRefusedError) as refused:
        await cloud.apply_customer(steps.CreateEndpoint(spec))
    assert refused.value.code == "alias_not_found"
    hidden = await published(cloud, scene, visible_to=())
    blocked = await run(joining.Joining(cloud, scene.endpoint_spec(hidden.alias)))
    assert [one.code for one in blocked.plan.blocks] == [Obstacle.ALIAS_NOT_VISIBLE]
    with pytest.raises(CloudRefusedError) as refused:
        await cloud.apply_customer(steps.CreateEndpoint(scene.endpoint_spec(hidden.alias)))
    assert refused.value.code == "alias_not_visible"


async def test_places_that_are_not_there(cloud: AzureCloud, scene: Scene) -> None:
    alias = scene.publish()
    with pytest.raises(NotThereError) as missing:
        await cloud.apply_customer(steps.CreateEndpoint(scene.endpoint_spec(alias, subnet_id=scene.subnet_id("no"))))
    assert (missing.value.kind, missing.value.name) in {("network", "no"), ("subnet", "agents")}
    with pytest.raises(NotThereError) as missing:
        await cloud.find_endpoint(scene.endpoint_id.replace("/rg/", "/nowhere/"))
    assert (missing.value.kind, missing.value.name) == ("resource group", "nowhere")
    with pytest.raises(NotThereError) as missing:
        await cloud.find_network(scene.network_id("no"))
    assert (missing.value.code, missing.value.name) == ("network_not_found", "no")
    with pytest.raises(NotThereError) as missing:
        await cloud.observe_service(scene.service_spec(nat_subnet_id=f"{scene.subnet_id()}-no"))
    assert missing.value.kind == "subnet"
    other = scene.customer.replace(scene.customer[0], "f" if scene.customer[0] != "f" else "e")
    with pytest.raises(NotThereError) as missing:
        await cloud.find_endpoint(scene.endpoint_id.replace(scene.customer, other))
    assert missing.value.kind == "subscription"


async def test_a_subnet_without_room_or_with_policies(cloud: AzureCloud, scene: Scene) -> None:
    alias = scene.publish()
    tiny = scene.subnet_id(subnet="tiny")
    for number in range(3):
        spec = scene.endpoint_spec(alias, subnet_id=tiny, endpoint_id=f"{scene.endpoint_id}-{number}")
        await cloud.apply_customer(steps.CreateEndpoint(spec))
    with pytest.raises(CloudRefusedError) as refused:
        await cloud.apply_customer(steps.CreateEndpoint(scene.endpoint_spec(alias, subnet_id=tiny)))
    assert refused.value.code == "subnet_full"
    for address in ("10.1.0.1", "10.9.0.4"):
        spec = scene.endpoint_spec(alias, address=IPv4Address(address))
        with pytest.raises(CloudRefusedError) as refused:
            await cloud.apply_customer(steps.CreateEndpoint(spec))
        assert refused.value.code == "address_not_free", refused.value
    guarded = scene.path(scene.provider, "virtualNetworks/plane/subnets/services")
    spec = scene.service_spec(service_id=f"{scene.service_id}-2", nat_subnet_id=guarded)
    with pytest.raises(CloudRefusedError) as refused:
        await cloud.apply_provider(steps.CreateService(spec))
    assert refused.value.code == "subnet_policies"


async def test_a_static_address_is_kept(cloud: AzureCloud, scene: Scene) -> None:
    alias = scene.publish(autoApproval={"subscriptions": [scene.customer]})
    spec = scene.endpoint_spec(alias, address=IPv4Address("10.1.0.99"))
    await run(joining.Joining(cloud, spec))
    assert scene.record() == ["10.1.0.99"]
    other = await run(joining.Joining(cloud, replace(spec, address=IPv4Address("10.1.0.98"))))
    assert [one.code for one in other.plan.blocks] == [Obstacle.ENDPOINT_DIFFERS]


async def test_a_subscription_is_registered_first(cloud: AzureCloud, scene: Scene) -> None:
    other = scene.http.post(
        f"/subscriptions/{scene.provider}/providers/Microsoft.Network/unregister", params={"api-version": "2021-04-01"}
    )
    assert other.status_code == 409  # there are resources: the lab's scene is in the way here
    for path in ("loadBalancers/front", "virtualNetworks/plane"):
        scene.delete(scene.path(scene.provider, path))
    scene.http.post(
        f"/subscriptions/{scene.provider}/providers/Microsoft.Network/unregister", params={"api-version": "2021-04-01"}
    ).raise_for_status()
    for _ in range(2):  # the first look still finds it unregistering
        is_registered = await cloud._is_registered(scene.provider)
    assert not is_registered
    await cloud.apply_provider(steps.RegisterProvider(scene.provider))
    assert await cloud._is_registered(scene.provider)


async def test_nobody_answers(lab: FakeLab, scene: Scene) -> None:
    async with AzureCloud(AzureConfig(arm_endpoint="https://127.0.0.1:9"), LabCredential(lab)) as cloud:
        with pytest.raises(CloudUnreachableError) as lost:
            await cloud.find_endpoint(scene.endpoint_id)
    assert lost.value.retryable
    async with AzureCloud(AzureConfig(arm_endpoint=lab.url), LabCredential(lab)) as cloud:
        with pytest.raises(CloudRefusedError) as untrusted:
            await cloud.find_endpoint(scene.endpoint_id)
    assert untrusted.value.code == "cloud_untrusted"


async def test_a_token_of_somebody_else(lab: FakeLab, scene: Scene) -> None:
    class Stranger:
        async def get_token(self, *_: str, **__: Any) -> Any:
            return AccessToken("not.a.token", 4102444800)

        async def close(self) -> None: ...

    async with AzureCloud(AzureConfig(arm_endpoint=lab.url, ca_file=lab.ca), Stranger()) as cloud:  # type: ignore[arg-type]
        with pytest.raises(SignInError):
            await cloud.find_endpoint(scene.endpoint_id)
