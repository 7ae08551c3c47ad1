"""Interfaces, public addresses and security groups: addresses, rules and shapes."""

from typing import Any

import pytest
from tests.fakes.azure_network import LOCATION, AzureNetwork


@pytest.fixture
def azure() -> AzureNetwork:
    azure = AzureNetwork()
    azure.network()
    return azure


def configurations(*said: dict[str, Any]) -> dict[str, Any]:
    named = [{"name": f"c{index}", "properties": one} for index, one in enumerate(said, start=1)]
    return {"location": LOCATION, "properties": {"ipConfigurations": named}}


def in_subnet(azure: AzureNetwork, **more: Any) -> dict[str, Any]:
    return {"subnet": {"id": azure.subnet_id()}, **more}


def address(shown: dict[str, Any], index: int = 0) -> str:
    found: str = shown["properties"]["ipConfigurations"][index]["properties"]["privateIPAddress"]
    return found


def test_an_interface_has_the_members_of_the_recording(azure: AzureNetwork) -> None:
    azure.caller = type(azure.caller)("2021-08-01")
    shown = azure.interface()
    suffix = shown["properties"]["dnsSettings"].pop("internalDomainNameSuffix")
    assert suffix.endswith(".dx.internal.cloudapp.net")
    assert len(suffix.partition(".")[0]) == 26
    [one] = shown["properties"].pop("ipConfigurations")
    assert one["type"] == "Microsoft.Network/networkInterfaces/ipConfigurations"
    assert one["etag"] == shown["etag"]
    assert one["properties"] == {
        "provisioningState": "Succeeded",
        "privateIPAddress": "10.0.0.4",
        "privateIPAllocationMethod": "Dynamic",
        "subnet": {"id": azure.subnet_id()},
        "primary": True,
        "privateIPAddressVersion": "IPv4",
    }
    del shown["properties"]["resourceGuid"]
    assert shown["kind"] == "Regular"
    assert shown["properties"] == {
        "provisioningState": "Succeeded",
        "dnsSettings": {"dnsServers": [], "appliedDnsServers": []},
        "vnetEncryptionSupported": False,
        "enableIPForwarding": False,
        "hostedWorkloads": [],
        "tapConfigurations": [],
        "nicType": "Standard",
    }


def test_dynamic_addresses_are_the_lowest_free_and_stay(azure: AzureNetwork) -> None:
    assert address(azure.interface("a")) == "10.0.0.4"
    assert address(azure.interface("b")) == "10.0.0.5"
    azure.remove("networkInterfaces/a")
    assert address(azure.interface("c")) == "10.0.0.4"
    assert address(azure.write("networkInterfaces/b", azure.show("networkInterfaces/b"))) == "10.0.0.5"


def test_a_second_configuration_may_become_the_primary_one(azure: AzureNetwork) -> None:
    azure.write("networkInterfaces/n", configurations(in_subnet(azure)))
    body = configurations(in_subnet(azure, primary=False), in_subnet(azure, primary=True))
    shown = azure.write("networkInterfaces/n", body)["properties"]["ipConfigurations"]
    assert [one["name"] for one in shown] == ["c2", "c1"]
    assert [one["properties"]["privateIPAddress"] for one in shown] == ["10.0.0.5", "10.0.0.4"]


def test_static_addresses(azure: AzureNetwork) -> None:
    azure.interface("a", privateIPAllocationMethod="Static", privateIPAddress="10.0.0.50")
    assert address(azure.show("networkInterfaces/a")) == "10.0.0.50"
    for wanted, code, says in (
        ("10.0.0.50", "PrivateIPAddressIsAllocated", "already allocated to resource"),
        ("10.0.1.4", "PrivateIPAddressNotInSubnet", "range of subnet prefix 10.0.0.0/24."),
        ("10.0.0.3", "PrivateIPAddressInReservedRange", "reserved IP range of subnet prefix 10.0.0.0/24."),
        ("10.0.0.255", "PrivateIPAddressInReservedRange", "10.0.0.255"),
        ("ten", "InvalidIPAddressFormat", "ten"),
        ("", "StaticPrivateIPAddressRequired", "c1"),
    ):
        said = in_subnet(azure, privateIPAllocationMethod="Static", privateIPAddress=wanted)
        error = azure.refusal("networkInterfaces/b", configurations(said))
        assert (error.code, says in str(error)) == (code, True), error


def test_statics_of_one_interface_come_before_dynamic_ones(azure: AzureNetwork) -> None:
    static = in_subnet(azure, privateIPAllocationMethod="Static", privateIPAddress="10.0.0.4")
    shown = azure.write("networkInterfaces/n", configurations(in_subnet(azure), static))
    assert (address(shown), address(shown, 1)) == ("10.0.0.5", "10.0.0.4")
    error = azure.refusal("networkInterfaces/m", configurations(static, static))
    assert error.code == "PrivateIPAddressIsAllocated"


def test_a_full_subnet(azure: AzureNetwork) -> None:
    azure.write("virtualNetworks/v/subnets/t", {"properties": {"addressPrefix": "10.0.1.0/29"}})
    said = {"subnet": {"id": azure.subnet_id(subnet="t")}}
    for name in "abc":
        azure.write(f"networkInterfaces/{name}", configurations(said))
    error = azure.refusal("networkInterfaces/d", configurations(said))
    assert error.code == "SubnetIsFull"
    expected = "Subnet t with address prefix 10.0.1.0/29 does not have enough capacity for 1 IP addresses."
    assert error.refusal.message == expected


def test_ipv6_comes_from_the_subnets_ipv6_prefix(azure: AzureNetwork) -> None:
    azure.network("w", "10.1.0.0/16", addressSpace={"addressPrefixes": ["10.1.0.0/16", "fd00::/48"]})
    azure.write("virtualNetworks/w/subnets/d", {"properties": {"addressPrefixes": ["10.1.1.0/24", "fd00::/64"]}})
    subnet = {"id": azure.subnet_id("w", "d")}
    body = configurations({"subnet": subnet}, {"subnet": subnet, "privateIPAddressVersion": "IPv6"})
    shown = azure.write("networkInterfaces/n", body)
    assert (address(shown), address(shown, 1)) == ("10.1.1.4", "fd00::4")


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ([], "NetworkInterfaceMustHaveAtLeastOneIPConfiguration"),
        ([{}], "InvalidRequestFormat"),
        ([{"subnet": {"id": "gone"}}], "LinkedInvalidPropertyId"),
        ([{"primary": True}, {"primary": True}], "NetworkInterfaceMustUseOnePrimaryIPConfiguration"),
    ],
)
def test_configurations_that_azure_refuses(azure: AzureNetwork, said: list[dict[str, Any]], code: str) -> None:
    assert azure.refusal("networkInterfaces/n", configurations(*said)).code == code


def test_references_have_to_exist_in_the_same_region(azure: AzureNetwork) -> None:
    gone = azure.subnet_id(subnet="gone")
    error = azure.refusal("networkInterfaces/n", configurations({"subnet": {"id": gone}}))
    assert error.code == "InvalidResourceReference"
    assert error.refusal.message == (
        f"Resource {gone} referenced by resource {azure.id('networkInterfaces/n')} was not found. Please make sure "
        "that the referenced resource exists, and that both resources are in the same region."
    )
    elsewhere = {**configurations(in_subnet(azure)), "location": "eastus"}
    assert azure.refusal("networkInterfaces/n", elsewhere).code == "InvalidResourceReference"


# -- public addresses


def public_body(method: str = "Static", sku: str = "Standard", **more: Any) -> dict[str, Any]:
    properties = {"publicIPAllocationMethod": method, **more}
    return {"location": LOCATION, "sku": {"name": sku}, "properties": properties}


def test_a_public_address_has_the_members_of_the_recording(azure: AzureNetwork) -> None:
    shown = azure.write("publicIPAddresses/p", public_body(sku="Basic", dnsSettings={"domainNameLabel": "woot1"}))
    assert shown["sku"] == {"name": "Basic", "tier": "Regional"}
    del shown["properties"]["resourceGuid"]
    assert shown["properties"] == {
        "provisioningState": "Succeeded",
        "ipAddress": "203.0.113.16",
        "publicIPAddressVersion": "IPv4",
        "publicIPAllocationMethod": "Static",
        "idleTimeoutInMinutes": 4,
        "dnsSettings": {"domainNameLabel": "woot1", "fqdn": "woot1.westeurope.cloudapp.azure.com"},
        "ipTags": [],
        "ddosSettings": {"protectionMode": "VirtualNetworkInherited"},
    }


def test_a_dynamic_public_address_is_shown_while_it_is_associated(azure: AzureNetwork) -> None:
    shown = azure.write("publicIPAddresses/p", public_body("Dynamic", "Basic"))
    assert "ipAddress" not in shown["properties"]
    azure.interface(publicIPAddress={"id": str(azure.id("publicIPAddresses/p"))})
    properties = azure.show("publicIPAddresses/p")["properties"]
    assert properties["ipAddress"] == "203.0.113.16"
    assert properties["ipConfiguration"]["id"].endswith("/networkInterfaces/nic/ipConfigurations/ipconfig1")


def test_public_addresses_stay_what_they_are(azure: AzureNetwork) -> None:
    for name in "abc":
        azure.write(f"publicIPAddresses/{name}", public_body())
    azure.remove("publicIPAddresses/a")
    assert azure.write("publicIPAddresses/b", public_body())["properties"]["ipAddress"] == "203.0.113.17"
    assert azure.write("publicIPAddresses/d", public_body())["properties"]["ipAddress"] == "203.0.113.16"


def test_a_public_address_has_one_holder(azure: AzureNetwork) -> None:
    azure.write("publicIPAddresses/p", public_body())
    public = {"id": str(azure.id("publicIPAddresses/p"))}
    azure.interface("a", publicIPAddress=public)
    azure.interface("a", publicIPAddress=public)
    refused = azure.refusal("networkInterfaces/b", configurations(in_subnet(azure, publicIPAddress=public)))
    assert refused.code == "PublicIPAddressInUse"
    error = azure.removal_refusal("publicIPAddresses/p")
    assert error.code == "PublicIPAddressCannotBeDeleted"
    assert "can not be deleted since it is still allocated to resource" in str(error)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (public_body("Dynamic"), "StandardSkuPublicIPAddressesMustUseStaticAllocation"),
        (public_body(idleTimeoutInMinutes=3), "InvalidIdleTimeout"),
        (public_body(dnsSettings={"domainNameLabel": "-"}), "InvalidDomainNameLabel"),
        (public_body(dnsSettings={"domainNameLabel": "taken"}), "DnsRecordInUse"),
        (public_body("Never"), "InvalidRequestFormat"),
    ],
)
def test_public_addresses_that_azure_refuses(azure: AzureNetwork, body: dict[str, Any], code: str) -> None:
    azure.write("publicIPAddresses/other", public_body(dnsSettings={"domainNameLabel": "taken"}))
    assert azure.refusal("publicIPAddresses/p", body).code == code


def test_the_sku_is_set_for_good(azure: AzureNetwork) -> None:
    azure.write("publicIPAddresses/p", public_body())
    error = azure.refusal("publicIPAddresses/p", public_body(sku="Basic"))
    assert "Sku property is set at creation time and cannot be changed from Standard to Basic" in str(error)


# -- security groups


def rule(name: str, priority: int = 100, **more: Any) -> dict[str, Any]:
    properties = {
        "protocol": "tcp",
        "sourceAddressPrefix": "*",
        "sourcePortRange": "*",
        "destinationAddressPrefix": "*",
        "destinationPortRange": "80",
        "access": "allow",
        "priority": priority,
        "direction": "inbound",
        **more,
    }
    return {"name": name, "properties": properties}


def test_a_security_group_has_azures_default_rules(azure: AzureNetwork) -> None:
    shown = azure.write("networkSecurityGroups/g", {"location": LOCATION, "properties": {"securityRules": [rule("r")]}})
    defaults = shown["properties"]["defaultSecurityRules"]
    assert [(one["name"], one["properties"]["priority"]) for one in defaults] == [
        ("AllowVnetInBound", 65000),
        ("AllowAzureLoadBalancerInBound", 65001),
        ("DenyAllInBound", 65500),
        ("AllowVnetOutBound", 65000),
        ("AllowInternetOutBound", 65001),
        ("DenyAllOutBound", 65500),
    ]
    [own] = shown["properties"]["securityRules"]
    assert own["properties"]["protocol"] == "Tcp"
    assert own["properties"]["destinationPortRanges"] == []
    assert own["type"] == "Microsoft.Network/networkSecurityGroups/securityRules"


@pytest.mark.parametrize(
    ("name", "body", "code"),
    [
        ("other", rule("other"), "SecurityRuleConflict"),
        ("other", rule("other", 99), "SecurityRuleInvalidPriority"),
        ("other", rule("other", 4097), "SecurityRuleInvalidPriority"),
        ("other", rule("other", 200, protocol="IPX"), "InvalidRequestFormat"),
        ("other", rule("other", 200, access=None), "InvalidRequestFormat"),
        ("other", rule("other", 200, destinationPortRange=None), "SecurityRuleDestinationPortRangeMissing"),
    ],
)
def test_rules_that_azure_refuses(azure: AzureNetwork, name: str, body: dict[str, Any], code: str) -> None:
    azure.write("networkSecurityGroups/g", {"location": LOCATION, "properties": {"securityRules": [rule("r")]}})
    assert azure.refusal(f"networkSecurityGroups/g/securityRules/{name}", body).code == code


def test_a_security_group_in_use_stays(azure: AzureNetwork) -> None:
    azure.write("networkSecurityGroups/g", {"location": LOCATION})
    group = {"id": str(azure.id("networkSecurityGroups/g"))}
    subnet = {"properties": {"addressPrefix": "10.0.1.0/24", "networkSecurityGroup": group}}
    azure.write("virtualNetworks/v/subnets/t", subnet)
    body = configurations(in_subnet(azure))
    body["properties"]["networkSecurityGroup"] = group
    azure.write("networkInterfaces/n", body)
    properties = azure.show("networkSecurityGroups/g")["properties"]
    assert properties["subnets"] == [{"id": azure.subnet_id(subnet="t")}]
    assert properties["networkInterfaces"] == [{"id": str(azure.id("networkInterfaces/n"))}]
    assert azure.removal_refusal("networkSecurityGroups/g").code == "InUseNetworkSecurityGroupCannotBeDeleted"
