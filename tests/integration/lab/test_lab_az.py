"""The real ``az`` on the lab's Microsoft.Resources: from registering the cloud to deleting a group."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.az import Az, AzError
from tests.fakes.lab import FakeLab

from isthmus.lab import private_dns

TEMPLATE = """{
    "contentVersion": "1.0.0.0", // a comment, as people write them
    "parameters": {"zone": {"type": "string"}},
    "resources": [
        {"type": "Microsoft.Network/privateDnsZones", "apiVersion": "2020-06-01", "name": "[parameters('zone')]",
         "location": "global", "tags": {"team": "one"}},
    ],
    "outputs": {
        "id": {"type": "string", "value": "[resourceId('Microsoft.Network/privateDnsZones', parameters('zone'))]"}
    }
}"""


def test_az_from_signing_in_to_deleting_a_group(
    new_lab: Callable[..., FakeLab], new_az: Callable[[FakeLab], Az], tmp_path: Path
) -> None:
    lab = new_lab(*private_dns.KINDS, virtuals=private_dns.VIRTUALS)
    az = new_az(lab)
    accounts = az("account", "list")
    assert [account["id"] for account in accounts] == [lab.provider, lab.customer]
    assert (accounts[0]["tenantId"], accounts[0]["isDefault"]) == (lab.tenancy.tenant_id, True)

    made = az("group", "create", "--name", "one", "--location", "westeurope", "--tags", "a=b")
    assert (made["location"], made["tags"], made["properties"]) == (
        "westeurope",
        {"a": "b"},
        {"provisioningState": "Succeeded"},
    )
    az("group", "create", "--name", "one", "--location", "eastus", "--subscription", lab.customer)
    assert [group["location"] for group in az("group", "list")] == ["westeurope"]
    assert az("provider", "show", "--namespace", "Microsoft.Network", "--query", "registrationState") == "Registered"

    template = tmp_path / "template.json"
    template.write_text(TEMPLATE)
    words = ("--resource-group", "one", "--name", "first", "--template-file", str(template))
    done = az("deployment", "group", "create", *words, "--parameters", "zone=a.example")
    assert done["properties"]["provisioningState"] == "Succeeded"
    zone = done["properties"]["outputs"]["id"]["value"]

    assert [one["id"] for one in az("resource", "list", "--tag", "team=one")] == [zone]
    shown = az("resource", "show", "--ids", zone)
    assert (shown["id"], shown["location"]) == (zone, "global")
    tags = az("tag", "update", "--resource-id", zone, "--operation", "merge", "--tags", "size=small")
    assert tags["properties"]["tags"] == {"team": "one", "size": "small"}

    with pytest.raises(AzError) as refused:
        az("group", "create", "--name", "one", "--location", "eastus")
    assert "(InvalidResourceGroupLocation)" in refused.value.said
    with pytest.raises(AzError) as missing:
        az("group", "show", "--name", "two")
    assert (missing.value.code, "(ResourceGroupNotFound)" in missing.value.said) == (3, True)

    az("group", "delete", "--name", "one", "--yes")
    assert az("group", "exists", "--name", "one") is False
    assert az("resource", "list") == []
