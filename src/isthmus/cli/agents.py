"""``isthmus agents``: what the plane knows of its agents, and what operators ask of them.

Agents are named by their name or their id. Cordon, drain and cancel are states that the plane keeps: an agent that
is away learns of them when it is back.
"""

from datetime import UTC, datetime
from typing import Annotated

import typer
from pydantic import ValidationError

from isthmus.cli import links, printing, verifications
from isthmus.cli.calling import Json, Plane, with_plane
from isthmus.cli.exits import Exit
from isthmus.kit.errors import ConfigError
from isthmus.wire import admin
from isthmus.wire.control import AgentSight, NoteView
from isthmus.wire.names import PathKind, Role
from isthmus.wire.probes import KnownConnection, ProbeRow, ProbeStatus

app = typer.Typer(add_completion=False, no_args_is_help=False, help="Agents: look at them, cordon, drain, remove.")

Agent = Annotated[str, typer.Argument(metavar="AGENT", help="The agent's name or id.")]


def condition(agent: admin.AgentView | AgentSight) -> str:
    """The agent's health in one word; what was asked of it comes first, because it explains the rest."""
    if agent.health is admin.AgentHealth.HEALTHY:
        if agent.draining:
            return "draining"
        if agent.cordoned:
            return "cordoned"
        if isinstance(agent, admin.AgentView) and agent.standby is not None and not agent.standby.active:
            return "standby"
    return agent.health.value


def standby(agent: admin.AgentView) -> str:
    """For whom the agent stands by, and whether it has taken over; empty for one that does not."""
    if agent.standby is None:
        return ""
    one = agent.standby
    since = "" if one.group_since is None else f" since {one.group_since:%Y-%m-%d %H:%M:%S} UTC"
    if one.active:
        return f"has taken over for group {one.for_group}, which cannot work{since}"
    return (
        f"stands by for group {one.for_group}: gets work {one.after_seconds:g} s after that has no agent that takes any"
    )


def _show(agent: admin.AgentView, reason: NoteView | None) -> None:
    now = datetime.now(UTC)
    versions = printing.words(f"{name} {version}" for name, version in agent.versions.items() if version)
    printing.facts(
        (
            ("agent", agent.name),
            ("id", str(agent.agent_id)),
            ("role", agent.role),
            ("health", condition(agent)),
            *((("why", f"{reason.sentence} ({reason.code})\n{reason.hint}"),) if reason is not None else ()),
            ("phase", agent.phase),
            ("slots", f"{agent.slots_used} of {agent.slots} used"),
            ("group", agent.group or ""),
            ("standby", standby(agent)),
            ("queues", printing.words(agent.queues)),
            ("path", f"{path_of(agent)}, from {agent.address or 'no address'}, {_since(agent, now)}"),
            ("token", agent.token_id),
            ("versions", versions),
            ("labels", printing.words(f"{key}={value}" for key, value in agent.labels.items())),
            ("enrolled", printing.age(agent.enrolled_at, now)),
            ("heartbeat", printing.age(agent.last_heartbeat_at, now)),
            (
                "warnings",
                "\n".join(
                    f"{warning.severity}: {warning.summary}" + (f" ({warning.hint})" if warning.hint else "")
                    for warning in agent.warnings
                )
                or "none",
            ),
            ("verified", _verified(agent, now)),
        )
    )


def path_of(seen: admin.AgentView | admin.AgentPlace | admin.RefusedCaller | AgentSight) -> str:
    """The path in a word or two: ``public``, ``link 7``, ``link``."""
    if seen.path is PathKind.PUBLIC or seen.link_id is None:
        return seen.path.value
    return f"{seen.path} {seen.link_id}"


def _since(agent: admin.AgentView, now: datetime) -> str:
    return "since it enrolled" if agent.path_since is None else f"since {printing.age(agent.path_since, now)}"


def _verified(agent: admin.AgentView, now: datetime) -> str:
    report = agent.probe_report
    asked = "asked to; " if agent.probes_order_id is not None else ""
    if report is None:
        return f"{asked}no report yet" if asked else "never"
    wrong = [row for row in report.rows if row.status in (ProbeStatus.FAIL, ProbeStatus.WARN)]
    lines = [f"{asked}{report.status}, {printing.age(agent.probe_reported_at, now)}"]
    return "\n".join([*lines, *(f"{row.status}: {row.check}: {row.details}" for row in wrong)])


@app.command("list")
@with_plane
def list_agents(
    plane: Plane,
    *,
    role: Annotated[Role | None, typer.Option("--role", help="Only agents of this role.")] = None,
    health: Annotated[admin.AgentHealth | None, typer.Option("--health", help="Only agents that are so.")] = None,
    find: Annotated[
        str | None, typer.Option("--find", metavar="TEXT", help="Only agents with this in the name.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the agents by name."""
    page = plane.agents(
        role=None if role is None else role.value, health=None if health is None else health.value, search=find
    )
    if as_json:
        printing.json_of(page)
        return
    now = datetime.now(UTC)
    printing.table(
        ("AGENT", "ROLE", "HEALTH", "PATH", "SLOTS", "QUEUES", "HEARTBEAT", "WARN"),
        (
            (
                agent.name,
                agent.role.value,
                condition(agent),
                path_of(agent),
                f"{agent.slots_used}/{agent.slots}",
                printing.words(agent.queues),
                printing.age(agent.last_heartbeat_at, now),
                str(len(agent.warnings) or printing.NOTHING),
            )
            for agent in page.agents
        ),
        empty="No agent has enrolled. Start one with: isthmus agent",
    )


@app.command("show")
@with_plane
def show(plane: Plane, agent: Agent, *, as_json: Json = False) -> None:
    """Show one agent with its warnings."""
    found = plane.agent(agent)
    if as_json:
        printing.json_of(found)
    else:
        _show(found, plane.reason(found))


def _steer(plane: Plane, agent: str, verb: str, done: str, *, as_json: bool) -> None:
    after = plane.steer_agent(plane.agent(agent).agent_id, verb)
    if as_json:
        printing.json_of(after)
    else:
        printing.say(f"Agent {after.name} {done}")


@app.command("cordon")
@with_plane
def cordon(plane: Plane, agent: Agent, *, as_json: Json = False) -> None:
    """Give an agent no new work; what it runs goes on."""
    _steer(plane, agent, "cordon", "gets no new work.", as_json=as_json)


@app.command("uncordon")
@with_plane
def uncordon(plane: Plane, agent: Agent, *, as_json: Json = False) -> None:
    """Give an agent work again; takes a drain back as well."""
    _steer(plane, agent, "uncordon", "gets work again.", as_json=as_json)


@app.command("drain")
@with_plane
def drain(plane: Plane, agent: Agent, *, as_json: Json = False) -> None:
    """Let an agent finish what it runs and leave."""
    _steer(plane, agent, "drain", "finishes what it runs and leaves.", as_json=as_json)


@app.command("verify")
@with_plane
def verify(
    plane: Plane,
    agent: Agent,
    *,
    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", metavar="ADDRESS", help="The private endpoint's address, which the name must have."),
    ] = None,
    public_address: Annotated[
        list[str] | None,
        typer.Option(
            "--public-address",
            metavar="ADDRESS",
            help="The cluster's public address, to see whether it refuses; may repeat.",
        ),
    ] = None,
    connection: Annotated[
        str | None,
        typer.Option(
            "--connection",
            metavar="ENDPOINT",
            help="The endpoint whose connection it should come through, as the control plane lists it: the report then "
            "says whether that is pending, rejected or removed. Else the one that it came through last.",
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="The name must lead to a private address; --endpoint means that as well.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Show the rows as they come, until the report is finished.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Have an agent verify its way to the plane, from inside its network.

    With --wait, the exit code is 1 if something failed.
    """
    found = plane.agent(agent)
    order = _order(endpoint, public_address or [], private=private)
    if connection is not None:
        order = order.model_copy(update={"connection": _known(plane, connection)})
    after = plane.order_probes(found.agent_id, order)
    order_id = after.probes_order_id
    if wait and order_id is not None:
        done = verifications.follow(plane, order_id, _untold if as_json else printing.row)
        if as_json:
            printing.json_of(plane.agent(str(found.agent_id)))
        if done.status is ProbeStatus.FAIL:
            raise typer.Exit(Exit.FAILED)
    elif as_json:
        printing.json_of(after)
    else:
        printing.say(
            f"Agent {after.name} is asked with its next heartbeat; see: isthmus agents verification {order_id}"
        )


def _untold(_: ProbeRow) -> None:
    """JSON is printed in one piece, at the end."""


def _order(endpoint: str | None, public_addresses: list[str], *, private: bool) -> admin.ProbesRequest:
    try:
        return admin.ProbesRequest.model_validate(
            {
                "endpoint": endpoint,
                "public_addresses": public_addresses,
                "public_allowed": not private and endpoint is None,
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}",
            code="request_invalid",
            hint="See: isthmus agents verify --help",
        ) from None


def _known(plane: Plane, endpoint: str) -> KnownConnection:
    """A connection's state, of the link of the deployment's cluster."""
    found = links.find(plane.control, plane.home().cluster_id, endpoint)
    name = found.endpoint_id.rpartition("/")[2]
    return KnownConnection(endpoint=name, state=found.state, reason=found.reason)


@app.command("remove")
@with_plane
def remove(
    plane: Plane,
    agent: Agent,
    *,
    force: Annotated[bool, typer.Option("--force", help="Even while it is there: what it runs is lost.")] = False,
    as_json: Json = False,
) -> None:
    """Strike an agent off the roster; an agent that still runs enrols again unless its token is revoked."""
    found = plane.agent(agent)
    plane.remove_agent(found.agent_id, force=force)
    if as_json:
        printing.json_of(found)
    else:
        printing.say(f"Agent {found.name} is off the roster.")


@app.command("refused")
@with_plane
def refused(
    plane: Plane,
    *,
    limit: Annotated[int, typer.Option("--limit", min=1, max=500, help="How many, the last one first.")] = 50,
    as_json: Json = False,
) -> None:
    """List who was turned away at the deployment's door in the last day, and why."""
    page = plane.refused(limit)
    if as_json:
        printing.json_of(page)
        return
    now = datetime.now(UTC)
    printing.table(
        ("LAST", "TIMES", "FROM", "PATH", "TOKEN", "WHY"),
        (
            (
                printing.age(one.last_at, now),
                str(one.times),
                one.address or printing.NOTHING,
                path_of(one),
                printing.NOTHING if one.token_id is None else f"{one.token_name} ({one.token_id})",
                f"{one.code}: {one.detail}",
            )
            for one in page.callers
        ),
        empty="Nobody was turned away. An agent that cannot reach the deployment is not here either: run isthmus "
        "verify in its network.",
    )
    for code, hint in {one.code: one.hint for one in page.callers if one.is_recent}.items():
        printing.note(f"{code}: {hint}")


verifications.add(app)
