"""Azure on a bad day: every kind of call fails at every step, for both sides, and all ends as it should."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.fakes.arm_road import ArmRoad, Fault, first_of_each
from tests.fakes.lab import FakeLab
from tests.fakes.link_scene import LabCredential, Scene

from isthmus.kit.backoffs import BackoffConfig
from isthmus.kit.clocks import SystemClock
from isthmus.link import joining, publishing, reconciling
from isthmus.link.drivers.azure.config import AzureConfig
from isthmus.link.drivers.azure.driver import AzureCloud
from isthmus.link.errors import BusyError, CloudUnreachableError, StuckOperationError
from isthmus.link.reconciling import End, Patience, Retrying

PATIENCE = Patience(failure_seconds=600, look_seconds=0.02, backoff=BackoffConfig(first_seconds=0.01))


class QuickClock(SystemClock):
    """Real time but for sleeps, which are short; ``slept`` is what was asked for."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await super().sleep(min(seconds, 0.02))


@pytest.fixture
async def road(lab: FakeLab) -> AsyncIterator[ArmRoad]:
    async with ArmRoad(lab) as road:
        yield road


@pytest.fixture
async def cloud(lab: FakeLab, road: ArmRoad) -> AsyncIterator[AzureCloud]:
    config = AzureConfig(arm_endpoint=road.url, ca_file=lab.ca, poll_seconds=0.01, operation_seconds=20)
    async with AzureCloud(config, LabCredential(lab)) as cloud:
        yield cloud


async def run(side: Any, told: list[Any], clock: QuickClock | None = None) -> Any:
    return await reconciling.reconcile(side, clock or QuickClock(), PATIENCE, told.append)


PASSING = [Fault.THROTTLED, Fault.FAILED, Fault.PAGE, Fault.BUSY, Fault.RESET, Fault.LOST]


@pytest.mark.parametrize("fault", PASSING)
async def test_the_customer_s_side_gets_there(cloud: AzureCloud, scene: Scene, road: ArmRoad, fault: Fault) -> None:
    alias = scene.publish(autoApproval={"subscriptions": [scene.customer]})
    spec = scene.endpoint_spec(alias)
    road.choose = first_of_each(fault)
    told: list[Any] = []
    outcome = await run(joining.Joining(cloud, spec), told)
    assert outcome.end is End.DONE
    writes = {one.kind for one in road.seen if one.method == "PUT"}
    assert len(writes) == 4  # endpoint, zone, record, network link
    assert len([one for one in told if isinstance(one, Retrying)]) >= 10
    assert (scene.record(), scene.linked()) == (["10.1.0.4"], {"net"})
    road.choose = first_of_each(fault)
    assert (await run(joining.Leaving(cloud, spec), told)).end is End.DONE
    assert not scene.exists(scene.endpoint_id)
    assert not scene.exists(scene.zone_path())


@pytest.mark.parametrize("fault", PASSING)
async def test_the_provider_s_side_gets_there(cloud: AzureCloud, scene: Scene, road: ArmRoad, fault: Fault) -> None:
    road.choose = first_of_each(fault)
    side = publishing.Publishing(cloud, scene.service_spec())
    service = await publishing.publish(side, QuickClock(), PATIENCE)
    assert service.alias == scene.get(scene.service_id)["properties"]["alias"]
    road.choose = first_of_each(fault)
    await publishing.unpublish(publishing.Unpublishing(cloud, scene.service_spec()), QuickClock(), PATIENCE)
    assert not scene.exists(scene.service_id)


async def test_azure_says_when(cloud: AzureCloud, scene: Scene, road: ArmRoad) -> None:
    alias = scene.publish(autoApproval={"subscriptions": [scene.customer]})
    road.choose = first_of_each(Fault.THROTTLED)
    clock, told = QuickClock(), []  # type: ignore[var-annotated]
    await run(joining.Joining(cloud, scene.endpoint_spec(alias)), told, clock)
    waits = [one.seconds for one in told if isinstance(one, Retrying)]
    assert waits == [7.0] * len(waits)
    assert len(waits) >= 10


async def test_an_operation_that_never_ends_is_told_of_at_each_step(lab: FakeLab, scene: Scene, road: ArmRoad) -> None:
    alias = scene.publish(autoApproval={"subscriptions": [scene.customer]})
    config = AzureConfig(arm_endpoint=road.url, ca_file=lab.ca, poll_seconds=0.01, operation_seconds=0.3)
    async with AzureCloud(config, LabCredential(lab)) as cloud:
        side = joining.Joining(cloud, scene.endpoint_spec(alias))
        road.choose = lambda seen: Fault.STUCK if seen.is_operation else None
        stuck = []
        for _ in range(10):
            try:
                outcome = await run(side, [])
            except StuckOperationError as error:
                stuck.append(error.summary.partition(": ")[2].partition(" ")[0])
            else:
                break
        assert outcome.end is End.DONE
    assert stuck == ["create", "create", "link"]
    assert scene.linked() == {"net"}


@pytest.mark.parametrize(("fault", "kind"), [(Fault.FAILED, BusyError), (Fault.RESET, CloudUnreachableError)])
async def test_a_day_that_stays_bad_ends_with_its_name(
    cloud: AzureCloud, scene: Scene, road: ArmRoad, fault: Fault, kind: type[Exception]
) -> None:
    road.choose = lambda seen: fault if seen.method == "PUT" else None
    side = joining.Joining(cloud, scene.endpoint_spec(scene.publish()))
    patience = Patience(failure_seconds=0.5, look_seconds=0.02, backoff=BackoffConfig(first_seconds=0.01))
    with pytest.raises(kind):
        await reconciling.reconcile(side, SystemClock(), patience)
    assert not scene.exists(scene.endpoint_id)
