"""What an endpoint and a link service know of each other: the connection between them.

The service's side is a document of its own (``privateLinkServices/privateEndpointConnections``) named after the
endpoint and its GUID; it holds the state, and an endpoint looks its state up there. Without it the endpoint is
Disconnected, for good: a service of the same name that is made later has no such connection.
"""

import uuid
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from isthmus.lab.documents import Document, World
from isthmus.lab.ids import ResourceId
from isthmus.lab.network import addresses

SERVICE_KIND: Final = "Microsoft.Network/privateLinkServices"
CONNECTION_KIND: Final = f"{SERVICE_KIND}/privateEndpointConnections"
ENDPOINT_KIND: Final = "Microsoft.Network/privateEndpoints"

#: The two lists of an endpoint: what its caller may approve itself, and what somebody has to be asked for.
AUTOMATIC: Final = "privateLinkServiceConnections"
MANUAL: Final = "manualPrivateLinkServiceConnections"

ALIAS_SUFFIX: Final = ".azure.privatelinkservice"

_NAMESPACE: Final = uuid.UUID("0f0b0f1c-6d51-4d0c-9a34-5d2c2b9f3b52")

#: Link identifiers are positive numbers of 29 bits: the recorded ones are nine digits long.
_LINK_IDENTIFIERS: Final = 1 << 29


class Status(StrEnum):
    """The states of a connection."""

    PENDING = "Pending"
    APPROVED = "Approved"
    REJECTED = "Rejected"
    REMOVED = "Removed"
    DISCONNECTED = "Disconnected"


def derived_guid(document: Document, purpose: str) -> str:
    """A GUID that is the document's for life, one a purpose."""
    return str(uuid.uuid5(_NAMESPACE, f"{document.guid}/{purpose}"))


def alias_of(service: Document) -> str:
    """``<name>.<guid>.<region>.azure.privatelinkservice``."""
    guid, location = derived_guid(service, "alias"), service.body["location"]
    return f"{service.id.name.lower()}.{guid}.{location}{ALIAS_SUFFIX}"


def is_alias(text: str) -> bool:
    """It names a service by its alias, not by its id."""
    return text.lower().endswith(ALIAS_SUFFIX)


def find_service(world: World, text: str) -> Document | None:
    """The service with that id or alias."""
    if is_alias(text):
        return next((one for one in world.all(SERVICE_KIND) if alias_of(one) == text.lower()), None)
    found = world.get(text)
    return found if found is not None and found.kind == SERVICE_KIND else None


def is_visible(service: Document, subscription: str) -> bool:
    """A subscription sees its own services, and those that are visible to it or to all."""
    if service.id.subscription.lower() == subscription.lower():
        return True
    return _is_listed(service, "visibility", subscription)


def is_approved_at_once(service: Document, subscription: str) -> bool:
    """Requests from a subscription need nobody's decision."""
    return _is_listed(service, "autoApproval", subscription)


def _is_listed(service: Document, member: str, subscription: str) -> bool:
    listed = (service.properties.get(member) or {}).get("subscriptions") or ()
    return any(one == "*" or one.lower() == subscription.lower() for one in listed)


def request_of(endpoint: Document) -> tuple[str, Mapping[str, Any]]:
    """The list that an endpoint's connection is in, and the connection."""
    for member in (AUTOMATIC, MANUAL):
        for one in endpoint.properties.get(member) or ():
            return member, one
    raise AssertionError(f"{endpoint.id} has no connection")


def service_of(world: World, endpoint: Document) -> Document | None:
    """The service that an endpoint asked for, whether it is connected or not."""
    return find_service(world, str(request_of(endpoint)[1]["properties"]["privateLinkServiceId"]))


def connection_id(service: ResourceId, endpoint: Document) -> ResourceId:
    """``.../privateEndpointConnections/<endpoint>.<its GUID>``."""
    return service.child("privateEndpointConnections", f"{endpoint.id.name}.{endpoint.guid}")


def connection_of(world: World, endpoint: Document) -> Document | None:
    """The service's side of an endpoint's connection; None if it is Disconnected."""
    service = service_of(world, endpoint)
    return world.get(connection_id(service.id, endpoint)) if service is not None else None


def connections_of(world: World, service: ResourceId) -> list[Document]:
    """The connections of a service, in the order of creation."""
    found = world.all(CONNECTION_KIND, subscription=service.subscription, group=service.group)
    return [one for one in found if one.id.outer.key == service.key]


def endpoint_of(world: World, connection: Document) -> Document | None:
    """The endpoint of a connection."""
    return world.get(str(connection.properties["privateEndpoint"]["id"]))


def state_of(connection: Document) -> Mapping[str, Any]:
    """``{"status", "description", "actionsRequired"}``."""
    found: Mapping[str, Any] = connection.properties["privateLinkServiceConnectionState"]
    return found


def is_approved(connection: Document | None) -> bool:
    """Packets may pass."""
    return connection is not None and state_of(connection)["status"] == Status.APPROVED


def link_identifier(connection: Document) -> int:
    """What PROXY v2 headers name the connection by."""
    return 1 + uuid.UUID(connection.guid).int % (_LINK_IDENTIFIERS - 1)


def interface_id(endpoint: Document) -> ResourceId:
    """The endpoint's network interface: ``<endpoint>.nic.<guid>``, or by the name that its client chose."""
    name = endpoint.properties.get("customNetworkInterfaceName") or (
        f"{endpoint.id.name}.nic.{derived_guid(endpoint, 'nic')}"
    )
    return endpoint.id.beside("networkInterfaces", name)


def service_interface_id(service: Document) -> ResourceId:
    """The service's network interface, which holds its NAT addresses: ``<service>.nic.<guid>``."""
    return service.id.beside("networkInterfaces", f"{service.id.name}.nic.{derived_guid(service, 'nic')}")


def addresses_of(world: World, endpoint: Document) -> list[addresses.Address]:
    """The endpoint's addresses in its subnet."""
    interface = world.get(interface_id(endpoint))
    if interface is None:
        return []
    return [address for one in addresses.holdings_of(interface) for address in one.addresses]


def public_names_of(world: World, endpoint: Document) -> list[str]:
    """The names under which an endpoint's service is known, once it is connected."""
    if not is_approved(connection_of(world, endpoint)):
        return []
    service = service_of(world, endpoint)
    return list(service.properties.get("fqdns") or ()) if service is not None else []
