"""Virtual networks, subnets and peerings: rules and shapes."""

from typing import Any

import pytest
from tests.fakes.azure_network import CUSTOMER, LOCATION, PROVIDER, AzureNetwork


@pytest.fixture
def azure() -> AzureNetwork:
    return AzureNetwork()


def test_a_network_has_the_members_of_the_recording() -> None:
    azure = AzureNetwork("2021-08-01")
    body = {
        "location": "Central US",
        "tags": {},
        "properties": {
            "addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
            "dhcpOptions": {},
            "subnets": [
                {
                    "name": "subnet1",
                    "properties": {
                        "addressPrefix": "10.0.0.0/24",
                        "privateEndpointNetworkPolicies": "Enabled",
                        "privateLinkServiceNetworkPolicies": "Enabled",
                    },
                }
            ],
        },
    }
    shown = azure.write("virtualNetworks/vnet1", body)
    guid = shown["properties"].pop("resourceGuid")
    [subnet] = shown["properties"].pop("subnets")
    etags = (shown.pop("etag"), subnet.pop("etag"))
    here = f"/subscriptions/{PROVIDER}/resourceGroups/rg/providers/Microsoft.Network/virtualNetworks/vnet1"
    assert shown == {
        "name": "vnet1",
        "id": here,
        "type": "Microsoft.Network/virtualNetworks",
        "location": "centralus",
        "tags": {},
        "properties": {
            "provisioningState": "Succeeded",
            "addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
            "dhcpOptions": {"dnsServers": []},
            "virtualNetworkPeerings": [],
            "enableDdosProtection": False,
        },
    }
    assert subnet == {
        "name": "subnet1",
        "id": f"{here}/subnets/subnet1",
        "type": "Microsoft.Network/virtualNetworks/subnets",
        "properties": {
            "provisioningState": "Succeeded",
            "addressPrefix": "10.0.0.0/24",
            "delegations": [],
            "privateEndpointNetworkPolicies": "Enabled",
            "privateLinkServiceNetworkPolicies": "Enabled",
        },
    }
    assert all(etag.startswith('W/"') for etag in etags)
    assert len(guid) == 36


def test_new_versions_show_address_management_and_old_ones_do_not(azure: AzureNetwork) -> None:
    properties = azure.network()["properties"]
    assert properties["addressSpace"]["ipamPoolPrefixAllocations"] == []
    assert properties["privateEndpointVNetPolicies"] == "Disabled"
    assert properties["subnets"][0]["properties"]["privateEndpointNetworkPolicies"] == "Disabled"


def test_what_azure_knows_and_the_lab_does_not_use_is_kept(azure: AzureNetwork) -> None:
    shown = azure.network(
        flowTimeoutInMinutes=10, encryption={"enabled": True, "enforcement": "allowunencrypted"}, aNewMember={"a": 1}
    )
    assert shown["properties"]["flowTimeoutInMinutes"] == 10
    assert shown["properties"]["encryption"] == {"enabled": True, "enforcement": "AllowUnencrypted"}
    assert shown["properties"]["aNewMember"] == {"a": 1}


def test_subnets_that_are_not_named_go_and_without_the_member_they_stay(azure: AzureNetwork) -> None:
    azure.network()
    azure.write("virtualNetworks/v/subnets/t", {"properties": {"addressPrefix": "10.0.1.0/24"}})
    space = {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}}
    shown = azure.write("virtualNetworks/v", {"location": LOCATION, "properties": space})
    assert [one["name"] for one in shown["properties"]["subnets"]] == ["s", "t"]
    t = {"name": "t", "properties": {"addressPrefix": "10.0.1.0/24"}}
    shown = azure.write("virtualNetworks/v", {"location": LOCATION, "properties": {**space, "subnets": [t]}})
    assert [one["name"] for one in shown["properties"]["subnets"]] == ["t"]


def test_a_network_sent_back_as_it_was_shown_stays_the_same(azure: AzureNetwork) -> None:
    azure.network()
    azure.network("w", "10.1.0.0/16")
    peer(azure, "v", "w")
    peer(azure, "w", "v")
    shown = azure.show("virtualNetworks/v")
    again = azure.write("virtualNetworks/v", shown)
    for one in (shown, again):
        one.pop("etag")
        for part in one["properties"]["subnets"]:
            part.pop("etag")
    assert again == shown


def test_a_subnets_change_gives_its_network_a_new_etag(azure: AzureNetwork) -> None:
    before = azure.network()["etag"]
    azure.write("virtualNetworks/v/subnets/t", {"properties": {"addressPrefix": "10.0.1.0/24"}})
    changed = azure.show("virtualNetworks/v")["etag"]
    azure.remove("virtualNetworks/v/subnets/t")
    assert len({before, changed, azure.show("virtualNetworks/v")["etag"]}) == 3


@pytest.mark.parametrize(
    ("prefixes", "code"),
    [
        (["10.0.0.0/33"], "InvalidAddressPrefixFormat"),
        (["10.0.0.0"], "InvalidAddressPrefixFormat"),
        (["10.0.0.0/255.255.255.0"], "InvalidAddressPrefixFormat"),
        (["network"], "InvalidAddressPrefixFormat"),
        (["10.0.0.1/24"], "InvalidCIDRNotation"),
        (["10.0.0.0/16", "10.0.1.0/24"], "VnetAddressSpacesOverlapping"),
        ([], "InvalidRequestFormat"),
    ],
)
def test_address_spaces_that_are_none(azure: AzureNetwork, prefixes: list[str], code: str) -> None:
    body = {"location": LOCATION, "properties": {"addressSpace": {"addressPrefixes": prefixes}}}
    assert azure.refusal("virtualNetworks/v", body).code == code


@pytest.mark.parametrize(
    ("prefix", "code"),
    [
        ("10.1.0.0/24", "NetcfgInvalidSubnet"),
        ("10.0.0.0/15", "NetcfgInvalidSubnet"),
        ("10.0.0.128/25", "NetcfgSubnetRangesOverlap"),
        ("10.0.9.0/30", "NetcfgInvalidSubnet"),
        ("10.0.9.1/24", "InvalidCIDRNotation"),
        (None, "InvalidRequestFormat"),
    ],
)
def test_subnets_that_do_not_fit(azure: AzureNetwork, prefix: str | None, code: str) -> None:
    azure.network()
    error = azure.refusal("virtualNetworks/v/subnets/t", {"properties": {"addressPrefix": prefix}})
    assert error.code == code
    if code == "NetcfgInvalidSubnet":
        assert str(error).startswith("Subnet 't' is not valid in virtual network 'v'.")


def test_a_subnet_with_something_in_it_stays(azure: AzureNetwork) -> None:
    azure.network()
    azure.interface()
    inside = f"{azure.id('networkInterfaces/nic')}/ipConfigurations/ipconfig1"
    assert azure.show("virtualNetworks/v/subnets/s")["properties"]["ipConfigurations"] == [{"id": inside}]
    for path in ("virtualNetworks/v/subnets/s", "virtualNetworks/v"):
        error = azure.removal_refusal(path)
        assert error.code == "InUseSubnetCannotBeDeleted"
        assert inside in str(error)
    moved = {"properties": {"addressPrefix": "10.0.2.0/24"}}
    assert azure.refusal("virtualNetworks/v/subnets/s", moved).code == "InUsePrefixCannotBeDeleted"
    azure.write("virtualNetworks/v/subnets/s", {"properties": {"addressPrefix": "10.0.0.0/25"}})
    azure.remove("networkInterfaces/nic")
    azure.remove("virtualNetworks/v")
    assert azure.change.get(azure.id("virtualNetworks/v/subnets/s")) is None


def test_delegations_and_service_endpoints_are_kept(azure: AzureNetwork) -> None:
    azure.network()
    body = {
        "properties": {
            "addressPrefixes": ["10.0.1.0/24"],
            "serviceEndpoints": [{"service": "Microsoft.Storage"}],
            "delegations": [{"name": "d", "properties": {"serviceName": "Microsoft.Web/serverFarms"}}],
        }
    }
    properties = azure.write("virtualNetworks/v/subnets/t", body)["properties"]
    assert properties["serviceEndpoints"] == [{"provisioningState": "Succeeded", "service": "Microsoft.Storage"}]
    assert properties["delegations"][0]["id"].endswith("/subnets/t/delegations/d")
    assert properties["delegations"][0]["properties"]["serviceName"] == "Microsoft.Web/serverFarms"


def test_tags_are_patched(azure: AzureNetwork) -> None:
    azure.network()
    assert azure.patch("virtualNetworks/v", {"tags": {"a": "b"}})["tags"] == {"a": "b"}
    assert azure.patch("virtualNetworks/v", {})["tags"] == {"a": "b"}
    assert len(azure.show("virtualNetworks/v")["properties"]["subnets"]) == 1


# -- peerings


def peer(azure: AzureNetwork, one: str, other: str, remote: str = PROVIDER, **query: str) -> dict[str, Any]:
    body = {"properties": {"remoteVirtualNetwork": {"id": str(azure.id(f"virtualNetworks/{other}", remote))}}}
    return azure.write(f"virtualNetworks/{one}/virtualNetworkPeerings/to-{other}", body, **query)


def peering(azure: AzureNetwork, one: str, other: str) -> dict[str, Any]:
    found: dict[str, Any] = azure.show(f"virtualNetworks/{one}/virtualNetworkPeerings/to-{other}")["properties"]
    return found


def test_a_peering_is_connected_when_both_halves_are_there(azure: AzureNetwork) -> None:
    azure.network()
    azure.network("w", "10.1.0.0/16")
    first = peer(azure, "v", "w")["properties"]
    assert first["peeringState"] == "Initiated"
    assert first["peeringSyncLevel"] == "RemoteNotInSync"
    assert first["remoteAddressSpace"] == {"addressPrefixes": ["10.1.0.0/16"]}
    assert first["remoteVirtualNetworkAddressSpace"] == {"addressPrefixes": ["10.1.0.0/16"]}
    assert first["routeServiceVips"] == {}
    assert (first["allowForwardedTraffic"], first["peerCompleteVnets"]) == (False, True)
    second = peer(azure, "w", "v")["properties"]
    assert (second["peeringState"], second["peeringSyncLevel"]) == ("Connected", "FullyInSync")
    assert peering(azure, "v", "w")["peeringState"] == "Connected"
    assert peering(azure, "v", "w")["resourceGuid"] == second["resourceGuid"]


def test_a_half_that_lost_the_other_is_disconnected_until_it_is_written_again(azure: AzureNetwork) -> None:
    azure.network()
    azure.network("w", "10.1.0.0/16")
    peer(azure, "v", "w")
    peer(azure, "w", "v")
    azure.remove("virtualNetworks/w/virtualNetworkPeerings/to-v")
    assert peering(azure, "v", "w")["peeringState"] == "Disconnected"
    body = {"properties": {"remoteVirtualNetwork": {"id": str(azure.id("virtualNetworks/v"))}}}
    error = azure.refusal("virtualNetworks/w/virtualNetworkPeerings/to-v", body)
    assert error.code == "RemotePeeringIsDisconnected"
    assert peer(azure, "v", "w")["properties"]["peeringState"] == "Initiated"
    assert peer(azure, "w", "v")["properties"]["peeringState"] == "Connected"


def test_the_end_of_a_network_cuts_its_peerings_off(azure: AzureNetwork) -> None:
    azure.network()
    azure.network("w", "10.1.0.0/16")
    peer(azure, "v", "w")
    peer(azure, "w", "v")
    azure.remove("virtualNetworks/w")
    half = peering(azure, "v", "w")
    assert half["peeringState"] == "Disconnected"
    assert half["remoteVirtualNetworkAddressSpace"] == {"addressPrefixes": ["10.1.0.0/16"]}


def test_a_new_address_space_has_to_be_synchronized(azure: AzureNetwork) -> None:
    azure.network()
    azure.network("w", "10.1.0.0/16")
    peer(azure, "v", "w")
    peer(azure, "w", "v")
    space = {"addressSpace": {"addressPrefixes": ["10.1.0.0/16", "10.2.0.0/16"]}}
    azure.write("virtualNetworks/w", {"location": LOCATION, "properties": space})
    assert peering(azure, "v", "w")["peeringSyncLevel"] == "LocalNotInSync"
    assert peering(azure, "w", "v")["peeringSyncLevel"] == "RemoteNotInSync"
    assert peering(azure, "v", "w")["remoteAddressSpace"] == {"addressPrefixes": ["10.1.0.0/16"]}
    peer(azure, "v", "w")
    assert peering(azure, "v", "w")["peeringSyncLevel"] == "LocalNotInSync"
    peer(azure, "v", "w", syncRemoteAddressSpace="true")
    assert peering(azure, "v", "w")["peeringSyncLevel"] == "FullyInSync"


def test_networks_that_overlap_are_not_peered(azure: AzureNetwork) -> None:
    azure.network()
    azure.network("w", "10.0.0.0/16")
    body = {"properties": {"remoteVirtualNetwork": {"id": str(azure.id("virtualNetworks/w"))}}}
    error = azure.refusal("virtualNetworks/v/virtualNetworkPeerings/p", body)
    assert error.code == "VnetAddressSpacesOverlap"
    assert str(error).startswith(f"Cannot create or update peering {azure.id('virtualNetworks/v')}")
    assert "Overlapping address prefixes: 10.0.0.0/16, 10.0.0.0/16" in str(error)


def test_nor_are_those_that_overlap_with_a_peer_of_the_other(azure: AzureNetwork) -> None:
    azure.network()
    azure.network("hub", "10.1.0.0/16")
    azure.network("w", "10.0.0.0/16")
    peer(azure, "v", "hub")
    peer(azure, "hub", "v")
    body = {"properties": {"remoteVirtualNetwork": {"id": str(azure.id("virtualNetworks/hub"))}}}
    error = azure.refusal("virtualNetworks/w/virtualNetworkPeerings/p", body)
    assert error.code == "VnetAddressSpaceOverlapsWithAlreadyPeeredVnet"
    space = {"addressSpace": {"addressPrefixes": ["10.0.0.0/16", "10.1.0.0/16"]}}
    changed = azure.refusal("virtualNetworks/v", {"location": LOCATION, "properties": space})
    assert changed.code == "VnetAddressSpacesOverlap"


def test_a_second_peering_with_the_same_network_is_refused(azure: AzureNetwork) -> None:
    azure.network()
    azure.network("w", "10.1.0.0/16", CUSTOMER)
    peer(azure, "v", "w", CUSTOMER)
    body = {"properties": {"remoteVirtualNetwork": {"id": str(azure.id("virtualNetworks/w", CUSTOMER))}}}
    refused = azure.refusal("virtualNetworks/v/virtualNetworkPeerings/again", body)
    assert refused.code == "AnotherPeeringAlreadyReferencesRemoteVnet"
    gone = {"properties": {"remoteVirtualNetwork": {"id": str(azure.id("virtualNetworks/nowhere"))}}}
    assert azure.refusal("virtualNetworks/v/virtualNetworkPeerings/x", gone).code == "InvalidResourceReference"
