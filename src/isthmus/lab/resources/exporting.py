"""What a group can do with all of its resources: write them down as a template; move them it cannot.

An exported template says what was asked for, as the documents have it, with the ids of the lab in it.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from isthmus.lab.arm import rules, versions
from isthmus.lab.arm.calls import Answer, Call
from isthmus.lab.arm.engine import Engine, Page
from isthmus.lab.documents import Document
from isthmus.lab.errors import ArmError, Detail
from isthmus.lab.ids import ResourceId

_SCHEMA: Final = "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"
_MEMBERS: Final = ("kind", "sku", "zones", "identity", "location", "tags")


async def export(engine: Engine, call: Call, words: Mapping[str, str]) -> Answer:
    """``POST .../exportTemplate`` with ``{"resources": ["*"]}`` or ids."""
    group = _group(engine, words)
    wanted = call.json().get("resources") or ["*"]
    if not isinstance(wanted, list) or not all(isinstance(one, str) for one in wanted):
        raise ArmError(400, "InvalidRequestContent", "The request content was invalid: 'resources' must be a list.")
    keys = {one.strip("/").lower() for one in wanted}
    resources = [
        _resource(document)
        for document in _contents(engine, group)
        if "*" in keys or str(document.id).strip("/").lower() in keys
    ]
    template = {"$schema": _SCHEMA, "contentVersion": "1.0.0.0", "parameters": {}, "variables": {}}
    return Answer(200, {"template": {**template, "resources": resources}})


async def move(engine: Engine, _call: Call, words: Mapping[str, str]) -> Answer:
    """``POST .../moveResources`` and ``.../validateMoveResources``: refused, and said so."""
    group = _group(engine, words)
    details = [
        Detail("ResourceNotMovable", "The lab does not move resources.", str(document.id))
        for document in _contents(engine, group)
    ]
    raise ArmError(
        409,
        "ResourceMoveProviderValidationFailed",
        "Resource move validation failed. Please see details.",
        details=details,
    )


def _group(engine: Engine, words: Mapping[str, str]) -> ResourceId:
    group = ResourceId(words["subscription"], words["group"])
    if engine.store.world.get(group) is None:
        raise rules.group_not_found(words["group"])
    return group


def _contents(engine: Engine, group: ResourceId) -> Iterator[Document]:
    for kind in engine.registry.kinds:
        if kind.is_tracked:
            yield from engine.store.world.all(kind.name, subscription=group.subscription, group=group.group)


def _resource(document: Document) -> dict[str, Any]:
    resource: dict[str, Any] = {
        "type": document.kind,
        "apiVersion": versions.NAMED[0],
        "name": "/".join(document.id.names),
    }
    resource |= {name: document.body[name] for name in _MEMBERS if document.body.get(name) is not None}
    return {**resource, "properties": document.properties}


_GROUP: Final = ("subscriptions", "{subscription}", "resourcegroups", "{group}")

PAGES = (
    Page("POST", (*_GROUP, "exporttemplate"), export),
    Page("POST", (*_GROUP, "moveresources"), move),
    Page("POST", (*_GROUP, "validatemoveresources"), move),
)
