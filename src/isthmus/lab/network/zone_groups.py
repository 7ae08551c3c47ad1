"""Private DNS zone groups: ``Microsoft.Network/privateEndpoints/privateDnsZoneGroups``.

A group ties an endpoint to zones: for each name of the endpoint's service that lies in one of them there is an A
record with the endpoint's address. The records are record sets like any other, marked with the endpoint that made
them (as in Azure, where ``metadata.creator`` says so); they go with the group or the endpoint. A service without
names makes none.
"""

from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any, Final

from isthmus.lab import ids
from isthmus.lab.documents import Change, Document, World
from isthmus.lab.ids import ResourceId
from isthmus.lab.kinds import Caller, Json, Style
from isthmus.lab.network import approvals, refusals, shapes, showing
from isthmus.lab.network.refusals import refused

KIND: Final = f"{approvals.ENDPOINT_KIND}/privateDnsZoneGroups"

_ZONE_KIND: Final = "Microsoft.Network/privateDnsZones"
_RECORD_KIND: Final = f"{_ZONE_KIND}/A"
_TTL_SECONDS: Final = 10

#: Azure subscription and service limits, "Private Link".
_MAX_ZONES: Final = 5

_SHAPE: Final = shapes.part(
    {
        "privateDnsZoneConfigs": shapes.Many(
            shapes.part({"privateDnsZoneId": shapes.Text(), "recordSets": shapes.Derived()})
        )
    }
)


def of(world: World, endpoint: ResourceId) -> list[Document]:
    """The groups of an endpoint: one or none."""
    return list(world.children(endpoint, KIND))


def refresh(change: Change, endpoint: Document) -> None:
    """Make the records of an endpoint's groups what they should be."""
    wanted: dict[ids.Key, tuple[ResourceId, list[str]]] = {}
    for group in of(change, endpoint.id):
        for zone in _zones_of(group):
            for record, found in _records(change, endpoint, zone):
                wanted[record.key] = (record, found)
    creator = _creator(endpoint)
    for one in list(change.all(_RECORD_KIND)):
        if (one.properties.get("metadata") or {}).get("creator") == creator and one.key not in wanted:
            change.remove(one.id)
    for record, found in wanted.values():
        properties = {
            "metadata": {"creator": creator},
            "ttl": _TTL_SECONDS,
            "aRecords": [{"ipv4Address": one} for one in found],
        }
        had = change.get(record)
        if had is None or dict(had.properties) != properties:
            change.put(record, _RECORD_KIND, {"properties": properties})


def _creator(endpoint: Document) -> str:
    return f"created by private endpoint {endpoint.id.name} with resource guid {endpoint.guid}"


def _zones_of(group: Document) -> list[ResourceId]:
    return [ids.parse(one["properties"]["privateDnsZoneId"]) for one in group.properties["privateDnsZoneConfigs"]]


def _records(world: World, endpoint: Document, zone: ResourceId) -> Iterator[tuple[ResourceId, list[str]]]:
    """The A records that an endpoint has in a zone, and their addresses."""
    if world.get(zone) is None:
        return
    found = [str(one) for one in approvals.addresses_of(world, endpoint) if isinstance(one, IPv4Address)]
    for name in dict.fromkeys(one.lower().rstrip(".") for one in approvals.public_names_of(world, endpoint)):
        relative = _relative(name, zone.name.lower())
        if found and relative is not None:
            yield (
                ResourceId(
                    zone.subscription, zone.group, zone.namespace, ("privateDnsZones", "A"), (zone.name, relative)
                ),
                found,
            )


def _relative(name: str, zone: str) -> str | None:
    """``a.b`` for ``a.b.zone``, ``@`` for the zone itself, None for names outside of it."""
    if name == zone:
        return "@"
    return name.removesuffix(f".{zone}") if name.endswith(f".{zone}") else None


class ZoneGroups:
    """The kind of private DNS zone groups."""

    name = KIND
    style = Style.NETWORK
    is_tracked = False

    def write(self, change: Change, id: ResourceId, body: Json, before: Document | None, caller: Caller) -> Document:
        """PUT: the zones of an endpoint."""
        endpoint = change.get(id.outer)
        if endpoint is None:
            raise refusals.not_found(str(id.outer), id)
        if any(one.key != id.key for one in of(change, id.outer)):
            raise refused(
                "MoreThanOnePrivateDnsZoneGroupPerPrivateEndpointNotAllowed",
                f"Only one private DNS zone group is allowed per private endpoint. Private endpoint {id.outer} has "
                "another one already.",
            )
        given = shapes.read(_SHAPE, body)
        configs = self._checked(change, id, given["properties"].get("privateDnsZoneConfigs") or [])
        document = change.put(id, KIND, {"properties": {"privateDnsZoneConfigs": configs}})
        refresh(change, endpoint)
        return document

    def _checked(self, change: Change, id: ResourceId, given: list[Json]) -> list[dict[str, Any]]:
        if len(given) > _MAX_ZONES:
            raise refused(
                "PrivateDnsZoneGroupZoneLimitExceeded",
                f"Private DNS zone group {id} has {len(given)} zones. It can have up to {_MAX_ZONES}.",
            )
        found = []
        for index, one in enumerate(given):
            text = one["properties"].get("privateDnsZoneId")
            if not text:
                raise shapes.missing("privateDnsZoneId", f"properties.privateDnsZoneConfigs[{index}].properties")
            path = f"properties.privateDnsZoneConfigs[{index}].properties.privateDnsZoneId"
            zone = shapes.check_id(text, "privateDnsZones", path)
            if change.get(zone) is None:
                raise refused(
                    "InvalidPrivateDnsZoneIds",
                    f"Private Dns Zone group {id} has invalid private dns zone ids {text}.",
                )
            found.append({**one, "name": one.get("name") or zone.name.replace(".", "-")})
        refusals.check_parts(id, "privateDnsZoneConfigs", found)
        return found

    def patch(self, change: Change, document: Document, body: Json, caller: Caller) -> Document:
        """PATCH: Azure has none for groups; it does as PUT."""
        return self.write(change, document.id, body, document, caller)

    def remove(self, change: Change, document: Document, caller: Caller) -> None:
        """DELETE: the group with its records."""
        endpoint = change.get(document.id.outer)
        change.remove(document.id)
        if endpoint is not None:
            refresh(change, endpoint)

    def show(self, world: World, document: Document, caller: Caller) -> dict[str, Any]:
        """The group with its records."""
        endpoint = world.get(document.id.outer)
        configs = []
        for one in document.properties["privateDnsZoneConfigs"]:
            zone = ids.parse(one["properties"]["privateDnsZoneId"])
            records = list(_records(world, endpoint, zone)) if endpoint is not None else []
            properties = {
                **one["properties"],
                "recordSets": [
                    {
                        "recordType": "A",
                        "recordSetName": record.name,
                        "fqdn": zone.name if record.name == "@" else f"{record.name}.{zone.name}",
                        "ttl": _TTL_SECONDS,
                        "provisioningState": "Succeeded",
                        "ipAddresses": found,
                    }
                    for record, found in records
                ],
            }
            config = document.id.child("privateDnsZoneConfigs", one["name"])
            configs.append(showing.part(document, config, one, properties))
        return showing.resource(document, {"privateDnsZoneConfigs": configs}, has_guid=False)
