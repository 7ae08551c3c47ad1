"""Requests like those that Azure's REST reference publishes for these types, and what has to come back.

A row is an operation's example: what has to be there first, the body, and members of the answer. Where the reference's
answer has what its own machines decide (addresses, alias, other people's resources), the row leaves it out.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.fakes.azure_network import CUSTOMER, PROVIDER, AzureNetwork

LOCATION = {"location": "westeurope"}
SUBNET = {"id": AzureNetwork().subnet_id()}
HERE = f"/subscriptions/{PROVIDER}/resourceGroups/rg/providers/Microsoft.Network"
FRONTEND = {"id": f"{HERE}/loadBalancers/lb/frontendIPConfigurations/fe-lb"}
POOL = {"id": f"{HERE}/loadBalancers/lb/backendAddressPools/be-lb"}
PROBE = {"id": f"{HERE}/loadBalancers/lb/probes/probe-lb"}

RULE = {
    "name": "rulelb",
    "properties": {
        "frontendIPConfiguration": FRONTEND,
        "frontendPort": 80,
        "backendPort": 80,
        "enableFloatingIP": True,
        "idleTimeoutInMinutes": 15,
        "protocol": "Tcp",
        "loadDistribution": "Default",
        "backendAddressPool": POOL,
        "probe": PROBE,
    },
}
BALANCER: dict[str, Any] = {
    "frontendIPConfigurations": [{"name": "fe-lb", "properties": {"subnet": SUBNET}}],
    "backendAddressPools": [{"name": "be-lb"}],
    "loadBalancingRules": [RULE],
    "probes": [
        {
            "name": "probe-lb",
            "properties": {
                "protocol": "Http",
                "port": 80,
                "requestPath": "healthcheck.aspx",
                "intervalInSeconds": 15,
                "numberOfProbes": 2,
                "probeThreshold": 1,
            },
        }
    ],
    "inboundNatRules": [
        {
            "name": "in-nat-rule",
            "properties": {
                "frontendIPConfiguration": FRONTEND,
                "frontendPort": 3389,
                "backendPort": 3389,
                "enableFloatingIP": True,
                "idleTimeoutInMinutes": 15,
                "protocol": "Tcp",
                "enableTcpReset": False,
            },
        }
    ],
    "inboundNatPools": [],
    "outboundRules": [],
}
SECURITY_RULE = {
    "protocol": "*",
    "sourceAddressPrefix": "10.0.0.0/8",
    "destinationAddressPrefix": "11.0.0.0/8",
    "access": "Deny",
    "destinationPortRange": "8080",
    "sourcePortRange": "*",
    "priority": 100,
    "direction": "Outbound",
}


def nothing(azure: AzureNetwork) -> None:
    del azure


def a_network(azure: AzureNetwork) -> None:
    azure.network()


def a_public_address(azure: AzureNetwork) -> None:
    azure.network()
    azure.write("publicIPAddresses/test-ip", LOCATION)


def a_balancer(azure: AzureNetwork) -> None:
    azure.network()
    azure.write("loadBalancers/lb", {**LOCATION, "sku": {"name": "Standard"}, "properties": BALANCER})


def two_networks(azure: AzureNetwork) -> None:
    azure.network()
    azure.network("vnet2", "12.0.0.0/16")


def a_group(azure: AzureNetwork) -> None:
    azure.write("networkSecurityGroups/testnsg", LOCATION)


def a_customer(azure: AzureNetwork) -> None:
    azure.service()
    azure.network(subscription=CUSTOMER)


def a_request(azure: AzureNetwork) -> None:
    azure.service()
    azure.endpoint(str(azure.id("privateLinkServices/svc")))


@dataclass(frozen=True)
class Example:
    name: str
    path: str
    body: dict[str, Any]
    answer: dict[str, Any]
    before: Callable[[AzureNetwork], None] = nothing
    subscription: str = PROVIDER
    query: dict[str, str] = field(default_factory=dict)


SPACE = {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}}
REMOTE = {"remoteVirtualNetwork": {"id": f"{HERE}/virtualNetworks/vnet2"}}
PEERING = {
    "allowVirtualNetworkAccess": True,
    "allowForwardedTraffic": True,
    "allowGatewayTransit": False,
    "useRemoteGateways": False,
    **REMOTE,
}
CUSTOMERS_SUBNET = {"id": AzureNetwork().subnet_id(subscription=CUSTOMER)}
REQUEST = {
    "privateLinkServiceId": f"{HERE}/privateLinkServices/svc",
    "groupIds": ["groupIdFromResource"],
    "requestMessage": "Please manually approve my connection.",
}

EXAMPLES = [
    Example(
        "virtual network",
        "virtualNetworks/test-vnet",
        {**LOCATION, "properties": {**SPACE, "flowTimeoutInMinutes": 10}},
        {**SPACE, "flowTimeoutInMinutes": 10, "subnets": [], "virtualNetworkPeerings": []},
    ),
    Example(
        "virtual network with subnet",
        "virtualNetworks/test-vnet",
        {
            **LOCATION,
            "properties": {**SPACE, "subnets": [{"name": "test-1", "properties": {"addressPrefix": "10.0.0.0/24"}}]},
        },
        {"subnets": [{"name": "test-1", "properties": {"addressPrefix": "10.0.0.0/24"}}]},
    ),
    Example(
        "virtual network with BGP communities",
        "virtualNetworks/test-vnet",
        {
            **LOCATION,
            "properties": {**SPACE, "bgpCommunities": {"virtualNetworkCommunity": "12076:20002"}},
        },
        {"bgpCommunities": {"virtualNetworkCommunity": "12076:20002"}},
    ),
    Example(
        "virtual network with encryption",
        "virtualNetworks/test-vnet",
        {**LOCATION, "properties": {**SPACE, "encryption": {"enabled": True, "enforcement": "AllowUnencrypted"}}},
        {"encryption": {"enabled": True, "enforcement": "AllowUnencrypted"}},
    ),
    Example(
        "virtual network with delegated subnets",
        "virtualNetworks/test-vnet",
        {
            **LOCATION,
            "properties": {
                **SPACE,
                "subnets": [
                    {
                        "name": "test-1",
                        "properties": {
                            "addressPrefix": "10.0.0.0/24",
                            "delegations": [
                                {
                                    "name": "myDelegation",
                                    "properties": {"serviceName": "Microsoft.Sql/managedInstances"},
                                }
                            ],
                        },
                    }
                ],
            },
        },
        {
            "subnets": [
                {
                    "properties": {
                        "delegations": [
                            {
                                "name": "myDelegation",
                                "properties": {
                                    "provisioningState": "Succeeded",
                                    "serviceName": "Microsoft.Sql/managedInstances",
                                },
                            }
                        ]
                    }
                }
            ]
        },
    ),
    Example(
        "virtual network with address pools",
        "virtualNetworks/test-vnet",
        {
            **LOCATION,
            "properties": {
                "addressSpace": {"ipamPoolPrefixAllocations": [{"numberOfIpAddresses": "65536", "pool": {"id": "p"}}]}
            },
        },
        {"addressSpace": {"ipamPoolPrefixAllocations": [{"numberOfIpAddresses": "65536", "pool": {"id": "p"}}]}},
    ),
    Example(
        "subnet with service endpoints",
        "virtualNetworks/v/subnets/subnet1",
        {"properties": {"addressPrefix": "10.0.9.0/24", "serviceEndpoints": [{"service": "Microsoft.Storage"}]}},
        {"serviceEndpoints": [{"service": "Microsoft.Storage", "provisioningState": "Succeeded"}]},
        a_network,
    ),
    Example(
        "peering",
        "virtualNetworks/v/virtualNetworkPeerings/peer",
        {"properties": PEERING},
        {**PEERING, "remoteAddressSpace": {"addressPrefixes": ["12.0.0.0/16"]}, "peeringState": "Initiated"},
        two_networks,
    ),
    Example(
        "peering of subnets",
        "virtualNetworks/v/virtualNetworkPeerings/peer",
        {
            "properties": {
                **PEERING,
                "peerCompleteVnets": False,
                "enableOnlyIPv6Peering": False,
                "localSubnetNames": ["Subnet1"],
                "remoteSubnetNames": ["Subnet2"],
            }
        },
        {"peerCompleteVnets": False, "localSubnetNames": ["Subnet1"], "remoteSubnetNames": ["Subnet2"]},
        two_networks,
    ),
    Example(
        "synchronized peering",
        "virtualNetworks/v/virtualNetworkPeerings/peer",
        {"properties": PEERING},
        {"remoteVirtualNetworkAddressSpace": {"addressPrefixes": ["12.0.0.0/16"]}, "provisioningState": "Succeeded"},
        two_networks,
        query={"syncRemoteAddressSpace": "true"},
    ),
    Example(
        "interface",
        "networkInterfaces/test-nic",
        {
            **LOCATION,
            "properties": {
                "enableAcceleratedNetworking": True,
                "disableTcpStateTracking": True,
                "ipConfigurations": [
                    {
                        "name": "ipconfig1",
                        "properties": {
                            "publicIPAddress": {"id": f"{HERE}/publicIPAddresses/test-ip"},
                            "subnet": SUBNET,
                        },
                    },
                    {"name": "ipconfig2", "properties": {"privateIPAddressPrefixLength": 28}},
                ],
            },
        },
        {
            "ipConfigurations": [
                {
                    "name": "ipconfig1",
                    "properties": {
                        "provisioningState": "Succeeded",
                        "privateIPAddress": "10.0.0.4",
                        "privateIPAllocationMethod": "Dynamic",
                        "primary": True,
                        "privateIPAddressVersion": "IPv4",
                    },
                },
                {
                    "name": "ipconfig2",
                    "properties": {
                        "privateIPAddress": "10.0.0.16/28",
                        "privateIPAddressPrefixLength": 28,
                        "subnet": SUBNET,
                        "primary": False,
                    },
                },
            ],
            "dnsSettings": {"dnsServers": [], "appliedDnsServers": []},
            "enableAcceleratedNetworking": True,
            "disableTcpStateTracking": True,
            "enableIPForwarding": False,
            "vnetEncryptionSupported": False,
        },
        a_public_address,
    ),
    Example(
        "public address with defaults",
        "publicIPAddresses/test-ip",
        LOCATION,
        {
            "publicIPAddressVersion": "IPv4",
            "publicIPAllocationMethod": "Dynamic",
            "idleTimeoutInMinutes": 4,
        },
    ),
    Example(
        "public address of the global tier",
        "publicIPAddresses/test-ip",
        {
            **LOCATION,
            "sku": {"name": "Standard", "tier": "Global"},
            "properties": {
                "publicIPAllocationMethod": "Static",
                "idleTimeoutInMinutes": 10,
                "publicIPAddressVersion": "IPv4",
            },
        },
        {"publicIPAllocationMethod": "Static", "idleTimeoutInMinutes": 10, "publicIPAddressVersion": "IPv4"},
    ),
    Example(
        "public address with a name",
        "publicIPAddresses/test-ip",
        {**LOCATION, "properties": {"dnsSettings": {"domainNameLabel": "dnslbl"}}},
        {"dnsSettings": {"domainNameLabel": "dnslbl", "fqdn": "dnslbl.westeurope.cloudapp.azure.com"}},
    ),
    Example(
        "security group",
        "networkSecurityGroups/testnsg",
        {**LOCATION, "properties": {"securityRules": [{"name": "rule1", "properties": SECURITY_RULE}]}},
        {"securityRules": [{"name": "rule1", "properties": {**SECURITY_RULE, "provisioningState": "Succeeded"}}]},
    ),
    Example(
        "security rule",
        "networkSecurityGroups/testnsg/securityRules/rule1",
        {"properties": SECURITY_RULE},
        SECURITY_RULE,
        a_group,
    ),
    Example(
        "load balancer",
        "loadBalancers/lb",
        {**LOCATION, "properties": BALANCER},
        {
            "frontendIPConfigurations": [
                {
                    "name": "fe-lb",
                    "properties": {
                        "provisioningState": "Succeeded",
                        "subnet": SUBNET,
                        "loadBalancingRules": [{"id": f"{HERE}/loadBalancers/lb/loadBalancingRules/rulelb"}],
                        "inboundNatRules": [{"id": f"{HERE}/loadBalancers/lb/inboundNatRules/in-nat-rule"}],
                    },
                }
            ],
            "backendAddressPools": [{"name": "be-lb"}],
            "loadBalancingRules": [RULE],
            "probes": BALANCER["probes"],
            "inboundNatRules": BALANCER["inboundNatRules"],
            "inboundNatPools": [],
        },
        a_network,
    ),
    Example(
        "load balancer of the gateway SKU",
        "loadBalancers/lb",
        {
            **LOCATION,
            "sku": {"name": "Gateway"},
            "properties": {
                **BALANCER,
                "inboundNatRules": [],
                "backendAddressPools": [
                    {
                        "name": "be-lb",
                        "properties": {
                            "tunnelInterfaces": [
                                {"port": 15000, "identifier": 900, "protocol": "VXLAN", "type": "Internal"}
                            ]
                        },
                    }
                ],
                "loadBalancingRules": [
                    {
                        "name": "rulelb",
                        "properties": {
                            "protocol": "All",
                            "frontendPort": 0,
                            "backendPort": 0,
                            "enableFloatingIP": True,
                            "frontendIPConfiguration": FRONTEND,
                            "backendAddressPools": [POOL],
                            "probe": PROBE,
                        },
                    }
                ],
            },
        },
        {
            "loadBalancingRules": [
                {"properties": {"protocol": "All", "backendAddressPool": POOL, "backendAddressPools": [POOL]}}
            ],
            "backendAddressPools": [
                {"properties": {"tunnelInterfaces": [{"port": 15000, "identifier": 900, "protocol": "VXLAN"}]}}
            ],
        },
        a_network,
    ),
    Example(
        "load balancer with outbound rules",
        "loadBalancers/lb",
        {
            **LOCATION,
            "sku": {"name": "Standard"},
            "properties": {
                **BALANCER,
                "outboundRules": [
                    {
                        "name": "rule1",
                        "properties": {
                            "protocol": "All",
                            "frontendIPConfigurations": [FRONTEND],
                            "backendAddressPool": POOL,
                        },
                    }
                ],
            },
        },
        {
            "outboundRules": [
                {
                    "name": "rule1",
                    "properties": {"allocatedOutboundPorts": 0, "enableTcpReset": False, "idleTimeoutInMinutes": 4},
                }
            ],
            "backendAddressPools": [
                {"properties": {"outboundRules": [{"id": f"{HERE}/loadBalancers/lb/outboundRules/rule1"}]}}
            ],
        },
        a_network,
    ),
    Example(
        "backend pool by address",
        "loadBalancers/lb/backendAddressPools/backend1",
        {
            "properties": {
                "loadBalancerBackendAddresses": [
                    {
                        "name": f"address{number}",
                        "properties": {
                            "virtualNetwork": {"id": f"{HERE}/virtualNetworks/v"},
                            "ipAddress": f"10.0.0.{number + 3}",
                        },
                    }
                    for number in (1, 2)
                ]
            }
        },
        {
            "loadBalancerBackendAddresses": [
                {"name": "address1", "properties": {"ipAddress": "10.0.0.4"}},
                {"name": "address2", "properties": {"ipAddress": "10.0.0.5"}},
            ]
        },
        a_balancer,
    ),
    Example(
        "inbound NAT rule",
        "loadBalancers/lb/inboundNatRules/natRule1.1",
        {
            "properties": {
                "protocol": "Tcp",
                "frontendIPConfiguration": FRONTEND,
                "frontendPort": 3390,
                "backendPort": 3389,
                "idleTimeoutInMinutes": 4,
                "enableTcpReset": False,
                "enableFloatingIP": False,
            }
        },
        {"protocol": "Tcp", "frontendPort": 3390, "backendPort": 3389, "idleTimeoutInMinutes": 4},
        a_balancer,
    ),
    Example(
        "link service",
        "privateLinkServices/testPls",
        {
            **LOCATION,
            "properties": {
                "visibility": {"subscriptions": ["subscription1", "subscription2", "subscription3"]},
                "autoApproval": {"subscriptions": ["subscription1", "subscription2"]},
                "fqdns": ["fqdn1", "fqdn2", "fqdn3"],
                "loadBalancerFrontendIpConfigurations": [FRONTEND],
                "ipConfigurations": [
                    {
                        "name": "fe-lb",
                        "properties": {
                            "privateIPAddress": "10.0.0.44",
                            "privateIPAllocationMethod": "Static",
                            "privateIPAddressVersion": "IPv4",
                            "subnet": SUBNET,
                        },
                    }
                ],
            },
        },
        {
            "provisioningState": "Succeeded",
            "visibility": {"subscriptions": ["subscription1", "subscription2", "subscription3"]},
            "autoApproval": {"subscriptions": ["subscription1", "subscription2"]},
            "fqdns": ["fqdn1", "fqdn2", "fqdn3"],
            "loadBalancerFrontendIpConfigurations": [FRONTEND],
            "ipConfigurations": [
                {"properties": {"privateIPAddress": "10.0.0.44", "privateIPAllocationMethod": "Static"}}
            ],
        },
        a_balancer,
    ),
    Example(
        "endpoint",
        "privateEndpoints/testPe",
        {
            **LOCATION,
            "properties": {
                "privateLinkServiceConnections": [{"properties": REQUEST}],
                "subnet": CUSTOMERS_SUBNET,
                "ipConfigurations": [
                    {
                        "name": "pestaticconfig",
                        "properties": {"groupId": "file", "memberName": "file", "privateIPAddress": "10.0.0.45"},
                    }
                ],
                "customNetworkInterfaceName": "testPeNic",
            },
        },
        {
            "provisioningState": "Succeeded",
            "privateLinkServiceConnections": [
                {
                    "properties": {
                        **REQUEST,
                        "privateLinkServiceConnectionState": {"status": "Approved", "actionsRequired": "None"},
                    }
                }
            ],
            "manualPrivateLinkServiceConnections": [],
            "subnet": CUSTOMERS_SUBNET,
            "ipConfigurations": [
                {
                    "name": "pestaticconfig",
                    "properties": {"groupId": "file", "memberName": "file", "privateIPAddress": "10.0.0.45"},
                }
            ],
            "customNetworkInterfaceName": "testPeNic",
        },
        a_customer,
        CUSTOMER,
    ),
    Example(
        "endpoint for manual approval",
        "privateEndpoints/testPe",
        {
            **LOCATION,
            "properties": {
                "manualPrivateLinkServiceConnections": [{"properties": REQUEST}],
                "subnet": CUSTOMERS_SUBNET,
            },
        },
        {
            "privateLinkServiceConnections": [],
            "manualPrivateLinkServiceConnections": [
                {
                    "properties": {
                        **REQUEST,
                        "privateLinkServiceConnectionState": {
                            "status": "Pending",
                            # The example says "Awaiting approval"; users of Azure see the message of the request.
                            "description": "Please manually approve my connection.",
                            "actionsRequired": "None",
                        },
                    }
                }
            ],
        },
        a_customer,
        CUSTOMER,
    ),
    Example(
        "endpoint with application security groups",
        "privateEndpoints/testPe",
        {
            **LOCATION,
            "properties": {
                "privateLinkServiceConnections": [{"properties": REQUEST}],
                "subnet": CUSTOMERS_SUBNET,
                "applicationSecurityGroups": [{"id": f"{HERE}/applicationSecurityGroups/asg1"}],
            },
        },
        {"applicationSecurityGroups": [{"id": f"{HERE}/applicationSecurityGroups/asg1"}]},
        a_customer,
        CUSTOMER,
    ),
]


def missing_from(wanted: Any, shown: Any, path: str = "") -> list[str]:
    """Where ``shown`` does not say what ``wanted`` says; it may say more, and its lists may hold more members."""
    if isinstance(wanted, dict) and isinstance(shown, dict):
        return [
            where
            for name, member in wanted.items()
            for where in (missing_from(member, shown[name], f"{path}.{name}") if name in shown else [f"{path}.{name}"])
        ]
    if isinstance(wanted, list) and isinstance(shown, list) and len(wanted) == len(shown):
        pairs = enumerate(zip(wanted, shown, strict=True))
        return [where for index, (one, other) in pairs for where in missing_from(one, other, f"{path}[{index}]")]
    return [] if wanted == shown else [f"{path}: {shown!r}"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example(example: Example) -> None:
    azure = AzureNetwork()
    example.before(azure)
    shown = azure.write(example.path, example.body, example.subscription, **example.query)
    assert missing_from({"properties": example.answer}, shown) == []
    assert shown["name"] == example.path.rpartition("/")[2]
    assert shown["type"] == azure.document(example.path, example.subscription).kind


def test_the_example_of_a_decision() -> None:
    azure = AzureNetwork()
    a_request(azure)
    [connection] = azure.show("privateLinkServices/svc")["properties"]["privateEndpointConnections"]
    endpoint = {"id": str(azure.id("privateEndpoints/pe", CUSTOMER))}
    state = {"status": "Approved", "description": "approved it for some reason."}
    body = {
        "name": connection["name"],
        "properties": {"privateEndpoint": endpoint, "privateLinkServiceConnectionState": state},
    }
    shown = azure.write(f"privateLinkServices/svc/privateEndpointConnections/{connection['name']}", body)
    assert missing_from(body, shown) == []


def test_the_example_of_a_zone_group_without_a_name_for_its_zone() -> None:
    azure = AzureNetwork()
    a_request(azure)
    azure.write("privateDnsZones/zone1.com", {"location": "global"}, CUSTOMER)
    zone = str(azure.id("privateDnsZones/zone1.com", CUSTOMER))
    body = {"properties": {"privateDnsZoneConfigs": [{"properties": {"privateDnsZoneId": zone}}]}}
    shown = azure.write("privateEndpoints/pe/privateDnsZoneGroups/testPdnsgroup", body, CUSTOMER)
    assert missing_from(body, shown) == []
    assert shown["properties"]["provisioningState"] == "Succeeded"
