"""``isthmus agents``: what the plane knows of its agents, and what operators ask of them.

Agents are named by their name or their id. Cordon, drain and cancel are states that the plane keeps: an agent that
is away learns of them when it is back.
"""

import time
from datetime import UTC, datetime
from typing import Annotated, Final

import typer
from pydantic import ValidationError

from isthmus.cli import links, printing
from isthmus.cli.calling import Json, Plane, with_plane
from isthmus.cli.exits import Exit
from isthmus.kit.errors import ConfigError, TemporaryError
from isthmus.wire import admin
from isthmus.wire.control import AgentSight
from isthmus.wire.names import PathKind, Role
from isthmus.wire.probes import KnownConnection, ProbeStatus

#: A heartbeat until the agent hears of it, the checks with all their timeouts, a heartbeat back.
_WAIT_SECONDS: Final = 120.0
_LOOK_SECONDS: Final = 0.5

app = typer.Typer(add_completion=False, no_args_is_help=False, help="Agents: look at them, cordon, drain, remove.")

Agent = Annotated[str, typer.Argument(metavar="AGENT", help="The agent's name or id.")]


def condition(agent: admin.AgentView | AgentSight) -> str:
    """The agent's health in one word; what was asked of it comes first, because it explains the rest."""
    if agent.health is admin.AgentHealth.HEALTHY:
        if agent.draining:
            return "draining"
        if agent.cordoned:
            return "cordoned"
    return agent.health.value


def _show(agent: admin.AgentView) -> None:
    now = datetime.now(UTC)
    versions = printing.words(f"{name} {version}" for name, version in agent.versions.items() if version)
    printing.facts(
        (
            ("agent", agent.name),
            ("id", str(agent.agent_id)),
            ("role", agent.role),
            ("health", condition(agent)),
            ("phase", agent.phase),
            ("slots", f"{agent.slots_used} of {agent.slots} used"),
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


def path_of(seen: admin.AgentView | admin.AgentPlace | AgentSight) -> str:
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
    as_json: Json = False,
) -> None:
    """List the agents by name."""
    page = plane.agents(role=None if role is None else role.value)
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
        _show(found)


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
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the report, and show it.")] = False,
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
    if wait:
        after = _await_report(plane, after)
    if as_json:
        printing.json_of(after)
    elif wait and after.probe_report is not None:
        for row in after.probe_report.rows:
            printing.row(row)
    else:
        printing.say(f"Agent {after.name} is asked with its next heartbeat; see: isthmus agents show {after.name}")
    if wait and after.probe_report is not None and after.probe_report.status is ProbeStatus.FAIL:
        raise typer.Exit(Exit.FAILED)


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


def _await_report(plane: Plane, agent: admin.AgentView) -> admin.AgentView:
    """The agent once its report on this order is there. Raises TemporaryError after a while."""
    order_id = agent.probes_order_id
    end = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < end:
        time.sleep(_LOOK_SECONDS)
        agent = plane.agent(str(agent.agent_id))
        if agent.probe_report is not None and agent.probe_report.order_id == order_id:
            return agent
        if agent.probes_order_id != order_id:
            break  # somebody asked for another one, and ours will never come
    raise TemporaryError(
        f"agent {agent.name} has sent no report: it is {agent.health}",
        code="report_missing",
        hint="It is asked with its next heartbeat, and answers with the one after: see isthmus agents show. Run "
        "isthmus verify in its network if it cannot reach the plane.",
    )


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
