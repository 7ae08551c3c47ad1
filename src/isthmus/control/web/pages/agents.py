"""A deployment's Remote Agents: who is healthy and who is not and why, one agent, and how to register another."""

from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from isthmus import __version__
from isthmus.control.api.refusals import field
from isthmus.control.api.routes import ProblemError
from isthmus.control.operating import OperatedDeployment
from isthmus.control.web.pages import verifying
from isthmus.control.web.pages.deployments import BASE, asked, operated_by
from isthmus.control.web.visits import Act, Form, Moved, Notice, Page, View, Visit, address, number
from isthmus.wire import admin
from isthmus.wire.admin import AgentHealth, AgentOrder
from isthmus.wire.names import Role

_PAGE: Final = 50
#: Where no deployment has an agent any more, and its admin API still answers.
_FURTHEST: Final = 1_000_000
_WORKLOADS: Final = 10
#: Of the log tail so many lines are on the page; the command prints all.
_LOG_LINES: Final = 200

_SAID: Final = {
    "cordon": "gets no new work. What it runs goes on.",
    "uncordon": "gets work again.",
    "drain": "finishes what it runs, and leaves.",
}


async def agents(visit: Visit) -> View:
    """The agents, those that are not healthy first, then by name."""
    wanted = {name: visit.query(name) for name in ("health", "role", "name")}
    _check(wanted)

    start = min(number(visit, "start"), _FURTHEST)

    async def ask(operated: OperatedDeployment) -> dict[str, Any]:
        page = await operated.agents(
            order=AgentOrder.URGENCY,
            health=wanted["health"],
            role=wanted["role"],
            search=wanted["name"],
            start=start,
            limit=_PAGE,
        )
        sight, shown = await operated.explained(page.agents)
        base = ("clusters", visit.part("cluster_id"), "deployments", visit.part("deployment_id"), "agents")
        view, matching = sight.view, page.matching or 0
        known = 0 if view is None else view.agents_healthy + view.agents_unhealthy + view.agents_left
        return {
            "agents": shown,
            "count": matching,
            "all": max(known, matching) if any(wanted.values()) or start else matching,
            "unhealthy": 0 if view is None else view.agents_unhealthy,
            "wanted": wanted,
            "start": start,
            "next": None if page.next_start is None else address(*base, **wanted, start=page.next_start),
            "first": address(*base, **wanted),
            "plane_version": __version__,
            "skewed": _skewed,
        }

    return await asked(visit, "agents", "Remote agents", ask, ("deployments/agent_rows",))


async def agent(visit: Visit) -> View:
    """One agent: how it is, what it runs, what it warns of, its last verification."""
    agent_id = _id(visit.part("agent_id"))

    async def ask(operated: OperatedDeployment) -> dict[str, Any]:
        found = await operated.agent(agent_id)
        _, (seen,) = await operated.explained((found,))
        work = await operated.workloads(agent_id=agent_id, limit=_WORKLOADS)
        return {
            "agent": found,
            "seen": seen,
            "workloads": work.workloads,
            "log": await operated.log_tail(agent_id),
            "log_shown": _LOG_LINES,
            "skewed": _skewed,
            "plane_version": __version__,
            "now": datetime.now(UTC),
        }

    return await asked(
        visit, "agent", "Agent", ask, ("deployments/agent_facts", "deployments/agent_report", "deployments/agent_log")
    )


async def register(visit: Visit) -> View:
    """How to start another agent: the command and its files, filled in."""
    wanted = {name: visit.query(name) for name in ("name", "role", "queues", "slots")}
    asked_for = {one.strip() for one in (wanted["role"] or "").split(",") if one.strip()}
    if not asked_for <= set(Role):
        raise ProblemError(field("role", f"is none of {', '.join(Role)}, nor several of them"))
    # In the order of roles; nothing when it is all of them, which is what an agent does by itself.
    role = ",".join(one for one in Role if one in asked_for and len(asked_for) < len(Role))

    async def ask(operated: OperatedDeployment) -> dict[str, Any]:
        return {
            "wanted": {**wanted, "role": role},
            "roles": list(dict.fromkeys([*Role, role] if role else Role)),
            "parses": not role or Role.DAG_PROCESSOR in role.split(","),
            "plane_version": __version__,
        }

    return await asked(visit, "register", "Register a remote agent", ask)


def _steering(verb: str) -> Act:
    async def act(visit: Visit, form: Form) -> Moved:
        operated = await operated_by(visit)
        found = await operated.steer_agent(visit.actor, _which(visit, form), verb)
        return Moved(visit.here, Notice(f"{found.name} {_SAID[verb]}"))

    return act


async def remove(visit: Visit, form: Form) -> Moved:
    """Strike an agent off the roster."""
    operated = await operated_by(visit)
    await operated.remove_agent(visit.actor, _which(visit, form), force=form.get("force") == "true")
    base = address("clusters", visit.part("cluster_id"), "deployments", visit.part("deployment_id"), "agents")
    return Moved(base, Notice("The agent is off the roster."))


async def verify(visit: Visit, form: Form) -> Moved:
    """Have an agent look at its way to the plane."""
    operated = await operated_by(visit)
    ranges = (await operated.allow_list()).ranges
    body = admin.ProbesRequest(public_allowed=not ranges)
    return await verifying.ordered(visit, operated, _which(visit, form), body)


async def log(visit: Visit, form: Form) -> Moved:
    """Ask an agent for the end of its own log."""
    await (await operated_by(visit)).order_log_tail(visit.actor, _which(visit, form))
    return Moved(f"{visit.here}#log")


def _which(visit: Visit, form: Form) -> UUID:
    return _id(str(visit.request.path_params.get("agent_id") or form.get("agent_id", "")))


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise ProblemError(field("agent", "has no such id")) from None


def _check(wanted: dict[str, str | None]) -> None:
    if wanted["health"] not in (None, *AgentHealth):
        raise ProblemError(field("health", f"is none of {', '.join(AgentHealth)}"))
    if wanted["role"] not in (None, *Role):
        raise ProblemError(field("role", f"is none of {', '.join(Role)}"))


def _skewed(one: admin.AgentView) -> bool:
    """Whether an agent is of another minor version than the plane."""
    theirs = one.versions.get("isthmus")
    return theirs is not None and theirs.split(".")[:2] != __version__.split(".")[:2]


_ACTS: Final = {verb: _steering(verb) for verb in _SAID} | {"remove": remove, "verify": verify, "log": log}

PAGES: Final = (
    Page(f"{BASE}/agents", agents, _ACTS),
    Page(f"{BASE}/agents/register", register),
    Page(f"{BASE}/agents/{{agent_id}}", agent, _ACTS),
)
