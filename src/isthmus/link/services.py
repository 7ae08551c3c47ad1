"""The provider's side of a link: a link service in front of a cluster's ingress."""

from dataclasses import dataclass
from ipaddress import IPv4Address

from isthmus.link.states import ConnectionState

#: Every subscription may see the service.
EVERYBODY = "*"


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """What a link service should be. Ids are Azure resource ids.

    ``frontend_id`` is the load balancer's frontend that leads to the ingress; ``nat_addresses`` (1 to 8) are taken from
    ``nat_subnet_id``, from the cluster's CIDR. ``visible_to`` and ``approved_at_once`` are subscriptions, or EVERYBODY.
    """

    service_id: str
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
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """What a link service is. ``problem`` is the cloud's word if its last operation failed."""

    service_id: str
    alias: str
    is_ready: bool
    nat_addresses: tuple[IPv4Address, ...]
    frontend_id: str
    visible_to: tuple[str, ...]
    approved_at_once: tuple[str, ...]
    has_proxy_protocol: bool
    connections: tuple[Connection, ...] = ()
    problem: str = ""
