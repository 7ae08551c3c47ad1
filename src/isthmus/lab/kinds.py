"""The port between the resource manager's protocol and the rules of each resource type.

``arm`` speaks HTTP for all kinds alike: routes, api-versions, ETags, paging, tags, asynchronous operations, state. A
``Kind`` knows one resource type: what a body must say, which defaults Azure fills in, what may not be deleted, how it
is shown. Kinds do no IO.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from isthmus.lab.documents import Change, Document, World
from isthmus.lab.errors import ArmError
from isthmus.lab.ids import ResourceId

Json = Mapping[str, Any]


class Style(StrEnum):
    """How a write is answered.

    ``SYNC``: 200 or 201 with the finished resource, deletes 200 (204 if there was nothing).
    ``NETWORK``: as Microsoft.Network does: 201 or 200 with ``provisioningState: Updating`` and
    ``Azure-AsyncOperation``; deletes 202 with ``Azure-AsyncOperation`` and ``Location``, 204 if there was nothing.
    ``PRIVATE_DNS``: as Microsoft.Network/privateDnsZones does: 202 without a body for zones and links, and operation
    results at ``privateDnsOperationStatuses`` and ``privateDnsOperationResults``.
    ``GROUP``: as ``SYNC``, but deletes 202 with ``Location`` alone, and 404 if there was nothing.
    ``DEPLOYMENT``: of a template: 201 with ``Azure-AsyncOperation`` below the deployment.
    """

    SYNC = "sync"
    NETWORK = "network"
    PRIVATE_DNS = "privateDns"
    GROUP = "resourceGroup"
    DEPLOYMENT = "deployment"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the api-version of the request (``2024-05-01``), and its query parameters."""

    api_version: str
    query: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Action:
    """A question beside or below resources: ``path`` is its last word, in lower case.

    (``checkprivatelinkservicevisibility``.) ``scope`` is the resource, group or subscription that the path names before
    it; ``location`` that of ``/locations/L/`` if any. ``kind`` is the kind of that resource, empty for actions of a
    namespace at a subscription, a group or a location of it. ``is_async`` actions are answered with 202 and a
    ``Location`` where their result is.
    """

    path: str
    answer: Callable[[World, ResourceId, str | None, Json, Caller], Json]
    is_async: bool = False
    method: str = "POST"
    kind: str = ""
    namespace: str = "Microsoft.Network"


class Kind(Protocol):
    """The rules of one resource type.

    All of them raise errors.ArmError for what Azure refuses. ``write`` and ``remove`` may change other documents as
    well (an endpoint brings its interface).
    """

    name: str
    """As Azure spells it: ``Microsoft.Network/privateEndpoints``."""
    style: Style
    is_tracked: bool
    """Has a location and tags, and appears in lists of resources and of a subscription."""

    def write(self, change: Change, id: ResourceId, body: Json, before: Document | None, caller: Caller) -> Document:
        """PUT: check ``body``, fill in defaults, put the document (and what comes with it) into ``change``."""

    def patch(self, change: Change, document: Document, body: Json, caller: Caller) -> Document:
        """PATCH: for most kinds tags alone."""

    def remove(self, change: Change, document: Document, caller: Caller) -> None:
        """DELETE: refuse what is in use, remove the rest with all that lies in it."""

    def show(self, world: World, document: Document, caller: Caller) -> dict[str, Any]:
        """All of the JSON object: id, name, type, etag, provisioning state, and what follows from other documents."""


@runtime_checkable
class Conditional(Protocol):
    """What a kind may have besides: words of its own for an ``If-Match`` or ``If-None-Match`` that does not hold."""

    def changed(self, id: ResourceId) -> ArmError:
        """``If-Match`` names another etag than the resource has, or there is no resource."""

    def exists(self, id: ResourceId) -> ArmError:
        """``If-None-Match: *``, and there is one."""


@runtime_checkable
class Decided(Protocol):
    """What a kind of style NETWORK may have besides: its writes are decisions that clients do not poll, so they are
    answered when the packets follow, or after as long as an operation's status is held.
    """

    is_decision: bool


@runtime_checkable
class Mixed(Protocol):
    """What a kind may have besides: resources that follow from others and have no documents of their own."""

    def list(self, world: World, parent: ResourceId, caller: Caller) -> Sequence[dict[str, Any]]:
        """All of them in ``parent``, with and without documents."""

    def find(self, world: World, id: ResourceId, caller: Caller) -> dict[str, Any]:
        """One that has no document. Raises errors.ArmError (404) if there is none."""


class Virtual(Protocol):
    """A kind without documents: it is only shown, and follows from others (a load balancer's parts, default security
    rules).
    """

    name: str

    def list(self, world: World, parent: ResourceId, caller: Caller) -> Sequence[dict[str, Any]]:
        """All of them in ``parent``."""
