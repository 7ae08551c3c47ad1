"""The provider's verbs: publish a link service, decide about its connections, take it back.

Connections are named by the endpoint that asked: the cloud makes up the connection's own name, so it is found by
listing, each time. Decisions are repeated through failures that pass, and look anew each time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from isthmus.kit.clocks import Clock, SystemClock
from isthmus.kit.errors import RefusedError
from isthmus.link import names, planning, reconciling, states
from isthmus.link.clouds import ProviderCloud
from isthmus.link.errors import BlockedError, NotThereError
from isthmus.link.planning import Permissions, Plan
from isthmus.link.reconciling import End, Event, Outcome, Patience
from isthmus.link.services import Connection, ProviderStatus, ServiceSpec, ServiceStatus
from isthmus.link.states import Decision
from isthmus.link.steps import ProviderStep

#: A decision is one short call; what stands in its way longer is not another operator.
DECIDING: Final = Patience(failure_seconds=30.0)

_CLOCK: Final = SystemClock()


@dataclass(frozen=True, slots=True)
class Publishing:
    """A link service that should be there, as ``reconciling.Side``."""

    cloud: ProviderCloud
    spec: ServiceSpec
    allowed: Permissions = planning.DEFAULTS

    async def observe(self) -> ProviderStatus:
        """What is there."""
        return await self.cloud.observe_service(self.spec)

    def plan(self, status: ProviderStatus) -> Plan[ProviderStep]:
        """What is left to do."""
        return planning.plan_service(self.spec, status, self.allowed)

    async def apply(self, step: ProviderStep) -> None:
        """Take a step."""
        await self.cloud.apply_provider(step)


@dataclass(frozen=True, slots=True)
class Unpublishing:
    """A link service that should not be there any more, as ``reconciling.Side``."""

    cloud: ProviderCloud
    spec: ServiceSpec
    allowed: Permissions = planning.DEFAULTS

    async def observe(self) -> ProviderStatus:
        """What is there."""
        return await self.cloud.observe_service(self.spec)

    def plan(self, status: ProviderStatus) -> Plan[ProviderStep]:
        """What is left to do."""
        return planning.plan_unpublishing(self.spec, status, self.allowed)

    async def apply(self, step: ProviderStep) -> None:
        """Take a step."""
        await self.cloud.apply_provider(step)


async def publish(
    side: Publishing, clock: Clock, patience: Patience, tell: Callable[[Event], None] = lambda _: None
) -> ServiceStatus:
    """Make the link service, or what is asked of it; its alias is in what is returned.

    Raises BlockedError, and what ``reconciling.reconcile`` does.
    """
    outcome = _unblocked(await reconciling.reconcile(side, clock, patience, tell))
    if outcome.status.service is None:
        raise AssertionError("a plan without steps has a service")
    return outcome.status.service


async def unpublish(
    side: Unpublishing, clock: Clock, patience: Patience, tell: Callable[[Event], None] = lambda _: None
) -> None:
    """Remove the link service with its connections. Raises BlockedError, and what ``reconciling.reconcile`` does."""
    _unblocked(await reconciling.reconcile(side, clock, patience, tell))


def _unblocked(outcome: Outcome[ProviderStatus, ProviderStep]) -> Outcome[ProviderStatus, ProviderStep]:
    if outcome.end is End.BLOCKED:
        raise BlockedError(outcome.plan.blocks)
    return outcome


async def observe(cloud: ProviderCloud, service_id: str) -> ServiceStatus:
    """The link service with its alias, NAT addresses and connections. Raises NotThereError."""
    found = await cloud.find_service(service_id)
    if found is None:
        raise NotThereError("link service", names.parse_id(service_id).name, hint="Publish it first.")
    return found


async def approve(
    cloud: ProviderCloud,
    service_id: str,
    endpoint_id: str,
    reason: str = "",
    *,
    clock: Clock = _CLOCK,
    patience: Patience = DECIDING,
) -> Connection:
    """Let an endpoint's packets through. Raises NotThereError, RefusedError when it is too late for that."""
    wanted = _Wanted(cloud, service_id, endpoint_id, Decision.APPROVE, reason)
    return await reconciling.patiently(wanted.decide, clock, patience)


async def reject(
    cloud: ProviderCloud,
    service_id: str,
    endpoint_id: str,
    reason: str = "",
    *,
    clock: Clock = _CLOCK,
    patience: Patience = DECIDING,
) -> Connection:
    """Refuse an endpoint, or stop one that was approved; for good. Raises NotThereError, RefusedError."""
    wanted = _Wanted(cloud, service_id, endpoint_id, Decision.REJECT, reason)
    return await reconciling.patiently(wanted.decide, clock, patience)


async def expire(
    cloud: ProviderCloud,
    service_id: str,
    endpoint_id: str,
    *,
    clock: Clock = _CLOCK,
    patience: Patience = DECIDING,
) -> Connection:
    """Refuse an endpoint because nobody decided in time. Raises NotThereError, RefusedError."""
    wanted = _Wanted(cloud, service_id, endpoint_id, Decision.EXPIRE, "")
    return await reconciling.patiently(wanted.decide, clock, patience)


async def remove(
    cloud: ProviderCloud,
    service_id: str,
    endpoint_id: str,
    *,
    clock: Clock = _CLOCK,
    patience: Patience = DECIDING,
) -> None:
    """Remove an endpoint's connection, in whatever state; nothing to do if there is none. Raises NotThereError."""

    async def once() -> None:
        connection = find(await observe(cloud, service_id), endpoint_id)
        if connection is not None:
            await cloud.decide(service_id, connection.name, Decision.REMOVE, "")

    await reconciling.patiently(once, clock, patience)


def find(service: ServiceStatus, endpoint_id: str) -> Connection | None:
    """The connection of an endpoint, by the endpoint's id; of several the one that is not final."""
    found = [one for one in service.connections if names.are_same(one.endpoint_id, endpoint_id)]
    return min(found, key=lambda one: states.is_final(one.state), default=None)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A decision to be carried out."""

    cloud: ProviderCloud
    service_id: str
    endpoint_id: str
    decision: Decision
    reason: str

    async def decide(self) -> Connection:
        """Look at the connection as it is now, and decide about that: somebody else may have been faster."""
        connection = find(await observe(self.cloud, self.service_id), self.endpoint_id)
        if connection is None:
            raise _no_connection(self.endpoint_id, "List the connections: the endpoint may have been deleted.")
        after = states.transition(connection.state, self.decision)
        if after is None:
            raise RefusedError(
                f"The connection of {self.endpoint_id} is {connection.state}: it is too late to {self.decision} it",
                code=f"connection_{connection.state}",
                hint="Remove it; the customer creates the endpoint again.",
            )
        if after is connection.state:
            return connection
        decided = await self.cloud.decide(self.service_id, connection.name, self.decision, self.reason)
        if decided is None:
            raise _no_connection(self.endpoint_id, "It was removed meanwhile.")
        return decided


def _no_connection(endpoint_id: str, hint: str) -> NotThereError:
    return NotThereError("connection", endpoint_id, hint=hint)
