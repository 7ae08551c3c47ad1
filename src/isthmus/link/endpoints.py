"""The customer's side of a link: an endpoint in a network, and the names that lead to it."""

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Final

from isthmus.link.states import ConnectionState

#: What an endpoint is called unless somebody chooses.
ENDPOINT_NAME: Final = "isthmus-privatelink"


class ZoneScope(StrEnum):
    """How wide the private zone is.

    CLUSTER: a zone of the cluster's host name with an apex record, which hides nothing else. DOMAIN: a zone of the
    domain with a record for the cluster, which hides every other public name of the domain in the linked networks.
    """

    CLUSTER = "cluster"
    DOMAIN = "domain"


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """What a customer wants. Ids are Azure resource ids.

    ``host`` is the cluster's name (``<cluster-id>.external.<domain>``). ``networks`` are linked with the zone: the
    endpoint's own and those that reach it over peering. ``zone_group`` is the zone's resource group; ``address`` a
    static one.
    """

    endpoint_id: str
    alias: str
    location: str
    subnet_id: str
    host: str
    networks: tuple[str, ...]
    zone_group: str
    zone_scope: ZoneScope = ZoneScope.CLUSTER
    message: str = ""
    address: IPv4Address | None = None
    ttl_seconds: int = 60

    @property
    def zone_name(self) -> str:
        """The private zone."""
        return self.host if self.zone_scope is ZoneScope.CLUSTER else self.host.partition(".")[2]

    @property
    def record_name(self) -> str:
        """The A record in it."""
        return "@" if self.zone_scope is ZoneScope.CLUSTER else self.host.partition(".")[0]


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """An endpoint that is there. ``address`` is its interface's, known while the connection is still pending."""

    endpoint_id: str
    alias: str
    subnet_id: str
    address: IPv4Address | None
    state: ConnectionState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ZoneStatus:
    """The private zone that is there: the record's addresses (empty: no record), and the networks linked with it.

    ``other_records`` are names of further records, which a wide zone may need; ``is_ours`` says that it has our tag.
    """

    zone_id: str
    record: tuple[IPv4Address, ...]
    networks: tuple[str, ...]
    other_records: tuple[str, ...] = ()
    is_ours: bool = True


@dataclass(frozen=True, slots=True)
class CustomerStatus:
    """All that a plan for an endpoint begins with.

    ``is_visible`` is the visibility check of the alias; ``foreign_zones`` are other zones of the same name that already
    answer in one of the networks, by network id: a network can be linked with one of them alone.
    """

    is_registered: bool
    is_visible: bool
    endpoint: EndpointStatus | None
    zone: ZoneStatus | None
    foreign_zones: tuple[tuple[str, str], ...] = ()
