"""The customer's side of a link: an endpoint in a network, and the names that lead to it."""

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Final

from isthmus.link import names
from isthmus.link.states import ConnectionState

#: What an endpoint is called unless somebody chooses.
ENDPOINT_NAME: Final = "isthmus-privatelink"

#: The tag (of records: the metadata) that says that something is ours, and for which cluster.
OWNER_TAG: Final = "isthmus"
#: What an endpoint remembers for commands that name it alone.
HOST_TAG: Final = "isthmus-host"
ZONE_TAG: Final = "isthmus-zone"


class ZoneScope(StrEnum):
    """How wide the private zone is.

    CLUSTER: a zone of the cluster's host name with an apex record, which hides nothing else. DOMAIN: a zone of the
    domain with a record for the cluster, which hides every other public name of the domain in the linked networks.
    """

    CLUSTER = "cluster"
    DOMAIN = "domain"


@dataclass(frozen=True, slots=True)
class Network:
    """A virtual network: where it is, and the names of its subnets."""

    network_id: str
    location: str
    subnets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """What a customer wants. Ids are Azure resource ids.

    ``host`` is the cluster's name (``<cluster-id>.external.<domain>``). ``networks`` are linked with the zone: the
    endpoint's own and those that reach it over peering. ``zone_group`` is the zone's resource group, in the endpoint's
    subscription; ``address`` a static one.
    """

    endpoint_id: str
    alias: str
    location: str
    subnet_id: str
    host: names.ClusterHost
    networks: tuple[str, ...]
    zone_group: str
    zone_scope: ZoneScope = ZoneScope.CLUSTER
    message: str = ""
    address: IPv4Address | None = None
    ttl_seconds: int = 60

    @property
    def cluster_id(self) -> str:
        """What our tags say: who these resources are for."""
        return self.host.cluster_id

    @property
    def tags(self) -> dict[str, str]:
        """The endpoint's tags."""
        return {OWNER_TAG: self.cluster_id, HOST_TAG: str(self.host), ZONE_TAG: self.zone_id}

    @property
    def subscription(self) -> str:
        """The endpoint's, and the zone's."""
        return names.parse_id(self.endpoint_id).subscription

    @property
    def zone_id(self) -> str:
        """The private zone."""
        return str(names.ResourceId(self.subscription, self.zone_group, names.ZONE, (self.zone_name,)))

    @property
    def zone_name(self) -> str:
        """The private zone's name."""
        return str(self.host) if self.zone_scope is ZoneScope.CLUSTER else self.host.zone

    @property
    def record_name(self) -> str:
        """The A record in it."""
        return "@" if self.zone_scope is ZoneScope.CLUSTER else self.host.cluster_id


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """An endpoint that is there.

    ``address`` is its interface's, known while the connection is still pending. ``owner`` is the cluster that our tag
    names, empty for an endpoint of somebody else's; ``host`` and ``zone_id`` are what our other tags remember.
    ``is_settled`` is false while the cloud still works on it; ``problem`` is the cloud's word when that failed.
    """

    endpoint_id: str
    alias: str
    location: str
    subnet_id: str
    address: IPv4Address | None
    state: ConnectionState
    reason: str = ""
    owner: str = ""
    host: str = ""
    zone_id: str = ""
    is_settled: bool = True
    problem: str = ""


@dataclass(frozen=True, slots=True)
class RecordStatus:
    """An A record that is there."""

    addresses: tuple[IPv4Address, ...]
    owner: str
    etag: str


@dataclass(frozen=True, slots=True)
class NetworkLinkStatus:
    """A network link that is there."""

    link_id: str
    network_id: str
    owner: str
    is_settled: bool = True


@dataclass(frozen=True, slots=True)
class ZoneStatus:
    """The private zone that is there, with our record and everybody's links.

    ``other_records`` are names of further records, which a wide zone may need.
    """

    zone_id: str
    owner: str
    record: RecordStatus | None = None
    links: tuple[NetworkLinkStatus, ...] = ()
    other_records: tuple[str, ...] = ()
    is_settled: bool = True


@dataclass(frozen=True, slots=True)
class ForeignZone:
    """Another zone that already answers in one of the networks, for the host or for all of its domain.

    ``link_id`` is its network link, ``owner`` the cluster that Isthmus made that link for; empty if it was not us.
    """

    zone_id: str
    network_id: str
    link_id: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True)
class CustomerStatus:
    """All that a plan for an endpoint begins with.

    ``is_visible`` is the visibility check of the alias, None where it was not made: the endpoint is there, or the
    check is not permitted. ``foreign_zones`` are found in the subscriptions of the endpoint and of its networks.
    """

    is_registered: bool
    is_visible: bool | None
    endpoint: EndpointStatus | None
    zone: ZoneStatus | None
    foreign_zones: tuple[ForeignZone, ...] = ()
