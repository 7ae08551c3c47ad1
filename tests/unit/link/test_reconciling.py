"""The reconciler, in virtual time, on a cloud in memory: failures, waits, and ends."""

from dataclasses import replace
from typing import Any

import pytest
from tests.fakes.link_cloud import FakeCloud, spec

from isthmus.kit.backoffs import BackoffConfig
from isthmus.kit.clocks import ManualClock
from isthmus.kit.errors import IsthmusError
from isthmus.link import joining, reconciling, steps
from isthmus.link.endpoints import EndpointStatus
from isthmus.link.errors import (
    BusyError,
    ChangedMeanwhileError,
    CloudRefusedError,
    CloudUnreachableError,
    NoEffectError,
    StuckOperationError,
)
from isthmus.link.planning import Obstacle
from isthmus.link.reconciling import Began, End, Event, Patience, Planned, Retrying, Took
from isthmus.link.states import ConnectionState

PATIENCE = Patience(failure_seconds=60, look_seconds=1, backoff=BackoffConfig(first_seconds=1, jitter=0))


class Run:
    """One run and all that it told."""

    def __init__(self, cloud: FakeCloud, patience: Patience = PATIENCE) -> None:
        self.cloud, self.patience, self.clock = cloud, patience, ManualClock()
        self.events: list[Event] = []

    async def __call__(self) -> Any:
        side = joining.Joining(self.cloud, spec())
        return await reconciling.reconcile(side, self.clock, self.patience, self.events.append)

    def told(self, kind: type[Event]) -> list[Any]:
        return [one for one in self.events if isinstance(one, kind)]


def throttled(seconds: float = 0.0) -> BusyError:
    return BusyError("not now", code="throttled", retry_after_seconds=seconds)


LOST = CloudUnreachableError("gone", code="cloud_unreachable")


def approved() -> FakeCloud:
    return FakeCloud(first_state=ConnectionState.APPROVED)


async def test_all_at_once() -> None:
    run = Run(approved())
    outcome = await run()
    assert (outcome.end, outcome.plan.is_done) == (End.DONE, True)
    assert [steps.kind_of(one) for one in run.cloud.applied] == [
        "create_endpoint",
        "create_zone",
        "put_record",
        "link_network",
    ]
    assert [one.step for one in run.told(Took)] == [one.step for one in run.told(Began)]
    assert len(run.told(Planned)[0].plan.steps) == 5
    again = await Run(run.cloud)()
    assert (again.end, len(run.cloud.applied)) == (End.DONE, 4)


async def test_retry_after_is_honoured() -> None:
    run = Run(approved())
    run.cloud.failures = [throttled(25)]
    assert (await run()).end is End.DONE
    assert run.clock.monotonic() >= 25
    assert [one.seconds for one in run.told(Retrying)] == [25]


@pytest.mark.parametrize("where", ["failures", "lost", "look_failures"])
@pytest.mark.parametrize("error", [throttled(), LOST, ChangedMeanwhileError("x", code="changed_meanwhile")])
async def test_failures_around_every_step_are_lived_through(where: str, error: IsthmusError) -> None:
    run = Run(approved())
    setattr(run.cloud, where, [error] * 4)
    assert (await run()).end is End.DONE
    assert 4 <= len(run.cloud.applied) <= 8
    assert getattr(run.cloud, where) == []


async def test_failures_that_last_are_given_up() -> None:
    run = Run(approved())
    run.cloud.failures = [throttled() for _ in range(100)]
    with pytest.raises(BusyError):
        await run()
    assert run.clock.monotonic() <= 60
    assert len(run.told(Retrying)) > 3
    late = Run(approved())
    late.cloud.look_failures = [throttled(61)]
    with pytest.raises(BusyError):  # the cloud wants more time than there is: said at once
        await late()
    assert late.clock.monotonic() == 0


async def test_failures_now_and_then_are_no_failures_in_a_row() -> None:
    cloud = FakeCloud()
    run = Run(cloud, Patience(approval_seconds=None, failure_seconds=5, look_seconds=1, backoff=PATIENCE.backoff))

    class Flaky(joining.Joining):
        async def observe(self) -> Any:
            if cloud.looks % 3 == 2:
                cloud.look_failures = [LOST]
            if cloud.looks == 200:
                cloud.decide(ConnectionState.APPROVED)
            return await cloud.observe_endpoint(spec())

    outcome = await reconciling.reconcile(Flaky(cloud, spec()), run.clock, run.patience, run.events.append)
    assert outcome.end is End.DONE
    assert run.clock.monotonic() > 100


async def test_refusals_are_not_tried_again() -> None:
    run = Run(approved())
    run.cloud.failures = [CloudRefusedError("no", code="subnet_full")]
    with pytest.raises(CloudRefusedError):
        await run()
    assert (run.cloud.applied, run.clock.monotonic()) == ([], 0)


async def test_approval_is_an_end_of_its_own() -> None:
    run = Run(FakeCloud())
    outcome = await run()
    assert (outcome.end, run.clock.monotonic()) == (End.AWAITING_APPROVAL, 0)
    assert isinstance(outcome.plan.steps[0], steps.AwaitApproval)
    bounded = Run(run.cloud, Patience(approval_seconds=30, look_seconds=2))
    assert (await bounded()).end is End.AWAITING_APPROVAL
    assert bounded.clock.monotonic() == 30
    run.cloud.decide(ConnectionState.APPROVED)
    assert (await bounded()).end is End.DONE


async def test_a_rejection_while_waiting_blocks() -> None:
    run = Run(FakeCloud())
    await run()
    run.cloud.decide(ConnectionState.REJECTED)
    outcome = await Run(run.cloud, Patience(approval_seconds=None))()
    assert outcome.end is End.BLOCKED
    assert [one.code for one in outcome.plan.blocks] == [Obstacle.CONNECTION_REJECTED]


async def test_an_operation_that_does_not_end_is_an_error() -> None:
    cloud = approved()
    await Run(cloud)()
    assert cloud.endpoint is not None
    cloud.endpoint = _unsettled(cloud.endpoint)
    run = Run(cloud, Patience(operation_seconds=100, look_seconds=7))
    with pytest.raises(StuckOperationError) as stuck:
        await run()
    assert 100 <= run.clock.monotonic() < 110
    assert "isthmus-privatelink" in stuck.value.summary
    # One that the driver gave up on is not begun again within the run.
    run = Run(approved())
    run.cloud.failures = [reconciling.stuck("something", 5)]
    with pytest.raises(StuckOperationError):
        await run()


def _unsettled(endpoint: EndpointStatus) -> EndpointStatus:
    return replace(endpoint, is_settled=False)


async def test_steps_without_effect_are_given_up() -> None:
    run = Run(approved())
    run.cloud.is_deaf = True
    with pytest.raises(NoEffectError):
        await run()
    assert len(run.cloud.applied) == 5
    assert len(run.told(Began)) == len(run.told(Took)) == 1


async def test_watching_tells_of_changes_alone() -> None:
    cloud = FakeCloud()
    await Run(cloud)()
    clock = ManualClock()
    seen = []
    changes = joining.watch(cloud, spec().endpoint_id, clock, 5)
    async for found in changes:
        seen.append(found.state if found else None)
        match len(seen):
            case 1:
                cloud.look_failures = [LOST, LOST]
                cloud.decide(ConnectionState.APPROVED)
            case 2:
                assert clock.monotonic() == 15  # two looks failed
                cloud.endpoint = None
            case _:
                break
    assert seen == [ConnectionState.PENDING, ConnectionState.APPROVED, None]
