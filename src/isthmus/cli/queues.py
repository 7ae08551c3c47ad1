"""``isthmus queues``: what waits where, and who would take it."""

import typer

from isthmus.cli import printing
from isthmus.cli.calling import Json, Plane, with_plane
from isthmus.wire import admin

app = typer.Typer(add_completion=False, help="Queues: what waits, what runs, and which agents serve them.")


@app.command("list")
@with_plane
def list_queues(plane: Plane, *, as_json: Json = False) -> None:
    """List the queues that have work or that an agent serves; those with work that nobody serves first."""
    page = plane.queues()
    if as_json:
        printing.json_of(page)
        return
    printing.table(
        ("QUEUE", "QUEUED", "OLDEST", "LEASED", "RUNNING", "SLOTS", "AGENTS"),
        (
            (
                one.queue,
                str(one.queued),
                printing.duration(one.oldest_queued_seconds),
                str(one.leased),
                str(one.running),
                f"{one.slots_used}/{one.slots}",
                served_by(one),
            )
            for one in page.queues
        ),
        empty="No queue has work, and no healthy agent serves one. Start an agent with: isthmus agent.",
    )
    for one in page.queues:
        if one.queued and not one.agents_count:
            printing.note(f"Nobody serves {one.queue}: start an agent with --queues {one.queue}, or uncordon one.")


def served_by(queue: admin.QueueView) -> str:
    """The agents, by name; how many more there are."""
    more = queue.agents_count - len(queue.agents)
    return printing.words((*queue.agents, f"and {more} more") if more else queue.agents, "nobody")


# One command is a group all the same.
@app.callback()
def _group() -> None:
    """Queues."""
