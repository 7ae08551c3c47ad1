"""Whatever a body says, a kind writes it or refuses it; and what it wrote can be shown, drawn and written again."""

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from tests.fakes.azure_network import CUSTOMER, LOCATION, PROVIDER, AzureNetwork

from isthmus.lab import picturing
from isthmus.lab.errors import ArmError
from isthmus.lab.store import Draft

#: What stands in place of some part of a good body.
STRANGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.text(max_size=12),
    st.sampled_from(
        [
            [],
            {},
            [None],
            [{}],
            [[]],
            [{"name": None, "properties": None}],
            [{"name": {}, "properties": {}}],
            [{"properties": []}],
            {"id": None},
            {"id": {}},
            {"id": "/subscriptions/x"},
            {"id": "/subscriptions/x/resourceGroups/y/providers/Microsoft.Network/virtualNetworks/z/subnets/s"},
            {"id": f"/subscriptions/{PROVIDER}/resourceGroups/rg/providers/Microsoft.Network/virtualNetworks/v"},
            {"subscriptions": ["*", None, 5]},
            "10.0.0.0/8",
            "10.0.0.7",
            "fd00::/64",
            "IPv6",
            "Dynamic",
            "Static",
            "All",
            0,
            -1,
            65536,
        ]
    ),
)


def good_bodies(azure: AzureNetwork) -> list[tuple[str, str, Any]]:
    """Paths, subscriptions and bodies that are written as they are."""
    shown = [
        ("virtualNetworks/v", PROVIDER),
        ("virtualNetworks/v/subnets/s", PROVIDER),
        ("virtualNetworks/v/virtualNetworkPeerings/p", PROVIDER),
        ("networkInterfaces/nic", PROVIDER),
        ("publicIPAddresses/p", PROVIDER),
        ("networkSecurityGroups/g", PROVIDER),
        ("networkSecurityGroups/g/securityRules/r", PROVIDER),
        ("loadBalancers/lb", PROVIDER),
        ("loadBalancers/lb/backendAddressPools/pool", PROVIDER),
        ("loadBalancers/lb/inboundNatRules/n", PROVIDER),
        ("privateLinkServices/svc", PROVIDER),
        ("privateEndpoints/pe", CUSTOMER),
        ("privateEndpoints/pe/privateDnsZoneGroups/g", CUSTOMER),
    ]
    return [(path, subscription, azure.show(path, subscription)) for path, subscription in shown]


def world() -> AzureNetwork:
    azure = AzureNetwork("2026-03-01")
    rule = {
        "protocol": "*",
        "sourceAddressPrefix": "*",
        "sourcePortRange": "*",
        "destinationAddressPrefix": "*",
        "destinationPortRange": "*",
        "access": "Allow",
        "priority": 100,
        "direction": "Inbound",
    }
    azure.network()
    azure.network("w", "10.1.0.0/16")
    remote = {"remoteVirtualNetwork": {"id": str(azure.id("virtualNetworks/w"))}}
    azure.write("virtualNetworks/v/virtualNetworkPeerings/p", {"properties": remote})
    azure.write("publicIPAddresses/p", {"location": LOCATION, "sku": {"name": "Standard"}, "properties": {}})
    azure.write(
        "networkSecurityGroups/g",
        {"location": LOCATION, "properties": {"securityRules": [{"name": "r", "properties": rule}]}},
    )
    azure.balancer()
    pool = {"id": str(azure.id("loadBalancers/lb/backendAddressPools/pool"))}
    azure.interface(
        publicIPAddress={"id": str(azure.id("publicIPAddresses/p"))}, loadBalancerBackendAddressPools=[pool]
    )
    frontend = {"id": str(azure.id("loadBalancers/lb/frontendIPConfigurations/fe"))}
    nat = {"frontendIPConfiguration": frontend, "frontendPort": 22, "backendPort": 22}
    azure.write("loadBalancers/lb/inboundNatRules/n", {"properties": nat})
    azure.service(fqdns=["app.example.com"])
    azure.endpoint(str(azure.id("privateLinkServices/svc")), manual=False)
    azure.write("privateDnsZones/example.com", {"location": "global"}, CUSTOMER)
    config = {"name": "z", "properties": {"privateDnsZoneId": str(azure.id("privateDnsZones/example.com", CUSTOMER))}}
    body = {"properties": {"privateDnsZoneConfigs": [config]}}
    azure.write("privateEndpoints/pe/privateDnsZoneGroups/g", body, CUSTOMER)
    return azure


WORLD = world()
BODIES = good_bodies(WORLD)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(value, dict):
        for name, member in value.items():
            yield from places(member, (*path, name))
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from places(member, (*path, index))


def replaced(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(body)
    holder = changed
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = value
    return changed


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), is_new=st.booleans())
def test_any_body_is_written_or_refused(data: st.DataObject, is_new: bool) -> None:
    path, subscription, body = data.draw(st.sampled_from(BODIES))
    # The location and the tags of a whole resource are the resource manager's to check, before a kind sees them.
    found = [one for one in places(body) if one[0] not in ("location", "tags")]
    for place in data.draw(st.lists(st.sampled_from(found), min_size=1, max_size=3, unique=True)):
        try:
            body = replaced(body, place, data.draw(STRANGE))
        except (KeyError, IndexError, TypeError):
            continue  # an earlier replacement took that place away
    azure = AzureNetwork("2026-03-01")
    azure.change = Draft(WORLD.change)
    where = f"{path}x" if is_new else path
    refusal = refusal_of(azure, where, body, subscription)
    if refusal is None:
        event("written")
        picturing.picture(azure.change)
        azure.write(where, azure.show(where, subscription), subscription)
    else:
        event(f"refused: {refusal.code}")
        assert 400 <= refusal.status < 500
        assert refusal.refusal.message


def refusal_of(azure: AzureNetwork, path: str, body: Any, subscription: str) -> ArmError | None:
    try:
        azure.write(path, body, subscription)
    except ArmError as error:
        return error
    return None
