"""Documents → picture."""

import time
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from tests.fakes.azure_network import CUSTOMER, LOCATION, PROVIDER, AzureNetwork

from isthmus.lab import picture, picturing
from isthmus.lab.documents import PUBLIC_NAMES


@pytest.fixture
def azure() -> AzureNetwork:
    return AzureNetwork()


def drawn(azure: AzureNetwork) -> picture.Picture:
    return picturing.picture(azure.change)


def pool(azure: AzureNetwork, name: str = "pool") -> dict[str, str]:
    return {"id": str(azure.id(f"loadBalancers/lb/backendAddressPools/{name}"))}


def test_nothing(azure: AzureNetwork) -> None:
    assert drawn(azure) == picture.Picture()


def test_a_network(azure: AzureNetwork) -> None:
    azure.network(dhcpOptions={"dnsServers": ["10.0.0.9", "168.63.129.16", "fd00::1"]})
    azure.interface()
    [found] = drawn(azure).networks
    assert found == picture.Network(
        key=azure.id("virtualNetworks/v").key,
        name="v",
        number=1,
        prefixes=(IPv4Network("10.0.0.0/16"),),
        host_address=IPv4Address("10.0.0.3"),
        addresses=(IPv4Address("10.0.0.4"),),
        outbound_address=IPv4Address("203.0.113.128"),
        dns_servers=(IPv4Address("10.0.0.9"),),
    )


def test_a_network_without_subnets_has_no_host(azure: AzureNetwork) -> None:
    azure.write(
        "virtualNetworks/v",
        {"location": LOCATION, "properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}}},
    )
    assert drawn(azure).networks[0].host_address is None


def test_a_network_whose_subnets_may_not_leaves_from_nowhere(azure: AzureNetwork) -> None:
    azure.network()
    shut = {"properties": {"addressPrefix": "10.0.0.0/24", "defaultOutboundAccess": False}}
    azure.write("virtualNetworks/v/subnets/s", shut)
    assert drawn(azure).networks[0].outbound_address is None
    azure.write("virtualNetworks/v/subnets/t", {"properties": {"addressPrefix": "10.0.1.0/24"}})
    assert drawn(azure).networks[0].outbound_address == IPv4Address("203.0.113.128")


def test_outbound_addresses_are_nobodys_public_addresses(azure: AzureNetwork) -> None:
    for number in range(20):
        azure.network(f"v{number}", f"10.{number}.0.0/16")
    public = {"location": LOCATION, "sku": {"name": "Standard"}, "properties": {}}
    given = {azure.write(f"publicIPAddresses/p{number}", public)["properties"]["ipAddress"] for number in range(112)}
    outbound = {str(one.outbound_address) for one in drawn(azure).networks}
    assert (len(given), len(outbound), given & outbound) == (112, 20, set())
    assert azure.refusal("publicIPAddresses/one-more", public).code == "PublicIPCountLimitReached"


def test_a_public_address_translates_an_interface(azure: AzureNetwork) -> None:
    azure.network()
    body = {
        "location": LOCATION,
        "sku": {"name": "Standard"},
        "properties": {"dnsSettings": {"domainNameLabel": "mylabel"}},
    }
    azure.write("publicIPAddresses/p", body)
    azure.interface(publicIPAddress={"id": str(azure.id("publicIPAddresses/p"))})
    azure.change.note(PUBLIC_NAMES, "www.example.com", ["203.0.113.9"])
    found = drawn(azure)
    assert found.networks[0].public_addresses == {IPv4Address("10.0.0.4"): IPv4Address("203.0.113.16")}
    assert found.public_names == {
        "mylabel.westeurope.cloudapp.azure.com": (IPv4Address("203.0.113.16"),),
        "www.example.com": (IPv4Address("203.0.113.9"),),
    }


def test_interfaces_of_endpoints_and_services_are_nobodys_addresses(azure: AzureNetwork) -> None:
    azure.service()
    azure.endpoint(str(azure.id("privateLinkServices/svc")))
    assert [one.addresses for one in drawn(azure).networks] == [(), ()]


def test_a_frontend_leads_to_members_and_addresses_of_its_pool(azure: AzureNetwork) -> None:
    azure.network()
    azure.balancer()
    azure.interface("a", loadBalancerBackendAddressPools=[pool(azure)])
    azure.interface("b", loadBalancerBackendAddressPools=[pool(azure)])
    said = [
        {"name": "up", "properties": {"ipAddress": "10.0.0.99"}},
        {"name": "down", "properties": {"ipAddress": "10.0.0.98", "adminState": "Down"}},
    ]
    azure.write("loadBalancers/lb/backendAddressPools/pool", {"properties": {"loadBalancerBackendAddresses": said}})
    [frontend] = drawn(azure).networks[0].frontends
    assert frontend.address == IPv4Address("10.0.0.4")
    assert not frontend.is_public
    [rule] = frontend.rules
    assert (rule.protocol, rule.port, rule.backend_port) == (picture.Protocol.TCP, 80, 8080)
    assert set(map(str, rule.backends)) == {"10.0.0.99", "10.0.0.5", "10.0.0.6"}


def public_balancer(azure: AzureNetwork) -> None:
    azure.network()
    azure.write("publicIPAddresses/p", {"location": LOCATION, "sku": {"name": "Standard"}, "properties": {}})
    public = {"publicIPAddress": {"id": str(azure.id("publicIPAddresses/p"))}}
    azure.balancer(frontendIPConfigurations=[{"name": "fe", "properties": public}])


def test_a_public_frontend_leads_into_the_network_of_its_members(azure: AzureNetwork) -> None:
    public_balancer(azure)
    assert drawn(azure).networks[0].frontends == ()
    azure.interface(loadBalancerBackendAddressPools=[pool(azure)])
    [frontend] = drawn(azure).networks[0].frontends
    assert (str(frontend.address), frontend.is_public) == ("203.0.113.16", True)
    assert list(map(str, frontend.rules[0].backends)) == ["10.0.0.4"]


def test_a_service_and_its_endpoints(azure: AzureNetwork) -> None:
    azure.service(enableProxyProtocol=True)
    azure.endpoint(azure.show("privateLinkServices/svc")["properties"]["alias"])
    found = drawn(azure)
    [service], [endpoint] = found.services, found.endpoints
    assert service.network == azure.id("virtualNetworks/v").key
    assert list(map(str, service.nat_addresses)) == ["10.0.0.5"]
    assert service.has_proxy_protocol
    assert service.frontend == found.networks[0].frontends[0]
    assert endpoint == picture.Endpoint(
        key=azure.id("privateEndpoints/pe", CUSTOMER).key,
        number=1,
        network=azure.id("virtualNetworks/v", CUSTOMER).key,
        address=IPv4Address("10.0.0.4"),
        service=service.key,
        is_approved=False,
        link_identifier=endpoint.link_identifier,
    )
    [connection] = azure.show("privateLinkServices/svc")["properties"]["privateEndpointConnections"]
    assert int(connection["properties"]["linkIdentifier"]) == endpoint.link_identifier
    azure.decide("Approved")
    assert drawn(azure).endpoints[0].is_approved
    azure.decide("Rejected")
    assert not drawn(azure).endpoints[0].is_approved


def test_a_disconnected_endpoint_keeps_its_address_alone(azure: AzureNetwork) -> None:
    azure.service()
    azure.endpoint(str(azure.id("privateLinkServices/svc")), manual=False)
    assert drawn(azure).endpoints[0].is_approved
    [connection] = azure.show("privateLinkServices/svc")["properties"]["privateEndpointConnections"]
    azure.remove(f"privateLinkServices/svc/privateEndpointConnections/{connection['name']}")
    [endpoint] = drawn(azure).endpoints
    assert (endpoint.service, endpoint.is_approved, str(endpoint.address)) == (None, False, "10.0.0.4")


def test_a_service_in_front_of_a_public_load_balancer(azure: AzureNetwork) -> None:
    public_balancer(azure)
    azure.service()
    [service] = drawn(azure).services
    assert (str(service.frontend.address), service.frontend.is_public) == ("203.0.113.16", True)


def test_direct_connect_leads_every_port_to_one_address(azure: AzureNetwork) -> None:
    azure.network()
    nats = [{"name": name, "properties": {"subnet": {"id": azure.subnet_id()}}} for name in "ab"]
    body = azure.service_body(
        destinationIPAddress="10.0.0.99", loadBalancerFrontendIpConfigurations=None, ipConfigurations=nats
    )
    azure.write("privateLinkServices/svc", body)
    [service] = drawn(azure).services
    address = IPv4Address("10.0.0.99")
    rule = picture.Rule(picture.Protocol.ALL, 0, 0, (address,))
    assert service.frontend == picture.Frontend(address, False, (rule,))
    assert len(service.nat_addresses) == 2


def peer(azure: AzureNetwork, one: str, other: str, **said: Any) -> None:
    body = {"properties": {"remoteVirtualNetwork": {"id": str(azure.id(f"virtualNetworks/{other}"))}, **said}}
    azure.write(f"virtualNetworks/{one}/virtualNetworkPeerings/to-{other}", body)


def test_peerings_are_drawn_when_both_want_them(azure: AzureNetwork) -> None:
    azure.network()
    azure.network("w", "10.1.0.0/16")
    peer(azure, "v", "w")
    assert drawn(azure).peerings == ()
    peer(azure, "w", "v")
    keys = (azure.id("virtualNetworks/v").key, azure.id("virtualNetworks/w").key)
    assert drawn(azure).peerings == (picture.Peering(1, *keys),)
    peer(azure, "w", "v", allowVirtualNetworkAccess=False)
    assert drawn(azure).peerings == ()
    azure.remove("virtualNetworks/w/virtualNetworkPeerings/to-v")
    assert drawn(azure).peerings == ()


def test_zones_come_with_their_networks(azure: AzureNetwork) -> None:
    azure.service(fqdns=["app.example.com"])
    azure.endpoint(str(azure.id("privateLinkServices/svc")), manual=False)
    azure.write("privateDnsZones/example.com", {"location": "global"}, CUSTOMER)
    zone = str(azure.id("privateDnsZones/example.com", CUSTOMER))
    network = {"id": str(azure.id("virtualNetworks/v", CUSTOMER))}
    link = {"location": "global", "properties": {"virtualNetwork": network, "registrationEnabled": False}}
    azure.write("privateDnsZones/example.com/virtualNetworkLinks/l", link, CUSTOMER)
    config = {"name": "z", "properties": {"privateDnsZoneId": zone}}
    body = {"properties": {"privateDnsZoneConfigs": [config]}}
    azure.write("privateEndpoints/pe/privateDnsZoneGroups/g", body, CUSTOMER)
    theirs, ours = drawn(azure).networks
    assert theirs.zones == ()
    [found] = ours.zones
    assert found.records == (picture.Record("app", "A", 10, ("10.0.0.4",)),)


def test_equal_documents_give_equal_pictures(azure: AzureNetwork) -> None:
    azure.service()
    azure.endpoint(str(azure.id("privateLinkServices/svc")))
    assert drawn(azure) == drawn(azure)


def test_drawing_is_fast(azure: AzureNetwork) -> None:
    azure.service()
    for number in range(20):
        azure.network(f"v{number}", f"10.{100 + number}.0.0/16", CUSTOMER)
    service = azure.show("privateLinkServices/svc")["properties"]["alias"]
    for number in range(50):
        azure.endpoint(service, f"pe{number}")
    began = time.process_time()
    found = drawn(azure)
    spent = time.process_time() - began
    assert (len(found.networks), len(found.endpoints)) == (22, 50)
    assert spent < 0.05, f"{spent * 1000:.1f} ms"


def test_subscriptions_do_not_mix(azure: AzureNetwork) -> None:
    azure.network(subscription=CUSTOMER)
    azure.network(subscription=PROVIDER)
    assert len({one.key for one in drawn(azure).networks}) == 2
