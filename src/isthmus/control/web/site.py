"""All pages: which address, which function; static files; and how errors look.

Every request ends here with an answer that has the headers of ``rendering``. A refused form gives the page again that
it was sent from.
"""

import asyncio
import dataclasses
import functools
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from isthmus.control.api import refusals
from isthmus.control.api.routes import Core, ProblemError
from isthmus.control.web import admitting, streaming
from isthmus.control.web.admitting import NotSignedInError
from isthmus.control.web.assets import Assets
from isthmus.control.web.pages import (
    access,
    agents,
    audit,
    bundles,
    clusters,
    connections,
    deployments,
    guides,
    operators,
    overview,
    publishing,
    queues,
    refused,
    tokens,
    triggers,
    verifying,
    workloads,
)
from isthmus.control.web.rendering import NOTICE_COOKIE, THEME_COOKIE, THEMES, Pages, Region, finished, notice_of
from isthmus.control.web.visits import PREFIX, Download, Notice, Page, View, Visit, form_of
from isthmus.kit.errors import IsthmusError
from isthmus.kit.health import Health
from isthmus.wire.problems import Code, Problem, problem

PAGES: Final = (
    *overview.PAGES,
    *deployments.PAGES,
    *agents.PAGES,
    *tokens.PAGES,
    *queues.PAGES,
    *bundles.PAGES,
    *triggers.PAGES,
    *verifying.PAGES,
    *refused.PAGES,
    *workloads.PAGES,
    *access.PAGES,
    *clusters.PAGES,
    *connections.PAGES,
    *publishing.PAGES,
    *guides.PAGES,
    *operators.PAGES,
    *audit.PAGES,
)
_YEAR: Final = 365 * 24 * 3600

#: A link on another site led here: the browser sends the cookie when it is our own page that asks.
_BOUNCE: Final = '<!doctype html><html lang="en"><meta http-equiv="refresh" content="0"><title>Isthmus</title></html>'

Endpoint = Callable[[Request], Awaitable[Response]]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Named:
    """What a request is counted as."""

    name: str


def application(core: Core, health: Health, stopping: asyncio.Event) -> Starlette:
    """What is served under the prefix."""
    site = _Site(core, health, stopping)
    return Starlette(routes=site.routes(PAGES), exception_handlers={HTTPException: site.refuse, Exception: site.refuse})


class _Site:
    def __init__(self, core: Core, health: Health, stopping: asyncio.Event) -> None:
        self._core = core
        self._health = health
        self._assets = Assets()
        self._pages = Pages(self._assets)
        self._lives = streaming.Lives(functools.partial(admitting.admitted, core), stopping)

    def routes(self, pages: Sequence[Page]) -> list[Route]:
        return [
            Route("/static/{version}/{name}", self._endpoint("static", self._static)),
            Route("/sign-in", self._endpoint("sign-in", self._sign_in), methods=["GET", "POST"]),
            Route("/sign-out", self._endpoint("sign-out", self._sign_out), methods=["POST"]),
            Route("/theme", self._endpoint("theme", self._theme), methods=["POST"]),
            Route("/", self._endpoint("first", self._first)),
            *(Route(page.path, self._endpoint(page.path, self._page(page)), methods=["GET", "POST"]) for page in pages),
        ]

    def _endpoint(self, name: str, answer: Endpoint) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            request.scope["route"] = _Named(name)
            try:
                _check_text(request)
                return await answer(request)
            except NotSignedInError:
                if admitting.wants_bounce(request):
                    return finished(HTMLResponse(_BOUNCE), request)
                return admitting.to_sign_in(request)
            except Exception as error:
                return await self.refuse(request, error)

        return endpoint

    def _page(self, page: Page) -> Endpoint:
        async def answer(request: Request) -> Response:
            session = await admitting.session_of(self._core, request)
            visit = Visit(self._core, self._health, request, session)
            if request.method == "POST":
                return await self._act(page, visit)
            if "text/event-stream" in request.headers.get("accept", ""):
                return self._follow(page, visit)
            return await self._show(page, visit)

        return answer

    async def _show(self, page: Page, visit: Visit) -> Response:
        shown = await page.show(visit)
        if isinstance(shown, Download):
            disposition = f"attachment; filename*=UTF-8''{quote(shown.name)}"
            headers = {"content-disposition": disposition}
            content = StreamingResponse(shown.content, headers=headers, media_type=shown.content_type)
            return finished(content, visit.request)
        return self._pages.page(visit, shown, notice_of(visit.request))

    async def _act(self, page: Page, visit: Visit) -> Response:
        admitting.check_origin(visit.request)
        form = form_of(await visit.request.body())
        admitting.check_form(visit.session, form)
        if not visit.is_admin:
            raise admitting.role_refused(visit.session)
        act = page.acts.get(form.get("do", ""))
        if act is None:
            raise ProblemError(refusals.field("do", "is nothing that can be done here"))
        try:
            done = await act(visit, form)
        except (IsthmusError, ProblemError) as error:
            return await self._show(page, dataclasses.replace(visit, form=form, problem=_problem_of(error)))
        if isinstance(done, View):
            return self._pages.page(visit, done, None)
        response = RedirectResponse(done.url, 303)
        if done.notice is not None:
            _keep_notice(response, done.notice, visit.request)
        return finished(response, visit.request)

    def _follow(self, page: Page, visit: Visit) -> Response:
        """The page's event stream, made once for all who have it open in the same role."""
        request, session = visit.request, visit.session
        shared = admitting.shared(visit)
        key = (str(request.url), session.operator.role)
        try:
            stream = self._lives.stream(
                key,
                self._look(page, shared),
                session_id=admitting.session_id(request),
                role=session.operator.role,
                form_token=session.form_token,
            )
        except streaming.TooManyError:
            raise admitting.too_many_pages() from None
        return finished(stream, request)

    def _look(self, page: Page, shared: Visit) -> streaming.Look:
        async def look() -> list[Region]:
            try:
                view = await page.show(shared)
            except ProblemError as error:
                raise streaming.GoneError from error
            except IsthmusError as error:
                if error.retryable:
                    raise
                raise streaming.GoneError from error
            return [] if isinstance(view, Download) else self._pages.regions(shared, view)

        return look

    async def _static(self, request: Request) -> Response:
        asset = self._assets.find(request.path_params["version"], request.path_params["name"])
        if asset is None:
            raise HTTPException(404)
        headers = {"cache-control": f"public, max-age={_YEAR}, immutable"}
        return finished(Response(asset.content, headers=headers, media_type=asset.content_type), request)

    async def _sign_in(self, request: Request) -> Response:
        if request.method == "POST":
            return await admitting.sign_in(self._core, self._pages, request, form_of(await request.body()))
        return admitting.sign_in_page(self._pages, request)

    async def _sign_out(self, request: Request) -> Response:
        return await admitting.sign_out(self._core, request, form_of(await request.body()))

    async def _theme(self, request: Request) -> Response:
        """What it looks like is the browser's, not the operator's: nobody needs to be signed in."""
        admitting.check_origin(request)
        form = form_of(await request.body())
        response = RedirectResponse(admitting.local(form.text("back")), 303)
        if form.get("theme") in THEMES:
            _set_cookie(response, request, THEME_COOKIE, form["theme"], max_age=_YEAR)
        return finished(response, request)

    async def _first(self, request: Request) -> Response:
        return finished(RedirectResponse(admitting.FIRST_PAGE, 303), request)

    async def refuse(self, request: Request, error: Exception) -> Response:
        """An error's page."""
        if isinstance(error, HTTPException) and error.status_code == 404:
            return self._pages.error(request, _NOT_FOUND)
        found = _problem_of(error)
        if found.code == Code.INTERNAL:
            log.error("a page failed", path=request.url.path, exc_info=error)
        return self._pages.error(request, found)


_NOT_FOUND: Final = Problem(
    type="urn:isthmus:problem:page_not_found",
    title="There is no such page",
    status=404,
    detail="The address leads nowhere, or what it led to is gone.",
    code="page_not_found",
    hint="Begin with the overview.",
)


def _problem_of(error: Exception) -> Problem:
    match error:
        case ProblemError():
            return error.problem
        case HTTPException(status_code=405):
            return problem(Code.METHOD_NOT_ALLOWED)
        case _:
            return refusals.problem_of(error)


def _check_text(request: Request) -> None:
    """PostgreSQL keeps no NUL in a text, and nobody types one. Raises ProblemError."""
    if "%00" in request.scope.get("query_string", b"").decode("latin-1") or "\0" in request.url.path:
        raise ProblemError(refusals.field("address", "has a character that no name has"))


def _keep_notice(response: Response, notice: Notice, request: Request) -> None:
    kept = quote(json.dumps({"text": notice.text, "is_warning": notice.is_warning}))
    _set_cookie(response, request, NOTICE_COOKIE, kept, max_age=60)


def _set_cookie(response: Response, request: Request, name: str, value: str, **more: Any) -> None:
    secure = request.url.scheme == "https"
    response.set_cookie(name, value, path=PREFIX, secure=secure, httponly=True, samesite="strict", **more)
