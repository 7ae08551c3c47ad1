"""Private DNS zones: ``Microsoft.Network/privateDnsZones``.

A zone's document holds tags alone; how many record sets and links it has is counted when it is shown. With a zone comes
its SOA, and with a zone go its record sets; a zone with links stays.
"""

import base64
from typing import Any, Final

from isthmus.lab import errors
from isthmus.lab.documents import Change, Document, World
from isthmus.lab.ids import ResourceId
from isthmus.lab.kinds import Caller, Json, Style
from isthmus.lab.private_dns import links, names, records, registering

KIND: Final = records.ZONE_KIND

#: Azure subscription and service limits, "Private DNS zones". A recorded zone says the same.
_LIMITS: Final = {
    "maxNumberOfRecordSets": records.MAX_RECORD_SETS,
    "maxNumberOfVirtualNetworkLinks": 1000,
    "maxNumberOfVirtualNetworkLinksWithRegistration": 100,
}

#: The first api-version that shows ``internalId``.
_INTERNAL_ID_SINCE: Final = "2020-01-01"


class Zones:
    """The kind of zones."""

    name = KIND
    style = Style.PRIVATE_DNS
    is_tracked = True

    def write(self, change: Change, id: ResourceId, body: Json, before: Document | None, caller: Caller) -> Document:
        """PUT: a zone with its SOA, or new tags for one."""
        names.check_zone(id.name)
        links.check_location(body, KIND)
        if before is None:
            records.create_soa(change, id)
        return change.put(before.id if before else id, KIND, links.body_with_tags(body))

    def patch(self, change: Change, document: Document, body: Json, caller: Caller) -> Document:
        """PATCH: tags."""
        return change.put(document.id, KIND, links.body_with_tags({"tags": document.body.get("tags"), **body}))

    def remove(self, change: Change, document: Document, caller: Caller) -> None:
        """DELETE: the zone with its record sets, unless it is linked."""
        linked = next(iter(change.children(document.id, links.KIND)), None)
        if linked is not None:
            raise errors.ArmError(
                409,
                "CannotDeleteResource",
                "Cannot delete resource while nested resources exist. Some existing nested resource IDs include: "
                f"'{KIND}/{document.id.name}/virtualNetworkLinks/{linked.id.name}'. Please delete all nested resources "
                "before deleting this resource.",
            )
        for one in list(records.sets_of(change, document.id)):
            change.remove(one.id)
        change.remove(document.id)

    def changed(self, id: ResourceId) -> errors.ArmError:
        """The etag is another."""
        message = f"The Zone {id.name} has been modified (etag mismatch)."
        return errors.ArmError(412, "PreconditionFailed", message, is_outcome=True)

    def exists(self, id: ResourceId) -> errors.ArmError:
        """There is one already."""
        message = f"The Zone {id.name} exists already and hence cannot be created again."
        return errors.ArmError(412, "PreconditionFailed", message, is_outcome=True)

    def show(self, world: World, document: Document, caller: Caller) -> dict[str, Any]:
        """The zone with its numbers."""
        linked = list(world.children(document.id, links.KIND))
        with_registration = sum(1 for one in linked if one.properties["registrationEnabled"])
        sets = sum(1 for _ in records.sets_of(world, document.id)) + len(registering.shown(world, document.id))
        properties: dict[str, Any] = {
            **_LIMITS,
            "numberOfRecordSets": sets,
            "numberOfVirtualNetworkLinks": len(linked),
            "numberOfVirtualNetworkLinksWithRegistration": with_registration,
            "provisioningState": str(document.state),
        }
        if caller.api_version >= _INTERNAL_ID_SINCE:
            identity = f"ImmutableZoneIdentity;{document.guid};0"
            properties["internalId"] = base64.b64encode(identity.encode()).decode()
        shown = {
            "id": str(document.id),
            "name": document.id.name,
            "type": KIND,
            "etag": document.etag,
            "location": "global",
        }
        if document.body.get("tags"):
            shown["tags"] = document.body["tags"]
        return {**shown, "properties": properties}
