"""``isthmus triggers``: who runs triggers, and what waits for somebody to."""

from collections.abc import Iterator

import typer

from isthmus.cli import printing
from isthmus.cli.calling import Json, Plane, with_plane
from isthmus.wire import admin

app = typer.Typer(add_completion=False, help="Triggers: who runs how many, and what waits for somebody to.")


@app.command("list")
@with_plane
def list_triggers(plane: Plane, *, as_json: Json = False) -> None:
    """List the agents that run triggers, and what nobody runs; that which nobody could run first."""
    found = plane.triggers()
    if as_json:
        printing.json_of(found)
        return
    printing.table(
        ("TRIGGERER", "HELD", "TAKES MORE", "QUEUES", "BUNDLES", "LAST ASKED"),
        (
            (
                one.agent_name,
                f"{one.held}/{one.capacity}",
                "no" if not one.takes else "yes" if one.held < one.capacity else "full",
                printing.words(one.queues),
                printing.words(one.bundles, "any"),
                printing.age(one.loaded_at),
            )
            for one in found.triggerers
        ),
        empty="No agent runs triggers. Start one with the role triggerer: isthmus agent.",
    )
    if found.waiting:
        printing.say("")
        printing.table(
            ("WAITING", "KIND", "QUEUE", "BUNDLES", "OLDEST", "TRIGGERERS"),
            (
                (
                    str(one.count),
                    one.kind,
                    one.queue or printing.NOTHING,
                    printing.words(one.bundles),
                    printing.duration(one.oldest_seconds),
                    str(one.triggerers or "nobody"),
                )
                for one in found.waiting
            ),
            empty="",
        )
    for line in advice(found):
        printing.note(line)


def advice(found: admin.TriggersView) -> Iterator[str]:
    """What to do about triggers that nobody runs, a sentence each."""
    for one in found.waiting:
        if not one.triggerers:
            where = [*((f"queue {one.queue}",) if one.queue else ()), *(f"bundle {name}" for name in one.bundles)]
            yield (
                f"Nobody runs triggers of {', '.join(where) or 'assets without a DAG'}: start an agent with the role "
                "triggerer there, or uncordon one."
            )
    takers = [one for one in found.triggerers if one.takes]
    if any(one.triggerers for one in found.waiting) and all(one.held >= one.capacity for one in takers):
        yield "All triggerers are full: start another agent, or raise ISTHMUS_AGENT_TRIGGERS."
    if found.held_centrally:
        yield f"A triggerer of Airflow's own holds {found.held_centrally}: stop it where agents run triggers."


# One command is a group all the same.
@app.callback()
def _group() -> None:
    """Triggers."""
