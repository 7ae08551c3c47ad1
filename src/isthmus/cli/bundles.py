"""``isthmus bundles``: the DAG bundles that agents brought."""

import typer

from isthmus.cli import printing
from isthmus.cli.calling import Json, Plane, with_plane

app = typer.Typer(add_completion=False, help="DAG bundles: who parses each, what is in it, what was refused.")


@app.command("list")
@with_plane
def list_bundles(plane: Plane, *, as_json: Json = False) -> None:
    """List the DAG bundles that agents brought; those that nobody parses first."""
    page = plane.bundles()
    if as_json:
        printing.json_of(page)
        return
    printing.table(
        ("BUNDLE", "PARSED BY", "VERSION", "FILES", "DAGS", "ERRORS", "REFUSED", "LAST PASS"),
        (
            (
                one.name,
                one.agent_name or "nobody",
                (one.version or "-")[:12],
                str(one.files),
                str(one.dags),
                str(one.import_errors),
                str(one.refused),
                printing.age(one.passed_at),
            )
            for one in page.bundles
        ),
        empty="No agent has brought a bundle. Start one with the role dag-processor: isthmus agent.",
    )
    for one in page.bundles:
        if one.agent_name is None:
            printing.note(f"Nobody parses {one.name}: start an agent that has it, or uncordon one.")
        if one.refused_file is not None:
            printing.note(f"Refused of {one.name}: {one.refused_file}: {one.refused_detail}")
    for refused in page.refused:
        printing.note(f"{refused.agent_name} may not bring {refused.name} ({refused.code}): {refused.detail}")


# One command is a group all the same.
@app.callback()
def _group() -> None:
    """DAG bundles."""
