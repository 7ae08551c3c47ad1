"""The internal listener: the admin API behind its token; health, metrics and the OpenAPI documents beside it.

It has a port of its own and never faces agents. A request for ``/admin/v1`` proves itself before its body is read;
health, metrics and documents are open to whoever reaches the port. Every other path answers ``404 page not found``.
Invariant: no answer of FastAPI's or Starlette's own making leaves this module.
"""

import hashlib
import hmac
from pathlib import Path
from typing import Any, Final

import structlog
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Match, Route

from isthmus import __version__
from isthmus.deployment import reading
from isthmus.deployment.api import admin, asgi, documents, refusals
from isthmus.deployment.api.metrics import CONTENT_TYPE as METRICS_TYPE
from isthmus.deployment.api.metrics import Metrics
from isthmus.deployment.api.refusals import BadRequestError, RefusalLog
from isthmus.deployment.conditions import Checkup
from isthmus.deployment.errors import DatabaseError, PlaneRefusedError
from isthmus.deployment.plane import Plane
from isthmus.kit.clocks import Clock
from isthmus.wire import paths
from isthmus.wire.admin import HealthStatus, HealthView
from isthmus.wire.agents import Severity
from isthmus.wire.problems import CONTENT_TYPE, Code, Problem, problem

TITLE: Final = "Isthmus admin API"
DESCRIPTION: Final = "A deployment's tokens, allow list, agents and workloads. Served on the internal listener alone."
#: Where an error handler leaves the problem's code for the metrics.
_CODE: Final = "isthmus.problem"

log = structlog.get_logger(__name__)


class AdminToken:
    """The admin token in a file, read again when the file changes."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._digest: bytes | None = None

    def check(self, authorization: bytes | None) -> None:
        """Raise PlaneRefusedError(ADMIN_TOKEN_INVALID) unless the header carries the token."""
        expected = self._expected()
        scheme, _, given = (authorization or b"").partition(b" ")
        equal = hmac.compare_digest(hashlib.sha256(given.strip()).digest(), expected or b"")
        if not equal or expected is None or scheme.lower() != b"bearer":
            raise PlaneRefusedError(Code.ADMIN_TOKEN_INVALID)

    def _expected(self) -> bytes | None:
        if self._path is None:
            return None
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_ino)
            if seen != self._seen:
                text = self._path.read_bytes().strip()
                self._digest = hashlib.sha256(text).digest() if text else None
                self._seen = seen
        except OSError:
            return None
        return self._digest


class Internal:
    """The internal listener's ASGI application: the token, the limit on bodies, then FastAPI."""

    def __init__(self, plane: Plane, metrics: Metrics, refused: RefusalLog, app: FastAPI) -> None:
        self._limit = plane.config.max_body_bytes
        self._metrics = metrics
        self._refused = refused
        self._token = AdminToken(plane.config.admin_token_file)
        self._app = app

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        status = 0

        async def noting(event: asgi.Event) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                status = event["status"]
            await send(event)

        try:
            if scope["path"].startswith(paths.ADMIN_PREFIX + "/"):
                self._token.check(asgi.header(scope, b"authorization"))
            body = await asgi.read_body(scope, receive, self._limit)
            await self._app(scope, asgi.replay(body, receive), noting)
        except asgi.ClientGoneError:
            return
        except (PlaneRefusedError, asgi.BodyTooLargeError) as error:
            refusal = refusals.problem_of(error)
            await refusals.refuse(noting, refusal, headers=[(b"connection", b"close")])
            self._note(scope, refusal)
        except Exception as error:
            # Starlette has answered 500 and raises all the same.
            log.error("an internal request failed", path=scope["path"], exc_info=error)
        route = getattr(scope.get("route"), "name", "none")
        self._metrics.count("admin", route, status, scope.get(_CODE, ""))

    def _note(self, scope: asgi.Scope, refusal: Problem) -> None:
        scope[_CODE] = refusal.code
        client = scope.get("client")
        self._refused.note(Code(refusal.code), address=client[0] if client else "", route="admin")


def application(
    plane: Plane,
    metrics: Metrics,
    checkup: Checkup,
    clock: Clock,
    *,
    agent_document: dict[str, Any],
    airflow_version: str,
    airflow_url: str | None,
) -> FastAPI:
    """All routes of the internal listener."""
    app = FastAPI(
        title=TITLE, version=__version__, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    _add_errors(app)
    routes = admin.router(plane, clock, airflow_version=airflow_version, airflow_url=airflow_url)
    admin_document = document(routes)
    app.include_router(routes)
    _add_health(app, plane, checkup)
    _add_metrics(app, plane, metrics)

    @app.get(paths.AGENT_DOCUMENT)
    async def agent_openapi() -> Response:
        return JSONResponse(agent_document)

    @app.get(paths.ADMIN_DOCUMENT)
    async def admin_openapi() -> Response:
        return JSONResponse(admin_document)

    return app


def document(routes: APIRouter) -> dict[str, Any]:
    """The OpenAPI document of the admin API."""
    described = get_openapi(title=TITLE, version=__version__, description=DESCRIPTION, routes=routes.routes)
    return documents.completed(described, "The token in the file that [isthmus] admin_token_file names.")


def _add_health(app: FastAPI, plane: Plane, checkup: Checkup) -> None:
    @app.get(paths.HEALTH)
    async def health() -> Response:
        await checkup.look()
        warnings = checkup.warnings()
        severities = {warning.severity for warning in warnings}
        if Severity.ERROR in severities:
            status = HealthStatus.FAILING
        else:
            status = HealthStatus.WARNING if Severity.WARNING in severities else HealthStatus.OK
        view = HealthView(
            status=status, version=__version__, deployment_id=plane.config.deployment_id, warnings=warnings
        )
        return Response(
            view.model_dump_json(),
            status_code=503 if status is HealthStatus.FAILING else 200,
            media_type="application/json",
        )


def _add_metrics(app: FastAPI, plane: Plane, metrics: Metrics) -> None:
    @app.get(paths.METRICS)
    async def prometheus() -> Response:
        try:
            counts = await reading.counts(plane.pool, heartbeat_seconds=plane.config.heartbeat_seconds)
        except DatabaseError:  # what this process counts itself is worth more in an outage than before
            counts = None
        return Response(metrics.text(counts), media_type=METRICS_TYPE.decode())


def _add_errors(app: FastAPI) -> None:
    async def refuse(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException) and error.status_code == 404:
            return PlainTextResponse(paths.NOT_FOUND_TEXT, 404, {"x-content-type-options": "nosniff"})
        refusal = _problem_of(error)
        request.scope[_CODE] = refusal.code
        headers = {"allow": _methods(app, request.scope)} if refusal.code == Code.METHOD_NOT_ALLOWED else None
        return Response(refusal.model_dump_json(), refusal.status, headers, CONTENT_TYPE)

    for kind in (PlaneRefusedError, DatabaseError, BadRequestError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, refuse)


def _methods(app: FastAPI, scope: asgi.Scope) -> str:
    """What the path takes. Several routes share it, and Starlette names the methods of the first alone."""
    routes = [route for route in app.routes if isinstance(route, Route) and route.matches(scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in routes for method in route.methods or ()}))


def _problem_of(error: Exception) -> Problem:
    """How an exception leaves, what FastAPI and Starlette raise included."""
    match error:
        case RequestValidationError():
            return BadRequestError.of_errors(error.errors()).problem
        case HTTPException(status_code=405):
            return problem(Code.METHOD_NOT_ALLOWED)
        case HTTPException(status_code=400):
            return problem(Code.BODY_MALFORMED)
        case _:
            return refusals.problem_of(error)
