"""Bytes and ports of a link, read by our driver with Microsoft's SDK; what the lab's packets counted is given."""

from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from tests.fakes.arm_road import ArmRoad, Fault
from tests.fakes.lab import PORTS_PER_ADDRESS, FakeLab
from tests.fakes.link_scene import LabCredential, Scene

from isthmus.lab import picturing
from isthmus.lab.ids import Key
from isthmus.lab.insights.recording import Sample
from isthmus.link.drivers.azure.config import AzureConfig
from isthmus.link.drivers.azure.driver import AzureCloud
from isthmus.link.errors import CloudRefusedError, NotPermittedError
from isthmus.link.traffic import LAST_HOUR, PortUse, ServiceTraffic, Traffic

NAT = IPv4Address("10.1.1.4")


@pytest.fixture
def linked(scene: Scene) -> Scene:
    """An endpoint of a link service."""
    alias = scene.publish()
    request = {"name": "link", "properties": {"privateLinkServiceId": alias}}
    properties = {"subnet": {"id": scene.subnet_id()}, "manualPrivateLinkServiceConnections": [request]}
    scene.put(scene.endpoint_id, {"location": "westeurope", "properties": properties})
    return scene


def count(lab: FakeLab, scene: Scene, there: int, back: int, ports: int = 0) -> None:
    """Let the packets have counted so much, from their beginning."""
    endpoint, service = Key(scene.endpoint_id.lower()), Key(scene.service_id.lower())
    lab.sample = Sample(picturing.picture(lab.store.world), {endpoint: (there, back)}, {service: {NAT: ports}})


async def test_both_sides_read_their_bytes(cloud: AzureCloud, lab: FakeLab, linked: Scene) -> None:
    nothing = Traffic(LAST_HOUR, None, None)
    assert await cloud.measure_endpoint(linked.endpoint_id, LAST_HOUR) == nothing
    assert await cloud.measure_service(linked.service_id, LAST_HOUR) == ServiceTraffic(nothing, ())

    count(lab, linked, 0, 0, ports=4)
    assert await cloud.measure_endpoint(linked.endpoint_id, LAST_HOUR) == Traffic(LAST_HOUR, 0, 0)
    count(lab, linked, 3000, 90_000, ports=2)
    # In is what comes into the network of whoever asks.
    assert await cloud.measure_endpoint(linked.endpoint_id, LAST_HOUR) == Traffic(LAST_HOUR, 90_000, 3000)
    service = await cloud.measure_service(linked.service_id, LAST_HOUR)
    assert service.traffic == Traffic(LAST_HOUR, 3000, 90_000)
    [ports] = service.ports
    assert (ports.address, ports.most_percent) == (NAT, 100 * 4 / PORTS_PER_ADDRESS)
    assert 0.2 <= ports.last_percent <= 0.4


@pytest.fixture
async def road(lab: FakeLab) -> AsyncIterator[ArmRoad]:
    async with ArmRoad(lab) as road:
        yield road


async def test_a_missing_permission_is_named(lab: FakeLab, linked: Scene, road: ArmRoad) -> None:
    road.choose = lambda seen: Fault.FORBIDDEN if seen.path.endswith("/metrics") else None
    config = AzureConfig(arm_endpoint=road.url, ca_file=lab.ca, poll_seconds=0.01)
    async with AzureCloud(config, LabCredential(lab)) as cloud:
        with pytest.raises(NotPermittedError) as refused:
            await cloud.measure_service(linked.service_id, LAST_HOUR)
    assert refused.value.action == "Microsoft.Insights/metrics/read"
    assert refused.value.scope == linked.service_id
    assert "assigned" in refused.value.hint


async def test_what_has_no_metrics_is_refused_in_azures_words(cloud: AzureCloud, linked: Scene) -> None:
    with pytest.raises(CloudRefusedError, match="Failed to find metric configuration"):
        await cloud.measure_endpoint(linked.network_id(), LAST_HOUR)


async def test_ports_of_an_address_that_was_full_once(cloud: AzureCloud, lab: FakeLab, linked: Scene) -> None:
    count(lab, linked, 0, 0, ports=PORTS_PER_ADDRESS)
    [ports] = (await cloud.measure_service(linked.service_id, LAST_HOUR)).ports
    assert replace(ports, last_percent=0) == PortUse(NAT, 0, 100.0)
