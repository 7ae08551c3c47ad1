"""Which resource types there are, and what belongs to them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from isthmus.lab.kinds import Action, Kind, Virtual

#: Azure's regions: name -> display name. A resource can be in any of them, and it makes no difference.
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
    "canadaeast": "Canada East",
    "mexicocentral": "Mexico Central",
    "brazilsouth": "Brazil South",
    "brazilsoutheast": "Brazil Southeast",
    "chilecentral": "Chile Central",
    "uksouth": "UK South",
    "ukwest": "UK West",
    "francecentral": "France Central",
    "francesouth": "France South",
    "germanywestcentral": "Germany West Central",
    "germanynorth": "Germany North",
    "switzerlandnorth": "Switzerland North",
    "switzerlandwest": "Switzerland West",
    "norwayeast": "Norway East",
    "norwaywest": "Norway West",
    "swedencentral": "Sweden Central",
    "swedensouth": "Sweden South",
    "denmarkeast": "Denmark East",
    "belgiumcentral": "Belgium Central",
    "austriaeast": "Austria East",
    "polandcentral": "Poland Central",
    "italynorth": "Italy North",
    "spaincentral": "Spain Central",
    "israelcentral": "Israel Central",
    "qatarcentral": "Qatar Central",
    "uaenorth": "UAE North",
    "uaecentral": "UAE Central",
    "southafricanorth": "South Africa North",
    "southafricawest": "South Africa West",
    "eastasia": "East Asia",
    "southeastasia": "Southeast Asia",
    "japaneast": "Japan East",
    "japanwest": "Japan West",
    "koreacentral": "Korea Central",
    "koreasouth": "Korea South",
    "centralindia": "Central India",
    "southindia": "South India",
    "westindia": "West India",
    "jioindiawest": "Jio India West",
    "jioindiacentral": "Jio India Central",
    "indonesiacentral": "Indonesia Central",
    "malaysiawest": "Malaysia West",
    "australiaeast": "Australia East",
    "australiasoutheast": "Australia Southeast",
    "australiacentral": "Australia Central",
    "australiacentral2": "Australia Central 2",
    "newzealandnorth": "New Zealand North",
    "centraluseuap": "Central US EUAP",
    "eastus2euap": "East US 2 EUAP",
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
