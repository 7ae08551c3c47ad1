"""Tags as resources of their own, and the names and values of a subscription's tags.

``{scope}/providers/Microsoft.Resources/tags/default`` shows and changes the tags of a resource, a group or a
subscription; ``tagNames`` counts them.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from isthmus.lab import ids
from isthmus.lab.arm import paging, rules
from isthmus.lab.arm.calls import Answer, Call
from isthmus.lab.arm.engine import Engine, Page
from isthmus.lab.documents import Document
from isthmus.lab.errors import ArmError
from isthmus.lab.ids import ResourceId
from isthmus.lab.kinds import Caller

#: Topics of notes: names that were made by hand (``subscription/name`` -> name and values), tags of subscriptions.
_NAMES: Final = "tagNames"
_TAGS: Final = "subscriptionTags"


async def show(engine: Engine, call: Call, words: Mapping[str, str]) -> Answer:
    """``GET {scope}/providers/Microsoft.Resources/tags/default``."""
    scope = _scope(words)
    return Answer(200, _shown(scope, _tags(engine, scope)))


async def replace(engine: Engine, call: Call, words: Mapping[str, str]) -> Answer:
    """PUT: these tags and no others."""
    scope = _scope(words)
    return Answer(200, _shown(scope, await _keep(engine, call, scope, _given(call.json()))))


async def update(engine: Engine, call: Call, words: Mapping[str, str]) -> Answer:
    """PATCH: ``operation`` is Merge, Replace or Delete."""
    scope, body = _scope(words), call.json()
    before, given = _tags(engine, scope), _given(body)
    lower = {name.lower(): value for name, value in given.items()}
    match str(body.get("operation", "Merge")).lower():
        case "replace":
            after = given
        case "merge":
            after = {name: value for name, value in before.items() if name.lower() not in lower} | given
        case "delete":
            after = {name: value for name, value in before.items() if lower.get(name.lower()) not in ("", value)}
        case other:
            raise ArmError(400, "InvalidTagPatchOperation", f"The tags operation '{other}' is not supported.")
    return Answer(200, _shown(scope, await _keep(engine, call, scope, after)))


async def clear(engine: Engine, call: Call, words: Mapping[str, str]) -> Answer:
    """DELETE: no tags any more."""
    await _keep(engine, call, _scope(words), {})
    return Answer(200)


def _scope(words: Mapping[str, str]) -> ResourceId:
    return ids.parse(words["scope"])


def _document(engine: Engine, scope: ResourceId) -> Document:
    world = engine.store.world
    if scope.group is not None and world.get(ResourceId(scope.subscription, scope.group)) is None:
        raise rules.group_not_found(scope.group)
    found = world.get(scope)
    if found is None:
        raise rules.resource_missing(scope)
    return found


def _tags(engine: Engine, scope: ResourceId) -> dict[str, str]:
    if scope.group is None and not scope.namespace:
        return dict(engine.store.world.notes(_TAGS).get(scope.key, {}))
    return dict(_document(engine, scope).body.get("tags") or {})


async def _keep(engine: Engine, call: Call, scope: ResourceId, tags: Mapping[str, str]) -> Mapping[str, str]:
    rules.check_tags({"tags": dict(tags)})
    if scope.group is None and not scope.namespace:
        draft = engine.store.draft()
        draft.note(_TAGS, scope.key, dict(tags))
        engine.store.commit(draft)
    else:
        document = _document(engine, scope)
        await engine.patch(document, {"tags": dict(tags)}, Caller(call.query.get("api-version", "")))
    return tags


def _given(body: Mapping[str, Any]) -> dict[str, str]:
    properties = body.get("properties")
    tags = properties.get("tags") if isinstance(properties, dict) else None
    if tags is not None and not isinstance(tags, dict):
        raise ArmError(400, "InvalidRequestContent", "The request content was invalid: 'tags' must be an object.")
    rules.check_tags({"tags": tags})
    return dict(tags or {})


def _shown(scope: ResourceId, tags: Mapping[str, str]) -> dict[str, Any]:
    return {
        "id": f"{scope}/providers/Microsoft.Resources/tags/default",
        "name": "default",
        "type": "Microsoft.Resources/tags",
        "properties": {"tags": dict(tags)},
    }


# -- names


async def list_names(engine: Engine, call: Call, words: Mapping[str, str]) -> Answer:
    """``GET /subscriptions/S/tagNames``."""
    subscription = words["subscription"]
    names: dict[str, tuple[str, dict[str, int], int]] = {}
    for kept in _names(engine, subscription):
        names[kept["name"].lower()] = (kept["name"], dict.fromkeys(kept["values"], 0), 0)
    for tags in _all_tags(engine, subscription):
        for name, value in tags.items():
            spelled, values, count = names.get(name.lower(), (name, {}, 0))
            names[name.lower()] = (spelled, {**values, value: values.get(value, 0) + 1}, count + 1)
    shown = [_name(subscription, *one) for one in names.values()]
    cut, link = paging.cut(call, [one["tagName"] for one in shown])
    return Answer(200, paging.shown(shown[cut], link))


async def put_name(engine: Engine, _call: Call, words: Mapping[str, str]) -> Answer:
    """``PUT /subscriptions/S/tagNames/NAME``."""
    subscription, name = words["subscription"], words["name"]
    rules.check_tags({"tags": {name: ""}})
    kept = _kept(engine, subscription, name)
    _keep_name(engine, subscription, name, kept["values"] if kept else [])
    return Answer(200 if kept else 201, _name(subscription, name, {}, 0))


async def delete_name(engine: Engine, _call: Call, words: Mapping[str, str]) -> Answer:
    """``DELETE /subscriptions/S/tagNames/NAME``."""
    subscription, name = words["subscription"], words["name"]
    if _kept(engine, subscription, name) is None:
        return Answer(204)
    _keep_name(engine, subscription, name, None)
    return Answer(200)


async def put_value(engine: Engine, _call: Call, words: Mapping[str, str]) -> Answer:
    """``PUT /subscriptions/S/tagNames/NAME/tagValues/VALUE``."""
    subscription, name, value = words["subscription"], words["name"], words["value"]
    rules.check_tags({"tags": {name: value}})
    kept = _kept(engine, subscription, name)
    if kept is None:
        raise ArmError(404, "TagNotFound", f"The tag '{name}' could not be found.")
    is_new = value not in kept["values"]
    _keep_name(engine, subscription, name, [*kept["values"], *([value] if is_new else [])])
    return Answer(201 if is_new else 200, _value(subscription, name, value, 0))


async def delete_value(engine: Engine, _call: Call, words: Mapping[str, str]) -> Answer:
    """``DELETE /subscriptions/S/tagNames/NAME/tagValues/VALUE``."""
    subscription, name, value = words["subscription"], words["name"], words["value"]
    kept = _kept(engine, subscription, name)
    if kept is None or value not in kept["values"]:
        return Answer(204)
    _keep_name(engine, subscription, name, [one for one in kept["values"] if one != value])
    return Answer(200)


def _names(engine: Engine, subscription: str) -> Iterator[Mapping[str, Any]]:
    for key, kept in engine.store.world.notes(_NAMES).items():
        if key.startswith(f"{subscription.lower()}/"):
            yield kept


def _kept(engine: Engine, subscription: str, name: str) -> Mapping[str, Any] | None:
    return engine.store.world.notes(_NAMES).get(f"{subscription}/{name}".lower())


def _keep_name(engine: Engine, subscription: str, name: str, values: list[str] | None) -> None:
    draft = engine.store.draft()
    kept = None if values is None else {"name": name, "values": values}
    draft.note(_NAMES, f"{subscription}/{name}".lower(), kept)
    engine.store.commit(draft)


def _all_tags(engine: Engine, subscription: str) -> Iterator[Mapping[str, str]]:
    for kind in engine.registry.kinds:
        if kind.is_tracked or kind.name == ids.GROUP_KIND:
            for document in engine.store.world.all(kind.name, subscription=subscription):
                yield document.body.get("tags") or {}


def _name(subscription: str, name: str, values: Mapping[str, int], count: int) -> dict[str, Any]:
    return {
        "id": f"/subscriptions/{subscription}/tagNames/{name}",
        "tagName": name,
        "count": {"type": "Total", "value": count},
        "values": [_value(subscription, name, value, times) for value, times in values.items()],
    }


def _value(subscription: str, name: str, value: str, count: int) -> dict[str, Any]:
    return {
        "id": f"/subscriptions/{subscription}/tagNames/{name}/tagValues/{value}",
        "tagValue": value,
        "count": {"type": "Total", "value": count},
    }


_DEFAULT: Final = ("{*scope}", "providers", "microsoft.resources", "tags", "default")
_TAG: Final = ("subscriptions", "{subscription}", "tagnames", "{name}")
_VALUE: Final = (*_TAG, "tagvalues", "{value}")

PAGES = (
    Page("GET", _DEFAULT, show),
    Page("PUT", _DEFAULT, replace),
    Page("PATCH", _DEFAULT, update),
    Page("DELETE", _DEFAULT, clear),
    Page("GET", ("subscriptions", "{subscription}", "tagnames"), list_names),
    Page("PUT", _TAG, put_name),
    Page("DELETE", _TAG, delete_name),
    Page("PUT", _VALUE, put_value),
    Page("DELETE", _VALUE, delete_value),
)
