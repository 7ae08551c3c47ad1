"""The one way from a task or a component to the plane: HTTP on a UNIX socket, and the agent's credential (ADR 0004).

A supervisor calls with the gateway token of its workload. The gateway swaps it for the task token, adds the agent's
token, id and the workload id, and forwards ``/execution/`` and nothing else. Renewed task tokens stay here; one that
has expired is minted anew and the call repeated. While the plane cannot be reached, a task's heartbeats are answered
here and everything else waits: a disconnected agent finishes what it started, for ``outage_seconds`` at most.

A component (the DAG processor, the triggerer) comes with the gateway token of its role. It reaches ``/execution/`` with
a component token, and the agent API's paths of its role; those calls are not held back: it tries again by itself.

What leaves of a task's calls is the privacy profile's to say (``privacy``): a call may be changed, or answered here.

What a task never gets through here: the agent token, its own task token, another workload's authority, any other path
of the plane, and the plane's words about the agent, which become "the plane is not reachable".
"""

import asyncio
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes
from uuid import UUID

from isthmus.agent import privacy
from isthmus.agent.client import Forwarded, PlaneClient
from isthmus.agent.config import Timing
from isthmus.agent.enrolling import Membership
from isthmus.agent.metrics import Metrics
from isthmus.agent.privacy import AnsweredHere, Refused
from isthmus.agent.road import Road
from isthmus.kit import calling, serving
from isthmus.kit.backoffs import Backoff
from isthmus.kit.clocks import Clock
from isthmus.kit.contents import Content
from isthmus.kit.errors import IsthmusError, TemporaryError
from isthmus.kit.serving import Answer, Request
from isthmus.wire import dags, paths, problems, workloads
from isthmus.wire.names import Privacy
from isthmus.wire.problems import Code

#: More than any deployment accepts (its default is 16 MiB): the plane's own limit decides, this one guards our disk.
MAX_BODY_BYTES: Final = 256 * 1024 * 1024

_PREFIX: Final = f"{paths.EXECUTION_PREFIX}/".encode()
_AGENT_PREFIX: Final = f"{paths.AGENT_PREFIX}/".encode()
_HEARTBEAT: Final = re.compile(rb"/execution/task-instances/[^/?]+/heartbeat")

#: What the Execution API has. TRACE above all would show a task the headers that we add.
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})

#: What a task may say in headers. Everything else is ours to say, or is about its connection to us.
_REQUEST_HEADERS: Final = frozenset(
    {
        b"accept",
        b"accept-encoding",
        b"airflow-api-version",
        b"baggage",
        b"content-encoding",
        b"content-type",
        b"correlation-id",
        b"traceparent",
        b"tracestate",
        b"user-agent",
    }
)
#: What a component says of its body to the agent API.
_RELAYED_HEADERS: Final = frozenset({b"content-encoding", b"content-type"})
#: What the plane says to us and not to the task, or is about our connection to it (RFC 9110, 7.6.1).
_ANSWER_HEADERS_DROPPED: Final = frozenset(
    {
        b"connection",
        b"date",
        b"keep-alive",
        b"proxy-authenticate",
        b"server",
        b"set-cookie",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        paths.REFRESHED_TOKEN_HEADER.lower().encode(),
    }
)
_REFRESHED: Final = paths.REFRESHED_TOKEN_HEADER.lower().encode()


@dataclass(slots=True)
class Pass:
    """What one running workload, or a component, may do here."""

    #: None for a component.
    workload_id: UUID | None
    fence: int
    task_token: str = field(repr=False)
    #: Where requests may go to, as the beginning of their path.
    prefixes: tuple[bytes, ...] = (_PREFIX,)
    #: One re-minting at a time.
    minting: asyncio.Lock = field(default_factory=asyncio.Lock)


class Gateway:
    """The listener for supervisors, and the passes of what runs."""

    def __init__(
        self,
        timing: Timing,
        client: PlaneClient,
        membership: Membership,
        *,
        road: Road,
        outage_seconds: float,
        metrics: Metrics,
        clock: Clock,
        spool: Path | None = None,
        references: Sequence[str] = (),
    ) -> None:
        """``references`` are the beginnings of what counts as a reference to a value (``privacy``)."""
        self._references = references
        self._timing = timing
        self._client = client
        self._membership = membership
        self._road = road
        self._outage_seconds = outage_seconds
        self._metrics = metrics
        self._clock = clock
        self._passes: dict[bytes, Pass] = {}
        self._unserved_since: float | None = None
        # Our supervisors may be silent for as long as their task runs.
        self.server = serving.Server(
            self.answer, serving.ServingConfig(max_body_bytes=MAX_BODY_BYTES, idle_seconds=None, spool=spool)
        )

    def admit(self, lease: workloads.LeasedWorkload) -> str:
        """A gateway token for a workload; good until ``dismiss``."""
        token = secrets.token_urlsafe(32)
        self._passes[token.encode()] = Pass(lease.workload_id, lease.fence, lease.task_token)
        return token

    def admit_component(self, prefixes: Iterable[str]) -> str:
        """A gateway token for a component that may call ``/execution/`` and what begins with ``prefixes``."""
        token = secrets.token_urlsafe(32)
        own = tuple(prefix.encode() for prefix in prefixes)
        self._passes[token.encode()] = Pass(None, 0, "", (_PREFIX, *own))
        return token

    def dismiss(self, token: str) -> None:
        """The workload has ended: its token opens nothing any more."""
        self._passes.pop(token.encode(), None)

    async def answer(self, request: Request) -> Answer:
        """Answer one call."""
        if request.method not in _METHODS:
            self._metrics.gateway_calls.labels("forbidden").inc()
            return refuse(Code.METHOD_NOT_ALLOWED)
        scheme, _, token = (request.header(b"authorization") or b"").partition(b" ")
        granted = self._passes.get(token.strip()) if scheme.lower() == b"bearer" else None
        if not is_forwardable(request.target, (_PREFIX,) if granted is None else granted.prefixes):
            self._metrics.gateway_calls.labels("forbidden").inc()
            return Answer(404, ((b"content-type", b"text/plain; charset=utf-8"),), paths.NOT_FOUND_TEXT.encode())
        if granted is None:
            self._metrics.gateway_calls.labels("unknown").inc()
            return refuse(Code.GATEWAY_TOKEN_UNKNOWN)
        if request.target.startswith(_AGENT_PREFIX):
            return await self._relay(request)
        shown = self._shown(request)
        return shown if isinstance(shown, Answer) else await self._serve(shown, granted)

    def _shown(self, request: Request) -> Request | Answer:
        """The call as it may leave under the privacy profile, or its answer when it may not."""
        profile = self._membership.privacy
        if profile is Privacy.OPEN:
            return request
        path = request.target.partition(b"?")[0].decode("latin-1")
        body = None
        if privacy.needs_body(profile, request.method, path):
            if request.content.size > privacy.MAX_READ_BYTES:
                return self._kept_here(Refused("The body is too large to be looked at."))
            body = b"".join(request.content.chunks())
        if (request.header(b"content-encoding") or b"identity").lower() != b"identity":
            return self._kept_here(Refused("The body is compressed."))
        decision = privacy.decide(profile, request.method, path, body, self._references)
        if not isinstance(decision, privacy.Forwarded):
            return self._kept_here(decision)
        content = request.content if decision.body is None else Content(decision.body)
        return replace(request, headers=privacy.headers_kept(profile, request.headers), content=content)

    def _kept_here(self, decision: AnsweredHere | Refused) -> Answer:
        if isinstance(decision, AnsweredHere):
            self._metrics.gateway_calls.labels("answered_here").inc()
            return Answer(decision.status, ((b"content-type", b"application/json"),), b"{}" * (decision.status != 204))
        self._metrics.gateway_calls.labels("withheld").inc()
        return refuse(Code.PRIVACY_REFUSED, decision.detail)

    async def _relay(self, request: Request) -> Answer:
        """A component's call of the agent API: one try."""
        if request.method != "POST":
            return refuse(Code.METHOD_NOT_ALLOWED)
        headers = [header for header in request.headers if header[0] in _RELAYED_HEADERS]
        try:
            relayed = await self._client.relay(
                request.target, headers, request.content, answer_seconds=self._timing.task_call
            )
        except IsthmusError as error:
            self._metrics.gateway_calls.labels("given_up").inc()
            return _as_problem(problems.problem(Code.PLANE_UNREACHABLE, str(error)))
        if relayed.status >= 400 and f'"{Code.AGENT_UNKNOWN}"'.encode() in (relayed.body or b""):
            self._membership.forgotten()
        if relayed.body is not None:
            path = request.target.partition(b"?")[0].decode("latin-1")
            relayed = replace(relayed, body=privacy.answer_shown(self._membership.privacy, path, relayed.body))
        self._metrics.gateway_calls.labels("forwarded").inc()
        return _passed_on(request, relayed)

    async def _serve(self, request: Request, granted: Pass) -> Answer:
        """Forward until the plane answers, or the outage has lasted too long."""
        heartbeat = request.method == "PUT" and _HEARTBEAT.fullmatch(request.target) is not None
        began = self._clock.monotonic()
        backoff: Backoff | None = None
        while True:
            # A heartbeat must not wait: the supervisor does nothing else meanwhile. The agent's own calls find out
            # when the road is open again.
            if not (heartbeat and not self._road.is_open):
                try:
                    forwarded = await self._exchange(request, granted, heartbeat=heartbeat)
                except IsthmusError as error:
                    if self._unserved_since is None:
                        self._unserved_since = self._clock.monotonic()
                    if self._client.reread_token(error):
                        continue
                else:
                    self._unserved_since = None
                    self._metrics.gateway_calls.labels("forwarded").inc()
                    return _passed_on(request, forwarded)
            waited = self._clock.monotonic() - began
            if heartbeat and self._outage_lasts() < self._outage_seconds:
                self._metrics.gateway_calls.labels("answered_here").inc()
                return Answer(204)
            if heartbeat or waited >= self._outage_seconds:
                self._metrics.gateway_calls.labels("given_up").inc()
                return refuse(Code.PLANE_UNREACHABLE)
            if backoff is None:
                backoff = Backoff(self._timing.outage, self._clock)
            wait = min(backoff.failed(), self._outage_seconds - waited)
            if self._road.is_open:
                # It is this call that fails, not the road.
                await self._clock.sleep(wait)
            else:
                await self._road.wait_open(wait)

    def _outage_lasts(self) -> float:
        """Seconds since the plane last served a task, as far as we know that it does not."""
        now = self._clock.monotonic()
        return max(now - since for since in (self._road.closed_since, self._unserved_since, now) if since is not None)

    async def _exchange(self, request: Request, granted: Pass, *, heartbeat: bool) -> Forwarded:
        """One call to the plane, and another one with a new task token if the plane does not take this one."""
        if granted.workload_id is None and not granted.task_token:
            await self._mint(granted, "")
        used = granted.task_token
        forwarded = await self._forward(request, granted, heartbeat=heartbeat)
        if forwarded.token_refused and await self._mint(granted, used):
            forwarded = await self._forward(request, granted, heartbeat=heartbeat)
        for name, value in forwarded.headers:
            if name == _REFRESHED:
                granted.task_token = value.decode("latin-1")
        return forwarded

    async def _forward(self, request: Request, granted: Pass, *, heartbeat: bool) -> Forwarded:
        return await self._client.forward(
            request.method,
            request.target,
            [header for header in request.headers if header[0] in _REQUEST_HEADERS],
            request.content,
            task_token=granted.task_token,
            agent_id=self._membership.agent_id,
            workload_id=granted.workload_id,
            answer_seconds=self._timing.task_heartbeat if heartbeat else self._timing.task_call,
        )

    async def _mint(self, granted: Pass, used: str) -> bool:
        """Have a new task token; False when the plane refuses one, and its first answer stands.

        Raises TemporaryError when the plane cannot be asked.
        """
        async with granted.minting:
            if granted.task_token != used:
                return True  # somebody was quicker
            try:
                granted.task_token = await self._minted(granted)
            except TemporaryError:
                raise
            except IsthmusError:
                return False
            self._metrics.task_tokens_minted.inc()
            return True

    async def _minted(self, granted: Pass) -> str:
        agent_id, instance_id = self._membership.agent_id, self._membership.instance_id
        if granted.workload_id is None:
            request = dags.ComponentTokenRequest(agent_id=agent_id, instance_id=instance_id)
            return (await self._client.component_token(request)).token
        again = workloads.TaskTokenRequest(agent_id=agent_id, instance_id=instance_id, fence=granted.fence)
        return (await self._client.mint(granted.workload_id, again)).task_token


def is_forwardable(target: bytes, prefixes: tuple[bytes, ...] = (_PREFIX,)) -> bool:
    """Whether a raw request target stays below one of ``prefixes`` whoever reads it, however often they decode it."""
    path = target.partition(b"?")[0]
    if not path.startswith(prefixes) or b"#" in target:
        return False
    for _ in range(3):
        if b"\\" in path or b"\0" in path or any(_is_dots(segment) for segment in path.split(b"/")):
            return False
        path = unquote_to_bytes(path)
    return True


def _is_dots(segment: bytes) -> bool:
    """Whether somebody may take a path segment for a step up or for nothing, path parameters (``..;a``) included."""
    return segment.partition(b";")[0] in {b".", b".."}


def refuse(code: Code, detail: str = "") -> Answer:
    """A problem of the gateway's own, in the form that Airflow's SDK reads."""
    problem = problems.problem(code, detail)
    body = problems.execution_problem(problem).model_dump_json(exclude_none=True).encode()
    return Answer(problem.status, ((b"content-type", b"application/json"),), body)


def _as_problem(problem: problems.Problem) -> Answer:
    """A problem in the agent API's own form."""
    kind = problems.CONTENT_TYPE.encode()
    return Answer(problem.status, ((b"content-type", kind),), problem.model_dump_json(exclude_none=True).encode())


def _passed_on(request: Request, forwarded: Forwarded) -> Answer:
    """The plane's answer without what is not the task's."""
    headers = tuple(_kept(forwarded.headers, whole=forwarded.body is not None and request.method != "HEAD"))
    return Answer(forwarded.status, headers, forwarded.reply if forwarded.body is None else forwarded.body)


def _kept(headers: calling.Headers, *, whole: bool) -> Iterable[tuple[bytes, bytes]]:
    # A header that the plane names in "connection" is about that connection too.
    named = {part.strip().lower() for name, value in headers if name == b"connection" for part in value.split(b",")}
    for name, value in headers:
        if name in _ANSWER_HEADERS_DROPPED or name in named or name.startswith(b"isthmus-"):
            continue
        if whole and name == b"content-length":
            continue
        yield name, value
