"""The lists of all resources, whatever their kind."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from isthmus.lab.arm import filtering, paging, rules
from isthmus.lab.arm.calls import Answer, Call
from isthmus.lab.arm.engine import Engine, Page
from isthmus.lab.documents import Document
from isthmus.lab.ids import ResourceId

_SHOWN: Final = ("kind", "managedBy", "sku", "plan", "identity", "zones", "location", "tags")


async def list_resources(engine: Engine, call: Call, words: Mapping[str, str]) -> Answer:
    """``GET /subscriptions/S[/resourceGroups/G]/resources``, with ``$filter``, ``$top`` and ``$expand``."""
    subscription, group = words["subscription"], words.get("group")
    if group is not None and engine.store.world.get(ResourceId(subscription, group)) is None:
        raise rules.group_not_found(group)
    fits = filtering.parse(call.query.get("$filter"))
    expanded = "provisioningstate" in call.query.get("$expand", "").lower()
    shown = [one for one in _all(engine, subscription, group, expanded=expanded) if fits(one)]
    shown.sort(key=lambda one: str(one["id"]).lower())
    cut, link = paging.cut(call, [str(one["id"]) for one in shown])
    return Answer(200, paging.shown(shown[cut], link))


def _all(engine: Engine, subscription: str, group: str | None, *, expanded: bool) -> Iterator[dict[str, Any]]:
    for kind in engine.registry.kinds:
        if kind.is_tracked:
            for document in engine.store.world.all(kind.name, subscription=subscription, group=group):
                yield _shown(document, expanded=expanded)


def _shown(document: Document, *, expanded: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": str(document.id),
        "name": "/".join(document.id.names),
        "type": document.kind,
    }
    shown |= {name: document.body[name] for name in _SHOWN if document.body.get(name) is not None}
    if expanded:
        shown["provisioningState"] = document.state
    return shown


PAGES = (
    Page("GET", ("subscriptions", "{subscription}", "resources"), list_resources),
    Page("GET", ("subscriptions", "{subscription}", "resourcegroups", "{group}", "resources"), list_resources),
)
