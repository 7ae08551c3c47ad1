"""All that the listener serves: the API, health, metrics, the document; and how errors leave it.

Invariant: no answer of FastAPI's or Starlette's own making leaves this module.
"""

from collections.abc import Mapping
from typing import Any

import structlog
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp

from isthmus import __version__
from isthmus.control import clusters, conditions
from isthmus.control.api import deployments, documents, refusals, routes, traffic
from isthmus.control.api.guarding import Guard
from isthmus.control.api.routes import Core, ProblemError
from isthmus.control.errors import DatabaseError
from isthmus.kit.errors import IsthmusError
from isthmus.kit.health import Health
from isthmus.wire import paths
from isthmus.wire.admin import HealthStatus
from isthmus.wire.agents import Severity
from isthmus.wire.control import ControlHealthView
from isthmus.wire.problems import CONTENT_TYPE, Code, Problem, problem

log = structlog.get_logger(__name__)


class Metrics:
    """What a process counts, for Prometheus. Label values come from fixed sets."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "isthmus_control_requests_total",
            "Requests by route and status.",
            ("route", "status"),
            registry=self.registry,
        )
        self._things = Gauge("isthmus_control_things", "How many there are.", ("kind",), registry=self.registry)
        self._warnings = Gauge(
            "isthmus_control_warnings", "Conditions that are shown, by severity.", ("severity",), registry=self.registry
        )

    def count(self, route: str, status: int) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()

    def text(self, counts: dict[str, int], health: Health) -> bytes:
        """Everything in Prometheus' text format."""
        for kind, number in counts.items():
            self._things.labels(kind).set(number)
        shown = health.visible()
        for severity in Severity:
            self._warnings.labels(severity.value).set(sum(one.severity.value == severity.value for one in shown))
        return generate_latest(self.registry)


def application(
    core: Core, health: Health, mounts: Mapping[str, ASGIApp] | None = None, *, home: str | None = None
) -> Guard:
    """The listener's application. ``mounts`` are further ones, below a path each, who admit for themselves.

    ``/`` leads to the path ``home``, for people who type no more than the host.
    """
    app = FastAPI(
        title=documents.TITLE,
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    metrics = Metrics()
    api = router(core)
    described = documents.document(api)
    app.include_router(api)
    for path, mounted in (mounts or {}).items():
        app.mount(path, mounted)
    _add_errors(app)
    _add_health(app, core, health, metrics)
    _add_document(app, described)
    if home is not None:
        _add_home(app, home)
    return Guard(app, core.database, metrics.count)


def router(core: Core) -> APIRouter:
    """All routes of the API."""
    api = routes.router(core)
    deployments.add(api, core)
    traffic.add(api, core)
    return api


def _add_document(app: FastAPI, described: dict[str, Any]) -> None:
    @app.get(paths.CONTROL_DOCUMENT)
    async def openapi() -> Response:
        return JSONResponse(described)


def _add_home(app: FastAPI, home: str) -> None:
    @app.get("/")
    async def lead_home() -> Response:
        return RedirectResponse(home, 303, {"cache-control": "no-store"})


def _add_health(app: FastAPI, core: Core, health: Health, metrics: Metrics) -> None:
    @app.get(paths.HEALTH)
    async def healthz() -> Response:
        try:
            async with core.database.begin() as database:
                await clusters.counts(database)
            health.clear(conditions.DATABASE)
        except DatabaseError as error:
            health.raise_(conditions.DATABASE, error.summary, error.hint)
        warnings = tuple(conditions.to_wire(one) for one in health.visible())
        severities = {one.severity for one in warnings}
        status = HealthStatus.WARNING if Severity.WARNING in severities else HealthStatus.OK
        if Severity.ERROR in severities:
            status = HealthStatus.FAILING
        view = ControlHealthView(status=status, version=__version__, warnings=warnings)
        code = 503 if status is HealthStatus.FAILING else 200
        return Response(view.model_dump_json(), status_code=code, media_type="application/json")

    @app.get(paths.METRICS)
    async def prometheus() -> Response:
        try:
            async with core.database.begin() as database:
                counts = await clusters.counts(database)
        except DatabaseError:  # what this process counts itself is worth more in an outage than before
            counts = {}
        return Response(metrics.text(counts, health), media_type=CONTENT_TYPE_LATEST)


def _add_errors(app: FastAPI) -> None:
    async def refuse(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException) and error.status_code == 404:
            return PlainTextResponse(paths.NOT_FOUND_TEXT, 404, {"x-content-type-options": "nosniff"})
        refusal = _problem_of(error)
        if refusal.code == Code.INTERNAL:
            log.error("a request failed", path=request.url.path, exc_info=error)
        headers = {"cache-control": "no-store"}
        if refusal.code == Code.METHOD_NOT_ALLOWED:
            headers["allow"] = _methods(app, request)
        return Response(refusal.model_dump_json(), refusal.status, headers, CONTENT_TYPE)

    for kind in (ProblemError, IsthmusError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, refuse)


def _methods(app: FastAPI, request: Request) -> str:
    """What the path takes: several routes may share it."""
    found = [one for one in app.routes if isinstance(one, Route) and one.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in found for method in route.methods or ()}))


def _problem_of(error: Exception) -> Problem:
    match error:
        case ProblemError():
            return error.problem
        case RequestValidationError():
            return refusals.of_fields(error.errors())
        case HTTPException(status_code=405):
            return problem(Code.METHOD_NOT_ALLOWED)
        case HTTPException(status_code=400):
            return problem(Code.BODY_MALFORMED)
        case _:
            return refusals.problem_of(error)
