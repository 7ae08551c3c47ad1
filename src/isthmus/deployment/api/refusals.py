"""How a request is turned away, and how the log hears of it.

A refusal leaves as a problem (``wire.problems``) in one of two forms: ``application/problem+json`` for agents and
operators, Airflow's own form for tasks. ``RefusalLog`` writes each distinct refusal (code, address, token id) once per
interval, with the number of times that it has happened since: an agent with a revoked token that knocks every second is
one line a minute, not sixty. Invariant: the memory of the log is bounded whatever strangers send.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from pydantic import ValidationError
from structlog.typing import FilteringBoundLogger

from isthmus.deployment.api import asgi
from isthmus.deployment.errors import DatabaseError, PlaneRefusedError
from isthmus.wire.paths import NOT_FOUND_TEXT
from isthmus.wire.problems import CONTENT_TYPE, Code, FieldProblem, Problem, execution_problem, problem

#: How long a repetition stays unsaid.
INTERVAL_SECONDS: Final = 60.0
#: More distinct refusals than this within an interval are counted together.
MAX_DISTINCT: Final = 1024

_JSON: Final = b"application/json"
_PROBLEM: Final = CONTENT_TYPE.encode()
_TEXT: Final = b"text/plain; charset=utf-8"
_NOT_FOUND: Final = NOT_FOUND_TEXT.encode()


#: More fields than this are not named: a body can be wrong in thousands of places.
_MAX_FIELDS: Final = 20


class BadRequestError(Exception):
    """The request cannot be taken as it is; ``problem`` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem

    @classmethod
    def of(cls, error: ValidationError) -> Self:
        """What pydantic found, without the values that it found: they may be secrets."""
        return cls.of_errors(error.errors(include_url=False, include_context=False, include_input=False))

    @classmethod
    def of_errors(cls, found: Sequence[Mapping[str, Any]]) -> Self:
        """The same for a list of pydantic's error descriptions."""
        if any(one["type"] == "json_invalid" for one in found):
            return cls(problem(Code.BODY_MALFORMED, str(found[0]["msg"])))
        fields = tuple(
            FieldProblem(field=".".join(str(part) for part in one["loc"]), reason=str(one["msg"]))
            for one in found[:_MAX_FIELDS]
        )
        names = ", ".join(one.field or "the body" for one in fields[:5])
        return cls(problem(Code.REQUEST_INVALID, f"Wrong: {names}.", errors=fields))

    @classmethod
    def field(cls, name: str, reason: str) -> Self:
        """One wrong field."""
        return cls(
            problem(Code.REQUEST_INVALID, f"{name} {reason}.", errors=(FieldProblem(field=name, reason=reason),))
        )


def problem_of(error: Exception) -> Problem:
    """How an exception leaves: as the problem that it stands for, or as "internal"."""
    match error:
        case PlaneRefusedError():
            return problem(error.problem, error.detail, source_address=error.source_address, link_id=error.link_id)
        case BadRequestError():
            return error.problem
        case asgi.BodyTooLargeError():
            return problem(Code.BODY_TOO_LARGE, f"The body has {error}.")
        case asgi.BodyEncodingError():
            return problem(Code.ENCODING_UNSUPPORTED, f"The body is not {error}, or that is not understood.")
        case DatabaseError():
            return problem(Code.DATABASE_UNAVAILABLE)
        case _:
            return problem(Code.INTERNAL)


async def not_found(send: asgi.Send) -> None:
    """``404 page not found``, the same for everybody and everything that is not one of our paths."""
    await asgi.respond(send, 404, _NOT_FOUND, _TEXT)


async def refuse(
    send: asgi.Send, refusal: Problem, *, for_task: bool = False, headers: Iterable[asgi.Header] = ()
) -> None:
    """Answer with ``refusal``; in the form of Airflow's errors where a task will read it."""
    extra = list(headers)
    if refusal.status == 401:
        extra.append((b"www-authenticate", b'Bearer realm="isthmus"'))
    if refusal.status == 503:
        extra.append((b"retry-after", b"1"))
    if for_task:
        body, content_type = execution_problem(refusal).model_dump_json().encode(), _JSON
    else:
        body, content_type = refusal.model_dump_json().encode(), _PROBLEM
    await asgi.respond(send, refusal.status, body, content_type, extra)


@dataclass(slots=True)
class _Repeated:
    until: float
    times: int = 0


class RefusalLog:
    """Writes a refusal once per interval and counts its repetitions."""

    def __init__(self, log: FilteringBoundLogger, monotonic: Callable[[], float]) -> None:
        self._log = log
        self._monotonic = monotonic
        self._seen: dict[tuple[Code, str, str], _Repeated] = {}

    def note(self, code: Code, *, address: str = "", token_id: str = "", detail: str = "", route: str = "") -> None:
        """Take a refusal in."""
        now = self._monotonic()
        key = (code, address, token_id)
        seen = self._seen.get(key)
        if seen is None and len(self._seen) >= MAX_DISTINCT:
            self.sweep()
            if len(self._seen) >= MAX_DISTINCT:
                key = (code, "", "")
                address, detail, seen = "many", "", self._seen.get(key)
        if seen is None or now >= seen.until:
            repeated = seen.times if seen is not None else 0
            self._seen[key] = _Repeated(now + INTERVAL_SECONDS)
            self._write(code, address, token_id, repeated=repeated, detail=detail, route=route)
        else:
            seen.times += 1

    def sweep(self) -> None:
        """Say what was repeated in intervals that are over, and forget them. Call it now and then."""
        now = self._monotonic()
        over = [(key, seen) for key, seen in self._seen.items() if now >= seen.until]
        for (code, address, token_id), seen in over:
            del self._seen[code, address, token_id]
            if seen.times:
                self._write(code, address, token_id, repeated=seen.times)

    def _write(
        self, code: Code, address: str, token_id: str, *, repeated: int = 0, detail: str = "", route: str = ""
    ) -> None:
        values: dict[str, object] = {"code": code.value}
        values |= {"address": address} if address else {}
        values |= {"token_id": token_id} if token_id else {}
        values |= {"detail": detail} if detail else {}
        values |= {"route": route} if route else {}
        values |= {"repeated": repeated} if repeated else {}
        self._log.warning("refused", **values)
