"""Views into HTML, and the headers that every answer has.

Everything that a template prints is escaped, unless it was made here. A live region is a template of its own, printed
into an element whose ``data-live`` is a digest of it: the event stream sends a region when its digest is another one.

Regions are shared by all who look in the same role, so their templates are not given anything that is of one session:
to ask for it is an error. Where a form needs its session's token there is ``FORM_TOKEN_PLACE`` until a region goes out.
"""

import hashlib
import json
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import unquote

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from isthmus import __version__
from isthmus.control.web import amounts, times
from isthmus.control.web.assets import Assets
from isthmus.control.web.visits import PREFIX, Notice, View, Visit, address
from isthmus.link import names
from isthmus.wire.problems import Problem

#: What the browser is let do: our own files, forms and event streams; nothing inline, nothing of anybody else's.
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
HEADERS: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not no-referrer: with that browsers hide the origin of our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
#: A year, over TLS alone.
_TRANSPORT: Final = ("strict-transport-security", "max-age=31536000")

THEME_COOKIE: Final = "isthmus_theme"
THEMES: Final = ("auto", "light", "dark")
NOTICE_COOKIE: Final = "isthmus_notice"

#: Stands for a session's form token in what is shared. Nobody is told it, so nothing that others write can hold it.
FORM_TOKEN_PLACE: Final = secrets.token_urlsafe(32)
#: What a whole page may say and a region may not.
_OF_ONE_VISITOR: Final = ("theme", "notice", "form", "problem")


@dataclass(frozen=True, slots=True)
class Region:
    """A live part of a page, the same for all sessions of a role: ``FORM_TOKEN_PLACE`` is in place of form tokens."""

    name: str
    html: str
    digest: str


@dataclass(frozen=True, slots=True)
class _AnySession:
    """What a region is told of the session that it is shown to."""

    form_token: str = FORM_TOKEN_PLACE


@dataclass(frozen=True, slots=True)
class _AnyVisit:
    """What a region is told of the visit: the page's address."""

    here: str


class Pages:
    """The templates."""

    def __init__(self, assets: Assets) -> None:
        self._environment = Environment(
            loader=PackageLoader("isthmus.control.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals.update(
            address=address,
            asset=lambda name: f"{PREFIX}/static/{assets.version}/{name}",
            live=self._live,
            version=__version__,
        )
        self._environment.filters.update(
            machine=times.machine,
            yaml=_yaml,
            when=_when,
            short_id=names.brief,
            took=times.duration,
            size=amounts.size,
            percent=amounts.percent,
            json=_json,
            quoted=shlex.quote,
        )

    def page(self, visit: Visit, view: View, notice: Notice | None) -> Response:
        """A whole page."""
        values = {**self._values(visit, view), "notice": notice}
        html = self._environment.get_template(view.template).render(values)
        response = HTMLResponse(html, visit.problem.status if visit.problem else view.status)
        if notice is not None:
            response.delete_cookie(NOTICE_COOKIE, path=PREFIX)
        return finished(response, visit.request)

    def plain(self, request: Request, template: str, status: int, **values: Any) -> Response:
        """A page for somebody who has not signed in."""
        found = {"theme": theme_of(request), "session": None, "section": "", "notice": None, **values}
        html = self._environment.get_template(template).render(found)
        return finished(HTMLResponse(html, status), request)

    def error(self, request: Request, problem: Problem) -> Response:
        """What went wrong, on a page of its own."""
        return self.plain(request, "error.html", problem.status, title=problem.title, problem=problem)

    def regions(self, visit: Visit, view: View) -> list[Region]:
        """The live parts of a page."""
        values = self._values(visit, view)
        return [self._region(name, values) for name in view.live]

    def _values(self, visit: Visit, view: View) -> dict[str, Any]:
        return {
            "visit": visit,
            "session": visit.session,
            "is_admin": visit.is_admin,
            "organization": visit.core.organization,
            "theme": theme_of(visit.request),
            "section": view.section,
            "title": view.title,
            "parts": ",".join(_region_name(name) for name in view.live),
            "form": visit.form,
            "problem": visit.problem,
            **view.values,
        }

    def _region(self, name: str, values: Mapping[str, Any]) -> Region:
        shared = {key: value for key, value in values.items() if key not in _OF_ONE_VISITOR}
        shared |= {"session": _AnySession(), "visit": _AnyVisit(values["visit"].here)}
        html = self._environment.get_template(f"{name}.html").render(shared)
        return Region(_region_name(name), html, hashlib.sha256(html.encode()).hexdigest()[:16])

    @pass_context
    def _live(self, context: Context, name: str) -> Markup:
        region = self._region(name, context.get_all())
        html = Markup(region.html.replace(FORM_TOKEN_PLACE, context["session"].form_token))  # noqa: S704 - a template's output: what was put into it is escaped
        return Markup('<div id="{}" data-live="{}">{}</div>').format(region.name, region.digest, html)


def _region_name(template: str) -> str:
    """The id of the element that a live template is in."""
    return f"live-{template.replace('/', '-')}"


def finished(response: Response, request: Request) -> Response:
    """An answer with the headers that all have; kept by nobody unless it says so itself."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("cache-control", "no-store")
    if request.url.scheme == "https":
        response.headers.setdefault(*_TRANSPORT)
    return response


def theme_of(request: Request) -> str:
    """What the browser was told to look like."""
    theme = request.cookies.get(THEME_COOKIE, "auto")
    return theme if theme in THEMES else "auto"


def notice_of(request: Request) -> Notice | None:
    """What was done just now."""
    try:
        found = json.loads(unquote(request.cookies.get(NOTICE_COOKIE, "")))
        return Notice(str(found["text"])[:500], found["is_warning"] is True)
    except (ValueError, KeyError, TypeError):
        return None


def _when(moment: datetime | None, otherwise: str = times.NOTHING) -> Markup:
    if moment is None:
        return escape(otherwise)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        times.machine(moment), times.absolute(moment), times.short(moment)
    )


def _yaml(value: object) -> str:
    """A text or a list of texts on one line of YAML: JSON is YAML."""
    return json.dumps(value, ensure_ascii=False)


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True)
