"""Names of private links: aliases of link services, Azure's resource ids, and the hosts of clusters.

They are parsed once, here, and checked while they are; everything further in compares and takes apart what came out.
Resource ids are kept as they were written and compared without case, as Azure does.
"""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from isthmus.kit.errors import ConfigError

#: What every alias ends with, in all of Azure's clouds.
ALIAS_SUFFIX: Final = "azure.privatelinkservice"

#: The label between a cluster's id and the domain (DESIGN: vocabulary, "cluster").
EXTERNAL: Final = "external"

#: ``cl`` and nine base-32 characters (DESIGN: vocabulary).
_CLUSTER_ID: Final = re.compile(r"cl[a-z2-7]{9}")
_GUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
#: Names of link services: Azure, "Naming rules and restrictions for Azure resources".
_SERVICE: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,78}[a-z0-9_])?")
_ID: Final = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)"
    r"/providers/(?P<namespace>[^/]+)/(?P<path>[^/]+/[^/]+(/[^/]+/[^/]+)*)/?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Alias:
    """What customers know a link service by: ``<service>.<guid>.<region>.azure.privatelinkservice``.

    ``region`` is empty in aliases of the older form, which goes without.
    """

    service: str
    guid: str
    region: str

    def __str__(self) -> str:
        return ".".join(part for part in (self.service, self.guid, self.region, ALIAS_SUFFIX) if part)


def parse_alias(text: str) -> Alias:
    """The parts of an alias, lower case. Raises ConfigError.

    Parsed from the right, because a service's name may contain dots.
    """
    plain = text.strip().rstrip(".").lower()
    labels = plain.removesuffix(f".{ALIAS_SUFFIX}").split(".")
    if plain.endswith(f".{ALIAS_SUFFIX}") and len(labels) >= 2:
        has_region = _GUID.fullmatch(labels[-1]) is None
        region = labels.pop() if has_region else ""
        guid, service = labels.pop(), ".".join(labels)
        if _GUID.fullmatch(guid) and _SERVICE.fullmatch(service) and (not has_region or _LABEL.fullmatch(region)):
            return Alias(service, guid, region)
    raise ConfigError(
        f"{text!r} is not the alias of a link service",
        code="alias_malformed",
        hint=f"An alias reads NAME.GUID.REGION.{ALIAS_SUFFIX}: ask the provider for it, and copy all of it.",
    )


@dataclass(frozen=True, slots=True)
class ResourceId:
    """``/subscriptions/S/resourceGroups/G/providers/KIND...`` with the names between the words of ``kind``.

    ``kind`` is written as ``Microsoft.Network/virtualNetworks/subnets``; ``names`` has one for each word after the
    namespace.
    """

    subscription: str
    group: str
    kind: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        namespace, *words = self.kind.split("/")
        path = "/".join(f"{word}/{name}" for word, name in zip(words, self.names, strict=True))
        return f"/subscriptions/{self.subscription}/resourceGroups/{self.group}/providers/{namespace}/{path}"

    @property
    def name(self) -> str:
        """The last name."""
        return self.names[-1]

    @property
    def parent(self) -> "ResourceId":
        """What this is a part of: a subnet's network, a network link's zone."""
        return ResourceId(self.subscription, self.group, self.kind.rpartition("/")[0], self.names[:-1])

    def child(self, word: str, name: str) -> "ResourceId":
        """A part of this."""
        return ResourceId(self.subscription, self.group, f"{self.kind}/{word}", (*self.names, name))


def parse_id(text: str, kind: str = "") -> ResourceId:
    """A resource id; with ``kind`` one of that kind. Raises ConfigError."""
    found = _ID.fullmatch(text)
    if found is not None:
        words = found["path"].split("/")
        parsed = ResourceId(
            found["subscription"], found["group"], "/".join((found["namespace"], *words[::2])), tuple(words[1::2])
        )
        if not kind or parsed.kind.lower() == kind.lower():
            return parsed
    raise ConfigError(
        f"{text!r} is not the id of {kind or 'a resource'}",
        code="resource_id_malformed",
        hint="A resource id begins with /subscriptions/: the portal shows it as the resource's JSON view, az as id.",
    )


def brief(id: str) -> str:  # noqa: A002
    """A resource for people: its group and its name. Customers' endpoints mostly have the same name."""
    found = _ID.fullmatch(id)
    return id.rpartition("/")[2] if found is None else f"{found['group']}/{found['path'].rpartition('/')[2]}"


def is_id(text: str) -> bool:
    """Whether it looks like a resource id, in the place of a name."""
    return text.startswith("/")


def are_same(first: str, second: str) -> bool:
    """Whether two resource ids (or aliases) mean the same."""
    return key(first) == key(second)


def key(id: str) -> str:  # noqa: A002 - "id" is the word for a resource's address
    """What a resource id is compared by."""
    return id.rstrip("/").lower()


def service_beside(frontend_id: str, cluster_id: str) -> str:
    """The link service that a cluster has unless another one is named, in the load balancer's group.

    Raises ConfigError.
    """
    group, found, _ = frontend_id.partition("/loadBalancers/")
    if not found:
        raise ConfigError(
            f"{frontend_id!r} is not the id of a load balancer's frontend",
            code="resource_id_malformed",
            hint="It ends with /loadBalancers/NAME/frontendIPConfigurations/NAME: az network lb show has it.",
        )
    return f"{group}/privateLinkServices/isthmus-{cluster_id}"


def network_of(subnet_id: str) -> str:
    """The id of a subnet's virtual network."""
    return str(parse_id(subnet_id, SUBNET).parent)


def link_name(network_id: str) -> str:
    """What our link of a network is called: stable, and another one for a network of that name in another group."""
    network = parse_id(network_id, NETWORK)
    return f"isthmus-{network.subscription[:8]}-{network.group}-{network.name}"[:80].rstrip(".-_")


#: Kinds of Azure's that links are about.
ENDPOINT: Final = "Microsoft.Network/privateEndpoints"
SERVICE: Final = "Microsoft.Network/privateLinkServices"
INTERFACE: Final = "Microsoft.Network/networkInterfaces"
NETWORK: Final = "Microsoft.Network/virtualNetworks"
SUBNET: Final = "Microsoft.Network/virtualNetworks/subnets"
ZONE: Final = "Microsoft.Network/privateDnsZones"
NETWORK_LINK: Final = "Microsoft.Network/privateDnsZones/virtualNetworkLinks"


@dataclass(frozen=True, slots=True)
class ClusterHost:
    """``<cluster-id>.external.<domain>``: the name that agents of all deployments of a cluster use."""

    cluster_id: str
    domain: str

    def __str__(self) -> str:
        return f"{self.cluster_id}.{self.zone}"

    @property
    def zone(self) -> str:
        """The wide zone, which the hosts of all clusters of the domain are in."""
        return f"{EXTERNAL}.{self.domain}"


def parse_host(text: str) -> ClusterHost:
    """A cluster's host, from itself or from the URL of one of its deployments. Raises ConfigError."""
    host = (urlsplit(text).hostname or "") if "://" in text else text
    cluster_id, _, rest = host.strip().rstrip(".").lower().partition(".")
    label, _, domain = rest.partition(".")
    labels = domain.split(".")
    if (
        _CLUSTER_ID.fullmatch(cluster_id)
        and label == EXTERNAL
        and len(host) <= 253
        and all(_LABEL.fullmatch(one) for one in labels)
    ):
        return ClusterHost(cluster_id, domain)
    raise ConfigError(
        f"{text!r} is not the host of a cluster",
        code="host_malformed",
        hint=f"It reads CLUSTER-ID.{EXTERNAL}.DOMAIN, as in clabcdefgh2.{EXTERNAL}.example.com.",
    )
