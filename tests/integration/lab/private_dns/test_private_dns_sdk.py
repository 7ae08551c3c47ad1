"""Every operation of azure-mgmt-privatedns, unmodified, over TLS; and exchanges as Azure answers them."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
from azure.mgmt.privatedns import PrivateDnsManagementClient
from tests.fakes.lab import FakeLab

from isthmus.lab import private_dns
from isthmus.lab.ids import ResourceId

GROUP = "customer"
ZONE = "privatelink.contoso.com"
VERSION = "?api-version=2018-09-01"


@pytest.fixture
def lab(new_lab: Callable[..., FakeLab]) -> FakeLab:
    """A lab with a group and three networks, one of them in the provider's subscription."""
    lab = new_lab(*private_dns.KINDS, virtuals=private_dns.VIRTUALS)
    draft = lab.store.draft()
    for subscription, names in ((lab.customer, ("net", "other")), (lab.provider, ("far",))):
        draft.put(
            ResourceId(subscription, GROUP), "Microsoft.Resources/subscriptions/resourceGroups", {"location": "westus"}
        )
        for name in names:
            draft.put(network_id(subscription, name), "Microsoft.Network/virtualNetworks", {"location": "westus"})
    lab.store.commit(draft)
    return lab


@pytest.fixture
def sdk(lab: FakeLab) -> Iterator[PrivateDnsManagementClient]:
    with lab.client(PrivateDnsManagementClient, lab.customer, polling_interval=0) as client:
        yield client


def network_id(subscription: str, name: str) -> ResourceId:
    return ResourceId(subscription, GROUP, "Microsoft.Network", ("virtualNetworks",), (name,))


def make_zone(sdk: PrivateDnsManagementClient, name: str = ZONE, **more: Any) -> Any:
    return sdk.private_zones.begin_create_or_update(GROUP, name, {"location": "Global", **more}).result()


def make_link(
    sdk: PrivateDnsManagementClient,
    lab: FakeLab,
    name: str = "link",
    network: str = "net",
    zone: str = ZONE,
    **more: Any,
) -> Any:
    properties = {
        "virtualNetwork": {"id": str(network_id(lab.customer, network))},
        "registrationEnabled": False,
        **more,
    }
    body = {"location": "Global", "properties": properties}
    return sdk.virtual_network_links.begin_create_or_update(GROUP, zone, name, body).result()


# --- zones


def test_zones_round_trip(sdk: PrivateDnsManagementClient) -> None:
    made = make_zone(sdk, tags={"a": "1"})
    assert (made.name, made.location, made.tags) == (ZONE, "global", {"a": "1"})
    assert (made.properties.number_of_record_sets, made.properties.provisioning_state) == (1, "Succeeded")
    assert made.properties.max_number_of_virtual_network_links_with_registration == 100
    assert made.properties.internal_id

    changed = sdk.private_zones.begin_update(GROUP, ZONE, {"tags": {"b": "2"}}).result()
    assert changed.tags == {"b": "2"}
    assert changed.etag != made.etag
    assert sdk.private_zones.get(GROUP, ZONE.upper()).etag == changed.etag

    make_zone(sdk, "second.org")
    assert [one.name for one in sdk.private_zones.list_by_resource_group(GROUP)] == [ZONE, "second.org"]
    assert [one.name for one in sdk.private_zones.list()] == [ZONE, "second.org"]
    assert [one.name for one in sdk.private_zones.list(top=1)] == [ZONE, "second.org"]  # two pages

    sdk.private_zones.begin_delete(GROUP, ZONE).result()
    with pytest.raises(ResourceNotFoundError):
        sdk.private_zones.get(GROUP, ZONE)
    sdk.private_zones.begin_delete(GROUP, ZONE).result()  # nothing to delete is no error


def test_a_zone_that_exists_is_not_created_again(sdk: PrivateDnsManagementClient) -> None:
    etag = make_zone(sdk).etag
    body = {"location": "Global"}

    with pytest.raises(HttpResponseError) as again:
        sdk.private_zones.begin_create_or_update(GROUP, ZONE, body, match_condition=MatchConditions.IfMissing).result()
    with pytest.raises(HttpResponseError) as stale:
        sdk.private_zones.begin_create_or_update(
            GROUP,
            ZONE,
            body,
            etag="37222d02-5fed-41c6-b394-ec1968f39f3b",
            match_condition=MatchConditions.IfNotModified,
        ).result()
    sdk.private_zones.begin_create_or_update(
        GROUP, ZONE, body, etag=etag, match_condition=MatchConditions.IfNotModified
    ).result()

    assert f"The Zone {ZONE} exists already and hence cannot be created again." in str(again.value)
    assert f"The Zone {ZONE} has been modified (etag mismatch)." in str(stale.value)


def test_a_linked_zone_is_not_deleted(sdk: PrivateDnsManagementClient, lab: FakeLab) -> None:
    make_zone(sdk)
    make_link(sdk, lab)
    with pytest.raises(ResourceExistsError) as error:  # what azure-core makes of 409
        sdk.private_zones.begin_delete(GROUP, ZONE).result()
    assert error.value.error is not None
    assert error.value.error.code == "CannotDeleteResource"
    assert sdk.private_zones.get(GROUP, ZONE).properties.number_of_virtual_network_links == 1


# --- record sets

RECORDS: dict[str, dict[str, Any]] = {
    "A": {"aRecords": [{"ipv4Address": "10.0.0.1"}]},
    "AAAA": {"aaaaRecords": [{"ipv6Address": "2001:db8::1"}]},
    "CNAME": {"cnameRecord": {"cname": "www.contoso.com"}},
    "MX": {"mxRecords": [{"preference": 10, "exchange": "mail.contoso.com"}]},
    "PTR": {"ptrRecords": [{"ptrdname": "host.contoso.com"}]},
    "SRV": {"srvRecords": [{"priority": 1, "weight": 2, "port": 53, "target": "dns.contoso.com"}]},
    "TXT": {"txtRecords": [{"value": ["one", "two"]}]},
}


@pytest.mark.parametrize("type_", RECORDS)
def test_record_sets_round_trip(sdk: PrivateDnsManagementClient, type_: str) -> None:
    make_zone(sdk)
    sets = sdk.record_sets
    name = f"Record{type_}"
    body = {"properties": {"ttl": 300, "metadata": {"k": "v"}, **RECORDS[type_]}}

    made = sets.create_or_update(GROUP, ZONE, type_, name, body)
    assert (made.name, made.properties.fqdn) == (name.lower(), f"{name.lower()}.{ZONE}.")
    assert (made.properties.ttl, made.properties.metadata) == (300, {"k": "v"})
    assert made.properties.is_auto_registered is False
    member = next(iter(RECORDS[type_]))
    assert made.as_dict()["properties"][member] == RECORDS[type_][member]
    assert sets.get(GROUP, ZONE, type_.lower(), name).etag == made.etag

    changed = sets.update(GROUP, ZONE, type_, name, {"properties": {"ttl": 60}})
    assert changed.properties.ttl == 60
    assert changed.as_dict()["properties"][member] == RECORDS[type_][member]
    with pytest.raises(ResourceModifiedError) as stale:
        sets.update(GROUP, ZONE, type_, name, body, etag=made.etag, match_condition=MatchConditions.IfNotModified)
    with pytest.raises(ResourceModifiedError):
        sets.delete(GROUP, ZONE, type_, name, etag=made.etag, match_condition=MatchConditions.IfNotModified)
    with pytest.raises(HttpResponseError) as again:
        sets.create_or_update(GROUP, ZONE, type_, name, body, match_condition=MatchConditions.IfMissing)

    assert f"The Record set {name} has been modified (etag mismatch)." in str(stale.value)
    assert f"The Record set {name} exists already" in str(again.value)
    assert [one.name for one in sets.list_by_type(GROUP, ZONE, type_)] == [name.lower()]
    sets.delete(GROUP, ZONE, type_, name, etag=changed.etag, match_condition=MatchConditions.IfNotModified)
    sets.delete(GROUP, ZONE, type_, name)
    with pytest.raises(ResourceNotFoundError):
        sets.get(GROUP, ZONE, type_, name)
    assert list(sets.list_by_type(GROUP, ZONE, type_)) == []


def test_the_soa_changes_and_stays(sdk: PrivateDnsManagementClient) -> None:
    make_zone(sdk)
    soa = sdk.record_sets.get(GROUP, ZONE, "SOA", "@")
    assert soa.properties.soa_record.host == "azureprivatedns.net"
    soa.properties.soa_record.minimum_ttl = 300
    changed = sdk.record_sets.create_or_update(GROUP, ZONE, "SOA", "@", soa)
    assert (changed.properties.soa_record.minimum_ttl, changed.properties.soa_record.serial_number) == (300, 1)
    with pytest.raises(HttpResponseError, match="Record sets of type 'SOA' with name '@' cannot be deleted"):
        sdk.record_sets.delete(GROUP, ZONE, "SOA", "@")


def test_all_record_sets_are_listed_in_pages_and_by_suffix(sdk: PrivateDnsManagementClient) -> None:
    make_zone(sdk)
    for name in ("a.x", "b.x", "c.y"):
        sdk.record_sets.create_or_update(GROUP, ZONE, "A", name, {"properties": {"ttl": 1}})
    sdk.record_sets.create_or_update(GROUP, ZONE, "TXT", "d.x", {"properties": {"ttl": 1}})

    assert [one.name for one in sdk.record_sets.list(GROUP, ZONE)] == ["@", "a.x", "b.x", "c.y", "d.x"]
    assert [one.name for one in sdk.record_sets.list(GROUP, ZONE, top=2)] == ["@", "a.x", "b.x", "c.y", "d.x"]
    assert [one.name for one in sdk.record_sets.list(GROUP, ZONE, recordsetnamesuffix=".x")] == ["a.x", "b.x", "d.x"]
    found = sdk.record_sets.list_by_type(GROUP, ZONE, "A", recordsetnamesuffix=".x")
    assert [one.name for one in found] == ["a.x", "b.x"]


def test_record_sets_refuse_barely(lab: FakeLab, sdk: PrivateDnsManagementClient) -> None:
    make_zone(sdk)
    zone = f"/subscriptions/{lab.customer}/resourceGroups/{GROUP}/providers/Microsoft.Network/privateDnsZones/{ZONE}"
    with lab.http() as http:
        body = {"properties": {"ttl": 3600}}
        first = http.put(f"{zone}/a/www{VERSION}", json=body, headers={"If-None-Match": "*"})
        again = http.put(f"{zone}/a/www{VERSION}", json=body, headers={"If-None-Match": "*"})
        wrong = http.put(f"{zone}/A/www{VERSION}", json={"properties": {"aRecords": [{"ipv4Address": "1"}]}})
        absent = http.get(f"{zone}/A/absent{VERSION}")
        orphan = http.put(f"{zone}x/A/www{VERSION}", json=body)
        gone = http.delete(f"{zone}/A/www{VERSION}")
        nothing = http.delete(f"{zone}/A/www{VERSION}")

    assert (first.status_code, first.headers["etag"]) == (201, first.json()["etag"])
    assert first.json()["id"] == f"{zone}/A/www"
    assert (again.status_code, again.json()) == (
        412,
        {
            "code": "PreconditionFailed",
            "message": "The Record set www exists already and hence cannot be created again.",
        },
    )
    assert (wrong.status_code, wrong.json()["code"]) == (400, "BadRequest")
    assert (absent.status_code, absent.json()["code"]) == (404, "NotFound")
    assert absent.json()["message"] == (
        f"The resource record 'absent' does not exist in resource group '{GROUP}' of subscription '{lab.customer}'."
    )
    assert (orphan.status_code, orphan.json()["error"]["code"]) == (404, "ParentResourceNotFound")
    assert (gone.status_code, gone.content, nothing.status_code) == (200, b"", 204)


# --- network links


def test_links_round_trip(sdk: PrivateDnsManagementClient, lab: FakeLab) -> None:
    make_zone(sdk)
    links = sdk.virtual_network_links
    made = make_link(sdk, lab)
    assert (made.properties.virtual_network_link_state, made.properties.provisioning_state) == (
        "Completed",
        "Succeeded",
    )
    assert made.properties.virtual_network.id == str(network_id(lab.customer, "net"))
    assert made.properties.resolution_policy == "Default"
    assert made.etag.startswith('"')

    body = {"tags": {"a": "1"}, "properties": {"registrationEnabled": True, "resolutionPolicy": "NxDomainRedirect"}}
    changed = links.begin_update(GROUP, ZONE, "link", body).result()
    assert (changed.tags, changed.properties.registration_enabled) == ({"a": "1"}, True)
    assert changed.properties.resolution_policy == "NxDomainRedirect"
    with pytest.raises(HttpResponseError) as stale:
        links.begin_update(
            GROUP, ZONE, "link", body, etag=made.etag, match_condition=MatchConditions.IfNotModified
        ).result()
    links.begin_update(
        GROUP, ZONE, "link", {"tags": {}}, etag=changed.etag, match_condition=MatchConditions.IfNotModified
    ).result()
    with pytest.raises(HttpResponseError) as again:
        links.begin_create_or_update(GROUP, ZONE, "link", made, match_condition=MatchConditions.IfMissing).result()

    assert (
        f"The Virtual Network link 'link' for the Private DNS zone '{ZONE}' has been modified (etag mismatch)."
        in str(stale.value)
    )
    assert "exists already and hence cannot be created again" in str(again.value)
    make_link(sdk, lab, "second", "other")
    assert [one.name for one in links.list(GROUP, ZONE)] == ["link", "second"]
    assert [one.name for one in links.list(GROUP, ZONE, top=1)] == ["link", "second"]
    assert links.get(GROUP, ZONE, "second").name == "second"
    links.begin_delete(GROUP, ZONE, "link").result()
    links.begin_delete(GROUP, ZONE, "link").result()
    with pytest.raises(ResourceNotFoundError):
        links.get(GROUP, ZONE, "link")


def test_conflicts_are_the_outcome_of_the_operation(sdk: PrivateDnsManagementClient, lab: FakeLab) -> None:
    make_zone(sdk)
    make_link(sdk, lab)
    with pytest.raises(HttpResponseError) as twice:
        make_link(sdk, lab, "again")
    assert twice.value.error is not None
    assert (twice.value.status_code, twice.value.error.code) == (200, "Conflict")
    assert "is already linked to the virtual network" in str(twice.value)

    path = f"/subscriptions/{lab.customer}/resourceGroups/{GROUP}/providers/Microsoft.Network/privateDnsZones/{ZONE}"
    body = {"location": "global", "properties": {"virtualNetwork": {"id": str(network_id(lab.customer, "net"))}}}
    with lab.http() as http:
        accepted = http.put(f"{path}/virtualNetworkLinks/third{VERSION}", json=body)
        outcome = http.get(accepted.headers["azure-asyncoperation"])
        absent = http.get(f"{path}/virtualNetworkLinks/third{VERSION}")
    assert (accepted.status_code, accepted.json()) == (202, {})
    assert "/providers/Microsoft.Network/privateDnsOperationStatuses/" in accepted.headers["azure-asyncoperation"]
    assert "/providers/Microsoft.Network/privateDnsOperationResults/" in accepted.headers["location"]
    assert (outcome.status_code, outcome.json()["status"]) == (200, "Failed")
    assert outcome.json()["error"]["code"] == "Conflict"
    assert absent.json()["error"]["code"] == "ResourceNotFound"


def test_a_network_of_another_subscription_is_linked(sdk: PrivateDnsManagementClient, lab: FakeLab) -> None:
    make_zone(sdk)
    properties = {"virtualNetwork": {"id": str(network_id(lab.provider, "far"))}}
    body = {"location": "global", "properties": properties}
    made = sdk.virtual_network_links.begin_create_or_update(GROUP, ZONE, "far", body).result()
    assert made.properties.virtual_network.id == properties["virtualNetwork"]["id"]


def test_a_zone_file_is_imported_as_the_command_line_sends_it(lab: FakeLab, sdk: PrivateDnsManagementClient) -> None:
    """The PUTs of ``az network private-dns zone import``: types in lower case, names with a last dot in records."""
    make_zone(sdk, "zone1.com")
    zone = f"/subscriptions/{lab.customer}/resourceGroups/{GROUP}/providers/Microsoft.Network/privateDnsZones/zone1.com"
    sent = {
        "soa/@": {
            "ttl": 3600,
            "soaRecord": {
                "host": "azureprivatedns.net",
                "email": "azuredns-hostmaster.microsoft.com.",
                "serialNumber": 1,
                "refreshTime": 3600,
                "retryTime": 300,
                "expireTime": 2419200,
                "minimumTtl": 300,
            },
        },
        "mx/mymx": {"ttl": 3600, "mxRecords": [{"preference": 1, "exchange": "mail.contoso.com."}]},
        "a/mya": {"ttl": 0, "aRecords": [{"ipv4Address": "10.0.1.0"}, {"ipv4Address": "10.0.1.1"}]},
        "aaaa/myaaaa": {"ttl": 3600, "aaaaRecords": [{"ipv6Address": "2001:4898:e0:99:6dc4:6329:1c99:4e69"}]},
        "cname/mycname": {"ttl": 3600, "cnameRecord": {"cname": "contoso.com."}},
        "ptr/myptr": {"ttl": 3600, "ptrRecords": [{"ptrdname": "contoso.com."}]},
        "srv/mysrv": {"ttl": 3600, "srvRecords": [{"priority": 1, "weight": 2, "port": 1234, "target": "target.com."}]},
        "txt/myname": {"ttl": 3600, "txtRecords": [{"value": ['manualtxt "quoted" \\ back']}]},
        "txt/@": {"ttl": 3600, "txtRecords": [{"value": ["a" * 255, "b" * 45]}]},
    }
    with lab.http() as http:
        for path, properties in sent.items():
            answer = http.put(f"{zone}/{path}{VERSION}", json={"properties": properties})
            assert answer.status_code == (200 if path == "soa/@" else 201), answer.text
            shown = answer.json()["properties"]
            assert {key: value for key, value in shown.items() if key in properties} == properties
    assert sdk.private_zones.get(GROUP, "zone1.com").properties.number_of_record_sets == len(sent)
