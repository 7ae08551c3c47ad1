"""Asynchronous operations: a write is accepted, packets follow, and clients ask how far it is.

Each provider of Azure's has its own addresses and its own bodies for this; ``kinds.Style`` says which. Operations live
in memory; a note beside the documents remembers them, so that a client that asks after a restart hears the truth: what
was accepted was on disk, and the start has made the packets follow.
"""

import asyncio
import base64
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final
from urllib.parse import quote

from isthmus.lab import ids
from isthmus.lab.arm.calls import Answer
from isthmus.lab.documents import Change, Document, World
from isthmus.lab.errors import Detail, Refusal
from isthmus.lab.ids import Key, ResourceId
from isthmus.lab.kinds import Style

#: The topic of notes that remembers operations.
TOPIC: Final = "operations"
#: How many are remembered.
_REMEMBERED: Final = 256
#: What clients are asked to wait before they ask again. azure-core takes 0 for "not said", which is 30 s.
RETRY_SECONDS: Final = 1


#: Deployments do not go on after a restart.
_INTERRUPTED: Final = Refusal(409, "DeploymentInterrupted", "The lab ended while the deployment ran. Deploy it again.")


class Status(StrEnum):
    """Azure's states of an operation."""

    IN_PROGRESS = "InProgress"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(slots=True)
class Operation:
    """One operation on ``target``; ``api_version`` is that of the request that began it.

    ``result`` is what an action found, ``ghost`` what a delete removes, and the world that it is shown in meanwhile.
    """

    id: str
    style: Style
    target: ResourceId
    location: str
    api_version: str
    is_delete: bool = False
    status: Status = Status.IN_PROGRESS
    refusal: Refusal | None = None
    result: Mapping[str, Any] | None = None
    ghost: tuple[World, Document] | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_running(self) -> bool:
        """It has not ended."""
        return self.status is Status.IN_PROGRESS

    def end(self, refusal: Refusal | None = None) -> None:
        """It succeeded, or failed for ``refusal``."""
        self.refusal = refusal
        self.status = Status.FAILED if refusal is not None else Status.SUCCEEDED
        self.ghost = None
        self.ended.set()

    def status_url(self, origin: str) -> str:
        """Where its status is."""
        return self._url(origin, "operations", "privateDnsOperationStatuses")

    def result_url(self, origin: str) -> str:
        """Where its result is."""
        return self._url(origin, "operationResults", "privateDnsOperationResults")

    def _url(self, origin: str, network_word: str, private_dns_word: str) -> str:
        subscription = f"{origin}/subscriptions/{quote(self.target.subscription)}"
        match self.style:
            case Style.PRIVATE_DNS:
                group = quote(self.target.group or "")
                path = f"/resourceGroups/{group}/providers/Microsoft.Network/{private_dns_word}/{self.id}"
            case Style.GROUP:
                path = f"/operationresults/{self.id}"
            case Style.DEPLOYMENT:
                deployment = quote(str(self.target))
                return f"{origin}{deployment}/operationStatuses/{self.id}?api-version={quote(self.api_version)}"
            case _:
                path = f"/providers/Microsoft.Network/locations/{quote(self.location)}/{network_word}/{self.id}"
        return f"{subscription}{path}?api-version={quote(self.api_version)}"


class Operations:
    """Those that run, and those that ended not long ago."""

    def __init__(self, world: World) -> None:
        self._operations: dict[str, Operation] = {}
        for name, kept in world.notes(TOPIC).items():
            operation = _from_json(name, kept)
            if operation.is_running:
                operation.end(_INTERRUPTED if operation.style is Style.DEPLOYMENT else None)
            self._operations[name] = operation

    def begin(self, change: Change, operation: Operation) -> None:
        """It runs from now on; ``change`` remembers it."""
        self._operations[operation.id] = operation
        self.remember(change, operation)
        for old in list(self._operations.values())[: max(0, len(self._operations) - _REMEMBERED)]:
            if not old.is_running:
                del self._operations[old.id]
                change.note(TOPIC, old.id, None)

    def forget(self, operation: Operation) -> None:
        """It was never accepted."""
        self._operations.pop(operation.id, None)

    def remember(self, change: Change, operation: Operation) -> None:
        """Keep how it stands."""
        change.note(TOPIC, operation.id, _to_json(operation))

    def get(self, id: str) -> Operation | None:
        """The operation with that id."""
        return self._operations.get(id)

    def running_on(self, key: Key) -> Operation | None:
        """The one that is changing exactly that resource."""
        return next((one for one in self._running() if one.target.key == key), None)

    def conflicting(self, id: ResourceId, style: Style) -> Operation | None:
        """The one that a write has to wait for: on the same resource; in Microsoft.Network on the same top resource."""
        for one in self._running():
            same = one.style is style is Style.NETWORK and _top(one.target) == _top(id)
            falls = one.style is Style.GROUP and one.is_delete and _lies_in(id, one.target)
            if same or falls or one.target.key == id.key:
                return one
        return None

    def _running(self) -> list[Operation]:
        return [one for one in self._operations.values() if one.is_running]


def new_id(style: Style, target: ResourceId, verb: str, location: str) -> str:
    """An id in the form that the provider's have."""
    guid = str(uuid.uuid4())
    match style:
        case Style.PRIVATE_DNS:
            word = "VirtualNetworkLink" if len(target.types) > 1 else "PrivateDnsZone"
            return _encoded(f"FrontEndAsyncOperation;{verb}{word};{guid}")
        case Style.GROUP:
            name = (target.group or "").upper().replace("-", ":2D").replace("_", ":5F")
            return _encoded(f'{{"jobId":"RESOURCEGROUPDELETIONJOB-{name}-{guid.upper()}","jobLocation":"{location}"}}')
        case Style.DEPLOYMENT:
            return str(uuid.uuid4().int)[:20]
        case _:
            return guid


def status_of(operation: Operation, origin: str) -> Answer:
    """The answer where an operation's status is."""
    is_deploying = operation.is_running and operation.style is Style.DEPLOYMENT
    body: dict[str, Any] = {"status": "Running" if is_deploying else operation.status}
    if operation.refusal is not None:
        body["error"] = operation.refusal.body()
    if not operation.is_running:
        return Answer(200, body)
    headers = {"Retry-After": str(RETRY_SECONDS)}
    if operation.style is Style.PRIVATE_DNS:
        headers |= {
            "Azure-AsyncOperation": operation.status_url(origin),
            "Location": operation.result_url(origin),
        }
        return Answer(202, body, headers)
    return Answer(200, body, headers)


def waiting(operation: Operation, origin: str) -> Answer:
    """The answer where an operation's result will be."""
    headers = {"Location": operation.result_url(origin), "Retry-After": str(RETRY_SECONDS)}
    if operation.style is not Style.GROUP:
        headers["Azure-AsyncOperation"] = operation.status_url(origin)
    return Answer(202, None, headers)


def _top(id: ResourceId) -> Key:
    return ResourceId(id.subscription, id.group, id.namespace, id.types[:1], id.names[:1]).key


def _lies_in(id: ResourceId, group: ResourceId) -> bool:
    return id.group is not None and ResourceId(id.subscription, id.group).key == group.key


def _encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _to_json(operation: Operation) -> dict[str, Any]:
    return {
        "style": operation.style,
        "target": str(operation.target),
        "location": operation.location,
        "apiVersion": operation.api_version,
        "isDelete": operation.is_delete,
        "status": operation.status,
        "error": None
        if operation.refusal is None
        else {
            "status": operation.refusal.status,
            "code": operation.refusal.code,
            "message": operation.refusal.message,
            "target": operation.refusal.target,
            "details": [[one.code, one.message, one.target] for one in operation.refusal.details],
            "hasDetails": operation.refusal.has_details,
        },
        "result": operation.result,
    }


def _refusal(kept: Mapping[str, Any]) -> Refusal:
    return Refusal(
        status=kept["status"],
        code=kept["code"],
        message=kept["message"],
        target=kept["target"],
        details=tuple(Detail(*one) for one in kept["details"]),
        has_details=kept["hasDetails"],
    )


def _from_json(id: str, kept: Mapping[str, Any]) -> Operation:
    error = kept["error"]
    return Operation(
        id=id,
        style=Style(kept["style"]),
        target=ids.parse(kept["target"]),
        location=kept["location"],
        api_version=kept["apiVersion"],
        is_delete=kept["isDelete"],
        status=Status(kept["status"]),
        refusal=None if error is None else _refusal(error),
        result=kept["result"],
    )
