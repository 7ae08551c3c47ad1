"""The customer's side for ``reconciling``: joining a link, leaving it; and watching an endpoint."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from isthmus.kit.clocks import Clock
from isthmus.kit.errors import TemporaryError
from isthmus.link import planning
from isthmus.link.clouds import CustomerCloud
from isthmus.link.endpoints import CustomerStatus, EndpointSpec, EndpointStatus
from isthmus.link.planning import Permissions, Plan
from isthmus.link.steps import CustomerStep


@dataclass(frozen=True, slots=True)
class Joining:
    """An endpoint that should be there, as ``reconciling.Side``."""

    cloud: CustomerCloud
    spec: EndpointSpec
    allowed: Permissions = planning.DEFAULTS

    async def observe(self) -> CustomerStatus:
        """What is there."""
        return await self.cloud.observe_endpoint(self.spec)

    def plan(self, status: CustomerStatus) -> Plan[CustomerStep]:
        """What is left to do."""
        return planning.plan_endpoint(self.spec, status, self.allowed)

    async def apply(self, step: CustomerStep) -> None:
        """Take a step."""
        await self.cloud.apply_customer(step)


@dataclass(frozen=True, slots=True)
class Leaving:
    """An endpoint that should not be there any more, as ``reconciling.Side``."""

    cloud: CustomerCloud
    spec: EndpointSpec

    async def observe(self) -> CustomerStatus:
        """What is there."""
        return await self.cloud.observe_endpoint(self.spec)

    def plan(self, status: CustomerStatus) -> Plan[CustomerStep]:
        """What is left to do."""
        return planning.plan_removal(self.spec, status)

    async def apply(self, step: CustomerStep) -> None:
        """Take a step."""
        await self.cloud.apply_customer(step)


async def watch(
    cloud: CustomerCloud, endpoint_id: str, clock: Clock, look_seconds: float
) -> AsyncIterator[EndpointStatus | None]:
    """The endpoint now, and whenever it has changed; None while it is not there. A look that fails is left out."""
    last: EndpointStatus | None = None
    is_first = True
    while True:
        try:
            found = await cloud.find_endpoint(endpoint_id)
        except TemporaryError:
            if is_first:
                raise
        else:
            if is_first or found != last:
                yield found
            last, is_first = found, False
        await clock.sleep(look_seconds)
