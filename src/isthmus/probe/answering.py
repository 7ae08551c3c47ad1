"""What a deployment's answer to the probe says about the address, the token, the clock and the agents. Pure.

The deployment looks at the source address before the token, and at the token before anything else; its refusals carry
codes (``wire.problems``), so each answer condemns one row and leaves those that rest on it unlooked at.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pydantic import ValidationError

from isthmus.probe.asking import Answer, RoadError, Stage
from isthmus.probe.judging import NOT_FOUND_BODY
from isthmus.probe.reports import Finding, Status
from isthmus.wire.names import PathKind
from isthmus.wire.probes import ProbedAgent, ProbeResponse
from isthmus.wire.problems import MEANINGS, Code, Problem

#: Days before a token's end from which a row warns.
TOKEN_WARNING_DAYS: Final = 14
#: A difference of clocks that people should know of. Leases and heartbeats go by the plane's clock alone.
CLOCK_WARNING_SECONDS: Final = 30.0

_TOKEN_CODES: Final = frozenset(
    {
        Code.TOKEN_MISSING,
        Code.TOKEN_INVALID,
        Code.TOKEN_EXPIRED,
        Code.TOKEN_REVOKED,
        Code.TOKEN_WRONG_DEPLOYMENT,
        Code.TOKEN_WRONG_LINK,
        Code.TOKEN_SCOPE,
    }
)


@dataclass(frozen=True, slots=True)
class PlaneFindings:
    """What the deployment says to the credential; None for what it did not come to.

    ``is_restricted`` is None where it did not say.
    """

    deployment: Finding
    source: Finding | None = None
    token: Finding | None = None
    clock: Finding | None = None
    heartbeat: Finding | None = None
    is_restricted: bool | None = None


def judge_probe(answer: Answer | RoadError, *, path: str, has_token: bool, now: datetime) -> PlaneFindings:
    """What the answer to ``GET probe`` below ``path`` says. ``now`` is this clock in the middle of the exchange."""
    if isinstance(answer, RoadError):
        return PlaneFindings(
            Finding(Status.FAIL, f"no answer: {answer.cause}", "Check that the deployment runs; see the ingress's log.")
        )
    if answer.status == 404 and answer.body.strip() == NOT_FOUND_BODY:
        return PlaneFindings(
            Finding(
                Status.FAIL,
                f"no deployment is served at {path or '/'}",
                "The URL ends in the deployment's id (isthmus deployment show has it); a new deployment has to be "
                "registered at the cluster, and one older than agents may be knows no probes.",
            )
        )
    refusal = _refusal(answer)
    if refusal is not None:
        return _judge_refusal(refusal, has_token=has_token)
    try:
        said = ProbeResponse.model_validate_json(answer.body if answer.status == 200 else b"")
    except ValidationError:
        return PlaneFindings(
            Finding(
                Status.FAIL,
                f"status {answer.status}, and not in the words of a deployment",
                "Something else than the deployment answers here: a proxy, or another server behind the ingress.",
            )
        )
    return _judge_response(said, now)


def judge_public(answer: Answer | RoadError) -> Finding:
    """Whether a road is served: FAIL if it is, PASS if it is refused."""
    if isinstance(answer, RoadError):
        if answer.stage is Stage.TCP:
            return Finding(Status.PASS, "it takes no connections")
        return Finding(
            Status.WARN,
            f"it cannot be told: {answer.stage} failed, {answer.cause}",
            "Check that the address is the cluster's own public one.",
        )
    refusal = _refusal(answer)
    if refusal is not None and refusal.code in (Code.SOURCE_NOT_ALLOWED, Code.TOKEN_WRONG_LINK):
        return Finding(Status.PASS, f"refused: {refusal.detail}")
    if answer.status == 404:
        return Finding(Status.PASS, "the deployment is not served there")
    if refusal is not None and refusal.code not in _TOKEN_CODES:
        return Finding(Status.WARN, f"it cannot be told: {refusal.title}", refusal.hint)
    return Finding(
        Status.FAIL,
        f"it lets this network in{_seen_as(answer)}",
        "The allow list has this address: narrow it (isthmus deployment restrict --to). If it has not, something on "
        "the way hides source addresses: the ingress must hand them on.",
    )


def _seen_as(answer: Answer) -> str:
    try:
        return f", seen as {ProbeResponse.model_validate_json(answer.body).source_address}"
    except ValidationError:
        return ""


def _refusal(answer: Answer) -> Problem | None:
    if answer.status < 400:
        return None
    try:
        return Problem.model_validate_json(answer.body)
    except ValidationError:
        return None


def _judge_refusal(refusal: Problem, *, has_token: bool) -> PlaneFindings:
    served = Finding(Status.PASS, "it answers")
    if refusal.code == Code.SOURCE_NOT_ALLOWED:
        seen = refusal.source_address or "an unknown address"
        return PlaneFindings(
            served,
            source=Finding(
                Status.FAIL,
                f"the deployment sees {seen} and does not let it in",
                "Where it is restricted, come through the link: the name must lead to the endpoint. Otherwise have the "
                f"address allowed: isthmus deployment allow add {seen}.",
                refusal.code,
            ),
        )
    if refusal.code in _TOKEN_CODES:
        admitted = Finding(Status.PASS, "this network's address is let in")
        if refusal.code == Code.TOKEN_MISSING and not has_token:
            token = Finding(Status.SKIP, "no agent token was given")
        else:
            hint = refusal.hint or MEANINGS[Code(refusal.code)].hint
            token = Finding(Status.FAIL, _sentence(refusal), hint, refusal.code)
        return PlaneFindings(served, source=admitted, token=token)
    return PlaneFindings(Finding(Status.FAIL, _sentence(refusal), refusal.hint))


def _sentence(refusal: Problem) -> str:
    same = refusal.detail in {"", refusal.title}
    return f"{refusal.title} ({refusal.code})" if same else f"{refusal.title}: {refusal.detail} ({refusal.code})"


def _judge_response(said: ProbeResponse, now: datetime) -> PlaneFindings:
    open_to = "restricted to its allow list" if said.restricted else "open to every address"
    return PlaneFindings(
        Finding(Status.PASS, f"{said.deployment_id}, Isthmus {said.plane_version}, {open_to}"),
        source=Finding(Status.PASS, f"seen as {said.source_address or 'no address'}, {_path(said.path, said.link_id)}"),
        token=_judge_token(said),
        clock=_judge_clock(said.now, now),
        heartbeat=_judge_agents(said),
        is_restricted=said.restricted,
    )


def _path(path: PathKind, link_id: int | None) -> str:
    if path is PathKind.PUBLIC:
        return "over the public path"
    return "through a link" if link_id is None else f"through link {link_id}"


def _judge_token(said: ProbeResponse) -> Finding:
    scope = [*said.token_roles, *said.token_queues, *(f"link {link}" for link in said.token_links)]
    shown = f"{said.token_name} ({said.token_id}), " + (f"for {', '.join(scope)}, " if scope else "")
    if said.token_expires_at is None:
        return Finding(Status.PASS, f"{shown}never expires")
    days = (said.token_expires_at - said.now).total_seconds() / 86400
    shown += f"expires in {days:.0f} {'day' if round(days) == 1 else 'days'}"
    if days < TOKEN_WARNING_DAYS:
        return Finding(Status.WARN, shown, f"Rotate it: isthmus token rotate {said.token_id}.")
    return Finding(Status.PASS, shown)


def _judge_clock(theirs: datetime, ours: datetime) -> Finding:
    ahead = (ours - theirs).total_seconds()
    if abs(ahead) < CLOCK_WARNING_SECONDS:
        return Finding(Status.PASS, f"this clock is {abs(ahead):.0f} s off the deployment's")
    return Finding(
        Status.WARN,
        f"this clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the deployment's",
        "Run an NTP client: tokens and certificates look older or younger than they are, and logs do not line up.",
    )


def _judge_agents(said: ProbeResponse) -> Finding:
    healthy = [agent for agent in said.agents if agent.healthy]
    if healthy:
        shown = ", ".join(_agent(agent) for agent in healthy[:3])
        more = f" and {len(healthy) - 3} more" if len(healthy) > 3 else ""
        return Finding(Status.PASS, f"{shown}{more}")
    if not said.agents:
        return Finding(Status.WARN, "no agent has enrolled with this token yet", "Start one: isthmus agent.")
    last = said.agents[0]
    said_last = "left" if last.left else "stopped: its last heartbeat was"
    return Finding(
        Status.FAIL,
        f"agent {last.name} {said_last} {_ago(last.heartbeat_seconds_ago)}, and no other is healthy",
        "Start it again, and look at its log and /healthz: it says there why the deployment does not hear it.",
    )


def _agent(agent: ProbedAgent) -> str:
    return f"{agent.name} {_ago(agent.heartbeat_seconds_ago)} {_path(agent.path, agent.link_id)}"


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    return f"{seconds:.0f} s ago" if seconds < 600 else f"{seconds / 60:.0f} min ago"
