"""The provider's side of a link: a link service in front of a cluster's ingress."""

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from isthmus.link.states import ConnectionState

#: Every subscription may see the service.
EVERYBODY: Final = "*"

#: Azure subscription and service limits, "Private Link".
MAX_NAT_ADDRESSES: Final = 8


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """What a link service should be. Ids are Azure resource ids.

    ``frontend_id`` is the load balancer's frontend that leads to the ingress; ``nat_addresses`` (1 to 8) are taken from
    ``nat_subnet_id``, from the cluster's CIDR. ``visible_to`` and ``approved_at_once`` are subscriptions, or EVERYBODY.
    """

    service_id: str
    cluster_id: str
    location: str
    frontend_id: str
    nat_subnet_id: str
    nat_addresses: int = 1
    visible_to: tuple[str, ...] = (EVERYBODY,)
    approved_at_once: tuple[str, ...] = ()
    has_proxy_protocol: bool = True


@dataclass(frozen=True, slots=True)
class Connection:
    """An endpoint's request, as the provider sees it. ``name`` is the cloud's; ``link_id`` is what PROXY v2 carries."""

    name: str
    endpoint_id: str
    state: ConnectionState
    message: str
    link_id: int | None
    location: str = ""


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """What a link service is.

    ``owner`` is the cluster that our tag names, empty for a service of somebody else's. ``is_settled`` is false while
    the cloud still works on it; ``problem`` is the cloud's word when its last operation failed.
    """

    service_id: str
    alias: str
    location: str
    frontend_id: str
    nat_subnet_id: str
    nat_addresses: tuple[IPv4Address, ...]
    visible_to: tuple[str, ...]
    approved_at_once: tuple[str, ...]
    has_proxy_protocol: bool
    owner: str = ""
    is_settled: bool = True
    problem: str = ""
    connections: tuple[Connection, ...] = ()


@dataclass(frozen=True, slots=True)
class ProviderStatus:
    """All that a plan for a link service begins with.

    ``has_subnet_policies``: the NAT subnet still has the policies that keep link services out.
    """

    is_registered: bool
    has_subnet_policies: bool
    service: ServiceStatus | None
