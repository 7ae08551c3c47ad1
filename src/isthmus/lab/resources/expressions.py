"""The language of templates: ``[concat(parameters('name'), '-nic')]``.

A string that begins with ``[`` and ends with ``]`` is an expression, unless it begins with ``[[``. An expression is a
call, a string in single quotes or a number, with ``.member`` and ``[index]`` behind it. Parsing and evaluating are
apart, so that what an expression refers to can be found before anything exists. Whatever a function makes is bounded.
Source: "Syntax and expressions in ARM templates" and "ARM template functions".
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

_TOKEN: Final = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>-?\d{1,18})|(?P<word>[A-Za-z_]\w*)|(?P<sign>[()\[\].,]))"
)
#: What a function may make, in characters, members and elements.
MAX_WEIGHT: Final = 1024 * 1024
_MAX_LENGTH: Final = 24_576
_MAX_DEPTH: Final = 40


class ExpressionError(Exception):
    """An expression that cannot be read or evaluated; the text says why."""


@dataclass(frozen=True, slots=True)
class Literal:
    """A string or a number."""

    value: str | int


@dataclass(frozen=True, slots=True)
class Invocation:
    """A function and what it is given."""

    function: str
    arguments: "tuple[Expression, ...]"


@dataclass(frozen=True, slots=True)
class Selection:
    """A member or an element of something."""

    of: "Expression"
    index: "Expression"


Expression = Literal | Invocation | Selection

Function = Callable[[Sequence[Any]], Any]


def is_expression(text: str) -> bool:
    """Whether a string is one."""
    return text.startswith("[") and text.endswith("]") and not text.startswith("[[")


def parse(text: str) -> Expression:
    """The expression in ``[...]``. Raises ExpressionError."""
    if len(text) > _MAX_LENGTH:
        raise ExpressionError(f"The expression is longer than {_MAX_LENGTH} characters.")
    parser = _Parser(text[1:-1])
    found = parser.expression(0)
    parser.end()
    return found


def invocations(expression: Expression) -> Iterator[Invocation]:
    """All calls in an expression."""
    match expression:
        case Invocation():
            yield expression
            for argument in expression.arguments:
                yield from invocations(argument)
        case Selection():
            yield from invocations(expression.of)
            yield from invocations(expression.index)
        case Literal():
            return


def found_in(value: Any) -> Iterator[Expression]:
    """All expressions in a JSON value. Raises ExpressionError."""
    match value:
        case str():
            if is_expression(value):
                yield parse(value)
        case dict():
            for key, inner in value.items():
                yield from found_in(key)
                yield from found_in(inner)
        case list():
            for inner in value:
                yield from found_in(inner)


def resolve(value: Any, functions: Mapping[str, Function]) -> Any:
    """A JSON value with all expressions evaluated. Raises ExpressionError.

    ``functions`` by their name in lower case.
    """
    match value:
        case str():
            if value.startswith("[["):
                return value[1:]
            return evaluate(parse(value), functions) if is_expression(value) else value
        case dict():
            return {resolve(key, functions): resolve(inner, functions) for key, inner in value.items()}
        case list():
            return [resolve(inner, functions) for inner in value]
        case _:
            return value


def evaluate(expression: Expression, functions: Mapping[str, Function]) -> Any:
    """What an expression is. Raises ExpressionError."""
    match expression:
        case Literal():
            return expression.value
        case Selection():
            return _select(evaluate(expression.of, functions), evaluate(expression.index, functions))
        case Invocation():
            return _invoke(expression, functions)


def _invoke(invocation: Invocation, functions: Mapping[str, Function]) -> Any:
    name = invocation.function.lower()
    if name == "if":
        return _choose(invocation, functions)
    function = functions.get(name)
    if function is None:
        raise ExpressionError(f"The template function '{invocation.function}' is not valid.")
    arguments = [evaluate(argument, functions) for argument in invocation.arguments]
    try:
        found = function(arguments)
        check_weight(found)
    except (TypeError, ValueError, IndexError, KeyError, AttributeError, ZeroDivisionError, OverflowError):
        raise ExpressionError(
            f"The template language function '{invocation.function}' was invoked with arguments that do not fit it."
        ) from None
    return found


def check_weight(value: Any) -> None:
    """Refuse what is too much to go on with. Raises ExpressionError."""
    weight, left = 0, [value]
    while left and weight <= MAX_WEIGHT:
        one = left.pop()
        match one:
            case str():
                weight += len(one)
            case dict():
                left += [*one.keys(), *one.values()]
            case list():
                left += one
            case int() if abs(one) >= 2**63:
                raise ExpressionError("An integer is larger than 64 bits.")
        weight += 1
    if weight > MAX_WEIGHT:
        raise ExpressionError("The template language expression's result is too large.")


def _choose(invocation: Invocation, functions: Mapping[str, Function]) -> Any:
    if len(invocation.arguments) != 3:
        raise ExpressionError("The template language function 'if' expects three parameters.")
    condition = evaluate(invocation.arguments[0], functions)
    if not isinstance(condition, bool):
        raise ExpressionError("The first parameter of the template language function 'if' must be a boolean.")
    return evaluate(invocation.arguments[1 if condition else 2], functions)


def _select(of: Any, index: Any) -> Any:
    if isinstance(of, dict) and isinstance(index, str):
        for name, value in of.items():
            if name.lower() == index.lower():
                return value
        raise ExpressionError(
            f"The language expression property '{index}' doesn't exist, available properties are '{', '.join(of)}'."
        )
    if isinstance(of, list) and isinstance(index, int) and 0 <= index < len(of):
        return of[index]
    raise ExpressionError(f"The language expression property '{index}' can't be evaluated.")


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0

    def expression(self, depth: int) -> Expression:
        if depth > _MAX_DEPTH:
            raise ExpressionError(f"The expression is nested deeper than {_MAX_DEPTH} levels.")
        kind, token = self._next()
        found: Expression
        match kind:
            case "text":
                found = Literal(token[1:-1].replace("''", "'"))
            case "number":
                found = Literal(int(token))
            case "word":
                found = Invocation(token, self._arguments(depth))
            case _:
                raise ExpressionError(f"Unexpected '{token}' in the template language expression '{self._text[:200]}'.")
        return self._selections(found, depth)

    def end(self) -> None:
        if self._text[self._position :].strip():
            raise ExpressionError(
                f"The template language expression '{self._text[:200]}' does not end where it should."
            )

    def _arguments(self, depth: int) -> tuple[Expression, ...]:
        self._expect("(")
        if self._peek() == ")":
            self._expect(")")
            return ()
        arguments = [self.expression(depth + 1)]
        while self._peek() == ",":
            self._expect(",")
            arguments.append(self.expression(depth + 1))
        self._expect(")")
        return tuple(arguments)

    def _selections(self, found: Expression, depth: int) -> Expression:
        while (sign := self._peek()) in (".", "["):
            self._expect(sign)
            if sign == ".":
                kind, word = self._next()
                if kind != "word":
                    raise ExpressionError(f"A member's name is expected behind '.', not '{word}'.")
                found = Selection(found, Literal(word))
            else:
                found = Selection(found, self.expression(depth + 1))
                self._expect("]")
        return found

    def _peek(self) -> str:
        match = _TOKEN.match(self._text, self._position)
        return match["sign"] or "" if match is not None else ""

    def _next(self) -> tuple[str, str]:
        match = _TOKEN.match(self._text, self._position)
        if match is None or match.lastgroup is None:
            raise ExpressionError(f"The template language expression '{self._text[:200]}' is not valid.")
        self._position = match.end()
        return match.lastgroup, match[match.lastgroup]

    def _expect(self, sign: str) -> None:
        _, token = self._next()
        if token != sign:
            raise ExpressionError(f"Expected '{sign}' but found '{token}' in '{self._text[:200]}'.")
