"""Which resource types there are, and what belongs to them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from isthmus.lab.kinds import Action, Kind, Virtual

#: Where resources can be; name -> display name. Any word that looks like a location is accepted besides.
LOCATIONS: Mapping[str, str] = {
    "westeurope": "West Europe",
    "northeurope": "North Europe",
    "eastus": "East US",
    "eastus2": "East US 2",
    "westus": "West US",
    "westus2": "West US 2",
    "westus3": "West US 3",
    "centralus": "Central US",
    "southcentralus": "South Central US",
    "northcentralus": "North Central US",
    "westcentralus": "West Central US",
    "canadacentral": "Canada Central",
    "uksouth": "UK South",
    "ukwest": "UK West",
    "francecentral": "France Central",
    "germanywestcentral": "Germany West Central",
    "switzerlandnorth": "Switzerland North",
    "norwayeast": "Norway East",
    "swedencentral": "Sweden Central",
    "eastasia": "East Asia",
    "southeastasia": "Southeast Asia",
    "japaneast": "Japan East",
    "koreacentral": "Korea Central",
    "australiaeast": "Australia East",
    "centralindia": "Central India",
    "southafricanorth": "South Africa North",
    "uaenorth": "UAE North",
    "brazilsouth": "Brazil South",
}


@dataclass(frozen=True, slots=True)
class Registry:
    """All kinds, virtual kinds and actions. Names are looked up without case."""

    kinds: Sequence[Kind]
    virtuals: Sequence[Virtual] = ()
    actions: Sequence[Action] = ()
    _kinds: Mapping[str, Kind] = field(init=False, repr=False)
    _virtuals: Mapping[str, Virtual] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_kinds", {kind.name.lower(): kind for kind in self.kinds})
        object.__setattr__(self, "_virtuals", {kind.name.lower(): kind for kind in self.virtuals})

    def kind(self, name: str) -> Kind | None:
        """The kind of that name."""
        return self._kinds.get(name.lower())

    def virtual(self, name: str) -> Virtual | None:
        """The virtual kind of that name."""
        return self._virtuals.get(name.lower())

    def action(self, method: str, namespace: str, kind: str, path: str) -> Action | None:
        """The action ``path`` of a kind, or of the namespace where ``kind`` is empty."""
        for action in self.actions:
            if (action.method, action.namespace.lower(), action.kind.lower(), action.path) == (
                method,
                namespace.lower(),
                kind.lower(),
                path.lower(),
            ):
                return action
        return None

    def has_action(self, namespace: str, kind: str, path: str) -> bool:
        """Whether there is such an action with any method."""
        return any(self.action(method, namespace, kind, path) for method in ("GET", "POST", "PUT", "PATCH", "DELETE"))

    def namespaces(self) -> Iterator[str]:
        """``Microsoft.Network`` and the like, each once."""
        return iter(dict.fromkeys(name.partition("/")[0] for name in self._names()))

    def types(self, namespace: str) -> Iterator[str]:
        """The types of a namespace without its name: ``virtualNetworks/subnets``."""
        for name in self._names():
            head, _, rest = name.partition("/")
            if head.lower() == namespace.lower():
                yield rest

    def _names(self) -> Iterator[str]:
        yield from (kind.name for kind in self.kinds)
        yield from (kind.name for kind in self.virtuals)
