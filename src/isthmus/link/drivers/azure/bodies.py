"""Azure's bodies, to and from our types. Pure.

Bodies are the API's own JSON, of the versions that the pinned SDK asks for. What is read tolerates members that are
missing: Azure leaves out what is empty, and shows less to who may see less.
"""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address
from typing import Any, Final

from isthmus.link import names
from isthmus.link.endpoints import (
    HOST_TAG,
    OWNER_TAG,
    ZONE_TAG,
    EndpointSpec,
    EndpointStatus,
    NetworkLinkStatus,
    RecordStatus,
)
from isthmus.link.services import Connection, ServiceSpec, ServiceStatus
from isthmus.link.states import PENDING_LIFETIME, ConnectionState, Decision

Json = Mapping[str, Any]
Body = dict[str, Any]

#: How a rejection begins that was nobody's decision.
EXPIRED: Final = f"Expired: nobody decided within {PENDING_LIFETIME.days} days"

_STATES: Final = {
    "pending": ConnectionState.PENDING,
    "approved": ConnectionState.APPROVED,
    "rejected": ConnectionState.REJECTED,
    "disconnected": ConnectionState.DISCONNECTED,
    "removed": ConnectionState.DISCONNECTED,
}

_STATUSES: Final = {Decision.APPROVE: "Approved", Decision.REJECT: "Rejected", Decision.EXPIRE: "Rejected"}

_SETTLED: Final = {"succeeded", "failed", "canceled", ""}


def properties_of(body: Json) -> Json:
    """The properties of a resource, or none."""
    return body.get("properties") or {}


def owner_of(body: Json) -> str:
    """The cluster that our tag names; empty without our tag."""
    return str((body.get("tags") or {}).get(OWNER_TAG, ""))


def is_settled(body: Json) -> bool:
    """Whether no operation is at work on a resource."""
    return str(properties_of(body).get("provisioningState", "")).lower() in _SETTLED


def _problem(body: Json) -> str:
    state = str(properties_of(body).get("provisioningState", ""))
    return state if state.lower() in {"failed", "canceled"} else ""


def state_of(said: Json) -> tuple[ConnectionState, str]:
    """A connection's state and the words beside it. The status is a free text in Azure's specification."""
    status, description = str(said.get("status") or ""), str(said.get("description") or "")
    state = _STATES.get(status.lower(), ConnectionState.UNKNOWN)
    if state is ConnectionState.UNKNOWN:
        return state, ": ".join(part for part in (status, description) if part)
    if state is ConnectionState.REJECTED and description.startswith(EXPIRED):
        return ConnectionState.EXPIRED, description
    return state, description


# --- endpoints


def endpoint(spec: EndpointSpec) -> Body:
    """What makes an endpoint: by alias, so with a manual connection. A static address goes without group and member."""
    id = names.parse_id(spec.endpoint_id)  # noqa: A001
    properties: Body = {
        "subnet": {"id": spec.subnet_id},
        "manualPrivateLinkServiceConnections": [
            {
                "name": id.name,
                "properties": {
                    "privateLinkServiceId": spec.alias,
                    "groupIds": [],
                    "requestMessage": spec.message,
                },
            }
        ],
    }
    if spec.address is not None:
        properties["ipConfigurations"] = [
            {"name": f"{id.name}-address", "properties": {"privateIPAddress": str(spec.address)}}
        ]
    return {"location": spec.location, "tags": spec.tags, "properties": properties}


def read_endpoint(body: Json, address: IPv4Address | None) -> EndpointStatus:
    """An endpoint; ``address`` is its interface's."""
    properties, tags = properties_of(body), body.get("tags") or {}
    asked = [
        *(properties.get("manualPrivateLinkServiceConnections") or ()),
        *(properties.get("privateLinkServiceConnections") or ()),
    ]
    request = properties_of(asked[0]) if asked else {}
    state, reason = state_of(request.get("privateLinkServiceConnectionState") or {})
    return EndpointStatus(
        endpoint_id=str(body["id"]),
        alias=str(request.get("privateLinkServiceId", "")),
        location=str(body.get("location", "")),
        subnet_id=str((properties.get("subnet") or {}).get("id", "")),
        address=address,
        state=state,
        reason=reason,
        owner=owner_of(body),
        host=str(tags.get(HOST_TAG, "")),
        zone_id=str(tags.get(ZONE_TAG, "")),
        is_settled=is_settled(body),
        problem=_problem(body),
    )


def interface_of(body: Json) -> str | None:
    """The id of the first network interface of an endpoint or a link service."""
    interfaces = properties_of(body).get("networkInterfaces") or ()
    return str(interfaces[0]["id"]) if interfaces else None


def addresses_of(interface: Json) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses of a network interface."""
    found = (properties_of(one) for one in properties_of(interface).get("ipConfigurations") or ())
    return tuple(
        IPv4Address(one["privateIPAddress"])
        for one in found
        if one.get("privateIPAddress") and one.get("privateIPAddressVersion", "IPv4") == "IPv4"
    )


# --- zones


def zone(cluster_id: str) -> Body:
    """What makes a private zone."""
    return {"location": "global", "tags": {OWNER_TAG: cluster_id}}


def network_link(network_id: str, cluster_id: str) -> Body:
    """What links a network with a zone."""
    properties = {"virtualNetwork": {"id": network_id}, "registrationEnabled": False}
    return {"location": "global", "tags": {OWNER_TAG: cluster_id}, "properties": properties}


def read_network_link(body: Json) -> NetworkLinkStatus:
    """A network link."""
    network = properties_of(body).get("virtualNetwork") or {}
    return NetworkLinkStatus(str(body["id"]), str(network.get("id", "")), owner_of(body), is_settled(body))


def record(address: IPv4Address, ttl_seconds: int, cluster_id: str) -> Body:
    """What makes an A record."""
    records = [{"ipv4Address": str(address)}]
    return {"properties": {"ttl": ttl_seconds, "aRecords": records, "metadata": {OWNER_TAG: cluster_id}}}


def read_record(body: Json) -> RecordStatus:
    """An A record."""
    properties = properties_of(body)
    found = (one.get("ipv4Address") for one in properties.get("aRecords") or ())
    return RecordStatus(
        tuple(IPv4Address(one) for one in found if one),
        str((properties.get("metadata") or {}).get(OWNER_TAG, "")),
        str(body.get("etag", "")),
    )


def record_kind(body: Json) -> str:
    """``A``, ``SOA``, ...: the last word of the record set's type."""
    return str(body.get("type", "")).rpartition("/")[2].upper()


# --- link services


def service(spec: ServiceSpec) -> Body:
    """What makes a link service."""
    properties = {
        "loadBalancerFrontendIpConfigurations": [{"id": spec.frontend_id}],
        "ipConfigurations": _nat_configurations(spec, ()),
        "visibility": {"subscriptions": list(spec.visible_to)},
        "autoApproval": {"subscriptions": list(spec.approved_at_once)},
        "enableProxyProtocol": spec.has_proxy_protocol,
    }
    return {"location": spec.location, "tags": {OWNER_TAG: spec.cluster_id}, "properties": properties}


def changed_service(spec: ServiceSpec, body: Json) -> Body:
    """A link service as it is, with what of ``spec`` can be changed."""
    properties = {
        **properties_of(body),
        "visibility": {"subscriptions": list(spec.visible_to)},
        "autoApproval": {"subscriptions": list(spec.approved_at_once)},
        "enableProxyProtocol": spec.has_proxy_protocol,
        "ipConfigurations": _nat_configurations(spec, properties_of(body).get("ipConfigurations") or ()),
    }
    return {**body, "properties": properties}


def _nat_configurations(spec: ServiceSpec, present: Iterable[Json]) -> list[Json]:
    found = list(present)
    taken = {str(one.get("name")) for one in found}
    free = (name for index in range(1, 100) if (name := f"nat-{index}") not in taken)
    while len(found) < spec.nat_addresses:
        found.append(
            {
                "name": next(free),
                "properties": {
                    "subnet": {"id": spec.nat_subnet_id},
                    "privateIPAllocationMethod": "Dynamic",
                    "privateIPAddressVersion": "IPv4",
                    "primary": not found,
                },
            }
        )
    return found


def read_service(body: Json, nat_addresses: tuple[IPv4Address, ...]) -> ServiceStatus:
    """A link service; ``nat_addresses`` are its interface's."""
    properties = properties_of(body)
    frontends: Sequence[Json] = properties.get("loadBalancerFrontendIpConfigurations") or ({},)
    configurations: Sequence[Json] = properties.get("ipConfigurations") or ({},)
    return ServiceStatus(
        service_id=str(body["id"]),
        alias=str(properties.get("alias", "")),
        location=str(body.get("location", "")),
        frontend_id=str(frontends[0].get("id", "")),
        nat_subnet_id=str((properties_of(configurations[0]).get("subnet") or {}).get("id", "")),
        nat_addresses=nat_addresses,
        visible_to=_subscriptions(properties, "visibility"),
        approved_at_once=_subscriptions(properties, "autoApproval"),
        has_proxy_protocol=bool(properties.get("enableProxyProtocol")),
        owner=owner_of(body),
        is_settled=is_settled(body),
        problem=_problem(body),
        connections=tuple(read_connection(one) for one in properties.get("privateEndpointConnections") or ()),
    )


def _subscriptions(properties: Json, member: str) -> tuple[str, ...]:
    return tuple((properties.get(member) or {}).get("subscriptions") or ())


def read_connection(body: Json) -> Connection:
    """A connection. Its link identifier is a decimal number in a text; anything else is left out."""
    properties = properties_of(body)
    state, words = state_of(properties.get("privateLinkServiceConnectionState") or {})
    number = str(properties.get("linkIdentifier") or "")
    return Connection(
        name=str(body.get("name", "")),
        endpoint_id=str((properties.get("privateEndpoint") or {}).get("id", "")),
        state=state,
        message=words,
        link_id=int(number) if number.isascii() and number.isdigit() else None,
        location=str(properties.get("privateEndpointLocation", "")),
    )


def decision(made: Decision, reason: str) -> Body:
    """What approves or rejects a connection. Raises KeyError for a decision that removes it."""
    said = EXPIRED if made is Decision.EXPIRE else reason
    state = {"status": _STATUSES[made], "description": said, "actionsRequired": "None"}
    return {"properties": {"privateLinkServiceConnectionState": state}}
