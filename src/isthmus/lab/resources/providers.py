"""Resource providers: which namespaces and types there are, and whether a subscription is registered for them.

Besides what the lab serves, the namespaces that common clients register at their start are known by name, without
types, so that they go on.
"""

from collections.abc import Mapping
from typing import Any, Final

from isthmus.lab import tenancy
from isthmus.lab.arm import paging, versions
from isthmus.lab.arm.calls import Answer, Call
from isthmus.lab.arm.engine import Engine, Page
from isthmus.lab.arm.registry import LOCATIONS
from isthmus.lab.errors import ArmError

#: Known by name alone.
_OTHERS: Final = (
    "Microsoft.Authorization",
    "Microsoft.Compute",
    "Microsoft.ContainerService",
    "Microsoft.Insights",
    "Microsoft.KeyVault",
    "Microsoft.ManagedIdentity",
    "Microsoft.OperationalInsights",
    "Microsoft.Storage",
    "Microsoft.Web",
)
_GLOBAL: Final = ("privatednszones", "privatednszones/virtualnetworklinks")


async def list_providers(engine: Engine, call: Call, words: Mapping[str, str]) -> Answer:
    """``GET /providers`` and ``GET /subscriptions/S/providers``."""
    names = _names(engine)
    cut, link = paging.cut(call, names)
    return Answer(200, paging.shown([_shown(engine, words, name) for name in names[cut]], link))


async def get_provider(engine: Engine, _call: Call, words: Mapping[str, str]) -> Answer:
    """``GET /subscriptions/S/providers/NAMESPACE``."""
    return Answer(200, _shown(engine, words, _known(engine, words["namespace"])))


async def list_types(engine: Engine, _call: Call, words: Mapping[str, str]) -> Answer:
    """``GET .../resourceTypes``."""
    return Answer(200, {"value": _shown(engine, words, _known(engine, words["namespace"]))["resourceTypes"]})


async def list_permissions(engine: Engine, _call: Call, words: Mapping[str, str]) -> Answer:
    """``GET .../providerPermissions``: everybody may do everything here, and nobody needs to be told."""
    _known(engine, words["namespace"])
    return Answer(200, {"value": []})


async def list_operations(engine: Engine, _call: Call, words: Mapping[str, str]) -> Answer:
    """``GET /providers/NAMESPACE/operations``: what permissions can be given for."""
    name = _known(engine, words["namespace"])
    kinds = [kind.name for kind in engine.registry.kinds if kind.name.lower().startswith(f"{name.lower()}/")]
    return Answer(200, {"value": [_permission(kind, verb) for kind in kinds for verb in ("read", "write", "delete")]})


def _permission(kind: str, verb: str) -> dict[str, Any]:
    namespace, _, rest = kind.partition("/")
    return {
        "name": f"{kind}/{verb}",
        "display": {"provider": namespace, "resource": rest, "operation": verb, "description": f"{verb} {rest}"},
    }


async def register(engine: Engine, _call: Call, words: Mapping[str, str]) -> Answer:
    """``POST .../register``: begins now, and has happened when it is asked for again."""
    return await _change(engine, words, "Registered", "Registering")


async def unregister(engine: Engine, _call: Call, words: Mapping[str, str]) -> Answer:
    """``POST .../unregister``: refused while there are resources."""
    name, subscription = _known(engine, words["namespace"]), words["subscription"]
    for kind in engine.registry.kinds:
        if kind.name.lower().startswith(f"{name.lower()}/") and any(
            engine.store.world.all(kind.name, subscription=subscription)
        ):
            raise ArmError(
                409,
                "CannotUnregisterRegisteredNamespaceWithResources",
                f"Cannot unregister the resource provider '{name}' because the subscription '{subscription}' has "
                "resources of it. Please delete them first.",
            )
    return await _change(engine, words, "Unregistered", "Unregistering")


async def _change(engine: Engine, words: Mapping[str, str], state: str, shown_as: str) -> Answer:
    name, subscription = _known(engine, words["namespace"]), words["subscription"]
    if engine.tenancy.registration(engine.store.world, subscription, name) == state:
        return Answer(200, _shown(engine, words, name))
    if name.lower() in tenancy.ALWAYS_REGISTERED:
        raise ArmError(409, "CannotUnregister", f"The resource provider '{name}' cannot be unregistered.")
    draft = engine.store.draft()
    tenancy.register(draft, subscription, name, state)
    engine.store.commit(draft)
    return Answer(200, {**_shown(engine, words, name), "registrationState": shown_as})


def _names(engine: Engine) -> list[str]:
    return sorted({*engine.registry.namespaces(), *_OTHERS})


def _known(engine: Engine, namespace: str) -> str:
    for name in _names(engine):
        if name.lower() == namespace.lower():
            return name
    raise ArmError(404, "InvalidResourceNamespace", f"The resource namespace '{namespace}' is invalid.")


def _shown(engine: Engine, words: Mapping[str, str], namespace: str) -> dict[str, Any]:
    subscription = words.get("subscription")
    scope = f"/subscriptions/{subscription}" if subscription else ""
    shown: dict[str, Any] = {
        "id": f"{scope}/providers/{namespace}",
        "namespace": namespace,
        "resourceTypes": [_type(name) for name in _types(engine, namespace)],
    }
    if subscription:
        shown["registrationState"] = engine.tenancy.registration(engine.store.world, subscription, namespace)
        shown["registrationPolicy"] = (
            "RegistrationFree" if namespace.lower() in tenancy.ALWAYS_REGISTERED else "RegistrationRequired"
        )
    return shown


def _types(engine: Engine, namespace: str) -> list[str]:
    if namespace == "Microsoft.Resources":
        return ["tenants", "subscriptions", "resourceGroups", "deployments", "deployments/operations", "tags"]
    return list(engine.registry.types(namespace))


def _type(name: str) -> dict[str, Any]:
    is_global = name.lower().startswith("privatednszones")
    locations = ["global"] if is_global else list(LOCATIONS.values())
    return {
        "resourceType": name,
        "locations": locations,
        "apiVersions": list(versions.NAMED),
        "defaultApiVersion": versions.NAMED[0],
        "capabilities": "SupportsTags, SupportsLocation" if "/" not in name or name.lower() in _GLOBAL else "None",
    }


_SUBSCRIPTION: Final = ("subscriptions", "{subscription}", "providers")

PAGES = (
    Page("GET", ("providers",), list_providers),
    Page("GET", ("providers", "{namespace}"), get_provider),
    Page("GET", ("providers", "{namespace}", "operations"), list_operations),
    Page("GET", _SUBSCRIPTION, list_providers),
    Page("GET", (*_SUBSCRIPTION, "{namespace}"), get_provider),
    Page("GET", (*_SUBSCRIPTION, "{namespace}", "resourcetypes"), list_types),
    Page("GET", (*_SUBSCRIPTION, "{namespace}", "providerpermissions"), list_permissions),
    Page("POST", (*_SUBSCRIPTION, "{namespace}", "register"), register),
    Page("POST", (*_SUBSCRIPTION, "{namespace}", "unregister"), unregister),
)
