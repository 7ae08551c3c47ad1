"""What is in force at an interface, asked by Microsoft's SDK."""

from collections.abc import Callable
from typing import Any

import pytest
from azure.mgmt.network import NetworkManagementClient
from tests.fakes.lab import FakeLab

from isthmus.lab import network

PLACE = {"location": "westeurope"}


@pytest.fixture
def client(new_lab: Callable[..., FakeLab]) -> NetworkManagementClient:
    lab = new_lab(*network.KINDS, virtuals=network.VIRTUALS, actions=network.ACTIONS)
    with lab.http() as http:
        http.put(
            f"/subscriptions/{lab.provider}/resourceGroups/g?api-version=2024-03-01", json=PLACE
        ).raise_for_status()
    return lab.client(NetworkManagementClient)


def a_network(client: NetworkManagementClient, name: str, prefix: str) -> Any:
    subnets = [{"name": "s", "properties": {"addressPrefix": prefix}}]
    body = {**PLACE, "properties": {"addressSpace": {"addressPrefixes": [prefix]}, "subnets": subnets}}
    return client.virtual_networks.begin_create_or_update("g", name, body).result()


def an_interface(client: NetworkManagementClient, subnet_id: str, **properties: Any) -> None:
    configurations = [{"name": "one", "properties": {"subnet": {"id": subnet_id}}}]
    body = {**PLACE, "properties": {"ipConfigurations": configurations, **properties}}
    client.network_interfaces.begin_create_or_update("g", "i", body).result()


def routes(client: NetworkManagementClient) -> dict[str, str]:
    found = client.network_interfaces.begin_get_effective_route_table("g", "i").result()
    return {one.address_prefix[0]: one.as_dict()["nextHopType"] for one in found.value}


def test_routes_reach_what_is_peered_both_ways(client: NetworkManagementClient) -> None:
    one, other = a_network(client, "one", "10.0.0.0/24"), a_network(client, "other", "10.1.0.0/24")
    an_interface(client, one.subnets[0].id)
    found = routes(client)
    assert (found["10.0.0.0/24"], found["0.0.0.0/0"], found["10.0.0.0/8"]) == ("VnetLocal", "Internet", "None")
    for here, there in ((one, other), (other, one)):
        assert "10.1.0.0/24" not in routes(client)
        body = {"properties": {"remoteVirtualNetwork": {"id": there.id}, "allowVirtualNetworkAccess": True}}
        client.virtual_network_peerings.begin_create_or_update("g", here.name, "p", body).result()
    assert routes(client)["10.1.0.0/24"] == "VNetPeering"


def test_an_endpoint_is_a_route_of_its_own(client: NetworkManagementClient) -> None:
    place = a_network(client, "one", "10.0.0.0/24")
    an_interface(client, place.subnets[0].id)
    client.subnets.begin_create_or_update(
        "g",
        "one",
        "s",
        {"properties": {"addressPrefix": "10.0.0.0/24", "privateLinkServiceNetworkPolicies": "Disabled"}},
    ).result()
    service = client.private_link_services.begin_create_or_update(
        "g",
        "pls",
        {
            **PLACE,
            "properties": {
                "destinationIPAddress": "10.0.0.200",
                "ipConfigurations": [
                    {"name": str(number), "properties": {"subnet": {"id": place.subnets[0].id}}} for number in (1, 2)
                ],
            },
        },
    ).result()
    asked = {"name": "c", "properties": {"privateLinkServiceId": service.id}}
    body = {**PLACE, "properties": {"subnet": {"id": place.subnets[0].id}, "privateLinkServiceConnections": [asked]}}
    client.private_endpoints.begin_create_or_update("g", "pe", body).result()
    assert [prefix for prefix, hop in routes(client).items() if hop == "InterfaceEndpoint"] == ["10.0.0.7/32"]


def test_security_rules_of_interface_and_subnet(client: NetworkManagementClient) -> None:
    rule = {
        "name": "https",
        "properties": {
            "protocol": "Tcp",
            "sourcePortRange": "*",
            "destinationPortRange": "443",
            "sourceAddressPrefix": "*",
            "destinationAddressPrefix": "*",
            "access": "Allow",
            "priority": 100,
            "direction": "Inbound",
        },
    }
    group = client.network_security_groups.begin_create_or_update(
        "g", "n", {**PLACE, "properties": {"securityRules": [rule]}}
    ).result()
    place = a_network(client, "one", "10.0.0.0/24")
    an_interface(client, place.subnets[0].id, networkSecurityGroup={"id": group.id})
    (found,) = client.network_interfaces.begin_list_effective_network_security_groups("g", "i").result().value
    assert found.association.network_interface.id.endswith("/networkInterfaces/i")
    assert found.effective_security_rules[0].destination_port_ranges == ["443-443"]
    assert [one.priority for one in found.effective_security_rules] == [100, 65000, 65001, 65500, 65000, 65001, 65500]
