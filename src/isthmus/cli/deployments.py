"""``isthmus deployment``: set one up, run it, look at it, and say which addresses may come in.

``init``, ``run`` and ``env`` work on a directory on this machine; the others ask the admin API.
"""

import ipaddress
from typing import Annotated

import typer

from isthmus.cli import printing
from isthmus.cli.calling import Json, Plane, with_plane
from isthmus.kit.errors import ConfigError, NotFoundError
from isthmus.wire import admin

app = typer.Typer(help="Set up a deployment, run it, look at it, and say who may come in.")
allow_list = typer.Typer(help="The source addresses from which agents may come in; empty means all.")
app.add_typer(allow_list, name="allow-list")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

Ranges = Annotated[
    list[str], typer.Argument(metavar="RANGE...", help="IPv4 or IPv6 ranges, as in 192.0.2.0/24 or 2001:db8::1.")
]


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
            ("agents", f"{view.agents_healthy} healthy, {view.agents_unhealthy} unhealthy"),
            ("workloads", f"{view.workloads_queued} queued, {view.workloads_active} leased or running"),
            ("heartbeat", f"every {view.heartbeat_seconds:g} s"),
            ("leases", f"{view.lease_seconds:g} s unstarted, {view.running_lease_seconds:g} s running"),
            ("token limit", str(view.token_limit)),
            ("allow list", printing.words(view.allowed_ranges, "every address")),
            ("connections", printing.words(view.allowed_connections, "none are handed to tasks")),
            ("variables", printing.words(view.allowed_variables, "none are handed to tasks")),
        )
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


def _replace(plane: Plane, networks: list[Network], *, as_json: bool) -> None:
    body = admin.AllowListBody(ranges=tuple(networks))
    _show_ranges(plane.replace_allow_list(body), as_json=as_json)


@allow_list.command("show")
@with_plane
def show_allow_list(plane: Plane, *, as_json: Json = False) -> None:
    """Show the ranges in force."""
    _show_ranges(plane.allow_list(), as_json=as_json)


@allow_list.command("add")
@with_plane
def add_ranges(plane: Plane, ranges: Ranges, *, as_json: Json = False) -> None:
    """Let more ranges in. The first range shuts every other address out."""
    wanted = _parse(ranges)
    present = _in_force(plane)
    _replace(plane, [*present, *(one for one in wanted if one not in present)], as_json=as_json)


@allow_list.command("remove")
@with_plane
def remove_ranges(plane: Plane, ranges: Ranges, *, as_json: Json = False) -> None:
    """Shut ranges out. The list is never emptied this way: see clear."""
    wanted = _parse(ranges)
    present = _in_force(plane)
    absent = [str(one) for one in wanted if one not in present]
    if absent:
        raise NotFoundError(
            f"not in the allow list: {', '.join(absent)}",
            code="range_not_found",
            hint="Ranges are removed as they were added; see: isthmus deployment allow-list show.",
        )
    left = [one for one in present if one not in wanted]
    if not left:
        raise ConfigError(
            "nothing would be left, and an empty allow list lets every address in",
            code="allow_list_emptied",
            hint="If that is meant: isthmus deployment allow-list clear.",
        )
    _replace(plane, left, as_json=as_json)


@allow_list.command("set")
@with_plane
def set_ranges(plane: Plane, ranges: Ranges, *, as_json: Json = False) -> None:
    """Put exactly these ranges in force."""
    _replace(plane, _parse(ranges), as_json=as_json)


@allow_list.command("clear")
@with_plane
def clear_ranges(plane: Plane, *, as_json: Json = False) -> None:
    """Empty the list: every address may come in; tokens are still asked for."""
    _replace(plane, [], as_json=as_json)
