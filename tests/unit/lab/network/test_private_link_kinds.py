"""Link services, endpoints, the connections between them, and DNS zone groups."""

from typing import Any

import pytest
from tests.fakes.azure_network import CUSTOMER, LOCATION, PROVIDER, AzureNetwork, state_of

from isthmus.lab import network
from isthmus.lab.errors import ArmError

PENDING = {"status": "Pending", "description": "Awaiting approval", "actionsRequired": "None"}
AUTO = {"status": "Approved", "description": "Auto Approved", "actionsRequired": "None"}


@pytest.fixture
def azure() -> AzureNetwork:
    return AzureNetwork()


def alias(azure: AzureNetwork) -> str:
    found: str = azure.show("privateLinkServices/svc")["properties"]["alias"]
    return found


def service_id(azure: AzureNetwork) -> str:
    return str(azure.id("privateLinkServices/svc"))


def connections(azure: AzureNetwork) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = azure.show("privateLinkServices/svc")["properties"]["privateEndpointConnections"]
    return found


def ask(azure: AzureNetwork, action: str, subscription: str = CUSTOMER, body: dict[str, Any] | None = None) -> Any:
    [found] = [one for one in network.ACTIONS if one.path == action and not one.kind]
    scope = azure.id("x/y", subscription)
    place = type(scope)(subscription)
    return found.answer(azure.change, place, LOCATION, body or {}, azure.caller)


# -- link services


def test_a_service_has_the_members_of_the_recording() -> None:
    azure = AzureNetwork("2021-08-01")
    azure.network()
    azure.balancer()
    body = azure.service_body(enableProxyProtocol=True, visibility=None)
    shown = azure.write("privateLinkServices/lks1", body)
    properties = shown["properties"]
    name, guid, *rest = properties.pop("alias").split(".")
    assert (name, len(guid), rest) == ("lks1", 36, [LOCATION, "azure", "privatelinkservice"])
    del properties["resourceGuid"]
    [interface] = properties.pop("networkInterfaces")
    assert interface["id"].rpartition("/")[2].startswith("lks1.nic.")
    [configuration] = properties.pop("ipConfigurations")
    assert configuration["type"] == "Microsoft.Network/privateLinkServices/ipConfigurations"
    assert configuration["properties"] == {
        "provisioningState": "Succeeded",
        "privateIPAllocationMethod": "Dynamic",
        "subnet": {"id": azure.subnet_id()},
        "primary": True,
        "privateIPAddressVersion": "IPv4",
    }
    frontend = azure.id("loadBalancers/lb/frontendIPConfigurations/fe")
    assert properties == {
        "provisioningState": "Succeeded",
        "fqdns": [],
        "enableProxyProtocol": True,
        "loadBalancerFrontendIpConfigurations": [{"id": str(frontend)}],
        "privateEndpointConnections": [],
    }


def test_its_interface_holds_the_nat_addresses(azure: AzureNetwork) -> None:
    azure.service()
    [reference] = azure.show("privateLinkServices/svc")["properties"]["networkInterfaces"]
    path = reference["id"].partition("Microsoft.Network/")[2]
    properties = azure.show(path)["properties"]
    assert properties["privateLinkService"] == {"id": service_id(azure)}
    assert properties["ipConfigurations"][0]["properties"]["privateIPAddress"] == "10.0.0.5"
    assert azure.removal_refusal(path).code == "NicInUseWithPrivateLinkService"
    more = [
        {"name": name, "properties": {"subnet": {"id": azure.subnet_id()}, **said}}
        for name, said in (
            ("nat", {}),
            ("other", {"privateIPAllocationMethod": "Static", "privateIPAddress": "10.0.0.77"}),
        )
    ]
    shown = azure.write("privateLinkServices/svc", azure.service_body(ipConfigurations=more))
    assert shown["properties"]["ipConfigurations"][1]["properties"]["privateIPAddress"] == "10.0.0.77"
    held = azure.show(path)["properties"]["ipConfigurations"]
    assert [one["properties"]["privateIPAddress"] for one in held] == ["10.0.0.5", "10.0.0.77"]
    azure.remove("privateLinkServices/svc")
    assert azure.change.get(reference["id"]) is None


def test_the_subnet_has_to_be_without_policies(azure: AzureNetwork) -> None:
    azure.network()
    azure.balancer()
    azure.write("virtualNetworks/v/subnets/t", {"properties": {"addressPrefix": "10.0.1.0/24"}})
    nat = {"name": "nat", "properties": {"subnet": {"id": azure.subnet_id(subnet="t")}}}
    error = azure.refusal("privateLinkServices/svc", azure.service_body(ipConfigurations=[nat]))
    assert error.code == "PrivateLinkServiceCannotBeCreatedInSubnetThatHasNetworkPoliciesEnabled"
    assert error.refusal.message == (
        f"Private link service {service_id(azure)} cannot be created in a subnet {azure.subnet_id(subnet='t')} since "
        "it has private link service network policies enabled."
    )
    azure.service()
    back = {"properties": {"addressPrefix": "10.0.0.0/24", "privateLinkServiceNetworkPolicies": "Enabled"}}
    refused = azure.refusal("virtualNetworks/v/subnets/s", back)
    assert refused.code == "PrivateLinkServiceNetworkPoliciesCannotBeEnabledOnPrivateLinkServiceSubnet"


def _nats(azure: AzureNetwork, count: int) -> list[dict[str, Any]]:
    return [{"name": f"n{one}", "properties": {"subnet": {"id": azure.subnet_id()}}} for one in range(count)]


def test_one_to_eight_nat_addresses(azure: AzureNetwork) -> None:
    azure.network()
    azure.balancer()
    for count in (0, 9):
        error = azure.refusal("privateLinkServices/svc", azure.service_body(ipConfigurations=_nats(azure, count)))
        assert error.code == "PrivateLinkServiceIpConfigurationCountOutOfRange"
    azure.service(ipConfigurations=_nats(azure, 8))


def test_direct_connect_wants_pairs_of_nat_addresses(azure: AzureNetwork) -> None:
    azure.network()
    body = azure.service_body(destinationIPAddress="10.0.0.99", loadBalancerFrontendIpConfigurations=None)
    code = "PrivateLinkServiceDirectConnectIpConfigurationCountInvalid"
    assert azure.refusal("privateLinkServices/svc", body).code == code
    body["properties"]["ipConfigurations"] = _nats(azure, 2)
    shown = azure.write("privateLinkServices/svc", body)
    assert shown["properties"]["destinationIPAddress"] == "10.0.0.99"


def test_the_load_balancer_has_to_be_there_and_standard(azure: AzureNetwork) -> None:
    azure.network()
    assert azure.refusal("privateLinkServices/svc", azure.service_body()).code == "InvalidResourceReference"
    frontend = {"name": "fe", "properties": {"subnet": {"id": azure.subnet_id()}}}
    azure.write("loadBalancers/lb", {"location": LOCATION, "properties": {"frontendIPConfigurations": [frontend]}})
    refused = azure.refusal("privateLinkServices/svc", azure.service_body())
    assert refused.code == "PrivateLinkServiceNotSupportedOnBasicLoadBalancer"


def test_a_load_balancer_in_front_of_a_service_stays(azure: AzureNetwork) -> None:
    azure.service()
    error = azure.removal_refusal("loadBalancers/lb")
    assert error.code == "CannotDeleteLoadBalancerWithPrivateLinkService"
    assert error.refusal.message == (
        f"Cannot delete load balancer {azure.id('loadBalancers/lb')} since it is referenced by private link service "
        f"{service_id(azure)}. Please delete private link service prior to deleting load balancer."
    )
    for count in range(7):
        azure.service(f"svc{count}")
    ninth = azure.refusal("privateLinkServices/ninth", azure.service_body())
    assert ninth.code == "PrivateLinkServicesPerLoadBalancerLimitReached"


def test_lists_of_subscriptions_are_limited(azure: AzureNetwork) -> None:
    azure.network()
    azure.balancer()
    many = {"subscriptions": [str(number) for number in range(101)]}
    for member in ("visibility", "autoApproval"):
        error = azure.refusal("privateLinkServices/svc", azure.service_body(**{member: many}))
        assert error.code == "PrivateLinkServiceSubscriptionCountLimitExceeded"


# -- endpoints


def test_an_automatic_endpoint_has_the_members_of_the_recording() -> None:
    azure = AzureNetwork("2021-08-01")
    azure.service()
    shown = azure.endpoint(service_id(azure), "pe1", manual=False, customNetworkInterfaceName="nic1")
    here = str(azure.id("privateEndpoints/pe1", CUSTOMER))
    properties = shown["properties"]
    guid = properties.pop("resourceGuid")
    [connection] = properties.pop("privateLinkServiceConnections")
    assert connection == {
        "name": "c",
        "id": f"{here}/privateLinkServiceConnections/c",
        "etag": shown["etag"],
        "type": "Microsoft.Network/privateEndpoints/privateLinkServiceConnections",
        "properties": {
            "provisioningState": "Succeeded",
            "privateLinkServiceId": service_id(azure),
            "privateLinkServiceConnectionState": AUTO,
        },
    }
    assert properties == {
        "provisioningState": "Succeeded",
        "manualPrivateLinkServiceConnections": [],
        "customNetworkInterfaceName": "nic1",
        "subnet": {"id": azure.subnet_id(subscription=CUSTOMER)},
        "ipConfigurations": [],
        "networkInterfaces": [{"id": str(azure.id("networkInterfaces/nic1", CUSTOMER))}],
        "customDnsConfigs": [],
    }
    [theirs] = connections(azure)
    assert theirs["name"] == f"pe1.{guid}"
    assert theirs["type"] == "Microsoft.Network/privateLinkServices/privateEndpointConnections"
    assert theirs["properties"].pop("linkIdentifier").isdigit()
    assert theirs["properties"] == {
        "provisioningState": "Succeeded",
        "privateEndpoint": {"id": here},
        "privateLinkServiceConnectionState": AUTO,
    }


def test_its_interface_is_read_only(azure: AzureNetwork) -> None:
    azure.service()
    endpoint = azure.endpoint(service_id(azure))
    [reference] = endpoint["properties"]["networkInterfaces"]
    name = reference["id"].rpartition("/")[2]
    assert name.startswith("pe.nic.")
    path = f"networkInterfaces/{name}"
    shown = azure.show(path, CUSTOMER)
    assert shown["properties"]["privateEndpoint"] == {"id": endpoint["id"]}
    [configuration] = shown["properties"]["ipConfigurations"]
    assert configuration["name"].startswith("privateEndpointIpConfig.")
    assert configuration["properties"]["privateIPAddress"] == "10.0.0.4"
    linked = {"groupId": "", "requiredMemberName": "", "fqdns": []}
    assert configuration["properties"]["privateLinkConnectionProperties"] == linked
    error = azure.removal_refusal(path, CUSTOMER)
    assert error.code == "NicInUseWithPrivateEndpoint"
    assert str(error).startswith(
        f"Network interface {reference['id']} cannot be deleted because it is currently in use with an private "
        f"endpoint ({endpoint['id']})."
    )
    assert azure.refusal(path, shown, CUSTOMER).code == "CannotModifyNicAttachedToPrivateEndpoint"
    with pytest.raises(ArmError) as caught:
        azure.patch(path, {"tags": {"a": "b"}}, CUSTOMER)
    assert caught.value.code == "CannotModifyNicAttachedToPrivateEndpoint"
    subnet = azure.show("virtualNetworks/v/subnets/s", CUSTOMER)["properties"]
    assert subnet["privateEndpoints"] == [{"id": endpoint["id"]}]
    assert subnet["purpose"] == "PrivateEndpoints"


def test_a_static_address(azure: AzureNetwork) -> None:
    azure.service()
    said = {"name": "i", "properties": {"groupId": "g", "memberName": "m", "privateIPAddress": "10.0.0.44"}}
    shown = azure.endpoint(service_id(azure), ipConfigurations=[said])
    [one] = shown["properties"]["ipConfigurations"]
    assert one["properties"] == {"provisioningState": "Succeeded", **said["properties"]}
    body = azure.endpoint_body(service_id(azure), ipConfigurations=[said])
    assert azure.refusal("privateEndpoints/other", body, CUSTOMER).code == "PrivateIPAddressIsAllocated"


@pytest.mark.parametrize("by_alias", [True, False])
def test_a_manual_request_waits_for_the_provider(azure: AzureNetwork, by_alias: bool) -> None:
    azure.service()
    name = alias(azure).upper() if by_alias else service_id(azure)
    endpoint = azure.endpoint(name, request={"requestMessage": "please"})
    asked = {**PENDING, "description": "please"}
    assert state_of(endpoint) == asked
    [one] = endpoint["properties"]["manualPrivateLinkServiceConnections"]
    assert one["properties"]["privateLinkServiceId"] == name
    assert one["properties"]["requestMessage"] == "please"
    [connection] = connections(azure)
    assert connection["properties"]["privateLinkServiceConnectionState"] == asked
    assert connection["properties"]["privateEndpointLocation"] == LOCATION
    before = azure.show("privateEndpoints/pe", CUSTOMER)["etag"]
    decided = azure.decide("approved")
    expected = {"status": "Approved", "description": "decided", "actionsRequired": "None"}
    assert decided["properties"]["privateLinkServiceConnectionState"] == expected
    after = azure.show("privateEndpoints/pe", CUSTOMER)
    assert state_of(after) == expected
    assert after["etag"] != before


def test_rejected_is_final(azure: AzureNetwork) -> None:
    azure.service()
    azure.endpoint(alias(azure))
    azure.decide("Approved")
    azure.decide("Rejected")
    assert state_of(azure.show("privateEndpoints/pe", CUSTOMER))["status"] == "Rejected"
    with pytest.raises(ArmError) as caught:
        azure.decide("Approved")
    assert caught.value.status == 400
    again = azure.write("privateEndpoints/pe", azure.show("privateEndpoints/pe", CUSTOMER), CUSTOMER)
    assert state_of(again)["status"] == "Rejected"


def test_removal_leaves_the_endpoint_disconnected_for_good(azure: AzureNetwork) -> None:
    azure.service()
    azure.endpoint(alias(azure))
    azure.decide("Approved", description="welcome")
    [connection] = connections(azure)
    azure.remove(f"privateLinkServices/svc/privateEndpointConnections/{connection['name']}")
    expected = {"status": "Disconnected", "description": "welcome", "actionsRequired": "None"}
    assert state_of(azure.show("privateEndpoints/pe", CUSTOMER)) == expected
    assert connections(azure) == []
    azure.write("privateEndpoints/pe", azure.show("privateEndpoints/pe", CUSTOMER), CUSTOMER)
    assert state_of(azure.show("privateEndpoints/pe", CUSTOMER)) == expected
    azure.remove("privateLinkServices/svc")
    azure.service()
    assert state_of(azure.show("privateEndpoints/pe", CUSTOMER)) == expected


def test_connections_are_made_by_endpoints_alone(azure: AzureNetwork) -> None:
    azure.service()
    body = {"properties": {"privateLinkServiceConnectionState": {"status": "Approved"}}}
    error = azure.refusal("privateLinkServices/svc/privateEndpointConnections/x", body)
    assert error.code == "PrivateEndpointConnectionCannotBeCreatedByServiceProvider"


def test_a_service_with_connections_stays(azure: AzureNetwork) -> None:
    azure.service()
    azure.endpoint(alias(azure))
    error = azure.removal_refusal("privateLinkServices/svc")
    assert error.code == "PrivateLinkServiceWithPrivateEndpointConnectionsCannotBeDeleted"
    assert error.refusal.message == (
        f"Private link service {service_id(azure)} cannot be deleted since it has 1 private endpoint connections. "
        "Please delete all private endpoint connections before deleting the private link service."
    )
    azure.remove("privateEndpoints/pe", CUSTOMER)
    assert connections(azure) == []
    azure.remove("privateLinkServices/svc")


@pytest.mark.parametrize(
    ("listed", "sees"), [([], False), (["*"], True), ([CUSTOMER.upper()], True), ([PROVIDER], False)]
)
def test_visibility(azure: AzureNetwork, listed: list[str], sees: bool) -> None:
    azure.service(visibility={"subscriptions": listed})
    asked = {"privateLinkServiceAlias": alias(azure)}
    assert ask(azure, "checkprivatelinkservicevisibility", body=asked) == {"visible": sees}
    assert ask(azure, "checkprivatelinkservicevisibility", PROVIDER, asked) == {"visible": True}
    azure.network(subscription=CUSTOMER)
    if sees:
        azure.endpoint(alias(azure))
    else:
        for name in (alias(azure), service_id(azure)):
            body = azure.endpoint_body(name)
            assert azure.refusal("privateEndpoints/pe", body, CUSTOMER).code == "PrivateLinkServiceNotVisible"


def test_an_unknown_alias_is_not_visible(azure: AzureNetwork) -> None:
    azure.network(subscription=CUSTOMER)
    name = "svc.0.westeurope.azure.privatelinkservice"
    assert ask(azure, "checkprivatelinkservicevisibility", body={"privateLinkServiceAlias": name}) == {"visible": False}
    body = azure.endpoint_body(name)
    assert azure.refusal("privateEndpoints/pe", body, CUSTOMER).code == "InvalidResourceReference"


def test_requests_of_listed_subscriptions_are_approved_at_once(azure: AzureNetwork) -> None:
    azure.service(autoApproval={"subscriptions": [CUSTOMER]})
    assert state_of(azure.endpoint(alias(azure))) == AUTO
    listed = {"value": [{"privateLinkService": service_id(azure)}]}
    assert ask(azure, "autoapprovedprivatelinkservices") == listed
    assert ask(azure, "autoapprovedprivatelinkservices", PROVIDER) == {"value": []}


def test_an_approved_endpoint_vouches_for_another(azure: AzureNetwork) -> None:
    azure.service()
    first = azure.endpoint(alias(azure), "first")
    reference = {"approvalReference": {"privateEndpointId": first["id"]}}
    assert state_of(azure.endpoint(alias(azure), "early", request=reference)) == PENDING
    azure.decide("Approved")
    assert state_of(azure.endpoint(alias(azure), "late", request=reference)) == AUTO


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"privateLinkServiceConnections": [], "manualPrivateLinkServiceConnections": []}, "MustHaveOne"),
        ({"subnet": None}, "InvalidRequestFormat"),
        ({"manualPrivateLinkServiceConnections": [{"name": "c", "properties": {}}]}, "InvalidRequestFormat"),
    ],
)
def test_endpoints_that_azure_refuses(azure: AzureNetwork, change: dict[str, Any], code: str) -> None:
    azure.service()
    azure.network(subscription=CUSTOMER)
    body = azure.endpoint_body(service_id(azure))
    body["properties"] |= change
    assert code in azure.refusal("privateEndpoints/pe", body, CUSTOMER).code


def test_an_alias_needs_a_manual_request_and_messages_are_short(azure: AzureNetwork) -> None:
    azure.service()
    azure.network(subscription=CUSTOMER)
    automatic = azure.endpoint_body(alias(azure), manual=False)
    assert azure.refusal("privateEndpoints/pe", automatic, CUSTOMER).code == "LinkedInvalidPropertyId"
    long = azure.endpoint_body(alias(azure), request={"requestMessage": "x" * 141})
    refused = azure.refusal("privateEndpoints/pe", long, CUSTOMER)
    assert refused.code == "PrivateLinkServiceConnectionRequestMessageTooLong"


def test_an_endpoint_stays_where_it_is(azure: AzureNetwork) -> None:
    azure.service()
    azure.service("other")
    shown = azure.endpoint(service_id(azure))
    azure.write("virtualNetworks/v/subnets/t", {"properties": {"addressPrefix": "10.0.1.0/24"}}, CUSTOMER)
    for change in (
        {"subnet": {"id": azure.subnet_id(subnet="t", subscription=CUSTOMER)}},
        {"customNetworkInterfaceName": "another"},
        {"ipConfigurations": [{"name": "i", "properties": {"privateIPAddress": "10.0.0.99"}}]},
        azure.endpoint_body(str(azure.id("privateLinkServices/other")))["properties"],
    ):
        body = {**shown, "properties": {**shown["properties"], **change}}
        assert azure.refusal("privateEndpoints/pe", body, CUSTOMER).code.endswith("CannotBeChanged"), change
    tagged = azure.write("privateEndpoints/pe", {**shown, "tags": {"a": "b"}}, CUSTOMER)
    assert tagged["tags"] == {"a": "b"}
    assert tagged["properties"]["networkInterfaces"] == shown["properties"]["networkInterfaces"]


# -- names


def zone(azure: AzureNetwork, name: str = "example.com") -> str:
    azure.write(f"privateDnsZones/{name}", {"location": "global"}, CUSTOMER)
    return str(azure.id(f"privateDnsZones/{name}", CUSTOMER))


def group(*zones: str) -> dict[str, Any]:
    configs = [{"name": f"z{index}", "properties": {"privateDnsZoneId": one}} for index, one in enumerate(zones)]
    return {"properties": {"privateDnsZoneConfigs": configs}}


def records(azure: AzureNetwork, name: str = "example.com") -> dict[str, list[str]]:
    found = azure.change.children(azure.id(f"privateDnsZones/{name}", CUSTOMER), "Microsoft.Network/privateDnsZones/A")
    return {one.id.name: [a["ipv4Address"] for a in one.properties["aRecords"]] for one in found}


def test_a_service_without_names_makes_no_records(azure: AzureNetwork) -> None:
    azure.service()
    endpoint = azure.endpoint(service_id(azure), manual=False)
    assert endpoint["properties"]["customDnsConfigs"] == []
    shown = azure.write("privateEndpoints/pe/privateDnsZoneGroups/g", group(zone(azure)), CUSTOMER)
    [config] = shown["properties"]["privateDnsZoneConfigs"]
    assert config["properties"]["recordSets"] == []
    assert config["type"] == "Microsoft.Network/privateEndpoints/privateDnsZoneGroups/privateDnsZoneConfigs"
    assert records(azure) == {}


def test_names_are_records_as_long_as_the_connection_is_approved(azure: AzureNetwork) -> None:
    azure.service(fqdns=["App.example.com", "example.com", "other.org"])
    endpoint = azure.endpoint(alias(azure))
    assert endpoint["properties"]["customDnsConfigs"] == []
    azure.write("privateEndpoints/pe/privateDnsZoneGroups/g", group(zone(azure)), CUSTOMER)
    assert records(azure) == {}
    azure.decide("Approved")
    assert records(azure) == {"app": ["10.0.0.4"], "@": ["10.0.0.4"]}
    dns = azure.show("privateEndpoints/pe", CUSTOMER)["properties"]["customDnsConfigs"]
    assert dns[0] == {"fqdn": "App.example.com", "ipAddresses": ["10.0.0.4"]}
    shown = azure.show("privateEndpoints/pe/privateDnsZoneGroups/g", CUSTOMER)
    sets = shown["properties"]["privateDnsZoneConfigs"][0]["properties"]["recordSets"]
    assert sets[0] == {
        "recordType": "A",
        "recordSetName": "app",
        "fqdn": "app.example.com",
        "ttl": 10,
        "provisioningState": "Succeeded",
        "ipAddresses": ["10.0.0.4"],
    }
    azure.remove("privateEndpoints/pe/privateDnsZoneGroups/g", CUSTOMER)
    assert records(azure) == {}
    azure.write("privateEndpoints/pe/privateDnsZoneGroups/g", group(zone(azure)), CUSTOMER)
    assert len(records(azure)) == 2
    azure.remove("privateEndpoints/pe", CUSTOMER)
    assert records(azure) == {}
    assert azure.change.get(azure.id("privateEndpoints/pe/privateDnsZoneGroups/g", CUSTOMER)) is None


def test_one_group_with_up_to_five_zones_that_exist(azure: AzureNetwork) -> None:
    azure.service()
    azure.endpoint(service_id(azure))
    path = "privateEndpoints/pe/privateDnsZoneGroups"
    gone = str(azure.id("privateDnsZones/gone.com", CUSTOMER))
    assert azure.refusal(f"{path}/g", group(gone), CUSTOMER).code == "InvalidPrivateDnsZoneIds"
    zones = [zone(azure, f"z{number}.com") for number in range(6)]
    assert azure.refusal(f"{path}/g", group(*zones), CUSTOMER).code == "PrivateDnsZoneGroupZoneLimitExceeded"
    azure.write(f"{path}/g", group(*zones[:5]), CUSTOMER)
    second = azure.refusal(f"{path}/h", group(zones[0]), CUSTOMER)
    assert second.code == "MoreThanOnePrivateDnsZoneGroupPerPrivateEndpointNotAllowed"


def test_what_a_client_sends_back_of_derived_names_is_not_kept(azure: AzureNetwork) -> None:
    azure.service(fqdns=["app.example.com"])
    azure.endpoint(service_id(azure), manual=False)
    azure.write("privateEndpoints/pe", azure.show("privateEndpoints/pe", CUSTOMER), CUSTOMER)
    azure.service(fqdns=["new.example.com"])
    [config] = azure.show("privateEndpoints/pe", CUSTOMER)["properties"]["customDnsConfigs"]
    assert config["fqdn"] == "new.example.com"
