"""Private link services: ``Microsoft.Network/privateLinkServices``.

A service stands in front of a load balancer's frontend, or of one address (Azure's Direct Connect). Its NAT addresses
are held by an interface of its own; its connections come with endpoints.
"""

from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address
from typing import Any, Final

from isthmus.lab.documents import Change, Document, World
from isthmus.lab.ids import Key, ResourceId
from isthmus.lab.kinds import Caller, Json, Style
from isthmus.lab.network import (
    addresses,
    approvals,
    connections,
    load_balancers,
    network_interfaces,
    refusals,
    shapes,
    showing,
    subnets,
    tagging,
)
from isthmus.lab.network.refusals import refused

KIND: Final = approvals.SERVICE_KIND

#: Azure subscription and service limits, "Private Link".
MAX_NAT_ADDRESSES: Final = 8
_MAX_SERVICES_OF_BALANCER: Final = 8
_MAX_SUBSCRIPTIONS: Final = 100
MAX_ENDPOINTS: Final = 1000

#: Direct Connect wants NAT addresses in pairs.
_DIRECT_PAIR: Final = 2

#: The first api-version with ``accessMode``.
_ACCESS_MODE_SINCE: Final = "2025-01-01"

_SUBSCRIPTIONS: Final = shapes.Record({"subscriptions": shapes.Many(shapes.Text())})

_SHAPE: Final = shapes.resource(
    {
        "loadBalancerFrontendIpConfigurations": shapes.Many(shapes.Reference("loadBalancers/frontendIPConfigurations")),
        "ipConfigurations": shapes.Many(
            shapes.part(
                {
                    "privateIPAddress": shapes.Text(),
                    "privateIPAllocationMethod": shapes.Choice("Static", "Dynamic"),
                    "privateIPAddressVersion": shapes.Choice("IPv4", "IPv6"),
                    "subnet": shapes.Reference("virtualNetworks/subnets"),
                    "primary": shapes.Flag(),
                }
            )
        ),
        "destinationIPAddress": shapes.Text(),
        "accessMode": shapes.Choice("Default", "Restricted"),
        "visibility": _SUBSCRIPTIONS,
        "autoApproval": _SUBSCRIPTIONS,
        "fqdns": shapes.Many(shapes.Text()),
        "enableProxyProtocol": shapes.Flag(),
        "alias": shapes.Derived(),
        "networkInterfaces": shapes.Derived(),
        "privateEndpointConnections": shapes.Derived(),
    }
)


class LinkServices:
    """The kind of private link services."""

    name = KIND
    style = Style.NETWORK
    is_tracked = True

    def write(self, change: Change, id: ResourceId, body: Json, before: Document | None, caller: Caller) -> Document:
        """PUT: a service with its NAT addresses."""
        given = shapes.read(_SHAPE, body)
        given["location"] = refusals.location_of(given)
        properties = {"fqdns": [], "enableProxyProtocol": False, **given["properties"]}
        _check_subscriptions(id, properties)
        configurations = _with_primary(id, properties.get("ipConfigurations") or [])
        networks = _check_subnets(change, id, configurations, given["location"])
        if "destinationIPAddress" in properties:
            _check_direct(id, properties, configurations)
        else:
            _check_frontends(change, id, given, networks)
        properties["ipConfigurations"] = configurations
        document = change.put(id, KIND, {**given, "properties": properties})
        self._bring_interface(change, document)
        return document

    def _bring_interface(self, change: Change, service: Document) -> None:
        """Give the NAT addresses, and let the service's interface hold them."""
        interface = approvals.service_interface_id(service)
        had = change.get(interface)
        old = {one["name"].lower(): one["properties"] for one in (had.properties["ipConfigurations"] if had else ())}
        allocation = addresses.Allocation(change, interface)
        asked = [
            {"name": one["name"], "properties": dict(one["properties"])}
            for one in service.properties["ipConfigurations"]
        ]
        for one in addresses.by_claim(asked, old):
            subnet = refusals.referenced(change, one["properties"]["subnet"], service.id)
            holder = interface.child("ipConfigurations", one["name"])
            allocation.fill(subnet, holder, one["properties"], old.get(holder.name.lower(), {}))
        network_interfaces.bring(change, interface, service, "privateLinkService", asked)

    def patch(self, change: Change, document: Document, body: Json, caller: Caller) -> Document:
        """PATCH: tags."""
        return tagging.patch(change, document, body)

    def remove(self, change: Change, document: Document, caller: Caller) -> None:
        """DELETE: a service without connections, with its interface."""
        connected = approvals.connections_of(change, document.id)
        if connected:
            raise refused(
                "PrivateLinkServiceWithPrivateEndpointConnectionsCannotBeDeleted",
                f"Private link service {document.id} cannot be deleted since it has {len(connected)} private endpoint "
                "connections. Please delete all private endpoint connections before deleting the private link "
                "service.",
            )
        change.remove(approvals.service_interface_id(document))
        change.remove(document.id)

    def show(self, world: World, document: Document, caller: Caller) -> dict[str, Any]:
        """The service with its interface and its connections."""
        properties = {
            **document.properties,
            "alias": approvals.alias_of(document),
            "ipConfigurations": [
                {
                    **(shown := showing.part(document, _configuration_id(document, one), one, one["properties"])),
                    "properties": {**shown["properties"], "provisioningState": "Succeeded"},
                }
                for one in document.properties["ipConfigurations"]
            ],
            "privateEndpointConnections": [
                connections.shown(world, one, caller) for one in approvals.connections_of(world, document.id)
            ],
            "networkInterfaces": [showing.reference(approvals.service_interface_id(document))],
        }
        if showing.is_since(caller, _ACCESS_MODE_SINCE):
            properties.setdefault("accessMode", "Default")
        return showing.resource(document, properties)


def _configuration_id(service: Document, one: Json) -> ResourceId:
    return service.id.child("ipConfigurations", one["name"])


def _with_primary(id: ResourceId, given: Sequence[Json]) -> list[dict[str, Any]]:
    """The IP configurations with their defaults, one of them primary."""
    if not 1 <= len(given) <= MAX_NAT_ADDRESSES:
        raise refused(
            "PrivateLinkServiceIpConfigurationCountOutOfRange",
            f"Private link service {id} has {len(given)} IP configurations. It must have at least 1 and can have up to "
            f"{MAX_NAT_ADDRESSES}.",
        )
    found = []
    for index, one in enumerate(given):
        said = {"privateIPAllocationMethod": "Dynamic", "privateIPAddressVersion": "IPv4", **one["properties"]}
        if "subnet" not in said:
            raise shapes.unreadable(
                "MissingJsonReferenceId",
                f"Value for reference id is missing. Path properties.ipConfigurations[{index}].properties.subnet.",
            )
        if said["privateIPAllocationMethod"] == "Dynamic":
            said.pop("privateIPAddress", None)
        elif "privateIPAddress" not in said:
            raise refused(
                "StaticPrivateIPAddressRequired",
                f"IP configuration {index} of private link service {id} has static allocation and no private IP "
                "address.",
            )
        if said["privateIPAddressVersion"] != "IPv4":
            raise refused(
                "PrivateLinkServiceSupportsOnlyIPv4", f"Private link service {id} supports IPv4 addresses only."
            )
        found.append({**one, "name": one.get("name") or f"{id.name}_ipconfig_{index}", "properties": said})
    refusals.check_parts(id, "ipConfigurations", found)
    chosen = [one for one in found if one["properties"].get("primary")]
    if len(chosen) > 1:
        raise refused(
            "PrivateLinkServiceMustUseOnePrimaryIpConfiguration",
            f"Private link service {id} has more than one primary IP configuration.",
        )
    primary = chosen[0] if chosen else found[0]
    for one in found:
        one["properties"]["primary"] = one is primary
    return found


def _check_subnets(change: Change, id: ResourceId, configurations: Sequence[Json], location: str) -> set[Key]:
    """Refuse subnets that NAT addresses cannot be in; the networks of the rest."""
    networks = set()
    for one in configurations:
        subnet = subnets.referenced(change, one["properties"]["subnet"], id, location)
        if subnet.properties["privateLinkServiceNetworkPolicies"] != "Disabled":
            raise refused(
                "PrivateLinkServiceCannotBeCreatedInSubnetThatHasNetworkPoliciesEnabled",
                f"Private link service {id} cannot be created in a subnet {subnet.id} since it has private "
                "link service network policies enabled.",
            )
        networks.add(subnets.network_key(str(subnet.id)))
    if len(networks) > 1:
        raise refused(
            "PrivateLinkServiceIpConfigurationsMustBeInSameVnet",
            f"All IP configurations of private link service {id} must be in the same virtual network.",
        )
    return networks


def _check_frontends(change: Change, id: ResourceId, given: Json, networks: set[Key]) -> None:
    """Refuse frontends that a service cannot stand in front of; ``networks`` are those of its NAT addresses."""
    references = given["properties"].get("loadBalancerFrontendIpConfigurations") or []
    if not references:
        raise shapes.missing("loadBalancerFrontendIpConfigurations", "properties")
    for reference in references:
        found = load_balancers.frontend(change, str(reference["id"]))
        if found is None or found.balancer.body["location"] != given["location"]:
            raise refusals.not_found(str(reference["id"]), id)
        if found.balancer.body["sku"]["name"] == "Basic":
            raise refused(
                "PrivateLinkServiceNotSupportedOnBasicLoadBalancer",
                f"Private link service {id} cannot reference Basic sku load balancer {found.balancer.id}. Private link "
                "service is supported only on Standard sku load balancers.",
            )
        subnet = found.properties.get("subnet")
        if subnet is not None and subnets.network_key(subnet["id"]) not in networks:
            raise refused(
                "PrivateLinkServiceAndLoadBalancerMustBeInSameVnet",
                f"IP configurations of private link service {id} must be in the virtual network of load balancer "
                f"{found.balancer.id}.",
            )
        others = [one for one in load_balancers.services_of(change, found.balancer) if one.key != id.key]
        if len(others) >= _MAX_SERVICES_OF_BALANCER:
            raise refused(
                "PrivateLinkServicesPerLoadBalancerLimitReached",
                f"Load balancer {found.balancer.id} cannot be referenced by more than {_MAX_SERVICES_OF_BALANCER} "
                "private link services.",
            )


def _check_direct(id: ResourceId, properties: Json, configurations: Sequence[Json]) -> None:
    """Refuse what Direct Connect does not bear ("Create a Private Link service Direct Connect")."""
    if isinstance(addresses.parse_address(properties["destinationIPAddress"], id), IPv6Address):
        raise refused("PrivateLinkServiceSupportsOnlyIPv4", f"Private link service {id} supports IPv4 addresses only.")
    if properties.get("loadBalancerFrontendIpConfigurations"):
        raise refused(
            "PrivateLinkServiceCannotHaveDestinationAndLoadBalancer",
            f"Private link service {id} cannot have both a destination IP address and load balancer frontend IP "
            "configurations.",
        )
    if len(configurations) % _DIRECT_PAIR:
        raise refused(
            "PrivateLinkServiceDirectConnectIpConfigurationCountInvalid",
            f"Private link service {id} with a destination IP address must have at least {_DIRECT_PAIR} IP "
            f"configurations, in multiples of {_DIRECT_PAIR}.",
        )


def _check_subscriptions(id: ResourceId, properties: Mapping[str, Any]) -> None:
    for member in ("visibility", "autoApproval"):
        listed = (properties.get(member) or {}).get("subscriptions") or ()
        if len(listed) > _MAX_SUBSCRIPTIONS:
            raise refused(
                "PrivateLinkServiceSubscriptionCountLimitExceeded",
                f"{member} of private link service {id} has {len(listed)} subscriptions. It can have up to "
                f"{_MAX_SUBSCRIPTIONS}.",
            )
