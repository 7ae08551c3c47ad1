"""``isthmus workloads``: what was handed out, to whom, and what became of it.

Workload ids are long; tables show their last eight characters, and every command takes these for the whole id as long
as they name one workload among the newest.
"""

from datetime import UTC, datetime
from typing import Annotated, Final
from uuid import UUID

import typer

from isthmus.cli import printing
from isthmus.cli.calling import Json, Plane, with_plane
from isthmus.kit.errors import ConfigError, NotFoundError
from isthmus.wire import admin
from isthmus.wire.names import Kind

app = typer.Typer(add_completion=False, no_args_is_help=False, help="Workloads: look at them, cancel.")

#: The random part of a UUID, whatever its version.
SHORT: Final = 8
#: How far back a shortened id is looked for.
SEARCHED: Final = 2000

WorkloadArgument = Annotated[
    str, typer.Argument(metavar="WORKLOAD", help="The workload's id, or the end of it as tables show it.")
]


def title(workload: admin.WorkloadView) -> str:
    """What the workload is, in Airflow's words: ``dag.task[2]``, with ``#2`` for the second try."""
    if workload.task_id is None:
        return f"{workload.kind.value} {workload.subject_id[-SHORT:]}"
    name = f"{workload.dag_id}.{workload.task_id}"
    if workload.map_index is not None and workload.map_index >= 0:
        name += f"[{workload.map_index}]"
    if workload.try_number is not None and workload.try_number > 1:
        name += f" #{workload.try_number}"
    return name


def took(workload: admin.WorkloadView, now: datetime) -> str:
    """How long the workload ran, or has been running."""
    if workload.started_at is None:
        return printing.NOTHING
    return printing.duration((workload.settled_at or now) - workload.started_at)


def find(plane: Plane, given: str) -> UUID:
    """The id that ``given`` is, or ends. Raises NotFoundError, ConfigError."""
    try:
        return UUID(given)
    except ValueError:
        pass
    ending = given.lower()
    found = [
        workload.workload_id
        for workload in plane.workloads(SEARCHED).workloads
        if len(ending) >= 4 and str(workload.workload_id).endswith(ending)
    ]
    if not found:
        raise NotFoundError(
            f"no workload's id ends in {given!r}",
            code="workload_not_found",
            hint="List the newest with: isthmus workloads list. Older ones are found by their whole id.",
        )
    if len(found) > 1:
        raise ConfigError(
            f"{len(found)} workloads have an id that ends in {given!r}",
            code="workload_ambiguous",
            hint="Give more of the id.",
        )
    return found[0]


@app.command("list")
@with_plane
def list_workloads(
    plane: Plane,
    *,
    state: Annotated[admin.WorkloadState | None, typer.Option("--state", help="Only those in this state.")] = None,
    queue: Annotated[str | None, typer.Option("--queue", help="Only those of this queue.")] = None,
    kind: Annotated[Kind | None, typer.Option("--kind", help="Only those of this kind.")] = None,
    dag: Annotated[str | None, typer.Option("--dag", help="Only those of this DAG id.")] = None,
    agent: Annotated[str | None, typer.Option("--agent", help="Only those of this agent (name or id).")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many, newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """List workloads, newest first."""
    page = plane.workloads(
        limit,
        state=None if state is None else state.value,
        queue=queue,
        kind=None if kind is None else kind.value,
        dag_id=dag,
        agent_id=None if agent is None else str(plane.agent(agent).agent_id),
    )
    if as_json:
        printing.json_of(page)
        return
    now = datetime.now(UTC)
    printing.table(
        ("WORKLOAD", "STATE", "WHAT", "AGENT", "AGE", "TOOK"),
        (
            (
                str(workload.workload_id)[-SHORT:],
                workload.state.value,
                title(workload),
                workload.agent_name or printing.NOTHING,
                printing.duration(now - workload.queued_at),
                took(workload, now),
            )
            for workload in page.workloads
        ),
        empty="No workload matches.",
    )
    if page.next_before is not None:
        printing.note(f"There are more; these are the newest {len(page.workloads)} (--limit).")


@app.command("show")
@with_plane
def show(plane: Plane, workload: WorkloadArgument, *, as_json: Json = False) -> None:
    """Show one workload; with --json also Airflow's payload."""
    detail = plane.workload(find(plane, workload))
    if as_json:
        printing.json_of(detail)
        return
    found = detail.workload
    now = datetime.now(UTC)
    printing.facts(
        (
            ("workload", str(found.workload_id)),
            ("what", title(found)),
            ("run", found.run_id or ""),
            ("state", found.state),
            ("queue", found.queue),
            ("priority", str(found.priority)),
            ("agent", found.agent_name or printing.NOTHING),
            ("fence", str(found.fence)),
            ("queued", printing.age(found.queued_at, now)),
            ("leased", printing.age(found.leased_at, now)),
            ("started", printing.age(found.started_at, now)),
            ("settled", printing.age(found.settled_at, now)),
            ("took", took(found, now)),
            ("lease ends", "" if found.lease_expires_at is None else printing.age(found.lease_expires_at, now)),
            ("exit code", "" if found.exit_code is None else str(found.exit_code)),
            ("detail", found.detail),
        )
    )


@app.command("cancel")
@with_plane
def cancel(plane: Plane, workload: WorkloadArgument, *, as_json: Json = False) -> None:
    """Cancel a workload that has not started, or ask a running one to stop."""
    after = plane.cancel_workload(find(plane, workload))
    if as_json:
        printing.json_of(after)
    elif after.state is admin.WorkloadState.RUNNING:
        printing.say(f"Workload {after.workload_id} was asked to stop; its agent hears of it at its next heartbeat.")
    else:
        printing.say(f"Workload {after.workload_id} is {after.state}.")
