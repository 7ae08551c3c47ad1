"""The addresses of deployments: create, get, delete, list, validate, cancel, export, and their operations."""

from collections.abc import Mapping
from typing import Any, Final

from isthmus.lab.arm import operations, paging, rules
from isthmus.lab.arm.calls import Answer, Call
from isthmus.lab.arm.engine import Engine, Page
from isthmus.lab.arm.operations import Operation
from isthmus.lab.documents import Document
from isthmus.lab.errors import ArmError, Refusal
from isthmus.lab.ids import ResourceId
from isthmus.lab.kinds import Caller, Style
from isthmus.lab.resources import deploying
from isthmus.lab.resources.deploying import Deployments

_KIND: Final = Deployments()
_INTERRUPTED: Final = Refusal(409, "DeploymentInterrupted", "The lab ended while the deployment ran. Deploy it again.")


async def put(engine: Engine, call: Call, words: Mapping[str, str]) -> Answer:
    """PUT: the template is checked, then it runs."""
    id = _id(words)
    body = call.lenient_json()
    rules.check_tags(body)
    _check_name(id)
    before = engine.store.world.get(id)
    if engine.operations.running_on(id.key) is not None:
        raise ArmError(
            409,
            "DeploymentActive",
            f"Unable to edit or replace deployment '{id.name}': previous deployment is still active. Please see "
            "https://aka.ms/arm-deploy for usage details.",
        )
    plan = deploying.make_plan(engine, id, body)
    running = deploying.begin(before.id if before is not None else id, plan, body)
    draft = engine.store.draft()
    document = draft.put(running.id, deploying.KIND, running.body)
    operation = _operation(document, call)
    engine.begin(draft, operation, deploying.run(engine, running))
    headers = {
        "Azure-AsyncOperation": operation.status_url(call.origin),
        "Retry-After": str(operations.RETRY_SECONDS),
    }
    return Answer(200 if before is not None else 201, _shown(engine, document), headers)


async def get(engine: Engine, _call: Call, words: Mapping[str, str]) -> Answer:
    """GET: the deployment as it stands."""
    return Answer(200, _shown(engine, _found(engine, words)))


async def head(engine: Engine, _call: Call, words: Mapping[str, str]) -> Answer:
    """HEAD: 204, or 404."""
    _found(engine, words)
    return Answer(204)


async def delete(engine: Engine, call: Call, words: Mapping[str, str]) -> Answer:
    """DELETE: what was deployed stays."""
    document = _found(engine, words)
    if engine.operations.running_on(document.key) is not None:
        raise ArmError(
            409,
            "DeploymentActive",
            f"Unable to delete deployment '{document.id.name}': it is still active.",
        )
    draft = engine.store.draft()
    draft.remove(document.id)
    operation = _operation(document, call)
    operation.style, operation.is_delete = Style.GROUP, True
    operation.end()
    engine.operations.begin(draft, operation)
    engine.store.commit(draft)
    return operations.waiting(operation, call.origin)


async def list_all(engine: Engine, call: Call, words: Mapping[str, str]) -> Answer:
    """GET of the collection, the newest first."""
    _require_group(engine, words)
    found = list(engine.store.world.all(deploying.KIND, subscription=words["subscription"], group=words["group"]))[::-1]
    wanted = call.query.get("$filter", "").lower()
    if "provisioningstate eq" in wanted:
        found = [one for one in found if f"'{one.properties['provisioningState'].lower()}'" in wanted]
    cut, link = paging.cut(call, [one.key for one in found])
    return Answer(200, paging.shown([_shown(engine, one) for one in found[cut]], link))


async def validate(engine: Engine, call: Call, words: Mapping[str, str]) -> Answer:
    """POST validate: what PUT would say, without doing it."""
    id = _id(words)
    body = call.lenient_json()
    _check_name(id)
    plan = deploying.make_plan(engine, id, body)
    running = deploying.begin(id, plan, body)
    properties = {
        **running.body["properties"],
        "provisioningState": "Succeeded",
        "validatedResources": [{"id": str(one.id)} for one in plan.resources],
    }
    shown = {"id": str(id), "name": id.name, "type": deploying.KIND, "properties": properties}
    return Answer(200, shown)


async def cancel(engine: Engine, _call: Call, words: Mapping[str, str]) -> Answer:
    """POST cancel: deployments here are over before anybody could."""
    document = _found(engine, words)
    raise ArmError(
        409,
        "DeploymentCannotBeCancelled",
        f"The deployment '{document.id.name}' cannot be cancelled. Only deployments that are running can be cancelled.",
    )


async def export(engine: Engine, _call: Call, words: Mapping[str, str]) -> Answer:
    """POST exportTemplate: the template that was deployed."""
    return Answer(200, {"template": deploying.exported(_found(engine, words))})


async def list_operations(engine: Engine, call: Call, words: Mapping[str, str]) -> Answer:
    """GET of what became of each resource."""
    found = list(_found(engine, words).body["operations"])
    cut, link = paging.cut(call, [str(one["id"]) for one in found])
    return Answer(200, paging.shown(found[cut], link))


async def get_operation(engine: Engine, _call: Call, words: Mapping[str, str]) -> Answer:
    """GET of one of them."""
    for one in _found(engine, words).body["operations"]:
        if str(one["operationId"]).lower() == words["operation"].lower():
            return Answer(200, one)
    raise ArmError(
        404, "DeploymentOperationNotFound", f"Deployment operation '{words['operation']}' could not be found."
    )


def _id(words: Mapping[str, str]) -> ResourceId:
    return ResourceId(words["subscription"], words["group"], "Microsoft.Resources", ("deployments",), (words["name"],))


def _check_name(id: ResourceId) -> None:
    if len(id.name) > 64 or not all(letter.isalnum() or letter in "-_.()" for letter in id.name):
        raise ArmError(
            400,
            "InvalidDeploymentName",
            f"The provided deployment name '{id.name}' has a length of '{len(id.name)}' or characters that are not "
            "valid. The name can be up to 64 characters long and consist of letters, digits, '-', '_', '.', '(' and "
            "')'.",
        )


def _require_group(engine: Engine, words: Mapping[str, str]) -> None:
    if engine.store.world.get(ResourceId(words["subscription"], words["group"])) is None:
        raise rules.group_not_found(words["group"])


def _found(engine: Engine, words: Mapping[str, str]) -> Document:
    _require_group(engine, words)
    document = engine.store.world.get(_id(words))
    if document is None:
        raise ArmError(404, "DeploymentNotFound", f"Deployment '{words['name']}' could not be found.")
    return document


def _operation(document: Document, call: Call) -> Operation:
    return Operation(
        id=operations.new_id(Style.DEPLOYMENT, document.id, "Put", "global"),
        style=Style.DEPLOYMENT,
        target=document.id,
        location="global",
        api_version=call.query.get("api-version", ""),
    )


def _shown(engine: Engine, document: Document) -> dict[str, Any]:
    shown = _KIND.show(engine.store.world, document, Caller(""))
    if not deploying.has_ended(document) and engine.operations.running_on(document.key) is None:
        properties = {**shown["properties"], "provisioningState": "Failed", "error": _INTERRUPTED.body()}
        return {**shown, "properties": properties}
    return shown


_GROUP: Final = ("subscriptions", "{subscription}", "resourcegroups", "{group}")
_ALL: Final = (*_GROUP, "providers", "microsoft.resources", "deployments")
_ONE: Final = (*_ALL, "{name}")
_OLD: Final = (*_GROUP, "deployments", "{name}", "operations")

PAGES = (
    Page("PUT", _ONE, put),
    Page("GET", _ONE, get),
    Page("HEAD", _ONE, head),
    Page("DELETE", _ONE, delete),
    Page("GET", _ALL, list_all),
    Page("POST", (*_ONE, "validate"), validate),
    Page("POST", (*_ONE, "cancel"), cancel),
    Page("POST", (*_ONE, "exporttemplate"), export),
    Page("GET", (*_ONE, "operations"), list_operations),
    Page("GET", (*_ONE, "operations", "{operation}"), get_operation),
    Page("GET", _OLD, list_operations),
    Page("GET", (*_OLD, "{operation}"), get_operation),
)
