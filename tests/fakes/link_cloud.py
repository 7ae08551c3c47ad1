"""A cloud in memory, for what plans and the reconciler decide: it does what steps say, and can fail around them."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from itertools import count

from isthmus.kit.errors import IsthmusError
from isthmus.link import names, steps
from isthmus.link.endpoints import (
    CustomerStatus,
    EndpointSpec,
    EndpointStatus,
    ForeignZone,
    Network,
    NetworkLinkStatus,
    RecordStatus,
    ZoneStatus,
)
from isthmus.link.errors import ChangedMeanwhileError
from isthmus.link.states import ConnectionState
from isthmus.link.steps import CustomerStep

SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
HOST = names.parse_host("clabcdefgh2.external.example.com")
SIBLING = names.parse_host("clzyxwvuts3.external.example.com")
ALIAS = "ingress.00000000-0000-0000-0000-000000000002.westeurope.azure.privatelinkservice"


def id_of(path: str, group: str = "rg") -> str:
    return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers/Microsoft.Network/{path}"


NETWORK = id_of("virtualNetworks/net")
SUBNET = f"{NETWORK}/subnets/agents"


def spec(**more: object) -> EndpointSpec:
    asked = {
        "endpoint_id": id_of("privateEndpoints/isthmus-privatelink"),
        "alias": ALIAS,
        "location": "westeurope",
        "subnet_id": SUBNET,
        "host": HOST,
        "networks": (NETWORK,),
        "zone_group": "rg",
        **more,
    }
    return EndpointSpec(**asked)  # type: ignore[arg-type]


@dataclass
class FakeCloud:
    """One customer's resources. ``failures`` come before steps are done, ``lost`` after, one a step."""

    is_registered: bool = True
    is_visible: bool = True
    endpoint: EndpointStatus | None = None
    zone: ZoneStatus | None = None
    foreign_zones: tuple[ForeignZone, ...] = ()
    first_state: ConnectionState = ConnectionState.PENDING
    failures: list[IsthmusError] = field(default_factory=list)
    lost: list[IsthmusError] = field(default_factory=list)
    look_failures: list[IsthmusError] = field(default_factory=list)
    applied: list[CustomerStep] = field(default_factory=list)
    looks: int = 0
    is_deaf: bool = False
    _numbers: Iterator[int] = field(default_factory=lambda: count(4))

    async def observe_endpoint(self, spec: EndpointSpec) -> CustomerStatus:
        self.looks += 1
        if self.look_failures:
            raise self.look_failures.pop(0)
        return self.status()

    def status(self) -> CustomerStatus:
        is_visible = self.is_visible if self.endpoint is None else None
        return CustomerStatus(self.is_registered, is_visible, self.endpoint, self.zone, self.foreign_zones)

    async def apply_customer(self, step: CustomerStep) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.applied.append(step)
        if not self.is_deaf:
            self.do(step)
        if self.lost:
            raise self.lost.pop(0)

    async def find_endpoint(self, endpoint_id: str) -> EndpointStatus | None:
        if self.look_failures:
            raise self.look_failures.pop(0)
        return self.endpoint

    async def list_endpoints(self, subscription: str) -> tuple[EndpointStatus, ...]:
        return (self.endpoint,) if self.endpoint else ()

    async def find_network(self, network_id: str) -> Network:
        return Network(network_id, "westeurope", ("agents",))

    async def list_subscriptions(self) -> tuple[str, ...]:
        return (SUBSCRIPTION,)

    def do(self, step: CustomerStep) -> None:
        """What Azure would do, as far as plans can see it."""
        match step:
            case steps.RegisterProvider():
                self.is_registered = True
            case steps.CreateEndpoint(spec):
                assert self.is_registered
                self.endpoint = self.endpoint or EndpointStatus(
                    spec.endpoint_id,
                    spec.alias,
                    spec.location,
                    spec.subnet_id,
                    spec.address or IPv4Address(f"10.1.0.{next(self._numbers)}"),
                    self.first_state,
                    owner=spec.cluster_id,
                    host=str(spec.host),
                    zone_id=spec.zone_id,
                )
            case steps.DeleteEndpoint():
                self.endpoint = None
            case steps.CreateZone(zone_id, cluster_id):
                if self.zone is not None:
                    raise _changed("the zone is there")
                self.zone = ZoneStatus(zone_id, cluster_id)
            case steps.UnlinkNetwork(link_id) if link_id in {one.link_id for one in self.foreign_zones}:
                self.foreign_zones = tuple(one for one in self.foreign_zones if one.link_id != link_id)
            case steps.UnlinkNetwork() | steps.LinkNetwork() | steps.PutRecord() | steps.DeleteRecord():
                assert self.zone is not None
                self.zone = _changed_zone(self.zone, step)
            case steps.DeleteZone():
                assert self.zone is not None
                assert not self.zone.links
                self.zone = None
            case _:
                raise AssertionError(step)

    def decide(self, state: ConnectionState) -> None:
        assert self.endpoint is not None
        self.endpoint = replace(self.endpoint, state=state)


def _changed_zone(zone: ZoneStatus, step: CustomerStep) -> ZoneStatus:
    match step:
        case steps.PutRecord(_, _, address, _, cluster_id, etag):
            assert address is not None
            if etag != (zone.record.etag if zone.record else ""):
                raise _changed("the record is another")
            return replace(zone, record=RecordStatus((address,), cluster_id, f"etag-{address}"))
        case steps.DeleteRecord():
            return replace(zone, record=None)
        case steps.LinkNetwork(_, network, cluster_id):
            link = NetworkLinkStatus(
                f"{zone.zone_id}/virtualNetworkLinks/{names.link_name(network)}", network, cluster_id
            )
            return replace(zone, links=(*zone.links, link))
        case steps.UnlinkNetwork(link_id):
            return replace(zone, links=tuple(one for one in zone.links if one.link_id != link_id))
        case _:
            raise AssertionError(step)


def _changed(what: str) -> ChangedMeanwhileError:
    return ChangedMeanwhileError(what, code="changed_meanwhile")
