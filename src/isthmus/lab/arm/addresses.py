"""Paths: which resource, collection, action or operation a request means.

``/subscriptions/S[/resourceGroups/G][/providers/NAMESPACE/...]`` in any case. After the namespace come types and names
in turn: an even number of words is a resource, an odd number a collection, or an action if the last word is the name
of one. ``locations/L/...`` leads to actions and operations of the namespace.
"""

from dataclasses import dataclass

from isthmus.lab import ids
from isthmus.lab.arm.registry import Registry
from isthmus.lab.errors import ArmError
from isthmus.lab.ids import ResourceId


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource, of a kind that may be unknown."""

    id: ResourceId
    kind: str


@dataclass(frozen=True, slots=True)
class Collection:
    """All resources of a kind in a resource, a group or a subscription."""

    parent: ResourceId
    kind: str


@dataclass(frozen=True, slots=True)
class Question:
    """An action of a resource, or of a namespace at a group or a subscription, perhaps in a location."""

    scope: ResourceId
    location: str | None
    namespace: str
    kind: str
    path: str


@dataclass(frozen=True, slots=True)
class Following:
    """An asynchronous operation: ``sort`` is the word before its id, in lower case."""

    subscription: str
    sort: str
    operation: str


Address = Resource | Collection | Question | Following

#: The words before an operation's id that are not below a location.
_OPERATION_WORDS = ("privatednsoperationstatuses", "privatednsoperationresults")
_LOCATION_WORDS = ("operations", "operationresults", "operationstatuses")


def find(segments: tuple[str, ...], registry: Registry) -> Address:
    """What the path of a request names. Raises errors.ArmError (404) for paths that name nothing."""
    words = list(segments)
    if not words or words[0].lower() != "subscriptions" or len(words) < 2:
        raise nothing_there()
    subscription, rest = words[1], words[2:]
    group: str | None = None
    if rest and rest[0].lower() == "resourcegroups":
        if len(rest) == 1:
            return Collection(ResourceId(subscription), ids.GROUP_KIND)
        group, rest = rest[1], rest[2:]
    scope = ResourceId(subscription, group)
    if not rest:
        return Resource(scope, scope.kind)
    if rest[0].lower() == "operationresults" and group is None and len(rest) == 2:
        return Following(subscription, "operationresults", rest[1])
    if rest[0].lower() != "providers" or len(rest) < 3:
        raise nothing_there()
    return _below(scope, rest[1], rest[2:], registry)


def _below(scope: ResourceId, namespace: str, words: list[str], registry: Registry) -> Address:
    following = _operation(scope, words)
    if following is not None:
        return following
    if words[0].lower() == "locations" and len(words) == 3:
        return Question(scope, words[1], namespace, "", words[2].lower())
    types, names = tuple(words[::2]), tuple(words[1::2])
    if len(types) == len(names):
        return Resource(ResourceId(scope.subscription, scope.group, namespace, types, names), _kind(namespace, types))
    holder = ResourceId(scope.subscription, scope.group, namespace, types[:-1], names) if names else scope
    kind = _kind(namespace, types[:-1]) if names else ""
    if registry.has_action(namespace, kind, types[-1]):
        return Question(holder, None, namespace, kind, types[-1].lower())
    return Collection(holder, _kind(namespace, types))


def _operation(scope: ResourceId, words: list[str]) -> Following | None:
    lower = [word.lower() for word in words]
    if len(words) == 2 and lower[0] in _OPERATION_WORDS:
        return Following(scope.subscription, lower[0], words[1])
    below_location = lower[0] == "locations" and lower[2:3] and lower[2] in _LOCATION_WORDS
    if len(words) == 4 and (below_location or lower[2] == "operationstatuses"):
        return Following(scope.subscription, lower[2], words[3])
    return None


def _kind(namespace: str, types: tuple[str, ...]) -> str:
    return "/".join((namespace, *types))


def nothing_there() -> ArmError:
    """No route leads there."""
    return ArmError(404, "NotFound", "No HTTP resource was found that matches the request URI.")


def unknown_kind(kind: str, api_version: str, registry: Registry) -> ArmError:
    """A namespace or a type of it that does not exist, in the words of the resource manager."""
    namespace = kind.partition("/")[0]
    if namespace.lower() not in {one.lower() for one in registry.namespaces()}:
        return ArmError(404, "InvalidResourceNamespace", f"The resource namespace '{namespace}' is invalid.")
    return ArmError(
        404,
        "InvalidResourceType",
        f"The resource type could not be found in the namespace '{namespace}' for api version '{api_version}'.",
    )
