"""How Microsoft.Network shows resources and their parts: the members around ``properties``.

A part (an IP configuration, a load balancer's rule) has the etag and the state of the resource it lies in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from isthmus.lab.documents import Document, ProvisioningState
from isthmus.lab.ids import ResourceId
from isthmus.lab.kinds import Caller


def etag(document: Document) -> str:
    """``W/"<guid>"``."""
    return f'W/"{document.etag}"'


def settled(document: Document) -> Document:
    """A document of a kind that Azure shows as Succeeded even while an operation updates it (as recorded)."""
    is_updating = document.state is ProvisioningState.UPDATING
    return replace(document, state=ProvisioningState.SUCCEEDED) if is_updating else document


def resource(document: Document, properties: Mapping[str, Any], *, has_guid: bool = True) -> dict[str, Any]:
    """A resource: ``properties`` in place of the document's own."""
    around = {name: value for name, value in document.body.items() if name != "properties"}
    state: dict[str, Any] = {"provisioningState": str(document.state)}
    if has_guid:
        state["resourceGuid"] = document.guid
    return {
        "name": document.id.name,
        "id": str(document.id),
        "etag": etag(document),
        "type": document.kind,
        **around,
        "properties": {**state, **properties},
    }


def part(document: Document, id: ResourceId, body: Mapping[str, Any], properties: Mapping[str, Any]) -> dict[str, Any]:
    """A part of ``document``: ``body`` is what the document says of it, ``properties`` stand in place of the body's."""
    around = {name: value for name, value in body.items() if name not in ("properties", "name")}
    return {
        "name": id.name,
        "id": str(id),
        "etag": etag(document),
        "type": id.kind,
        **around,
        "properties": {"provisioningState": str(document.state), **properties},
    }


def reference(id: ResourceId | str) -> dict[str, str]:
    """``{"id": ...}``."""
    return {"id": str(id)}


def references(found: Sequence[ResourceId | str]) -> list[dict[str, str]]:
    """``[{"id": ...}, ...]``."""
    return [reference(one) for one in found]


def if_any(name: str, found: Sequence[ResourceId | str]) -> dict[str, Any]:
    """The member ``name`` with references, left out if there are none."""
    return {name: references(found)} if found else {}


def is_since(caller: Caller, version: str) -> bool:
    """The caller's api-version is ``version`` or later."""
    return caller.api_version[:10] >= version
