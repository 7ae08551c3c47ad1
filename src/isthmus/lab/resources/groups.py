"""Resource groups: where resources lie, and what takes them along when it is deleted.

A group's deletion removes what is in it in any order that its kinds allow: a resource that is still in use is tried
again after the others. What is in use from outside the group stops all of it, and then nothing is deleted (Azure
deletes what it can; here a change is whole or not at all).
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from isthmus.lab import ids
from isthmus.lab.documents import Change, Document, World
from isthmus.lab.errors import ArmError, Detail
from isthmus.lab.ids import ResourceId
from isthmus.lab.kinds import Caller, Json, Kind, Style

_SHOWN: Final = ("location", "managedBy", "tags")


class Groups:
    """``Microsoft.Resources/subscriptions/resourceGroups``. ``kinds`` are those of what may lie in a group."""

    name = ids.GROUP_KIND
    style = Style.GROUP
    is_tracked = False

    def __init__(self, kinds: Callable[[], "Mapping[str, Kind]"]) -> None:
        self._kinds = kinds

    def write(self, change: Change, id: ResourceId, body: Json, before: Document | None, caller: Caller) -> Document:
        """PUT: location, tags, managedBy."""
        kept: dict[str, Any] = {"location": _location(str(body["location"]))}
        managed_by = body.get("managedBy")
        if managed_by is not None:
            kept["managedBy"] = managed_by
        if body.get("tags") is not None:
            kept["tags"] = body["tags"]
        return change.put(id, self.name, kept)

    def patch(self, change: Change, document: Document, body: Json, caller: Caller) -> Document:
        """PATCH: tags and managedBy are replaced."""
        kept = dict(document.body)
        for name in ("tags", "managedBy"):
            if body.get(name) is not None:
                kept[name] = body[name]
        return change.put(document.id, self.name, kept)

    def remove(self, change: Change, document: Document, caller: Caller) -> None:
        """DELETE: everything in it, and it."""
        while left := self._contents(change, document):
            refusals = [refusal for one in left if (refusal := self._remove_one(change, one, caller)) is not None]
            if len(refusals) == len(left):
                raise _still_in_use(document, refusals)
        change.remove(document.id)

    def show(self, world: World, document: Document, caller: Caller) -> dict[str, Any]:
        """The group."""
        shown: dict[str, Any] = {
            "id": str(document.id),
            "name": document.id.name,
            "type": "Microsoft.Resources/resourceGroups",
        }
        shown |= {name: document.body[name] for name in _SHOWN if name in document.body}
        return {**shown, "properties": {"provisioningState": document.state}}

    def _contents(self, world: World, group: Document) -> list[Document]:
        """What the resource manager knows of in the group, the newest first: what came later tends to use what came
        before. Nested resources that it tracks (network links of private zones) go by themselves, as in Azure.
        """
        found = [
            document
            for kind in self._kinds().values()
            if kind.name != self.name
            for document in world.all(kind.name, subscription=group.id.subscription, group=group.id.name)
            if len(document.id.names) == 1 or kind.is_tracked
        ]
        return found[::-1]

    def _remove_one(self, change: Change, document: Document, caller: Caller) -> ArmError | None:
        current = change.get(document.id)
        if current is None:
            return None  # it went along with another
        try:
            self._kinds()[document.kind.lower()].remove(change, current, caller)
        except ArmError as error:
            return error
        return None


def _location(text: str) -> str:
    return text.replace(" ", "").lower()


def _still_in_use(group: Document, refusals: list[ArmError]) -> ArmError:
    details = [Detail(one.refusal.code, one.refusal.message, one.refusal.target) for one in refusals]
    return ArmError(
        409,
        "ResourceGroupDeletionBlocked",
        f"Deletion of resource group '{group.id.name}' failed as resources with identifiers that are listed in the "
        "details could not be deleted. The provisioning state of the resource group will be rolled back. Please check "
        "details for resource deletion errors.",
        details=details,
    )
