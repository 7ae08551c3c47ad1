"""Aliases, resource ids, hosts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.kit.errors import ConfigError
from isthmus.link import names

GUID = "00e9ad21-48e8-4a0c-a7d9-49a62ddfcd49"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (f"lks1.{GUID}.centralus.azure.privatelinkservice", ("lks1", GUID, "centralus")),
        (f"  LKS1.{GUID.upper()}.CentralUS.Azure.PrivateLinkService. ", ("lks1", GUID, "centralus")),
        (f"my.dotted.name.{GUID}.westeurope.azure.privatelinkservice", ("my.dotted.name", GUID, "westeurope")),
        (f"lks1.{GUID}.azure.privatelinkservice", ("lks1", GUID, "")),
        (f"{GUID}.{GUID}.azure.privatelinkservice", (GUID, GUID, "")),
    ],
)
def test_aliases(text: str, parts: tuple[str, str, str]) -> None:
    alias = names.parse_alias(text)
    assert (alias.service, alias.guid, alias.region) == parts
    assert names.parse_alias(str(alias)) == alias


@pytest.mark.parametrize(
    "text",
    [
        "",
        "azure.privatelinkservice",
        ".azure.privatelinkservice",
        f"{GUID}.azure.privatelinkservice",
        f"{GUID}.centralus.azure.privatelinkservice",
        f"lks1.{GUID[:-1]}.centralus.azure.privatelinkservice",
        f"lks1.{GUID}.central us.azure.privatelinkservice",
        f"lks1.{GUID}.centralus.azure.privatelinkservices",
        f"lks1.{GUID}.centralus",
        f"lks$1.{GUID}.centralus.azure.privatelinkservice",
        "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/privateLinkServices/x",
    ],
)
def test_what_is_no_alias(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        names.parse_alias(text)
    assert (refused.value.code, bool(refused.value.hint)) == ("alias_malformed", True)


@given(st.text(max_size=80))
def test_any_text_is_an_alias_or_refused(text: str) -> None:
    try:
        alias = names.parse_alias(text)
    except ConfigError:
        return
    assert names.parse_alias(str(alias)) == alias


def test_ids() -> None:
    text = "/subscriptions/S/resourcegroups/G/providers/Microsoft.Network/virtualNetworks/V/subnets/s"
    subnet = names.parse_id(text, names.SUBNET)
    assert (subnet.subscription, subnet.group, subnet.kind, subnet.names) == ("S", "G", names.SUBNET, ("V", "s"))
    assert names.are_same(str(subnet), text.upper())
    assert str(subnet.parent) == names.network_of(text)
    assert subnet.parent.child("subnets", "s") == subnet
    assert names.parse_id(str(subnet)) == subnet


@pytest.mark.parametrize(
    "text",
    [
        "",
        "net",
        "/subscriptions/s/resourceGroups/g",
        "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks",
        "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets",
        "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/privateEndpoints/v",
    ],
)
def test_what_is_no_id_of_a_network(text: str) -> None:
    with pytest.raises(ConfigError):
        names.parse_id(text, names.NETWORK)


def test_hosts() -> None:
    host = names.parse_host("CLabcdefgh2.External.Example.Com.")
    assert (host.cluster_id, host.domain) == ("clabcdefgh2", "example.com")
    assert (str(host), host.zone) == ("clabcdefgh2.external.example.com", "external.example.com")
    assert names.parse_host(f"https://{host}:8443/dabcdefg") == host


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com",
        "clabcdefgh1.external.example.com",
        "clabcdefgh.external.example.com",
        "clabcdefgh2.example.com",
        "clabcdefgh2.external",
        "clabcdefgh2.external.",
        "clabcdefgh2.external.-a.com",
        "https://10.0.0.1/dabcdefg",
        f"clabcdefgh2.external.{'a.' * 120}com",
    ],
)
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        names.parse_host(text)
    assert refused.value.code == "host_malformed"


def test_links_of_two_networks_of_one_name_have_two_names() -> None:
    first, second = (
        f"/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/{group}/providers/Microsoft.Network/"
        "virtualNetworks/net"
        for group in ("a", "b")
    )
    assert names.link_name(first) != names.link_name(second)
    assert names.link_name(first) == names.link_name(first.upper().replace("/NET", "/net").replace("/A/", "/a/"))
