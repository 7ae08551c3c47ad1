"""A deployment's Remote Agents: who is healthy and who is not and why, one agent, and how to register another."""

from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from isthmus import __version__
from isthmus.control.api.refusals import field
from isthmus.control.api.routes import ProblemError
from isthmus.control.operating import OperatedDeployment
from isthmus.control.overviews import SeenAgent
from isthmus.control.web.pages.deployments import BASE, asked, operated_by
from isthmus.control.web.visits import Act, Form, Moved, Notice, Page, View, Visit, address
from isthmus.wire import admin
from isthmus.wire.admin import AgentHealth
from isthmus.wire.names import Role

_PAGE: Final = 50
_WORKLOADS: Final = 10

_SAID: Final = {
    "cordon": "gets no new work. What it runs goes on.",
    "uncordon": "gets work again.",
    "drain": "finishes what it runs, and leaves.",
}


async def agents(visit: Visit) -> View:
    """The agents, those that are not healthy first, then by name."""
    wanted = {name: visit.query(name) for name in ("health", "role", "name")}
    _check(wanted)

    async def ask(operated: OperatedDeployment) -> dict[str, Any]:
        await operated.show()  # says why it cannot be asked, where a look would only show what was seen last
        overview = await visit.core.operating.overview(visit.part("cluster_id"))
        own = [one for one in overview.agents if one.sight.deployment.deployment_id == visit.part("deployment_id")]
        shown = sorted((one for one in own if _is_wanted(one, wanted)), key=_urgency)
        start = _start(visit.query("start"))
        base = ("clusters", visit.part("cluster_id"), "deployments", visit.part("deployment_id"), "agents")
        return {
            "agents": shown[start : start + _PAGE],
            "count": len(shown),
            "all": len(own),
            "unhealthy": sum(one.agent.health is AgentHealth.UNHEALTHY for one in own),
            "wanted": wanted,
            "start": start,
            "next": address(*base, **wanted, start=start + _PAGE) if len(shown) > start + _PAGE else None,
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
        overview = await visit.core.operating.overview(visit.part("cluster_id"))
        seen = next((one for one in overview.agents if one.agent.agent_id == agent_id), None)
        work = await operated.workloads(agent_id=agent_id, limit=_WORKLOADS)
        return {
            "agent": found,
            "seen": seen,
            "workloads": work.workloads,
            "skewed": _skewed,
            "plane_version": __version__,
            "now": datetime.now(UTC),
        }

    return await asked(visit, "agent", "Agent", ask, ("deployments/agent_facts", "deployments/agent_report"))


async def register(visit: Visit) -> View:
    """How to start another agent: the command and its files, filled in."""
    wanted = {name: visit.query(name) for name in ("name", "role", "queues", "slots")}
    role = wanted["role"] or Role.WORKER.value
    if role not in list(Role):
        raise ProblemError(field("role", f"is none of {', '.join(Role)}"))

    async def ask(operated: OperatedDeployment) -> dict[str, Any]:
        return {"wanted": {**wanted, "role": role}, "roles": [one.value for one in Role]}

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
    found = await operated.order_probes(visit.actor, _which(visit, form), body)
    return Moved(visit.here, Notice(f"{found.name} is asked to verify its way. Its report comes with a heartbeat."))


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


def _is_wanted(one: SeenAgent, wanted: dict[str, str | None]) -> bool:
    return (
        wanted["health"] in (None, one.agent.health.value)
        and wanted["role"] in (None, one.agent.role.value)
        and (wanted["name"] or "").lower() in one.agent.name.lower()
    )


def _urgency(one: SeenAgent) -> tuple[int, str]:
    order = (AgentHealth.UNHEALTHY, AgentHealth.HEALTHY, AgentHealth.LEFT)
    return order.index(one.agent.health), one.agent.name


def _skewed(one: admin.AgentView) -> bool:
    """Whether an agent is of another minor version than the plane."""
    theirs = one.versions.get("isthmus")
    return theirs is not None and theirs.split(".")[:2] != __version__.split(".")[:2]


def _start(text: str | None) -> int:
    if text is None:
        return 0
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ProblemError(field("start", "is not a number"))
    return int(text)


_ACTS: Final = {verb: _steering(verb) for verb in _SAID} | {"remove": remove, "verify": verify}

PAGES: Final = (
    Page(f"{BASE}/agents", agents, _ACTS),
    Page(f"{BASE}/agents/register", register),
    Page(f"{BASE}/agents/{{agent_id}}", agent, _ACTS),
)
