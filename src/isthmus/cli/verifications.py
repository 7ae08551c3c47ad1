"""What agents have verified, and the end of their logs: ``isthmus agents verifications``, ``verification``, ``log``.

Both come from the agent itself, with its heartbeats: whoever waits sees rows as they come, and is told why none do.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Final
from uuid import UUID

import typer

from isthmus.cli import printing
from isthmus.cli.calling import Json, Plane, with_plane
from isthmus.cli.exits import Exit
from isthmus.kit.errors import TemporaryError
from isthmus.wire import admin
from isthmus.wire.admin import VerificationState
from isthmus.wire.probes import ProbeRow, ProbeStatus

LOOK_SECONDS: Final = 0.5
#: The plane gives a verification up before this.
_WAIT_SECONDS: Final = 300.0
#: A heartbeat until the agent hears of it, and some more for one that is late.
_LOG_SECONDS: Final = 45.0

Agent = Annotated[str, typer.Argument(metavar="AGENT", help="The agent's name or id.")]


def add(app: typer.Typer) -> None:
    """Add the commands to ``isthmus agents``."""
    app.command("verifications")(verifications)
    app.command("verification")(verification)
    app.command("log")(log)


@with_plane
def verifications(
    plane: Plane,
    agent: Annotated[str | None, typer.Argument(metavar="AGENT", help="The agent's name; else all.")] = None,
    *,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="How many, the last one first.")] = 50,
    as_json: Json = False,
) -> None:
    """List what agents have verified, the last one first: 50 of each agent are kept, for 30 days."""
    page = plane.verifications(limit, agent)
    if as_json:
        printing.json_of(page)
        return
    now = datetime.now(UTC)
    printing.table(
        ("VERIFICATION", "AGENT", "ORDERED", "BY", "RESULT", "WHAT FAILED"),
        (
            (
                str(one.verification_id),
                one.agent_name,
                printing.age(one.ordered_at, now),
                one.ordered_by or "itself",
                result(one),
                f"{one.failed.check}: {one.failed.details}" if one.failed is not None else one.reason,
            )
            for one in page.verifications
        ),
        empty="No agent has verified anything yet. Ask one with: isthmus agents verify AGENT --wait",
    )


@with_plane
def verification(
    plane: Plane,
    verification_id: Annotated[UUID, typer.Argument(metavar="ID", help="The verification's id.")],
    *,
    as_json: Json = False,
) -> None:
    """Show one verification with its rows. The exit code is 1 if something failed."""
    found = plane.verification(verification_id)
    if as_json:
        printing.json_of(found)
    else:
        printing.facts(
            (
                ("agent", found.agent_name),
                ("url", found.url),
                ("ordered", f"{printing.age(found.ordered_at)} by {found.ordered_by or 'itself'}"),
                ("result", result(found)),
                ("why", " ".join(text for text in (found.reason, found.hint) if text)),
            )
        )
        for row in found.rows:
            printing.row(row)
    if found.status is ProbeStatus.FAIL:
        raise typer.Exit(Exit.FAILED)


@with_plane
def log(plane: Plane, agent: Agent, *, as_json: Json = False) -> None:
    """Fetch the end of an agent's own log; task logs are not in it. It comes with the agent's next heartbeat."""
    found = plane.agent(agent)
    tail = plane.order_log_tail(found.agent_id)
    order_id, end = tail.order_id, time.monotonic() + _LOG_SECONDS
    while tail.received_at is None and tail.order_id == order_id and time.monotonic() < end:
        time.sleep(LOOK_SECONDS)
        tail = plane.log_tail(found.agent_id)
    if tail.received_at is None:
        raise TemporaryError(
            f"agent {found.name} has not sent its log: it is {plane.agent(str(found.agent_id)).health}",
            code="log_missing",
            hint="It is asked until its next heartbeat. An agent that does not reach the plane has its log on its own "
            "host, and one of an older version sends none.",
        )
    if as_json:
        printing.json_of(tail)
    else:
        for line in tail.lines:
            printing.say(line)


def result(one: admin.VerificationEntry) -> str:
    """How it ended, or how far it is, in a word."""
    if one.state is VerificationState.FINISHED and one.status is not None:
        return one.status.value
    return one.state.value


def follow(plane: Plane, verification_id: UUID, tell: Callable[[ProbeRow], None]) -> admin.VerificationView:
    """A verification once it is finished; ``tell`` hears of each row when it comes.

    Raises TemporaryError when the agent does not answer, with the plane's reason.
    """
    told, end = 0, time.monotonic() + _WAIT_SECONDS
    while True:
        found = plane.verification(verification_id)
        for row in found.rows[told:]:
            tell(row)
        told = max(told, len(found.rows))
        if found.state is VerificationState.FINISHED:
            return found
        if found.state is VerificationState.UNANSWERED or time.monotonic() > end:
            raise TemporaryError(
                f"agent {found.agent_name} has not verified to the end: {found.reason or 'it takes very long'}",
                code="report_missing",
                hint=found.hint or "See: isthmus agents verifications",
            )
        time.sleep(LOOK_SECONDS)
