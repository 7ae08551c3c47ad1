"""Deployments of templates to resource groups: ``Microsoft.Resources/deployments``, mode Incremental.

A deployment is a document of its own: what was asked for, how far it came, what each resource became. It runs beside
the request, one resource after another in the order of the plan; each is written as if a client had written it. What
does not need a resource that failed goes on, as in Azure.
"""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from isthmus.lab import ids
from isthmus.lab.arm import rules, versions
from isthmus.lab.arm.engine import Engine
from isthmus.lab.documents import Change, Document, World
from isthmus.lab.errors import ArmError, Detail, Refusal
from isthmus.lab.ids import Key, ResourceId
from isthmus.lab.kinds import Caller, Json, Style
from isthmus.lab.resources import expressions, templates
from isthmus.lab.resources.expressions import ExpressionError, Function
from isthmus.lab.resources.templates import Plan, Planned

KIND: Final = "Microsoft.Resources/deployments"

_ENDED: Final = frozenset({"Succeeded", "Failed", "Canceled"})
_ASK_FOR_DETAILS: Final = (
    "At least one resource deployment operation failed. Please list deployment operations for details. Please see "
    "https://aka.ms/arm-deployment-operations for usage details."
)


class Deployments:
    """The kind: only what groups and lists need; writing goes through ``begin``."""

    name = KIND
    style = Style.SYNC
    is_tracked = False

    def write(self, change: Change, id: ResourceId, body: Json, before: Document | None, caller: Caller) -> Document:
        """Not by PUT of a template's resource: nested deployments are not supported."""
        raise templates.invalid("Nested deployments are not supported by the lab")

    def patch(self, change: Change, document: Document, body: Json, caller: Caller) -> Document:
        """There is no PATCH."""
        raise rules.not_allowed("PATCH", {"GET", "HEAD", "PUT", "DELETE"})

    def remove(self, change: Change, document: Document, caller: Caller) -> None:
        """Forget the deployment; what it deployed stays."""
        change.remove(document.id)

    def show(self, world: World, document: Document, caller: Caller) -> dict[str, Any]:
        """The deployment without what is kept beside it."""
        shown: dict[str, Any] = {
            "id": str(document.id),
            "name": document.id.name,
            "type": KIND,
        }
        if document.body.get("tags"):
            shown["tags"] = document.body["tags"]
        return {**shown, "properties": document.properties}


@dataclass(slots=True)
class Running:
    """A deployment on its way."""

    id: ResourceId
    plan: Plan
    body: dict[str, Any]
    began: float = field(default_factory=time.monotonic)
    operations: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[Key, Refusal] = field(default_factory=dict)
    made: dict[Key, dict[str, Any]] = field(default_factory=dict)


def make_plan(engine: Engine, id: ResourceId, body: Mapping[str, Any]) -> Plan:
    """What the request asks for. Raises errors.ArmError (400, 404)."""
    world = engine.store.world
    assert id.group is not None  # noqa: S101  (the route has one)
    group_id = ResourceId(id.subscription, id.group)
    group = world.get(group_id)
    if group is None:
        raise rules.group_not_found(id.group)
    properties = body.get("properties")
    if not isinstance(properties, dict):
        raise ArmError(400, "InvalidRequestContent", "The request content was invalid: 'properties' is required.")
    mode = str(properties.get("mode", "Incremental"))
    if mode.lower() != "incremental":
        raise ArmError(400, "InvalidDeploymentMode", f"The deployment mode '{mode}' is not supported by the lab.")
    if properties.get("templateLink") is not None or properties.get("parametersLink") is not None:
        raise ArmError(
            400, "InvalidTemplateLink", "The lab downloads nothing: templates and parameters have to be in the request."
        )
    kind = engine.registry.kind(ids.GROUP_KIND)
    subscription = engine.tenancy.subscription(id.subscription)
    shown = kind.show(world, group, Caller("")) if kind is not None else {}
    surroundings = templates.Surroundings(
        group=shown,
        subscription={
            "id": f"/subscriptions/{id.subscription}",
            "subscriptionId": id.subscription,
            "tenantId": engine.tenancy.tenant_id,
            "displayName": subscription.display_name if subscription is not None else "",
        },
        deployment={"name": id.name, "properties": properties},
    )
    plan = templates.plan(properties, group_id, surroundings)
    for one in plan.resources:
        _check_kind(engine, one)
    return plan


def _check_kind(engine: Engine, planned: Planned) -> None:
    if engine.registry.kind(planned.id.kind) is None or planned.id.kind.lower() == KIND.lower():
        raise ArmError(
            400,
            "InvalidTemplate",
            "Deployment template validation failed: 'The template resource "
            f"'{planned.id.name}' of type '{planned.id.kind}' is not supported by the lab'.",
        )
    versions.check(planned.api_version, planned.id.kind, planned.location)


def begin(id: ResourceId, plan: Plan, body: Mapping[str, Any]) -> Running:
    """A deployment that is accepted."""
    properties = {
        "templateHash": plan.hash,
        "parameters": plan.parameters,
        "mode": "Incremental",
        "provisioningState": "Accepted",
        "timestamp": _now(),
        "duration": "PT0S",
        "correlationId": str(uuid.uuid4()),
        "providers": _providers(plan),
        "dependencies": _dependencies(plan),
    }
    kept = {"properties": properties, "template": body["properties"]["template"], "operations": []}
    if isinstance(body.get("tags"), dict):
        kept["tags"] = body["tags"]
    return Running(id, plan, kept)


async def run(engine: Engine, running: Running) -> Refusal | None:
    """Make all resources of the plan; why the deployment failed, if it did."""
    _keep(engine, running, "Running")
    for planned in running.plan.resources:
        if any(key in running.failed for key in planned.after):
            running.failed[planned.id.key] = Refusal(409, "DependencyFailed", "A resource that it needs failed.")
            continue
        await _make(engine, running, planned)
    refusal = _outputs(engine, running)
    _keep(engine, running, "Failed" if refusal is not None else "Succeeded", refusal)
    return refusal


async def _make(engine: Engine, running: Running, planned: Planned) -> None:
    functions = _runtime(engine, running)
    began = time.monotonic()
    existed = engine.store.world.get(planned.id) is not None
    try:
        body = templates.body_of(planned, functions)
        running.made[planned.id.key] = await engine.apply(planned.id, body, Caller(planned.api_version))
        refusal = None
    except ArmError as error:
        refusal = error.refusal
        running.failed[planned.id.key] = refusal
    running.operations.append(_operation(running, planned.id, time.monotonic() - began, refusal, existed=existed))
    _keep(engine, running, "Running")


def _runtime(engine: Engine, running: Running) -> dict[str, Function]:
    """The plan's functions and those that ask what exists."""

    def reference(arguments: Sequence[Any]) -> Any:
        found = templates.find(str(arguments[0]), running.plan.resources) or _parsed(str(arguments[0]))
        shown = running.made.get(found.key) if found is not None else None
        if found is not None:
            shown = engine.look(found, Caller("2024-05-01")) or shown
        if found is None or shown is None:
            raise ExpressionError(f"The resource '{arguments[0]}' referenced in the template is not found.")
        is_full = len(arguments) > 2 and str(arguments[2]).lower() == "full"
        return shown if is_full else shown.get("properties") or {}

    def providers(arguments: Sequence[Any]) -> Any:
        shown = {
            "resourceType": str(arguments[1]) if len(arguments) > 1 else "",
            "locations": [],
            "apiVersions": list(versions.NAMED),
        }
        return shown if len(arguments) > 1 else {"namespace": arguments[0], "resourceTypes": [shown]}

    return {**running.plan.functions, "reference": reference, "providers": providers}


def _parsed(text: str) -> ResourceId | None:
    try:
        return ids.parse(text)
    except ArmError:
        return None


def _outputs(engine: Engine, running: Running) -> Refusal | None:
    """Fill in what a deployment shows in the end; why it failed, if it did."""
    properties = running.body["properties"]
    properties["outputResources"] = [
        {"id": str(one.id)} for one in running.plan.resources if one.id.key in running.made
    ]
    if running.failed:
        details = tuple(_detail(refusal) for refusal in running.failed.values() if refusal.code != "DependencyFailed")
        return Refusal(409, "DeploymentFailed", _ASK_FOR_DETAILS, str(running.id), details)
    functions = _runtime(engine, running)
    shown: dict[str, Any] = {}
    try:
        for name, output in running.plan.outputs.items():
            if (
                not isinstance(output, dict)
                or expressions.resolve(output.get("condition", True), functions) is not True
            ):
                continue
            kind = str(output.get("type", "string"))
            shown[name] = {
                "type": kind[:1].upper() + kind[1:],
                "value": expressions.resolve(output.get("value"), functions),
            }
    except ExpressionError as error:
        return Refusal(
            400,
            "DeploymentOutputEvaluationFailed",
            f"Unable to evaluate template outputs: '{error}'. Please see error details and deployment operations.",
        )
    running.body["properties"]["outputs"] = shown
    running.operations.append(_operation(running, None, 0.0, None, existed=True))
    return None


def _detail(refusal: Refusal) -> Detail:
    return Detail(refusal.code, refusal.message, refusal.target)


def _keep(engine: Engine, running: Running, state: str, refusal: Refusal | None = None) -> None:
    """Write down how far it is, as long as the deployment is there."""
    properties = running.body["properties"]
    properties |= {
        "provisioningState": state,
        "timestamp": _now(),
        "duration": _duration(time.monotonic() - running.began),
    }
    if refusal is not None:
        properties["error"] = refusal.body()
    running.body["operations"] = running.operations
    draft = engine.store.draft()
    if draft.get(running.id) is None:
        return
    draft.put(running.id, KIND, running.body)
    engine.store.commit(draft)


def has_ended(document: Document) -> bool:
    """Whether a deployment says that it has ended."""
    return document.properties.get("provisioningState") in _ENDED


def _operation(
    running: Running, target: ResourceId | None, seconds: float, refusal: Refusal | None, *, existed: bool
) -> dict[str, Any]:
    name = uuid.uuid4().hex[:16].upper()
    properties: dict[str, Any] = {
        "provisioningOperation": "Create" if target is not None else "EvaluateDeploymentOutput",
        "provisioningState": "Failed" if refusal is not None else "Succeeded",
        "timestamp": _now(),
        "duration": _duration(seconds),
        "trackingId": str(uuid.uuid4()),
        "statusCode": _STATUS.get(refusal.status, "Conflict") if refusal else ("OK" if existed else "Created"),
    }
    if refusal is not None:
        properties["statusMessage"] = {"error": refusal.body()}
    if target is not None:
        properties["targetResource"] = _target(target)
    return {"id": f"{running.id}/operations/{name}", "operationId": name, "properties": properties}


_STATUS: Final = {400: "BadRequest", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 412: "PreconditionFailed"}


def _target(id: ResourceId) -> dict[str, Any]:
    return {"id": str(id), "resourceType": id.kind, "resourceName": "/".join(id.names)}


def _providers(plan: Plan) -> list[dict[str, Any]]:
    found: dict[str, dict[str, list[str | None]]] = {}
    for one in plan.resources:
        places = found.setdefault(one.id.namespace, {}).setdefault("/".join(one.id.types), [])
        if one.location not in places:
            places.append(one.location)
    return [
        {
            "namespace": namespace,
            "resourceTypes": [{"resourceType": kind, "locations": places} for kind, places in kinds.items()],
        }
        for namespace, kinds in found.items()
    ]


def _dependencies(plan: Plan) -> list[dict[str, Any]]:
    by_key = {one.id.key: one.id for one in plan.resources}
    return [
        {"dependsOn": [_target(by_key[key]) for key in one.after], **_target(one.id)}
        for one in plan.resources
        if one.after
    ]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f0Z")


def _duration(seconds: float) -> str:
    return f"PT{seconds:.7f}S"


def exported(document: Document) -> dict[str, Any]:
    """The template that was deployed."""
    found: dict[str, Any] = json.loads(json.dumps(document.body.get("template") or {}))
    return found
