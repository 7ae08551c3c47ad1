"""Who there is: one tenant, the subscriptions in it, and which resource providers they are registered for.

Made once per lab and kept with its state. A registration is a note beside the documents.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from isthmus.lab.documents import Change, World

#: The topic of notes that holds registrations: ``subscription/namespace`` in lower case -> a registration state.
REGISTRATIONS: Final = "registrations"
#: What nobody has to register for (Azure: "some resource providers are registered by default").
ALWAYS_REGISTERED: Final = frozenset({"microsoft.resources", "microsoft.authorization"})


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription: its GUID and what people call it."""

    id: str
    display_name: str


@dataclass(frozen=True, slots=True)
class Tenancy:
    """A tenant and its subscriptions. ``are_providers_registered``: whether subscriptions begin registered."""

    tenant_id: str
    principal_id: str
    client_id: str
    subscriptions: tuple[Subscription, ...]
    are_providers_registered: bool = True

    def subscription(self, id: str) -> Subscription | None:
        """The subscription with that id, in any case."""
        return next((one for one in self.subscriptions if one.id.lower() == id.lower()), None)

    def is_registered(self, world: World, subscription: str, namespace: str) -> bool:
        """Whether a subscription may use a namespace."""
        return self.registration(world, subscription, namespace) == "Registered"

    def registration(self, world: World, subscription: str, namespace: str) -> str:
        """``Registered``, ``NotRegistered`` or ``Unregistered``."""
        if namespace.lower() in ALWAYS_REGISTERED:
            return "Registered"
        default = "Registered" if self.are_providers_registered else "NotRegistered"
        found: str = world.notes(REGISTRATIONS).get(_key(subscription, namespace), default)
        return found

    def to_json(self) -> dict[str, Any]:
        """As it is kept."""
        return {
            "tenantId": self.tenant_id,
            "principalId": self.principal_id,
            "clientId": self.client_id,
            "subscriptions": [{"id": one.id, "displayName": one.display_name} for one in self.subscriptions],
        }


def make(*display_names: str, are_providers_registered: bool = True) -> Tenancy:
    """A new tenant with a subscription of each name."""
    return Tenancy(
        tenant_id=str(uuid.uuid4()),
        principal_id=str(uuid.uuid4()),
        client_id=str(uuid.uuid4()),
        subscriptions=tuple(Subscription(str(uuid.uuid4()), name) for name in display_names),
        are_providers_registered=are_providers_registered,
    )


def from_json(kept: Mapping[str, Any], *, are_providers_registered: bool = True) -> Tenancy:
    """What ``to_json`` wrote."""
    return Tenancy(
        tenant_id=kept["tenantId"],
        principal_id=kept["principalId"],
        client_id=kept["clientId"],
        subscriptions=tuple(Subscription(one["id"], one["displayName"]) for one in kept["subscriptions"]),
        are_providers_registered=are_providers_registered,
    )


def register(change: Change, subscription: str, namespace: str, state: str) -> None:
    """Keep a registration state."""
    change.note(REGISTRATIONS, _key(subscription, namespace), state)


def _key(subscription: str, namespace: str) -> str:
    return f"{subscription}/{namespace}".lower()
