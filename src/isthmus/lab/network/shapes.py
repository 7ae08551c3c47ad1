"""The shapes of request bodies: which members a resource has, of which types, and how Azure reads them.

Reading a body gives the same JSON with every member spelled as Azure spells it, ``null`` left out, choices in Azure's
case, and what clients may send back but not set (``etag``, ``provisioningState``, ...) left out as well. Members that
a shape does not name are kept as they are. Azure's reader is lenient in the same way: names of members and of choices
are compared without case, and ``"4"`` is a number where one is wanted.

Raises errors.ArmError (400, InvalidRequestFormat) with the path of what cannot be read, in the words of Azure's
reader.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from isthmus.lab import errors, ids
from isthmus.lab.ids import ResourceId

NAMESPACE: Final = "Microsoft.Network"


class Shape(Protocol):
    """How one value reads."""

    def read(self, value: object, path: str) -> Any:
        """The value as it is kept."""


def unreadable(code: str, message: str) -> errors.ArmError:
    """The refusal of a body that does not read, with its one reason."""
    return errors.ArmError(
        400, "InvalidRequestFormat", "Cannot parse the request.", details=[errors.Detail(code, message)]
    )


def missing(name: str, path: str) -> errors.ArmError:
    """The refusal of a body that lacks a member."""
    return unreadable("InvalidJson", f"Required property '{name}' not found in JSON. Path '{path}'.")


def _unconvertible(value: object, wanted: str, path: str) -> errors.ArmError:
    said = json.dumps(value) if isinstance(value, str | int | float | bool) else type(value).__name__
    return unreadable("InvalidJson", f"Error converting value {said} to type '{wanted}'. Path '{path}'.")


@dataclass(frozen=True, slots=True)
class Text:
    """A string."""

    def read(self, value: object, path: str) -> str:
        """Numbers and truth values are taken for their text."""
        if isinstance(value, str):
            return value
        if isinstance(value, bool):
            return str(value)
        if isinstance(value, int | float):
            return json.dumps(value)
        raise _unconvertible(value, "System.String", path)


@dataclass(frozen=True, slots=True)
class Flag:
    """A truth value."""

    def read(self, value: object, path: str) -> bool:
        """``"true"`` is true."""
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        raise _unconvertible(value, "System.Boolean", path)


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number of 32 bits."""

    def read(self, value: object, path: str) -> int:
        """``"4"`` is 4."""
        number: int | None = None
        if isinstance(value, int) and not isinstance(value, bool):
            number = value
        elif (isinstance(value, float) and value.is_integer()) or (
            isinstance(value, str) and value.isascii() and value.removeprefix("-").isdigit() and len(value) <= 11
        ):
            number = int(value)
        if number is None or not -(2**31) <= number < 2**31:
            raise _unconvertible(value, "System.Int32", path)
        return number


@dataclass(frozen=True, slots=True, init=False)
class Choice:
    """One of some words."""

    words: tuple[str, ...]

    def __init__(self, *words: str) -> None:
        object.__setattr__(self, "words", words)

    def read(self, value: object, path: str) -> str:
        """The word in Azure's spelling."""
        for word in self.words:
            if isinstance(value, str) and value.lower() == word.lower():
                return word
        raise _unconvertible(value, " | ".join(self.words), path)


@dataclass(frozen=True, slots=True)
class Anything:
    """Whatever it is, as it is."""

    def read(self, value: object, path: str) -> Any:
        """The value."""
        return value


@dataclass(frozen=True, slots=True)
class Derived:
    """What Azure shows and clients do not set."""


@dataclass(frozen=True, slots=True)
class Many:
    """A list."""

    item: Shape

    def read(self, value: object, path: str) -> list[Any]:
        """Each item as its shape reads it; an item that is null is left out."""
        if not isinstance(value, list):
            raise _unconvertible(value, "List", path)
        return [self.item.read(one, f"{path}[{index}]") for index, one in enumerate(value) if one is not None]


@dataclass(frozen=True, slots=True)
class Record:
    """An object: ``members`` by name; others are kept as they are.

    With ``has_properties`` there are ``properties``, even if they are empty.
    """

    members: Mapping[str, Shape | Derived]
    has_properties: bool = False
    _canonical: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_canonical", {name.lower(): name for name in self.members})

    def read(self, value: object, path: str) -> dict[str, Any]:
        """The object with the members that a client may set."""
        if not isinstance(value, Mapping):
            raise _unconvertible(value, "Object", path)
        found: dict[str, Any] = {}
        for given, member in value.items():
            name = self._canonical.get(str(given).lower(), str(given))
            shape = self.members.get(name)
            if member is None or isinstance(shape, Derived):
                continue
            found[name] = member if shape is None else shape.read(member, f"{path}.{name}" if path else name)
        if self.has_properties:
            found.setdefault("properties", {})
        return found


@dataclass(frozen=True, slots=True)
class Reference:
    """``{"id": ...}`` of a resource of type ``types`` (``virtualNetworks/subnets``); of any type if that is empty."""

    types: str = ""

    def read(self, value: object, path: str) -> dict[str, str]:
        """The id alone: what else a client sends back of the resource is not its to set here."""
        if not isinstance(value, Mapping):
            raise _unconvertible(value, "ResourceReference", path)
        given = next((member for name, member in value.items() if str(name).lower() == "id"), None)
        if given is None or given == "":
            raise unreadable("MissingJsonReferenceId", f"Value for reference id is missing. Path {path}.")
        text = Text().read(given, f"{path}.id")
        check_id(text, self.types, path)
        return {"id": text}


def check_id(text: str, types: str, path: str) -> ResourceId:
    """The id in ``text`` if it is one of a Microsoft.Network resource of type ``types``."""
    if not text.lower().startswith("/subscriptions/"):
        raise errors.ArmError(
            400,
            "LinkedInvalidPropertyId",
            f"Property id '{text}' at path '{path}.id' is invalid. Expect fully qualified resource Id that start with "
            "'/subscriptions/{subscriptionId}' or '/providers/{resourceProviderNamespace}/'.",
        )
    try:
        found = ids.parse(text)
    except errors.ArmError:
        found = None
    if found is None or not found.names:
        raise unreadable(
            "InvalidJsonReferenceFormat",
            f"Reference Id {text} is not formatted correctly. The Id is expected to start with "
            f"/subscriptions/{{subscriptionId}}/resourceGroups/{{resourceGroupName}}/. Path {path}.",
        )
    if types and found.kind.lower() != f"{NAMESPACE}/{types}".lower():
        raise unreadable(
            "InvalidJsonReferenceWrongType",
            f"Reference Id {text} is referencing resource of a wrong type. The Id is expected to reference resources "
            f"of type {types}. Path {path}.",
        )
    return found


def read(shape: Record, body: object) -> dict[str, Any]:
    """A whole body."""
    return shape.read(body, "")


#: What a client may send back of any resource or part of one.
ENVELOPE: Final[Mapping[str, Shape | Derived]] = {
    "id": Derived(),
    "type": Derived(),
    "etag": Derived(),
}


def resource(properties: Mapping[str, Shape | Derived], **others: Shape | Derived) -> Record:
    """A tracked resource with these properties."""
    return Record(
        {
            **ENVELOPE,
            "name": Derived(),
            "location": Text(),
            "tags": Tags(),
            "extendedLocation": Anything(),
            **others,
            "properties": Record({"provisioningState": Derived(), "resourceGuid": Derived(), **properties}),
        },
        has_properties=True,
    )


def part(properties: Mapping[str, Shape | Derived], **others: Shape | Derived) -> Record:
    """A part of a resource, or a resource in one: a name and properties."""
    return Record(
        {
            **ENVELOPE,
            "name": Text(),
            **others,
            "properties": Record({"provisioningState": Derived(), **properties}),
        },
        has_properties=True,
    )


@dataclass(frozen=True, slots=True)
class Tags:
    """Up to fifty names with texts (Azure Resource Manager, "Use tags to organize your resources")."""

    def read(self, value: object, path: str) -> dict[str, str]:
        """Every value as text."""
        if not isinstance(value, Mapping):
            raise _unconvertible(value, "Dictionary", path)
        return {
            str(name): Text().read("" if member is None else member, f"{path}.{name}") for name, member in value.items()
        }
