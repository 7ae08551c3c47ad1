"""A spec as somebody else's way to get there: a script of ``az`` commands, or Terraform. Pure.

For networks that belong to people who run no tools of ours. Both make what the reconciler would, with its names and
tags, so that either can take over from the other; and both keep its order: no network is linked before the connection
is approved. Every value is quoted for its language.
"""

import re
import shlex
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import assert_never

from isthmus.link import names
from isthmus.link.endpoints import OWNER_TAG, EndpointSpec


class Format(StrEnum):
    """What can be exported."""

    AZ = "az"
    TERRAFORM = "terraform"


def export(spec: EndpointSpec, form: Format) -> str:
    """The whole text, with a final newline."""
    match form:
        case Format.AZ:
            return az(spec)
        case Format.TERRAFORM:
            return terraform(spec)
        case _:
            assert_never(form)


# --- az ------------------------------------------------------------------------------------------------------------

_AZ_HEAD = """\
#!/bin/sh
# A private endpoint for {host}, and the names that lead to it.
#
# Needs the az command, signed in (az login), with the roles Network Contributor and Private DNS Zone Contributor.
# May be run again at any time: what is there already is left alone. It waits for the provider's approval for
# WAIT_SECONDS (an hour unless set), and then ends with code 3; run it again once you were approved.
set -eu

{values}

state() {{
    az network private-endpoint show --ids "$endpoint" --output tsv \\
        --query 'manualPrivateLinkServiceConnections[0].privateLinkServiceConnectionState.status'
}}

if [ "$(az provider show --subscription "$subscription" --namespace Microsoft.Network \\
    --query registrationState --output tsv)" != Registered ]; then
    echo 'registering the subscription for Microsoft.Network'
    az provider register --subscription "$subscription" --namespace Microsoft.Network --wait
fi

if ! az network private-endpoint show --ids "$endpoint" --output none 2> /dev/null; then
    echo "creating endpoint $name"
    az network private-endpoint create --subscription "$subscription" --resource-group "$group" --name "$name" \\
        --location "$location" --subnet "$subnet" --connection-name "$name" \\
        --private-connection-resource-id "$alias" --manual-request true --request-message "$message" \\
{options}        --tags {tags} --output none
fi
interface=$(az network private-endpoint show --ids "$endpoint" --query 'networkInterfaces[0].id' --output tsv)
address=$(az network nic show --ids "$interface" --query 'ipConfigurations[0].privateIPAddress' --output tsv)
echo "endpoint $name has address $address"

waited=0
while [ "$(state)" = Pending ]; do
    if [ "$waited" -ge "${{WAIT_SECONDS:-3600}}" ]; then
        echo 'the provider has not approved the connection yet: run this again once it has' >&2
        exit 3
    fi
    [ "$waited" -gt 0 ] || echo 'waiting for the provider to approve the connection'
    sleep "${{LOOK_SECONDS:-10}}"
    waited=$((waited + ${{LOOK_SECONDS:-10}}))
done
if [ "$(state)" != Approved ]; then
    echo "the connection is $(state): delete endpoint $name, and run this again" >&2
    exit 1
fi

if ! az network private-dns zone show --subscription "$subscription" --resource-group "$zone_group" --name "$zone" \\
    --output none 2> /dev/null; then
    echo "creating zone $zone"
    az network private-dns zone create --subscription "$subscription" --resource-group "$zone_group" --name "$zone" \\
        --tags {owner} --output none
fi

found=$(az network private-dns record-set a show --subscription "$subscription" --resource-group "$zone_group" \\
    --zone-name "$zone" --name "$record" --query 'aRecords[].ipv4Address' --output tsv 2> /dev/null || true)
if [ -n "$found" ] && [ "$found" != "$address" ]; then
    echo "record $record of zone $zone points to $found: delete it, or correct it" >&2
    exit 1
fi
if [ -z "$found" ]; then
    echo "putting record $record in zone $zone"
    az network private-dns record-set a show --subscription "$subscription" --resource-group "$zone_group" \\
        --zone-name "$zone" --name "$record" --output none 2> /dev/null ||
        az network private-dns record-set a create --subscription "$subscription" --resource-group "$zone_group" \\
            --zone-name "$zone" --name "$record" --ttl {ttl} --metadata {owner} --output none
    az network private-dns record-set a add-record --subscription "$subscription" --resource-group "$zone_group" \\
        --zone-name "$zone" --record-set-name "$record" --ipv4-address "$address" --output none
fi
"""

_AZ_LINK = """
if ! az network private-dns link vnet show --subscription "$subscription" --resource-group "$zone_group" \\
    --zone-name "$zone" --name {link} --output none 2> /dev/null; then
    echo {saying}
    az network private-dns link vnet create --subscription "$subscription" --resource-group "$zone_group" \\
        --zone-name "$zone" --name {link} --virtual-network {network} --registration-enabled false \\
        --tags {owner} --output none
fi
"""


def az(spec: EndpointSpec) -> str:
    """A script for a POSIX shell."""
    endpoint = names.parse_id(spec.endpoint_id)
    values = {
        "subscription": endpoint.subscription,
        "group": endpoint.group,
        "name": endpoint.name,
        "endpoint": spec.endpoint_id,
        "location": spec.location,
        "subnet": spec.subnet_id,
        "alias": spec.alias,
        "message": spec.message,
        "zone_group": spec.zone_group,
        "zone": spec.zone_name,
        "record": spec.record_name,
    }
    owner = shlex.quote(f"{OWNER_TAG}={spec.cluster_id}")
    head = _AZ_HEAD.format(
        host=spec.host,
        values="\n".join(f"{name}={shlex.quote(value)}" for name, value in values.items()),
        options=_static_address(spec, endpoint.name),
        tags=" ".join(shlex.quote(f"{name}={value}") for name, value in spec.tags.items()),
        owner=owner,
        ttl=spec.ttl_seconds,
    )
    links = (
        _AZ_LINK.format(
            link=shlex.quote(names.link_name(network)),
            network=shlex.quote(network),
            saying=shlex.quote(f"linking network {names.parse_id(network).name}"),
            owner=owner,
        )
        for network in spec.networks
    )
    return head + "".join(links) + f'\necho "done: {spec.host} leads to $address"\n'


def _static_address(spec: EndpointSpec, name: str) -> str:
    if spec.address is None:
        return ""
    return f"        --ip-config {shlex.quote(f'name={name}-address')} private-ip-address={spec.address} \\\n"


# --- Terraform -----------------------------------------------------------------------------------------------------

_TERRAFORM_HEAD = """\
# A private endpoint for {host}, and the names that lead to it.
# Apply it, have the provider approve the connection, and apply it again with -var approved=true: networks are linked
# with the zone only then, because an endpoint that waits for approval answers nothing."""


def terraform(spec: EndpointSpec) -> str:
    """A root module for hashicorp/azurerm."""
    endpoint = names.parse_id(spec.endpoint_id)
    blocks = (
        _TERRAFORM_HEAD.format(host=spec.host),
        _block("terraform", _nested("required_providers", _map_line("azurerm", _AZURERM))),
        _block('provider "azurerm"', ["subscription_id = " + _text(endpoint.subscription), "features {}"]),
        _block(
            'variable "approved"',
            [
                "type = bool",
                "default = false",
                "description = " + _text("Whether the provider has approved the connection."),
            ],
        ),
        _block('resource "azurerm_private_endpoint" "isthmus"', _endpoint_lines(spec, endpoint)),
        _block(
            'resource "azurerm_private_dns_zone" "isthmus"',
            [
                "name = " + _text(spec.zone_name),
                "resource_group_name = " + _text(spec.zone_group),
                *_map_line("tags", {OWNER_TAG: spec.cluster_id}),
            ],
        ),
        _block(
            'resource "azurerm_private_dns_a_record" "isthmus"',
            [
                "name = " + _text(spec.record_name),
                "zone_name = azurerm_private_dns_zone.isthmus.name",
                "resource_group_name = azurerm_private_dns_zone.isthmus.resource_group_name",
                f"ttl = {spec.ttl_seconds}",
                "records = [azurerm_private_endpoint.isthmus.private_service_connection[0].private_ip_address]",
                *_map_line("tags", {OWNER_TAG: spec.cluster_id}),
            ],
        ),
        _block(
            'resource "azurerm_private_dns_zone_virtual_network_link" "isthmus"',
            [
                *_map_line(
                    "for_each",
                    {names.link_name(one): one for one in spec.networks},
                    before="{ for name, id in ",
                    after=" : name => id if var.approved }",
                ),
                "name = each.key",
                "resource_group_name = azurerm_private_dns_zone.isthmus.resource_group_name",
                "private_dns_zone_name = azurerm_private_dns_zone.isthmus.name",
                "virtual_network_id = each.value",
                "registration_enabled = false",
                *_map_line("tags", {OWNER_TAG: spec.cluster_id}),
                "depends_on = [azurerm_private_dns_a_record.isthmus]",
            ],
        ),
        _block(
            'output "address"',
            ["value = azurerm_private_endpoint.isthmus.private_service_connection[0].private_ip_address"],
        ),
    )
    return "\n\n".join(blocks) + "\n"


_AZURERM = {"source": "hashicorp/azurerm", "version": "~> 4.0"}


def _endpoint_lines(spec: EndpointSpec, endpoint: names.ResourceId) -> Iterator[str]:
    yield "name = " + _text(endpoint.name)
    yield "resource_group_name = " + _text(endpoint.group)
    yield "location = " + _text(spec.location)
    yield "subnet_id = " + _text(spec.subnet_id)
    yield from _map_line("tags", spec.tags)
    connection = [
        "name = " + _text(endpoint.name),
        "private_connection_resource_alias = " + _text(spec.alias),
        "is_manual_connection = true",
        # azurerm refuses an empty message.
        "request_message = " + _text(spec.message or f"for {spec.host}"),
    ]
    yield from _nested("private_service_connection", connection)
    if spec.address is not None:
        static = [
            "name = " + _text(f"{endpoint.name}-address"),
            "private_ip_address = " + _text(str(spec.address)),
        ]
        yield from _nested("ip_configuration", static)


def _block(head: str, lines: Iterable[str]) -> str:
    return "\n".join((f"{head} {{", *(f"  {line}" for line in lines), "}"))


def _nested(head: str, lines: Iterable[str]) -> Iterator[str]:
    yield f"{head} {{"
    yield from (f"  {line}" for line in lines)
    yield "}"


def _map_line(name: str, values: dict[str, str], before: str = "", after: str = "") -> Iterator[str]:
    yield f"{name} = {before}{{"
    yield from (f"  {_text(key)} = {_text(value)}" for key, value in values.items())
    yield f"}}{after}"


#: What means something in a quoted template of HCL: escapes of any other character are by its number.
_SPECIAL = re.compile(r'["\\\x00-\x1f\x7f]|[$%](?={)')


def _text(value: str) -> str:
    """A quoted template of HCL in which nothing is a template (HCL syntax, "Quoted Templates")."""
    escaped = _SPECIAL.sub(lambda found: f"\\u{ord(found[0]):04x}", value)
    return f'"{escaped}"'
