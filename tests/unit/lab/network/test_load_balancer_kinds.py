"""Load balancers: parts, references, rules and shapes."""

from typing import Any

import pytest
from tests.fakes.azure_network import LOCATION, AzureNetwork

from isthmus.lab import network


@pytest.fixture
def azure() -> AzureNetwork:
    azure = AzureNetwork()
    azure.network()
    azure.balancer()
    return azure


def pool(azure: AzureNetwork) -> dict[str, str]:
    return {"id": str(azure.id("loadBalancers/lb/backendAddressPools/pool"))}


def virtual(azure: AzureNetwork, name: str, parent: str = "loadBalancers/lb") -> list[dict[str, Any]]:
    [found] = [one for one in network.VIRTUALS if one.name == f"Microsoft.Network/{name}"]
    return list(found.list(azure.change, azure.id(parent), azure.caller))


def test_parts_name_each_other(azure: AzureNetwork) -> None:
    shown = azure.show("loadBalancers/lb")
    rule = {"id": f"{shown['id']}/loadBalancingRules/rule"}
    properties = shown["properties"]
    [frontend] = properties["frontendIPConfigurations"]
    assert frontend["properties"]["loadBalancingRules"] == [rule]
    assert frontend["properties"]["privateIPAddress"] == "10.0.0.4"
    assert frontend["type"] == "Microsoft.Network/loadBalancers/frontendIPConfigurations"
    assert properties["probes"][0]["properties"]["loadBalancingRules"] == [rule]
    assert properties["backendAddressPools"][0]["properties"]["loadBalancingRules"] == [rule]
    said = properties["loadBalancingRules"][0]["properties"]
    assert said["backendAddressPools"] == [said["backendAddressPool"]]
    defaults = {"loadDistribution": "Default", "idleTimeoutInMinutes": 4, "enableFloatingIP": False}
    assert {name: said[name] for name in defaults} == defaults
    assert properties["outboundRules"] == properties["inboundNatRules"] == properties["inboundNatPools"] == []


def test_a_basic_one_shows_less(azure: AzureNetwork) -> None:
    frontend = {"name": "fe", "properties": {"subnet": {"id": azure.subnet_id()}}}
    body = {
        "location": LOCATION,
        "properties": {"frontendIPConfigurations": [frontend], "backendAddressPools": [{"name": "p"}]},
    }
    shown = azure.write("loadBalancers/basic", body)
    assert shown["sku"] == {"name": "Basic", "tier": "Regional"}
    assert "outboundRules" not in shown["properties"]
    assert shown["properties"]["backendAddressPools"][0]["properties"] == {"provisioningState": "Succeeded"}


def test_it_can_be_sent_back_as_it_was_shown(azure: AzureNetwork) -> None:
    azure.interface(loadBalancerBackendAddressPools=[pool(azure)])
    shown = azure.show("loadBalancers/lb")
    again = azure.write("loadBalancers/lb", shown)

    def without_etags(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: without_etags(member) for name, member in value.items() if name != "etag"}
        return [without_etags(one) for one in value] if isinstance(value, list) else value

    assert without_etags(again) == without_etags(shown)


def test_a_pool_shows_its_members(azure: AzureNetwork) -> None:
    azure.interface(loadBalancerBackendAddressPools=[pool(azure)])
    member = {"id": f"{azure.id('networkInterfaces/nic')}/ipConfigurations/ipconfig1"}
    shown = azure.show("loadBalancers/lb/backendAddressPools/pool")["properties"]
    assert shown["backendIPConfigurations"] == [member]
    [one] = shown["loadBalancerBackendAddresses"]
    assert one["name"] == "rg_nicipconfig1"
    assert one["properties"]["networkInterfaceIPConfiguration"] == member
    assert [one["name"] for one in virtual(azure, "loadBalancers/networkInterfaces")] == ["nic"]
    balancers = virtual(azure, "networkInterfaces/loadBalancers", "networkInterfaces/nic")
    assert [one["name"] for one in balancers] == ["lb"]


def test_a_pool_by_address_is_written_by_itself(azure: AzureNetwork) -> None:
    before = azure.show("loadBalancers/lb")["etag"]
    network_id = {"id": str(azure.id("virtualNetworks/v"))}
    said = {"name": "a", "properties": {"ipAddress": "10.0.0.99", "virtualNetwork": network_id}}
    path = "loadBalancers/lb/backendAddressPools/other"
    shown = azure.write(path, {"properties": {"loadBalancerBackendAddresses": [said]}})
    [one] = shown["properties"]["loadBalancerBackendAddresses"]
    assert one["properties"]["ipAddress"] == "10.0.0.99"
    assert azure.show("loadBalancers/lb")["etag"] != before
    azure.remove(path)
    assert len(azure.show("loadBalancers/lb")["properties"]["backendAddressPools"]) == 1
    used = azure.removal_refusal("loadBalancers/lb/backendAddressPools/pool")
    assert used.code == "InUseBackendAddressPoolCannotBeDeleted"


def test_inbound_nat_rules_are_written_by_themselves(azure: AzureNetwork) -> None:
    frontend = {"id": f"{azure.id('loadBalancers/lb')}/frontendIPConfigurations/fe"}
    body = {"properties": {"frontendIPConfiguration": frontend, "frontendPort": 22, "backendPort": 22}}
    shown = azure.write("loadBalancers/lb/inboundNatRules/ssh", body)
    assert shown["properties"]["protocol"] == "Tcp"
    [first] = azure.show("loadBalancers/lb")["properties"]["frontendIPConfigurations"]
    assert first["properties"]["inboundNatRules"] == [{"id": shown["id"]}]
    azure.interface(loadBalancerInboundNatRules=[{"id": shown["id"]}])
    again = azure.show("loadBalancers/lb/inboundNatRules/ssh")["properties"]
    assert again["backendIPConfiguration"]["id"].endswith("/networkInterfaces/nic/ipConfigurations/ipconfig1")


def test_parts_are_shown_by_themselves(azure: AzureNetwork) -> None:
    for member in ("frontendIPConfigurations", "loadBalancingRules", "probes", "outboundRules"):
        shown = azure.show("loadBalancers/lb")["properties"][member]
        assert virtual(azure, f"loadBalancers/{member}") == shown


def test_frontends_take_addresses_of_the_subnet(azure: AzureNetwork) -> None:
    azure.interface("a")
    static = {
        "privateIPAllocationMethod": "Static",
        "privateIPAddress": "10.0.0.5",
        "subnet": {"id": azure.subnet_id()},
    }
    body = {
        "location": LOCATION,
        "properties": {"frontendIPConfigurations": [{"name": "fe", "properties": static}]},
    }
    assert azure.refusal("loadBalancers/other", body).code == "PrivateIPAddressIsAllocated"
    azure.remove("networkInterfaces/a")
    azure.write("loadBalancers/other", body)
    assert azure.removal_refusal("virtualNetworks/v").code == "InUseSubnetCannotBeDeleted"


def test_a_public_frontend_wants_an_address_of_its_sku(azure: AzureNetwork) -> None:
    azure.write("publicIPAddresses/p", {"location": LOCATION, "sku": {"name": "Basic"}, "properties": {}})
    frontend = {"name": "fe", "properties": {"publicIPAddress": {"id": str(azure.id("publicIPAddresses/p"))}}}
    body = {"location": LOCATION, "sku": {"name": "Standard"}, "properties": {"frontendIPConfigurations": [frontend]}}
    error = azure.refusal("loadBalancers/other", body)
    assert error.code == "PublicIPAndLBSkuDoNotMatch"
    assert "Standard sku load balancer" in str(error)


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ({"probe": "probes/gone"}, "InvalidResourceReference"),
        ({"frontendIPConfiguration": "frontendIPConfigurations/gone"}, "InvalidResourceReference"),
        ({"backendAddressPool": "backendAddressPools/gone"}, "InvalidResourceReference"),
        ({"frontendPort": 70000}, "LoadBalancerPortOutOfRange"),
        ({"protocol": "All"}, "LoadBalancingRuleMustHavePortsZeroForProtocolAll"),
        ({"protocol": "Sctp"}, "InvalidRequestFormat"),
        ({"frontendPort": "eighty"}, "InvalidRequestFormat"),
    ],
)
def test_rules_that_azure_refuses(azure: AzureNetwork, rule: dict[str, Any], code: str) -> None:
    shown = azure.show("loadBalancers/lb")
    for name, value in rule.items():
        is_part = isinstance(value, str) and "/" in value
        said = {"id": f"{shown['id']}/{value}"} if is_part else value
        shown["properties"]["loadBalancingRules"][0]["properties"][name] = said
    assert azure.refusal("loadBalancers/lb", shown).code == code


def test_one_frontend_port_leads_to_one_place(azure: AzureNetwork) -> None:
    shown = azure.show("loadBalancers/lb")
    rules = shown["properties"]["loadBalancingRules"]
    rules.append({**rules[0], "name": "again"})
    assert azure.refusal("loadBalancers/lb", shown).code == "RulesUseSameFrontendPortProtocolAndIPConfig"


def test_interfaces_forget_pools_that_are_gone(azure: AzureNetwork) -> None:
    azure.interface(loadBalancerBackendAddressPools=[pool(azure)])
    azure.remove("loadBalancers/lb")
    [one] = azure.show("networkInterfaces/nic")["properties"]["ipConfigurations"]
    assert "loadBalancerBackendAddressPools" not in one["properties"]
    assert azure.change.get(azure.id("loadBalancers/lb/backendAddressPools/pool")) is None
