"""Private endpoints: ``Microsoft.Network/privateEndpoints``.

An endpoint is an address in a subnet, held by an interface of its own, and one connection to a service: automatic
(whoever makes it may approve it) or manual (somebody is asked). The lab's one identity has rights in both
subscriptions, so an automatic connection is approved at once, as it is in Azure for an owner of both; a subscription
that a service is not visible to cannot connect at all. Where an endpoint is and what it leads to stays as it was
made.
"""

from collections.abc import Sequence
from typing import Any, Final

from isthmus.lab import ids
from isthmus.lab.documents import Change, Document, World
from isthmus.lab.ids import ResourceId
from isthmus.lab.kinds import Caller, Json, Style
from isthmus.lab.network import (
    addresses,
    approvals,
    connections,
    link_services,
    network_interfaces,
    refusals,
    shapes,
    showing,
    subnets,
    tagging,
    zone_groups,
)
from isthmus.lab.network.approvals import AUTOMATIC, MANUAL, Status
from isthmus.lab.network.refusals import refused

KIND: Final = approvals.ENDPOINT_KIND

_MAX_MESSAGE: Final = 140

#: The first api-versions that show these members where a client has not set them.
_INTERFACE_NAME_SINCE: Final = "2021-05-01"
_IP_VERSION_SINCE: Final = "2025-01-01"

_CONNECTION: Final = shapes.part(
    {
        "privateLinkServiceId": shapes.Text(),
        "groupIds": shapes.Many(shapes.Text()),
        "requestMessage": shapes.Text(),
        "approvalReference": shapes.Record({"privateEndpointId": shapes.Text()}),
        "privateLinkServiceConnectionState": shapes.Derived(),
    }
)

_SHAPE: Final = shapes.resource(
    {
        "subnet": shapes.Reference("virtualNetworks/subnets"),
        AUTOMATIC: shapes.Many(_CONNECTION),
        MANUAL: shapes.Many(_CONNECTION),
        "customDnsConfigs": shapes.Many(
            shapes.Record({"fqdn": shapes.Text(), "ipAddresses": shapes.Many(shapes.Text())})
        ),
        "applicationSecurityGroups": shapes.Many(shapes.Reference("applicationSecurityGroups")),
        "ipConfigurations": shapes.Many(
            shapes.part({"groupId": shapes.Text(), "memberName": shapes.Text(), "privateIPAddress": shapes.Text()})
        ),
        "customNetworkInterfaceName": shapes.Text(),
        "ipVersionType": shapes.Choice("IPv4", "IPv6", "DualStack"),
        "billingSku": shapes.Choice("PayAsYouGo", "Fixed"),
        "networkInterfaces": shapes.Derived(),
    }
)

_NOTHING_SAID: Final = "Awaiting approval"
_AUTOMATIC: Final = {"status": str(Status.APPROVED), "description": "Auto Approved", "actionsRequired": "None"}


class Endpoints:
    """The kind of private endpoints."""

    name = KIND
    style = Style.NETWORK
    is_tracked = True

    def write(self, change: Change, id: ResourceId, body: Json, before: Document | None, caller: Caller) -> Document:
        """PUT: an endpoint; one that is there may change its tags and its DNS settings alone."""
        given = shapes.read(_SHAPE, body)
        given["location"] = refusals.location_of(given)
        properties = given["properties"]
        member, request = _request(id, properties)
        if "subnet" not in properties:
            raise shapes.unreadable(
                "MissingJsonReferenceId", "Value for reference id is missing. Path properties.subnet."
            )
        subnet = subnets.referenced(change, properties["subnet"], id, given["location"])
        properties["ipConfigurations"] = _named(id, properties.get("ipConfigurations") or [])
        properties |= {AUTOMATIC: [], MANUAL: [], member: [request]}
        if before is not None:
            return self._change(change, before, given)
        service = _service(change, id, member, request)
        _check_room(change, service)
        document = change.put(id, KIND, given)
        connections.open_for(change, service, document, _first_state(change, document, member, request, service))
        self._bring_interface(change, document, subnet)
        return document

    def _change(self, change: Change, before: Document, given: dict[str, Any]) -> Document:
        """Write what may change: all but the place, the address, the interface and the service."""
        properties = given["properties"]
        _, old = approvals.request_of(before)
        member, new = approvals.request_of(_with(before, given))
        same = {
            "subnet": (before.properties["subnet"]["id"], properties["subnet"]["id"]),
            "privateLinkServiceId": (
                old["properties"]["privateLinkServiceId"],
                new["properties"]["privateLinkServiceId"],
            ),
        }
        for what, (had, asked) in same.items():
            if ids.key(had) != ids.key(asked):
                raise refused(
                    f"PrivateEndpoint{what[0].upper()}{what[1:]}CannotBeChanged",
                    f"{what} of private endpoint {before.id} cannot be changed from {had} to {asked}. Delete "
                    "the private endpoint and create it again.",
                )
        had_name = before.properties.get("customNetworkInterfaceName", "")
        properties["customNetworkInterfaceName"] = properties.get("customNetworkInterfaceName") or had_name
        asked = [one["properties"].get("privateIPAddress") for one in properties["ipConfigurations"]]
        had = [one["properties"].get("privateIPAddress") for one in before.properties["ipConfigurations"]]
        if properties["customNetworkInterfaceName"] != had_name or (asked and asked != had):
            raise refused(
                "PrivateEndpointNetworkInterfaceCannotBeChanged",
                f"The network interface and the IP configurations of private endpoint {before.id} cannot be changed "
                "after it has been created.",
            )
        properties["ipConfigurations"] = before.properties["ipConfigurations"]
        if "privateLinkServiceConnectionState" in old["properties"]:
            state = old["properties"]["privateLinkServiceConnectionState"]
            new = {**new, "properties": {**new["properties"], "privateLinkServiceConnectionState": state}}
            properties[member] = [new]
        _forget_derived(change, before, properties)
        return change.put(before.id, KIND, given)

    def _bring_interface(self, change: Change, endpoint: Document, subnet: Document) -> None:
        """Give the endpoint's address, and let its interface hold it."""
        interface = approvals.interface_id(endpoint)
        if change.get(interface) is not None:
            raise refused(
                "NetworkInterfaceAlreadyExists",
                f"Network interface {interface} of private endpoint {endpoint.id} exists already.",
            )
        if endpoint.properties.get("customNetworkInterfaceName"):
            refusals.check_name(interface.name)
        allocation = addresses.Allocation(change, interface)
        asked: Sequence[Json] = endpoint.properties["ipConfigurations"] or [{"properties": {}}]
        held = []
        for index, one in enumerate(asked):
            purpose = "ipconfig" if index == 0 else f"ipconfig {index}"
            name = f"privateEndpointIpConfig.{approvals.derived_guid(endpoint, purpose)}"
            wanted = one["properties"].get("privateIPAddress")
            address = allocation.give(subnet, interface.child("ipConfigurations", name), wanted)
            said = {
                "privateIPAddress": str(address),
                "privateIPAllocationMethod": "Static" if wanted else "Dynamic",
                "subnet": showing.reference(subnet.id),
                "primary": index == 0,
                "privateIPAddressVersion": "IPv4",
                "privateLinkConnectionProperties": {
                    "groupId": one["properties"].get("groupId", ""),
                    "requiredMemberName": one["properties"].get("memberName", ""),
                    "fqdns": [],
                },
            }
            held.append({"name": name, "properties": said})
        network_interfaces.bring(change, interface, endpoint, "privateEndpoint", held)

    def patch(self, change: Change, document: Document, body: Json, caller: Caller) -> Document:
        """PATCH: tags."""
        return tagging.patch(change, document, body)

    def remove(self, change: Change, document: Document, caller: Caller) -> None:
        """DELETE: the endpoint with its interface, its zone groups and its connection."""
        for group in zone_groups.of(change, document.id):
            change.remove(group.id)
        zone_groups.refresh(change, document)
        connection = approvals.connection_of(change, document)
        if connection is not None:
            connections.close(change, connection)
        change.remove(approvals.interface_id(document))
        change.remove(document.id)

    def show(self, world: World, document: Document, caller: Caller) -> dict[str, Any]:
        """The endpoint with the state of its connection."""
        properties = dict(document.properties)
        for member in (AUTOMATIC, MANUAL):
            properties[member] = [_shown_request(world, document, member, one) for one in properties[member]]
        if showing.is_since(caller, _INTERFACE_NAME_SINCE):
            properties.setdefault("customNetworkInterfaceName", "")
        properties["ipConfigurations"] = [
            showing.part(document, document.id.child("ipConfigurations", one["name"]), one, one["properties"])
            for one in properties["ipConfigurations"]
        ]
        properties["networkInterfaces"] = [showing.reference(approvals.interface_id(document))]
        properties["customDnsConfigs"] = properties.get("customDnsConfigs") or _dns_configs(world, document)
        if showing.is_since(caller, _IP_VERSION_SINCE):
            properties.setdefault("ipVersionType", "IPv4")
        return showing.resource(document, properties)


def _with(before: Document, given: Json) -> Document:
    """``before`` with another body."""
    return Document(before.id, before.kind, before.number, before.etag, before.guid, before.state, given)


def _request(id: ResourceId, properties: Json) -> tuple[str, dict[str, Any]]:
    """The one connection that an endpoint asks for, and the list it is in."""
    asked = [(member, one) for member in (AUTOMATIC, MANUAL) for one in properties.get(member) or ()]
    if len(asked) != 1:
        raise refused(
            "PrivateEndpointMustHaveOnePrivateLinkServiceConnection",
            f"Private endpoint {id} has {len(asked)} private link service connections. It must have exactly one, in "
            f"{AUTOMATIC} or in {MANUAL}.",
        )
    member, one = asked[0]
    text = one["properties"].get("privateLinkServiceId")
    path = f"properties.{member}[0].properties.privateLinkServiceId"
    if not text:
        raise shapes.missing("privateLinkServiceId", f"properties.{member}[0].properties")
    if not (member == MANUAL and approvals.is_alias(text)):
        shapes.check_id(text, "", path)
    message = str(one["properties"].get("requestMessage") or "")
    if len(message) > _MAX_MESSAGE:
        raise refused(
            "PrivateLinkServiceConnectionRequestMessageTooLong",
            f"Request message of private endpoint {id} has {len(message)} characters. It can have up to "
            f"{_MAX_MESSAGE}.",
        )
    request = {**one, "name": one.get("name") or id.name}
    refusals.check_parts(id, member, [request])
    return member, request


def _service(change: Change, id: ResourceId, member: str, request: Json) -> Document:
    """The service that is asked for, if the endpoint's subscription may see it."""
    text = str(request["properties"]["privateLinkServiceId"])
    service = approvals.find_service(change, text)
    if service is None:
        raise refusals.not_found(text, id)
    if not approvals.is_visible(service, id.subscription):
        raise refused(
            "PrivateLinkServiceNotVisible",
            f"Private link service {text} referenced by private endpoint {id} is not visible to subscription "
            f"{id.subscription}.",
        )
    return service


def _check_room(change: Change, service: Document) -> None:
    if len(approvals.connections_of(change, service.id)) >= link_services.MAX_ENDPOINTS:
        raise refused(
            "PrivateEndpointsPerPrivateLinkServiceLimitReached",
            f"Private link service {service.id} cannot have more than {link_services.MAX_ENDPOINTS} private endpoint "
            "connections.",
        )


def _first_state(change: Change, endpoint: Document, member: str, request: Json, service: Document) -> Json:
    if member == AUTOMATIC or approvals.is_approved_at_once(service, endpoint.id.subscription):
        return _AUTOMATIC
    reference = (request["properties"].get("approvalReference") or {}).get("privateEndpointId")
    model = change.get(reference) if reference else None
    if model is not None and model.kind == KIND:
        connection = approvals.connection_of(change, model)
        if connection is not None and connection.id.outer.key == service.key and approvals.is_approved(connection):
            return _AUTOMATIC
    return _waiting(request)


def _waiting(request: Json) -> Json:
    """What a provider reads beside a request: what the customer said, or Azure's own words where that is nothing.

    Source: the azurerm provider's documentation of ``private_endpoint_connection`` ("while in the Pending status the
    request_response will display the same text from your request_message"), and scripts that tell pending connections
    apart by it. For an empty one: Azure's published examples.
    """
    said = str(request["properties"].get("requestMessage") or _NOTHING_SAID)
    return {"status": str(Status.PENDING), "description": said, "actionsRequired": "None"}


def _named(id: ResourceId, given: Sequence[Json]) -> list[dict[str, Any]]:
    found = [{**one, "name": one.get("name") or f"ipconfig{index}"} for index, one in enumerate(given, start=1)]
    refusals.check_parts(id, "ipConfigurations", found)
    return found


def _forget_derived(change: Change, before: Document, properties: dict[str, Any]) -> None:
    """What a client sends back of DNS settings that followed from the service is not its own."""
    if properties.get("customDnsConfigs") == _dns_configs(change, before):
        del properties["customDnsConfigs"]


def _dns_configs(world: World, endpoint: Document) -> list[dict[str, Any]]:
    found = [str(one) for one in approvals.addresses_of(world, endpoint)]
    return [{"fqdn": name, "ipAddresses": found} for name in approvals.public_names_of(world, endpoint)]


def _shown_request(world: World, endpoint: Document, member: str, one: Json) -> dict[str, Any]:
    connection = approvals.connection_of(world, endpoint)
    said = dict(one["properties"])
    if connection is not None:
        said["privateLinkServiceConnectionState"] = dict(approvals.state_of(connection))
    else:
        said.setdefault(
            "privateLinkServiceConnectionState",
            {"status": str(Status.DISCONNECTED), "description": "", "actionsRequired": "None"},
        )
    return showing.part(endpoint, endpoint.id.child(member, one["name"]), one, said)
