"""``isthmus deployment``: set one up, run it, look at it, and say which addresses may come in.

``init``, ``run`` and ``env`` work on a directory on this machine; the others ask the admin API.
"""

import ipaddress
import json
import shlex
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from isthmus.cli import agents, printing
from isthmus.cli.calling import Json, Plane, with_plane
from isthmus.cli.exits import Exit
from isthmus.kit.errors import ConfigError, NotFoundError
from isthmus.wire import admin
from isthmus.wire.bodies import Response
from isthmus.wire.names import PathKind

app = typer.Typer(add_completion=False, help="Set up a deployment, run it, look at it, and say who may come in.")
allow = typer.Typer(add_completion=False, help="The source addresses from which agents may come in; empty means all.")
app.add_typer(allow, name="allow")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

Directory = Annotated[
    Path, typer.Argument(metavar="DIR", envvar="ISTHMUS_DEPLOYMENT", help="The deployment's directory.")
]
PlainJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Ranges = Annotated[
    list[str], typer.Argument(metavar="RANGE...", help="IPv4 or IPv6 ranges, as in 192.0.2.0/24 or 2001:db8::1.")
]

Force = Annotated[bool, typer.Option("--force", help="Even if it shuts out the last healthy agent.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say who would be cut off, and change nothing.")]


class DirectoryView(Response):
    """What ``init`` made, as ``--json`` shows it."""

    deployment_id: str
    directory: str
    agent_url: str
    ca_certificate: str
    admin_token_file: str


@app.command("init")
def init(
    directory: Directory,
    *,
    database_url: Annotated[
        str | None,
        typer.Option(
            "--database-url",
            metavar="URL",
            help="A PostgreSQL 14 or later: postgresql://user:password@host:5432/database. "
            "Without one the directory gets an embedded PostgreSQL.",
        ),
    ] = None,
    deployment_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="The deployment's id; a new one by default.")
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="A name or address under which agents reach it; may repeat. Default: localhost."),
    ] = None,
    dags: Annotated[Path | None, typer.Option("--dags", metavar="DIR", help="Where the DAG files are.")] = None,
    airflow_port: Annotated[int | None, typer.Option("--airflow-port", help="Airflow's UI, on loopback: 8080.")] = None,
    listen_host: Annotated[str | None, typer.Option("--listen-host", help="Listens for agents: 0.0.0.0.")] = None,
    listen_port: Annotated[
        int | None, typer.Option("--listen-port", help="Where agents are listened for: 8443.")
    ] = None,
    admin_port: Annotated[int | None, typer.Option("--admin-port", help="The internal listener: 8444.")] = None,
    as_json: PlainJson = False,
) -> None:
    """Make a directory with all that a deployment needs: id, keys, TLS certificate, admin token, settings.

    Doing so again keeps what is there and changes what is told.
    """
    from isthmus.cli import stacks  # noqa: PLC0415 - the plane's libraries, for those who have them
    from isthmus.deployment.initializing import DeploymentSpec  # noqa: PLC0415

    spec = DeploymentSpec(
        directory=directory,
        database_url=database_url,
        names=tuple(name) if name else None,
        deployment_id=deployment_id,
        dags_folder=None if dags is None else dags.resolve(),
        airflow_port=airflow_port,
        listen_host=listen_host,
        listen_port=listen_port,
        admin_port=admin_port,
    )
    postgres = None if database_url is not None else stacks.find_postgres(directory)
    with stacks.opened(spec, postgres) as deployment:
        if as_json:
            made = DirectoryView(
                deployment_id=deployment.config.deployment_id,
                directory=str(deployment.directory),
                agent_url=deployment.agent_url,
                ca_certificate=str(deployment.ca_certificate),
                admin_token_file=str(deployment.admin_token_file),
            )
            printing.json_of(made)
            return
        printing.facts(
            (
                ("deployment", deployment.config.deployment_id),
                ("directory", str(deployment.directory)),
                ("agents use", deployment.agent_url),
                ("and trust", str(deployment.ca_certificate)),
                ("run it with", f"isthmus deployment run {shlex.quote(str(directory))}"),
            )
        )


@app.command("env")
def env(directory: Directory, *, as_json: PlainJson = False) -> None:
    """Print the environment of the deployment's processes, with its secrets, for a shell: set -a; eval "$(...)"."""
    from isthmus.deployment import initializing  # noqa: PLC0415 - as above

    environment = initializing.load(directory).environment
    if as_json:
        printing.say(json.dumps(dict(environment), indent=2))
        return
    for variable, value in environment.items():
        printing.say(f"{variable}={shlex.quote(value)}")


@app.command("run")
def run(
    directory: Directory,
) -> None:
    """Run a deployment in the foreground: PostgreSQL if embedded, Airflow, the Remote Execution API.

    Each program has a log in DIR/logs. If one ends by itself all are stopped; Ctrl-C stops all in order.
    """
    from isthmus.cli import composing  # noqa: PLC0415 - as above
    from isthmus.deployment import initializing  # noqa: PLC0415

    initializing.load(directory)  # a directory that was never initialized is refused before anything starts
    raise typer.Exit(composing.contained(lambda: _run(directory)))


def _run(directory: Path) -> int:
    from isthmus.cli import stacks  # noqa: PLC0415 - as above
    from isthmus.cli.airflows import Airflow  # noqa: PLC0415
    from isthmus.cli.composing import Composition, StopRequested  # noqa: PLC0415
    from isthmus.deployment.initializing import DeploymentSpec  # noqa: PLC0415

    began = time.monotonic()

    def told(name: str) -> None:
        printing.note(f"{time.monotonic() - began:6.1f} s  {name} is ready")

    try:
        with ExitStack() as stack:
            postgres = stacks.find_postgres(directory)
            deployment = stack.enter_context(stacks.opened(DeploymentSpec(directory=directory), postgres))
            if postgres is not None:
                told("PostgreSQL")
            plane = stacks.Stack(deployment, postgres)
            plane.migrate()
            airflow = Airflow(deployment.airflow_url)
            stack.callback(airflow.close)
            composition = stack.enter_context(Composition())
            for program in plane.programs(airflow):
                composition.start(program)
            composition.await_ready(told=told)
            printing.facts(
                (
                    ("Airflow", deployment.airflow_url),
                    ("sign in", f"the password is in {plane.password_file}" if plane.password_file.exists() else ""),
                    ("agents use", deployment.agent_url),
                    ("and trust", str(deployment.ca_certificate)),
                    ("a token", f"isthmus token create NAME --deployment {shlex.quote(str(directory))}"),
                    ("logs", str(plane.logs)),
                )
            )
            printing.note("Ctrl-C stops everything.")
            composition.watch()
    except StopRequested:
        return Exit.DONE


@app.command("show")
@with_plane
def show(plane: Plane, *, as_json: Json = False) -> None:
    """Show the deployment and how it is doing."""
    view = plane.deployment()
    if as_json:
        printing.json_of(view)
        return
    printing.facts(
        (
            ("deployment", view.deployment_id),
            ("versions", f"isthmus {view.version}, airflow {view.airflow_version}"),
            ("agents", f"{view.agents_healthy} healthy{_paths(view)}, {view.agents_unhealthy} unhealthy"),
            ("workloads", f"{view.workloads_queued} queued, {view.workloads_active} leased or running"),
            ("heartbeat", f"every {view.heartbeat_seconds:g} s"),
            ("leases", f"{view.lease_seconds:g} s unstarted, {view.running_lease_seconds:g} s running"),
            ("token limit", str(view.token_limit)),
            ("allow list", printing.words(view.allowed_ranges, "every address")),
            ("connections", printing.words(view.allowed_connections, "none are handed to tasks")),
            ("variables", printing.words(view.allowed_variables, "none are handed to tasks")),
        )
    )


def _paths(view: admin.DeploymentView) -> str:
    parts = [f"{number} {_BY[path]}" for path, number in sorted(view.agents_healthy_by_path.items()) if number]
    return f" ({', '.join(parts)})" if parts else ""


_BY: Final = {PathKind.PUBLIC: "over the public path", PathKind.LINK: "through a link"}


@app.command("restrict")
@with_plane
def restrict(
    plane: Plane,
    *,
    to: Annotated[
        list[str] | None,
        typer.Option("--to", metavar="RANGE", help="Let only this range in; may repeat."),
    ] = None,
    to_cluster: Annotated[
        bool,
        typer.Option(
            "--to-cluster", help="Let only what comes through the cluster's link in: its CIDR, of --control-url."
        ),
    ] = False,
    dry_run: DryRun = False,
    force: Annotated[bool, typer.Option("--force", help="Even if no healthy agent comes from there.")] = False,
    as_json: Json = False,
) -> None:
    """Let agents in from these ranges alone, once a healthy one comes from there. Shows first who is cut off.

    Where the allow list does not have the ranges yet they are added first: run it again when an agent has come.
    """
    ranges = _wanted(plane, to or [], to_cluster=to_cluster)
    planned = plane.restrict(admin.RestrictionRequest(ranges=ranges, force=force, dry_run=True))
    if not as_json:
        _show_places(planned)
    view = planned
    if not dry_run:
        view = plane.restrict(admin.RestrictionRequest(ranges=ranges, force=force))
    if as_json:
        printing.json_of(view)
    else:
        printing.say(f"{_SAID[view.outcome]}{' (dry run)' if dry_run else ''}: {view.reason}")
    if view.outcome in (admin.RestrictionOutcome.WIDENED, admin.RestrictionOutcome.REFUSED):
        raise typer.Exit(Exit.FAILED)


@app.command("unrestrict")
@with_plane
def unrestrict(plane: Plane, *, as_json: Json = False) -> None:
    """Empty the allow list: every address may come in; tokens are still asked for."""
    view = plane.unrestrict()
    if as_json:
        printing.json_of(view)
        return
    printing.say(f"{_SAID[view.outcome]}: {view.reason}")
    if view.ranges_before:
        printing.note(f"The allow list was {', '.join(view.ranges_before)}.")


_SAID: Final = {
    admin.RestrictionOutcome.RESTRICTED: "Restricted",
    admin.RestrictionOutcome.WIDENED: "Not restricted yet, only widened",
    admin.RestrictionOutcome.REFUSED: "Refused",
    admin.RestrictionOutcome.UNRESTRICTED: "Unrestricted",
    admin.RestrictionOutcome.UNCHANGED: "Unchanged",
}


def _wanted(plane: Plane, to: list[str], *, to_cluster: bool) -> tuple[Network, ...]:
    """The ranges that are meant. Raises ConfigError."""
    if not to and not to_cluster:
        raise ConfigError(
            "restricted to what?",
            code="range_missing",
            hint="Give --to-cluster for the cluster's own network (with --control-url), or --to RANGE.",
        )
    ranges = _parse(to)
    if to_cluster:
        cluster = plane.home()
        link = f"link {cluster.alias}" if cluster.alias else "no link: isthmus link publish"
        printing.note(f"Cluster {cluster.cluster_id}: network {cluster.cidr}, host {cluster.host}, {link}.")
        ranges = [ipaddress.ip_network(cluster.cidr), *ranges]
    return tuple(ranges)


def _show_places(view: admin.RestrictionView) -> None:
    rows = [("cut off", place) for place in view.cut_off] + [("stays", place) for place in view.stays]
    now = datetime.now(UTC)
    printing.table(
        ("", "AGENT", "HEALTH", "PATH", "ADDRESS", "HEARTBEAT"),
        (
            (
                what,
                place.name,
                place.health.value,
                agents.path_of(place),
                place.address or printing.NOTHING,
                printing.age(place.last_heartbeat_at, now),
            )
            for what, place in rows
        ),
        empty="No agent is there.",
    )


def _parse(texts: list[str]) -> list[Network]:
    networks: list[Network] = []
    for text in texts:
        try:
            networks.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise ConfigError(
                f"{text!r} is not an address range: {error}",
                code="range_invalid",
                hint="Write it as 192.0.2.0/24, 192.0.2.7, 2001:db8::/32 or 2001:db8::7.",
            ) from None
    return networks


def _in_force(plane: Plane) -> list[Network]:
    return [ipaddress.ip_network(text) for text in plane.allow_list().ranges]


def _show_ranges(view: admin.AllowListView, *, as_json: bool) -> None:
    if as_json:
        printing.json_of(view)
    elif view.ranges:
        for text in view.ranges:
            printing.say(text)
    else:
        printing.note("The allow list is empty: every address may come in.")


def _replace(plane: Plane, networks: list[Network], *, force: bool, dry_run: bool, as_json: bool) -> None:
    """Put ``networks`` in force, or say what that would do; a refused dry run fails as the change would."""
    view = plane.replace_allow_list(admin.AllowListBody(ranges=tuple(networks), force=force, dry_run=dry_run))
    if not dry_run or view.change is None:
        _show_ranges(view, as_json=as_json)
        return
    if as_json:
        printing.json_of(view)
    else:
        _show_places(view.change)
        printing.say(f"{_SAID[view.change.outcome]} (dry run): {view.change.reason}")
    if view.change.outcome is admin.RestrictionOutcome.REFUSED:
        raise typer.Exit(Exit.FAILED)


@allow.command("list")
@with_plane
def list_ranges(plane: Plane, *, as_json: Json = False) -> None:
    """Show the ranges in force."""
    _show_ranges(plane.allow_list(), as_json=as_json)


@allow.command("add")
@with_plane
def add_ranges(
    plane: Plane, ranges: Ranges, *, force: Force = False, dry_run: DryRun = False, as_json: Json = False
) -> None:
    """Let more ranges in. The first range shuts every other address out."""
    wanted = _parse(ranges)
    present = _in_force(plane)
    more = [one for one in wanted if one not in present]
    _replace(plane, [*present, *more], force=force, dry_run=dry_run, as_json=as_json)


@allow.command("remove")
@with_plane
def remove_ranges(
    plane: Plane, ranges: Ranges, *, force: Force = False, dry_run: DryRun = False, as_json: Json = False
) -> None:
    """Shut ranges out. The list is never emptied this way: see clear."""
    wanted = _parse(ranges)
    present = _in_force(plane)
    absent = [str(one) for one in wanted if one not in present]
    if absent:
        raise NotFoundError(
            f"not in the allow list: {', '.join(absent)}",
            code="range_not_found",
            hint="Ranges are removed as they were added; see: isthmus deployment allow list.",
        )
    left = [one for one in present if one not in wanted]
    if not left:
        raise ConfigError(
            "nothing would be left, and an empty allow list lets every address in",
            code="allow_list_emptied",
            hint="If that is meant: isthmus deployment allow clear.",
        )
    _replace(plane, left, force=force, dry_run=dry_run, as_json=as_json)


@allow.command("set")
@with_plane
def set_ranges(
    plane: Plane, ranges: Ranges, *, force: Force = False, dry_run: DryRun = False, as_json: Json = False
) -> None:
    """Put exactly these ranges in force."""
    _replace(plane, _parse(ranges), force=force, dry_run=dry_run, as_json=as_json)


@allow.command("clear")
@with_plane
def clear_ranges(plane: Plane, *, as_json: Json = False) -> None:
    """Empty the list: every address may come in; tokens are still asked for."""
    _replace(plane, [], force=False, dry_run=False, as_json=as_json)
