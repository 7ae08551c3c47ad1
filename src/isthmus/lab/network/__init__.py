"""Microsoft.Network: virtual networks, interfaces, public addresses, load balancers, link services, endpoints."""

from typing import Final

from isthmus.lab.kinds import Action, Kind, Virtual
from isthmus.lab.network import (
    connections,
    effective,
    endpoints,
    link_services,
    load_balancers,
    network_interfaces,
    peerings,
    public_addresses,
    questions,
    security_groups,
    subnets,
    virtual_networks,
    zone_groups,
)

KINDS: Final[tuple[Kind, ...]] = (
    virtual_networks.VirtualNetworks(),
    subnets.Subnets(),
    peerings.Peerings(),
    security_groups.SecurityGroups(),
    security_groups.SecurityRules(),
    public_addresses.PublicAddresses(),
    network_interfaces.NetworkInterfaces(),
    load_balancers.LoadBalancers(),
    load_balancers.POOLS,
    load_balancers.NAT_RULES,
    link_services.LinkServices(),
    connections.Connections(),
    endpoints.Endpoints(),
    zone_groups.ZoneGroups(),
)
VIRTUALS: Final[tuple[Virtual, ...]] = (
    security_groups.DefaultRules(),
    questions.NetworkUsages(),
    questions.Configurations(),
    questions.Nothing(f"{subnets.KIND}/resourceNavigationLinks"),
    questions.Nothing(f"{subnets.KIND}/serviceAssociationLinks"),
    questions.Nothing(f"{network_interfaces.KIND}/tapConfigurations"),
    load_balancers.Members(),
    load_balancers.BalancersOfInterface(),
    *load_balancers.PARTS,
)
ACTIONS: Final[tuple[Action, ...]] = (*questions.ACTIONS, *effective.ACTIONS)

__all__ = ["ACTIONS", "KINDS", "VIRTUALS"]
