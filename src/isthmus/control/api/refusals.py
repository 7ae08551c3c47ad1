"""How a request is turned away: every refusal is a problem (``wire.problems``)."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from isthmus.control.errors import AdminUnreachableError, ControlRefusedError, DatabaseError, DeploymentRefusedError
from isthmus.kit.errors import ConfigError, IsthmusError, TemporaryError
from isthmus.wire.problems import Code, FieldProblem, Problem, problem

#: More fields than this are not named: a body can be wrong in thousands of places.
_MAX_FIELDS: Final = 20


_DATABASE_HINT: Final = (
    "Try again: it recovers by itself, and nothing was lost. /healthz says since when; is PostgreSQL running "
    "(ISTHMUS_CONTROL_DATABASE_URL, or the one in --home)?"
)
#: Families of errors and what the wire calls them, the special before the general.
_FAMILIES: Final[tuple[tuple[type[IsthmusError], Code], ...]] = (
    (AdminUnreachableError, Code.ADMIN_UNREACHABLE),
    (TemporaryError, Code.CLOUD_UNAVAILABLE),
    (ConfigError, Code.REQUEST_INVALID),
    (IsthmusError, Code.CLOUD_REFUSED),  # of ``link``: the cloud's own reasons
)


def problem_of(error: Exception) -> Problem:
    """How an exception leaves: as the problem that it stands for, or as "internal"."""
    match error:
        case ControlRefusedError():
            return problem(error.problem, error.detail, hint=error.hint)
        case DeploymentRefusedError():
            return error.problem
        case DatabaseError():
            return problem(
                Code.DATABASE_UNAVAILABLE, "The control plane's database does not answer.", hint=_DATABASE_HINT
            )
        case IsthmusError():
            code = next(code for family, code in _FAMILIES if isinstance(error, family))
            return problem(code, error.summary if error.code == code else str(error), hint=error.hint or None)
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
