"""Two subscriptions for private links: a provider's load balancer, a customer's networks. On a lab, over its API.

``Scene`` works on any client of a resource manager; ``on_fake_lab`` makes one in this process, without packets.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from azure.core.credentials import AccessToken
from tests.fakes.lab import FakeLab

from isthmus.lab import network, private_dns
from isthmus.link import names
from isthmus.link.endpoints import EndpointSpec
from isthmus.link.services import ServiceSpec

HERE = "westeurope"
HOST = names.parse_host("clabcdefgh2.external.example.com")
SIBLING = names.parse_host("clzyxwvuts3.external.example.com")

Json = dict[str, Any]


@dataclass
class Scene:
    """What is there before anybody publishes or joins."""

    http: httpx.Client
    provider: str
    customer: str
    #: Of the load balancer's rule: where it listens, and where its servers do.
    ports: tuple[int, int] = (80, 80)

    def path(self, subscription: str, rest: str, group: str = "rg") -> str:
        return f"/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Network/{rest}"

    @property
    def service_id(self) -> str:
        return self.path(self.provider, "privateLinkServices/ingress")

    @property
    def endpoint_id(self) -> str:
        return self.path(self.customer, "privateEndpoints/isthmus-privatelink")

    def network_id(self, name: str = "net") -> str:
        return self.path(self.customer, f"virtualNetworks/{name}")

    def subnet_id(self, name: str = "net", subnet: str = "agents") -> str:
        return f"{self.network_id(name)}/subnets/{subnet}"

    def service_spec(self, **more: Any) -> ServiceSpec:
        asked: Json = {
            "service_id": self.service_id,
            "cluster_id": HOST.cluster_id,
            "location": HERE,
            "frontend_id": self.path(self.provider, "loadBalancers/front/frontendIPConfigurations/front"),
            "nat_subnet_id": self.path(self.provider, "virtualNetworks/plane/subnets/nat"),
            **more,
        }
        return ServiceSpec(**asked)

    def endpoint_spec(self, alias: str, **more: Any) -> EndpointSpec:
        asked: Json = {
            "endpoint_id": self.endpoint_id,
            "alias": alias,
            "location": HERE,
            "subnet_id": self.subnet_id(),
            "host": HOST,
            "networks": (self.network_id(),),
            "zone_group": "rg",
            "message": "let us in",
            **more,
        }
        return EndpointSpec(**asked)

    # --- calls, for what only tests do

    def call(self, method: str, path: str, body: Any = None) -> httpx.Response:
        version = "2024-06-01" if "/privateDnsZones" in path else "2024-05-01"
        if path.count("/") == 4:
            version = "2024-11-01"
        return self.http.request(method, path, params={"api-version": version}, json=body)

    def put(self, path: str, body: Any) -> Json:
        """Write, wait, and look."""
        answer = self.call("PUT", path, body)
        assert answer.is_success, answer.text
        self.follow(answer)
        return self.get(path)

    def get(self, path: str) -> Json:
        answer = self.call("GET", path)
        assert answer.is_success, answer.text
        found: Json = answer.json()
        return found

    def delete(self, path: str) -> None:
        answer = self.call("DELETE", path)
        assert answer.is_success, answer.text
        self.follow(answer)

    def follow(self, answer: httpx.Response) -> None:
        where = answer.headers.get("azure-asyncoperation")
        deadline = time.monotonic() + 30
        while where is not None and time.monotonic() < deadline:
            status = self.http.get(where).json()
            assert status["status"] != "Failed", status
            if status["status"] == "Succeeded":
                return
            time.sleep(0.01)
        assert where is None, "it does not end"

    def exists(self, path: str) -> bool:
        return self.call("GET", path).is_success

    # --- setting up

    def build(self) -> "Scene":
        for subscription in (self.provider, self.customer):
            self.put(f"/subscriptions/{subscription}/resourceGroups/rg", {"location": HERE})
        self.put(self.path(self.provider, "virtualNetworks/plane"), _network("10.1", "services", "nat"))
        self.put(self.path(self.provider, "loadBalancers/front"), self._balancer())
        self.put(self.network_id(), _network("10.1", "agents", "tiny"))
        return self

    def _balancer(self) -> Json:
        subnet = self.path(self.provider, "virtualNetworks/plane/subnets/services")
        here = self.path(self.provider, "loadBalancers/front")
        rule = {
            "protocol": "Tcp",
            "frontendPort": self.ports[0],
            "backendPort": self.ports[1],
            "frontendIPConfiguration": {"id": f"{here}/frontendIPConfigurations/front"},
            "backendAddressPool": {"id": f"{here}/backendAddressPools/servers"},
        }
        address = {"privateIPAddress": "10.1.0.10", "privateIPAllocationMethod": "Static", "subnet": {"id": subnet}}
        return {
            "location": HERE,
            "sku": {"name": "Standard"},
            "properties": {
                "frontendIPConfigurations": [{"name": "front", "properties": address}],
                "backendAddressPools": [{"name": "servers"}],
                "loadBalancingRules": [{"name": "http", "properties": rule}],
            },
        }

    def add_server(self, address: str, *balancers: str) -> None:
        """A server's address in the provider's network, behind load balancers (``front`` is the link's)."""
        pools = [self.path(self.provider, f"loadBalancers/{one}/backendAddressPools/servers") for one in balancers]
        properties = {
            "privateIPAddress": address,
            "privateIPAllocationMethod": "Static",
            "subnet": {"id": self.path(self.provider, "virtualNetworks/plane/subnets/services")},
            "loadBalancerBackendAddressPools": [{"id": pool} for pool in pools],
        }
        body = {"location": HERE, "properties": {"ipConfigurations": [{"name": "one", "properties": properties}]}}
        self.put(self.path(self.provider, "networkInterfaces/server"), body)

    def publish(self, **more: Any) -> str:
        """A link service without Isthmus; its alias."""
        subnet = self.path(self.provider, "virtualNetworks/plane/subnets/nat")
        found = self.get(subnet)
        self.put(
            subnet,
            {**found, "properties": {**found["properties"], "privateLinkServiceNetworkPolicies": "Disabled"}},
        )
        frontend = self.path(self.provider, "loadBalancers/front/frontendIPConfigurations/front")
        properties = {
            "loadBalancerFrontendIpConfigurations": [{"id": frontend}],
            "ipConfigurations": [{"name": "nat", "properties": {"subnet": {"id": subnet}}}],
            "visibility": {"subscriptions": ["*"]},
            **more,
        }
        made = self.put(self.service_id, {"location": HERE, "properties": properties})
        return str(made["properties"]["alias"])

    def decide(self, status: str, why: str = "because", endpoint: str = "isthmus-privatelink") -> None:
        """Approve or reject an endpoint's connection, as a provider without Isthmus would."""
        [name] = [
            one["name"]
            for one in self.get(self.service_id)["properties"]["privateEndpointConnections"]
            if one["properties"]["privateEndpoint"]["id"].endswith(f"/{endpoint}")
        ]
        state = {"status": status, "description": why}
        path = f"{self.service_id}/privateEndpointConnections/{name}"
        self.put(path, {"properties": {"privateLinkServiceConnectionState": state}})

    def cut(self) -> None:
        """Remove all connections."""
        for one in self.get(self.service_id)["properties"]["privateEndpointConnections"]:
            self.delete(f"{self.service_id}/privateEndpointConnections/{one['name']}")

    # --- looking

    def zone_path(self, zone: str = str(HOST), group: str = "rg") -> str:
        return self.path(self.customer, f"privateDnsZones/{zone}", group)

    def record(self, zone: str = str(HOST), name: str = "@") -> list[str]:
        found = self.call("GET", f"{self.zone_path(zone)}/A/{name}")
        return [one["ipv4Address"] for one in found.json()["properties"]["aRecords"]] if found.is_success else []

    def linked(self, zone: str = str(HOST)) -> set[str]:
        """Names of the networks that are linked with a zone."""
        found = self.call("GET", f"{self.zone_path(zone)}/virtualNetworkLinks")
        if not found.is_success:
            return set()
        ids = [one["properties"]["virtualNetwork"]["id"] for one in found.json()["value"]]
        return {one.rpartition("/")[2] for one in ids}


def _network(prefix: str, *subnets: str) -> Json:
    listed = []
    for index, name in enumerate(subnets):
        size = 29 if name == "tiny" else 24
        listed.append({"name": name, "properties": {"addressPrefix": f"{prefix}.{index}.0/{size}"}})
    space = {"addressPrefixes": [f"{prefix}.0.0/16"]}
    return {"location": HERE, "properties": {"addressSpace": space, "subnets": listed}}


def network_body(prefix: str, *subnets: str) -> Json:
    """A virtual network in a /16."""
    return _network(prefix, *subnets)


class LabCredential:
    """A credential of the asynchronous SDK, from a lab in this process."""

    def __init__(self, lab: FakeLab) -> None:
        self._lab = lab

    async def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        return self._lab.get_token(self._lab.url)  # also for a proxy in front of it

    async def close(self) -> None:
        return None

    async def __aenter__(self) -> "LabCredential":
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


@contextmanager
def on_fake_lab(folder: Path, **more: Any) -> Iterator[tuple[FakeLab, Scene]]:
    """A lab with the scene on it."""
    kinds = (*network.KINDS, *private_dns.KINDS)
    virtuals = [*network.VIRTUALS, *private_dns.VIRTUALS]
    with FakeLab(folder, kinds, virtuals=virtuals, actions=network.ACTIONS, **more) as lab, lab.http() as http:
        yield lab, Scene(http, lab.provider, lab.customer).build()
