"""The audit log: who did what, when, from where; filtered and paged by the server, and as a file."""

import csv
import io
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final

from isthmus.control import auditing
from isthmus.control.api import views
from isthmus.control.api.refusals import field
from isthmus.control.api.routes import ProblemError
from isthmus.control.auditing import Filter
from isthmus.control.databases import Database
from isthmus.control.web import times
from isthmus.control.web.visits import Download, Page, View, Visit, address
from isthmus.wire.control import AuditEntry

_PAGE: Final = 50
#: So many entries of a file are read at a time.
_STEP: Final = 1000
_FIELDS: Final = ("operator", "action", "subject", "since", "until")
#: What spreadsheets take for a formula at the beginning of a cell.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


async def log(visit: Visit) -> View:
    """A page of the log, newest first."""
    asked = {name: visit.query(name) for name in _FIELDS}
    which, before = _filter(asked), _before(visit.query("before"))
    async with visit.core.database.begin() as database:
        found = await auditing.entries(database, before=before, limit=_PAGE + 1, which=which)
    shown = [views.entry(one) for one in found[:_PAGE]]
    last = shown[-1].entry_id if len(found) > _PAGE else None
    values = {
        "entries": shown,
        "asked": asked,
        "is_filtered": any(asked.values()),
        "before": before,
        "first": address("audit", **asked),
        "next": address("audit", **asked, before=last) if last else None,
        "export": {form: address("audit", "export", **asked, format=form) for form in ("csv", "json")},
        "change": _change,
    }
    return View("audit/log.html", "Audit log", "audit", values, () if before else ("audit/entries",))


async def export(visit: Visit) -> Download:
    """All entries that the filter lets through, as a file. They are read as they are sent, the newest first."""
    form = visit.query("format") or "csv"
    if form not in ("csv", "json"):
        raise ProblemError(field("format", "is csv or json"))
    which = _filter({name: visit.query(name) for name in _FIELDS})
    steps = _steps(visit.core.database, which)
    first: list[AuditEntry] = await anext(steps, [])  # what is wrong from the start is an answer, not half of a file
    name = f"isthmus-audit-{datetime.now(UTC).strftime('%Y%m%d-%H%M%S')}"
    if form == "json":
        return Download(f"{name}.json", "application/json", _json(first, steps))
    return Download(f"{name}.csv", "text/csv; charset=utf-8", _csv(first, steps))


async def _steps(database: Database, which: Filter) -> AsyncIterator[list[AuditEntry]]:
    """The log from the newest to the oldest entry, in transactions of its own each: a file may take minutes."""
    before: int | None = None
    while True:
        async with database.begin() as connection:
            found = await auditing.entries(connection, before=before, limit=_STEP, which=which)
        if found:
            yield [views.entry(one) for one in found]
        if len(found) < _STEP:
            return
        before = found[-1].entry_id


async def _json(first: list[AuditEntry], rest: AsyncIterator[list[AuditEntry]]) -> AsyncIterator[bytes]:
    yield b"["
    between = "\n"
    async for entries in _after(first, rest):
        texts = [json.dumps(one.model_dump(mode="json"), ensure_ascii=False) for one in entries]
        yield (between + ",\n".join(texts)).encode()
        between = ",\n"
    yield b"\n]\n"


async def _csv(first: list[AuditEntry], rest: AsyncIterator[list[AuditEntry]]) -> AsyncIterator[bytes]:
    sheet = io.StringIO()
    writer = csv.writer(sheet)
    writer.writerow(("id", "at", "operator", "source_address", "action", "subject", "before", "after"))
    async for entries in _after(first, rest):
        for one in entries:
            halves = (json.dumps(half, ensure_ascii=False) if half else "" for half in (one.before, one.after))
            cells = (one.operator, one.source_address or "", one.action, one.subject, *halves)
            writer.writerow((one.entry_id, times.machine(one.at), *(_plain(cell) for cell in cells)))
        yield sheet.getvalue().encode()
        sheet.seek(0)
        sheet.truncate()


async def _after(first: list[AuditEntry], rest: AsyncIterator[list[AuditEntry]]) -> AsyncIterator[list[AuditEntry]]:
    yield first
    async for entries in rest:
        yield entries


def _plain(cell: str) -> str:
    """A cell that no spreadsheet computes."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def _filter(asked: dict[str, str | None]) -> Filter:
    """What was asked for. Raises ProblemError."""
    return Filter(
        subject=asked["subject"],
        operator=asked["operator"],
        action=asked["action"],
        since=_moment("since", asked["since"]),
        until=_moment("until", asked["until"]),
    )


def _moment(name: str, text: str | None) -> datetime | None:
    """A time, in UTC unless it says otherwise. Raises ProblemError."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ProblemError(field(name, "is no time, as in 2026-11-23T08:00")) from None


def _before(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ProblemError(field("before", "is not a number"))
    return int(text)


def _change(one: AuditEntry) -> list[tuple[str, str | None, str | None]]:
    """What is different: a name, what it was, what it is."""
    before, after = one.before or {}, one.after or {}
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return [(name, _text(before.get(name)), _text(after.get(name))) for name in names]


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


PAGES: Final = (Page("/audit", log), Page("/audit/export", export))
