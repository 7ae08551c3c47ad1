"""Record sets: ``Microsoft.Network/privateDnsZones/A`` and its siblings.

All types share one shape, ``{"metadata", "fqdn", "ttl", <records>, "isAutoRegistered"}``, and one set of rules; what
differs stands in ``TYPES``: the member that holds the records, and how one record is checked. Names are written in
lower case and types in capitals, whatever the client wrote, as Azure does.

Invariants: a set holds at most 20 records, or one where the type says so; an empty set is allowed and answers nothing;
a CNAME is alone at its name and never at the apex; each zone has exactly one SOA, at the apex, which cannot be deleted
and whose host and serial number are Azure's.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Any, Final

from isthmus.lab import errors
from isthmus.lab.documents import Change, Document, World
from isthmus.lab.ids import ResourceId
from isthmus.lab.kinds import Caller, Json, Style
from isthmus.lab.private_dns import names

ZONE_KIND: Final = "Microsoft.Network/privateDnsZones"
MAX_RECORD_SETS: Final = 25_000

#: Limits of Azure Private DNS: records in a set, characters of one TXT string and of a TXT record.
_MAX_RECORDS: Final = 20
_MAX_TXT_STRING: Final = 255
_MAX_TXT: Final = 1024
_MAX_TTL: Final = 2_147_483_647
_MAX_METADATA: Final = 10
_DEFAULT_TTL: Final = 3600

_SOA: Final[dict[str, Any]] = {
    "email": "azureprivatedns-host.microsoft.com",
    "expireTime": 2_419_200,
    "host": "azureprivatedns.net",
    "minimumTtl": 10,
    "refreshTime": 3600,
    "retryTime": 300,
    "serialNumber": 1,
}


def _refused(message: str) -> errors.ArmError:
    return errors.ArmError(400, "BadRequest", message, is_bare=True)


def _conflict(message: str) -> errors.ArmError:
    return errors.ArmError(409, "Conflict", message, is_bare=True)


def _number(record: Json, member: str, largest: int) -> int:
    value = record.get(member)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= largest:
        raise _refused(f"The value '{value}' of '{member}' is invalid. It must be between 0 and {largest}.")
    return value


def _a(record: Json) -> dict[str, Any]:
    address = record.get("ipv4Address")
    try:
        return {"ipv4Address": str(IPv4Address(str(address)))}
    except AddressValueError:
        raise _refused(f"The IPv4 address '{address}' is invalid.") from None


def _aaaa(record: Json) -> dict[str, Any]:
    address = record.get("ipv6Address")
    text = str(address)
    try:
        IPv6Address(text)
    except AddressValueError:
        raise _refused(f"The IPv6 address '{address}' is invalid.") from None
    if "%" in text:
        raise _refused(f"The IPv6 address '{address}' is invalid.")
    return {"ipv6Address": text}


def _cname(record: Json) -> dict[str, Any]:
    return {"cname": names.check_domain(record.get("cname"))}


def _mx(record: Json) -> dict[str, Any]:
    return {"exchange": names.check_domain(record.get("exchange")), "preference": _number(record, "preference", 65535)}


def _ptr(record: Json) -> dict[str, Any]:
    return {"ptrdname": names.check_domain(record.get("ptrdname"))}


def _srv(record: Json) -> dict[str, Any]:
    return {
        "port": _number(record, "port", 65535),
        "priority": _number(record, "priority", 65535),
        "target": names.check_domain(record.get("target")),
        "weight": _number(record, "weight", 65535),
    }


def _txt(record: Json) -> dict[str, Any]:
    strings = record.get("value")
    if not isinstance(strings, list) or not all(isinstance(one, str) for one in strings):
        raise _refused("The value of a TXT record must be a list of strings.")
    if any(len(one) > _MAX_TXT_STRING for one in strings) or sum(map(len, strings)) > _MAX_TXT:
        raise _refused(
            f"The TXT record is too long. Each string may have up to {_MAX_TXT_STRING} characters, "
            f"and all strings of a record together up to {_MAX_TXT}."
        )
    return {"value": list(strings)}


def _soa(record: Json) -> dict[str, Any]:
    """Azure ignores a new serial number or host. Some clients write ``minimumTTL``."""
    minimum = record.get("minimumTtl", record.get("minimumTTL"))
    given = {
        "email": record.get("email"),
        "expireTime": record.get("expireTime"),
        "minimumTtl": minimum,
        "refreshTime": record.get("refreshTime"),
        "retryTime": record.get("retryTime"),
    }
    soa = {**_SOA, **{member: value for member, value in given.items() if value is not None}}
    names.check_domain(soa["email"])
    for member in ("expireTime", "minimumTtl", "refreshTime", "retryTime"):
        _number(soa, member, _MAX_TTL)
    return soa


@dataclass(frozen=True, slots=True)
class RecordType:
    """What is particular to one type: the member of the records, and how one record reads when it is checked."""

    name: str
    member: str
    is_single: bool
    checked: Callable[[Json], dict[str, Any]]

    @property
    def kind(self) -> str:
        """``Microsoft.Network/privateDnsZones/A``."""
        return f"{ZONE_KIND}/{self.name}"


TYPES: Final[Mapping[str, RecordType]] = {
    one.name: one
    for one in (
        RecordType("A", "aRecords", False, _a),
        RecordType("AAAA", "aaaaRecords", False, _aaaa),
        RecordType("CNAME", "cnameRecord", True, _cname),
        RecordType("MX", "mxRecords", False, _mx),
        RecordType("PTR", "ptrRecords", False, _ptr),
        RecordType("SOA", "soaRecord", True, _soa),
        RecordType("SRV", "srvRecords", False, _srv),
        RecordType("TXT", "txtRecords", False, _txt),
    )
}


def canonical(id: ResourceId, type_: RecordType) -> ResourceId:
    """The id of a record set as Azure writes it: the type in capitals, the name in lower case."""
    return ResourceId(
        id.subscription,
        id.group,
        "Microsoft.Network",
        ("privateDnsZones", type_.name),
        (id.names[0], id.names[1].lower()),
    )


def sets_of(world: World, zone: ResourceId) -> Iterator[Document]:
    """The record sets that clients have put into a zone: the SOA first, then by name and type."""
    found = [one for type_ in TYPES.values() for one in world.children(zone, type_.kind)]
    found.sort(key=lambda one: (one.id.types[-1] != "SOA", one.id.name != names.APEX, one.id.name, one.id.types[-1]))
    yield from found


def create_soa(change: Change, zone: ResourceId) -> None:
    """Put the SOA that a new zone has."""
    body = {"properties": {"ttl": _DEFAULT_TTL, "soaRecord": dict(_SOA)}}
    change.put(zone.child("SOA", names.APEX), TYPES["SOA"].kind, body)


def shape(id: ResourceId, etag: str, properties: Json, *, is_auto_registered: bool = False) -> dict[str, Any]:
    """A record set as Azure shows it; ``properties`` are those of its document."""
    type_ = TYPES[id.types[-1]]
    shown: dict[str, Any] = {}
    if properties.get("metadata"):
        shown["metadata"] = dict(properties["metadata"])
    shown["fqdn"] = names.fqdn(id.names[1], id.names[0])
    shown["ttl"] = properties["ttl"]
    if type_.member in properties:
        shown[type_.member] = properties[type_.member]
    shown["isAutoRegistered"] = is_auto_registered
    return {
        "id": str(id),
        "name": id.name,
        "type": type_.kind,
        "etag": etag,
        "properties": shown,
    }


Registered = Callable[[World, ResourceId], Sequence[dict[str, Any]]]
"""The record sets of a zone that were registered automatically, as they are shown."""


class RecordSets:
    """The kind of one record type."""

    style = Style.SYNC
    is_tracked = False

    def __init__(self, type_: RecordType, registered: Registered) -> None:
        self.type = type_
        self.name = type_.kind
        self._registered = registered

    def write(self, change: Change, id: ResourceId, body: Json, before: Document | None, caller: Caller) -> Document:
        """PUT: the whole record set."""
        own = canonical(id, self.type)
        zone, name = own.names
        names.check_relative(name, zone)
        self._check_place(change, own, before)
        properties = _properties(body)
        _check_foreign(self.type, properties)
        return change.put(own, self.name, {"properties": self._filled(properties)})

    def patch(self, change: Change, document: Document, body: Json, caller: Caller) -> Document:
        """PATCH: metadata, TTL and records; what is not said stays."""
        properties = _properties(body)
        _check_foreign(self.type, properties)
        merged = {**document.properties, **{key: value for key, value in properties.items() if value is not None}}
        return change.put(document.id, self.name, {"properties": self._filled(merged)})

    def remove(self, change: Change, document: Document, caller: Caller) -> None:
        """DELETE: every record set but the SOA."""
        if self.type.name == "SOA":
            raise _refused(f"Record sets of type 'SOA' with name '{document.id.name}' cannot be deleted.")
        change.remove(document.id)

    def list(self, world: World, parent: ResourceId, caller: Caller) -> Sequence[dict[str, Any]]:
        """Those of this type that the caller's ``$recordsetnamesuffix`` allows."""
        shown = [shape(one.id, one.etag, one.properties) for one in world.children(parent, self.name)]
        registered = [one for one in self._registered(world, parent) if one["type"] == self.name]
        return with_suffix([*shown, *registered], caller)

    def find(self, world: World, id: ResourceId, caller: Caller) -> dict[str, Any]:
        """One that was registered automatically."""
        own = canonical(id, self.type)
        for one in self._registered(world, zone_of(own)):
            if (one["type"], one["name"]) == (self.name, own.name):
                return one
        raise errors.ArmError(
            404,
            "NotFound",
            f"The resource record '{own.name}' does not exist in resource group '{own.group}' of subscription "
            f"'{own.subscription}'.",
            is_bare=True,
        )

    def changed(self, id: ResourceId) -> errors.ArmError:
        """The etag is another."""
        message = f"The Record set {id.name} has been modified (etag mismatch)."
        return errors.ArmError(412, "PreconditionFailed", message, is_bare=True)

    def exists(self, id: ResourceId) -> errors.ArmError:
        """There is one already."""
        message = f"The Record set {id.name} exists already and hence cannot be created again."
        return errors.ArmError(412, "PreconditionFailed", message, is_bare=True)

    def show(self, world: World, document: Document, caller: Caller) -> dict[str, Any]:
        """The record set."""
        return shape(document.id, document.etag, document.properties)

    def _check_place(self, change: Change, id: ResourceId, before: Document | None) -> None:
        _, name = id.names
        if self.type.name == "SOA" and name != names.APEX:
            raise _refused("Record sets of type 'SOA' can only be created with the name '@'.")
        if self.type.name == "CNAME" and name == names.APEX:
            raise _refused("A CNAME record set cannot be created with the name '@': it would be at the zone's apex.")
        if before is not None:
            return
        zone = zone_of(id)
        beside = {one.id.types[-1] for one in sets_of(change, zone) if one.id.name == name}
        if self.type.name == "CNAME" and beside:
            raise _conflict(
                "The CNAME record could not be created because another record with the same name already exists in "
                "this zone."
            )
        if "CNAME" in beside:
            raise _conflict(
                "The record could not be created because a CNAME record with the same name already exists in this zone."
            )
        if sum(1 for _ in sets_of(change, zone)) >= MAX_RECORD_SETS:
            raise _refused(f"The zone '{id.names[0]}' cannot have more than {MAX_RECORD_SETS} record sets.")

    def _filled(self, properties: Json) -> dict[str, Any]:
        ttl = properties.get("ttl", properties.get("TTL"))
        filled: dict[str, Any] = {"ttl": _DEFAULT_TTL if ttl is None else _number({"ttl": ttl}, "ttl", _MAX_TTL)}
        if metadata := _metadata(properties.get("metadata")):
            filled["metadata"] = metadata
        given = properties.get(self.type.member)
        if self.type.is_single:
            if given is not None:
                filled[self.type.member] = self.type.checked(_object(given, self.type.member))
            elif self.type.name == "SOA":
                filled[self.type.member] = dict(_SOA)
            return filled
        records = [] if given is None else given
        if not isinstance(records, list):
            raise _refused(f"The value of '{self.type.member}' must be a list of records.")
        if len(records) > _MAX_RECORDS:
            raise _refused(
                f"The record set has {len(records)} records; a record set may have up to {_MAX_RECORDS} records."
            )
        checked = [self.type.checked(_object(one, self.type.member)) for one in records]
        if any(one in checked[:number] for number, one in enumerate(checked)):
            raise _refused("The record set contains duplicate records.")
        filled[self.type.member] = checked
        return filled


def _properties(body: Json) -> Json:
    return _object(body.get("properties") or {}, "properties")


def _object(value: object, what: str) -> Json:
    if not isinstance(value, Mapping):
        raise _refused(f"The value of '{what}' must be an object.")
    return value


def _check_foreign(type_: RecordType, properties: Json) -> None:
    for other in TYPES.values():
        if other is not type_ and properties.get(other.member):
            raise _refused(f"A record set of type '{type_.name}' cannot contain records of type '{other.name}'.")


def _metadata(given: object) -> dict[str, str]:
    if given is None:
        return {}
    metadata = _object(given, "metadata")
    if len(metadata) > _MAX_METADATA or not all(isinstance(value, str) for value in metadata.values()):
        raise _refused(f"The metadata of a record set must be up to {_MAX_METADATA} pairs of strings.")
    return dict(metadata)


class AllRecordSets:
    """``ALL``: the record sets of every type, those that were registered automatically among them."""

    name = f"{ZONE_KIND}/ALL"

    def __init__(self, registered: Registered) -> None:
        self._registered = registered

    def list(self, world: World, parent: ResourceId, caller: Caller) -> Sequence[dict[str, Any]]:
        """All of them that the caller's ``$recordsetnamesuffix`` allows."""
        shown = [shape(one.id, one.etag, one.properties) for one in sets_of(world, parent)]
        return with_suffix([*shown, *self._registered(world, parent)], caller)


def with_suffix(shown: Iterable[dict[str, Any]], caller: Caller) -> list[dict[str, Any]]:
    """Those whose relative name ends in ``$recordsetnamesuffix``, if the caller gave one."""
    query = {key.lower(): value for key, value in caller.query.items()}
    suffix = query.get("$recordsetnamesuffix", "").lower()
    return [one for one in shown if str(one["name"]).endswith(suffix)]


def zone_of(id: ResourceId) -> ResourceId:
    """The zone that a record set or a link lies in."""
    return ResourceId(id.subscription, id.group, id.namespace, id.types[:1], id.names[:1])
