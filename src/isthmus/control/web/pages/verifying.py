"""Verify: have an agent look at its way to the plane, see the rows as they come, and what was found before.

Each verification has an address of its own; a newcomer reads on top of it, in one sentence, what failed first and what
to do about it.
"""

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from isthmus.control import links
from isthmus.control.api.refusals import field
from isthmus.control.api.routes import ProblemError
from isthmus.control.links import Connection
from isthmus.control.operating import OperatedDeployment
from isthmus.control.overviews import SeenAgent
from isthmus.control.reasons import endpoint_of
from isthmus.control.web.pages.deployments import BASE, asked, operated_by
from isthmus.control.web.visits import Form, Moved, Page, View, Visit, address, body_of
from isthmus.wire import admin
from isthmus.wire.admin import AgentHealth
from isthmus.wire.names import ConnectionState
from isthmus.wire.probes import KnownConnection, ProbeRow, ProbeStatus

_PAGE: Final = 20
#: So many agents and connections are offered; others are reached from their own pages.
_OFFERED: Final = 200

#: What each check asks, for who sees it for the first time. The names are those of ``probe.reports.Check``.
QUESTIONS: Final = {
    "resolver": "Does the network have a DNS server that answers?",
    "name": "Does the cluster's name exist there?",
    "address": "Does the name lead where it should: to the endpoint's private address?",
    "proxy": "Is a proxy in the way?",
    "connection": "Has the cluster's operator approved the endpoint's connection?",
    "tcp": "Does that address take connections?",
    "tls": "Does the cluster prove who it is?",
    "ingress": "Is it the cluster that answers?",
    "deployment": "Does it know the deployment?",
    "source": "Is the network's address let in?",
    "token": "Is the agent's token good?",
    "clock": "Do both clocks agree?",
    "heartbeat": "Does the plane hear from the agent?",
    "keep_alive": "Are connections used often enough to stay open?",
    "public_path": "Is the public path shut, where it should be?",
}


async def verify(visit: Visit) -> View:
    """Choose an agent and what it should find; below, what was verified before."""
    agent_name, before = visit.query("name"), visit.query("before")

    async def ask(operated: OperatedDeployment) -> dict[str, Any]:
        page = await operated.verifications(agent=agent_name, before=before, limit=_PAGE)
        overview = await visit.core.operating.overview(visit.part("cluster_id"))
        own = [one for one in overview.agents if one.sight.deployment.deployment_id == visit.part("deployment_id")]
        own = [one for one in own if one.agent.health is not AgentHealth.LEFT]
        base = ("clusters", visit.part("cluster_id"), "deployments", visit.part("deployment_id"), "verify")
        chosen = visit.form.get("agent") or visit.query("agent")
        offered = _offered(own, chosen)
        sample = next((one for one in offered if str(one.agent.agent_id) == chosen), offered[0] if offered else None)
        return {
            "verifications": page.verifications,
            "agent_name": agent_name,
            "next": address(*base, name=agent_name, before=page.next_before) if page.next_before else None,
            "first": address(*base, name=agent_name) if before else None,
            "agents": offered,
            "sample": None if sample is None else sample.agent,
            "chosen": chosen,
            "connections": [_choice(one) for one in await _connections(visit)],
        }

    return await asked(visit, "verify", "Verify", ask, ("deployments/verifications",))


async def verification(visit: Visit) -> View:
    """One verification, with its rows as they come."""
    verification_id = _id("verification", visit.part("verification_id"))

    async def ask(operated: OperatedDeployment) -> dict[str, Any]:
        found = await operated.verification(verification_id)
        return {"found": found, "first_bad": _first_bad(found.rows), "questions": QUESTIONS}

    return await asked(visit, "verification", "Verification", ask, ("deployments/verification_rows",))


async def order(visit: Visit, form: Form) -> Moved:
    """Have the agent verify; the browser goes to where its rows will be."""
    operated = await operated_by(visit)
    endpoint = form.text("endpoint")
    is_private = form.get("private") == "true" or endpoint is not None
    body = body_of(
        admin.ProbesRequest,
        endpoint=endpoint,
        public_addresses=form.lines("public_addresses"),
        public_allowed=not is_private and not (await operated.allow_list()).ranges,
        connection=await _known(visit, form.text("connection")),
    )
    return await ordered(visit, operated, _id("agent", form.get("agent", "")), body)


async def ordered(visit: Visit, operated: OperatedDeployment, agent_id: UUID, body: admin.ProbesRequest) -> Moved:
    """Order it, and go to its page."""
    found = await operated.order_probes(visit.actor, agent_id, body)
    base = ("clusters", visit.part("cluster_id"), "deployments", visit.part("deployment_id"), "verify")
    return Moved(address(*base, str(found.probes_order_id)))


def _offered(own: Sequence[SeenAgent], chosen: str | None) -> list[SeenAgent]:
    """Healthy ones first, then by name; the chosen one in any case."""
    found = sorted(own, key=lambda one: (one.agent.health is not AgentHealth.HEALTHY, one.agent.name))
    more = [one for one in found[_OFFERED:] if str(one.agent.agent_id) == chosen]
    return found[:_OFFERED] + more


async def _connections(visit: Visit) -> list[Connection]:
    async with visit.core.database.begin() as database:
        known = await links.ever_known(database, visit.part("cluster_id"))
    return sorted(known, key=lambda one: one.is_gone)[:_OFFERED]


def _choice(connection: Connection) -> dict[str, str]:
    text = f"{endpoint_of(connection)}: {connection.state}"
    return {"id": connection.connection_id, "text": f"{text} ({connection.reason})" if connection.reason else text}


async def _known(visit: Visit, connection_id: str | None) -> KnownConnection | None:
    """The connection that was chosen. Raises ProblemError."""
    if connection_id is None:
        return None
    for one in await _connections(visit):
        if one.connection_id == connection_id:
            return KnownConnection(endpoint=endpoint_of(one), state=ConnectionState(one.state.value), reason=one.reason)
    raise ProblemError(field("connection", "is none of the cluster's link"))


def _first_bad(rows: Sequence[ProbeRow]) -> ProbeRow | None:
    """The row to begin with: the first that failed, or else the first warning."""
    for status in (ProbeStatus.FAIL, ProbeStatus.WARN):
        for row in rows:
            if row.status is status:
                return row
    return None


def _id(name: str, text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise ProblemError(field(name, "has no such id")) from None


PAGES: Final = (
    Page(f"{BASE}/verify", verify, {"verify": order}),
    Page(f"{BASE}/verify/{{verification_id}}", verification),
)
