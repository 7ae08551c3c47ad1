"""``$filter`` of the lists of resources and of groups.

Comparisons (``resourceType eq 'Microsoft.Network/virtualNetworks'``, ``ne``) and ``substringof('x', name)``, joined by
``and`` and ``or`` (``and`` binds closer). Names of properties and what they are compared with have no case. Source: the
REST reference of ``Resources - List`` and ``Resource Groups - List``.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from isthmus.lab import ids
from isthmus.lab.errors import ArmError

Predicate = Callable[[Mapping[str, Any]], bool]

_TOKEN: Final = re.compile(r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<word>[A-Za-z/.]+)|(?P<sign>[(),]))")
_PROPERTIES: Final = frozenset(
    {"resourcetype", "resourcegroup", "name", "location", "tagname", "tagvalue", "plan/publisher", "plan/product"}
)
_MAX_LENGTH: Final = 4000


def parse(text: str | None) -> Predicate:
    """Whether a shown resource fits. Raises errors.ArmError (400)."""
    if not text or not text.strip():
        return lambda _: True
    try:
        return _Parser(_tokens(text)).whole()
    except (ValueError, IndexError):
        raise ArmError(
            400,
            "InvalidFilterInQueryString",
            f"Invalid $filter '{text[:500]}' specified in the query string.",
        ) from None


def _tokens(text: str) -> list[str]:
    if len(text) > _MAX_LENGTH:
        raise ValueError("too long")
    tokens: list[str] = []
    position, text = 0, text.strip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError("not a token")
        tokens.append(match[0].strip())
        position = match.end()
    return tokens


class _Parser:
    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._position = 0

    def whole(self) -> Predicate:
        alternatives = [self._conjunction()]
        while self._position < len(self._tokens):
            self._expect("or")
            alternatives.append(self._conjunction())
        return lambda shown: any(_holds(conjunction, shown) for conjunction in alternatives)

    def _conjunction(self) -> list[tuple[str, str, str]]:
        comparisons = [self._comparison()]
        while self._position < len(self._tokens) and self._tokens[self._position].lower() == "and":
            self._position += 1
            comparisons.append(self._comparison())
        return comparisons

    def _comparison(self) -> tuple[str, str, str]:
        word = self._next().lower()
        if word in ("substringof", "startswith"):
            self._expect("(")
            one, other = self._next_of_two()
            self._expect(")")
            return word, one, other
        operator = self._next().lower()
        if word not in _PROPERTIES or operator not in ("eq", "ne"):
            raise ValueError("not a comparison")
        return operator, word, self._text()

    def _next_of_two(self) -> tuple[str, str]:
        """A property and a text, in either order."""
        if self._tokens[self._position].startswith("'"):
            text = self._text()
            self._expect(",")
            return self._property(), text
        name = self._property()
        self._expect(",")
        return name, self._text()

    def _property(self) -> str:
        name = self._next().lower()
        if name not in _PROPERTIES:
            raise ValueError("not a property")
        return name

    def _next(self) -> str:
        self._position += 1
        return self._tokens[self._position - 1]

    def _expect(self, word: str) -> None:
        if self._next().lower() != word:
            raise ValueError(f"not {word}")

    def _text(self) -> str:
        text = self._next()
        if not text.startswith("'"):
            raise ValueError("not a text")
        return text[1:-1].replace("''", "'")


def _holds(comparisons: list[tuple[str, str, str]], shown: Mapping[str, Any]) -> bool:
    tags = {str(name).lower(): str(value) for name, value in (shown.get("tags") or {}).items()}
    wanted = next((text.lower() for _, name, text in comparisons if name == "tagname"), None)
    return all(_compare(operator, _values(name, shown, tags, wanted), text) for operator, name, text in comparisons)


def _values(name: str, shown: Mapping[str, Any], tags: Mapping[str, str], tag: str | None) -> list[str]:
    """What a property of a resource is: several for tags."""
    match name:
        case "tagname":
            return list(tags)
        case "tagvalue":
            return list(tags.values()) if tag is None else [tags[tag]] if tag in tags else []
        case "resourcetype":
            return [str(shown.get("type", ""))]
        case "resourcegroup":
            return [ids.parse(str(shown["id"])).group or ""]
        case _:
            found = shown.get(name)
            return [found] if isinstance(found, str) else []


def _compare(operator: str, values: list[str], text: str) -> bool:
    lower, wanted = [value.lower() for value in values], text.lower()
    match operator:
        case "eq":
            return wanted in lower
        case "ne":
            return wanted not in lower
        case "startswith":
            return any(value.startswith(wanted) for value in lower)
        case _:
            return any(wanted in value for value in lower)
