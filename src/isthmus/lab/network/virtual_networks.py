"""Virtual networks: ``Microsoft.Network/virtualNetworks``.

Subnets and peerings may be written with their network: those that are named are created or changed, those that are
not are removed, and without the member all of them stay (Azure, "Virtual network updates without the subnet
property").
"""

from typing import Any, Final

from isthmus.lab import ids
from isthmus.lab.documents import Change, Document, World
from isthmus.lab.ids import ResourceId
from isthmus.lab.kinds import Caller, Json, Style
from isthmus.lab.network import addresses, peerings, refusals, shapes, showing, subnets, tagging

KIND: Final = subnets.NETWORK_KIND

_SPACE: Final = shapes.Record(
    {
        "addressPrefixes": shapes.Many(shapes.Text()),
        "ipamPoolPrefixAllocations": shapes.Many(shapes.Anything()),
    }
)

_SHAPE: Final = shapes.resource(
    {
        "addressSpace": _SPACE,
        "dhcpOptions": shapes.Record({"dnsServers": shapes.Many(shapes.Text())}),
        "flowTimeoutInMinutes": shapes.Number(),
        "subnets": shapes.Many(subnets.SHAPE),
        "virtualNetworkPeerings": shapes.Many(peerings.SHAPE),
        "enableDdosProtection": shapes.Flag(),
        "enableVmProtection": shapes.Flag(),
        "ddosProtectionPlan": shapes.Reference("ddosProtectionPlans"),
        "bgpCommunities": shapes.Record({"virtualNetworkCommunity": shapes.Text()}),
        "encryption": shapes.Record(
            {"enabled": shapes.Flag(), "enforcement": shapes.Choice("DropUnencrypted", "AllowUnencrypted")}
        ),
        "ipAllocations": shapes.Many(shapes.Reference()),
        "privateEndpointVNetPolicies": shapes.Choice("Disabled", "Basic"),
        "flowLogs": shapes.Derived(),
        "defaultPublicNatGateway": shapes.Derived(),
    }
)


class VirtualNetworks:
    """The kind of virtual networks."""

    name = KIND
    style = Style.NETWORK
    is_tracked = True

    def write(self, change: Change, id: ResourceId, body: Json, before: Document | None, caller: Caller) -> Document:
        """PUT: a network with its subnets and peerings."""
        given = shapes.read(_SHAPE, body)
        given["location"] = refusals.location_of(given)
        properties = given["properties"]
        inner = properties.pop("subnets", None)
        peered = properties.pop("virtualNetworkPeerings", None)
        self._check_space(id, properties)
        if "dhcpOptions" in properties:
            servers = [one for one in properties["dhcpOptions"].get("dnsServers") or () if one]
            properties["dhcpOptions"] = {**properties["dhcpOptions"], "dnsServers": servers}
            for server in servers:
                addresses.parse_address(server, id)
        document = change.put(id, KIND, {**given, "properties": {"enableDdosProtection": False, **properties}})
        if inner is not None:
            self._write_subnets(change, document, inner)
        subnets.check_all(change, document)
        peerings.check_space(change, document)
        if peered is not None:
            self._write_peerings(change, document, peered)
        return document

    def patch(self, change: Change, document: Document, body: Json, caller: Caller) -> Document:
        """PATCH: tags."""
        return tagging.patch(change, document, body)

    def remove(self, change: Change, document: Document, caller: Caller) -> None:
        """DELETE: a network whose subnets are free; networks that are peered with it see it gone."""
        for subnet in subnets.of(change, document.id):
            subnets.remove(change, subnet)
        for peering in peerings.of(change, document.id):
            peerings.remove(change, peering)
        change.remove(document.id)

    def show(self, world: World, document: Document, caller: Caller) -> dict[str, Any]:
        """The network with its subnets and peerings."""
        properties = dict(document.properties)
        if showing.is_since(caller, subnets.IPAM_SINCE):
            properties["addressSpace"] = {"ipamPoolPrefixAllocations": [], **properties["addressSpace"]}
            properties.setdefault("privateEndpointVNetPolicies", "Disabled")
        held: dict[ids.Key, list[addresses.Holding]] = {}
        for one in addresses.all_holdings(world):
            held.setdefault(one.subnet, []).append(one)
        properties["subnets"] = [
            subnets.shown(world, one, caller, held.get(one.key, [])) for one in subnets.of(world, document.id)
        ]
        properties["virtualNetworkPeerings"] = [peerings.shown(world, one) for one in peerings.of(world, document.id)]
        return showing.resource(document, properties)

    def _check_space(self, id: ResourceId, properties: Json) -> None:
        space = properties.get("addressSpace") or {}
        texts = space.get("addressPrefixes") or []
        if not texts and not space.get("ipamPoolPrefixAllocations"):
            raise shapes.missing("addressPrefixes" if "addressSpace" in properties else "addressSpace", "properties")
        prefixes = [addresses.parse_prefix(one, id) for one in texts]
        for index, one in enumerate(prefixes):
            if addresses.overlap([one], prefixes[:index]):
                raise refusals.refused(
                    "VnetAddressSpacesOverlapping",
                    f"Address prefix {one} of virtual network {id} overlaps with another of its address prefixes.",
                )

    def _write_subnets(self, change: Change, network: Document, given: list[Json]) -> None:
        wanted = {str(one.get("name", "")).lower() for one in given}
        for subnet in subnets.of(change, network.id):
            if subnet.id.name.lower() not in wanted:
                subnets.remove(change, subnet)
        for one in given:
            subnets.put(change, network, network.id.child("subnets", str(one.get("name", ""))), one)

    def _write_peerings(self, change: Change, network: Document, given: list[Json]) -> None:
        wanted = {str(one.get("name", "")).lower() for one in given}
        for peering in peerings.of(change, network.id):
            if peering.id.name.lower() not in wanted:
                peerings.remove(change, peering)
        for one in given:
            half = network.id.child("virtualNetworkPeerings", str(one.get("name", "")))
            if not peerings.is_unchanged(change.get(half), one):
                peerings.put(change, half, one, is_synced=False)
