"""Every operation of Microsoft's unmodified SDK for these resource types, over HTTPS."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.mgmt.network import NetworkManagementClient
from azure.mgmt.network.aio import NetworkManagementClient as AsyncClient
from azure.mgmt.privatedns import PrivateDnsManagementClient
from azure.mgmt.resource.resources import ResourceManagementClient
from tests.fakes.lab import FakeLab

from isthmus.lab import network, private_dns

GROUP = "rg"
HERE = "westeurope"


async def slowly(_change: object) -> None:
    """Packets that take their time."""
    await asyncio.sleep(0.05)


@pytest.fixture
def lab(new_lab: Callable[..., FakeLab]) -> FakeLab:
    lab = new_lab(
        *network.KINDS,
        *private_dns.KINDS,
        virtuals=[*network.VIRTUALS, *private_dns.VIRTUALS],
        actions=network.ACTIONS,
        settle=slowly,
    )
    for subscription in (lab.provider, lab.customer):
        with lab.client(ResourceManagementClient, subscription) as resources:
            resources.resource_groups.create_or_update(GROUP, {"location": HERE})
    return lab


@pytest.fixture
def provider(lab: FakeLab) -> Iterator[NetworkManagementClient]:
    with lab.client(NetworkManagementClient, lab.provider, polling_interval=0) as client:
        yield client


@pytest.fixture
def customer(lab: FakeLab) -> Iterator[NetworkManagementClient]:
    with lab.client(NetworkManagementClient, lab.customer, polling_interval=0) as client:
        yield client


def done(poller: Any) -> Any:
    return poller.result(10)


def network_body(prefix: str = "10.0", **more: Any) -> dict[str, Any]:
    subnet = {
        "name": "s",
        "properties": {"addressPrefix": f"{prefix}.0.0/24", "privateLinkServiceNetworkPolicies": "Disabled"},
    }
    space = {"addressPrefixes": [f"{prefix}.0.0/16"]}
    return {"location": HERE, "properties": {"addressSpace": space, "subnets": [subnet], **more}}


def make_network(client: NetworkManagementClient, name: str = "v", prefix: str = "10.0") -> Any:
    return done(client.virtual_networks.begin_create_or_update(GROUP, name, network_body(prefix)))


def make_balancer(client: NetworkManagementClient, subnet: str) -> Any:
    """One with a frontend, a pool, a probe and a rule; its parts can only be named once it is there."""
    body = {
        "location": HERE,
        "sku": {"name": "Standard"},
        "properties": {
            "frontendIPConfigurations": [{"name": "fe", "properties": {"subnet": {"id": subnet}}}],
            "backendAddressPools": [{"name": "pool"}],
            "probes": [{"name": "probe", "properties": {"protocol": "Tcp", "port": 8080}}],
        },
    }
    made = done(client.load_balancers.begin_create_or_update(GROUP, "lb", body))
    shown = made.as_dict()
    shown["properties"]["loadBalancingRules"] = [
        {
            "name": "rule",
            "properties": {
                "protocol": "Tcp",
                "frontendPort": 80,
                "backendPort": 8080,
                "frontendIPConfiguration": {"id": made.properties.frontend_ip_configurations[0].id},
                "backendAddressPool": {"id": made.properties.backend_address_pools[0].id},
                "probe": {"id": made.properties.probes[0].id},
            },
        }
    ]
    return done(client.load_balancers.begin_create_or_update(GROUP, "lb", shown))


def make_service(client: NetworkManagementClient, **more: Any) -> Any:
    subnet = make_network(client).properties.subnets[0].id
    balancer = make_balancer(client, subnet)
    body = {
        "location": HERE,
        "properties": {
            "loadBalancerFrontendIpConfigurations": [{"id": balancer.properties.frontend_ip_configurations[0].id}],
            "ipConfigurations": [{"name": "nat", "properties": {"subnet": {"id": subnet}}}],
            "visibility": {"subscriptions": ["*"]},
            **more,
        },
    }
    return done(client.private_link_services.begin_create_or_update(GROUP, "svc", body))


def endpoint_body(subnet: str, service: str, *, manual: bool = True) -> dict[str, Any]:
    said = {"name": "c", "properties": {"privateLinkServiceId": service, "requestMessage": "please"}}
    member = "manualPrivateLinkServiceConnections" if manual else "privateLinkServiceConnections"
    return {"location": HERE, "properties": {"subnet": {"id": subnet}, member: [said]}}


def names(found: Any) -> list[str]:
    return [one.name for one in found]


def test_virtual_networks(provider: NetworkManagementClient) -> None:
    networks = provider.virtual_networks
    made = make_network(provider)
    assert made.properties.provisioning_state == "Succeeded"
    assert networks.get(GROUP, "v").as_dict() == made.as_dict()
    assert names(networks.list(GROUP)) == names(networks.list_all()) == ["v"]
    assert networks.update_tags(GROUP, "v", {"tags": {"a": "b"}}).tags == {"a": "b"}
    [usage] = networks.list_usage(GROUP, "v")
    assert (usage.current_value, usage.limit, usage.unit) == (0, 251, "Count")
    free = networks.check_ip_address_availability(GROUP, "v", ip_address="10.0.0.4")
    assert (free.available, free.is_platform_reserved) == (True, False)
    reserved = networks.check_ip_address_availability(GROUP, "v", ip_address="10.0.0.1")
    assert (reserved.available, reserved.is_platform_reserved) == (False, True)
    assert reserved.available_ip_addresses[0] == "10.0.0.4"
    assert list(done(networks.begin_list_ddos_protection_status(GROUP, "v"))) == []
    done(networks.begin_delete(GROUP, "v"))
    with pytest.raises(ResourceNotFoundError):
        networks.get(GROUP, "v")


def test_subnets(provider: NetworkManagementClient) -> None:
    make_network(provider)
    subnets = provider.subnets
    made = done(subnets.begin_create_or_update(GROUP, "v", "t", {"properties": {"addressPrefix": "10.0.1.0/24"}}))
    assert made.properties.private_endpoint_network_policies == "Disabled"
    assert subnets.get(GROUP, "v", "t").as_dict() == made.as_dict()
    assert names(subnets.list(GROUP, "v")) == ["s", "t"]
    done(subnets.begin_prepare_network_policies(GROUP, "v", "t", {"serviceName": "Microsoft.Sql/managedInstances"}))
    done(subnets.begin_unprepare_network_policies(GROUP, "v", "t", {"serviceName": "Microsoft.Sql/managedInstances"}))
    assert provider.resource_navigation_links.list(GROUP, "v", "t").value == []
    assert provider.service_association_links.list(GROUP, "v", "t").value == []
    done(subnets.begin_delete(GROUP, "v", "t"))
    assert names(subnets.list(GROUP, "v")) == ["s"]
    bad = {"properties": {"addressPrefix": "10.9.0.0/24"}}
    with pytest.raises(HttpResponseError) as caught:
        subnets.begin_create_or_update(GROUP, "v", "t", bad)
    assert caught.value.error is not None
    assert caught.value.error.code == "NetcfgInvalidSubnet"


def test_peerings(provider: NetworkManagementClient, customer: NetworkManagementClient) -> None:
    ours, theirs = make_network(provider), make_network(customer, "w", "10.1")
    half = {"properties": {"remoteVirtualNetwork": {"id": theirs.id}, "allowVirtualNetworkAccess": True}}
    peerings = provider.virtual_network_peerings
    first = done(peerings.begin_create_or_update(GROUP, "v", "p", half))
    assert first.properties.peering_state == "Initiated"
    back = {"properties": {"remoteVirtualNetwork": {"id": ours.id}}}
    done(customer.virtual_network_peerings.begin_create_or_update(GROUP, "w", "q", back))
    assert peerings.get(GROUP, "v", "p").properties.peering_state == "Connected"
    wider = network_body("10.1", addressSpace={"addressPrefixes": ["10.1.0.0/16", "10.2.0.0/16"]})
    done(customer.virtual_networks.begin_create_or_update(GROUP, "w", wider))
    assert peerings.get(GROUP, "v", "p").properties.peering_sync_level == "LocalNotInSync"
    done(peerings.begin_create_or_update(GROUP, "v", "p", half, sync_remote_address_space="true"))
    [shown] = peerings.list(GROUP, "v")
    assert shown.properties.peering_sync_level == "FullyInSync"
    done(peerings.begin_delete(GROUP, "v", "p"))
    other = customer.virtual_network_peerings.get(GROUP, "w", "q")
    assert other.properties.peering_state == "Disconnected"


def test_interfaces(provider: NetworkManagementClient) -> None:
    subnet = make_network(provider).properties.subnets[0].id
    configuration = {"name": "ipconfig1", "properties": {"subnet": {"id": subnet}}}
    body = {"location": HERE, "properties": {"ipConfigurations": [configuration]}}
    interfaces = provider.network_interfaces
    made = done(interfaces.begin_create_or_update(GROUP, "nic", body))
    assert made.properties.ip_configurations[0].properties.private_ip_address == "10.0.0.4"
    assert interfaces.get(GROUP, "nic").as_dict() == made.as_dict()
    assert names(interfaces.list(GROUP)) == names(interfaces.list_all()) == ["nic"]
    assert interfaces.update_tags(GROUP, "nic", {"tags": {"a": "b"}}).tags == {"a": "b"}
    inner = provider.network_interface_ip_configurations
    assert names(inner.list(GROUP, "nic")) == ["ipconfig1"]
    assert inner.get(GROUP, "nic", "ipconfig1").properties.primary
    assert list(provider.network_interface_load_balancers.list(GROUP, "nic")) == []
    assert list(provider.network_interface_tap_configurations.list(GROUP, "nic")) == []
    done(interfaces.begin_delete(GROUP, "nic"))
    assert list(interfaces.list(GROUP)) == []


def test_public_addresses(provider: NetworkManagementClient) -> None:
    body = {
        "location": HERE,
        "sku": {"name": "Standard"},
        "properties": {"publicIPAllocationMethod": "Static", "dnsSettings": {"domainNameLabel": "label"}},
    }
    public = provider.public_ip_addresses
    made = done(public.begin_create_or_update(GROUP, "p", body))
    assert made.properties.ip_address.startswith("203.0.113.")
    assert made.properties.dns_settings.fqdn == "label.westeurope.cloudapp.azure.com"
    assert public.get(GROUP, "p").as_dict() == made.as_dict()
    assert names(public.list(GROUP)) == names(public.list_all()) == ["p"]
    assert public.update_tags(GROUP, "p", {"tags": {"a": "b"}}).tags == {"a": "b"}
    assert done(public.begin_ddos_protection_status(GROUP, "p")) is not None
    done(public.begin_delete(GROUP, "p"))
    assert list(public.list(GROUP)) == []


def test_security_groups(provider: NetworkManagementClient) -> None:
    groups, rules = provider.network_security_groups, provider.security_rules
    made = done(groups.begin_create_or_update(GROUP, "g", {"location": HERE}))
    assert len(made.properties.default_security_rules) == 6
    rule = {
        "properties": {
            "protocol": "Tcp",
            "sourceAddressPrefix": "*",
            "sourcePortRange": "*",
            "destinationAddressPrefix": "*",
            "destinationPortRange": "443",
            "access": "Allow",
            "priority": 100,
            "direction": "Inbound",
        }
    }
    shown = done(rules.begin_create_or_update(GROUP, "g", "r", rule))
    assert rules.get(GROUP, "g", "r").as_dict() == shown.as_dict()
    assert names(rules.list(GROUP, "g")) == ["r"]
    assert groups.get(GROUP, "g").properties.security_rules[0].name == "r"
    assert len(list(provider.default_security_rules.list(GROUP, "g"))) == 6
    assert provider.default_security_rules.get(GROUP, "g", "DenyAllInBound").properties.priority == 65500
    assert groups.update_tags(GROUP, "g", {"tags": {"a": "b"}}).tags == {"a": "b"}
    assert names(groups.list(GROUP)) == names(groups.list_all()) == ["g"]
    done(rules.begin_delete(GROUP, "g", "r"))
    done(groups.begin_delete(GROUP, "g"))
    assert list(groups.list(GROUP)) == []


def test_load_balancers(provider: NetworkManagementClient) -> None:
    subnet = make_network(provider).properties.subnets[0].id
    made = make_balancer(provider, subnet)
    balancers = provider.load_balancers
    assert balancers.get(GROUP, "lb").as_dict() == made.as_dict()
    assert names(balancers.list(GROUP)) == names(balancers.list_all()) == ["lb"]
    assert balancers.update_tags(GROUP, "lb", {"tags": {"a": "b"}}).tags == {"a": "b"}
    for operations, name in (
        (provider.load_balancer_frontend_ip_configurations, "fe"),
        (provider.load_balancer_probes, "probe"),
        (provider.load_balancer_load_balancing_rules, "rule"),
        (provider.load_balancer_backend_address_pools, "pool"),
    ):
        assert names(operations.list(GROUP, "lb")) == [name]
        assert operations.get(GROUP, "lb", name).name == name
    assert list(provider.load_balancer_outbound_rules.list(GROUP, "lb")) == []
    pools = provider.load_balancer_backend_address_pools
    address = {"name": "a", "properties": {"ipAddress": "10.0.0.9"}}
    pool = done(
        pools.begin_create_or_update(GROUP, "lb", "other", {"properties": {"loadBalancerBackendAddresses": [address]}})
    )
    assert pool.properties.load_balancer_backend_addresses[0].properties.ip_address == "10.0.0.9"
    done(pools.begin_delete(GROUP, "lb", "other"))
    nat = {
        "properties": {
            "frontendIPConfiguration": {"id": made.properties.frontend_ip_configurations[0].id},
            "frontendPort": 22,
            "backendPort": 22,
        }
    }
    rules = provider.inbound_nat_rules
    done(rules.begin_create_or_update(GROUP, "lb", "nat", nat))
    assert rules.get(GROUP, "lb", "nat").properties.protocol == "Tcp"
    assert names(rules.list(GROUP, "lb")) == ["nat"]
    done(rules.begin_delete(GROUP, "lb", "nat"))
    configuration = {
        "name": "c",
        "properties": {
            "subnet": {"id": subnet},
            "loadBalancerBackendAddressPools": [{"id": made.properties.backend_address_pools[0].id}],
        },
    }
    body = {"location": HERE, "properties": {"ipConfigurations": [configuration]}}
    done(provider.network_interfaces.begin_create_or_update(GROUP, "nic", body))
    assert names(provider.load_balancer_network_interfaces.list(GROUP, "lb")) == ["nic"]
    assert names(provider.network_interface_load_balancers.list(GROUP, "nic")) == ["lb"]
    done(balancers.begin_delete(GROUP, "lb"))
    assert list(balancers.list(GROUP)) == []


def test_link_services(provider: NetworkManagementClient, customer: NetworkManagementClient) -> None:
    made = make_service(provider, autoApproval={"subscriptions": [customer.private_endpoints._config.subscription_id]})
    services = provider.private_link_services
    assert made.properties.alias.endswith(".westeurope.azure.privatelinkservice")
    assert services.get(GROUP, "svc").as_dict() == made.as_dict()
    assert names(services.list(GROUP)) == names(services.list_by_subscription()) == ["svc"]
    theirs = customer.private_link_services
    asked = {"privateLinkServiceAlias": made.properties.alias}
    assert done(theirs.begin_check_private_link_service_visibility(HERE, asked)).visible
    assert done(theirs.begin_check_private_link_service_visibility_by_resource_group(HERE, GROUP, asked)).visible
    unknown = {"privateLinkServiceAlias": "x.westeurope.azure.privatelinkservice"}
    assert not done(theirs.begin_check_private_link_service_visibility(HERE, unknown)).visible
    for found in (
        theirs.list_auto_approved_private_link_services(HERE),
        theirs.list_auto_approved_private_link_services_by_resource_group(HERE, GROUP),
    ):
        assert [one.private_link_service for one in found] == [made.id]
    done(services.begin_delete(GROUP, "svc"))
    assert list(services.list(GROUP)) == []


def test_endpoints_and_connections(provider: NetworkManagementClient, customer: NetworkManagementClient) -> None:
    service = make_service(provider)
    subnet = make_network(customer).properties.subnets[0].id
    endpoints, services = customer.private_endpoints, provider.private_link_services
    made = done(endpoints.begin_create_or_update(GROUP, "pe", endpoint_body(subnet, service.properties.alias)))
    assert made.properties.provisioning_state == "Succeeded"
    assert endpoints.get(GROUP, "pe").as_dict() == made.as_dict()
    assert names(endpoints.list(GROUP)) == names(endpoints.list_by_subscription()) == ["pe"]
    interface = customer.network_interfaces.get(GROUP, made.properties.network_interfaces[0].id.rpartition("/")[2])
    assert interface.properties.private_endpoint.id == made.id
    assert interface.properties.ip_configurations[0].properties.private_ip_address == "10.0.0.4"

    [connection] = services.list_private_endpoint_connections(GROUP, "svc")
    assert connection.properties.private_endpoint.id == made.id
    assert services.get_private_endpoint_connection(GROUP, "svc", connection.name).id == connection.id

    def decide(status: str) -> Any:
        state = {"status": status, "description": status.lower()}
        body = {"properties": {"privateLinkServiceConnectionState": state}}
        return services.update_private_endpoint_connection(GROUP, "svc", connection.name, body)

    def seen() -> Any:
        shown = endpoints.get(GROUP, "pe").properties.manual_private_link_service_connections[0]
        return shown.properties.private_link_service_connection_state

    assert (seen().status, seen().description) == ("Pending", "please")
    decided = decide("Approved").properties.private_link_service_connection_state
    assert (decided.status, seen().status, seen().description) == ("Approved", "Approved", "approved")
    decide("Rejected")
    assert seen().status == "Rejected"
    with pytest.raises(HttpResponseError):
        decide("Approved")
    with pytest.raises(HttpResponseError) as caught:
        done(services.begin_delete(GROUP, "svc"))
    assert caught.value.error is not None
    assert caught.value.error.code == "PrivateLinkServiceWithPrivateEndpointConnectionsCannotBeDeleted"
    done(services.begin_delete_private_endpoint_connection(GROUP, "svc", connection.name))
    assert seen().status == "Disconnected"
    with pytest.raises(HttpResponseError) as caught:
        services.update_private_endpoint_connection(GROUP, "svc", connection.name, {"properties": {}})
    assert caught.value.error is not None
    assert caught.value.error.code == "PrivateEndpointConnectionCannotBeCreatedByServiceProvider"
    done(endpoints.begin_delete(GROUP, "pe"))
    assert list(customer.network_interfaces.list(GROUP)) == []
    assert [one.resource_name for one in customer.available_private_endpoint_types.list(HERE)] == [
        "Microsoft.Network/privateLinkServices"
    ]
    by_group = customer.available_private_endpoint_types.list_by_resource_group(HERE, GROUP)
    assert names(by_group) == ["Microsoft.Network.privateLinkServices"]


def test_decisions_need_not_be_waited_for(provider: NetworkManagementClient, customer: NetworkManagementClient) -> None:
    """The SDK's operation is a synchronous one, so the next decision may follow at once."""
    service = make_service(provider)
    subnet = make_network(customer).properties.subnets[0].id
    for name in ("one", "other"):
        body = endpoint_body(subnet, service.properties.alias)
        done(customer.private_endpoints.begin_create_or_update(GROUP, name, body))
    services = provider.private_link_services
    state = {"properties": {"privateLinkServiceConnectionState": {"status": "Approved", "description": "welcome"}}}
    for connection in services.list_private_endpoint_connections(GROUP, "svc"):
        services.update_private_endpoint_connection(GROUP, "svc", connection.name, state)
    approved = services.list_private_endpoint_connections(GROUP, "svc")
    assert [one.properties.private_link_service_connection_state.status for one in approved] == ["Approved"] * 2


def test_zone_groups(lab: FakeLab, provider: NetworkManagementClient, customer: NetworkManagementClient) -> None:
    service = make_service(provider, fqdns=["app.example.com"])
    subnet = make_network(customer).properties.subnets[0].id
    body = endpoint_body(subnet, service.id, manual=False)
    made = done(customer.private_endpoints.begin_create_or_update(GROUP, "pe", body))
    assert made.properties.custom_dns_configs[0].ip_addresses == ["10.0.0.4"]
    with lab.client(PrivateDnsManagementClient, lab.customer, polling_interval=0) as dns:
        zone = done(dns.private_zones.begin_create_or_update(GROUP, "example.com", {"location": "global"}))
        config = {"name": "z", "properties": {"privateDnsZoneId": zone.id}}
        groups = customer.private_dns_zone_groups
        shown = done(
            groups.begin_create_or_update(GROUP, "pe", "g", {"properties": {"privateDnsZoneConfigs": [config]}})
        )
        [record] = shown.properties.private_dns_zone_configs[0].properties.record_sets
        assert (record.record_set_name, record.ip_addresses) == ("app", ["10.0.0.4"])
        assert groups.get(GROUP, "pe", "g").as_dict() == shown.as_dict()
        assert names(groups.list("pe", GROUP)) == ["g"]
        assert dns.record_sets.get(GROUP, "example.com", "A", "app").properties.a_records[0].ipv4_address == "10.0.0.4"
        done(groups.begin_delete(GROUP, "pe", "g"))
        assert names(dns.record_sets.list_by_type(GROUP, "example.com", "A")) == []


def test_usages(provider: NetworkManagementClient) -> None:
    make_network(provider)
    used = {one.name.value: one.current_value for one in provider.usages.list(HERE)}
    assert (used["VirtualNetworks"], used["PrivateEndpoints"]) == (1, 0)


def test_two_writers_conflict(provider: NetworkManagementClient) -> None:
    first = make_network(provider)
    networks = provider.virtual_networks
    headers = {"If-Match": first.etag}
    done(networks.begin_create_or_update(GROUP, "v", network_body(), headers=headers))
    with pytest.raises(HttpResponseError) as caught:
        networks.begin_create_or_update(GROUP, "v", network_body(), headers=headers)
    assert caught.value.status_code == 412


def test_the_asynchronous_client(lab: FakeLab) -> None:
    async def story() -> list[str]:
        async with lab.client(AsyncClient, lab.provider, polling_interval=0) as client:
            poller = await client.virtual_networks.begin_create_or_update(GROUP, "v", network_body())
            made = await poller.result()
            assert made.properties.provisioning_state == "Succeeded"
            found = [one.name async for one in client.virtual_networks.list(GROUP)]
            await (await client.virtual_networks.begin_delete(GROUP, "v")).result()
            return found

    assert asyncio.run(story()) == ["v"]
