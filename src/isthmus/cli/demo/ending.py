"""The end of a demo: the summary, on screen and as ``.demo/summary.json``, and everything left running if asked to."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from isthmus.cli import printing
from isthmus.cli.composing import Composition, StopRequested
from isthmus.cli.demo import runs as running_dags
from isthmus.cli.demo.plane import RunningPlane
from isthmus.cli.demo.runs import Runs
from isthmus.cli.demo.telling import Teller, short
from isthmus.cli.exits import Exit


@dataclass(frozen=True, slots=True)
class Ending:
    """What there is at the end. ``looking`` are further lines for who looks around in what is left running."""

    teller: Teller
    composition: Composition
    runs: Runs
    plane: RunningPlane
    has_link: bool
    looking: tuple[str, ...] = ()


def conclude(end: Ending, *, keep: bool) -> int:
    """Write and show the summary; with ``keep`` wait for Ctrl-C. The exit code."""
    console, rows = end.teller.console, end.runs.rows
    path = end.plane.deployment.directory.parent / "summary.json"
    write(path, end)
    console.print()
    if end.has_link:
        _show_steps(end)
    else:
        running_dags.show(rows)
    console.print()
    for one in end.runs.wrong:
        console.print(f"[red]wrong:[/] {one}", soft_wrap=True)
    if not end.runs.wrong:
        on_purpose = sum(row.state != "success" or row.try_number > 1 for row in rows)
        console.print(f"All {len(rows)} tasks ended as they should ({on_purpose} failed once or for good, on purpose).")
    console.print(f"Summary: {short(path)}", soft_wrap=True)
    if not keep:
        console.print("Everything has been removed; to look around: make demo KEEP=1", soft_wrap=True)
        return Exit.FAILED if end.runs.wrong else Exit.DONE
    console.print(
        f"Airflow: {end.plane.deployment.airflow_url} (no password: it listens on this machine alone)", soft_wrap=True
    )
    directory = short(end.plane.deployment.directory)
    console.print(f"Operate: .venv/bin/isthmus agents list --deployment {directory}", soft_wrap=True)
    for line in end.looking:
        console.print(line, soft_wrap=True, markup=False)
    _linger(end)
    return Exit.FAILED if end.runs.wrong else Exit.DONE


def _show_steps(end: Ending) -> None:
    """How long each step took; which task ran where has been said in it."""
    printing.table(
        ("", "STEP", "TOOK"),
        ((str(number), one.title, printing.duration(one.seconds)) for number, one in enumerate(end.teller.steps, 1)),
        empty="",
    )


def write(path: Path, end: Ending) -> None:
    """The summary: ``{"steps": [Step], "tasks": [Row], "wrong": [sentence], "has_link": whether there was a link}``."""
    summary = {
        "has_link": end.has_link,
        "steps": [asdict(one) for one in end.teller.steps],
        "tasks": [asdict(row) for row in end.runs.rows],
        "wrong": end.runs.wrong,
    }
    path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _linger(end: Ending) -> None:
    end.teller.say("everything is left running: Ctrl-C stops it")
    try:
        end.composition.watch()
    except StopRequested:
        end.teller.say("stopping")
