"""The port: what a cloud's driver does for either side of a link.

Drivers turn everything that goes wrong into ``link.errors``; none remembers anything between calls. ``apply`` may be
repeated with the same step, and returns when the cloud has finished it.
"""

from datetime import timedelta
from typing import Protocol

from isthmus.link.endpoints import CustomerStatus, EndpointSpec, EndpointStatus, Network
from isthmus.link.services import Connection, ProviderStatus, ServiceSpec, ServiceStatus
from isthmus.link.states import Decision
from isthmus.link.steps import CustomerStep, ProviderStep
from isthmus.link.traffic import ServiceTraffic, Traffic


class CustomerCloud(Protocol):
    """What the customer's side needs."""

    async def observe_endpoint(self, spec: EndpointSpec) -> CustomerStatus:
        """All that a plan begins with."""
        ...

    async def find_endpoint(self, endpoint_id: str) -> EndpointStatus | None:
        """One endpoint, with what its tags remember."""
        ...

    async def list_endpoints(self, subscription: str) -> tuple[EndpointStatus, ...]:
        """The endpoints of a subscription that have our tag."""
        ...

    async def find_network(self, network_id: str) -> Network:
        """A virtual network. Raises NotThereError."""
        ...

    async def list_subscriptions(self) -> tuple[str, ...]:
        """The ids of the subscriptions that the credential sees."""
        ...

    async def measure_endpoint(self, endpoint_id: str, span: timedelta) -> Traffic:
        """What went through an endpoint in the last ``span``. Raises NotPermittedError: no reason to stop."""
        ...

    async def apply_customer(self, step: CustomerStep) -> None:
        """Take a step that changes something. Raises InternalError for a wait."""
        ...


class ProviderCloud(Protocol):
    """What the provider's side needs."""

    async def observe_service(self, spec: ServiceSpec) -> ProviderStatus:
        """All that a plan begins with."""
        ...

    async def find_service(self, service_id: str) -> ServiceStatus | None:
        """One link service with its connections."""
        ...

    async def measure_service(self, service_id: str, span: timedelta) -> ServiceTraffic:
        """What went through a link service in the last ``span``. Raises NotPermittedError: no reason to stop."""
        ...

    async def apply_provider(self, step: ProviderStep) -> None:
        """Take a step that changes something. Raises InternalError for a wait."""
        ...

    async def decide(self, service_id: str, connection: str, decision: Decision, reason: str) -> Connection | None:
        """Approve, reject or remove a connection by the name that listing gave; what it is then, None if removed."""
        ...
