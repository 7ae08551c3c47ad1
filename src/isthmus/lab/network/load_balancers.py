"""Load balancers: ``Microsoft.Network/loadBalancers`` with their parts.

Frontends, rules, probes and outbound rules stand in the load balancer's document and are written with it. Backend
pools and inbound NAT rules can be written by themselves as well, so they are documents of their own; as with a
virtual network and its subnets, the load balancer gets a new etag with each of their changes. Which interfaces are in
a pool is said by the interfaces.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from isthmus.lab import errors, ids
from isthmus.lab.documents import Change, Document, World
from isthmus.lab.ids import Key, ResourceId
from isthmus.lab.kinds import Caller, Json, Style
from isthmus.lab.network import addresses, public_addresses, refusals, shapes, showing, subnets, tagging
from isthmus.lab.network import network_interfaces as interfaces
from isthmus.lab.network.refusals import refused

KIND: Final = addresses.BALANCERS
POOL_KIND: Final = f"{KIND}/backendAddressPools"
NAT_RULE_KIND: Final = f"{KIND}/inboundNatRules"
SERVICE_KIND: Final = "Microsoft.Network/privateLinkServices"

_REFERENCES: Final = shapes.Many(shapes.Reference())
_TRANSPORT: Final = shapes.Choice("Udp", "Tcp", "All")

_FRONTEND: Final = shapes.part(
    {
        "privateIPAddress": shapes.Text(),
        "privateIPAllocationMethod": shapes.Choice("Static", "Dynamic"),
        "privateIPAddressVersion": shapes.Choice("IPv4", "IPv6"),
        "subnet": shapes.Reference("virtualNetworks/subnets"),
        "publicIPAddress": shapes.Reference("publicIPAddresses"),
        "publicIPPrefix": shapes.Reference("publicIPPrefixes"),
        "gatewayLoadBalancer": shapes.Reference(),
        "inboundNatRules": shapes.Derived(),
        "inboundNatPools": shapes.Derived(),
        "outboundRules": shapes.Derived(),
        "loadBalancingRules": shapes.Derived(),
    },
    zones=shapes.Many(shapes.Text()),
)
_ADDRESS: Final = shapes.part(
    {
        "ipAddress": shapes.Text(),
        "virtualNetwork": shapes.Reference("virtualNetworks"),
        "subnet": shapes.Reference("virtualNetworks/subnets"),
        "adminState": shapes.Choice("None", "Up", "Down"),
        "loadBalancerFrontendIPConfiguration": shapes.Reference(),
        "networkInterfaceIPConfiguration": shapes.Reference(),
        "inboundNatRulesPortMapping": shapes.Derived(),
    }
)
_POOL: Final = shapes.part(
    {
        "location": shapes.Text(),
        "loadBalancerBackendAddresses": shapes.Many(_ADDRESS),
        "virtualNetwork": shapes.Reference("virtualNetworks"),
        "drainPeriodInSeconds": shapes.Number(),
        "syncMode": shapes.Choice("Automatic", "Manual"),
        "tunnelInterfaces": shapes.Many(shapes.Anything()),
        "backendIPConfigurations": shapes.Derived(),
        "loadBalancingRules": shapes.Derived(),
        "outboundRule": shapes.Derived(),
        "outboundRules": shapes.Derived(),
        "inboundNatRules": shapes.Derived(),
    }
)
_RULE: Final = shapes.part(
    {
        "frontendIPConfiguration": shapes.Reference("loadBalancers/frontendIPConfigurations"),
        "backendAddressPool": shapes.Reference("loadBalancers/backendAddressPools"),
        "backendAddressPools": shapes.Many(shapes.Reference("loadBalancers/backendAddressPools")),
        "probe": shapes.Reference("loadBalancers/probes"),
        "protocol": _TRANSPORT,
        "loadDistribution": shapes.Choice("Default", "SourceIP", "SourceIPProtocol"),
        "frontendPort": shapes.Number(),
        "backendPort": shapes.Number(),
        "idleTimeoutInMinutes": shapes.Number(),
        "enableFloatingIP": shapes.Flag(),
        "enableTcpReset": shapes.Flag(),
        "disableOutboundSnat": shapes.Flag(),
        "enableConnectionTracking": shapes.Flag(),
        "allowBackendPortConflict": shapes.Flag(),
        "enableDestinationServiceEndpoint": shapes.Flag(),
    }
)
_PROBE: Final = shapes.part(
    {
        "protocol": shapes.Choice("Http", "Tcp", "Https"),
        "port": shapes.Number(),
        "intervalInSeconds": shapes.Number(),
        "numberOfProbes": shapes.Number(),
        "probeThreshold": shapes.Number(),
        "requestPath": shapes.Text(),
        "noHealthyBackendsBehavior": shapes.Choice("AllProbedDown", "AllProbedUp"),
        "loadBalancingRules": shapes.Derived(),
    }
)
_NAT_RULE: Final = shapes.part(
    {
        "frontendIPConfiguration": shapes.Reference("loadBalancers/frontendIPConfigurations"),
        "backendAddressPool": shapes.Reference("loadBalancers/backendAddressPools"),
        "protocol": _TRANSPORT,
        "frontendPort": shapes.Number(),
        "backendPort": shapes.Number(),
        "frontendPortRangeStart": shapes.Number(),
        "frontendPortRangeEnd": shapes.Number(),
        "idleTimeoutInMinutes": shapes.Number(),
        "enableFloatingIP": shapes.Flag(),
        "enableTcpReset": shapes.Flag(),
        "enableDestinationServiceEndpoint": shapes.Flag(),
        "allowBackendPortConflict": shapes.Flag(),
        "backendIPConfiguration": shapes.Derived(),
    }
)
_OUTBOUND_RULE: Final = shapes.part(
    {
        "allocatedOutboundPorts": shapes.Number(),
        "frontendIPConfigurations": shapes.Many(shapes.Reference("loadBalancers/frontendIPConfigurations")),
        "backendAddressPool": shapes.Reference("loadBalancers/backendAddressPools"),
        "protocol": _TRANSPORT,
        "enableTcpReset": shapes.Flag(),
        "idleTimeoutInMinutes": shapes.Number(),
    }
)

_SHAPE: Final = shapes.resource(
    {
        "frontendIPConfigurations": shapes.Many(_FRONTEND),
        "backendAddressPools": shapes.Many(_POOL),
        "loadBalancingRules": shapes.Many(_RULE),
        "probes": shapes.Many(_PROBE),
        "inboundNatRules": shapes.Many(_NAT_RULE),
        "inboundNatPools": shapes.Many(shapes.Anything()),
        "outboundRules": shapes.Many(_OUTBOUND_RULE),
        "scope": shapes.Choice("Public", "Private"),
        "mode": shapes.Text(),
    },
    sku=shapes.Record(
        {"name": shapes.Choice("Basic", "Standard", "Gateway"), "tier": shapes.Choice("Regional", "Global")}
    ),
)

#: The parts that stand in the load balancer's document, with Azure's defaults.
_PARTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "frontendIPConfigurations": {"privateIPAllocationMethod": "Dynamic"},
    "loadBalancingRules": {
        "loadDistribution": "Default",
        "idleTimeoutInMinutes": 4,
        "enableFloatingIP": False,
        "enableTcpReset": False,
        "enableDestinationServiceEndpoint": False,
        "allowBackendPortConflict": False,
        "backendPort": 0,
    },
    "probes": {"intervalInSeconds": 15, "numberOfProbes": 2, "probeThreshold": 1},
    "outboundRules": {"allocatedOutboundPorts": 0, "enableTcpReset": False, "idleTimeoutInMinutes": 4},
}
_NAT_DEFAULTS: Final[Mapping[str, Any]] = {
    "protocol": "Tcp",
    "idleTimeoutInMinutes": 4,
    "enableFloatingIP": False,
    "enableTcpReset": False,
    "enableDestinationServiceEndpoint": False,
    "allowBackendPortConflict": False,
}

_PORTS: Final = range(1, 65535)


def parts_of(balancer: Document, member: str) -> list[Json]:
    """``frontendIPConfigurations`` and the like."""
    return list(balancer.properties.get(member) or ())


def children_of(world: World, balancer: ResourceId, kind: str) -> list[Document]:
    """The pools or the inbound NAT rules of a load balancer, in the order of creation."""
    found = world.all(kind, subscription=balancer.subscription, group=balancer.group)
    return [one for one in found if one.id.outer.key == balancer.key]


@dataclass(frozen=True, slots=True)
class FrontendOf:
    """A frontend and where it stands."""

    balancer: Document
    frontend: Json

    @property
    def properties(self) -> Json:
        """The frontend's."""
        found: Json = self.frontend["properties"]
        return found


def frontend(world: World, id: ResourceId | str) -> FrontendOf | None:
    """The frontend with that id; None if there is none."""
    try:
        parsed = id if isinstance(id, ResourceId) else ids.parse(id)
    except errors.ArmError:
        return None
    balancer = world.get(parsed.parent) if parsed.parent is not None else None
    if balancer is None or balancer.kind != KIND:
        return None
    for one in parts_of(balancer, "frontendIPConfigurations"):
        if one["name"].lower() == parsed.name.lower():
            return FrontendOf(balancer, one)
    return None


def services_of(world: World, balancer: Document) -> list[Document]:
    """The link services in front of which a load balancer stands."""
    return [
        service
        for service in world.all(SERVICE_KIND)
        if any(
            _is_part(reference, balancer, "frontendIPConfigurations")
            for reference in service.properties.get("loadBalancerFrontendIpConfigurations") or ()
        )
    ]


def _is_part(reference: Json, balancer: Document, member: str) -> bool:
    return str(reference["id"]).lower().startswith(f"{balancer.key}/{member.lower()}/")


def members_of(world: World, pool: Document) -> list[ResourceId]:
    """The IP configurations of interfaces that are in a pool."""
    return _configurations_with(world, "loadBalancerBackendAddressPools", pool.key)


def _configurations_with(world: World, member: str, key: Key) -> list[ResourceId]:
    return [
        interface.id.child("ipConfigurations", one["name"])
        for interface in world.all(interfaces.KIND)
        for one in interface.properties["ipConfigurations"]
        if any(ids.key(reference["id"]) == key for reference in one["properties"].get(member) or ())
    ]


class LoadBalancers:
    """The kind of load balancers."""

    name = KIND
    style = Style.NETWORK
    is_tracked = True

    def write(self, change: Change, id: ResourceId, body: Json, before: Document | None, caller: Caller) -> Document:
        """PUT: a load balancer with all of its parts."""
        given = shapes.read(_SHAPE, body)
        given["location"] = refusals.location_of(given)
        old = before.body.get("sku") if before is not None else None
        sku = {"name": "Basic", "tier": "Regional", **(old or {}), **(given.get("sku") or {})}
        if old is not None:
            refusals.check_unlike(before, "Sku", old["name"], sku["name"], "SkuCannotBeChangedOnUpdate")
        properties = given["properties"]
        pools, nat_rules = properties.pop("backendAddressPools", []), properties.pop("inboundNatRules", [])
        properties.setdefault("inboundNatPools", [])
        for member, defaults in _PARTS.items():
            properties[member] = _complete(id, member, properties.get(member, []), defaults)
        given["sku"] = sku
        self._fill_frontends(change, id, given, before)
        _check_services(change, before, properties["frontendIPConfigurations"])
        document = change.put(id, KIND, given)
        _replace(change, document, POOL_KIND, pools, _put_pool)
        _replace(change, document, NAT_RULE_KIND, nat_rules, _put_nat_rule)
        _check_rules(change, document)
        return document

    def _fill_frontends(self, change: Change, id: ResourceId, given: Json, before: Document | None) -> None:
        """Check the frontends; give those in a subnet their addresses."""
        held = parts_of(before, "frontendIPConfigurations") if before is not None else []
        old = {one["name"].lower(): one["properties"] for one in held}
        allocation = addresses.Allocation(change, id)
        for one in addresses.by_claim(given["properties"]["frontendIPConfigurations"], old):
            said, holder = one["properties"], id.child("frontendIPConfigurations", one["name"])
            if "subnet" in said:
                subnet = subnets.referenced(change, said["subnet"], id, given["location"])
                allocation.fill(subnet, holder, said, old.get(holder.name.lower(), {}))
            elif "publicIPAddress" in said:
                said.pop("privateIPAddress", None)
                public = public_addresses.associated(change, said["publicIPAddress"], holder, given["location"])
                _check_sku(id, given["sku"], public)
            elif not said.get("publicIPPrefix"):
                raise refused(
                    "LoadBalancerFrontendIPConfigurationMustHaveSubnetOrPublicIP",
                    f"Frontend IP configuration {holder} must reference either a subnet or a public IP address.",
                )

    def patch(self, change: Change, document: Document, body: Json, caller: Caller) -> Document:
        """PATCH: tags."""
        return tagging.patch(change, document, body)

    def remove(self, change: Change, document: Document, caller: Caller) -> None:
        """DELETE: a load balancer that no link service needs, with its pools."""
        for service in services_of(change, document):
            raise refused(
                "CannotDeleteLoadBalancerWithPrivateLinkService",
                f"Cannot delete load balancer {document.id} since it is referenced by private link service "
                f"{service.id}. Please delete private link service prior to deleting load balancer.",
            )
        for kind in (POOL_KIND, NAT_RULE_KIND):
            for one in children_of(change, document.id, kind):
                change.remove(one.id)
        change.remove(document.id)

    def show(self, world: World, document: Document, caller: Caller) -> dict[str, Any]:
        """The load balancer with all of its parts."""
        document = showing.settled(document)
        properties = {
            **document.properties,
            **{member: shown_parts(world, document, member) for member in _PARTS},
            "backendAddressPools": [_shown_pool(world, one) for one in children_of(world, document.id, POOL_KIND)],
            "inboundNatRules": [_shown_nat_rule(world, one) for one in children_of(world, document.id, NAT_RULE_KIND)],
        }
        if document.body["sku"]["name"] == "Basic" and not properties["outboundRules"]:
            del properties["outboundRules"]
        return showing.resource(document, properties)


def _complete(id: ResourceId, member: str, given: Sequence[Json], defaults: Json) -> list[dict[str, Any]]:
    """Parts with their defaults; each has a name that no other has."""
    found = []
    for one in given:
        if not one.get("name"):
            raise shapes.missing("name", f"properties.{member}")
        found.append({**one, "properties": {**defaults, **one["properties"]}})
    refusals.check_parts(id, member, found)
    return found


def _check_sku(id: ResourceId, sku: Json, public: Document) -> None:
    theirs = str(public.body["sku"]["name"]).removesuffix("V2")
    if theirs != sku["name"]:
        raise refused(
            "PublicIPAndLBSkuDoNotMatch",
            f"{sku['name']} sku load balancer {id} cannot reference {theirs} sku publicIP {public.id}.",
        )


def _check_services(change: Change, before: Document | None, frontends: Sequence[Json]) -> None:
    """Refuse to take away a frontend that a link service needs."""
    if before is None:
        return
    left = {one["name"].lower() for one in frontends}
    for service in services_of(change, before):
        for reference in service.properties["loadBalancerFrontendIpConfigurations"]:
            name = str(reference["id"]).rpartition("/")[2].lower()
            if _is_part(reference, before, "frontendIPConfigurations") and name not in left:
                raise refused(
                    "CannotDeleteLoadBalancerFrontendIPConfigurationWithPrivateLinkService",
                    f"Cannot delete load balancer frontend IP configuration {reference['id']} since it is "
                    f"referenced by private link service {service.id}.",
                )


def _replace(
    change: Change,
    balancer: Document,
    kind: str,
    given: Sequence[Json],
    put: Callable[[Change, Document, ResourceId, Json], Document],
) -> None:
    """Make the pools or the inbound NAT rules those that are given."""
    member = kind.rpartition("/")[2]
    complete = _complete(balancer.id, member, given, {})
    wanted = {one["name"].lower() for one in complete}
    for child in children_of(change, balancer.id, kind):
        if child.id.name.lower() not in wanted:
            change.remove(child.id)
    for one in complete:
        put(change, balancer, balancer.id.child(member, one["name"]), one)


def _put_pool(change: Change, balancer: Document, id: ResourceId, given: Json) -> Document:
    refusals.check_name(id.name)
    properties = dict(given["properties"])
    said = [
        {**one, "name": one.get("name") or f"address{index}"}
        for index, one in enumerate(properties.get("loadBalancerBackendAddresses") or (), start=1)
        if "networkInterfaceIPConfiguration" not in one["properties"]
    ]
    for one in said:
        if "ipAddress" in one["properties"]:
            addresses.parse_address(one["properties"]["ipAddress"], id)
    networks = [one["properties"]["virtualNetwork"] for one in said if "virtualNetwork" in one["properties"]]
    for reference in [*networks, *([properties["virtualNetwork"]] if "virtualNetwork" in properties else [])]:
        refusals.referenced(change, reference, id, location=balancer.body["location"])
    properties["loadBalancerBackendAddresses"] = said
    return change.put(id, POOL_KIND, {"properties": properties})


def _put_nat_rule(change: Change, balancer: Document, id: ResourceId, given: Json) -> Document:
    refusals.check_name(id.name)
    properties = {**_NAT_DEFAULTS, **given["properties"]}
    _check_reference(change, balancer, properties.get("frontendIPConfiguration"), id)
    _check_reference(change, balancer, properties.get("backendAddressPool"), id)
    if "frontendIPConfiguration" not in properties:
        raise shapes.unreadable(
            "MissingJsonReferenceId", "Value for reference id is missing. Path properties.frontendIPConfiguration."
        )
    for member in ("frontendPort", "backendPort"):
        _check_port(id, member, properties.get(member, 1))
    return change.put(id, NAT_RULE_KIND, {"properties": properties})


def _check_rules(world: World, balancer: Document) -> None:
    used: set[tuple[str, str, int]] = set()
    for one in parts_of(balancer, "probes"):
        said, probe = one["properties"], balancer.id.child("probes", one["name"])
        for member in ("protocol", "port"):
            if member not in said:
                raise shapes.missing(member, "properties.probes.properties")
        _check_port(probe, "port", said["port"])
        if said["protocol"] != "Tcp" and not said.get("requestPath"):
            raise refused("ProbeRequestPathMissing", f"{said['protocol']} probe {probe} must have a request path.")
    for one in parts_of(balancer, "outboundRules"):
        rule = balancer.id.child("outboundRules", one["name"])
        for reference in one["properties"].get("frontendIPConfigurations", ()):
            _check_reference(world, balancer, reference, rule)
        _check_reference(world, balancer, one["properties"].get("backendAddressPool"), rule)
    for one in parts_of(balancer, "loadBalancingRules"):
        _check_rule(world, balancer, one, used)


def _check_rule(world: World, balancer: Document, one: Json, used: set[tuple[str, str, int]]) -> None:
    said, rule = one["properties"], balancer.id.child("loadBalancingRules", one["name"])
    for member in ("protocol", "frontendPort"):
        if member not in said:
            raise shapes.missing(member, "properties.loadBalancingRules.properties")
    if "frontendIPConfiguration" not in said:
        raise shapes.unreadable(
            "MissingJsonReferenceId",
            "Value for reference id is missing. Path properties.loadBalancingRules[0].properties."
            "frontendIPConfiguration.",
        )
    for member in ("frontendIPConfiguration", "backendAddressPool", "probe"):
        _check_reference(world, balancer, said.get(member), rule)
    for reference in said.get("backendAddressPools", ()):
        _check_reference(world, balancer, reference, rule)
    if said["protocol"] == "All":
        if said["frontendPort"] or said["backendPort"]:
            raise refused(
                "LoadBalancingRuleMustHavePortsZeroForProtocolAll",
                f"Load balancing rule {rule} with protocol All must have frontend port 0 and backend port 0.",
            )
    else:
        _check_port(rule, "frontendPort", said["frontendPort"])
        _check_port(rule, "backendPort", said["backendPort"])
    place = (ids.key(said["frontendIPConfiguration"]["id"]), said["protocol"], said["frontendPort"])
    if place in used:
        raise refused(
            "RulesUseSameFrontendPortProtocolAndIPConfig",
            f"Load balancing rule {rule} uses the same frontend port, protocol and frontend IP configuration "
            "as another rule of the load balancer.",
        )
    used.add(place)


def _check_port(id: ResourceId, member: str, port: int) -> None:
    if port not in _PORTS:
        raise refused(
            "LoadBalancerPortOutOfRange",
            f"{member} {port} of {id} is out of range. It has to be between {_PORTS.start} and {_PORTS.stop - 1}.",
        )


def _check_reference(world: World, balancer: Document, reference: Json | None, referrer: ResourceId) -> None:
    """Refuse a reference to a part that the load balancer does not have."""
    if reference is None:
        return
    named = ids.parse(reference["id"])
    member = next((one for one in _PARTS if one.lower() == named.types[-1].lower()), None)
    names = {one["name"].lower() for one in parts_of(balancer, member)} if member is not None else set()
    is_own = named.parent is not None and named.parent.key == balancer.key
    if not (is_own and (named.name.lower() in names or world.get(named) is not None)):
        raise refusals.not_found(str(reference["id"]), referrer)


def _rules_with(balancer: Document, member: str, named: str, key: Key) -> list[ResourceId]:
    """The parts ``member`` of a load balancer whose member ``named`` names ``key``."""
    found = []
    for one in parts_of(balancer, member):
        said = one["properties"].get(named)
        references = said if isinstance(said, list) else [said] if said else []
        if any(ids.key(reference["id"]) == key for reference in references):
            found.append(balancer.id.child(member, one["name"]))
    return found


def shown_parts(world: World, balancer: Document, member: str) -> list[dict[str, Any]]:
    """Parts that stand in the load balancer's document, with what names them."""
    return [_shown_part(world, balancer, member, one) for one in parts_of(balancer, member)]


def _shown_part(world: World, balancer: Document, member: str, one: Json) -> dict[str, Any]:
    whole = balancer.id.child(member, one["name"])
    said = dict(one["properties"])
    match member:
        case "frontendIPConfigurations":
            named = "frontendIPConfiguration"
            nat = [
                rule.id
                for rule in children_of(world, balancer.id, NAT_RULE_KIND)
                if refusals.key_of(rule.properties.get(named)) == whole.key
            ]
            said |= showing.if_any("inboundNatRules", nat)
            said |= showing.if_any("loadBalancingRules", _rules_with(balancer, "loadBalancingRules", named, whole.key))
            said |= showing.if_any("outboundRules", _rules_with(balancer, "outboundRules", f"{named}s", whole.key))
        case "probes":
            said |= showing.if_any(
                "loadBalancingRules", _rules_with(balancer, "loadBalancingRules", "probe", whole.key)
            )
        case "loadBalancingRules":
            pool, pools = said.get("backendAddressPool"), said.get("backendAddressPools")
            if balancer.body["sku"]["name"] != "Basic":
                said.setdefault("disableOutboundSnat", False)
            if pool is not None and not pools:
                said["backendAddressPools"] = [pool]
            elif pools and pool is None and len(pools) == 1:
                said["backendAddressPool"] = pools[0]
    return showing.part(balancer, whole, one, said)


def _balancer_of(world: World, child: Document) -> Document:
    found = world.get(child.id.outer)
    if found is None:
        raise AssertionError(f"{child.id} has no load balancer")
    return found


def _shown_pool(world: World, pool: Document) -> dict[str, Any]:
    balancer = _balancer_of(world, pool)
    members = members_of(world, pool)
    rules = {
        *_rules_with(balancer, "loadBalancingRules", "backendAddressPool", pool.key),
        *_rules_with(balancer, "loadBalancingRules", "backendAddressPools", pool.key),
    }
    outbound = _rules_with(balancer, "outboundRules", "backendAddressPool", pool.key)
    nat = [
        one.id
        for one in children_of(world, balancer.id, NAT_RULE_KIND)
        if refusals.key_of(one.properties.get("backendAddressPool")) == pool.key
    ]
    properties = dict(pool.properties)
    said = properties.pop("loadBalancerBackendAddresses")
    if balancer.body["sku"]["name"] != "Basic":
        properties["loadBalancerBackendAddresses"] = [
            *(_shown_address(pool, one["name"], one["properties"]) for one in said),
            *(_member_address(pool, one) for one in members),
        ]
    properties |= showing.if_any("backendIPConfigurations", members)
    properties |= showing.if_any("loadBalancingRules", sorted(rules, key=str))
    properties |= showing.if_any("inboundNatRules", nat)
    if outbound:
        properties["outboundRule"] = showing.reference(outbound[0])
    properties |= showing.if_any("outboundRules", outbound)
    return showing.resource(pool, properties, has_guid=False)


def _shown_address(pool: Document, name: str, properties: Json) -> dict[str, Any]:
    return showing.part(pool, pool.id.child("loadBalancerBackendAddresses", name), {}, properties)


def _member_address(pool: Document, configuration: ResourceId) -> dict[str, Any]:
    name = f"{configuration.group}_{configuration.outer.name}{configuration.name}"
    return _shown_address(pool, name, {"networkInterfaceIPConfiguration": showing.reference(configuration)})


def _shown_nat_rule(world: World, rule: Document) -> dict[str, Any]:
    properties = dict(rule.properties)
    users = _configurations_with(world, "loadBalancerInboundNatRules", rule.key)
    if users:
        properties["backendIPConfiguration"] = showing.reference(users[0])
    return showing.resource(rule, properties, has_guid=False)


class _Child:
    """What backend pools and inbound NAT rules have in common as resources of their own."""

    style = Style.NETWORK
    is_tracked = False

    def __init__(
        self,
        kind: str,
        shape: shapes.Record,
        put: Callable[[Change, Document, ResourceId, Json], Document],
        shown: Callable[[World, Document], dict[str, Any]],
    ) -> None:
        self.name = kind
        self._shape = shape
        self._put = put
        self._shown = shown

    def write(self, change: Change, id: ResourceId, body: Json, before: Document | None, caller: Caller) -> Document:
        """PUT: one child of a load balancer."""
        balancer = change.get(id.outer)
        if balancer is None:
            raise refusals.not_found(str(id.outer), id)
        document = self._put(change, balancer, id, shapes.read(self._shape, body))
        change.put(balancer.id, KIND, balancer.body)
        return document

    def patch(self, change: Change, document: Document, body: Json, caller: Caller) -> Document:
        """PATCH: Azure has none; what is said is written, the rest stays."""
        given = shapes.read(self._shape, body)
        merged = {"properties": {**document.properties, **given["properties"]}}
        return self.write(change, document.id, merged, document, caller)

    def remove(self, change: Change, document: Document, caller: Caller) -> None:
        """DELETE: one child that no rule names."""
        balancer = _balancer_of(change, document)
        for named in ("backendAddressPool", "backendAddressPools"):
            for member in ("loadBalancingRules", "outboundRules"):
                for rule in _rules_with(balancer, member, named, document.key):
                    raise refused(
                        "InUseBackendAddressPoolCannotBeDeleted",
                        f"Backend address pool {document.id} is in use by {rule} and cannot be deleted.",
                    )
        change.remove(document.id)
        change.put(balancer.id, KIND, balancer.body)

    def show(self, world: World, document: Document, caller: Caller) -> dict[str, Any]:
        """The child with what names it."""
        return self._shown(world, document)


POOLS: Final = _Child(POOL_KIND, _POOL, _put_pool, _shown_pool)
NAT_RULES: Final = _Child(NAT_RULE_KIND, _NAT_RULE, _put_nat_rule, _shown_nat_rule)


class Parts:
    """The parts of a load balancer that are only shown."""

    def __init__(self, member: str) -> None:
        self.name = f"{KIND}/{member}"
        self._member = member

    def list(self, world: World, parent: ResourceId, caller: Caller) -> Sequence[dict[str, Any]]:
        """All of one sort."""
        balancer = world.get(parent)
        return [] if balancer is None else shown_parts(world, balancer, self._member)


class Members:
    """The interfaces behind a load balancer."""

    name = f"{KIND}/networkInterfaces"

    def list(self, world: World, parent: ResourceId, caller: Caller) -> Sequence[dict[str, Any]]:
        """Those that are in one of its pools."""
        kind = interfaces.NetworkInterfaces()
        pools = children_of(world, parent, POOL_KIND)
        found = dict.fromkeys(one.parent for pool in pools for one in members_of(world, pool) if one.parent)
        documents = [document for one in found if (document := world.get(one)) is not None]
        return [kind.show(world, one, caller) for one in documents]


class BalancersOfInterface:
    """The load balancers that an interface is behind."""

    name = f"{interfaces.KIND}/loadBalancers"

    def list(self, world: World, parent: ResourceId, caller: Caller) -> Sequence[dict[str, Any]]:
        """Those with a pool that it is in."""
        interface = world.get(parent)
        if interface is None:
            return []
        references = [
            reference["id"]
            for one in interface.properties["ipConfigurations"]
            for reference in one["properties"].get("loadBalancerBackendAddressPools") or ()
        ]
        found = dict.fromkeys(ids.parse(one).parent for one in references if world.get(one) is not None)
        documents = [document for one in found if one and (document := world.get(one)) is not None]
        return [LoadBalancers().show(world, one, caller) for one in documents]


PARTS: Final = tuple(Parts(member) for member in _PARTS)
