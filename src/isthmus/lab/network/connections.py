"""Connections, the service's side: ``Microsoft.Network/privateLinkServices/privateEndpointConnections``.

They come with endpoints; a provider approves, rejects or removes them. A rejected connection stays rejected ("Manage
Azure private endpoints": the consumer has to make a new endpoint), and a removed one leaves its endpoint
Disconnected.
"""

from typing import Any, Final

from isthmus.lab.documents import Change, Document, World
from isthmus.lab.ids import ResourceId
from isthmus.lab.kinds import Caller, Json, Style
from isthmus.lab.network import approvals, shapes, showing, zone_groups
from isthmus.lab.network.approvals import Status
from isthmus.lab.network.refusals import refused

KIND: Final = approvals.CONNECTION_KIND

#: The first api-version that shows where an endpoint is.
_LOCATION_SINCE: Final = "2022-07-01"

_STATE: Final = shapes.Record({"status": shapes.Text(), "description": shapes.Text(), "actionsRequired": shapes.Text()})
_SHAPE: Final = shapes.part(
    {
        "privateLinkServiceConnectionState": _STATE,
        "privateEndpoint": shapes.Derived(),
        "linkIdentifier": shapes.Derived(),
        "privateEndpointLocation": shapes.Derived(),
    }
)

_SETTABLE: Final = (Status.PENDING, Status.APPROVED, Status.REJECTED, Status.REMOVED)


def open_for(change: Change, service: Document, endpoint: Document, state: Json) -> Document:
    """Write the connection that an endpoint asks for, in its first state."""
    properties = {
        "privateEndpoint": showing.reference(endpoint.id),
        "privateLinkServiceConnectionState": dict(state),
    }
    document = change.put(approvals.connection_id(service.id, endpoint), KIND, {"properties": properties})
    change.put(service.id, service.kind, service.body)
    return document


def close(change: Change, connection: Document) -> None:
    """Remove a connection whose endpoint goes away."""
    service = change.get(connection.id.outer)
    change.remove(connection.id)
    if service is not None:
        change.put(service.id, service.kind, service.body)


def _renew(change: Change, connection: Document) -> None:
    """Give both sides new etags, and their DNS records what follows from the state."""
    for side in (connection.id.outer, connection.properties["privateEndpoint"]["id"]):
        found = change.get(side)
        if found is not None:
            change.put(found.id, found.kind, found.body)
    endpoint = approvals.endpoint_of(change, connection)
    if endpoint is not None:
        zone_groups.refresh(change, endpoint)


class Connections:
    """The kind of a service's connections."""

    name = KIND
    style = Style.NETWORK
    is_tracked = False
    is_decision = True

    def write(self, change: Change, id: ResourceId, body: Json, before: Document | None, caller: Caller) -> Document:
        """PUT: a decision about a connection that an endpoint asked for."""
        if before is None:
            raise refused(
                "PrivateEndpointConnectionCannotBeCreatedByServiceProvider",
                f"Private endpoint connection {id} cannot be created by the service provider. Private endpoint "
                "connections are created when a private endpoint is created by the service consumer.",
            )
        given = shapes.read(_SHAPE, body)["properties"].get("privateLinkServiceConnectionState")
        if given is None:
            raise shapes.missing("privateLinkServiceConnectionState", "properties")
        state = self._decided(before, given)
        properties = {**before.properties, "privateLinkServiceConnectionState": state}
        document = change.put(id, KIND, {"properties": properties})
        _renew(change, document)
        return document

    def _decided(self, before: Document, given: Json) -> dict[str, str]:
        old = approvals.state_of(before)
        asked = str(given.get("status") or old["status"])
        status = next((one for one in _SETTABLE if one.lower() == asked.lower()), None)
        if status is None:
            raise refused(
                "InvalidPrivateEndpointConnectionStatus",
                f"Private endpoint connection {before.id} cannot have status {asked}. It can be "
                f"{', '.join(_SETTABLE)}.",
            )
        if old["status"] in (Status.REJECTED, Status.REMOVED) and status != old["status"]:
            raise refused(
                "PrivateEndpointConnectionCannotBeUpdated",
                f"Private endpoint connection {before.id} is in status {old['status']} and cannot be changed to "
                f"{status}. Remove the private endpoint connection and create the private endpoint again.",
            )
        if old["status"] == Status.APPROVED and status == Status.PENDING:
            raise refused(
                "PrivateEndpointConnectionCannotBeUpdated",
                f"Private endpoint connection {before.id} is in status {old['status']} and cannot be changed to "
                f"{status}.",
            )
        return {
            "status": str(status),
            "description": str(given.get("description") or ""),
            "actionsRequired": str(given.get("actionsRequired") or "None"),
        }

    def patch(self, change: Change, document: Document, body: Json, caller: Caller) -> Document:
        """PATCH: Azure has none for connections; it decides as PUT does."""
        return self.write(change, document.id, body, document, caller)

    def remove(self, change: Change, document: Document, caller: Caller) -> None:
        """DELETE: the endpoint stays, Disconnected."""
        endpoint = approvals.endpoint_of(change, document)
        if endpoint is not None:
            _remember(change, endpoint, document)
        close(change, document)
        if endpoint is not None:
            zone_groups.refresh(change, endpoint)

    def show(self, world: World, document: Document, caller: Caller) -> dict[str, Any]:
        """The connection."""
        return shown(world, document, caller)


def _remember(change: Change, endpoint: Document, connection: Document) -> None:
    """Let an endpoint keep what the connection said last."""
    member, request = approvals.request_of(endpoint)
    state = {**approvals.state_of(connection), "status": str(Status.DISCONNECTED)}
    said = {**request, "properties": {**request["properties"], "privateLinkServiceConnectionState": state}}
    properties = {**endpoint.properties, member: [said]}
    change.put(endpoint.id, endpoint.kind, {**endpoint.body, "properties": properties})


def shown(world: World, connection: Document, caller: Caller) -> dict[str, Any]:
    """A connection as Azure shows it."""
    properties = {**connection.properties, "linkIdentifier": str(approvals.link_identifier(connection))}
    endpoint = approvals.endpoint_of(world, connection)
    if endpoint is not None and showing.is_since(caller, _LOCATION_SINCE):
        properties["privateEndpointLocation"] = endpoint.body["location"]
    return showing.resource(connection, properties, has_guid=False)
