"""Network interfaces: ``Microsoft.Network/networkInterfaces``.

An interface holds the addresses of its IP configurations. One that a private endpoint or a link service brought along
names it in ``privateEndpoint`` or ``privateLinkService``, and nobody else may change it.
"""

import base64
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

from isthmus.lab.documents import Change, Document, World
from isthmus.lab.ids import ResourceId
from isthmus.lab.kinds import Caller, Json, Style
from isthmus.lab.network import addresses, public_addresses, refusals, shapes, showing, subnets, tagging
from isthmus.lab.network.refusals import refused

KIND: Final = addresses.INTERFACES

#: The first api-versions that show these members where a client has not set them.
_ACCELERATION_SINCE: Final = "2022-01-01"
_AUXILIARY_SINCE: Final = "2022-07-01"

_CONFIGURATION: Final = shapes.part(
    {
        "privateIPAddress": shapes.Text(),
        "privateIPAddressPrefixLength": shapes.Number(),
        "privateIPAllocationMethod": shapes.Choice("Static", "Dynamic"),
        "privateIPAddressVersion": shapes.Choice("IPv4", "IPv6"),
        "subnet": shapes.Reference("virtualNetworks/subnets"),
        "primary": shapes.Flag(),
        "publicIPAddress": shapes.Reference("publicIPAddresses"),
        "loadBalancerBackendAddressPools": shapes.Many(shapes.Reference("loadBalancers/backendAddressPools")),
        "loadBalancerInboundNatRules": shapes.Many(shapes.Reference("loadBalancers/inboundNatRules")),
        "applicationSecurityGroups": shapes.Many(shapes.Reference("applicationSecurityGroups")),
        "applicationGatewayBackendAddressPools": shapes.Many(shapes.Reference()),
        "gatewayLoadBalancer": shapes.Reference(),
        "virtualNetworkTaps": shapes.Many(shapes.Anything()),
        "privateLinkConnectionProperties": shapes.Derived(),
    }
)

_SHAPE: Final = shapes.resource(
    {
        "ipConfigurations": shapes.Many(_CONFIGURATION),
        "networkSecurityGroup": shapes.Reference("networkSecurityGroups"),
        "dnsSettings": shapes.Record(
            {
                "dnsServers": shapes.Many(shapes.Text()),
                "internalDnsNameLabel": shapes.Text(),
                "appliedDnsServers": shapes.Derived(),
                "internalFqdn": shapes.Derived(),
                "internalDomainNameSuffix": shapes.Derived(),
            }
        ),
        "enableAcceleratedNetworking": shapes.Flag(),
        "enableIPForwarding": shapes.Flag(),
        "disableTcpStateTracking": shapes.Flag(),
        "auxiliaryMode": shapes.Text(),
        "auxiliarySku": shapes.Text(),
        "nicType": shapes.Choice("Standard", "Elastic"),
        "workloadType": shapes.Text(),
        "migrationPhase": shapes.Anything(),
        "virtualMachine": shapes.Derived(),
        "privateEndpoint": shapes.Derived(),
        "privateLinkService": shapes.Derived(),
        "tapConfigurations": shapes.Derived(),
        "macAddress": shapes.Derived(),
        "primary": shapes.Derived(),
        "vnetEncryptionSupported": shapes.Derived(),
        "defaultOutboundConnectivityEnabled": shapes.Derived(),
        "hostedWorkloads": shapes.Derived(),
        "dscpConfiguration": shapes.Derived(),
    },
    kind=shapes.Derived(),
)


def owner_of(interface: Document) -> tuple[str, str] | None:
    """``("private endpoint", id)`` or ``("private link service", id)`` of an interface that belongs to one."""
    for member, what in (("privateEndpoint", "private endpoint"), ("privateLinkService", "private link service")):
        if member in interface.properties:
            return what, str(interface.properties[member]["id"])
    return None


def bring(
    change: Change, id: ResourceId, owner: Document, member: str, configurations: Sequence[Mapping[str, Any]]
) -> Document:
    """Write the interface of an endpoint or a link service (``member`` says which)."""
    properties = {
        member: showing.reference(owner.id),
        "ipConfigurations": [dict(one) for one in configurations],
        "dnsSettings": {"dnsServers": []},
        "enableIPForwarding": False,
        "nicType": "Standard",
    }
    body: dict[str, Any] = {"location": owner.body["location"], "properties": properties}
    return change.put(id, KIND, body)


class NetworkInterfaces:
    """The kind of network interfaces."""

    name = KIND
    style = Style.NETWORK
    is_tracked = True

    def write(self, change: Change, id: ResourceId, body: Json, before: Document | None, caller: Caller) -> Document:
        """PUT: an interface with its IP configurations."""
        if before is not None:
            _check_free(before)
        given = shapes.read(_SHAPE, body)
        given["location"] = refusals.location_of(given)
        properties = {"enableIPForwarding": False, "nicType": "Standard", **given["properties"]}
        properties["dnsSettings"] = {"dnsServers": [], **(properties.get("dnsSettings") or {})}
        for server in properties["dnsSettings"]["dnsServers"]:
            addresses.parse_address(server, id)
        if group := properties.get("networkSecurityGroup"):
            refusals.referenced(change, group, id, location=given["location"])
        asked = properties.get("ipConfigurations") or []
        properties["ipConfigurations"] = self._configurations(change, id, asked, before, given["location"])
        return change.put(id, KIND, {**given, "properties": properties})

    def _configurations(
        self, change: Change, id: ResourceId, given: Sequence[Json], before: Document | None, location: str
    ) -> list[dict[str, Any]]:
        """The IP configurations, checked, each with an address."""
        if not given:
            raise refused(
                "NetworkInterfaceMustHaveAtLeastOneIPConfiguration",
                f"Network interface {id} must have at least one IP configuration.",
            )
        ordered = _with_primary(id, given)
        held = before.properties["ipConfigurations"] if before is not None else ()
        old = {one["name"].lower(): one["properties"] for one in held}
        allocation = addresses.Allocation(change, id)
        first = next((one["properties"]["subnet"] for one in ordered if "subnet" in one["properties"]), None)
        if first is None:
            raise shapes.unreadable(
                "MissingJsonReferenceId",
                "Value for reference id is missing. Path properties.ipConfigurations[0].properties.subnet.",
            )
        for one in addresses.by_claim(ordered, old):
            said, holder = one["properties"], id.child("ipConfigurations", one["name"])
            subnet = subnets.referenced(change, said.setdefault("subnet", first), id, location)
            allocation.fill(subnet, holder, said, old.get(holder.name.lower(), {}))
            _check_references(change, holder, said, location)
        if len({subnets.network_key(one["properties"]["subnet"]["id"]) for one in ordered}) > 1:
            raise refused(
                "NicIpConfigurationsMustBeInSameVnet",
                f"All IP configurations of network interface {id} must be in the same virtual network.",
            )
        return ordered

    def patch(self, change: Change, document: Document, body: Json, caller: Caller) -> Document:
        """PATCH: tags."""
        _check_free(document)
        return tagging.patch(change, document, body)

    def remove(self, change: Change, document: Document, caller: Caller) -> None:
        """DELETE: an interface that is nobody's."""
        owner = owner_of(document)
        if owner is not None:
            what, name = owner
            raise refused(
                "NicInUseWithPrivateEndpoint" if what == "private endpoint" else "NicInUseWithPrivateLinkService",
                f"Network interface {document.id} cannot be deleted because it is currently in use with an {what} "
                f"({name}).",
            )
        change.remove(document.id)

    def show(self, world: World, document: Document, caller: Caller) -> dict[str, Any]:
        """The interface; references to what is gone are left out."""
        document = showing.settled(document)
        properties = dict(document.properties)
        properties["ipConfigurations"] = configurations(world, document)
        properties["dnsSettings"] = _dns_settings(world, document)
        derived: dict[str, Any] = {"vnetEncryptionSupported": False, "hostedWorkloads": [], "tapConfigurations": []}
        if showing.is_since(caller, _ACCELERATION_SINCE):
            properties.setdefault("enableAcceleratedNetworking", False)
        if showing.is_since(caller, _AUXILIARY_SINCE):
            properties.setdefault("disableTcpStateTracking", False)
            properties.setdefault("auxiliaryMode", "None")
            properties.setdefault("auxiliarySku", "None")
        return {**showing.resource(document, {**properties, **derived}), "kind": "Regular"}


def configurations(world: World, interface: Document) -> list[dict[str, Any]]:
    """The IP configurations as Azure shows them."""
    return [_shown_configuration(world, interface, one) for one in interface.properties["ipConfigurations"]]


def _shown_configuration(world: World, interface: Document, one: Json) -> dict[str, Any]:
    said = dict(one["properties"])
    for member in ("loadBalancerBackendAddressPools", "loadBalancerInboundNatRules"):
        there = [reference for reference in said.pop(member, ()) if world.get(reference["id"]) is not None]
        if there:
            said[member] = there
    return showing.part(interface, interface.id.child("ipConfigurations", one["name"]), one, said)


def _dns_settings(world: World, interface: Document) -> dict[str, Any]:
    settings = interface.properties["dnsSettings"]
    suffix = f"{_suffix_of(world, interface)}.dx.internal.cloudapp.net"
    shown = {**settings, "appliedDnsServers": settings["dnsServers"], "internalDomainNameSuffix": suffix}
    if label := settings.get("internalDnsNameLabel"):
        shown["internalFqdn"] = f"{label}.{suffix}"
    return shown


def _suffix_of(world: World, interface: Document) -> str:
    """26 characters that are one virtual network's."""
    network = world.get(subnets.network_key(interface.properties["ipConfigurations"][0]["properties"]["subnet"]["id"]))
    guid = network.guid if network is not None else interface.guid
    return base64.b32encode(uuid.UUID(guid).bytes).decode().rstrip("=").lower()


def _check_references(change: Change, holder: ResourceId, said: Json, location: str) -> None:
    """Refuse a public address that another one has, and pools and rules that are not there."""
    if public := said.get("publicIPAddress"):
        public_addresses.associated(change, public, holder, location)
    for member in ("loadBalancerBackendAddressPools", "loadBalancerInboundNatRules"):
        for reference in said.get(member) or ():
            refusals.referenced(change, reference, holder.outer)


def _check_free(interface: Document) -> None:
    owner = owner_of(interface)
    if owner is None:
        return
    what, name = owner
    raise refused(
        "CannotModifyNicAttachedToPrivateEndpoint"
        if what == "private endpoint"
        else "CannotModifyNicAttachedToPrivateLinkService",
        f"Network interface {interface.id} is attached to {what} {name}. It can not be modified by user.",
    )


def _with_primary(id: ResourceId, given: Sequence[Json]) -> list[dict[str, Any]]:
    """The IP configurations, each with a name and ``primary``, the primary one first (as recorded)."""
    found = [
        {**one, "name": str(one.get("name") or f"ipconfig{index}"), "properties": dict(one["properties"])}
        for index, one in enumerate(given, start=1)
    ]
    refusals.check_parts(id, "ipConfigurations", found)
    chosen = [one for one in found if one["properties"].get("primary")]
    if len(chosen) > 1:
        raise refused(
            "NetworkInterfaceMustUseOnePrimaryIPConfiguration",
            f"Network interface {id} has more than one primary IP configuration.",
        )
    primary = chosen[0] if chosen else found[0]
    for one in found:
        one["properties"]["primary"] = one is primary
    return sorted(found, key=lambda one: one is not primary)
