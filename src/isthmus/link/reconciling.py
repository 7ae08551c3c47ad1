"""Observe, plan, take the first step, and again: until nothing is left, or somebody has to decide.

Nothing is remembered between runs, and within one hardly anything: after each step the cloud is asked anew, so that a
crash, a second reconciler, or an answer that got lost are all the same case. Failures that pass are waited out, at
least as long as the cloud asked for, until there was no progress for a time.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

from isthmus.kit.backoffs import Backoff, BackoffConfig
from isthmus.kit.clocks import Clock
from isthmus.kit.errors import TemporaryError
from isthmus.link import errors, steps
from isthmus.link.planning import Plan
from isthmus.link.steps import CustomerStep, ProviderStep, Step

S = TypeVar("S", CustomerStep, ProviderStep)
T = TypeVar("T")
A = TypeVar("A")

#: How often a step is taken that succeeds and changes nothing: clouds may show a change late.
_FUTILE: Final = 5


class Side(Protocol[T, S]):
    """One side of a link, for one spec: how it is seen, planned for and changed."""

    async def observe(self) -> T:
        """What is there."""
        ...

    def plan(self, status: T) -> Plan[S]:
        """What is left to do."""
        ...

    async def apply(self, step: S) -> None:
        """Take a step."""
        ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited for what."""

    #: For the provider's decision: none, so that whoever asked is told at once. None waits for as long as it takes.
    approval_seconds: float | None = 0.0
    #: For an operation of the cloud's that somebody began. Azure makes an endpoint in half a minute to two.
    operation_seconds: float = 900.0
    #: For failures that pass, since the last time that something worked.
    failure_seconds: float = 180.0
    #: Between two looks at something that changes by itself.
    look_seconds: float = 2.0
    backoff: BackoffConfig = field(default_factory=BackoffConfig)


# --- what happens, for whoever watches


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan was made; the first one is the whole way."""

    plan: Plan[CustomerStep] | Plan[ProviderStep]


@dataclass(frozen=True, slots=True)
class Began:
    """A step is being taken, or a wait has begun."""

    step: Step


@dataclass(frozen=True, slots=True)
class Took:
    """A step is done, or a wait over."""

    step: Step
    seconds: float


@dataclass(frozen=True, slots=True)
class Retrying:
    """Something failed that may pass; it is tried again in ``seconds``."""

    error: TemporaryError
    seconds: float


Event: TypeAlias = Planned | Began | Took | Retrying


class End(StrEnum):
    """How a run ended."""

    DONE = "done"
    AWAITING_APPROVAL = "awaiting_approval"
    BLOCKED = "blocked"


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T, S]):
    """How a run ended, with the plan that was left and what it was made from."""

    end: End
    plan: Plan[S]
    status: T


def _nobody(_event: Event) -> None:
    return None


async def reconcile(
    side: Side[T, S], clock: Clock, patience: Patience, tell: Callable[[Event], None] = _nobody
) -> Outcome[T, S]:
    """Bring ``side`` to where its plan is empty, as far as that goes without anybody's help.

    Raises StuckOperationError, NoEffectError, TemporaryErrors that lasted, and whatever the cloud refuses.
    """
    looking, acting = _Trouble(clock, patience), _Trouble(clock, patience)
    progress = _Progress(clock, tell)
    while True:
        try:
            status = await side.observe()
        except errors.StuckOperationError:
            raise
        except TemporaryError as error:
            await looking.endure(error, tell)
            continue
        looking.is_over()
        plan = side.plan(status)
        tell(Planned(plan))
        if plan.blocks:
            return Outcome(End.BLOCKED, plan, status)
        if not plan.steps:
            progress.ends_waiting()
            return Outcome(End.DONE, plan, status)
        step: Step = plan.steps[0]
        if isinstance(step, steps.AwaitApproval | steps.AwaitCloud):
            waited = progress.waits(step)
            if isinstance(step, steps.AwaitApproval):
                if patience.approval_seconds is not None and waited >= patience.approval_seconds:
                    return Outcome(End.AWAITING_APPROVAL, plan, status)
            elif waited >= patience.operation_seconds:
                raise stuck(f"change {step.resource_id}", waited)
            await clock.sleep(patience.look_seconds)
            continue
        if progress.takes(step):
            await clock.sleep(patience.look_seconds)
        try:
            await side.apply(plan.steps[0])
        except errors.StuckOperationError:
            raise
        except TemporaryError as error:
            await acting.endure(error, tell)
            continue
        acting.is_over()
        progress.took(step)


async def patiently(
    call: Callable[[], Awaitable[A]], clock: Clock, patience: Patience, tell: Callable[[Event], None] = _nobody
) -> A:
    """What ``call`` returns, asked again through failures that pass. Raises one that lasts, and StuckOperationError."""
    trouble = _Trouble(clock, patience)
    while True:
        try:
            return await call()
        except errors.StuckOperationError:
            raise
        except TemporaryError as error:
            await trouble.endure(error, tell)


def stuck(what: str, seconds: float) -> errors.StuckOperationError:
    """The error for an operation that does not end; ``what`` as in ``create endpoint e``."""
    return errors.StuckOperationError(
        f"The cloud has not finished within {seconds:g} seconds: {what}",
        code="operation_stuck",
        hint="Look at the resource in the portal (Activity log). Running the same command again goes on from here.",
    )


class _Trouble:
    """Failures in a row: how long they have lasted, and how long to wait before the next try."""

    def __init__(self, clock: Clock, patience: Patience) -> None:
        self._clock = clock
        self._limit = patience.failure_seconds
        self._config = patience.backoff
        self._since: float | None = None
        self._backoff = Backoff(patience.backoff, clock)

    async def endure(self, error: TemporaryError, tell: Callable[[Event], None]) -> None:
        """Wait before the next try. Raises ``error`` when the next try would come too late."""
        if self._since is None:
            self._since = self._clock.monotonic()
            self._backoff = Backoff(self._config, self._clock)
        asked = error.retry_after_seconds if isinstance(error, errors.BusyError) else 0.0
        wait = max(asked, self._backoff.failed())
        if self._clock.monotonic() + wait - self._since > self._limit:
            raise error
        tell(Retrying(error, wait))
        await self._clock.sleep(wait)

    def is_over(self) -> None:
        """It worked."""
        self._since = None


class _Progress:
    """Which step is being taken since when, and whether it has any effect."""

    def __init__(self, clock: Clock, tell: Callable[[Event], None]) -> None:
        self._clock = clock
        self._tell = tell
        self._step: Step | None = None
        self._since = 0.0
        self._times = 0

    def waits(self, step: Step) -> float:
        """For how many seconds ``step`` has been waited for."""
        if step != self._step:
            self._begin(step)
        return self._clock.monotonic() - self._since

    def takes(self, step: Step) -> bool:
        """Note that ``step`` is about to be taken; whether it was taken before without effect. Raises NoEffectError."""
        if step != self._step:
            self._begin(step)
            return False
        if self._times >= _FUTILE:
            raise errors.NoEffectError(
                f"It has no effect, {self._times} times: {step.sentence}",
                code="step_has_no_effect",
                hint="Something undoes it at once, such as a policy of the subscription or another program.",
            )
        return self._times > 0

    def took(self, step: Step) -> None:
        """It worked."""
        self._times += 1
        if self._times == 1:
            self._tell(Took(step, self._clock.monotonic() - self._since))

    def ends_waiting(self) -> None:
        """All is done: if that was waited for, it is over."""
        self._finish_wait()

    def _begin(self, step: Step) -> None:
        self._finish_wait()
        self._step, self._since, self._times = step, self._clock.monotonic(), 0
        self._tell(Began(step))

    def _finish_wait(self) -> None:
        if isinstance(self._step, steps.AwaitApproval | steps.AwaitCloud):
            self._tell(Took(self._step, self._clock.monotonic() - self._since))
            self._step = None
