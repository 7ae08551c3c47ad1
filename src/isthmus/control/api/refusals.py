"""How a request is turned away: every refusal is a problem (``wire.problems``)."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from isthmus.control.errors import ControlRefusedError, DatabaseError
from isthmus.kit.errors import ConfigError, IsthmusError, TemporaryError
from isthmus.wire.problems import Code, FieldProblem, Problem, problem

#: More fields than this are not named: a body can be wrong in thousands of places.
_MAX_FIELDS: Final = 20


def problem_of(error: Exception) -> Problem:
    """How an exception leaves: as the problem that it stands for, or as "internal"."""
    match error:
        case ControlRefusedError():
            return problem(error.problem, error.detail, hint=error.hint)
        case DatabaseError():
            return problem(Code.DATABASE_UNAVAILABLE)
        case TemporaryError():
            return problem(Code.CLOUD_UNAVAILABLE, str(error), hint=error.hint or None)
        case ConfigError():
            return problem(Code.REQUEST_INVALID, str(error), hint=error.hint or None)
        case IsthmusError():  # of ``link``: the cloud's own reasons
            return problem(Code.CLOUD_REFUSED, str(error), hint=error.hint or None)
        case _:
            return problem(Code.INTERNAL)


def of_fields(found: Sequence[Mapping[str, Any]]) -> Problem:
    """What pydantic found, without the values that it found."""
    if any(one["type"] == "json_invalid" for one in found):
        return problem(Code.BODY_MALFORMED, str(found[0]["msg"]))
    fields = tuple(
        FieldProblem(field=".".join(str(part) for part in one["loc"]), reason=str(one["msg"]))
        for one in found[:_MAX_FIELDS]
    )
    names = ", ".join(one.field or "the body" for one in fields[:5])
    return problem(Code.REQUEST_INVALID, f"Wrong: {names}.", errors=fields)


def field(name: str, reason: str) -> Problem:
    """One wrong field."""
    return problem(Code.REQUEST_INVALID, f"{name} {reason}.", errors=(FieldProblem(field=name, reason=reason),))
