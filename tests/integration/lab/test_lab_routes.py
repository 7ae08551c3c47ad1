"""Every operation of Microsoft's SDK for the lab's resource types has a route: what it asks for may be missing, but
never the type, the action or the method."""

import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from azure.mgmt.network.operations import _operations as network_operations
from azure.mgmt.privatedns.operations import _operations as private_dns_operations
from tests.fakes.lab import FakeLab

from isthmus.lab import network, private_dns

GROUPS = (
    "available_private_endpoint_types",
    "default_security_rules",
    "inbound_nat_rules",
    "load_balancer",
    "network_interface",
    "network_security_groups",
    "private_dns_zone_groups",
    "private_endpoints",
    "private_link_services",
    "public_ip_addresses",
    "security_rules",
    "subnets",
    "virtual_network_peerings",
    "virtual_networks",
)

#: Operations of other resource types, or beyond what a link service needs of a load balancer; docs/lab.md says so.
UNSERVED = (
    "cloud_service",
    "virtual_machine_scale_set",
    "network_interface_tap_configurations",
    "load_balancer_load_balancing_rules_health",
    "load_balancers_list_inbound_nat_rule_port_mappings",
    "load_balancers_migrate_to_ip_based",
    "load_balancers_swap_public_ip_addresses",
    "virtual_networks_move_ip_configurations",
)


def operations(module: ModuleType, groups: tuple[str, ...]) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, build in inspect.getmembers(module, inspect.isfunction):
        operation = name.removeprefix("build_").removesuffix("_request")
        if name.startswith("build_") and operation.startswith(groups) and not any(one in operation for one in UNSERVED):
            yield operation, build


OPERATIONS = [*operations(network_operations, GROUPS), *operations(private_dns_operations, ("",))]


@pytest.fixture(scope="module")
def lab(authority_folder: Any) -> Iterator[FakeLab]:
    kinds = (*network.KINDS, *private_dns.KINDS)
    virtuals = (*network.VIRTUALS, *private_dns.VIRTUALS)
    with FakeLab(authority_folder, kinds, virtuals, network.ACTIONS) as one, one.http() as http:
        group = f"/subscriptions/{one.provider}/resourceGroups/g?api-version=2024-03-01"
        http.put(group, json={"location": "westeurope"}).raise_for_status()
        yield one


def test_there_are_as_many_operations_as_the_sdk_has() -> None:
    assert len(OPERATIONS) > 110


@pytest.mark.parametrize(("operation", "build"), OPERATIONS, ids=[name for name, _ in OPERATIONS])
def test_an_operation_has_a_route(lab: FakeLab, operation: str, build: Callable[..., Any]) -> None:
    known = {"subscription_id": lab.provider, "resource_group_name": "g", "location": "westeurope", "record_type": "A"}
    parameters = inspect.signature(build).parameters.values()
    needed = [one.name for one in parameters if one.kind is not one.VAR_KEYWORD and one.default is one.empty]
    request = build(**{name: known.get(name, "x.example") for name in needed})
    with lab.http() as http:
        body = {} if request.method in ("PUT", "POST", "PATCH") else None
        answer = http.request(request.method, str(request.url), json=body)
    said = answer.json() if answer.content else {}
    assert answer.status_code < 500
    assert answer.status_code != 405
    assert said.get("error", said).get("code") not in ("InvalidResourceType", "InvalidResourceNamespace"), said
