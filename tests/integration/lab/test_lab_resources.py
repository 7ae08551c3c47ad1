"""Microsoft.Resources through Microsoft's own SDK, unchanged: every operation on what the lab has of it."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.mgmt.resource.resources import ResourceManagementClient
from azure.mgmt.resource.resources.models import (
    GenericResource,
    ResourceGroup,
    ResourceGroupPatchable,
    Tags,
    TagsPatchResource,
    TagsResource,
)
from tests.fakes.lab import FakeLab

from isthmus.lab import private_dns

ZONE_VERSION = "2024-06-01"


@pytest.fixture
def lab(new_lab: Callable[..., FakeLab]) -> FakeLab:
    return new_lab(*private_dns.KINDS, virtuals=private_dns.VIRTUALS)


@pytest.fixture
def client(lab: FakeLab) -> ResourceManagementClient:
    return lab.client(ResourceManagementClient)


@pytest.fixture
def group(client: ResourceManagementClient) -> ResourceGroup:
    return client.resource_groups.create_or_update("one", {"location": "westeurope"})


def zone_id(lab: FakeLab, name: str = "a.example") -> str:
    return f"/subscriptions/{lab.provider}/resourceGroups/one/providers/Microsoft.Network/privateDnsZones/{name}"


def test_groups(lab: FakeLab, client: ResourceManagementClient) -> None:
    groups = client.resource_groups
    assert not groups.check_existence("one")
    made = groups.create_or_update("one", ResourceGroup(location="West Europe", tags={"a": "b"}, managed_by="somebody"))
    assert made.as_dict() == {
        "id": f"/subscriptions/{lab.provider}/resourceGroups/one",
        "name": "one",
        "type": "Microsoft.Resources/resourceGroups",
        "location": "westeurope",
        "tags": {"a": "b"},
        "managedBy": "somebody",
        "properties": {"provisioningState": "Succeeded"},
    }
    assert groups.check_existence("ONE")
    assert groups.get("one").as_dict() == made.as_dict()
    updated = groups.update("one", ResourceGroupPatchable(tags={"c": "d"}))
    assert (updated.tags, updated.managed_by) == ({"c": "d"}, "somebody")
    groups.create_or_update("two", {"location": "eastus"})
    assert [one.name for one in groups.list()] == ["one", "two"]
    assert [one.name for one in groups.list(filter="tagName eq 'c' and tagValue eq 'd'")] == ["one"]
    assert [one.name for one in groups.list(top=1)] == ["one", "two"]
    groups.begin_delete("one").result()
    assert not groups.check_existence("one")
    with pytest.raises(ResourceNotFoundError) as refused:
        groups.get("one")
    assert refused.value.error.code == "ResourceGroupNotFound"
    with pytest.raises(HttpResponseError) as refused_location:
        groups.create_or_update("two", {"location": "westus"})
    assert refused_location.value.error.code == "InvalidResourceGroupLocation"


def test_the_customers_subscription_sees_nothing_of_the_providers(lab: FakeLab, group: ResourceGroup) -> None:
    other = lab.client(ResourceManagementClient, lab.customer)
    assert list(other.resource_groups.list()) == []
    assert not other.resource_groups.check_existence("one")


def test_resources(lab: FakeLab, client: ResourceManagementClient, group: ResourceGroup) -> None:
    resources = client.resources
    made = resources.begin_create_or_update_by_id(
        zone_id(lab), GenericResource(location="global", tags={"team": "one"}), api_version=ZONE_VERSION
    ).result()
    assert (made.id, made.type, made.location) == (zone_id(lab), "Microsoft.Network/privateDnsZones", "global")
    named = ("one", "Microsoft.Network", "", "privateDnsZones", "b.example")
    resources.begin_create_or_update(*named, GenericResource(location="global"), api_version=ZONE_VERSION).result()
    assert resources.get(*named, api_version=ZONE_VERSION).name == "b.example"
    assert resources.get_by_id(zone_id(lab), api_version=ZONE_VERSION).tags == {"team": "one"}
    assert resources.check_existence_by_id(zone_id(lab), api_version=ZONE_VERSION)
    assert not resources.check_existence_by_id(zone_id(lab, "c.example"), api_version=ZONE_VERSION)
    assert resources.check_existence(*named, api_version=ZONE_VERSION)
    updated = resources.begin_update_by_id(
        zone_id(lab), GenericResource(tags={"team": "two"}), api_version=ZONE_VERSION
    ).result()
    assert updated.tags == {"team": "two"}
    assert [one.name for one in resources.list()] == ["a.example", "b.example"]
    assert [one.name for one in resources.list(filter="tagName eq 'team'")] == ["a.example"]
    listed = list(resources.list_by_resource_group("one", expand="provisioningState"))
    assert [one.provisioning_state for one in listed] == ["Succeeded", "Succeeded"]
    resources.begin_delete_by_id(zone_id(lab), api_version=ZONE_VERSION).result()
    resources.begin_delete(*named, api_version=ZONE_VERSION).result()
    assert list(resources.list()) == []
    with pytest.raises(ResourceNotFoundError) as refused:
        resources.get_by_id(zone_id(lab), api_version=ZONE_VERSION)
    assert refused.value.error.code == "ResourceNotFound"


def test_what_a_group_can_do_with_its_resources(lab: FakeLab, client: ResourceManagementClient) -> None:
    groups = client.resource_groups
    for name in ("one", "two"):
        groups.create_or_update(name, {"location": "westeurope"})
    zone = GenericResource(location="global", tags={"team": "one"})
    client.resources.begin_create_or_update_by_id(zone_id(lab), zone, api_version=ZONE_VERSION).result()
    exported = groups.begin_export_template("one", {"resources": ["*"]}).result().template
    assert exported["$schema"].endswith("deploymentTemplate.json#")
    (resource,) = exported["resources"]
    assert (resource["type"], resource["name"]) == ("Microsoft.Network/privateDnsZones", "a.example")
    assert (resource["location"], resource["tags"]) == ("global", {"team": "one"})
    move = {"resources": [zone_id(lab)], "targetResourceGroup": f"/subscriptions/{lab.provider}/resourceGroups/two"}
    for ask in (client.resources.begin_move_resources, client.resources.begin_validate_move_resources):
        with pytest.raises(HttpResponseError) as refused:
            ask("one", move).result()
        assert refused.value.error.code == "ResourceMoveProviderValidationFailed"


def test_providers(client: ResourceManagementClient) -> None:
    namespaces = {one.namespace: one for one in client.providers.list()}
    assert namespaces["Microsoft.Network"].registration_state == "Registered"
    assert namespaces["Microsoft.Resources"].registration_policy == "RegistrationFree"
    network = client.providers.get("microsoft.network")
    kinds = {one.resource_type: one for one in network.resource_types}
    assert kinds["privateDnsZones"].locations == ["global"]
    assert "2024-05-01" in kinds["privateDnsZones"].api_versions
    assert client.providers.unregister("Microsoft.Network").registration_state == "Unregistering"
    assert client.providers.get("Microsoft.Network").registration_state == "Unregistered"
    assert client.providers.register("Microsoft.Network").registration_state == "Registering"
    assert client.providers.register("Microsoft.Network").registration_state == "Registered"
    assert "Microsoft.Network" in [one.namespace for one in client.providers.list_at_tenant_scope()]
    assert client.providers.get_at_tenant_scope("Microsoft.Network").namespace == "Microsoft.Network"
    kinds_of_network = client.provider_resource_types.list("Microsoft.Network").value
    assert "privateDnsZones/A" in [one.resource_type for one in kinds_of_network]
    assert client.providers.provider_permissions("Microsoft.Network").value == []
    assert "Microsoft.Resources/subscriptions/resourceGroups/write" in [one.name for one in client.operations.list()]
    with pytest.raises(ResourceNotFoundError) as refused:
        client.providers.get("Microsoft.Nothing")
    assert refused.value.error.code == "InvalidResourceNamespace"


def test_tags(lab: FakeLab, client: ResourceManagementClient, group: ResourceGroup) -> None:
    tags = client.tags
    scopes = [f"subscriptions/{lab.provider}", f"{group.id}".strip("/")]
    zone = GenericResource(location="global")
    client.resources.begin_create_or_update_by_id(zone_id(lab), zone, api_version=ZONE_VERSION).result()
    for scope in (*scopes, zone_id(lab).strip("/")):
        made = _result(tags, "create_or_update_at_scope", scope, TagsResource(properties=Tags(tags={"a": "1"})))
        assert made.properties.tags == {"a": "1"}
        for operation, given, expected in (
            ("Merge", {"b": "2"}, {"a": "1", "b": "2"}),
            ("Delete", {"a": "1"}, {"b": "2"}),
            ("Replace", {"c": "3"}, {"c": "3"}),
        ):
            patch = TagsPatchResource(operation=operation, properties=Tags(tags=given))
            assert _result(tags, "update_at_scope", scope, patch).properties.tags == expected
        assert tags.get_at_scope(scope).properties.tags == {"c": "3"}
    assert client.resource_groups.get("one").tags == {"c": "3"}
    assert {one.tag_name: one.count.value for one in tags.list()} == {"c": 2}
    for scope in scopes:
        _result(tags, "delete_at_scope", scope)
        assert not tags.get_at_scope(scope).properties.tags
    assert tags.create_or_update("team").tag_name == "team"
    assert tags.create_or_update_value("team", "one").tag_value == "one"
    assert [value.tag_value for one in tags.list() if one.tag_name == "team" for value in one.values_property] == [
        "one"
    ]
    tags.delete_value("team", "one")
    tags.delete("team")
    assert "team" not in [one.tag_name for one in tags.list()]


def _result(operations: Any, name: str, *arguments: Any) -> Any:
    """Some releases of the SDK wait for these, others do not have to."""
    if hasattr(operations, f"begin_{name}"):
        return getattr(operations, f"begin_{name}")(*arguments).result()
    return getattr(operations, name)(*arguments)


TEMPLATE: dict[str, Any] = {
    "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
    "contentVersion": "1.0.0.0",
    "parameters": {"zone": {"type": "string"}, "address": {"type": "string", "defaultValue": "10.0.0.4"}},
    "variables": {"zoneId": "[resourceId('Microsoft.Network/privateDnsZones', parameters('zone'))]"},
    "resources": [
        {
            "type": "Microsoft.Network/privateDnsZones/A",
            "apiVersion": "2020-06-01",
            "name": "[concat(parameters('zone'), '/www')]",
            "dependsOn": ["[variables('zoneId')]"],
            "properties": {"ttl": 60, "aRecords": [{"ipv4Address": "[parameters('address')]"}]},
        },
        {
            "type": "Microsoft.Network/privateDnsZones",
            "apiVersion": "2020-06-01",
            "name": "[parameters('zone')]",
            "location": "global",
            "tags": {"group": "[resourceGroup().name]"},
        },
    ],
    "outputs": {
        "name": {
            "type": "string",
            "value": "[reference(resourceId('Microsoft.Network/privateDnsZones/A', parameters('zone'), 'www')).fqdn]",
        }
    },
}


#: Release 26 of the SDK has left deployments to a package of their own, so they are asked for by hand.
DEPLOYMENTS = "providers/Microsoft.Resources/deployments"
VERSION = "api-version=2024-03-01"


@pytest.fixture
def http(lab: FakeLab, group: ResourceGroup) -> Iterator[httpx.Client]:
    with lab.http() as client:
        client.base_url = f"{lab.url}{group.id}"
        yield client


def deployment(template: object, **parameters: object) -> dict[str, Any]:
    given = {name: {"value": value} for name, value in parameters.items()}
    return {"properties": {"mode": "Incremental", "template": template, "parameters": given}}


def deploy(http: httpx.Client, name: str, body: dict[str, Any]) -> dict[str, Any]:
    """The status of the deployment's operation in the end."""
    accepted = http.put(f"{DEPLOYMENTS}/{name}?{VERSION}", json=body)
    assert (accepted.status_code, accepted.json()["properties"]["provisioningState"]) == (201, "Accepted")
    deadline = time.monotonic() + 10
    while True:
        status: dict[str, Any] = http.get(accepted.headers["azure-asyncoperation"]).json()
        if status["status"] in ("Succeeded", "Failed"):
            return status
        assert status == {"status": "Running"}
        assert time.monotonic() < deadline


def test_deployments(lab: FakeLab, client: ResourceManagementClient, http: httpx.Client) -> None:
    body = deployment(TEMPLATE, zone="a.example")
    validated = http.post(f"{DEPLOYMENTS}/first/validate?{VERSION}", json=body)
    assert validated.json()["properties"]["provisioningState"] == "Succeeded"
    assert not client.resources.check_existence_by_id(zone_id(lab), api_version=ZONE_VERSION)
    assert deploy(http, "first", body) == {"status": "Succeeded"}
    shown = http.get(f"{DEPLOYMENTS}/first?{VERSION}").json()
    assert shown["id"] == f"/subscriptions/{lab.provider}/resourceGroups/one/{DEPLOYMENTS}/first"
    properties = shown["properties"]
    assert properties["outputs"] == {"name": {"type": "String", "value": "www.a.example."}}
    assert properties["outputResources"] == [{"id": zone_id(lab)}, {"id": f"{zone_id(lab)}/A/www"}]
    assert properties["parameters"]["address"] == {"type": "String", "value": "10.0.0.4"}
    assert [one["resourceName"] for one in properties["dependencies"]] == ["a.example/www"]
    assert properties["providers"][0]["namespace"] == "Microsoft.Network"
    assert client.resources.get_by_id(zone_id(lab), api_version=ZONE_VERSION).tags == {"group": "one"}
    assert http.head(f"{DEPLOYMENTS}/first?{VERSION}").status_code == 204
    assert [one["name"] for one in http.get(f"{DEPLOYMENTS}?{VERSION}").json()["value"]] == ["first"]
    assert http.post(f"{DEPLOYMENTS}/first/exportTemplate?{VERSION}").json() == {"template": TEMPLATE}
    steps = http.get(f"{DEPLOYMENTS}/first/operations?{VERSION}").json()["value"]
    assert steps == http.get(f"deployments/first/operations?{VERSION}").json()["value"]
    performed = [step["properties"]["provisioningOperation"] for step in steps]
    assert performed == ["Create", "Create", "EvaluateDeploymentOutput"]
    assert steps[0]["properties"]["targetResource"]["id"] == zone_id(lab)
    assert http.get(f"{DEPLOYMENTS}/first/operations/{steps[0]['operationId']}?{VERSION}").json() == steps[0]
    assert http.post(f"{DEPLOYMENTS}/first/cancel?{VERSION}").status_code == 409
    again = http.put(f"{DEPLOYMENTS}/first?{VERSION}", json=body)
    assert again.status_code == 200
    http.get(again.headers["azure-asyncoperation"])
    deleted = http.delete(f"{DEPLOYMENTS}/first?{VERSION}")
    assert deleted.status_code == 202
    assert http.get(deleted.headers["location"]).status_code in (200, 204)
    missing = http.get(f"{DEPLOYMENTS}/first?{VERSION}")
    assert missing.json()["error"] == {
        "code": "DeploymentNotFound",
        "message": "Deployment 'first' could not be found.",
    }
    assert client.resources.check_existence_by_id(zone_id(lab), api_version=ZONE_VERSION)


def test_a_template_may_be_written_as_people_write_them(client: ResourceManagementClient, http: httpx.Client) -> None:
    text = """{"properties": {"mode": "incremental", "parameters": {}, template: {
        "contentVersion": "1.0.0.0", // as the az command sends it: "as it is"
        "resources": [ /* nothing, */ ],
        "outputs": {"text": {"type": "string", "value": "[concat('//', 'no comment')]"},},
    }}}"""
    accepted = http.put(f"{DEPLOYMENTS}/first?{VERSION}", content=text)
    assert accepted.status_code == 201
    assert http.get(accepted.headers["azure-asyncoperation"]).json() == {"status": "Succeeded"}
    outputs = http.get(f"{DEPLOYMENTS}/first?{VERSION}").json()["properties"]["outputs"]
    assert outputs == {"text": {"type": "String", "value": "//no comment"}}


def test_a_deployment_that_fails_says_what_failed(
    lab: FakeLab, client: ResourceManagementClient, http: httpx.Client
) -> None:
    status = deploy(http, "first", deployment(TEMPLATE, zone="a.example", address="no address"))
    assert status["status"] == "Failed"
    assert status["error"]["code"] == "DeploymentFailed"
    assert status["error"]["message"].startswith("At least one resource deployment operation failed.")
    assert status["error"]["details"][0]["code"] == "BadRequest"
    shown = http.get(f"{DEPLOYMENTS}/first?{VERSION}").json()["properties"]
    assert (shown["provisioningState"], shown["error"]["code"]) == ("Failed", "DeploymentFailed")
    assert client.resources.check_existence_by_id(zone_id(lab), api_version=ZONE_VERSION)
    steps = http.get(f"{DEPLOYMENTS}/first/operations?{VERSION}").json()["value"]
    failures = [step["properties"] for step in steps if step["properties"]["provisioningState"] == "Failed"]
    assert [one["targetResource"]["resourceName"] for one in failures] == ["a.example/www"]
    assert failures[0]["statusMessage"]["error"]["code"] == "BadRequest"


@pytest.mark.parametrize(
    "change",
    [
        {"resources": [{"type": "Microsoft.Network/privateDnsZones", "name": "x"}]},
        {"variables": {"zoneId": "[nothing()]"}},
        {"variables": {"zoneId": "[variables('zoneId')]"}},
        {"resources": [{"type": "Microsoft.Compute/disks", "name": "x", "apiVersion": "2024-03-02"}]},
        {"parameters": {}},
        {"resources": "nothing"},
        {"resources": [{**TEMPLATE["resources"][0], "dependsOn": ["elsewhere"]}]},
        {"resources": [{**TEMPLATE["resources"][1], "dependsOn": ["a.example/www"]}, TEMPLATE["resources"][0]]},
        {"resources": [{**TEMPLATE["resources"][1], "copy": {"name": "many", "count": 2}}]},
    ],
)
def test_templates_that_are_refused(http: httpx.Client, change: dict[str, Any]) -> None:
    body = deployment({**TEMPLATE, **change}, zone="a.example")
    refused = http.put(f"{DEPLOYMENTS}/first?{VERSION}", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "InvalidTemplate")
    assert refused.json()["error"]["message"].startswith("Deployment template validation failed: '")
    assert http.get(f"{DEPLOYMENTS}/first?{VERSION}").status_code == 404


def test_a_group_takes_its_deployments_along(client: ResourceManagementClient, http: httpx.Client) -> None:
    deploy(http, "first", deployment(TEMPLATE, zone="a.example"))
    client.resource_groups.begin_delete("one").result()
    client.resource_groups.create_or_update("one", {"location": "westeurope"})
    assert http.get(f"{DEPLOYMENTS}?{VERSION}").json() == {"value": []}
    assert list(client.resources.list()) == []


def test_subscriptions_and_tenants(lab: FakeLab) -> None:
    """By hand: release 26 of the SDK has left these to a package of their own."""
    with lab.http() as http:
        listed = http.get("/subscriptions?api-version=2022-12-01").json()
        assert listed["count"] == {"type": "Total", "value": 2}
        assert listed["value"][0] == {
            "id": f"/subscriptions/{lab.provider}",
            "authorizationSource": "RoleBased",
            "managedByTenants": [],
            "subscriptionId": lab.provider,
            "tenantId": lab.tenancy.tenant_id,
            "displayName": "Provider",
            "state": "Enabled",
            "subscriptionPolicies": {
                "locationPlacementId": "Public_2014-09-01",
                "quotaId": "PayAsYouGo_2014-09-01",
                "spendingLimit": "Off",
            },
        }
        one = http.get(f"/subscriptions/{lab.customer}?api-version=2022-12-01").json()
        assert one == listed["value"][1]
        tenants = http.get("/tenants?api-version=2022-12-01").json()["value"]
        assert [tenant["tenantId"] for tenant in tenants] == [lab.tenancy.tenant_id]
        locations = http.get(f"/subscriptions/{lab.provider}/locations?api-version=2022-12-01").json()["value"]
        assert {"westeurope": "West Europe"}.items() <= {one["name"]: one["displayName"] for one in locations}.items()
