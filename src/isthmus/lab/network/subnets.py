"""Subnets: ``Microsoft.Network/virtualNetworks/subnets``.

A subnet is a document of its own, written through its virtual network or by itself; with each change its network gets
a new etag, since clients see the two as one resource. What lies in a subnet is found when it is shown.
"""

from typing import Any, Final

from isthmus.lab import ids
from isthmus.lab.documents import Change, Document, World
from isthmus.lab.ids import Key, ResourceId
from isthmus.lab.kinds import Caller, Json, Style
from isthmus.lab.network import addresses, refusals, shapes, showing
from isthmus.lab.network.addresses import Prefix
from isthmus.lab.network.refusals import refused

KIND: Final = "Microsoft.Network/virtualNetworks/subnets"
NETWORK_KIND: Final = "Microsoft.Network/virtualNetworks"

#: The first api-version that shows address management members (recorded: 2022-01-01 does not, 2024-05-01 does).
IPAM_SINCE: Final = "2024-01-01"

#: The smallest subnet is a /29 (Azure Virtual Network FAQ).
_FEWEST_ADDRESSES: Final = 8

_DELEGATION: Final = shapes.part({"serviceName": shapes.Text(), "actions": shapes.Derived()})

SHAPE: Final = shapes.part(
    {
        "addressPrefix": shapes.Text(),
        "addressPrefixes": shapes.Many(shapes.Text()),
        "networkSecurityGroup": shapes.Reference("networkSecurityGroups"),
        "routeTable": shapes.Reference("routeTables"),
        "natGateway": shapes.Reference("natGateways"),
        "serviceEndpoints": shapes.Many(
            shapes.Record(
                {
                    "service": shapes.Text(),
                    "locations": shapes.Many(shapes.Text()),
                    "provisioningState": shapes.Derived(),
                }
            )
        ),
        "serviceEndpointPolicies": shapes.Many(shapes.Reference("serviceEndpointPolicies")),
        "delegations": shapes.Many(_DELEGATION),
        "privateEndpointNetworkPolicies": shapes.Choice(
            "Disabled", "Enabled", "NetworkSecurityGroupEnabled", "RouteTableEnabled"
        ),
        "privateLinkServiceNetworkPolicies": shapes.Choice("Disabled", "Enabled"),
        "defaultOutboundAccess": shapes.Flag(),
        "sharingScope": shapes.Choice("Tenant", "DelegatedServices"),
        "ipamPoolPrefixAllocations": shapes.Many(shapes.Anything()),
        "ipAllocations": shapes.Many(shapes.Reference()),
        "applicationGatewayIPConfigurations": shapes.Many(shapes.Anything()),
        "ipConfigurations": shapes.Derived(),
        "ipConfigurationProfiles": shapes.Derived(),
        "privateEndpoints": shapes.Derived(),
        "resourceNavigationLinks": shapes.Derived(),
        "serviceAssociationLinks": shapes.Derived(),
        "purpose": shapes.Derived(),
    }
)

_DEFAULTS: Final = {
    "delegations": [],
    "privateEndpointNetworkPolicies": "Disabled",
    "privateLinkServiceNetworkPolicies": "Enabled",
}


def of(world: World, network: ResourceId) -> list[Document]:
    """The subnets of a network, in the order of creation."""
    found = world.all(KIND, subscription=network.subscription, group=network.group)
    return [one for one in found if one.id.outer.key == network.key]


def network_of(world: World, subnet: Document) -> Document:
    """The virtual network of a subnet."""
    found = world.get(subnet.id.outer)
    if found is None:
        raise AssertionError(f"{subnet.id} has no network")
    return found


def network_key(subnet: str) -> Key:
    """The virtual network of the subnet with that id."""
    return Key(ids.key(subnet).rpartition("/subnets/")[0])


def referenced(world: World, reference: Json, referrer: ResourceId, location: str) -> Document:
    """The subnet that a resource in ``location`` names, in a network of its region and its subscription."""
    found = refusals.referenced(world, reference, referrer)
    network = network_of(world, found)
    if network.body["location"] != location or found.id.subscription.lower() != referrer.subscription.lower():
        raise refusals.not_found(str(reference["id"]), referrer)
    return found


def put(change: Change, network: Document, id: ResourceId, given: Json) -> Document:
    """Write one subnet; ``given`` has been read by ``SHAPE``. ``check_all`` has to follow."""
    refusals.check_name(id.name)
    properties = {**_DEFAULTS, **given["properties"]}
    before = change.get(id)
    texts = list(dict.fromkeys([*_one(properties.get("addressPrefix")), *(properties.get("addressPrefixes") or ())]))
    if not texts and not properties.get("ipamPoolPrefixAllocations"):
        raise shapes.missing("addressPrefix", "properties")
    prefixes = [addresses.parse_prefix(one, id) for one in texts]
    if any(one.num_addresses < _FEWEST_ADDRESSES for one in prefixes):
        raise refused("NetcfgInvalidSubnet", f"Subnet '{id.name}' is not valid in virtual network '{network.id.name}'.")
    if group := properties.get("networkSecurityGroup"):
        refusals.referenced(change, group, id, location=network.body["location"])
    _check_held(change, id, prefixes, properties, before)
    return change.put(id, KIND, {"properties": properties})


def _one(prefix: str | None) -> list[str]:
    return [prefix] if prefix else []


def _check_held(
    change: Change, id: ResourceId, prefixes: list[Prefix], properties: Json, before: Document | None
) -> None:
    """Refuse what the resources in a subnet do not bear."""
    if before is None:
        return
    held = addresses.holdings_in(change, id)
    for prefix in addresses.prefixes_of(before.properties):
        inside = [address for one in held for address in one.addresses if address in prefix]
        if any(not any(address in one for one in prefixes) for address in inside):
            raise refused(
                "InUsePrefixCannotBeDeleted",
                f"IpPrefix {prefix} on Subnet {id.name} has active allocations and cannot be deleted.",
            )
    is_enabled = properties["privateLinkServiceNetworkPolicies"] == "Enabled"
    if is_enabled and any(_owner(change, one, "privateLinkService") for one in held):
        raise refused(
            "PrivateLinkServiceNetworkPoliciesCannotBeEnabledOnPrivateLinkServiceSubnet",
            f"Private link service network policies cannot be enabled on private link service subnet {id}.",
        )


def _owner(world: World, holding: addresses.Holding, member: str) -> str | None:
    """The id of the endpoint or the link service (``member``) that an IP configuration belongs to."""
    document = world.get(holding.id.outer)
    found = document.properties.get(member) if document is not None else None
    return None if found is None else str(found["id"])


def check_all(world: World, network: Document) -> None:
    """Refuse subnets outside of their network's address space, and such that overlap."""
    space = addresses.space_of(network)
    before: list[tuple[Document, tuple[Prefix, ...]]] = []
    for subnet in of(world, network.id):
        prefixes = addresses.prefixes_of(subnet.properties)
        if not all(any(addresses.is_within(one, outer) for outer in space) for one in prefixes):
            raise refused(
                "NetcfgInvalidSubnet",
                f"Subnet '{subnet.id.name}' is not valid in virtual network '{network.id.name}'.",
            )
        if any(addresses.overlap(prefixes, others) for _, others in before):
            raise refused(
                "NetcfgSubnetRangesOverlap",
                f"Subnet '{subnet.id.name}' is not valid because its IP address range overlaps with that of an "
                f"existing subnet in virtual network '{network.id.name}'.",
            )
        before.append((subnet, prefixes))


def remove(change: Change, subnet: Document) -> None:
    """Remove a subnet that nothing lies in."""
    held = next(iter(addresses.holdings_in(change, subnet.id)), None)
    if held is not None:
        raise refused(
            "InUseSubnetCannotBeDeleted",
            f"Subnet {subnet.id.name} is in use by {held.id} and cannot be deleted. In order to delete the subnet, "
            "delete all the resources within the subnet. See aka.ms/deletesubnet.",
        )
    change.remove(subnet.id)


class Subnets:
    """The kind of subnets."""

    name = KIND
    style = Style.NETWORK
    is_tracked = False

    def write(self, change: Change, id: ResourceId, body: Json, before: Document | None, caller: Caller) -> Document:
        """PUT: one subnet of a network."""
        network = change.get(id.outer)
        if network is None:
            raise refusals.not_found(str(id.outer), id)
        subnet = put(change, network, id, shapes.read(SHAPE, body))
        check_all(change, network)
        change.put(network.id, network.kind, network.body)
        return subnet

    def patch(self, change: Change, document: Document, body: Json, caller: Caller) -> Document:
        """PATCH: Azure has none for subnets; what is said is written, the rest stays."""
        given = shapes.read(SHAPE, body)
        merged = {**document.body, **given, "properties": {**document.properties, **given["properties"]}}
        return self.write(change, document.id, merged, document, caller)

    def remove(self, change: Change, document: Document, caller: Caller) -> None:
        """DELETE: a subnet that nothing lies in."""
        network = network_of(change, document)
        remove(change, document)
        change.put(network.id, network.kind, network.body)

    def show(self, world: World, document: Document, caller: Caller) -> dict[str, Any]:
        """The subnet with what lies in it."""
        return shown(world, document, caller, addresses.holdings_in(world, document.id))


def shown(world: World, subnet: Document, caller: Caller, held: list[addresses.Holding]) -> dict[str, Any]:
    """A subnet as Azure shows it; ``held`` are the IP configurations in it."""
    properties = dict(subnet.properties)
    endpoints = dict.fromkeys(one for held_one in held if (one := _owner(world, held_one, "privateEndpoint")))
    derived: dict[str, Any] = {
        **showing.if_any("ipConfigurations", [one.id for one in held]),
        **showing.if_any("privateEndpoints", list(endpoints)),
    }
    if endpoints:
        derived["purpose"] = "PrivateEndpoints"
    if "serviceEndpoints" in properties:
        properties["serviceEndpoints"] = [
            {"provisioningState": "Succeeded", **one} for one in properties["serviceEndpoints"]
        ]
    if showing.is_since(caller, IPAM_SINCE):
        properties.setdefault("ipamPoolPrefixAllocations", [])
    properties["delegations"] = [
        showing.part(
            subnet,
            subnet.id.child("delegations", str(one.get("name", ""))),
            one,
            {**one["properties"], "actions": ["Microsoft.Network/virtualNetworks/subnets/join/action"]},
        )
        for one in properties["delegations"]
    ]
    return showing.resource(subnet, {**properties, **derived}, has_guid=False)
