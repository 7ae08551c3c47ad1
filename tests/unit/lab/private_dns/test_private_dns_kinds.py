"""The rules of private zones, record sets and network links, on a world in memory."""

import base64
from typing import Any

import pytest

from isthmus.lab import ids, picture
from isthmus.lab.documents import Document
from isthmus.lab.errors import ArmError
from isthmus.lab.ids import ResourceId
from isthmus.lab.kinds import Caller
from isthmus.lab.private_dns import KINDS, VIRTUALS, zones_of
from isthmus.lab.store import Draft, Store

NOW = Caller("2024-06-01")
BEFORE = Caller("2018-09-01")
BY_NAME = {kind.name: kind for kind in KINDS}
GROUP = ResourceId("11111111-1111-1111-1111-111111111111", "rg", "Microsoft.Network")
ZONES = "Microsoft.Network/privateDnsZones"


@pytest.fixture
def change() -> Draft:
    return Store.in_memory().draft()


def zone_id(name: str = "contoso.com", group: str = "rg") -> ResourceId:
    return ResourceId(GROUP.subscription, group, "Microsoft.Network", ("privateDnsZones",), (name,))


def write(
    change: Draft, where: ResourceId, body: dict[str, Any], *, caller: Caller = NOW, kind: str | None = None
) -> Document:
    found = BY_NAME[kind or where.kind]
    return found.write(change, where, body, change.get(where), caller)


def patch(change: Draft, document: Document, body: dict[str, Any]) -> Document:
    return BY_NAME[document.kind].patch(change, document, body, NOW)


def remove(change: Draft, document: Document) -> None:
    BY_NAME[document.kind].remove(change, document, NOW)


def show(change: Draft, document: Document, caller: Caller = NOW) -> dict[str, Any]:
    return BY_NAME[document.kind].show(change, document, caller)


def make_zone(change: Draft, name: str = "contoso.com", group: str = "rg") -> Document:
    return write(change, zone_id(name, group), {"location": "Global"})


def make_network(change: Draft, name: str = "vnet", subscription: str = GROUP.subscription) -> ResourceId:
    network = ResourceId(subscription, "rg", "Microsoft.Network", ("virtualNetworks",), (name,))
    change.put(network, network.kind, {"location": "westus", "properties": {}})
    return network


def link(
    change: Draft, zone: Document, network: ResourceId, name: str = "link", *, caller: Caller = NOW, **more: object
) -> Document:
    body = {"location": "global", "properties": {"virtualNetwork": {"id": str(network)}, **more}}
    return write(change, zone.id.child("virtualNetworkLinks", name), body, caller=caller)


def put_records(change: Draft, zone: Document, type_: str, name: str, **properties: Any) -> Document:
    return write(change, zone.id.child(type_, name), {"properties": {"ttl": 3600, **properties}})


def refused(call: Any) -> ArmError:
    with pytest.raises(ArmError) as caught:
        call()
    return caught.value


# --- zones


def test_a_new_zone_has_a_soa_and_azures_numbers(change: Draft) -> None:
    zone = make_zone(change)

    shown = show(change, zone, BEFORE)

    assert shown == {
        "id": str(zone.id),
        "name": "contoso.com",
        "type": ZONES,
        "etag": zone.etag,
        "location": "global",
        "properties": {
            "maxNumberOfRecordSets": 25000,
            "maxNumberOfVirtualNetworkLinks": 1000,
            "maxNumberOfVirtualNetworkLinksWithRegistration": 100,
            "numberOfRecordSets": 1,
            "numberOfVirtualNetworkLinks": 0,
            "numberOfVirtualNetworkLinksWithRegistration": 0,
            "provisioningState": "Succeeded",
        },
    }
    soa = change.get(zone.id.child("SOA", "@"))
    assert soa is not None
    assert show(change, soa)["properties"] == {
        "fqdn": "contoso.com.",
        "ttl": 3600,
        "soaRecord": {
            "email": "azureprivatedns-host.microsoft.com",
            "expireTime": 2419200,
            "host": "azureprivatedns.net",
            "minimumTtl": 10,
            "refreshTime": 3600,
            "retryTime": 300,
            "serialNumber": 1,
        },
        "isAutoRegistered": False,
    }


def test_newer_versions_show_the_internal_id(change: Draft) -> None:
    zone = make_zone(change)
    internal = show(change, zone)["properties"]["internalId"]
    assert "ImmutableZoneIdentity;" in base64.b64decode(internal).decode()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("single", "Zone names must have two or more labels"),
        ("azure.com", "is not permitted as it is a reserved Azure"),
        ("a..b", "is invalid"),
        ("-x.com", "is invalid"),
        (".".join("abcdefghijklmnopqrstuvwxyz0123456789"[:35]), "too many labels"),
    ],
)
def test_zone_names_that_azure_refuses(change: Draft, name: str, words: str) -> None:
    error = refused(lambda: make_zone(change, name))
    assert (error.status, error.code) == (400, "BadRequest")
    assert words in error.summary


@pytest.mark.parametrize("name", ["privatelink.blob.core.windows.net", "x.local", "1.168.192.in-addr.arpa", "_tcp.a.b"])
def test_zone_names_that_azure_takes(change: Draft, name: str) -> None:
    assert make_zone(change, name).id.name == name


def test_a_zone_is_global(change: Draft) -> None:
    assert (
        refused(lambda: write(change, zone_id(), {"location": "westus"})).code == "LocationNotAvailableForResourceType"
    )
    assert refused(lambda: write(change, zone_id(), {})).code == "LocationRequired"


def test_a_zone_with_links_stays_and_goes_with_its_record_sets_without(change: Draft) -> None:
    zone = make_zone(change)
    put_records(change, zone, "A", "www", aRecords=[{"ipv4Address": "10.0.0.4"}])
    linked = link(change, zone, make_network(change))

    error = refused(lambda: remove(change, zone))
    remove(change, linked)
    remove(change, zone)

    assert (error.status, error.code) == (409, "CannotDeleteResource")
    assert "'Microsoft.Network/privateDnsZones/contoso.com/virtualNetworkLinks/link'" in error.summary
    assert [one.kind for one in change.everything()] == ["Microsoft.Network/virtualNetworks"]


def test_a_patch_of_a_zone_changes_tags_and_nothing_else(change: Draft) -> None:
    zone = write(change, zone_id(), {"location": "global", "tags": {"a": "1"}})
    assert show(change, patch(change, zone, {}))["tags"] == {"a": "1"}
    assert show(change, patch(change, zone, {"tags": {"b": "2"}}))["tags"] == {"b": "2"}
    assert "tags" not in show(change, patch(change, zone, {"tags": {}}))


# --- record sets


@pytest.mark.parametrize(
    ("type_", "properties"),
    [
        ("A", {"aRecords": [{"ipv4Address": "10.0.0.1"}, {"ipv4Address": "10.0.0.4"}]}),
        ("AAAA", {"aaaaRecords": [{"ipv6Address": "::1"}]}),
        ("CNAME", {"cnameRecord": {"cname": "clitestcname"}}),
        ("MX", {"mxRecords": [{"exchange": "ex.chan.ge", "preference": 1}]}),
        ("PTR", {"ptrRecords": [{"ptrdname": "ptrd.name"}]}),
        ("SRV", {"srvRecords": [{"port": 120, "priority": 1, "target": "targ.et", "weight": 5}]}),
        ("TXT", {"txtRecords": [{"value": ["txt record", "part two"]}]}),
    ],
)
def test_a_record_set_is_shown_as_it_was_put(change: Draft, type_: str, properties: dict[str, Any]) -> None:
    zone = make_zone(change)
    document = write(
        change,
        zone.id.child(type_.lower(), "Name"),
        {"properties": {"ttl": 60, "metadata": {"k": "v"}, **properties}},
        kind=f"{ZONES}/{type_}",
    )
    assert show(change, document) == {
        "id": f"{zone.id}/{type_}/name",
        "name": "name",
        "type": f"{ZONES}/{type_}",
        "etag": document.etag,
        "properties": {
            "metadata": {"k": "v"},
            "fqdn": "name.contoso.com.",
            "ttl": 60,
            **properties,
            "isAutoRegistered": False,
        },
    }


def test_empty_record_sets_are_allowed_and_shown_as_azure_shows_them(change: Draft) -> None:
    zone = make_zone(change)
    assert show(change, put_records(change, zone, "A", "empty"))["properties"]["aRecords"] == []
    assert "cnameRecord" not in show(change, put_records(change, zone, "CNAME", "none"))["properties"]


@pytest.mark.parametrize(
    ("type_", "name", "properties"),
    [
        ("A", "x", {"aRecords": [{"ipv4Address": "10.0.0.256"}]}),
        ("A", "x", {"aRecords": [{"ipv4Address": f"10.0.0.{n}"} for n in range(21)]}),
        ("A", "x", {"aRecords": [{"ipv4Address": "10.0.0.1"}] * 2}),
        ("A", "x", {"aRecords": "10.0.0.1"}),
        ("A", "x", {"aaaaRecords": [{"ipv6Address": "::1"}]}),
        ("A", "x", {"ttl": -1}),
        ("A", "x", {"ttl": 2**31}),
        ("A", "x", {"ttl": "60"}),
        ("A", "a b", {}),
        ("A", "a-*.b", {}),
        ("A", "a" * 64, {}),
        ("A", ".".join(["a" * 60] * 5), {}),
        ("AAAA", "x", {"aaaaRecords": [{"ipv6Address": "10.0.0.1"}]}),
        ("AAAA", "x", {"aaaaRecords": [{"ipv6Address": "fe80::1%eth0"}]}),
        ("CNAME", "@", {"cnameRecord": {"cname": "a.b"}}),
        ("CNAME", "x", {"cnameRecord": {"cname": '"a.b"'}}),
        ("MX", "x", {"mxRecords": [{"exchange": "a.b", "preference": 65536}]}),
        ("SRV", "x", {"srvRecords": [{"priority": 1, "weight": 1, "target": "a.b"}]}),
        ("TXT", "x", {"txtRecords": [{"value": ["a" * 256]}]}),
        ("TXT", "x", {"txtRecords": [{"value": ["a" * 250] * 5}]}),
        ("TXT", "x", {"txtRecords": [{"value": "a"}]}),
        ("SOA", "www", {}),
        ("A", "x", {"metadata": {"a": 1}}),
    ],
)
def test_record_sets_that_azure_refuses(change: Draft, type_: str, name: str, properties: dict[str, Any]) -> None:
    zone = make_zone(change)
    error = refused(lambda: put_records(change, zone, type_, name, **properties))
    assert (error.status, error.code) == (400, "BadRequest")


@pytest.mark.parametrize("name", ["@", "*", "*.sub", "a.b.c", "_sip._tcp", "0", "x" * 63])
def test_names_that_azure_takes(change: Draft, name: str) -> None:
    zone = make_zone(change)
    assert put_records(change, zone, "A", name).id.name == name


def test_a_cname_is_alone_at_its_name(change: Draft) -> None:
    zone = make_zone(change)
    put_records(change, zone, "A", "a")
    put_records(change, zone, "CNAME", "c", cnameRecord={"cname": "x.y"})

    first = refused(lambda: put_records(change, zone, "CNAME", "a", cnameRecord={"cname": "x.y"}))
    second = refused(lambda: put_records(change, zone, "TXT", "c"))
    put_records(change, zone, "CNAME", "c", cnameRecord={"cname": "x.z"})  # itself it may be

    assert (first.status, first.code) == (second.status, second.code) == (409, "Conflict")
    assert first.summary.startswith("The CNAME record could not be created because another record")
    assert second.summary.startswith("The record could not be created because a CNAME record")


def test_the_soa_changes_but_keeps_host_and_serial_and_cannot_be_deleted(change: Draft) -> None:
    zone = make_zone(change)
    soa = put_records(
        change,
        zone,
        "SOA",
        "@",
        soaRecord={
            "email": "example.hostmaster.com",
            "expireTime": 1,
            "host": "elsewhere.net",
            "minimumTTL": 2,
            "refreshTime": 4,
            "retryTime": 3,
            "serialNumber": 5,
        },
    )
    assert show(change, soa)["properties"]["soaRecord"] == {
        "email": "example.hostmaster.com",
        "expireTime": 1,
        "host": "azureprivatedns.net",
        "minimumTtl": 2,
        "refreshTime": 4,
        "retryTime": 3,
        "serialNumber": 1,
    }
    error = refused(lambda: remove(change, soa))
    assert (error.status, error.summary) == (400, "Record sets of type 'SOA' with name '@' cannot be deleted.")


def test_a_patch_of_a_record_set_keeps_what_it_does_not_say(change: Draft) -> None:
    zone = make_zone(change)
    document = put_records(change, zone, "A", "www", aRecords=[{"ipv4Address": "10.0.0.4"}], metadata={"a": "1"})
    shown = show(change, patch(change, document, {"properties": {"metadata": {"b": "2"}}}))["properties"]
    assert (shown["metadata"], shown["aRecords"], shown["ttl"]) == ({"b": "2"}, [{"ipv4Address": "10.0.0.4"}], 3600)


def test_all_record_sets_are_listed_with_a_suffix(change: Draft) -> None:
    zone = make_zone(change)
    put_records(change, zone, "A", "one.com")
    put_records(change, zone, "AAAA", "two.com")
    put_records(change, zone, "A", "three.con")

    everything = VIRTUALS[0].list(change, zone.id, NOW)
    some = VIRTUALS[0].list(change, zone.id, Caller("2024-06-01", {"$recordsetnamesuffix": ".COM"}))

    assert [one["name"] for one in everything] == ["@", "one.com", "three.con", "two.com"]
    assert [one["name"] for one in some] == ["one.com", "two.com"]


# --- network links


def test_a_link_is_shown_with_a_quoted_etag(change: Draft) -> None:
    zone, network = make_zone(change), make_network(change)
    document = link(change, zone, network, caller=BEFORE)
    assert show(change, document, BEFORE) == {
        "id": f"{zone.id}/virtualNetworkLinks/link",
        "name": "link",
        "type": f"{ZONES}/virtualNetworkLinks",
        "etag": f'"{document.etag}"',
        "location": "global",
        "properties": {
            "provisioningState": "Succeeded",
            "registrationEnabled": False,
            "virtualNetwork": {"id": str(network)},
            "virtualNetworkLinkState": "Completed",
        },
    }
    assert show(change, zone)["properties"]["numberOfVirtualNetworkLinks"] == 1


def test_a_network_of_another_subscription_can_be_linked(change: Draft) -> None:
    network = make_network(change, subscription="22222222-2222-2222-2222-222222222222")
    assert link(change, make_zone(change), network).properties["virtualNetwork"]["id"] == str(network)


def test_a_link_needs_a_network_that_exists(change: Draft) -> None:
    zone = make_zone(change)
    absent = ResourceId(GROUP.subscription, "rg", "Microsoft.Network", ("virtualNetworks",), ("absent",))
    assert refused(lambda: link(change, zone, absent)).code == "BadRequest"
    assert refused(lambda: link(change, zone, zone.id)).code == "BadRequest"
    body = {"location": "global", "properties": {}}
    child = zone.id.child("virtualNetworkLinks", "x")
    assert refused(lambda: write(change, child, body)).code == "BadRequest"


def test_a_network_is_linked_once_with_a_zone_and_with_one_zone_of_a_name(change: Draft) -> None:
    zone, other, network = make_zone(change), make_zone(change, group="rg2"), make_network(change)
    link(change, zone, network)

    twice = refused(lambda: link(change, zone, network, "again"))
    same_name = refused(lambda: link(change, other, network))
    link(change, make_zone(change, "sub.contoso.com"), network)  # a longer name is another zone

    assert (twice.status, twice.code) == (409, "Conflict")
    assert twice.summary == f"Private zone 'contoso.com' is already linked to the virtual network '{network}'."
    assert (same_name.status, same_name.code) == (400, "BadRequest")
    assert same_name.summary.startswith(
        "A virtual network cannot be linked to multiple zones with overlapping namespaces."
    )


def test_a_network_registers_in_one_zone(change: Draft) -> None:
    network = make_network(change)
    link(change, make_zone(change), network, registrationEnabled=True)
    second = make_zone(change, "fabrikam.com")

    error = refused(lambda: link(change, second, network, registrationEnabled=True))
    without = link(change, second, network)
    again = refused(lambda: patch(change, without, {"properties": {"registrationEnabled": True}}))

    assert (error.code, again.code) == ("Conflict", "Conflict")
    assert error.summary.endswith("conflicting Private DNS zone is 'contoso.com'.")


def test_the_network_of_a_link_does_not_change(change: Draft) -> None:
    document = link(change, make_zone(change), make_network(change))
    other = make_network(change, "other")
    error = refused(lambda: patch(change, document, {"properties": {"virtualNetwork": {"id": str(other)}}}))
    assert error.code == "BadRequest"


def test_fall_back_is_for_zones_of_private_links_and_newer_versions(change: Draft) -> None:
    network = make_network(change)
    private = make_zone(change, "privatelink.contoso.com")

    usual = link(change, private, network)
    assert show(change, usual)["properties"]["resolutionPolicy"] == "Default"
    assert "resolutionPolicy" not in show(change, usual, BEFORE)["properties"]
    changed = patch(change, usual, {"properties": {"resolutionPolicy": "nxdomainredirect"}})
    assert show(change, changed)["properties"]["resolutionPolicy"] == "NxDomainRedirect"
    kept = link(change, private, network, caller=BEFORE)
    assert show(change, kept)["properties"]["resolutionPolicy"] == "NxDomainRedirect"
    elsewhere = make_zone(change)
    error = refused(lambda: link(change, elsewhere, network, resolutionPolicy="NxDomainRedirect"))
    assert "ResolutionPolicy is not supported" in error.summary


# --- what networks see


def interface(change: Draft, network: ResourceId, name: str, address: str, **properties: Any) -> None:
    own = network.beside("networkInterfaces", name)
    configuration = {"subnet": {"id": f"{network}/subnets/default"}, "privateIPAddress": address}
    change.put(own, own.kind, {"properties": {"ipConfigurations": [{"properties": configuration}], **properties}})


def test_a_network_sees_the_records_of_linked_zones(change: Draft) -> None:
    network = make_network(change)
    zone = make_zone(change, "privatelink.Contoso.com")
    make_zone(change, "unlinked.com")
    link(change, zone, network, resolutionPolicy="NxDomainRedirect")
    put_records(change, zone, "A", "www", aRecords=[{"ipv4Address": "10.0.0.4"}, {"ipv4Address": "10.0.0.5"}])
    put_records(change, zone, "A", "empty")
    put_records(change, zone, "CNAME", "c", cnameRecord={"cname": "www.privatelink.contoso.com."})
    put_records(change, zone, "MX", "@", mxRecords=[{"preference": 10, "exchange": "mail.x.y."}])
    put_records(change, zone, "SRV", "_s", srvRecords=[{"priority": 1, "weight": 2, "port": 3, "target": "t.x"}])
    put_records(change, zone, "TXT", "t", txtRecords=[{"value": ["one ", "two"]}])

    assert zones_of(change, str(network).upper()) == (
        picture.Zone(
            "privatelink.contoso.com",
            True,
            (
                picture.Record("@", "MX", 3600, ("10 mail.x.y",)),
                picture.Record("_s", "SRV", 3600, ("1 2 3 t.x",)),
                picture.Record("c", "CNAME", 3600, ("www.privatelink.contoso.com",)),
                picture.Record("t", "TXT", 3600, ("one two",)),
                picture.Record("www", "A", 3600, ("10.0.0.4", "10.0.0.5")),
            ),
        ),
    )
    assert zones_of(change, ids.key("/subscriptions/x")) == ()


def test_interfaces_register_through_a_link_that_says_so(change: Draft) -> None:
    network, other = make_network(change), make_network(change, "other")
    zone = make_zone(change)
    link(change, zone, network, registrationEnabled=True)
    link(change, zone, other, "other")
    interface(change, network, "VM1", "10.0.0.4")
    interface(change, network, "vm2", "10.0.0.5", dnsSettings={"internalDnsNameLabel": "label"})
    interface(change, network, "endpoint", "10.0.0.6", privateEndpoint={"id": "x"})
    interface(change, network, "taken", "10.0.0.7")
    interface(change, other, "vm3", "10.1.0.4")
    put_records(change, zone, "A", "taken", aRecords=[{"ipv4Address": "10.9.9.9"}])

    records = zones_of(change, network.key)[0].records
    listed = [one for one in VIRTUALS[0].list(change, zone.id, NOW) if one["properties"]["isAutoRegistered"]]

    assert {one.name: one.values for one in records} == {
        "taken": ("10.9.9.9",),
        "label": ("10.0.0.5",),
        "vm1": ("10.0.0.4",),
    }
    assert [(one["name"], one["properties"]["ttl"]) for one in listed] == [("label", 10), ("vm1", 10)]
    assert show(change, zone)["properties"]["numberOfRecordSets"] == 4
