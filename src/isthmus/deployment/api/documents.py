"""What the OpenAPI documents of both APIs have in common: problems and the bearer token.

FastAPI makes the documents from routes; what it would say of errors by itself is replaced by ours, because every
refusal is a problem (``wire.problems``) and the codes that a route may answer with are declared beside it.
"""

from collections.abc import Iterable
from typing import Any, Final

from isthmus.wire.problems import CONTENT_TYPE, MEANINGS, Code, Problem

SECURITY: Final = "token"
_PROBLEM: Final = {"$ref": "#/components/schemas/Problem"}


def responses(codes: Iterable[Code]) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that may answer with these problems: one entry per HTTP status."""
    by_status: dict[int, list[Code]] = {}
    for code in sorted(set(codes)):
        by_status.setdefault(MEANINGS[code].status, []).append(code)
    return {
        status: {
            "description": " ".join(f"`{code.value}`: {MEANINGS[code].title}." for code in group),
            "content": {CONTENT_TYPE: {"schema": _PROBLEM}},
        }
        for status, group in sorted(by_status.items())
    }


def completed(document: dict[str, Any], token: str) -> dict[str, Any]:
    """``document`` with the schema of problems and the bearer token that every route asks for."""
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
    schemas.update(problem.pop("$defs", {}))
    schemas["Problem"] = problem
    for default in ("HTTPValidationError", "ValidationError"):
        schemas.pop(default, None)
    components["securitySchemes"] = {SECURITY: {"type": "http", "scheme": "bearer", "description": token}}
    document["security"] = [{SECURITY: []}]
    return document
