"""The page's application, mounted in Airflow's API server: who may look, and the headers.

Airflow's own session (its cookie, or a bearer token) lets people in: 401 without one, 403 unless they may see Airflow's
plugins, which is also what makes Airflow show the entry. Whatever keeps the agents from being shown is a page that says
so and what to check.
"""

import hashlib
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Final

from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import HTMLResponse, Response
from sqlalchemy import exc as sqlalchemy_errors
from starlette.exceptions import HTTPException

from isthmus.deployment import compat
from isthmus.deployment.errors import DatabaseError
from isthmus.deployment.view import page
from isthmus.deployment.view.looking import Looker
from isthmus.kit.errors import ConfigError

_HEADERS: Final = {
    # Airflow shows the page in a frame of its own origin, and nobody else may.
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_STATIC: Final = {"agents.css": "text/css", "agents.js": "text/javascript"}
#: An agent's place in the list fits into PostgreSQL's ``bigint``, with much room.
_MOST_AGENTS: Final = 1_000_000


def create() -> FastAPI:
    """The application. Airflow's configuration is read by the first request, and again until it will do."""
    app = FastAPI(title="Isthmus: Remote Agents", openapi_url=None, docs_url=None, redoc_url=None)
    folder = resources.files("isthmus.deployment.view") / "static"
    static = {name: (folder / name).read_bytes() for name in _STATIC}
    #: In the files' addresses, so that browsers may keep them: what changed has another address.
    version = hashlib.sha256(b"".join(static.values())).hexdigest()[:12]
    looker = Looker()

    @app.get("/agents", dependencies=[Depends(compat.may_see_plugins())])
    async def agents(start: int = Query(0, ge=0, le=_MOST_AGENTS)) -> HTMLResponse:
        try:
            text = page.shown(await looker.look(start), version)
        except (ConfigError, DatabaseError) as error:
            return HTMLResponse(page.failed(error, version), 503, headers=_HEADERS)
        return HTMLResponse(text, headers=_HEADERS)

    for name, content in static.items():
        app.add_api_route(f"/{version}/{name}", _file(content, _STATIC[name]))

    # Airflow asks its database whether a session was ended.
    @app.exception_handler(sqlalchemy_errors.OperationalError)
    @app.exception_handler(sqlalchemy_errors.InterfaceError)
    @app.exception_handler(sqlalchemy_errors.TimeoutError)
    async def away(request: Request, error: Exception) -> HTMLResponse:
        unknown = DatabaseError("so Airflow cannot tell who you are")
        return HTMLResponse(page.failed(unknown, version), 503, headers=_HEADERS)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> HTMLResponse:
        headers = {**_HEADERS, **(error.headers or {})}
        return HTMLResponse(page.refused(error.status_code, version), error.status_code, headers=headers)

    return app


def _file(content: bytes, media_type: str) -> Callable[[], Awaitable[Response]]:
    async def file() -> Response:
        headers = {**_HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
        return Response(content, media_type=media_type, headers=headers)

    return file
