"""What Microsoft.Network refuses in more than one resource type, in Azure's words."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from isthmus.lab import errors, ids
from isthmus.lab.documents import Document, World
from isthmus.lab.ids import ResourceId

#: The longest name of a resource (Azure, "Naming rules and restrictions for Azure resources").
_MAX_NAME: Final = 80


def refused(code: str, message: str) -> errors.ArmError:
    """400 with ``code``."""
    return errors.ArmError(400, code, message)


def not_found(referenced: str, referrer: ResourceId) -> errors.ArmError:
    """A reference to what is not there, or is in another region."""
    return refused(
        "InvalidResourceReference",
        f"Resource {referenced} referenced by resource {referrer} was not found. Please make sure that the referenced "
        "resource exists, and that both resources are in the same region.",
    )


def referenced(
    world: World, reference: Mapping[str, Any], referrer: ResourceId, *, location: str | None = None
) -> Document:
    """The document that ``{"id": ...}`` names; refused if it is not there, or not in ``location``."""
    text = str(reference["id"])
    found = world.get(text)
    if found is None or (location is not None and "location" in found.body and found.body["location"] != location):
        raise not_found(text, referrer)
    return found


def check_name(name: str) -> None:
    """Refuse a name that is too long, or begins or ends badly."""
    inner = all(one.isalnum() or one in "._-" for one in name)
    if not (
        name and len(name) <= _MAX_NAME and inner and name[0].isalnum() and (name[-1].isalnum() or name[-1] == "_")
    ):
        raise refused(
            "InvalidResourceName",
            f"Resource name {name} is invalid. The name can be up to 80 characters long. It must begin with a word "
            "character, and it must end with a word character or with '_'. The name may contain word characters or "
            "'.', '-', '_'.",
        )


def check_parts(owner: ResourceId, what: str, parts: Iterable[Mapping[str, Any]]) -> None:
    """Refuse parts of a resource (``what`` they are) that have bad names, or the same."""
    names = [str(one["name"]) for one in parts]
    for name in names:
        check_name(name)
    if len({name.lower() for name in names}) < len(names):
        raise refused("DuplicateResourceName", f"Resource {owner} has two child resources {what} with the same name.")


def check_unlike(before: Document | None, what: str, old: Any, new: Any, code: str) -> None:
    """Refuse to change what is set at creation."""
    if before is not None and old != new:
        raise refused(
            code,
            f"{what} property is set at creation time and cannot be changed from {old} to {new} on resource update for "
            f"resource {before.id}.",
        )


def location_of(body: Mapping[str, Any]) -> str:
    """The region as Azure writes it: ``East US`` is ``eastus``."""
    return str(body.get("location", "")).replace(" ", "").lower()


def key_of(reference: Mapping[str, Any] | None) -> ids.Key | None:
    """What the id of a reference is compared by; None for no reference."""
    return None if reference is None else ids.key(str(reference["id"]))
