"""What a page is given, and what it gives back."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import parse_qsl, quote, urlencode

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from isthmus.control.api.refusals import field as wrong_field
from isthmus.control.api.refusals import of_fields
from isthmus.control.api.routes import Core, ProblemError
from isthmus.control.auditing import Actor
from isthmus.control.sessions import Session
from isthmus.kit.health import Health
from isthmus.wire.control import OperatorRole
from isthmus.wire.problems import Problem

#: Where the pages are on the operator listener.
PREFIX: Final = "/ui"

_Body = TypeVar("_Body", bound=BaseModel)


def address(*parts: str, **query: object) -> str:
    """The address of a page: its path in parts, and what of its state is not None or empty."""
    path = "/".join((PREFIX, *(quote(part, safe="") for part in parts)))
    asked = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(asked)}" if asked else path


@dataclass(frozen=True, slots=True)
class Notice:
    """What the next page says about what was done."""

    text: str
    is_warning: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """A page: a template, its title, and what the template is given.

    ``live`` are the templates of its parts that follow what happens. ``section`` is the entry of the navigation.
    """

    template: str
    title: str
    section: str
    values: Mapping[str, Any] = field(default_factory=dict)
    live: tuple[str, ...] = ()
    status: int = 200


@dataclass(frozen=True, slots=True)
class Moved:
    """Done: the browser goes to another page, or comes back to this one."""

    url: str
    notice: Notice | None = None


@dataclass(frozen=True, slots=True)
class Download:
    """A file, in parts as they are made. What fails in the middle breaks the download off: it does not look whole."""

    name: str
    content_type: str
    content: AsyncIterator[bytes]


class Form(dict[str, str]):
    """What was typed: the last value of each field, without spaces around it."""

    def text(self, name: str) -> str | None:
        """A field's text; None if it is empty."""
        return self.get(name) or None

    def number(self, name: str) -> int | None:
        """A field's number. Raises ProblemError."""
        text = self.text(name)
        if text is None:
            return None
        if not text.isascii() or not text.isdigit() or len(text) > 18:
            raise ProblemError(wrong_field(name, "is not a number"))
        return int(text)

    def lines(self, name: str) -> tuple[str, ...]:
        """A field's lines; commas and spaces divide as well."""
        return tuple((self.get(name) or "").replace(",", " ").split())


def form_of(body: bytes) -> Form:
    """A form as browsers send it (``application/x-www-form-urlencoded``)."""
    pairs = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=200)
    return Form({name: value.strip() for name, value in pairs})


def body_of(kind: type[_Body], **values: object) -> _Body:
    """A body of the API from what was typed. Raises ProblemError, naming the fields."""
    try:
        return kind(**values)
    except ValidationError as error:
        raise ProblemError(of_fields(error.errors())) from None


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of somebody who has signed in."""

    core: Core
    health: Health
    request: Request
    session: Session
    #: What was typed and refused, and why; on the way back to the page that it was typed on.
    form: Form = field(default_factory=Form)
    problem: Problem | None = None

    @property
    def actor(self) -> Actor:
        """Who it is, for the audit log."""
        client = self.request.client
        return Actor(self.session.operator.name, client.host if client else None)

    @property
    def is_admin(self) -> bool:
        """Whether they may change anything."""
        return self.session.operator.role is OperatorRole.ADMIN

    def part(self, name: str) -> str:
        """A part of the path."""
        return str(self.request.path_params[name])

    def query(self, name: str) -> str | None:
        """A parameter of the address; None if it is empty."""
        return self.request.query_params.get(name, "").strip() or None

    @property
    def here(self) -> str:
        """This page's own address, with its state."""
        url = self.request.url
        return f"{url.path}?{url.query}" if url.query else url.path


def number(visit: Visit, name: str) -> int:
    """A number in the address; 0 without one. Raises ProblemError."""
    return Form({name: visit.query(name) or ""}).number(name) or 0


Show: TypeAlias = Callable[[Visit], Awaitable[View | Download]]
Act: TypeAlias = Callable[[Visit, Form], Awaitable[View | Moved]]


@dataclass(frozen=True, slots=True)
class Page:
    """An address below the prefix, what is there, and what can be done there: the names are the form's ``do``."""

    path: str
    show: Show
    acts: Mapping[str, Act] = field(default_factory=dict)
