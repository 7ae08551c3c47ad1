"""Templates: from what a client sent to the resources that are to be made, in order.

Pure: a ``Plan`` is made before anything is changed, and a template that makes no sense is refused as a whole
(``InvalidTemplate``). ``copy`` loops, nested deployments and functions of the user's own are refused too.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from isthmus.lab import ids
from isthmus.lab.errors import ArmError
from isthmus.lab.ids import Key, ResourceId
from isthmus.lab.resources import expressions
from isthmus.lab.resources.expressions import ExpressionError, Function
from isthmus.lab.resources.functions import PURE

_MAX_RESOURCES: Final = 800
#: What belongs to the template and not to the resource.
_TEMPLATE_MEMBERS: Final = frozenset(
    {"type", "name", "apiversion", "dependson", "condition", "comments", "copy", "resources", "scope", "existing"}
)
_TYPES: Final = {
    "string": str,
    "securestring": str,
    "int": int,
    "bool": bool,
    "object": dict,
    "secureobject": dict,
    "array": list,
}


@dataclass(frozen=True, slots=True)
class Planned:
    """One resource: ``body`` still has expressions, ``after`` are those of the template that have to be there first."""

    id: ResourceId
    api_version: str
    body: Mapping[str, Any]
    after: tuple[Key, ...]
    location: str | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a template asks for. ``parameters`` as they are shown, ``functions`` all but those that need what exists."""

    resources: tuple[Planned, ...]
    parameters: Mapping[str, Any]
    outputs: Mapping[str, Any]
    functions: Mapping[str, Function]
    hash: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a template can ask about where it is deployed."""

    group: Mapping[str, Any]
    subscription: Mapping[str, Any]
    deployment: Mapping[str, Any]


def plan(properties: Mapping[str, Any], scope: ResourceId, surroundings: Surroundings) -> Plan:
    """The plan of a deployment's ``properties``. Raises errors.ArmError (400, InvalidTemplate)."""
    template = properties.get("template")
    if not isinstance(template, dict):
        raise ArmError(400, "InvalidRequestContent", "The request content was invalid: 'template' must be an object.")
    for name in ("parameters", "variables", "outputs"):
        if not isinstance(template.get(name) or {}, dict):
            raise invalid(f"The template's '{name}' must be an object.")
    given = properties.get("parameters") or {}
    if not isinstance(given, dict):
        raise ArmError(400, "InvalidRequestContent", "The request content was invalid: 'parameters' must be an object.")
    try:
        return _plan(template, given, scope, surroundings)
    except ExpressionError as error:
        raise invalid(str(error)) from None


def invalid(message: str) -> ArmError:
    """A template that cannot be deployed."""
    return ArmError(400, "InvalidTemplate", f"Deployment template validation failed: '{message}'.")


def body_of(planned: Planned, functions: Mapping[str, Function]) -> dict[str, Any]:
    """A resource's body with all expressions evaluated. Raises errors.ArmError (400, InvalidTemplate)."""
    try:
        found = expressions.resolve(dict(planned.body), functions)
    except ExpressionError as error:
        raise ArmError(
            400,
            "InvalidTemplate",
            f"Unable to process template language expressions for resource '{planned.id}'. '{error}'",
        ) from None
    assert isinstance(found, dict)  # noqa: S101  (as it went in)
    return found


def _plan(template: Mapping[str, Any], given: Mapping[str, Any], scope: ResourceId, surroundings: Surroundings) -> Plan:
    functions = _functions(scope, surroundings)
    shown, values = _parameters(template.get("parameters") or {}, given, functions)
    functions["parameters"] = lambda arguments: _named(values, arguments[0], "parameter")
    functions["variables"] = _Variables(template.get("variables") or {}, functions)
    resources = _resources(template.get("resources"), scope, functions)
    return Plan(
        resources=_ordered(resources),
        parameters=shown,
        outputs=template.get("outputs") or {},
        functions=functions,
        hash=str(int.from_bytes(hashlib.sha256(json.dumps(template, sort_keys=True).encode()).digest()[:8], "big")),
    )


class _Variables:
    """``variables('name')``: each evaluated once, when it is asked for."""

    def __init__(self, variables: Mapping[str, Any], functions: Mapping[str, Function]) -> None:
        self._variables = variables
        self._functions = functions
        self._known: dict[str, Any] = {}
        self._asked: set[str] = set()

    def __call__(self, arguments: Sequence[Any]) -> Any:
        name = str(arguments[0]).lower()
        if name not in self._known:
            if name in self._asked:
                raise ExpressionError(f"The template variable '{arguments[0]}' refers to itself.")
            self._asked.add(name)
            value = expressions.resolve(_named(self._variables, arguments[0], "variable"), self._functions)
            expressions.check_weight(value)
            self._known[name] = value
        return self._known[name]


def _functions(scope: ResourceId, surroundings: Surroundings) -> dict[str, Function]:
    return {
        **PURE,
        "resourcegroup": lambda _: surroundings.group,
        "subscription": lambda _: surroundings.subscription,
        "deployment": lambda _: surroundings.deployment,
        "resourceid": lambda arguments: _resource_id(scope, arguments),
        "subscriptionresourceid": lambda arguments: _resource_id(ResourceId(scope.subscription), arguments),
    }


def _named(values: Mapping[str, Any], name: object, what: str) -> Any:
    for known, value in values.items():
        if known.lower() == str(name).lower():
            return value
    raise ExpressionError(f"The template {what} '{name}' is not found.")


def _resource_id(scope: ResourceId, arguments: Sequence[Any]) -> str:
    """``resourceId([subscription], [group], type, name, ...)``."""
    words = [str(one) for one in arguments]
    position = next((index for index, word in enumerate(words) if "/" in word), None)
    if position is None or position > 2:
        raise ExpressionError("The type is expected among the first three parameters of 'resourceId'.")
    before, kind, names = words[:position], words[position], words[position + 1 :]
    namespace, *types = kind.split("/")
    if len(types) != len(names) or not all((namespace, *types, *names)):
        raise ExpressionError(f"Unable to evaluate 'resourceId' for '{kind}': it has another number of names.")
    subscription = before[0] if len(before) == 2 else scope.subscription
    group = before[-1] if before else scope.group
    return str(ResourceId(subscription, group, namespace, tuple(types), tuple(names)))


# -- parameters


def _parameters(
    declared: Mapping[str, Any], given: Mapping[str, Any], functions: dict[str, Function]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters as they are shown, and their values."""
    known = {name.lower() for name in declared}
    unknown = [name for name in given if name.lower() not in known]
    if unknown:
        raise invalid(
            f"The template parameters '{', '.join(unknown)}' in the parameters file are not valid; they are not "
            "present in the original template and can therefore not be provided at deployment time. The only supported "
            f"parameters for this template are '{', '.join(declared)}'"
        )
    shown: dict[str, Any] = {}
    values: dict[str, Any] = {}
    functions["parameters"] = lambda arguments: _named(values, arguments[0], "parameter")
    for name, declaration in declared.items():
        if not isinstance(declaration, dict):
            raise invalid(f"The template parameter '{name}' must be an object.")
        kind = str(declaration.get("type", "")).lower()
        values[name] = _value(name, declaration, kind, given, functions)
        shown[name] = {"type": _spelled(kind)}
        if not kind.startswith("secure"):
            shown[name]["value"] = values[name]
    return shown, values


def _value(
    name: str,
    declaration: Mapping[str, Any],
    kind: str,
    given: Mapping[str, Any],
    functions: Mapping[str, Function],
) -> Any:
    entry = next((one for known, one in given.items() if known.lower() == name.lower()), None)
    if isinstance(entry, dict) and "value" in entry:
        value = entry["value"]
    elif "defaultValue" in declaration:
        value = expressions.resolve(declaration["defaultValue"], functions)
    else:
        raise invalid(
            f"The value for the template parameter '{name}' is not provided. Please see "
            "https://aka.ms/arm-create-parameter-file for usage details."
        )
    expected = _TYPES.get(kind)
    if expected is None:
        raise invalid(f"The template parameter '{name}' has the type '{kind}', which is not valid.")
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise invalid(f"Template parameter JToken type is not valid. Expected '{_spelled(kind)}' for '{name}'.")
    allowed = declaration.get("allowedValues")
    if isinstance(allowed, list) and value not in allowed:
        raise invalid(
            f"The provided value for the template parameter '{name}' is not valid. The value '{value}' is not part of "
            f"the allowed value(s): '{','.join(str(one) for one in allowed)}'."
        )
    return value


def _spelled(kind: str) -> str:
    return {"securestring": "SecureString", "secureobject": "SecureObject"}.get(kind, kind.capitalize())


# -- resources


def _resources(found: Any, scope: ResourceId, functions: Mapping[str, Function]) -> list[Planned]:
    listed = list(found.values()) if isinstance(found, dict) else (found or [])
    if not isinstance(listed, list):
        raise invalid("The template's 'resources' must be an array.")
    flat = [one for resource in listed for one in _flattened(resource, "", "", functions)]
    if len(flat) > _MAX_RESOURCES:
        raise invalid(f"The number of template resources limit exceeded. Limit: '{_MAX_RESOURCES}'.")
    wanted = [(_id(scope, one, functions), one) for one in flat if _is_wanted(one, functions)]
    left_out = {_id(scope, one, functions).key for one in flat} - {id.key for id, _ in wanted}
    keys = [id.key for id, _ in wanted]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise invalid(f"The resource '{twice}' is defined multiple times in a template.")
    known = [id for id, _ in wanted]
    return [_planned(id, resource, known, left_out, functions) for id, resource in wanted]


def _flattened(resource: Any, kind: str, name: str, functions: Mapping[str, Function]) -> list[dict[str, Any]]:
    """A resource and those that are written inside it, with whole types and names."""
    if not isinstance(resource, dict) or not isinstance(resource.get("type"), str):
        raise invalid("A template resource must be an object with a 'type' and a 'name'.")
    if resource.get("copy") is not None:
        raise invalid("'copy' is not supported by the lab")
    own_name = expressions.resolve(resource.get("name"), functions)
    if not isinstance(own_name, str) or not own_name:
        raise invalid(f"The template resource of type '{resource['type']}' has no valid name.")
    own_kind = str(resource["type"])
    if kind:
        own_kind = own_kind if own_kind.lower().startswith(f"{kind.lower()}/") else f"{kind}/{own_kind}"
        own_name = own_name if own_name.lower().startswith(f"{name.lower()}/") else f"{name}/{own_name}"
    whole = {**resource, "type": own_kind, "name": own_name, "within": name and f"{kind}/{name}"}
    inner = resource.get("resources") or []
    if not isinstance(inner, list) or kind.count("/") > 8:
        raise invalid(f"The nested resources of '{own_name}' are not valid.")
    return [whole, *(one for child in inner for one in _flattened(child, own_kind, own_name, functions))]


def _is_wanted(resource: Mapping[str, Any], functions: Mapping[str, Function]) -> bool:
    condition = expressions.resolve(resource.get("condition", True), functions)
    if not isinstance(condition, bool):
        raise invalid(f"The condition of the template resource '{resource['name']}' must be a boolean.")
    return condition


def _id(scope: ResourceId, resource: Mapping[str, Any], functions: Mapping[str, Function]) -> ResourceId:
    namespace, *types = str(expressions.resolve(resource["type"], functions)).split("/")
    names = str(resource["name"]).split("/")
    if len(types) != len(names) or not all((namespace, *types, *names)):
        raise invalid(
            f"The template resource '{resource['name']}' for type '{resource['type']}' has incorrect segment lengths. "
            "A nested resource type must have identical number of segments as its resource name. A root resource type "
            "must have segment length one greater than its resource name. Please see "
            "https://aka.ms/arm-syntax-resources for usage details."
        )
    return ResourceId(scope.subscription, scope.group, namespace, tuple(types), tuple(names))


def _planned(
    id: ResourceId,
    resource: Mapping[str, Any],
    known: Sequence[ResourceId],
    left_out: set[Key],
    functions: Mapping[str, Function],
) -> Planned:
    version = expressions.resolve(resource.get("apiVersion"), functions)
    if not isinstance(version, str) or not re.fullmatch(r"\d{4}-\d{2}-\d{2}(-\w+)?", version):
        raise invalid(f"The template resource '{resource['name']}' has no valid 'apiVersion'.")
    depends = expressions.resolve(resource.get("dependsOn") or [], functions)
    if not isinstance(depends, list):
        raise invalid(f"'dependsOn' of the template resource '{resource['name']}' must be an array.")
    after: list[Key] = []
    for one in depends:
        found = _find(str(one), known)
        if found is not None:
            after.append(found.key)
        elif not any(_is_meant(str(one), key) for key in left_out):
            raise invalid(
                f"The resource '{one}' is not defined in the template. Please see https://aka.ms/arm-syntax for usage "
                "details."
            )
    body = {name: value for name, value in resource.items() if name.lower() not in _TEMPLATE_MEMBERS | {"within"}}
    after += [one.key for one in _referred(body, known, functions)]
    after += [one.key for one in known if id.key.startswith(f"{one.key}/")]
    location = body.get("location")
    return Planned(
        id=id,
        api_version=version,
        body=body,
        after=tuple(dict.fromkeys(key for key in after if key != id.key)),
        location=location if isinstance(location, str) and not expressions.is_expression(location) else None,
    )


def _is_meant(text: str, key: Key) -> bool:
    return key.endswith(f"/{text.strip('/').lower()}") or key == ids.key(text)


def _find(text: str, known: Sequence[ResourceId]) -> ResourceId | None:
    """The resource of the template that a name, a type with a name, or an id means."""
    wanted = text.strip("/").lower()
    for id in known:
        whole_name = "/".join(id.names).lower()
        typed = f"{id.kind}/{whole_name}".lower()
        interleaved = str(id).lower().partition("/providers/")[2]
        if wanted in (whole_name, typed, interleaved) or ids.key(text) == id.key:
            return id
    return None


def _referred(body: Any, known: Sequence[ResourceId], functions: Mapping[str, Function]) -> list[ResourceId]:
    """What ``reference`` names in a body, as far as it is in the template: Azure waits for it unasked."""
    found: list[ResourceId] = []
    for expression in expressions.found_in(body):
        for one in expressions.invocations(expression):
            if one.function.lower() == "reference" and one.arguments:
                target = _find(str(expressions.evaluate(one.arguments[0], functions)), known)
                found += [target] if target is not None else []
    return found


def _ordered(resources: Sequence[Planned]) -> tuple[Planned, ...]:
    """Each after those that it needs, otherwise as they are written."""
    done: dict[Key, Planned] = {}
    left = list(resources)
    while left:
        ready = [one for one in left if all(key in done for key in one.after)]
        if not ready:
            raise invalid(
                f"Circular dependency detected on resource: '{left[0].id}'. Please see "
                "https://aka.ms/arm-syntax-resources for usage details."
            )
        done |= {one.id.key: one for one in ready}
        left = [one for one in left if one.id.key not in done]
    return tuple(done.values())


def find(text: str, resources: Sequence[Planned]) -> ResourceId | None:
    """The resource of a plan that ``reference`` means."""
    return _find(text, [one.id for one in resources])
