"""Resource ids: the addresses of Azure's resource manager.

An id is case-preserving and case-insensitive: it is shown as it was first written and compared by ``key``. Kinds are
written as Azure spells them (``Microsoft.Network/virtualNetworks/subnets``) and compared in lower case too.

Source of the grammar: Azure Resource Manager, "Resource ids" and the ``resourceId`` template function.
"""

from dataclasses import dataclass
from typing import NewType

from isthmus.lab import errors

Key = NewType("Key", str)
"""A resource id in lower case: what ids are compared by."""

RESOURCES = "Microsoft.Resources"
SUBSCRIPTION_KIND = f"{RESOURCES}/subscriptions"
GROUP_KIND = f"{RESOURCES}/subscriptions/resourceGroups"


@dataclass(frozen=True, slots=True)
class ResourceId:
    """``/subscriptions/S[/resourceGroups/G][/providers/NAMESPACE/TYPE/NAME[/TYPE/NAME ...]]``.

    A subscription has neither group nor namespace, a resource group no namespace. ``types`` and ``names`` are equally
    long.
    """

    subscription: str
    group: str | None = None
    namespace: str = ""
    types: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"/subscriptions/{self.subscription}"
        if self.group is not None:
            text += f"/resourceGroups/{self.group}"
        if self.namespace:
            text += f"/providers/{self.namespace}"
            text += "".join(f"/{kind}/{name}" for kind, name in zip(self.types, self.names, strict=True))
        return text

    @property
    def key(self) -> Key:
        """What this id is compared by."""
        return Key(str(self).lower())

    @property
    def kind(self) -> str:
        """``Microsoft.Network/virtualNetworks/subnets``, as it was written."""
        if self.namespace:
            return "/".join((self.namespace, *self.types))
        return GROUP_KIND if self.group is not None else SUBSCRIPTION_KIND

    @property
    def name(self) -> str:
        """The last name."""
        if self.names:
            return self.names[-1]
        return self.group if self.group is not None else self.subscription

    @property
    def parent(self) -> "ResourceId | None":
        """What it lies in: a resource of the level above, the resource group, the subscription; None for a
        subscription.
        """
        if len(self.names) > 1:
            return ResourceId(self.subscription, self.group, self.namespace, self.types[:-1], self.names[:-1])
        if self.namespace and self.group is not None:
            return ResourceId(self.subscription, self.group)
        return ResourceId(self.subscription) if self.group is not None or self.namespace else None

    @property
    def outer(self) -> "ResourceId":
        """``parent`` of an id that has one: every id but a subscription's."""
        found = self.parent
        if found is None:
            raise AssertionError(f"{self} lies in nothing")
        return found

    def child(self, kind: str, name: str) -> "ResourceId":
        """The resource ``name`` of type ``kind`` (one word: ``subnets``) in this one."""
        return ResourceId(self.subscription, self.group, self.namespace, (*self.types, kind), (*self.names, name))

    def beside(self, kind: str, name: str) -> "ResourceId":
        """The resource ``name`` of type ``kind`` (``networkInterfaces``) of the same namespace in the same group."""
        return ResourceId(self.subscription, self.group, self.namespace, (kind,), (name,))


def key(text: str) -> Key:
    """What an id in some client's spelling is compared by. It is not checked."""
    return Key("/" + text.strip("/").lower())


def parse(text: str) -> ResourceId:
    """The id in ``text``; errors.ArmError (400, InvalidResourceId) if it is none."""
    parts = text.strip("/").split("/")
    if len(parts) < 2 or parts[0].lower() != "subscriptions" or not all(parts):
        raise _malformed(text)
    subscription, rest = parts[1], parts[2:]
    group = None
    if rest and rest[0].lower() == "resourcegroups":
        if len(rest) < 2:
            raise _malformed(text)
        group, rest = rest[1], rest[2:]
    if not rest:
        return ResourceId(subscription, group)
    if rest[0].lower() != "providers" or len(rest) < 4 or len(rest) % 2:
        raise _malformed(text)
    return ResourceId(subscription, group, rest[1], tuple(rest[2::2]), tuple(rest[3::2]))


def _malformed(text: str) -> errors.ArmError:
    return errors.ArmError(400, "InvalidResourceId", f"The resource id '{text}' is not valid.")
