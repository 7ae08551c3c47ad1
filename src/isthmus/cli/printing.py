"""How things look on a terminal: tables that fit 80 columns, times as people say them, and JSON for programs.

Tables are for people and may change; ``--json`` is for programs and is the wire's own bodies. Standard output carries
the answer alone; everything said beside it goes to standard error.
"""

import sys
import textwrap
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from isthmus.wire.bodies import Request, Response
from isthmus.wire.probes import ProbeRow, ProbeStatus

#: What stands where there is nothing to say.
NOTHING: Final = "-"

_UNITS: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))

_STYLES: Final = {
    "pass": "green",
    "warn": "yellow",
    "fail": "bold red",
    "skip": "dim",
    "link": "green",
    "healthy": "green",
    "active": "green",
    "succeeded": "green",
    "success": "green",
    "unhealthy": "red",
    "failed": "red",
    "lost": "red",
    "upstream_failed": "red",
    "revoked": "red",
    "expired": "yellow",
    "cordoned": "yellow",
    "draining": "yellow",
    "cancelled": "yellow",
    "up_for_retry": "yellow",
    "leased": "cyan",
    "running": "cyan",
    "left": "dim",
    "standby": "dim",
    "queued": "dim",
}


def duration(span: timedelta | float | None) -> str:
    """A length of time in its largest unit: ``340 ms``, ``4.2 s``, ``3 min``, ``12 d``."""
    if span is None:
        return NOTHING
    seconds = span.total_seconds() if isinstance(span, timedelta) else span
    if abs(seconds) < 1:
        return f"{seconds * 1000:.0f} ms"
    if abs(seconds) < 10:
        return f"{seconds:.1f} s"
    for size, unit in _UNITS:
        # A unit is used from twice its size on: "90 min" says more than "2 h".
        if abs(seconds) >= 2 * size or unit == "s":
            return f"{seconds / size:.0f} {unit}"
    raise AssertionError("unreachable")


def age(moment: datetime | None, now: datetime | None = None) -> str:
    """How long ago ``moment`` was, or how far ahead it is."""
    if moment is None:
        return NOTHING
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if abs(seconds) < 1:
        return "now"
    return f"{duration(seconds)} ago" if seconds > 0 else f"in {duration(-seconds)}"


def size(count: int) -> str:
    """So many bytes in a unit that suits them: ``340 B``, ``4.2 kB``, ``12 MB``, in powers of a thousand."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}" if value < 10 and unit != "B" else f"{value:.0f} {unit}"


def words(items: Iterable[str], otherwise: str = NOTHING) -> str:
    """A list on one line."""
    return ", ".join(items) or otherwise


def say(text: str, *, now: bool = False) -> None:
    """One line on standard output; ``now`` for lines that somebody, or a program, waits for."""
    sys.stdout.write(f"{text}\n")
    if now:
        sys.stdout.flush()


def note(text: str) -> None:
    """One line beside the answer, on standard error."""
    sys.stdout.flush()
    sys.stderr.write(f"{text}\n")


def json_of(body: Response | Request) -> None:
    """A wire body as JSON."""
    say(body.model_dump_json(indent=2))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """Rows under headings; ``empty`` stands for none. A cell that is a known state has its colour."""
    rows = list(rows)
    if not rows:
        note(empty)
        return
    sheet = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for column in columns:
        sheet.add_column(column, overflow="fold")
    for row in rows:
        sheet.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    Console(highlight=False).print(sheet)


def row(found: ProbeRow) -> None:
    """One row of a verification, at once: status, what was looked at, what was seen, what to do."""
    text = found.details
    if found.status is not ProbeStatus.SKIP and found.target not in found.details:
        text = f"{found.target}: {found.details}"
    if found.code and found.code not in text:
        text = f"{text} ({found.code})"
    line = Text(f"{found.status.value.upper():4}", style=_STYLES.get(found.status.value, ""))
    Console(highlight=False, soft_wrap=True).print(line, Text(f"{found.check:12} {text}"), sep="  ")
    if found.remedy:
        paragraph(found.remedy, indent=19)
    sys.stdout.flush()


def facts(pairs: Iterable[tuple[str, str]]) -> None:
    """Names and values, one pair a line; empty values are left out."""
    listed = [(name, value) for name, value in pairs if value]
    width = max((len(name) for name, _ in listed), default=0)
    for name, value in listed:
        head, *rest = value.splitlines() or [""]
        say(f"{name:{width}}  {head}")
        for line in rest:
            say(f"{'':{width}}  {line}")


def paragraph(text: str, *, indent: int = 0) -> None:
    """Running text, broken at 80 columns."""
    margin = " " * indent
    say(textwrap.fill(text, 80, initial_indent=margin, subsequent_indent=margin))
