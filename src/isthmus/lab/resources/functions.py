"""The functions of templates that need nothing but what they are given.

Those that ask for parameters, variables or resources are made where these are known (``templates``, ``deploying``).
Azure's ``uniqueString`` is not published: ours is as long, and as much the same for the same, but not equal to Azure's.
"""

import base64
import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

from isthmus.lab.resources.expressions import ExpressionError, Function

#: What a function may make.
_MAX_LENGTH: Final = 131_072
#: Azure's namespace of ``guid()``.
_GUID_NAMESPACE: Final = uuid.UUID("11fb06fb-712d-4ddd-98c7-e71bbd588830")


def _text(value: Any) -> str:
    match value:
        case str():
            return value
        case bool():
            return "True" if value else "False"
        case int():
            return str(value)
        case _:
            return json.dumps(value, separators=(",", ":"))


def _concat(arguments: Sequence[Any]) -> Any:
    if arguments and all(isinstance(one, list) for one in arguments):
        return [inner for one in arguments for inner in one]
    return _bounded("".join(_text(one) for one in arguments))


def _bounded(text: str) -> str:
    _check_length(len(text))
    return text


def _check_length(length: int) -> None:
    if length > _MAX_LENGTH:
        raise ExpressionError(f"A string of more than {_MAX_LENGTH} characters is not allowed.")


def _replaced(text: str, old: str, new: str) -> str:
    _check_length(len(text) + text.count(old) * len(new))
    return text.replace(old, new)


def _join(arguments: Sequence[Any]) -> str:
    values, separator = [_text(one) for one in arguments[0]], str(arguments[1])
    _check_length(len(values) * len(separator))
    return _bounded(separator.join(values))


def _format(arguments: Sequence[Any]) -> str:
    text = str(arguments[0])
    for index, value in enumerate(arguments[1:]):
        text = _replaced(text, f"{{{index}}}", _text(value))
    return text


def _unique(arguments: Sequence[Any]) -> str:
    digest = hashlib.sha256("\0".join(_text(one) for one in arguments).encode()).digest()
    return base64.b32encode(digest).decode().lower()[:13]


def _guid(arguments: Sequence[Any]) -> str:
    return str(uuid.uuid5(_GUID_NAMESPACE, "-".join(_text(one) for one in arguments)))


def _union(arguments: Sequence[Any]) -> Any:
    if all(isinstance(one, dict) for one in arguments):
        return {name: value for one in arguments for name, value in one.items()}
    found: list[Any] = []
    for one in arguments:
        found += [inner for inner in one if inner not in found]
    return found


def _contains(arguments: Sequence[Any]) -> bool:
    holder, wanted = arguments
    if isinstance(holder, dict):
        return str(wanted).lower() in {name.lower() for name in holder}
    return wanted in holder if isinstance(holder, list) else _text(wanted) in holder


def _substring(arguments: Sequence[Any]) -> str:
    text, start = str(arguments[0]), int(arguments[1])
    length = int(arguments[2]) if len(arguments) > 2 else len(text) - start
    if start < 0 or length < 0 or start + length > len(text):
        raise ExpressionError("The index and length parameters must refer to a location within the string.")
    return text[start : start + length]


def _split(arguments: Sequence[Any]) -> list[str]:
    separators = arguments[1] if isinstance(arguments[1], list) else [arguments[1]]
    text = str(arguments[0])
    for separator in separators[1:]:
        text = text.replace(separator, separators[0])
    return text.split(separators[0])


def _int(arguments: Sequence[Any]) -> int:
    text = str(arguments[0])
    if len(text) > 19:
        raise ExpressionError(f"'{text[:40]}' is not an integer.")
    return int(text)


def _bool(arguments: Sequence[Any]) -> bool:
    match arguments[0]:
        case bool(value):
            return value
        case int(value):
            return value != 0
        case str(value) if value.lower() in ("true", "1", "false", "0"):
            return value.lower() in ("true", "1")
        case other:
            raise ExpressionError(f"'{other}' is not a boolean.")


def _range(arguments: Sequence[Any]) -> list[int]:
    start, count = arguments
    if not 0 <= count <= 10_000:
        raise ExpressionError("The count must be between 0 and 10000.")
    return list(range(start, start + count))


def _equals(arguments: Sequence[Any]) -> bool:
    one, other = arguments
    if isinstance(one, str) and isinstance(other, str):
        return one.lower() == other.lower()
    return type(one) is type(other) and bool(one == other)


def _reduced(arguments: Sequence[Any]) -> Sequence[Any]:
    return arguments[0] if len(arguments) == 1 and isinstance(arguments[0], list) else arguments


def _divide(arguments: Sequence[Any]) -> int:
    one, other = int(arguments[0]), int(arguments[1])
    quotient = abs(one) // abs(other)
    return quotient if (one < 0) == (other < 0) else -quotient


def _index_of(arguments: Sequence[Any]) -> int:
    holder, wanted = arguments
    if isinstance(holder, str):
        return holder.lower().find(wanted.lower())
    return list(holder).index(wanted) if wanted in holder else -1


def _first_of(arguments: Sequence[Any]) -> Any:
    return next((one for one in arguments if one is not None), None)


PURE: Final[Mapping[str, Function]] = {
    "add": lambda a: a[0] + a[1],
    "and": lambda a: all(_bool([one]) for one in a),
    "array": lambda a: a[0] if isinstance(a[0], list) else [a[0]],
    "base64": lambda a: base64.b64encode(str(a[0]).encode()).decode(),
    "base64tostring": lambda a: base64.b64decode(str(a[0])).decode(),
    "bool": _bool,
    "coalesce": _first_of,
    "concat": _concat,
    "contains": _contains,
    "createarray": list,
    "createobject": lambda a: dict(zip(a[::2], a[1::2], strict=True)),
    "div": _divide,
    "empty": lambda a: a[0] is None or len(a[0]) == 0,
    "endswith": lambda a: a[0].lower().endswith(a[1].lower()),
    "equals": _equals,
    "false": lambda a: False,
    "first": lambda a: a[0][0] if a[0] else ("" if isinstance(a[0], str) else None),
    "format": _format,
    "greater": lambda a: a[0] > a[1],
    "greaterorequals": lambda a: a[0] >= a[1],
    "guid": _guid,
    "indexof": _index_of,
    "int": _int,
    "join": _join,
    "json": lambda a: json.loads(a[0]),
    "last": lambda a: a[0][-1] if a[0] else ("" if isinstance(a[0], str) else None),
    "lastindexof": lambda a: a[0].lower().rfind(a[1].lower()),
    "length": lambda a: len(a[0]),
    "less": lambda a: a[0] < a[1],
    "lessorequals": lambda a: a[0] <= a[1],
    "max": lambda a: max(_reduced(a)),
    "min": lambda a: min(_reduced(a)),
    "mod": lambda a: a[0] - a[1] * _divide(a),
    "mul": lambda a: a[0] * a[1],
    "not": lambda a: not _bool(a),
    "null": lambda a: None,
    "or": lambda a: any(_bool([one]) for one in a),
    "padleft": lambda a: _bounded(_text(a[0]).rjust(min(int(a[1]), _MAX_LENGTH), a[2] if len(a) > 2 else " ")),
    "range": _range,
    "replace": lambda a: _replaced(str(a[0]), a[1], a[2]),
    "skip": lambda a: a[0][max(a[1], 0) :],
    "split": _split,
    "startswith": lambda a: a[0].lower().startswith(a[1].lower()),
    "string": lambda a: _text(a[0]),
    "sub": lambda a: a[0] - a[1],
    "substring": _substring,
    "take": lambda a: a[0][: max(a[1], 0)],
    "tolower": lambda a: str(a[0]).lower(),
    "toupper": lambda a: str(a[0]).upper(),
    "trim": lambda a: str(a[0]).strip(),
    "true": lambda a: True,
    "union": _union,
    "uniquestring": _unique,
    "uri": lambda a: str(a[0]).rstrip("/") + "/" + str(a[1]).lstrip("/"),
}
