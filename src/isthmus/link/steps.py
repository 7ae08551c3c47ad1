"""Steps of plans, for both sides of a link. Each says in one sentence what it will do.

A step holds all that a driver needs to take it, and can be taken again without harm. Two of them are no changes but
waits: for the cloud to finish what somebody began, and for the provider to decide.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TypeAlias

from isthmus.link import names
from isthmus.link.endpoints import EndpointSpec
from isthmus.link.services import ServiceSpec


@dataclass(frozen=True, slots=True)
class RegisterProvider:
    """Let a subscription use Microsoft.Network."""

    subscription: str

    @property
    def sentence(self) -> str:
        """What this does."""
        return f"Register subscription {self.subscription} for Microsoft.Network"


@dataclass(frozen=True, slots=True)
class AwaitCloud:
    """Nothing to do but to let the cloud finish."""

    resource_id: str

    @property
    def sentence(self) -> str:
        """What this does."""
        return f"Wait until the cloud has finished changing {_named(self.resource_id)}"


# --- the customer's side


@dataclass(frozen=True, slots=True)
class CreateEndpoint:
    """Make the endpoint, and with it the request for a connection."""

    spec: EndpointSpec

    @property
    def sentence(self) -> str:
        """What this does."""
        subnet = names.parse_id(self.spec.subnet_id)
        at = f" at {self.spec.address}" if self.spec.address else ""
        return (
            f"Create endpoint {_named(self.spec.endpoint_id)} in subnet {subnet.name} of network {subnet.names[0]}{at} "
            f"and ask {self.spec.alias} for a connection"
        )


@dataclass(frozen=True, slots=True)
class DeleteEndpoint:
    """Remove the endpoint, and with it its address and its connection."""

    endpoint_id: str

    @property
    def sentence(self) -> str:
        """What this does."""
        return f"Delete endpoint {_named(self.endpoint_id)}"


@dataclass(frozen=True, slots=True)
class AwaitApproval:
    """The provider has to decide."""

    endpoint_id: str

    @property
    def sentence(self) -> str:
        """What this does."""
        return f"Wait until the provider approves the connection of {_named(self.endpoint_id)}"


@dataclass(frozen=True, slots=True)
class CreateZone:
    """Make the private zone, linked with nothing yet."""

    zone_id: str
    cluster_id: str

    @property
    def sentence(self) -> str:
        """What this does."""
        return f"Create private zone {_named(self.zone_id)}"


@dataclass(frozen=True, slots=True)
class PutRecord:
    """Point the name at the endpoint.

    ``address`` is None in a plan that is shown before the endpoint exists. ``etag`` is the record's that is replaced;
    empty: there is none, and one that appears meanwhile is not overwritten.
    """

    zone_id: str
    record: str
    address: IPv4Address | None
    ttl_seconds: int
    cluster_id: str
    etag: str = ""

    @property
    def sentence(self) -> str:
        """What this does."""
        verb = "Change" if self.etag else "Put"
        address = self.address or "the address of the endpoint"
        return f"{verb} record {self.record} in zone {_named(self.zone_id)}: {address}"


@dataclass(frozen=True, slots=True)
class LinkNetwork:
    """Let the zone answer in a network."""

    zone_id: str
    network_id: str
    cluster_id: str

    @property
    def sentence(self) -> str:
        """What this does."""
        return f"Link network {_named(self.network_id)} with zone {_named(self.zone_id)}"


@dataclass(frozen=True, slots=True)
class UnlinkNetwork:
    """Let a network forget the zone: names are public there again."""

    link_id: str
    network_id: str

    @property
    def sentence(self) -> str:
        """What this does."""
        zone = names.parse_id(self.link_id).names[0]
        return f"Unlink network {_named(self.network_id)} from zone {zone}"


@dataclass(frozen=True, slots=True)
class DeleteRecord:
    """Remove the A record, as it was seen."""

    zone_id: str
    record: str
    etag: str

    @property
    def sentence(self) -> str:
        """What this does."""
        return f"Delete record {self.record} of zone {_named(self.zone_id)}"


@dataclass(frozen=True, slots=True)
class DeleteZone:
    """Remove the private zone, which nothing else is in."""

    zone_id: str

    @property
    def sentence(self) -> str:
        """What this does."""
        return f"Delete private zone {_named(self.zone_id)}"


CustomerStep: TypeAlias = (
    RegisterProvider
    | AwaitCloud
    | CreateEndpoint
    | DeleteEndpoint
    | AwaitApproval
    | CreateZone
    | PutRecord
    | LinkNetwork
    | UnlinkNetwork
    | DeleteRecord
    | DeleteZone
)

# --- the provider's side


@dataclass(frozen=True, slots=True)
class DisableSubnetPolicies:
    """Let link services take addresses in a subnet."""

    subnet_id: str

    @property
    def sentence(self) -> str:
        """What this does."""
        return f"Disable the policies that keep link services out of subnet {_named(self.subnet_id)}"


@dataclass(frozen=True, slots=True)
class CreateService:
    """Make the link service."""

    spec: ServiceSpec

    @property
    def sentence(self) -> str:
        """What this does."""
        spec = self.spec
        many = f"{spec.nat_addresses} NAT address{'es' if spec.nat_addresses > 1 else ''}"
        return (
            f"Create link service {_named(spec.service_id)} with {many} of subnet {_named(spec.nat_subnet_id)}, "
            f"visible to {_subscriptions(spec.visible_to)}"
        )


@dataclass(frozen=True, slots=True)
class ChangeService:
    """Change who sees the link service, who is approved at once, PROXY v2, or how many NAT addresses it has."""

    spec: ServiceSpec
    changes: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """What this does."""
        return f"Change link service {_named(self.spec.service_id)}: {'; '.join(self.changes)}"


@dataclass(frozen=True, slots=True)
class RemoveConnection:
    """Cut a customer's connection for good."""

    service_id: str
    name: str
    endpoint_id: str

    @property
    def sentence(self) -> str:
        """What this does."""
        return f"Remove the connection of endpoint {self.endpoint_id}"


@dataclass(frozen=True, slots=True)
class DeleteService:
    """Remove the link service and its alias, which never comes back."""

    service_id: str

    @property
    def sentence(self) -> str:
        """What this does."""
        return f"Delete link service {_named(self.service_id)}; its alias never comes back"


ProviderStep: TypeAlias = (
    RegisterProvider
    | AwaitCloud
    | DisableSubnetPolicies
    | CreateService
    | ChangeService
    | RemoveConnection
    | DeleteService
)

Step: TypeAlias = CustomerStep | ProviderStep


def kind_of(step: Step) -> str:
    """A step's stable name for programs: ``create_endpoint``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(step).__name__).lower()


def _named(resource_id: str) -> str:
    return names.parse_id(resource_id).name


def _subscriptions(listed: tuple[str, ...]) -> str:
    return "everybody" if "*" in listed else ", ".join(listed) or "nobody else"
