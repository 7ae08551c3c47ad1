"""What the OpenAPI document says of errors and of the token.

FastAPI makes the document from the routes; what it would say of errors by itself is replaced, because every
refusal is a problem (``wire.problems``) and the codes that a route may answer with are declared beside it.
"""

from collections.abc import Iterable
from typing import Any, Final

from fastapi import APIRouter
from fastapi.openapi.utils import get_openapi

from isthmus import __version__
from isthmus.wire.problems import CONTENT_TYPE, MEANINGS, Code, Problem

TITLE: Final = "Isthmus control API"
_DESCRIPTION: Final = "Clusters, their deployments and links, operators, the audit log. GET needs the role viewer."
_SECURITY: Final = "operator"


def responses(codes: Iterable[Code]) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that may answer with these problems: one entry per HTTP status."""
    by_status: dict[int, list[Code]] = {}
    for code in sorted(set(codes)):
        by_status.setdefault(MEANINGS[code].status, []).append(code)
    return {
        status: {
            "description": " ".join(f"`{code.value}`: {MEANINGS[code].title}." for code in group),
            "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, group in sorted(by_status.items())
    }


def document(routes: APIRouter) -> dict[str, Any]:
    """The OpenAPI document of ``routes``."""
    made = get_openapi(title=TITLE, version=__version__, description=_DESCRIPTION, routes=routes.routes)
    components = made.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
    schemas.update(problem.pop("$defs", {}))
    schemas["Problem"] = problem
    for default in ("HTTPValidationError", "ValidationError"):
        schemas.pop(default, None)
    token = {"type": "http", "scheme": "bearer", "description": "An operator's token (isthmus operator create)."}
    components["securitySchemes"] = {_SECURITY: token}
    made["security"] = [{_SECURITY: []}]
    return made
