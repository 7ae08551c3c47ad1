"""Microsoft.Network without HTTP: kinds on a world in memory, and bodies that Azure takes."""

from typing import Any

from isthmus.lab import ids, network, private_dns
from isthmus.lab.documents import Document
from isthmus.lab.errors import ArmError
from isthmus.lab.ids import ResourceId
from isthmus.lab.kinds import Caller, Kind
from isthmus.lab.store import Draft, Store

PROVIDER = "11111111-1111-1111-1111-111111111111"
CUSTOMER = "22222222-2222-2222-2222-222222222222"
LOCATION = "westeurope"

Body = dict[str, Any]


class AzureNetwork:
    """One change that tests write to, by short paths: ``virtualNetworks/v/subnets/s`` in the group ``rg``."""

    def __init__(self, api_version: str = "2024-05-01") -> None:
        self.change: Draft = Store.in_memory().draft()
        self.caller = Caller(api_version)
        self.kinds: dict[str, Kind] = {kind.name.lower(): kind for kind in (*network.KINDS, *private_dns.KINDS)}

    def id(self, path: str, subscription: str = PROVIDER) -> ResourceId:
        return ids.parse(f"/subscriptions/{subscription}/resourceGroups/rg/providers/Microsoft.Network/{path}")

    def kind(self, where: ResourceId) -> Kind:
        return self.kinds[where.kind.lower()]

    def write(self, path: str, body: Body, subscription: str = PROVIDER, **query: str) -> Body:
        """PUT, and what is shown then."""
        where = self.id(path, subscription)
        caller = Caller(self.caller.api_version, query)
        self.kind(where).write(self.change, where, body, self.change.get(where), caller)
        return self.show(path, subscription)

    def show(self, path: str, subscription: str = PROVIDER) -> Body:
        document = self.document(path, subscription)
        return self.kind(document.id).show(self.change, document, self.caller)

    def document(self, path: str, subscription: str = PROVIDER) -> Document:
        document = self.change.get(self.id(path, subscription))
        assert document is not None, path
        return document

    def patch(self, path: str, body: Body, subscription: str = PROVIDER) -> Body:
        document = self.document(path, subscription)
        self.kind(document.id).patch(self.change, document, body, self.caller)
        return self.show(path, subscription)

    def remove(self, path: str, subscription: str = PROVIDER) -> None:
        document = self.document(path, subscription)
        self.kind(document.id).remove(self.change, document, self.caller)

    def refusal(self, path: str, body: Body, subscription: str = PROVIDER) -> ArmError:
        """The refusal of a PUT, which must leave no trace that matters: the change is thrown away in the engine."""
        where = self.id(path, subscription)
        draft = Draft(self.change)
        try:
            self.kind(where).write(draft, where, body, draft.get(where), self.caller)
        except ArmError as error:
            return error
        raise AssertionError(f"{path} was accepted")

    def removal_refusal(self, path: str, subscription: str = PROVIDER) -> ArmError:
        document = self.document(path, subscription)
        draft = Draft(self.change)
        try:
            self.kind(document.id).remove(draft, document, self.caller)
        except ArmError as error:
            return error
        raise AssertionError(f"{path} was removed")

    # -- what most tests begin with

    def network(self, name: str = "v", prefix: str = "10.0.0.0/16", subscription: str = PROVIDER, **more: Any) -> Body:
        """A network with a subnet ``s``: the first /24 of it, without policies for link services."""
        subnet = {
            "name": "s",
            "properties": {
                "addressPrefix": prefix.replace("/16", "/24"),
                "privateLinkServiceNetworkPolicies": "Disabled",
            },
        }
        properties = {"addressSpace": {"addressPrefixes": [prefix]}, "subnets": [subnet], **more}
        return self.write(f"virtualNetworks/{name}", {"location": LOCATION, "properties": properties}, subscription)

    def subnet_id(self, network: str = "v", subnet: str = "s", subscription: str = PROVIDER) -> str:
        return str(self.id(f"virtualNetworks/{network}/subnets/{subnet}", subscription))

    def interface(self, name: str = "nic", subscription: str = PROVIDER, **properties: Any) -> Body:
        said = {"subnet": {"id": self.subnet_id(subscription=subscription)}, **properties}
        body = {"location": LOCATION, "properties": {"ipConfigurations": [{"name": "ipconfig1", "properties": said}]}}
        return self.write(f"networkInterfaces/{name}", body, subscription)

    def balancer(self, name: str = "lb", **more: Any) -> Body:
        """A Standard one in the subnet, with a rule 80 → 8080 to the pool ``pool``."""
        here = f"{self.id(f'loadBalancers/{name}')}"
        properties = {
            "frontendIPConfigurations": [{"name": "fe", "properties": {"subnet": {"id": self.subnet_id()}}}],
            "backendAddressPools": [{"name": "pool"}],
            "probes": [{"name": "probe", "properties": {"protocol": "Tcp", "port": 8080}}],
            "loadBalancingRules": [
                {
                    "name": "rule",
                    "properties": {
                        "protocol": "Tcp",
                        "frontendPort": 80,
                        "backendPort": 8080,
                        "frontendIPConfiguration": {"id": f"{here}/frontendIPConfigurations/fe"},
                        "backendAddressPool": {"id": f"{here}/backendAddressPools/pool"},
                        "probe": {"id": f"{here}/probes/probe"},
                    },
                }
            ],
            **more,
        }
        body = {"location": LOCATION, "sku": {"name": "Standard"}, "properties": properties}
        return self.write(f"loadBalancers/{name}", body)

    def service_body(self, **more: Any) -> Body:
        frontend = self.id("loadBalancers/lb/frontendIPConfigurations/fe")
        properties = {
            "loadBalancerFrontendIpConfigurations": [{"id": str(frontend)}],
            "ipConfigurations": [{"name": "nat", "properties": {"subnet": {"id": self.subnet_id()}}}],
            "visibility": {"subscriptions": ["*"]},
            **more,
        }
        return {"location": LOCATION, "properties": properties}

    def service(self, name: str = "svc", **more: Any) -> Body:
        """A link service in front of ``lb``, visible to all; the network and the load balancer come with it."""
        if self.change.get(self.id("virtualNetworks/v")) is None:
            self.network()
            self.balancer()
        return self.write(f"privateLinkServices/{name}", self.service_body(**more))

    def endpoint_body(self, service: str, *, manual: bool = True, request: Body | None = None, **more: Any) -> Body:
        said = {"name": "c", "properties": {"privateLinkServiceId": service, **(request or {})}}
        member = "manualPrivateLinkServiceConnections" if manual else "privateLinkServiceConnections"
        properties = {"subnet": {"id": self.subnet_id(subscription=CUSTOMER)}, member: [said], **more}
        return {"location": LOCATION, "properties": properties}

    def endpoint(self, service: str, name: str = "pe", **more: Any) -> Body:
        """A customer's endpoint; its network comes with it."""
        if self.change.get(self.id("virtualNetworks/v", CUSTOMER)) is None:
            self.network(subscription=CUSTOMER)
        return self.write(f"privateEndpoints/{name}", self.endpoint_body(service, **more), CUSTOMER)

    def decide(self, status: str, service: str = "svc", description: str = "decided") -> Body:
        """Approve or reject the first connection of a service."""
        connection = self.show(f"privateLinkServices/{service}")["properties"]["privateEndpointConnections"][0]["name"]
        state = {"status": status, "description": description}
        return self.write(
            f"privateLinkServices/{service}/privateEndpointConnections/{connection}",
            {"properties": {"privateLinkServiceConnectionState": state}},
        )


def state_of(endpoint: Body) -> Body:
    """The state that an endpoint shows of its connection."""
    properties = endpoint["properties"]
    [one] = [*properties["privateLinkServiceConnections"], *properties["manualPrivateLinkServiceConnections"]]
    state: Body = one["properties"]["privateLinkServiceConnectionState"]
    return state
