"""What is exported says what was asked for, whatever is in it."""

import io
import re
import shlex
import subprocess
from ipaddress import IPv4Address
from typing import Any

import hcl2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.link_cloud import ALIAS, HOST, NETWORK, SUBNET, SUBSCRIPTION, spec

from isthmus.link import names
from isthmus.link.endpoints import ZoneScope
from isthmus.link.exporting import Format, export

#: Characters that mean something to one of the languages.
HOSTILE = 'it\'s "us" $HOME `id` $(id) ${x} %{y} \\ ; & | < > \u20ac'


def parsed(text: str) -> dict[str, dict[str, Any]]:
    """Resources by kind, without the reader's quotation marks."""
    document = hcl2.loads(text)
    return {_bare(kind): next(iter(named.values())) for one in document["resource"] for kind, named in one.items()}


def _bare(value: Any) -> Any:
    return value.strip('"') if isinstance(value, str) else value


def test_terraform_says_what_was_asked_for() -> None:
    networks = (NETWORK, f"{NETWORK}-2")
    text = export(spec(networks=networks, address=IPv4Address("10.1.0.9"), message="hello"), Format.TERRAFORM)
    found = parsed(text)
    endpoint = found["azurerm_private_endpoint"]
    assert _bare(endpoint["name"]) == "isthmus-privatelink"
    assert _bare(endpoint["subnet_id"]) == SUBNET
    [connection] = endpoint["private_service_connection"]
    assert _bare(connection["private_connection_resource_alias"]) == ALIAS
    assert connection["is_manual_connection"] is True
    assert _bare(connection["request_message"]) == "hello"
    [static] = endpoint["ip_configuration"]
    assert _bare(static["private_ip_address"]) == "10.1.0.9"
    assert _bare(found["azurerm_private_dns_zone"]["name"]) == str(HOST)
    record = found["azurerm_private_dns_a_record"]
    assert (_bare(record["name"]), record["ttl"]) == ("@", 60)
    [address] = record["records"]
    assert "azurerm_private_endpoint.isthmus.private_service_connection[0].private_ip_address" in address
    link = found["azurerm_private_dns_zone_virtual_network_link"]
    assert link["registration_enabled"] is False
    assert "if var.approved" in link["for_each"]
    for network in networks:
        assert f'"{names.link_name(network)}" = "{network}"' in link["for_each"]
    provider = hcl2.loads(text)["provider"][0]
    assert _bare(next(iter(provider.values()))["subscription_id"]) == SUBSCRIPTION
    assert "ip_configuration" not in export(spec(), Format.TERRAFORM)


@pytest.mark.parametrize("form", Format)
def test_the_wide_zone(form: Format) -> None:
    text = export(spec(zone_scope=ZoneScope.DOMAIN, zone_group="hub"), form)
    assert HOST.zone in text
    assert HOST.cluster_id in text
    assert "hub" in text


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.just(HOSTILE), st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40)))
def test_no_text_escapes(message: str) -> None:
    script = export(spec(message=message), Format.AZ)
    assigned = next(one for one in script.split("\n") if one.startswith("message="))
    assert shlex.split(assigned) == [f"message={message}"]
    [connection] = parsed(export(spec(message=message), Format.TERRAFORM))["azurerm_private_endpoint"][
        "private_service_connection"
    ]
    said = connection["request_message"][1:-1]
    assert re.sub(r"\\u(\w{4})", lambda found: chr(int(found[1], 16)), said) == message
    assert not re.search(r'(?<!\\)["\\](?!u)|[$%]{', said)


def test_the_script_is_a_script() -> None:

    script = export(spec(message=HOSTILE, networks=(NETWORK, f"{NETWORK}-2")), Format.AZ)
    checked = subprocess.run(["sh", "-n"], input=script, text=True, capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert io.StringIO(script).readline() == "#!/bin/sh\n"
