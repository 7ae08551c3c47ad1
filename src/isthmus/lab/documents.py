"""What clients have asked for: one document a resource, read through a ``World`` and changed through a ``Change``.

A document holds what its client set, with the defaults filled in, and nothing that follows from other documents: that
an interface belongs to an endpoint, that a peering is connected, which connections a link service has, is found when it
is shown (``kinds.Kind.show``). So a fact has one owner, and there is nothing to repair between two documents.

Invariants: a ``Change`` is applied whole or not at all; a document's ``number`` never changes and is unique among the
documents of its kind that exist at one time (the packets are numbered by it).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

from isthmus.lab.ids import Key, ResourceId

#: The topic of notes that holds public DNS names: name without the last dot -> list of addresses.
PUBLIC_NAMES: Final = "publicNames"


class ProvisioningState(StrEnum):
    """Azure's states of a resource."""

    SUCCEEDED = "Succeeded"
    UPDATING = "Updating"
    DELETING = "Deleting"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class Document:
    """One resource.

    ``id`` is spelled as it was created, ``kind`` as Azure spells it. ``body`` is the JSON object as it would be shown,
    less what is derived: ``location``, ``tags``, ``sku``, ``properties`` and the like, but no ``id``, ``name``,
    ``type`` or ``etag``. ``etag`` is a bare GUID, new with each change; ``guid`` stays (Azure's ``resourceGuid``).
    """

    id: ResourceId
    kind: str
    number: int
    etag: str
    guid: str
    state: ProvisioningState
    body: Mapping[str, Any]

    @property
    def key(self) -> Key:
        """What its id is compared by."""
        return self.id.key

    @property
    def properties(self) -> Mapping[str, Any]:
        """``body["properties"]``, or nothing."""
        found: Mapping[str, Any] = self.body.get("properties") or {}
        return found


class World(Protocol):
    """What there is, at one moment."""

    def get(self, id: ResourceId | Key | str) -> Document | None:
        """The document with that id, in any spelling."""

    def children(self, id: ResourceId, kind: str) -> Iterator[Document]:
        """Those directly in ``id`` (a resource or a group) whose kind is ``kind``, by name."""

    def all(self, kind: str, *, subscription: str | None = None, group: str | None = None) -> Iterator[Document]:
        """Those of a kind, everywhere or in a subscription or in a group of it, in the order in which they were
        created.
        """

    def notes(self, topic: str) -> Mapping[str, Any]:
        """What is kept beside the documents under ``topic`` (``PUBLIC_NAMES``): JSON values by their key."""


class Change(World, Protocol):
    """A world with what is about to change in it. Nothing is kept before it is committed."""

    def put(self, id: ResourceId, kind: str, body: Mapping[str, Any]) -> Document:
        """Create or replace; a new etag in any case, a number and a guid if it is new."""

    def remove(self, id: ResourceId) -> None:
        """Remove one document; nothing happens if it is not there. What lies in it is not removed with it."""

    def note(self, topic: str, key: str, value: Any) -> None:
        """Keep a JSON value beside the documents; None removes it."""
