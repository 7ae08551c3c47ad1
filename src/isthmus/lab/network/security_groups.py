"""Network security groups: ``Microsoft.Network/networkSecurityGroups`` with their rules.

They are kept and shown, and have no effect on packets. The default rules are Azure's.
"""

from collections.abc import Sequence
from typing import Any, Final

from isthmus.lab.documents import Change, Document, World
from isthmus.lab.ids import ResourceId
from isthmus.lab.kinds import Caller, Json, Style
from isthmus.lab.network import refusals, shapes, showing, subnets, tagging
from isthmus.lab.network.addresses import INTERFACES
from isthmus.lab.network.refusals import refused

KIND: Final = "Microsoft.Network/networkSecurityGroups"
RULE_KIND: Final = f"{KIND}/securityRules"

_PRIORITIES: Final = range(100, 4097)

_RULE: Final = shapes.part(
    {
        "description": shapes.Text(),
        "protocol": shapes.Choice("Tcp", "Udp", "Icmp", "Esp", "Ah", "*"),
        "sourcePortRange": shapes.Text(),
        "destinationPortRange": shapes.Text(),
        "sourceAddressPrefix": shapes.Text(),
        "destinationAddressPrefix": shapes.Text(),
        "sourcePortRanges": shapes.Many(shapes.Text()),
        "destinationPortRanges": shapes.Many(shapes.Text()),
        "sourceAddressPrefixes": shapes.Many(shapes.Text()),
        "destinationAddressPrefixes": shapes.Many(shapes.Text()),
        "sourceApplicationSecurityGroups": shapes.Many(shapes.Reference("applicationSecurityGroups")),
        "destinationApplicationSecurityGroups": shapes.Many(shapes.Reference("applicationSecurityGroups")),
        "access": shapes.Choice("Allow", "Deny"),
        "priority": shapes.Number(),
        "direction": shapes.Choice("Inbound", "Outbound"),
    }
)

_SHAPE: Final = shapes.resource(
    {
        "securityRules": shapes.Many(_RULE),
        "flushConnection": shapes.Flag(),
        "defaultSecurityRules": shapes.Derived(),
        "networkInterfaces": shapes.Derived(),
        "subnets": shapes.Derived(),
        "flowLogs": shapes.Derived(),
    }
)

_LISTS: Final[dict[str, Any]] = {
    "sourcePortRanges": [],
    "destinationPortRanges": [],
    "sourceAddressPrefixes": [],
    "destinationAddressPrefixes": [],
}

#: Name, description, source, destination, access, priority, direction.
_DEFAULT_RULES: Final = (
    (
        "AllowVnetInBound",
        "Allow inbound traffic from all VMs in VNET",
        "VirtualNetwork",
        "VirtualNetwork",
        "Allow",
        65000,
        "Inbound",
    ),
    (
        "AllowAzureLoadBalancerInBound",
        "Allow inbound traffic from azure load balancer",
        "AzureLoadBalancer",
        "*",
        "Allow",
        65001,
        "Inbound",
    ),
    ("DenyAllInBound", "Deny all inbound traffic", "*", "*", "Deny", 65500, "Inbound"),
    (
        "AllowVnetOutBound",
        "Allow outbound traffic from all VMs to all VMs in VNET",
        "VirtualNetwork",
        "VirtualNetwork",
        "Allow",
        65000,
        "Outbound",
    ),
    (
        "AllowInternetOutBound",
        "Allow outbound traffic from all VMs to Internet",
        "*",
        "Internet",
        "Allow",
        65001,
        "Outbound",
    ),
    ("DenyAllOutBound", "Deny all outbound traffic", "*", "*", "Deny", 65500, "Outbound"),
)


def _rules_of(world: World, group: ResourceId) -> list[Document]:
    found = world.all(RULE_KIND, subscription=group.subscription, group=group.group)
    return [one for one in found if one.id.outer.key == group.key]


def _put_rule(change: Change, id: ResourceId, given: Json) -> Document:
    refusals.check_name(id.name)
    properties = {**_LISTS, **given["properties"]}
    for name in ("protocol", "access", "priority", "direction"):
        if name not in properties:
            raise shapes.missing(name, "properties")
    if properties["priority"] not in _PRIORITIES:
        raise refused(
            "SecurityRuleInvalidPriority",
            f"Security rule has invalid priority. Priority {properties['priority']} of rule {id} has to be between "
            f"{_PRIORITIES.start} and {_PRIORITIES.stop - 1}.",
        )
    for plural, singular in (("PortRange", "PortRanges"), ("AddressPrefix", "AddressPrefixes")):
        for side in ("source", "destination"):
            if not properties.get(side + plural) and not properties.get(side + singular):
                groups = properties.get(f"{side}ApplicationSecurityGroups")
                if plural == "PortRange" or not groups:
                    raise refused(
                        f"SecurityRule{side.capitalize()}{plural}Missing",
                        f"Security rule {id} must have a {side}{plural} or {side}{singular}.",
                    )
    for one in _rules_of(change, id.outer):
        same = all(one.properties[name] == properties[name] for name in ("priority", "direction"))
        if one.key != id.key and same:
            raise refused(
                "SecurityRuleConflict",
                f"Security rule {id.name} conflicts with rule {one.id.name}. Rules cannot have the same Priority and "
                "Direction.",
            )
    return change.put(id, RULE_KIND, {"properties": properties})


class SecurityGroups:
    """The kind of network security groups."""

    name = KIND
    style = Style.NETWORK
    is_tracked = True

    def write(self, change: Change, id: ResourceId, body: Json, before: Document | None, caller: Caller) -> Document:
        """PUT: a group with all of its rules."""
        given = shapes.read(_SHAPE, body)
        given["location"] = refusals.location_of(given)
        rules = given["properties"].pop("securityRules", [])
        document = change.put(id, KIND, given)
        for one in _rules_of(change, id):
            change.remove(one.id)
        for one in rules:
            _put_rule(change, id.child("securityRules", str(one.get("name", ""))), {"properties": {}, **one})
        return document

    def patch(self, change: Change, document: Document, body: Json, caller: Caller) -> Document:
        """PATCH: tags."""
        return tagging.patch(change, document, body)

    def remove(self, change: Change, document: Document, caller: Caller) -> None:
        """DELETE: a group that nothing uses."""
        users = [*_users(change, document, INTERFACES), *_users(change, document, subnets.KIND)]
        if users:
            raise refused(
                "InUseNetworkSecurityGroupCannotBeDeleted",
                f"Network security group {document.id} cannot be deleted because it is in use by the following "
                f"resources: {', '.join(map(str, users))}. In order to delete the Network security group, remove the "
                "association with the resource(s). To learn how to do this, see aka.ms/deletensg.",
            )
        for one in _rules_of(change, document.id):
            change.remove(one.id)
        change.remove(document.id)

    def show(self, world: World, document: Document, caller: Caller) -> dict[str, Any]:
        """The group with its rules and its users."""
        properties = {
            **document.properties,
            "securityRules": [_shown_rule(one) for one in _rules_of(world, document.id)],
            "defaultSecurityRules": _default_rules(document),
            **showing.if_any("networkInterfaces", _users(world, document, INTERFACES)),
            **showing.if_any("subnets", _users(world, document, subnets.KIND)),
        }
        return showing.resource(document, properties)


class SecurityRules:
    """The kind of a group's rules."""

    name = RULE_KIND
    style = Style.NETWORK
    is_tracked = False

    def write(self, change: Change, id: ResourceId, body: Json, before: Document | None, caller: Caller) -> Document:
        """PUT: one rule."""
        group = change.get(id.outer)
        if group is None:
            raise refusals.not_found(str(id.outer), id)
        document = _put_rule(change, id, shapes.read(_RULE, body))
        change.put(group.id, KIND, group.body)
        return document

    def patch(self, change: Change, document: Document, body: Json, caller: Caller) -> Document:
        """PATCH: Azure has none for rules; what is said is written, the rest stays."""
        given = shapes.read(_RULE, body)
        return _put_rule(change, document.id, {"properties": {**document.properties, **given["properties"]}})

    def remove(self, change: Change, document: Document, caller: Caller) -> None:
        """DELETE: one rule."""
        group = change.get(document.id.outer)
        change.remove(document.id)
        if group is not None:
            change.put(group.id, KIND, group.body)

    def show(self, world: World, document: Document, caller: Caller) -> dict[str, Any]:
        """The rule."""
        return _shown_rule(document)


class DefaultRules:
    """The rules that every group has."""

    name = f"{KIND}/defaultSecurityRules"

    def list(self, world: World, parent: ResourceId, caller: Caller) -> Sequence[dict[str, Any]]:
        """All six."""
        group = world.get(parent)
        return [] if group is None else _default_rules(group)


def rules_in_force(world: World, group: Document) -> list[dict[str, Any]]:
    """A group's own rules and the default ones, as they are shown."""
    return [*(_shown_rule(one) for one in _rules_of(world, group.id)), *_default_rules(group)]


def _users(world: World, group: Document, kind: str) -> list[ResourceId]:
    return [
        one.id for one in world.all(kind) if refusals.key_of(one.properties.get("networkSecurityGroup")) == group.key
    ]


def _shown_rule(rule: Document) -> dict[str, Any]:
    return showing.resource(rule, rule.properties, has_guid=False)


def _default_rules(group: Document) -> list[dict[str, Any]]:
    found = []
    for name, description, source, destination, access, priority, direction in _DEFAULT_RULES:
        properties = {
            "description": description,
            "protocol": "*",
            "sourcePortRange": "*",
            "destinationPortRange": "*",
            "sourceAddressPrefix": source,
            "destinationAddressPrefix": destination,
            "access": access,
            "priority": priority,
            "direction": direction,
            **_LISTS,
        }
        found.append(showing.part(group, group.id.child("defaultSecurityRules", name), {}, properties))
    return found
