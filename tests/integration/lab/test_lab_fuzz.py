"""Anything at all is answered, quickly, and never with 500: random methods, paths, queries, headers and bodies."""

import contextlib
import copy
import json
import re
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fakes.lab import FakeLab

from isthmus.lab import network, private_dns

METHODS = ("GET", "HEAD", "PUT", "PATCH", "POST", "DELETE", "OPTIONS", "TRACE", "BREW")
VERSIONS = ("2024-05-01", "2024-05-01", "2024-05-01", "2018-09-01", "1999-01-01", "nonsense", "")

WORDS = (
    "subscriptions",
    "SUBSCRIPTION",
    "resourceGroups",
    "one",
    "two",
    "providers",
    "Microsoft.Network",
    "Microsoft.Resources",
    "Microsoft.Authorization",
    "virtualNetworks",
    "subnets",
    "privateDnsZones",
    "a.example",
    "A",
    "ALL",
    "virtualNetworkLinks",
    "privateEndpoints",
    "privateLinkServices",
    "loadBalancers",
    "networkInterfaces",
    "publicIPAddresses",
    "deployments",
    "validate",
    "operations",
    "operationResults",
    "locations",
    "westeurope",
    "tags",
    "default",
    "tagNames",
    "tagValues",
    "resources",
    "register",
    "tenants",
    "metadata",
    "endpoints",
    "oauth2",
    "v2.0",
    "token",
    "exportTemplate",
)

#: Values that stand where others are expected.
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=12),
    st.sampled_from(
        (
            "westeurope",
            "global",
            "10.0.0.0/16",
            "10.0.0.0/24",
            "10.0.0.4",
            "Static",
            "*",
            "[concat('a')]",
            "[x",
            "Succeeded",
        )
    ),
)
MEMBERS = st.sampled_from(
    (
        "location",
        "tags",
        "properties",
        "name",
        "id",
        "sku",
        "etag",
        "addressSpace",
        "addressPrefixes",
        "addressPrefix",
        "subnets",
        "subnet",
        "ipConfigurations",
        "frontendIPConfigurations",
        "loadBalancerFrontendIpConfigurations",
        "privateLinkServiceConnections",
        "manualPrivateLinkServiceConnections",
        "privateLinkServiceConnectionState",
        "privateLinkServiceId",
        "visibility",
        "autoApproval",
        "subscriptions",
        "ttl",
        "aRecords",
        "ipv4Address",
        "virtualNetwork",
        "registrationEnabled",
        "template",
        "parameters",
        "resources",
        "outputs",
        "variables",
        "type",
        "apiVersion",
        "mode",
        "value",
        "dependsOn",
        "operation",
    )
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(MEMBERS | st.text(max_size=5), inner, max_size=6),
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeLab]:
    """One lab for all of it: what earlier calls made is there for later ones."""
    kinds, virtuals = (*network.KINDS, *private_dns.KINDS), (*network.VIRTUALS, *private_dns.VIRTUALS)
    folder: Path = tmp_path_factory.mktemp("fuzz")
    with FakeLab(folder, kinds, virtuals, network.ACTIONS) as lab, lab.http() as http:
        http.put(
            f"/subscriptions/{lab.provider}/resourceGroups/one?api-version=2024-05-01", json={"location": "westeurope"}
        )
        yield lab


@pytest.fixture(scope="module")
def http(lab: FakeLab) -> Iterator[httpx.Client]:
    with lab.http() as client:
        yield client


def check(answer: httpx.Response, began: float) -> None:
    assert answer.status_code < 500, (answer.request.method, str(answer.request.url), answer.text)
    assert time.monotonic() - began < 5
    if answer.content and answer.headers["content-type"].startswith("application/json"):
        body = answer.json()
        if answer.status_code >= 400 and "error_codes" not in body:
            refusal = body.get("error", body)
            assert set(refusal) >= {"code", "message"}
    assert answer.headers.get("expires", "-1") == "-1"


RELAXED = settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@RELAXED
@given(
    method=st.sampled_from(METHODS),
    words=st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=8)), max_size=12),
    version=st.sampled_from(VERSIONS),
    body=JSON,
    query=st.dictionaries(
        st.sampled_from(("$top", "$skiptoken", "$filter", "$expand")), st.text(max_size=20), max_size=2
    ),
)
def test_any_path(
    lab: FakeLab, http: httpx.Client, method: str, words: list[str], version: str, body: object, query: dict[str, str]
) -> None:
    path = "/" + "/".join(lab.provider if word == "SUBSCRIPTION" else quote(word, safe="") for word in words)
    began = time.monotonic()
    check(http.request(method, lab.url + path, params={"api-version": version, **query}, json=body), began)


def _id(path: str) -> dict[str, str]:
    return {"id": f"/subscriptions/SUBSCRIPTION/resourceGroups/one/providers/Microsoft.Network/{path}"}


#: What the lab takes, one of each kind, so that what is changed in it meets rules that look closely.
BODIES: dict[str, dict[str, Any]] = {
    "virtualNetworks/net": {
        "properties": {
            "addressSpace": {"addressPrefixes": ["10.0.0.0/16", "10.1.0.0/16"]},
            "dhcpOptions": {"dnsServers": ["10.0.0.4"]},
            "subnets": [{"name": "s", "properties": {"addressPrefix": "10.0.0.0/24"}}],
        }
    },
    "virtualNetworks/other": {"properties": {"addressSpace": {"addressPrefixes": ["10.2.0.0/16"]}}},
    "virtualNetworks/net/subnets/s": {
        "properties": {"addressPrefix": "10.0.0.0/24", "privateLinkServiceNetworkPolicies": "Disabled"}
    },
    "virtualNetworks/net/subnets/t": {
        "properties": {"addressPrefixes": ["10.0.1.0/24"], "delegations": [], "serviceEndpoints": []}
    },
    "virtualNetworks/net/virtualNetworkPeerings/p": {
        "properties": {"remoteVirtualNetwork": _id("virtualNetworks/other"), "allowVirtualNetworkAccess": True}
    },
    "publicIPAddresses/ip": {
        "sku": {"name": "Standard"},
        "zones": ["1"],
        "properties": {"publicIPAllocationMethod": "Static", "dnsSettings": {"domainNameLabel": "label"}},
    },
    "networkInterfaces/nic": {
        "properties": {
            "dnsSettings": {"dnsServers": []},
            "ipConfigurations": [
                {
                    "name": "c",
                    "properties": {
                        "subnet": _id("virtualNetworks/net/subnets/s"),
                        "privateIPAllocationMethod": "Static",
                        "privateIPAddress": "10.0.0.9",
                        "publicIPAddress": _id("publicIPAddresses/ip"),
                    },
                }
            ],
        }
    },
    "loadBalancers/lb": {
        "sku": {"name": "Standard"},
        "properties": {
            "frontendIPConfigurations": [
                {"name": "f", "properties": {"subnet": _id("virtualNetworks/net/subnets/s")}},
            ],
            "backendAddressPools": [{"name": "b"}],
            "probes": [{"name": "p", "properties": {"protocol": "Tcp", "port": 80, "intervalInSeconds": 5}}],
            "loadBalancingRules": [
                {
                    "name": "r",
                    "properties": {
                        "frontendIPConfiguration": _id("loadBalancers/lb/frontendIPConfigurations/f"),
                        "backendAddressPool": _id("loadBalancers/lb/backendAddressPools/b"),
                        "probe": _id("loadBalancers/lb/probes/p"),
                        "protocol": "Tcp",
                        "frontendPort": 80,
                        "backendPort": 8080,
                    },
                }
            ],
        },
    },
    "privateLinkServices/pls": {
        "properties": {
            "loadBalancerFrontendIpConfigurations": [_id("loadBalancers/lb/frontendIPConfigurations/f")],
            "ipConfigurations": [
                {"name": "n", "properties": {"subnet": _id("virtualNetworks/net/subnets/s"), "primary": True}}
            ],
            "visibility": {"subscriptions": ["*"]},
            "autoApproval": {"subscriptions": []},
            "fqdns": ["a.example"],
            "enableProxyProtocol": True,
        }
    },
    "privateDnsZones/a.example": {"location": "global"},
    "privateEndpoints/pe": {
        "properties": {
            "subnet": _id("virtualNetworks/net/subnets/s"),
            "manualPrivateLinkServiceConnections": [
                {
                    "name": "c",
                    "properties": {
                        "privateLinkServiceId": _id("privateLinkServices/pls")["id"],
                        "groupIds": [],
                        "requestMessage": "please",
                    },
                }
            ],
            "ipConfigurations": [{"name": "i", "properties": {"privateIPAddress": "10.0.0.40"}}],
            "customNetworkInterfaceName": "penic",
        }
    },
    "privateEndpoints/pe/privateDnsZoneGroups/g": {
        "properties": {
            "privateDnsZoneConfigs": [
                {"name": "z", "properties": {"privateDnsZoneId": _id("privateDnsZones/a.example")["id"]}}
            ]
        }
    },
    "networkSecurityGroups/nsg": {
        "properties": {
            "securityRules": [
                {
                    "name": "r",
                    "properties": {
                        "protocol": "*",
                        "sourceAddressPrefix": "*",
                        "destinationAddressPrefix": "10.0.0.0/8",
                        "sourcePortRange": "*",
                        "destinationPortRange": "80-90",
                        "access": "Allow",
                        "priority": 100,
                        "direction": "Inbound",
                    },
                }
            ]
        }
    },
    "privateDnsZones/a.example/virtualNetworkLinks/l": {
        "location": "global",
        "properties": {
            "virtualNetwork": _id("virtualNetworks/net"),
            "registrationEnabled": True,
            "resolutionPolicy": "Default",
        },
    },
    "privateDnsZones/a.example/A/www": {"properties": {"ttl": 60, "aRecords": [{"ipv4Address": "10.0.0.4"}]}},
    "privateDnsZones/a.example/MX/@": {
        "properties": {"ttl": 60, "mxRecords": [{"preference": 1, "exchange": "m.example"}]}
    },
    "privateDnsZones/a.example/SRV/s": {
        "properties": {"ttl": 60, "srvRecords": [{"priority": 1, "weight": 1, "port": 1, "target": "t.example"}]}
    },
    "privateDnsZones/a.example/TXT/t": {"properties": {"metadata": {"a": "b"}, "txtRecords": [{"value": ["x", "y"]}]}},
    "privateDnsZones/a.example/CNAME/c": {"properties": {"ttl": 60, "cnameRecord": {"cname": "a.example"}}},
    "privateDnsZones/a.example/SOA/@": {"properties": {"soaRecord": {"email": "x.example", "minimumTtl": 10}}},
}


def places(value: Any, here: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The ways to all values in a body."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*here, key)
        yield from places(inner, (*here, key))


def changed(body: dict[str, Any], place: tuple[str | int, ...], value: object) -> dict[str, Any]:
    found: Any = copy.deepcopy(body)
    holder = found
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    return found


def resolved(body: object, subscription: str) -> Any:
    return json.loads(json.dumps(body).replace("SUBSCRIPTION", subscription))


def test_the_bodies_that_are_changed_are_taken(lab: FakeLab, http: httpx.Client) -> None:
    for path, body in BODIES.items():
        answer = http.put(
            f"/subscriptions/{lab.provider}/resourceGroups/one/providers/Microsoft.Network/{path}?api-version=2024-05-01",
            json=resolved({"location": "westeurope", **body}, lab.provider),
        )
        assert answer.status_code < 300, (path, answer.text)
        if "azure-asyncoperation" in answer.headers:
            assert http.get(answer.headers["azure-asyncoperation"]).json() == {"status": "Succeeded"}


@RELAXED
@given(
    method=st.sampled_from(("PUT",) * 8 + ("PATCH", "DELETE", "GET")),
    place=st.sampled_from([(path, place) for path, body in BODIES.items() for place in places(body)]),
    value=JSON,
    query=st.sampled_from(("", "&$expand=subnets/ipConfigurations", "&$expand=x")),
)
def test_any_change_of_a_body(
    lab: FakeLab,
    http: httpx.Client,
    method: str,
    place: tuple[str, tuple[str | int, ...]],
    value: object,
    query: str,
) -> None:
    path, way = place
    body = resolved(changed({"location": "westeurope", **BODIES[path]}, way, value), lab.provider)
    url = f"/subscriptions/{lab.provider}/resourceGroups/one/providers/Microsoft.Network/{path}"
    began = time.monotonic()
    check(http.request(method, f"{url}?api-version=2024-05-01{query}", json=body), began)
    shown = http.get(f"{url}?api-version=2024-05-01{query}")
    assert shown.status_code in (200, 400, 404), shown.text
    listed = http.get(f"{url.rpartition('/')[0]}?api-version=2024-05-01")
    assert listed.status_code in (200, 404), listed.text


@RELAXED
@given(template=JSON, parameters=JSON)
def test_any_template(lab: FakeLab, http: httpx.Client, template: object, parameters: object) -> None:
    path = f"/subscriptions/{lab.provider}/resourceGroups/one/providers/Microsoft.Resources/deployments/d"
    body = {"properties": {"mode": "Incremental", "template": template, "parameters": parameters}}
    began = time.monotonic()
    check(http.put(f"{path}?api-version=2024-03-01", json=body), began)


@RELAXED
@given(body=st.binary(max_size=60), media=st.sampled_from(("application/json", "text/plain", "x", "")))
def test_any_bytes(lab: FakeLab, http: httpx.Client, body: bytes, media: str) -> None:
    path = f"/subscriptions/{lab.provider}/resourceGroups/one?api-version=2024-03-01"
    began = time.monotonic()
    check(http.patch(path, content=body, headers={"content-type": media}), began)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: \x00\r\n\r\n",
        b"GET /%00%ff%2e%2e/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://elsewhere.example/subscriptions?api-version=2022-12-01 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET //subscriptions//?api-version=2022-12-01&api-version=x HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET /" + b"a/" * 4000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x00\x00 nonsense\r\n\r\n",
        b"GET /subscriptions?" + b"&" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + b"a." * 3000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\nx-ms-client-request-id: \xe9\r\n\r\n",
    ],
)
def test_any_request(lab: FakeLab, request_bytes: bytes) -> None:
    host, _, port = lab.url.removeprefix("https://").partition(":")
    with (
        socket.create_connection((host, int(port)), timeout=5) as plain,
        lab.tls().wrap_socket(plain, server_hostname=host) as secure,
    ):
        secure.sendall(request_bytes)
        answer = b""
        with contextlib.suppress(TimeoutError, ssl.SSLError):
            while b"\r\n\r\n" not in answer and (piece := secure.recv(65536)):
                answer += piece
    assert re.match(rb"HTTP/1\.[01] 4", answer), answer[:200]
