"""What is in force at an interface: its routes, the security rules that Azure would apply.

Source: "Diagnose a virtual machine routing problem" and "Virtual network traffic routing": the system routes, and the
/32 routes of private endpoints, which reach peered networks too. Azure answers for interfaces of running machines
alone; here every interface is one.
"""

from collections.abc import Iterator
from typing import Any, Final

from isthmus.lab.documents import Document, World
from isthmus.lab.ids import ResourceId
from isthmus.lab.kinds import Action, Caller, Json
from isthmus.lab.network import addresses, approvals, network_interfaces, peerings, security_groups, subnets

#: System routes whose packets Azure drops, unless a network's own space holds them.
_DROPPED: Final = (
    "10.0.0.0/8",
    "127.0.0.0/8",
    "100.64.0.0/10",
    "172.16.0.0/12",
    "25.48.0.0/12",
    "25.4.0.0/14",
    "198.18.0.0/15",
    "157.59.0.0/16",
    "192.168.0.0/16",
    "25.33.0.0/16",
    "40.109.0.0/16",
    "104.147.0.0/16",
    "104.146.0.0/17",
    "40.108.0.0/17",
    "23.103.0.0/18",
    "25.41.0.0/20",
    "20.35.252.0/22",
)


def _routes(world: World, scope: ResourceId, location: str | None, body: Json, caller: Caller) -> Json:
    """The routes of an interface, the most particular ones last as Azure lists them."""
    network = _network_of(world, scope)
    found = [_route(str(one), "VnetLocal") for one in addresses.space_of(network)]
    networks = [network]
    for peering in peerings.of(world, network.id):
        remote = world.get(peerings.remote_of(peering))
        if remote is not None and peerings.state_of(world, peering) == "Connected":
            found += [_route(str(one), "VNetPeering") for one in addresses.space_of(remote)]
            networks.append(remote)
    found.append(_route("0.0.0.0/0", "Internet"))
    local = {one["addressPrefix"][0] for one in found}
    found += [_route(prefix, "None") for prefix in _DROPPED if prefix not in local]
    found += [_route(f"{address}/32", "InterfaceEndpoint") for address in _endpoints_in(world, networks)]
    return {"value": found}


def _route(prefix: str, next_hop: str) -> dict[str, Any]:
    return {
        "source": "Default",
        "state": "Active",
        "addressPrefix": [prefix],
        "nextHopType": next_hop,
        "nextHopIpAddress": [],
    }


def _endpoints_in(world: World, networks: list[Document]) -> Iterator[addresses.Address]:
    keys = {one.key for one in networks}
    for endpoint in world.all(approvals.ENDPOINT_KIND):
        if subnets.network_key(endpoint.properties["subnet"]["id"]) in keys:
            yield from approvals.addresses_of(world, endpoint)


def _network_of(world: World, interface: ResourceId) -> Document:
    subnet = world.get(_subnet_of(world, interface))
    assert subnet is not None, interface  # noqa: S101  (an interface's subnet cannot be deleted)
    return subnets.network_of(world, subnet)


def _subnet_of(world: World, interface: ResourceId) -> str:
    document = world.get(interface)
    assert document is not None, interface  # noqa: S101  (the engine has looked)
    return str(document.properties["ipConfigurations"][0]["properties"]["subnet"]["id"])


def _security_groups(world: World, scope: ResourceId, location: str | None, body: Json, caller: Caller) -> Json:
    """The groups of an interface and of its subnet with all their rules."""
    interface = world.get(scope)
    subnet = world.get(_subnet_of(world, scope))
    found = []
    for member, holder in (("subnet", subnet), ("networkInterface", interface)):
        reference = (holder.properties.get("networkSecurityGroup") or {}).get("id") if holder is not None else None
        group = world.get(reference) if reference else None
        if group is not None and holder is not None:
            found.append(
                {
                    "networkSecurityGroup": {"id": str(group.id)},
                    "association": {member: {"id": str(holder.id)}},
                    "effectiveSecurityRules": [_rule(one) for one in security_groups.rules_in_force(world, group)],
                }
            )
    return {"value": found}


def _rule(shown: Json) -> dict[str, Any]:
    """A rule as it is in force: prefixes and port ranges as lists, a single port as a range."""
    said = shown["properties"]
    ranges = {
        member: said.get(f"{member}s") or [said[member]]
        for member in ("sourcePortRange", "destinationPortRange")
        if said.get(member) or said.get(f"{member}s")
    }
    prefixes = {
        member: said.get(f"{member}es") or [said[member]]
        for member in ("sourceAddressPrefix", "destinationAddressPrefix")
        if said.get(member) or said.get(f"{member}es")
    }
    return {
        "name": shown["name"],
        "protocol": "All" if said["protocol"] == "*" else said["protocol"],
        **{f"{member}s": [_range(one) for one in values] for member, values in ranges.items()},
        **{f"{member}es": values for member, values in prefixes.items()},
        "access": said["access"],
        "priority": said["priority"],
        "direction": said["direction"],
    }


def _range(text: str) -> str:
    if text == "*":
        return "0-65535"
    return text if "-" in text else f"{text}-{text}"


ACTIONS: Final = (
    Action("effectiveroutetable", _routes, is_async=True, kind=network_interfaces.KIND),
    Action("effectivenetworksecuritygroups", _security_groups, is_async=True, kind=network_interfaces.KIND),
)
