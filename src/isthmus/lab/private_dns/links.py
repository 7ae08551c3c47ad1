"""Network links: ``Microsoft.Network/privateDnsZones/virtualNetworkLinks``, by which a zone answers in a network.

Rules of Azure: a network is linked once with a zone, never with two zones of one name, and registers its interfaces in
one zone at most; a link is changed in its tags, its registration and its resolution policy, not in its network.
``NxDomainRedirect`` is for zones of private links and since api-version 2024-06-01.

Sources: "What is a virtual network link", "Fallback to internet for Azure Private DNS zones", wordings as clients
reported them.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from isthmus.lab import errors, ids
from isthmus.lab.documents import Change, Document, World
from isthmus.lab.ids import Key, ResourceId
from isthmus.lab.kinds import Caller, Json, Style
from isthmus.lab.private_dns import names, records

KIND: Final = f"{records.ZONE_KIND}/virtualNetworkLinks"
_NETWORK_KIND: Final = "Microsoft.Network/virtualNetworks"

NO_FALL_BACK: Final = "Default"
FALL_BACK: Final = "NxDomainRedirect"
_RESOLUTION_POLICY_SINCE: Final = "2024-06-01"

_MAX_LINKS: Final = 1000
_MAX_REGISTRATION_LINKS: Final = 100


def check_location(body: Json, kind: str) -> None:
    """Private DNS is global: anything else is refused, as the resource manager does for every type."""
    location = body.get("location")
    if not location:
        raise errors.ArmError(400, "LocationRequired", "The location property is required for this definition.")
    if str(location).lower() != "global":
        raise errors.ArmError(
            400,
            "LocationNotAvailableForResourceType",
            f"The provided location '{location}' is not available for resource type '{kind}'. List of available "
            "regions for the resource type is 'global'.",
        )


def body_with_tags(body: Json) -> dict[str, Any]:
    """What every document of private DNS holds: the location and, if there are any, tags."""
    tags = body.get("tags")
    return {"location": "global", **({"tags": dict(tags)} if isinstance(tags, Mapping) and tags else {})}


def network_of(link: Document) -> Key:
    """The key of a link's network."""
    return ids.key(link.properties["virtualNetwork"]["id"])


def links_of(world: World, network: Key) -> Iterator[Document]:
    """The links of a network, of all zones and subscriptions, in the order in which they were made."""
    return (one for one in world.all(KIND) if network_of(one) == network)


def falls_back(link: Document) -> bool:
    """Whether names that the zone lacks are asked of the public resolver."""
    return link.properties.get("resolutionPolicy") == FALL_BACK


class Links:
    """The kind of network links."""

    name = KIND
    style = Style.PRIVATE_DNS
    is_tracked = True

    def write(self, change: Change, id: ResourceId, body: Json, before: Document | None, caller: Caller) -> Document:
        """PUT: a link, or a change of one."""
        check_location(body, KIND)
        properties = _properties(body)
        return self._put(change, id, before, {**body, "properties": properties}, caller)

    def patch(self, change: Change, document: Document, body: Json, caller: Caller) -> Document:
        """PATCH: tags, registration, resolution policy."""
        given = {key: value for key, value in _properties(body).items() if value is not None}
        properties = {**document.properties, **given}
        whole = {"tags": document.body.get("tags"), **body, "properties": properties}
        return self._put(change, document.id, document, whole, caller)

    def remove(self, change: Change, document: Document, caller: Caller) -> None:
        """DELETE: always allowed; what was registered through it goes with it."""
        change.remove(document.id)

    def changed(self, id: ResourceId) -> errors.ArmError:
        """The etag is another."""
        return self._failed(id, "has been modified (etag mismatch).")

    def exists(self, id: ResourceId) -> errors.ArmError:
        """There is one already."""
        return self._failed(id, "exists already and hence cannot be created again.")

    def show(self, world: World, document: Document, caller: Caller) -> dict[str, Any]:
        """The link. Unlike a zone's its etag has quotation marks."""
        said = document.properties
        properties: dict[str, Any] = {
            "provisioningState": str(document.state),
            "registrationEnabled": said["registrationEnabled"],
        }
        if "resolutionPolicy" in said and caller.api_version >= _RESOLUTION_POLICY_SINCE:
            properties["resolutionPolicy"] = said["resolutionPolicy"]
        properties["virtualNetwork"] = dict(said["virtualNetwork"])
        properties["virtualNetworkLinkState"] = "Completed"
        shown = {
            "id": str(document.id),
            "name": document.id.name,
            "type": KIND,
            "etag": f'"{document.etag}"',
            "location": "global",
        }
        if document.body.get("tags"):
            shown["tags"] = document.body["tags"]
        return {**shown, "properties": properties}

    def _failed(self, id: ResourceId, what: str) -> errors.ArmError:
        message = f"The Virtual Network link '{id.name}' for the Private DNS zone '{id.names[0]}' {what}"
        return errors.ArmError(412, "PreconditionFailed", message, is_outcome=True)

    def _put(self, change: Change, id: ResourceId, before: Document | None, body: Json, caller: Caller) -> Document:
        properties = body["properties"]
        network = _network(change, properties, before)
        registers = properties.get("registrationEnabled") or False
        if not isinstance(registers, bool):
            raise _refused(f"The value '{registers}' of 'registrationEnabled' is invalid.")
        _check_room(change, id, before, registers=registers)
        _check_network(change, id, ids.key(network), registers=registers)
        kept: dict[str, Any] = {"registrationEnabled": registers, "virtualNetwork": {"id": network}}
        policy = _policy(properties, before, id.names[0], caller)
        if policy is not None:
            kept["resolutionPolicy"] = policy
        return change.put(before.id if before else id, KIND, {**body_with_tags(body), "properties": kept})


def _refused(message: str) -> errors.ArmError:
    return errors.ArmError(400, "BadRequest", message)


def _properties(body: Json) -> Json:
    properties = body.get("properties") or {}
    if not isinstance(properties, Mapping):
        raise _refused("The value of 'properties' must be an object.")
    return properties


def _network(world: World, properties: Json, before: Document | None) -> str:
    """The id of the network that the link is for, as the network spells it; it exists."""
    reference = properties.get("virtualNetwork")
    given = reference.get("id") if isinstance(reference, Mapping) else None
    if not isinstance(given, str) or not given:
        raise _refused("The virtual network link must name a virtual network: properties.virtualNetwork.id is missing.")
    if before is not None and ids.key(given) != network_of(before):
        raise _refused(
            f"The virtual network of the virtual network link '{before.id.name}' cannot be changed. Delete the link "
            "and create another one."
        )
    parsed = ids.parse(given)
    if parsed.kind.lower() != _NETWORK_KIND.lower():
        raise _refused(f"The resource id '{given}' is not the id of a virtual network.")
    if world.get(parsed) is None and before is None:
        raise _refused(f"Virtual network resource not found for '{given}'")
    return given


def _check_room(change: Change, id: ResourceId, before: Document | None, *, registers: bool) -> None:
    zone = records.zone_of(id)
    others = [one for one in change.children(zone, KIND) if before is None or one.key != before.key]
    registering = sum(1 for one in others if one.properties["registrationEnabled"])
    if len(others) >= _MAX_LINKS or (registers and registering >= _MAX_REGISTRATION_LINKS):
        most, which = (_MAX_REGISTRATION_LINKS, " with registration enabled") if registers else (_MAX_LINKS, "")
        raise _refused(f"The Private DNS zone '{zone.name}' cannot have more than {most} virtual network links{which}.")


def _check_network(change: Change, id: ResourceId, network: Key, *, registers: bool) -> None:
    zone = records.zone_of(id).key
    for other in links_of(change, network):
        if other.key == id.key:
            continue
        if records.zone_of(other.id).key == zone:
            raise errors.ArmError(
                409,
                "Conflict",
                f"Private zone '{id.names[0]}' is already linked to the virtual network "
                f"'{other.properties['virtualNetwork']['id']}'.",
                is_outcome=True,
            )
        if other.id.names[0].lower() == id.names[0].lower():
            raise errors.ArmError(
                400,
                "BadRequest",
                "A virtual network cannot be linked to multiple zones with overlapping namespaces. You tried to link "
                f"virtual network with '{id.names[0]}' and '{other.id.names[0]}' zones.",
                is_outcome=True,
            )
        if registers and other.properties["registrationEnabled"]:
            raise errors.ArmError(
                409,
                "Conflict",
                "A virtual network can only be linked to 1 Private DNS zone(s) with auto-registration enabled; "
                f"conflicting Private DNS zone is '{other.id.names[0]}'.",
                is_outcome=True,
            )


def _policy(properties: Json, before: Document | None, zone: str, caller: Caller) -> str | None:
    """The resolution policy to keep. A zone that is not of private links has none but what a client has said."""
    kept = before.properties.get("resolutionPolicy") if before is not None else None
    given = properties.get("resolutionPolicy")
    if given is None or caller.api_version < _RESOLUTION_POLICY_SINCE:
        return kept or (NO_FALL_BACK if names.is_private_link(zone) else None)
    spelled = {one.lower(): one for one in (NO_FALL_BACK, FALL_BACK)}
    policy = spelled.get(str(given).lower())
    if policy is None:
        raise _refused(f"The value '{given}' of 'resolutionPolicy' is invalid. Allowed: {NO_FALL_BACK}, {FALL_BACK}.")
    if policy == FALL_BACK and not names.is_private_link(zone):
        raise _refused(f"ResolutionPolicy is not supported for the Private DNS zone '{zone}'.")
    return policy
