"""``isthmus agents``: what the plane knows of its agents, and what operators ask of them.

Agents are named by their name or their id. Cordon, drain and cancel are states that the plane keeps: an agent that
is away learns of them when it is back.
"""

from datetime import UTC, datetime
from typing import Annotated

import typer

from isthmus.cli import printing
from isthmus.cli.calling import Json, Plane, with_plane
from isthmus.wire import admin
from isthmus.wire.names import Role

app = typer.Typer(add_completion=False, no_args_is_help=False, help="Agents: look at them, cordon, drain, remove.")

Agent = Annotated[str, typer.Argument(metavar="AGENT", help="The agent's name or id.")]


def condition(agent: admin.AgentView) -> str:
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
            ("address", agent.address or printing.NOTHING),
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
        )
    )


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
        ("AGENT", "ROLE", "HEALTH", "SLOTS", "QUEUES", "HEARTBEAT", "WARNINGS"),
        (
            (
                agent.name,
                agent.role.value,
                condition(agent),
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
