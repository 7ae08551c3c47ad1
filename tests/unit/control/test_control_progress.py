"""How far a link is on its way, from what its reconciler tells."""

from isthmus.control.progress import Progress, StepState
from isthmus.kit.clocks import SystemClock
from isthmus.kit.errors import TemporaryError
from isthmus.link.planning import Plan
from isthmus.link.reconciling import Began, Planned, Retrying, Took
from isthmus.link.services import ServiceSpec
from isthmus.link.steps import CreateService, DisableSubnetPolicies, RegisterProvider

ROOT = "/subscriptions/6f9619ff-8b86-4d01-b42d-00cf4fc964ff/resourceGroups/rg/providers/Microsoft.Network"
SUBNET = f"{ROOT}/virtualNetworks/plane/subnets/nat"
REGISTER = RegisterProvider("6f9619ff-8b86-4d01-b42d-00cf4fc964ff")
OPEN = DisableSubnetPolicies(SUBNET)
CREATE = CreateService(
    ServiceSpec(
        f"{ROOT}/privateLinkServices/ingress",
        "clabcdefgh2",
        "westeurope",
        f"{ROOT}/loadBalancers/front/frontendIPConfigurations/front",
        SUBNET,
    )
)


def states(progress: Progress) -> list[tuple[object, StepState]]:
    return [(one.step, one.state) for one in progress.of("c")]


def test_steps_are_waited_for_taken_and_done() -> None:
    progress = Progress(SystemClock())
    tell = progress.follow("c", 1)
    assert progress.of("c") == ()
    tell(Planned(Plan((OPEN, CREATE))))
    assert states(progress) == [(OPEN, StepState.WAITING), (CREATE, StepState.WAITING)]
    tell(Began(OPEN))
    assert states(progress) == [(OPEN, StepState.RUNNING), (CREATE, StepState.WAITING)]
    tell(Took(OPEN, 0.5))
    tell(Planned(Plan((CREATE,))))
    tell(Began(CREATE))
    assert states(progress) == [(OPEN, StepState.DONE), (CREATE, StepState.RUNNING)]
    assert progress.of("c")[0].seconds == 0.5
    assert progress.of("c")[1].since is not None
    progress.forget("c")
    assert progress.of("c") == ()


def test_what_fails_is_named_until_it_works() -> None:
    progress = Progress(SystemClock())
    tell = progress.follow("c", 1)
    tell(Planned(Plan((OPEN, CREATE))))
    tell(Began(OPEN))
    tell(Retrying(TemporaryError("it is busy", code="busy"), 2.0))
    assert (progress.of("c")[0].state, progress.of("c")[0].trouble) == (StepState.RETRYING, "it is busy")
    tell(Planned(Plan((OPEN, CREATE))))
    assert progress.of("c")[0].trouble == "it is busy", "planning anew is not success"
    tell(Took(OPEN, 0.1))
    assert states(progress) == [(OPEN, StepState.DONE), (CREATE, StepState.WAITING)]


def test_the_next_try_keeps_what_is_done_and_another_wish_does_not() -> None:
    progress = Progress(SystemClock())
    tell = progress.follow("c", 1)
    tell(Planned(Plan((OPEN, CREATE))))
    tell(Began(OPEN))
    tell(Took(OPEN, 0.1))
    progress.hold_up("c", "it is refused")
    assert states(progress) == [(OPEN, StepState.DONE), (CREATE, StepState.RETRYING)]
    progress.follow("c", 1)(Planned(Plan((CREATE,))))
    assert states(progress) == [(OPEN, StepState.DONE), (CREATE, StepState.WAITING)]
    progress.follow("c", 2)(Planned(Plan((REGISTER,))))
    assert states(progress) == [(REGISTER, StepState.WAITING)]


def test_a_step_that_is_needed_again_is_not_done() -> None:
    progress = Progress(SystemClock())
    tell = progress.follow("c", 1)
    tell(Planned(Plan((OPEN, CREATE))))
    tell(Began(OPEN))
    tell(Took(OPEN, 0.1))
    tell(Planned(Plan((OPEN, CREATE))))  # somebody has undone it
    assert states(progress) == [(OPEN, StepState.WAITING), (CREATE, StepState.WAITING)]
