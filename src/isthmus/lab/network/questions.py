"""Questions beside the resources: what is free, what is visible, how much there is."""

from collections.abc import Sequence
from typing import Any, Final

from isthmus.lab.documents import World
from isthmus.lab.ids import ResourceId
from isthmus.lab.kinds import Action, Caller, Json
from isthmus.lab.network import (
    addresses,
    approvals,
    endpoints,
    link_services,
    load_balancers,
    network_interfaces,
    public_addresses,
    security_groups,
    shapes,
    subnets,
)
from isthmus.lab.network.refusals import refused

#: How many free addresses Azure names.
_NAMED: Final = 5

#: Kind, name, display name, limit of a subscription in a region (Azure subscription and service limits).
_USAGES: Final = (
    (subnets.NETWORK_KIND, "VirtualNetworks", "Virtual Networks", 1000),
    (public_addresses.KIND, "PublicIPAddresses", "Public IP Addresses", 1000),
    (security_groups.KIND, "NetworkSecurityGroups", "Network Security Groups", 5000),
    (network_interfaces.KIND, "NetworkInterfaces", "Network Interfaces", 65536),
    (load_balancers.KIND, "LoadBalancers", "Load Balancers", 1000),
    (endpoints.KIND, "PrivateEndpoints", "Private Endpoints", 65536),
    (link_services.KIND, "PrivateLinkServices", "Private Link Services", 800),
)

#: What an endpoint can lead to here.
_ENDPOINT_TYPE: Final = "Microsoft.Network/privateLinkServices"

_VISIBILITY: Final = shapes.Record({"privateLinkServiceAlias": shapes.Text()})


def _free_addresses(world: World, scope: ResourceId, location: str | None, body: Json, caller: Caller) -> Json:
    """Whether an address of a virtual network is free, and a few that are."""
    query = {name.lower(): value for name, value in caller.query.items()}
    text = query.get("ipaddress", "")
    address = addresses.parse_address(text, scope)
    for subnet in subnets.of(world, scope):
        prefix = next((one for one in addresses.prefixes_of(subnet.properties) if address in one), None)
        if prefix is None:
            continue
        taken = {address for one in addresses.holdings_in(world, subnet.id) for address in one.addresses}
        free = (one for one in addresses.hosts_of(prefix) if one not in taken)
        named = [str(one) for one, _ in zip(free, range(_NAMED), strict=False)]
        usable = addresses.is_host(address, prefix)
        return {
            "available": usable and address not in taken,
            "availableIPAddresses": [] if usable and address not in taken else named,
            "isPlatformReserved": not usable,
        }
    raise refused(
        "PrivateIPAddressNotInAnySubnet",
        f"Private static IP address {text} does not belong to the range of any subnet prefix of virtual "
        f"network {scope}.",
    )


def _visibility(world: World, scope: ResourceId, location: str | None, body: Json, caller: Caller) -> Json:
    """Whether a subscription sees the service with an alias."""
    given = _VISIBILITY.read(body, "")
    if not given.get("privateLinkServiceAlias"):
        raise shapes.missing("privateLinkServiceAlias", "")
    service = approvals.find_service(world, given["privateLinkServiceAlias"])
    return {"visible": service is not None and approvals.is_visible(service, scope.subscription)}


def _auto_approved(world: World, scope: ResourceId, location: str | None, body: Json, caller: Caller) -> Json:
    """The services of a region that a subscription needs nobody's approval for."""
    found = [
        {"privateLinkService": str(one.id)}
        for one in world.all(approvals.SERVICE_KIND)
        if one.body["location"] == location and approvals.is_approved_at_once(one, scope.subscription)
    ]
    return {"value": found}


def _endpoint_types(world: World, scope: ResourceId, location: str | None, body: Json, caller: Caller) -> Json:
    name = _ENDPOINT_TYPE.replace("/", ".")
    around = f"{scope}/providers/Microsoft.Network/AvailablePrivateEndpointTypes/{name}"
    return {
        "value": [
            {
                "name": name,
                "id": around,
                "type": "Microsoft.Network/AvailablePrivateEndpointTypes",
                "resourceName": _ENDPOINT_TYPE,
                "displayName": _ENDPOINT_TYPE,
                "apiVersion": "2018-08-01",
            }
        ]
    }


def _usages(world: World, scope: ResourceId, location: str | None, body: Json, caller: Caller) -> Json:
    """How much of a subscription's limits is used in a region."""
    values = []
    for kind, name, display, limit in _USAGES:
        used = sum(1 for one in world.all(kind, subscription=scope.subscription) if one.body["location"] == location)
        values.append(
            {
                "currentValue": used,
                "id": f"{scope}/providers/Microsoft.Network/locations/{location}/usages/{name}",
                "limit": limit,
                "name": {"localizedValue": display, "value": name},
                "unit": "Count",
            }
        )
    return {"value": values}


def _no_values(world: World, scope: ResourceId, location: str | None, body: Json, caller: Caller) -> Json:
    return {"value": []}


def _done(world: World, scope: ResourceId, location: str | None, body: Json, caller: Caller) -> Json:
    return {}


class NetworkUsages:
    """How full the subnets of a virtual network are."""

    name = f"{subnets.NETWORK_KIND}/usages"

    def list(self, world: World, parent: ResourceId, caller: Caller) -> Sequence[dict[str, Any]]:
        """One a subnet."""
        return [
            {
                "currentValue": float(len(addresses.holdings_in(world, one.id))),
                "id": str(one.id),
                "limit": float(addresses.capacity_of(one)),
                "name": {"localizedValue": "Subnet size and usage", "value": "SubnetSpace"},
                "unit": "Count",
            }
            for one in subnets.of(world, parent)
        ]


class Nothing:
    """A list that is always empty here."""

    def __init__(self, name: str) -> None:
        self.name = name

    def list(self, world: World, parent: ResourceId, caller: Caller) -> Sequence[dict[str, Any]]:
        """None."""
        return []


class Configurations:
    """The IP configurations of an interface."""

    name = f"{network_interfaces.KIND}/ipConfigurations"

    def list(self, world: World, parent: ResourceId, caller: Caller) -> Sequence[dict[str, Any]]:
        """All of them, the primary one first."""
        interface = world.get(parent)
        return [] if interface is None else network_interfaces.configurations(world, interface)


ACTIONS: Final = (
    Action("checkipaddressavailability", _free_addresses, method="GET", kind=subnets.NETWORK_KIND),
    Action("ddosprotectionstatus", _no_values, is_async=True, kind=subnets.NETWORK_KIND),
    Action("ddosprotectionstatus", _no_values, is_async=True, kind=public_addresses.KIND),
    Action("preparenetworkpolicies", _done, is_async=True, kind=subnets.KIND),
    Action("unpreparenetworkpolicies", _done, is_async=True, kind=subnets.KIND),
    Action("checkprivatelinkservicevisibility", _visibility, is_async=True),
    Action("autoapprovedprivatelinkservices", _auto_approved, method="GET"),
    Action("availableprivateendpointtypes", _endpoint_types, method="GET"),
    Action("usages", _usages, method="GET"),
)
