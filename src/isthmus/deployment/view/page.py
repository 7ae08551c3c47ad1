"""The page as HTML, of what was read. Pure; every value is escaped by the templates' autoescape."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import jinja2

from isthmus.deployment import ranges
from isthmus.deployment.errors import DatabaseError
from isthmus.deployment.ranges import Ranges
from isthmus.deployment.reading import AgentRow, Counts, TokenEnd
from isthmus.kit.errors import ConfigError
from isthmus.wire.admin import AgentHealth
from isthmus.wire.names import PathKind


@dataclass(frozen=True, slots=True)
class Seen:
    """A deployment as it was at ``at`` (the database's time): counts, and the agents from the place ``start`` on.

    ``tokens`` are the ends of these agents' tokens by id; ``allowed`` is the allow list; ``next_start`` is where the
    next page of agents begins, None on the last.
    """

    deployment_id: str
    control_url: str | None
    at: datetime
    counts: Counts
    agents: tuple[AgentRow, ...]
    tokens: Mapping[str, TokenEnd]
    allowed: Ranges
    start: int
    next_start: int | None


#: Said in place of the page to whom Airflow refuses it.
_REFUSALS: Final = {
    401: ("You are not signed in to Airflow, or your session has ended.", "Sign in to Airflow again, and come back."),
    403: (
        "You may not see Airflow's plugins, and this page is one.",
        "Ask an administrator of this Airflow for a role that may see them.",
    ),
}

_TEMPLATES: Final = jinja2.Environment(
    loader=jinja2.PackageLoader("isthmus.deployment.view"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def shown(seen: Seen, version: str) -> str:
    """The page; ``version`` is that of its style sheet and script."""
    return _TEMPLATES.get_template("agents.html").render(
        seen=seen,
        version=version,
        condition=condition,
        path=path,
        reason=lambda agent: reason(agent, seen),
        age=lambda at: age(at, seen.at),
    )


def failed(error: ConfigError | DatabaseError, version: str) -> str:
    """The page where nothing could be read: what is wrong and what to check."""
    if isinstance(error, ConfigError):
        return _failed(error.summary, error.hint, error.code, version)
    return _failed(
        f"the deployment's database does not answer ({error.summary})",
        "Is PostgreSQL running, and can Airflow's API server reach the database that [database] sql_alchemy_conn "
        "names? Agents finish what they run meanwhile. This page tries again by itself.",
        error.code,
        version,
    )


def refused(status: int, version: str) -> str:
    """The page for whom Airflow does not let in, or for an address that is none."""
    summary, hint = _REFUSALS.get(status, ("There is nothing at this address.", "Remote Agents is in the menu Browse."))
    return _failed(summary, hint, str(status), version)


def _failed(summary: str, hint: str, code: str, version: str) -> str:
    return _TEMPLATES.get_template("failed.html").render(summary=summary, hint=hint, code=code, version=version)


def condition(agent: AgentRow) -> str:
    """The agent's health in one word; what was asked of it comes first, as in ``isthmus agents list``."""
    if agent.health is AgentHealth.HEALTHY and agent.draining:
        return "draining"
    if agent.health is AgentHealth.HEALTHY and agent.cordoned:
        return "cordoned"
    if agent.health is AgentHealth.HEALTHY and agent.standby is not None and not agent.standby.active:
        return "standby"
    return agent.health.value


def path(agent: AgentRow) -> str:
    """``public``, or ``private`` with the link's id where it is known."""
    if agent.arrival.path is PathKind.PUBLIC:
        return "public"
    return "private" if agent.arrival.link_id is None else f"private, link {agent.arrival.link_id}"


def reason(agent: AgentRow, seen: Seen) -> str | None:
    """Why an agent is not healthy, as far as its deployment knows, and what to do; None if it is.

    The state of a private link is the control plane's to know, so an agent behind one is sent there.
    """
    if agent.health is AgentHealth.HEALTHY:
        return None
    heard = agent.last_heartbeat_at
    silence = "no heartbeat yet" if heard is None else f"no heartbeat for {age(heard, seen.at).removesuffix(' ago')}"
    if agent.health is AgentHealth.LEFT:
        return f"it has left; {silence}"
    token = seen.tokens.get(agent.token_id)
    address = agent.arrival.address
    if token is not None and token.revoked_at is not None and token.revoked_at <= seen.at:
        cause = "its token was revoked: give it a new one (isthmus token create)"
    elif token is not None and token.expires_at is not None and token.expires_at <= seen.at:
        cause = "its token has expired: give it a new one (isthmus token create)"
    elif address is not None and not ranges.admits(seen.allowed, address):
        cause = f"it came from {address}, which the allow list does not let in (isthmus deployment allow)"
    elif agent.arrival.path is PathKind.LINK:
        cause = "it came through a private link, whose state the control plane knows"
    else:
        cause = "is it running? Its log says why it is not heard; isthmus verify in its network looks at the way"
    return f"{silence}; {cause}"


def age(at: datetime | None, now: datetime) -> str:
    """How long ago, in the largest unit: ``34 s ago``."""
    if at is None:
        return "never"
    seconds = max(0, int((now - at).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} s ago"
