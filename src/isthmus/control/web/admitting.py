"""Who is at the browser: signing in with an operator's token, the cookie, and requests that other sites make.

A cookie is ``SameSite=Strict``, so other sites' requests come without it. What changes something has to say besides
that it comes from a page of ours (``Sec-Fetch-Site`` or ``Origin``), and carry the session's form token.
"""

import dataclasses
import hmac
from collections.abc import Collection, Mapping
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from isthmus.control import auditing, sessions
from isthmus.control.api.routes import Core, ProblemError
from isthmus.control.errors import ControlRefusedError
from isthmus.control.sessions import Session
from isthmus.control.web.rendering import FORM_TOKEN_PLACE, Pages, finished
from isthmus.control.web.streaming import STREAMS_PER_SESSION
from isthmus.control.web.visits import PREFIX, Form, Visit, address
from isthmus.wire.control import OperatorRole
from isthmus.wire.problems import Code, Problem, problem

#: Where people are sent who have not signed in.
SIGN_IN: Final = f"{PREFIX}/sign-in"
FIRST_PAGE: Final = f"{PREFIX}/overview"


class NotSignedInError(Exception):
    """There is no session, or it has ended."""


def cookie_name(request: Request) -> str:
    """Over TLS a name that browsers take from this host alone, and never over plain HTTP."""
    return "__Host-isthmus" if request.url.scheme == "https" else "isthmus_session"


async def session_of(core: Core, request: Request) -> Session:
    """The session that a request belongs to. Raises NotSignedInError, DatabaseError."""
    secret = request.cookies.get(cookie_name(request), "")
    if not secret:
        raise NotSignedInError
    try:
        async with core.database.begin() as database:
            return await sessions.find(database, secret)
    except ControlRefusedError:
        raise NotSignedInError from None


def session_id(request: Request) -> str:
    """Which session a request says that it is of, as the table names it."""
    return sessions.digest(request.cookies.get(cookie_name(request), ""))


async def admitted(core: Core, session_ids: Collection[str]) -> Mapping[str, OperatorRole]:
    """The roles of those of these sessions that have not ended. Raises DatabaseError."""
    async with core.database.begin() as database:
        return await sessions.roles(database, session_ids)


def shared(visit: Visit) -> Visit:
    """A visit to the same page by nobody in particular in the same role: what it shows may be shown to all of them.

    Nothing of the browser is left in it but the address that it asked for.
    """
    scope = dict(visit.request.scope)
    scope["headers"] = [(name, value) for name, value in scope["headers"] if name == b"host"]
    scope["client"] = None
    operator = dataclasses.replace(visit.session.operator, name=auditing.ISTHMUS, created_by=auditing.ISTHMUS)
    session = Session(operator, FORM_TOKEN_PLACE, visit.session.expires_at)
    return Visit(visit.core, visit.health, Request(scope), session)


def check_origin(request: Request) -> None:
    """Refuse what another site has sent. Raises ProblemError."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    here = f"{request.url.scheme}://{request.headers.get('host', '')}"
    if (site is not None and site != "same-origin") or (origin is not None and origin != here):
        raise ProblemError(_foreign("The request comes from a page of another site."))


def check_form(session: Session, form: Form) -> None:
    """Refuse a form that is not of this session. Raises ProblemError."""
    if not hmac.compare_digest(form.get("form_token", "").encode(), session.form_token.encode()):
        raise ProblemError(_foreign("The form is not one of this session's."))


def wants_bounce(request: Request) -> bool:
    """Whether a link on another site led here: the browser holds a strict cookie back, and sends it when we ask."""
    headers = request.headers
    is_link = request.method == "GET" and headers.get("sec-fetch-mode") == "navigate"
    return is_link and headers.get("sec-fetch-site") == "cross-site"


def to_sign_in(request: Request) -> Response:
    """Send somebody to sign in, and back here."""
    url = request.url
    wanted = f"{url.path}?{url.query}" if url.query else url.path
    where = address("sign-in", next=wanted if request.method == "GET" and wanted != FIRST_PAGE else None)
    return finished(RedirectResponse(where, 303), request)


def sign_in_page(pages: Pages, request: Request, refused: Problem | None = None) -> Response:
    """The form for a token."""
    status = 200 if refused is None else refused.status
    wanted = local(request.query_params.get("next"))
    return pages.plain(request, "sign_in.html", status, title="Sign in", problem=refused, wanted=wanted)


async def sign_in(core: Core, pages: Pages, request: Request, form: Form) -> Response:
    """Begin a session."""
    check_origin(request)
    client = request.client
    try:
        async with core.database.begin() as database:
            secret, _ = await sessions.begin(database, form.get("token", ""), client.host if client else None)
    except ControlRefusedError as error:
        return sign_in_page(pages, request, problem(error.problem, error.detail, hint=error.hint))
    response = RedirectResponse(local(request.query_params.get("next")), 303)
    response.set_cookie(
        cookie_name(request),
        secret,
        max_age=int(sessions.LIFETIME.total_seconds()),
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return finished(response, request)


async def sign_out(core: Core, request: Request, form: Form) -> Response:
    """End a session."""
    check_origin(request)
    check_form(await session_of(core, request), form)
    async with core.database.begin() as database:
        await sessions.end(database, request.cookies[cookie_name(request)])
    response = RedirectResponse(SIGN_IN, 303)
    response.delete_cookie(cookie_name(request), path="/", secure=request.url.scheme == "https", httponly=True)
    response.headers["clear-site-data"] = '"cache"'
    return finished(response, request)


def local(wanted: str | None) -> str:
    """An address of ours, or the first page: nobody is sent elsewhere by a link to us."""
    if wanted is None or not wanted.startswith(f"{PREFIX}/") or "\\" in wanted or not wanted.isprintable():
        return FIRST_PAGE
    parts = urlsplit(wanted)
    return FIRST_PAGE if parts.scheme or parts.netloc or parts.path == SIGN_IN else wanted


def too_many_pages() -> ProblemError:
    """What somebody is told who has more pages open than one looks at."""
    return ProblemError(
        Problem(
            type="urn:isthmus:problem:too_many_pages",
            title="Too many pages are open",
            status=429,
            detail=f"{STREAMS_PER_SESSION} pages of this session are followed live already.",
            code="too_many_pages",
            hint="Close some. Pages that are loaded without following them are shown all the same.",
        )
    )


def _foreign(detail: str) -> Problem:
    return Problem(
        type="urn:isthmus:problem:form_foreign",
        title="The form was not sent from one of our pages",
        status=403,
        detail=detail,
        code="form_foreign",
        hint="Go back, load the page again, and send the form from there.",
    )


def role_refused(session: Session) -> ProblemError:
    """What a viewer is told."""
    operator = session.operator
    return ProblemError(problem(Code.OPERATOR_ROLE, f"{operator.name} is a {operator.role}."))
