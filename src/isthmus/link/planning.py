"""What to do about a difference: spec and status -> a plan. Pure.

A plan has the steps that are left, in order, warnings that stop nothing, and blocks: with one of these nothing is done
until somebody changes something. A plan without steps and blocks says that all is as it was asked for.

Two rules give the customer's side its order. A name that leads somewhere leads there until the connection is approved,
because a pending endpoint answers nothing: networks are linked last, and a record that is answered already is changed
only then. And what is taken away goes the other way round: networks first, so that the public name is back at once.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Generic, TypeVar, assert_never

from isthmus.link import names, states, steps
from isthmus.link.endpoints import (
    CustomerStatus,
    EndpointSpec,
    EndpointStatus,
    ForeignZone,
    ZoneScope,
    ZoneStatus,
)
from isthmus.link.services import EVERYBODY, MAX_NAT_ADDRESSES, ProviderStatus, ServiceSpec, ServiceStatus
from isthmus.link.states import ConnectionState
from isthmus.link.steps import CustomerStep, ProviderStep

S = TypeVar("S", CustomerStep, ProviderStep)


class Caution(StrEnum):
    """What to know before agreeing to a plan."""

    HIDES_NAMES = "zone_hides_names"
    HIDES_CLUSTER = "zone_hides_cluster"
    SHARED_ZONE = "zone_is_shared"
    SEVERAL_ADDRESSES = "record_has_several_addresses"
    ENDPOINT_NOT_OURS = "endpoint_not_ours"
    VISIBILITY_UNKNOWN = "alias_visibility_unknown"
    STATE_UNKNOWN = "connection_state_unknown"
    KEPT = "kept"
    NAME_VANISHES = "name_vanishes"
    CUSTOMERS_CUT = "customers_cut"


class Obstacle(StrEnum):
    """What somebody has to change first."""

    PROVIDER_NOT_REGISTERED = "provider_not_registered"
    ALIAS_NOT_VISIBLE = "alias_not_visible"
    ENDPOINT_DIFFERS = "endpoint_differs"
    ENDPOINT_NOT_OURS = "endpoint_not_ours"
    ENDPOINT_FAILED = "endpoint_failed"
    CONNECTION_REJECTED = "connection_rejected"
    CONNECTION_DISCONNECTED = "connection_disconnected"
    CONNECTION_EXPIRED = "connection_expired"
    ZONE_LINKED_ELSEWHERE = "zone_linked_elsewhere"
    ZONE_HIDDEN = "zone_hidden"
    RECORD_POINTS_ELSEWHERE = "record_points_elsewhere"
    SERVICE_DIFFERS = "service_differs"
    SERVICE_NOT_OURS = "service_not_ours"
    SERVICE_FAILED = "service_failed"
    NAT_ADDRESSES_STAY = "nat_addresses_stay"
    NAT_ADDRESSES_OUT_OF_RANGE = "nat_addresses_out_of_range"
    APPROVED_BUT_INVISIBLE = "approved_but_invisible"
    CUSTOMERS_CONNECTED = "customers_connected"


@dataclass(frozen=True, slots=True)
class Warned:
    """Something to know. ``code`` is stable."""

    code: Caution
    sentence: str


@dataclass(frozen=True, slots=True)
class Block:
    """Something in the way, and what to do about it. ``code`` is stable."""

    code: Obstacle
    sentence: str
    hint: str


@dataclass(frozen=True, slots=True)
class Plan(Generic[S]):
    """The way from what is there to what was asked for."""

    steps: tuple[S, ...] = ()
    warnings: tuple[Warned, ...] = ()
    blocks: tuple[Block, ...] = ()

    @property
    def is_done(self) -> bool:
        """Whether all is as it was asked for."""
        return not self.steps and not self.blocks


@dataclass(frozen=True, slots=True)
class Permissions:
    """What a plan may contain. ``siblings`` are hosts of the organization's other clusters, if they are known."""

    #: Register the subscription for Microsoft.Network.
    may_register: bool = True
    #: Delete our endpoint and create it again, where nothing else helps.
    may_recreate: bool = False
    #: Unlink a network from another zone of the host's that Isthmus linked it with, and link it with this one.
    may_move: bool = False
    #: Take a link service away from customers that are connected.
    may_disconnect: bool = False
    siblings: tuple[names.ClusterHost, ...] = ()


DEFAULTS: Final = Permissions()

_RECREATE: Final = "Create it again with --recreate: the provider has to approve it anew, and its address may change."


# --- the customer's side -------------------------------------------------------------------------------------------


def plan_endpoint(spec: EndpointSpec, status: CustomerStatus, allowed: Permissions = DEFAULTS) -> Plan[CustomerStep]:
    """The way to an endpoint that the host leads to, in all networks."""
    return Plan(
        steps=tuple(_endpoint_steps(spec, status, allowed)),
        warnings=tuple(_endpoint_warnings(spec, status, allowed)),
        blocks=tuple(_endpoint_blocks(spec, status, allowed)),
    )


def _endpoint_steps(spec: EndpointSpec, status: CustomerStatus, allowed: Permissions) -> Iterator[CustomerStep]:
    endpoint, zone = status.endpoint, status.zone
    if not status.is_registered:
        yield steps.RegisterProvider(spec.subscription)
    if endpoint is not None and _needs_recreation(spec, endpoint):
        yield steps.DeleteEndpoint(endpoint.endpoint_id)
        endpoint = None
    if endpoint is None:
        yield steps.CreateEndpoint(spec)
    elif not endpoint.is_settled or endpoint.address is None:
        yield steps.AwaitCloud(endpoint.endpoint_id)
    if zone is None:
        yield steps.CreateZone(spec.zone_id, spec.cluster_id)
    elif not zone.is_settled:
        yield steps.AwaitCloud(zone.zone_id)
    record = tuple(_record_steps(spec, endpoint, zone))
    is_answered = zone is not None and bool(zone.links)
    if not is_answered:
        yield from record
    if endpoint is None or endpoint.state is not ConnectionState.APPROVED:
        yield steps.AwaitApproval(spec.endpoint_id)
    if is_answered:
        yield from record
    movable = {names.key(one.network_id): one for one in status.foreign_zones if _is_movable(spec, one, allowed)}
    yield from _link_steps(spec, zone, movable)


def _is_movable(spec: EndpointSpec, foreign: ForeignZone, allowed: Permissions) -> bool:
    """Whether a network may be taken from another zone of the host's."""
    is_the_same = names.parse_id(foreign.zone_id).name.lower() == spec.zone_name.lower()
    return allowed.may_move and is_the_same and foreign.owner == spec.cluster_id


def _record_steps(
    spec: EndpointSpec, endpoint: EndpointStatus | None, zone: ZoneStatus | None
) -> Iterator[CustomerStep]:
    address = endpoint.address if endpoint is not None else spec.address
    record = zone.record if zone is not None else None
    has_it = record is not None and address is not None and address in record.addresses
    if has_it and (record is None or record.owner != spec.cluster_id or len(record.addresses) == 1):
        return
    yield steps.PutRecord(
        spec.zone_id,
        spec.record_name,
        address,
        spec.ttl_seconds,
        spec.cluster_id,
        etag=record.etag if record is not None else "",
    )


def _link_steps(
    spec: EndpointSpec, zone: ZoneStatus | None, movable: Mapping[str, ForeignZone]
) -> Iterator[CustomerStep]:
    linked = {names.key(one.network_id): one for one in (zone.links if zone is not None else ())}
    for network in spec.networks:
        link = linked.get(names.key(network))
        if (foreign := movable.get(names.key(network))) is not None:
            yield steps.UnlinkNetwork(foreign.link_id, network)
        if link is None:
            yield steps.LinkNetwork(spec.zone_id, network, spec.cluster_id)
        elif not link.is_settled:
            yield steps.AwaitCloud(link.link_id)


def _differences(spec: EndpointSpec, endpoint: EndpointStatus) -> Iterator[str]:
    """What is there in another way than asked, and stays as it was made."""
    if not names.are_same(endpoint.alias, spec.alias):
        yield f"leads to {endpoint.alias or 'a service without an alias'}, not to {spec.alias}"
    if not names.are_same(endpoint.subnet_id, spec.subnet_id):
        yield f"is in subnet {endpoint.subnet_id}, not in {spec.subnet_id}"
    if spec.address is not None and endpoint.address not in (None, spec.address):
        yield f"has address {endpoint.address}, not {spec.address}"


def _needs_recreation(spec: EndpointSpec, endpoint: EndpointStatus) -> bool:
    """Whether only another endpoint helps."""
    is_broken = bool(endpoint.problem) and endpoint.state is not ConnectionState.APPROVED
    return states.is_final(endpoint.state) or is_broken or any(_differences(spec, endpoint))


def _endpoint_blocks(spec: EndpointSpec, status: CustomerStatus, allowed: Permissions) -> Iterator[Block]:
    if not status.is_registered and not allowed.may_register:
        yield _unregistered(spec.subscription)
    if status.endpoint is None and status.is_visible is False:
        yield Block(
            Obstacle.ALIAS_NOT_VISIBLE,
            f"No link service that subscription {spec.subscription} may see has the alias {spec.alias}",
            "Compare it with what the provider shows; ask the provider to make the service visible to this "
            "subscription, and to approve it if the list of those is closed.",
        )
    if status.endpoint is not None:
        yield from _present_endpoint_blocks(spec, status.endpoint, allowed)
    yield from _zone_blocks(spec, status, allowed)


def _present_endpoint_blocks(spec: EndpointSpec, endpoint: EndpointStatus, allowed: Permissions) -> Iterator[Block]:
    name = names.parse_id(endpoint.endpoint_id).name
    if endpoint.owner not in ("", spec.cluster_id):
        yield Block(
            Obstacle.ENDPOINT_NOT_OURS,
            f"Endpoint {name} is there, for cluster {endpoint.owner}",
            "Choose another name with --name: each cluster has an endpoint of its own.",
        )
        return
    if not _needs_recreation(spec, endpoint):
        return
    if not endpoint.owner:
        what = next(_differences(spec, endpoint), f"is {endpoint.state}")
        yield Block(
            Obstacle.ENDPOINT_NOT_OURS,
            f"Endpoint {name} is there, is not ours, and {what}",
            "Choose another name with --name, or delete it yourself.",
        )
    elif not allowed.may_recreate:
        yield _why_recreate(spec, endpoint, name)


def _why_recreate(spec: EndpointSpec, endpoint: EndpointStatus, name: str) -> Block:
    reason = f": {endpoint.reason}" if endpoint.reason else ""
    different = next(_differences(spec, endpoint), None)
    if different is not None:
        return Block(Obstacle.ENDPOINT_DIFFERS, f"Endpoint {name} {different}", _RECREATE)
    match endpoint.state:
        case ConnectionState.REJECTED:
            return Block(
                Obstacle.CONNECTION_REJECTED,
                f"The provider has rejected the connection of endpoint {name}{reason}",
                f"A rejected connection stays rejected. {_RECREATE}",
            )
        case ConnectionState.DISCONNECTED:
            return Block(
                Obstacle.CONNECTION_DISCONNECTED,
                f"The provider has removed the connection of endpoint {name}{reason}",
                f"A removed connection does not come back. {_RECREATE}",
            )
        case ConnectionState.EXPIRED:
            return Block(
                Obstacle.CONNECTION_EXPIRED,
                f"Nobody has decided about endpoint {name} within {states.PENDING_LIFETIME.days} days",
                _RECREATE,
            )
        case ConnectionState.PENDING | ConnectionState.APPROVED | ConnectionState.UNKNOWN:
            return Block(
                Obstacle.ENDPOINT_FAILED,
                f"The cloud could not make endpoint {name}: {endpoint.problem}",
                _RECREATE,
            )
        case _:
            assert_never(endpoint.state)


def _zone_blocks(spec: EndpointSpec, status: CustomerStatus, allowed: Permissions) -> Iterator[Block]:
    wanted = {names.key(one) for one in spec.networks}
    for foreign in status.foreign_zones:
        if names.key(foreign.network_id) not in wanted or _is_movable(spec, foreign, allowed):
            continue
        zone, network = names.parse_id(foreign.zone_id), names.parse_id(foreign.network_id).name
        if zone.name.lower() == spec.zone_name.lower():
            yield Block(
                Obstacle.ZONE_LINKED_ELSEWHERE,
                f"Network {network} is linked with another zone {zone.name}, in resource group {zone.group}",
                "A network can have one zone of a name: "
                + (
                    "take the network over to this one with --move-networks."
                    if foreign.owner == spec.cluster_id
                    else f"put the record into that one (--zone-resource-group {zone.group}), or unlink the network."
                ),
            )
        elif zone.name.lower() == str(spec.host).lower():
            yield Block(
                Obstacle.ZONE_HIDDEN,
                f"Network {network} is linked with zone {zone.name}, in resource group {zone.group}, which is narrower "
                f"than {spec.zone_name} and answers first",
                f"Use that one (--zone-scope cluster --zone-resource-group {zone.group}), or unlink the network.",
            )
    record = status.zone.record if status.zone is not None else None
    if record is None or record.owner == spec.cluster_id or _is_expected(spec, status.endpoint, record.addresses):
        return
    addresses = ", ".join(map(str, record.addresses)) or "no address"
    yield Block(
        Obstacle.RECORD_POINTS_ELSEWHERE,
        f"Record {spec.record_name} of zone {spec.zone_name} is there, is not ours, and points to {addresses}",
        "Delete it if nobody needs it any more, or use another zone (--zone-scope, --zone-resource-group).",
    )


def _is_expected(spec: EndpointSpec, endpoint: EndpointStatus | None, addresses: Collection[object]) -> bool:
    """Whether somebody else's record says what ours would."""
    if endpoint is not None and endpoint.address is None:
        return True  # not known yet: it is looked at again before anything is changed
    return (endpoint.address if endpoint is not None else spec.address) in addresses


def _endpoint_warnings(spec: EndpointSpec, status: CustomerStatus, allowed: Permissions) -> Iterator[Warned]:
    endpoint, zone = status.endpoint, status.zone
    if spec.zone_scope is ZoneScope.DOMAIN:
        yield from _wide_warnings(spec, zone, allowed.siblings)
    if endpoint is None and status.is_visible is None:
        yield Warned(
            Caution.VISIBILITY_UNKNOWN,
            f"Whether this subscription may see {spec.alias} could not be checked beforehand",
        )
    if endpoint is not None and not endpoint.owner:
        name = names.parse_id(endpoint.endpoint_id).name
        yield Warned(Caution.ENDPOINT_NOT_OURS, f"Endpoint {name} was there before: it is used, and never deleted")
    if endpoint is not None and endpoint.state is ConnectionState.UNKNOWN:
        yield Warned(
            Caution.STATE_UNKNOWN,
            f"The connection has a state that this version does not know ({endpoint.reason or 'it has no name'})",
        )
    if zone is not None and not zone.owner:
        yield Warned(
            Caution.SHARED_ZONE,
            f"Zone {spec.zone_name} was there before: it gets our record and links, and is never deleted",
        )
    if zone is not None and zone.record is not None and len(zone.record.addresses) > 1:
        listed = ", ".join(map(str, zone.record.addresses))
        yield Warned(
            Caution.SEVERAL_ADDRESSES,
            f"Record {spec.record_name} of zone {spec.zone_name} has several addresses ({listed}): agents use any",
        )


def _wide_warnings(
    spec: EndpointSpec, zone: ZoneStatus | None, siblings: Iterable[names.ClusterHost]
) -> Iterator[Warned]:
    yield Warned(
        Caution.HIDES_NAMES,
        f"In the linked networks zone {spec.zone_name} hides every public name below it that it has no record for; a "
        "zone of the cluster alone (--zone-scope cluster) hides nothing else",
    )
    present = {one.lower() for one in (zone.other_records if zone is not None else ())}
    for sibling in siblings:
        is_covered = sibling.cluster_id in present or sibling.cluster_id == spec.cluster_id
        if sibling.zone == spec.zone_name and not is_covered:
            yield Warned(
                Caution.HIDES_CLUSTER,
                f"Cluster {sibling.cluster_id} has no record in zone {spec.zone_name}: {sibling} will not resolve in "
                "the linked networks",
            )


def plan_removal(spec: EndpointSpec, status: CustomerStatus) -> Plan[CustomerStep]:
    """The way back, for what is ours; the rest stays, with a warning."""
    return Plan(
        steps=tuple(_removal_steps(spec, status)),
        warnings=tuple(_removal_warnings(spec, status)),
        blocks=tuple(_removal_blocks(spec, status)),
    )


def _removal_steps(spec: EndpointSpec, status: CustomerStatus) -> Iterator[CustomerStep]:
    zone, endpoint = status.zone, status.endpoint
    if zone is not None:
        is_last = not zone.other_records and not _keeps_record(spec, zone)
        ours = [link for link in zone.links if link.owner]
        if is_last:
            yield from (steps.UnlinkNetwork(one.link_id, one.network_id) for one in ours)
        if zone.record is not None and zone.record.owner == spec.cluster_id:
            yield steps.DeleteRecord(zone.zone_id, spec.record_name, zone.record.etag)
        if is_last and zone.owner and len(ours) == len(zone.links):
            yield steps.DeleteZone(zone.zone_id)
    if endpoint is not None and endpoint.owner == spec.cluster_id:
        yield steps.DeleteEndpoint(endpoint.endpoint_id)


def _keeps_record(spec: EndpointSpec, zone: ZoneStatus) -> bool:
    """Whether our record's place holds somebody else's."""
    return zone.record is not None and zone.record.owner != spec.cluster_id


def _removal_blocks(spec: EndpointSpec, status: CustomerStatus) -> Iterator[Block]:
    endpoint = status.endpoint
    if endpoint is not None and endpoint.owner not in ("", spec.cluster_id):
        yield Block(
            Obstacle.ENDPOINT_NOT_OURS,
            f"Endpoint {names.parse_id(endpoint.endpoint_id).name} is cluster {endpoint.owner}'s",
            "Name the endpoint of this cluster with --name.",
        )


def _removal_warnings(spec: EndpointSpec, status: CustomerStatus) -> Iterator[Warned]:
    zone, endpoint = status.zone, status.endpoint
    if endpoint is not None and not endpoint.owner:
        name = names.parse_id(endpoint.endpoint_id).name
        yield Warned(Caution.KEPT, f"Endpoint {name} is not ours: it stays")
    if zone is None:
        return
    if _keeps_record(spec, zone):
        yield Warned(Caution.KEPT, f"Record {spec.record_name} of zone {spec.zone_name} is not ours: it stays")
    if not zone.owner:
        yield Warned(Caution.KEPT, f"Zone {spec.zone_name} is not ours: it stays")
    elif zone.other_records:
        listed = ", ".join(zone.other_records)
        yield Warned(Caution.KEPT, f"Zone {spec.zone_name} has other records ({listed}): it stays, with its links")
    kept = zone.links if zone.other_records else [one for one in zone.links if not one.owner]
    if kept and zone.record is not None and zone.record.owner == spec.cluster_id:
        listed = ", ".join(names.parse_id(one.network_id).name for one in kept)
        yield Warned(
            Caution.NAME_VANISHES,
            f"Networks that stay linked ({listed}) will not find {spec.host} at all: zone {spec.zone_name} hides its "
            "public address from them",
        )


def _unregistered(subscription: str) -> Block:
    return Block(
        Obstacle.PROVIDER_NOT_REGISTERED,
        f"Subscription {subscription} is not registered for Microsoft.Network",
        f"az provider register --namespace Microsoft.Network --subscription {subscription}",
    )


# --- the provider's side -------------------------------------------------------------------------------------------


def plan_service(spec: ServiceSpec, status: ProviderStatus, allowed: Permissions = DEFAULTS) -> Plan[ProviderStep]:
    """The way to a link service in front of the ingress."""
    return Plan(steps=tuple(_service_steps(spec, status)), blocks=tuple(_service_blocks(spec, status, allowed)))


def _service_steps(spec: ServiceSpec, status: ProviderStatus) -> Iterator[ProviderStep]:
    service = status.service
    if not status.is_registered:
        yield steps.RegisterProvider(names.parse_id(spec.service_id).subscription)
    if status.has_subnet_policies:
        yield steps.DisableSubnetPolicies(spec.nat_subnet_id)
    if service is None:
        yield steps.CreateService(spec)
    elif not service.is_settled:
        yield steps.AwaitCloud(service.service_id)
    elif changes := tuple(_service_changes(spec, service)):
        yield steps.ChangeService(spec, changes)


def _service_changes(spec: ServiceSpec, service: ServiceStatus) -> Iterator[str]:
    if _listed(spec.visible_to) != _listed(service.visible_to):
        yield f"visible to {_shown(spec.visible_to)}"
    if _listed(spec.approved_at_once) != _listed(service.approved_at_once):
        yield f"approve at once {_shown(spec.approved_at_once)}"
    if spec.has_proxy_protocol != service.has_proxy_protocol:
        yield f"PROXY v2 {'on' if spec.has_proxy_protocol else 'off'}"
    if spec.nat_addresses > len(service.nat_addresses):
        yield f"{spec.nat_addresses} NAT addresses"


def _listed(subscriptions: Iterable[str]) -> frozenset[str]:
    return frozenset(one.lower() for one in subscriptions)


def _shown(subscriptions: Collection[str]) -> str:
    return "everybody" if EVERYBODY in subscriptions else ", ".join(subscriptions) or "nobody"


def _service_blocks(spec: ServiceSpec, status: ProviderStatus, allowed: Permissions) -> Iterator[Block]:
    if not status.is_registered and not allowed.may_register:
        yield _unregistered(names.parse_id(spec.service_id).subscription)
    if not 1 <= spec.nat_addresses <= MAX_NAT_ADDRESSES:
        yield Block(
            Obstacle.NAT_ADDRESSES_OUT_OF_RANGE,
            f"A link service cannot have {spec.nat_addresses} NAT addresses",
            f"Ask for 1 to {MAX_NAT_ADDRESSES}.",
        )
    visible = _listed(spec.visible_to)
    if EVERYBODY not in visible and (unseen := sorted(_listed(spec.approved_at_once) - visible)):
        yield Block(
            Obstacle.APPROVED_BUT_INVISIBLE,
            f"{', '.join(unseen)} would be approved at once, and cannot see the link service",
            "Make it visible to them as well.",
        )
    if status.service is not None:
        yield from _present_service_blocks(spec, status.service)


def _present_service_blocks(spec: ServiceSpec, service: ServiceStatus) -> Iterator[Block]:
    name = names.parse_id(service.service_id).name
    if service.owner != spec.cluster_id:
        whose = f"cluster {service.owner}'s" if service.owner else "not ours"
        yield Block(
            Obstacle.SERVICE_NOT_OURS,
            f"Link service {name} is there, and is {whose}",
            "Choose another name: each cluster has a link service of its own.",
        )
        return
    for what, had, asked in (
        ("frontend", service.frontend_id, spec.frontend_id),
        ("subnet", service.nat_subnet_id, spec.nat_subnet_id),
    ):
        if not names.are_same(had, asked):
            yield Block(
                Obstacle.SERVICE_DIFFERS,
                f"Link service {name} has {what} {had}, not {asked}",
                "Neither can be changed: unpublish and publish again, which gives it another alias and cuts all "
                "customers, or publish under another name and move them.",
            )
    if service.is_settled and service.problem:
        yield Block(
            Obstacle.SERVICE_FAILED,
            f"The cloud could not make link service {name}: {service.problem}",
            "Unpublish it and publish again.",
        )
    if service.is_settled and len(service.nat_addresses) > spec.nat_addresses:
        yield Block(
            Obstacle.NAT_ADDRESSES_STAY,
            f"Link service {name} has {len(service.nat_addresses)} NAT addresses, and keeps them",
            "Azure removes none of several: ask for as many as there are.",
        )


def plan_unpublishing(spec: ServiceSpec, status: ProviderStatus, allowed: Permissions = DEFAULTS) -> Plan[ProviderStep]:
    """The way to no link service. Subnet policies stay as they are: another service may need them so."""
    service = status.service
    if service is None:
        return Plan()
    name = names.parse_id(service.service_id).name
    if service.owner != spec.cluster_id:
        block = Block(Obstacle.SERVICE_NOT_OURS, f"Link service {name} is not ours: it stays", "Delete it yourself.")
        return Plan(blocks=(block,))
    approved = [one for one in service.connections if one.state is ConnectionState.APPROVED]
    removals: list[ProviderStep] = [
        steps.RemoveConnection(service.service_id, one.name, one.endpoint_id) for one in service.connections
    ]
    warnings = [Warned(Caution.CUSTOMERS_CUT, f"Endpoint {one.endpoint_id} loses its connection") for one in approved]
    blocks = []
    if approved and not allowed.may_disconnect:
        blocks = [
            Block(
                Obstacle.CUSTOMERS_CONNECTED,
                f"{len(approved)} approved connection{'s' if len(approved) > 1 else ''} would be cut for good",
                "Move these customers first, or force it.",
            )
        ]
    return Plan((*removals, steps.DeleteService(service.service_id)), tuple(warnings), tuple(blocks))
