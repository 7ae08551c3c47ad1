"""Public IP addresses: ``Microsoft.Network/publicIPAddresses``.

Addresses come from a part of 203.0.113.0/24 (RFC 5737), the lab's public internet; the rest of that network belongs
to programs and to what virtual networks leave from. A document keeps its address for life; a dynamic one is shown
only while it is associated, as in Azure.
"""

from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from isthmus.lab.documents import Change, Document, World
from isthmus.lab.ids import ResourceId
from isthmus.lab.kinds import Caller, Json, Style
from isthmus.lab.network import addresses, refusals, shapes, showing, tagging
from isthmus.lab.network.refusals import refused

KIND: Final = "Microsoft.Network/publicIPAddresses"

#: What public IP addresses are taken from, and what virtual networks leave from (one address by the network's number).
FIRST: Final = IPv4Address("203.0.113.16")
LAST: Final = IPv4Address("203.0.113.127")
FIRST_OUTBOUND: Final = IPv4Address("203.0.113.128")
LAST_OUTBOUND: Final = IPv4Address("203.0.113.254")

#: IPv6 addresses are shown and lead nowhere (RFC 3849).
_FIRST_V6: Final = IPv6Address("2001:db8:113::10")

#: The first api-version that shows ``ddosSettings`` (recorded: 2021-03-01 does not, 2022-05-01 does).
_DDOS_SINCE: Final = "2022-05-01"

_IDLE_MINUTES: Final = range(4, 31)

_SHAPE: Final = shapes.resource(
    {
        "publicIPAllocationMethod": shapes.Choice("Static", "Dynamic"),
        "publicIPAddressVersion": shapes.Choice("IPv4", "IPv6"),
        "dnsSettings": shapes.Record(
            {
                "domainNameLabel": shapes.Text(),
                "domainNameLabelScope": shapes.Choice(
                    "TenantReuse", "SubscriptionReuse", "ResourceGroupReuse", "NoReuse"
                ),
                "reverseFqdn": shapes.Text(),
                "fqdn": shapes.Derived(),
            }
        ),
        "ddosSettings": shapes.Record(
            {
                "protectionMode": shapes.Choice("VirtualNetworkInherited", "Enabled", "Disabled"),
                "ddosProtectionPlan": shapes.Reference("ddosProtectionPlans"),
            }
        ),
        "ipTags": shapes.Many(shapes.Record({"ipTagType": shapes.Text(), "tag": shapes.Text()})),
        "idleTimeoutInMinutes": shapes.Number(),
        "publicIPPrefix": shapes.Reference("publicIPPrefixes"),
        "deleteOption": shapes.Choice("Delete", "Detach"),
        "ipAddress": shapes.Derived(),
        "ipConfiguration": shapes.Derived(),
        "natGateway": shapes.Derived(),
        "servicePublicIPAddress": shapes.Anything(),
        "linkedPublicIPAddress": shapes.Anything(),
        "migrationPhase": shapes.Anything(),
        "upgradedToV2": shapes.Derived(),
    },
    sku=shapes.Record(
        {"name": shapes.Choice("Basic", "Standard", "StandardV2"), "tier": shapes.Choice("Regional", "Global")}
    ),
    zones=shapes.Many(shapes.Text()),
)


def holder_of(world: World, address: ResourceId) -> ResourceId | None:
    """The IP configuration that a public address is associated with."""
    for kind, member in (
        (addresses.INTERFACES, "ipConfigurations"),
        (addresses.BALANCERS, "frontendIPConfigurations"),
    ):
        for document in world.all(kind):
            for one in document.properties.get(member) or ():
                if refusals.key_of(one["properties"].get("publicIPAddress")) == address.key:
                    return document.id.child(member, one["name"])
    return None


def associated(world: World, reference: Json, holder: ResourceId, location: str) -> Document:
    """The public address that the IP configuration ``holder`` names, unless another one has it."""
    found = refusals.referenced(world, reference, holder.outer, location=location)
    other = holder_of(world, found.id)
    if other is not None and other.key != holder.key:
        raise refused(
            "PublicIPAddressInUse",
            f"Resource {holder} is referencing public IP address {found.id} that is already allocated to resource "
            f"{other}.",
        )
    return found


def fqdn_of(document: Document) -> str | None:
    """Its public name; None if it has no label."""
    label = (document.properties.get("dnsSettings") or {}).get("domainNameLabel")
    return f"{label}.{document.body['location']}.cloudapp.azure.com".lower() if label else None


class PublicAddresses:
    """The kind of public IP addresses."""

    name = KIND
    style = Style.NETWORK
    is_tracked = True

    def write(self, change: Change, id: ResourceId, body: Json, before: Document | None, caller: Caller) -> Document:
        """PUT: an address; the one that it is given stays."""
        given = shapes.read(_SHAPE, body)
        given["location"] = refusals.location_of(given)
        old = before.body.get("sku") if before is not None else None
        sku = {"name": "Basic", "tier": "Regional", **(old or {}), **(given.get("sku") or {})}
        if old is not None:
            refusals.check_unlike(before, "Sku", old["name"], sku["name"], "SkuCannotBeChangedOnUpdate")
        version = (before.properties if before is not None else {}).get("publicIPAddressVersion", "IPv4")
        properties = {
            "publicIPAddressVersion": version,
            "publicIPAllocationMethod": "Dynamic" if sku["name"] == "Basic" else "Static",
            "idleTimeoutInMinutes": 4,
            "ipTags": [],
            **given["properties"],
        }
        self._check(change, id, sku, properties, given["location"])
        if before is not None:
            version = before.properties["publicIPAddressVersion"]
            wanted = properties["publicIPAddressVersion"]
            refusals.check_unlike(before, "PublicIPAddressVersion", version, wanted, "CannotChangeAddressVersion")
            properties["ipAddress"] = before.properties["ipAddress"]
        else:
            properties["ipAddress"] = _next_free(change, id, properties["publicIPAddressVersion"])
        return change.put(id, KIND, {**given, "sku": sku, "properties": properties})

    def _check(self, change: Change, id: ResourceId, sku: Json, properties: Json, location: str) -> None:
        if sku["name"] != "Basic" and properties["publicIPAllocationMethod"] == "Dynamic":
            raise refused(
                "StandardSkuPublicIPAddressesMustUseStaticAllocation",
                f"Standard sku publicIp {id} must have AllocationMethod set to Static.",
            )
        if properties["idleTimeoutInMinutes"] not in _IDLE_MINUTES:
            raise refused(
                "InvalidIdleTimeout",
                f"Idle timeout of {properties['idleTimeoutInMinutes']} minutes of resource {id} is not valid. "
                f"It has to be between {_IDLE_MINUTES.start} and {_IDLE_MINUTES.stop - 1} minutes.",
            )
        label = str((properties.get("dnsSettings") or {}).get("domainNameLabel") or "").lower()
        if not label:
            return
        if not _is_label(label):
            raise refused(
                "InvalidDomainNameLabel",
                f"The domain name label {label} is invalid. It must conform to the following regular expression: "
                "^[a-z][a-z0-9-]{1,61}[a-z0-9]$.",
            )
        for one in change.all(KIND):
            if one.key != id.key and fqdn_of(one) == f"{label}.{location}.cloudapp.azure.com":
                raise refused(
                    "DnsRecordInUse",
                    f"DNS record {label}.{location}.cloudapp.azure.com is already used by another public IP.",
                )

    def patch(self, change: Change, document: Document, body: Json, caller: Caller) -> Document:
        """PATCH: tags."""
        return tagging.patch(change, document, body)

    def remove(self, change: Change, document: Document, caller: Caller) -> None:
        """DELETE: an address that nothing has."""
        holder = holder_of(change, document.id)
        if holder is not None:
            raise refused(
                "PublicIPAddressCannotBeDeleted",
                f"Public IP address {document.id} can not be deleted since it is still allocated to resource {holder}. "
                "In order to delete the public IP, disassociate/detach the Public IP address from the resource.  To "
                "learn how to do this, see aka.ms/deletepublicip.",
            )
        change.remove(document.id)

    def show(self, world: World, document: Document, caller: Caller) -> dict[str, Any]:
        """The address with what it is associated with."""
        properties = dict(document.properties)
        holder = holder_of(world, document.id)
        if holder is not None:
            properties["ipConfiguration"] = showing.reference(holder)
        elif properties["publicIPAllocationMethod"] == "Dynamic":
            del properties["ipAddress"]
        if fqdn := fqdn_of(document):
            properties["dnsSettings"] = {**properties["dnsSettings"], "fqdn": fqdn}
        if showing.is_since(caller, _DDOS_SINCE):
            properties.setdefault("ddosSettings", {"protectionMode": "VirtualNetworkInherited"})
        return showing.resource(document, properties)


def _is_label(label: str) -> bool:
    inner = all(one.isascii() and (one.isalnum() or one == "-") for one in label)
    return 3 <= len(label) <= 63 and inner and label[0].isalpha() and label[-1].isalnum()


def _next_free(change: Change, id: ResourceId, version: str) -> str:
    taken = {one.properties["ipAddress"] for one in change.all(KIND)}
    if version == "IPv6":
        return next(text for number in range(len(taken) + 1) if (text := str(_FIRST_V6 + number)) not in taken)
    for number in range(int(FIRST), int(LAST) + 1):
        text = str(IPv4Address(number))
        if text not in taken:
            return text
    raise refused(
        "PublicIPCountLimitReached",
        f"Cannot create more than {int(LAST) - int(FIRST) + 1} public IP addresses for this subscription in this "
        f"region ({id}).",
    )
