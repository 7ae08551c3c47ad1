"""What the resource manager itself insists on before a provider is asked: subscriptions, names, locations, tags.

Sources: Azure Resource Manager's "Resource naming restrictions", "Tag limitations", "Troubleshoot common errors", and
answers that were recorded.
"""

import re
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from isthmus.lab import ids
from isthmus.lab.arm.registry import LOCATIONS
from isthmus.lab.documents import Document, World
from isthmus.lab.errors import ArmError
from isthmus.lab.ids import ResourceId
from isthmus.lab.kinds import Kind, Style
from isthmus.lab.tenancy import Tenancy

_MAX_TAGS: Final = 50
_MAX_TAG_NAME: Final = 512
_MAX_TAG_VALUE: Final = 256
_RESERVED_IN_TAGS: Final = "<>%&\\?/"
_MAX_GROUP_NAME: Final = 90
_GROUP_NAME: Final = re.compile(r"[-\w._()]*[-\w_()]")
_NETWORK_NAME: Final = re.compile(r"[^\W_](?:[\w.-]{0,78}\w)?")
_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f/\\?#%]|[\ud800-\udfff]")
_MAX_SEGMENT: Final = 512


def check_path(segments: Sequence[str]) -> None:
    """Refuse paths that no resource could have. Raises errors.ArmError (400)."""
    for segment in segments:
        if len(segment) > _MAX_SEGMENT or _UNSAFE.search(segment):
            raise ArmError(400, "BadRequest", "The request URI contains characters or segments that are not allowed.")


def check_subscription(tenancy: Tenancy, subscription: str) -> None:
    """Refuse what is no subscription of the tenant. Raises errors.ArmError (400, 404)."""
    if tenancy.subscription(subscription) is not None:
        return
    try:
        uuid.UUID(subscription)
    except ValueError:
        raise ArmError(
            400,
            "InvalidSubscriptionId",
            f"The provided subscription identifier '{subscription}' is malformed or invalid.",
        ) from None
    raise ArmError(404, "SubscriptionNotFound", f"The subscription '{subscription}' could not be found.")


def check_write(kind: Kind, id: ResourceId, body: Mapping[str, Any], before: Document | None) -> None:
    """Refuse a PUT by its name, location and tags. Raises errors.ArmError (400, 409)."""
    if before is None:
        _check_name(kind, id)
    if kind.is_tracked or kind.style is Style.GROUP:
        _check_location(kind, id, body, before)
        check_tags(body)


def check_patch(kind: Kind, body: Mapping[str, Any]) -> None:
    """Refuse a PATCH by its tags. Raises errors.ArmError (400)."""
    if kind.is_tracked or kind.style is Style.GROUP:
        check_tags(body)


def check_tags(body: Mapping[str, Any]) -> None:
    """Refuse tags that are too many, too long or no strings. Raises errors.ArmError (400)."""
    tags = body.get("tags")
    if tags is None:
        return
    if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
        raise ArmError(
            400, "InvalidRequestContent", "The request content was invalid: 'tags' must be an object of strings."
        )
    if len(tags) > _MAX_TAGS:
        raise ArmError(
            400, "InvalidTags", f"The number of tags '{len(tags)}' exceeds the maximum limit of '{_MAX_TAGS}' tags."
        )
    if len({name.lower() for name in tags}) < len(tags):
        raise ArmError(400, "InvalidTags", "The tag names must be unique without regard to case.")
    for name, value in tags.items():
        _check_tag(name, value)


def _check_tag(name: str, value: str) -> None:
    if not name or len(name) > _MAX_TAG_NAME:
        raise ArmError(
            400,
            "InvalidTagNameLength",
            f"The tag name '{name[:50]}' must be between 1 and {_MAX_TAG_NAME} characters long.",
        )
    if any(character in _RESERVED_IN_TAGS or ord(character) < 32 for character in name):
        raise ArmError(
            400,
            "InvalidTagNameCharacters",
            f"The tag names '{name}' have reserved characters '{','.join(_RESERVED_IN_TAGS)}' or control characters.",
        )
    if len(value) > _MAX_TAG_VALUE:
        raise ArmError(
            400,
            "InvalidTagValueLength",
            f"The value of tag '{name}' exceeds the maximum length of {_MAX_TAG_VALUE} characters.",
        )


def _check_name(kind: Kind, id: ResourceId) -> None:
    name = id.name
    if kind.style is Style.GROUP:
        if len(name) > _MAX_GROUP_NAME or not _GROUP_NAME.fullmatch(name):
            raise ArmError(
                400,
                "InvalidResourceGroup",
                f"The provided resource group name '{name}' has these invalid characters: "
                f"'{_strange(name)}'. The name can only be a letter, digit, '-', '.', '(', ')' or '_', it cannot end "
                f"with '.', and it can be up to {_MAX_GROUP_NAME} characters long.",
            )
    elif kind.style is Style.NETWORK and not _NETWORK_NAME.fullmatch(name):
        raise ArmError(
            400,
            "InvalidResourceName",
            f"Resource name {name} is invalid. The name can be up to 80 characters long. It must begin with a word "
            "character, and it must end with a word character or with '_'. The name may contain word characters or "
            "'.', '-', '_'.",
        )


def _strange(name: str) -> str:
    return "".join(dict.fromkeys(character for character in name if not re.match(r"[-\w._()]", character)))


def normalized(location: str) -> str:
    """``West Europe`` as ``westeurope``."""
    return location.replace(" ", "").lower()


def _check_location(kind: Kind, id: ResourceId, body: Mapping[str, Any], before: Document | None) -> None:
    given = body.get("location")
    if given is not None and not isinstance(given, str):
        raise ArmError(400, "InvalidRequestContent", "The request content was invalid: 'location' must be a string.")
    if not given:
        raise ArmError(400, "LocationRequired", "The location property is required for this definition.")
    location = normalized(given)
    held = normalized(str(before.body.get("location", ""))) if before is not None else ""
    if held and held != location:
        raise _elsewhere(kind, id, held, given)
    if location in LOCATIONS or (location == "global" and kind.style is not Style.GROUP):
        return
    available = ",".join(sorted(LOCATIONS))
    if kind.style is Style.GROUP:
        raise ArmError(
            400,
            "LocationNotAvailableForResourceGroup",
            f"The provided location '{given}' is not available for resource group. List of available regions is "
            f"'{available}'.",
        )
    raise ArmError(
        400,
        "LocationNotAvailableForResourceType",
        f"The provided location '{given}' is not available for resource type '{kind.name}'. List of available regions "
        f"for the resource type is '{available}'.",
    )


def _elsewhere(kind: Kind, id: ResourceId, held: str, given: str) -> ArmError:
    if kind.style is Style.GROUP:
        return ArmError(
            409,
            "InvalidResourceGroupLocation",
            f"Invalid resource group location '{given}'. The Resource group already exists in location '{held}'.",
        )
    return ArmError(
        409,
        "InvalidResourceLocation",
        f"The resource '{id.name}' already exists in location '{held}' in resource group '{id.group}'. A resource with "
        f"the same name cannot be created in location '{given}'. Please select a new resource name.",
    )


def location_of(world: World, document: Document) -> str:
    """Where a document is: its own location, or that of what it lies in."""
    found: Document | None = document
    while found is not None:
        location = found.body.get("location")
        if isinstance(location, str) and location:
            return normalized(location)
        parent = found.id.parent
        found = world.get(parent) if parent is not None else None
    return "global"


def resource_not_found(world: World, kind: Kind, id: ResourceId) -> ArmError:
    """A resource that is not there: the resource manager says so, or its provider if what it would lie in is there."""
    if kind.name == ids.GROUP_KIND:
        return group_not_found(id.group or "")
    parent = id.parent
    if kind.style is Style.NETWORK and parent is not None and parent.namespace and world.get(parent) is not None:
        return nested_not_found(id)
    return resource_missing(id)


def resource_missing(id: ResourceId) -> ArmError:
    """In the words of the resource manager."""
    words = "/".join(f"{kind}/{name}" for kind, name in zip(id.types, id.names, strict=True))
    return ArmError(
        404,
        "ResourceNotFound",
        f"The Resource '{id.namespace}/{words}' under resource group '{id.group}' was not found. For more details "
        "please go to https://aka.ms/ARMResourceNotFoundFix",
    )


def nested_not_found(id: ResourceId) -> ArmError:
    """In the words of Microsoft.Network, which keeps nested resources itself."""
    return ArmError(404, "NotFound", f"Resource {id} not found.", has_details=True)


def parent_not_found(verb: str, kind: str, parent: ResourceId) -> ArmError:
    """What it would lie in is not there."""
    return ArmError(
        404,
        "ParentResourceNotFound",
        f"Failed to perform '{verb}' on resource(s) of type '{kind.partition('/')[2]}', because the parent resource "
        f"'{parent}' could not be found.",
    )


def group_not_found(group: str) -> ArmError:
    """There is no such resource group."""
    return ArmError(404, "ResourceGroupNotFound", f"Resource group '{group}' could not be found.")


def group_being_deleted(group: ResourceId) -> ArmError:
    """Its end has begun."""
    return ArmError(
        409,
        "ResourceGroupBeingDeleted",
        f"The resource group '{group.group}' is in deprovisioning state and cannot perform this operation.",
    )


def not_registered(namespace: str) -> ArmError:
    """The subscription may not use the namespace."""
    return ArmError(
        409,
        "MissingSubscriptionRegistration",
        f"The subscription is not registered to use namespace '{namespace}'. See https://aka.ms/rps-not-found for how "
        "to register subscriptions.",
    )


def not_allowed(method: str, allowed: Collection[str]) -> ArmError:
    """There is something, but not for that method."""
    return ArmError(
        405,
        "MethodNotAllowed",
        f"The requested resource does not support http method '{method}'.",
        headers={"Allow": ", ".join(sorted(allowed))},
    )
