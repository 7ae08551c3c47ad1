"""``isthmus audit``: who changed what, when, from where."""

import json
from typing import Annotated, Any

import typer

from isthmus.cli import printing
from isthmus.cli.asking import PAGE, ControlPlane, Json, with_control
from isthmus.wire import control, paths

app = typer.Typer(add_completion=False, help="The audit log of the control plane.")


@app.callback()
def audit() -> None:
    """The audit log of the control plane."""


@app.command("list")
@with_control
def list_entries(
    plane: ControlPlane,
    *,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many, the newest.")] = 50,
    subject: Annotated[
        str | None, typer.Option("--subject", help="Only about this, as in: connection/cnq7xk2ma4bc.")
    ] = None,
    operator: Annotated[str | None, typer.Option("--operator", help="Only what this operator did.")] = None,
    action: Annotated[
        str | None, typer.Option("--action", help="Only this, as in: connection.approve; or all about one: connection.")
    ] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="TIME", help="From then on, with an offset.")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Before then, with an offset.")] = None,
    as_json: Json = False,
) -> None:
    """List the newest entries, newest first."""
    page = _entries(plane, limit, subject=subject, operator=operator, action=action, since=since, until=until)
    if as_json:
        printing.json_of(page)
        return
    printing.table(
        ("WHEN", "WHO", "FROM", "WHAT", "SUBJECT", "CHANGE"),
        (
            (
                printing.age(one.at),
                one.operator,
                one.source_address or printing.NOTHING,
                one.action,
                one.subject,
                _change(one),
            )
            for one in page.entries
        ),
        empty="Nothing has happened.",
    )


def _entries(plane: ControlPlane, limit: int, **which: Any) -> control.AuditPage:
    found: list[control.AuditEntry] = []
    before: int | None = None
    while True:
        page = plane.ask(
            control.AuditPage,
            "GET",
            paths.CONTROL_AUDIT,
            limit=min(PAGE, limit - len(found)),
            before=before,
            **which,
        )
        found += page.entries
        before = page.next_before
        if before is None or len(found) >= limit:
            return control.AuditPage(entries=tuple(found), next_before=before)


def _change(one: control.AuditEntry) -> str:
    """What is different, in the few words of a table."""
    before, after = one.before or {}, one.after or {}
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return printing.words(f"{name}: {_short(before.get(name))} → {_short(after.get(name))}" for name in names[:3])


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    text = "-" if value is None else text
    return text if len(text) <= 40 else f"…{text[-39:]}"
