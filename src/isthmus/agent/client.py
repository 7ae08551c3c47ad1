"""The plane, as the agent calls it: typed requests and answers, and every way to fail as one of our errors.

Neighbours: ``kit.calling`` moves the bytes, ``wire`` says what they mean, ``road`` and the health list hear how it
went.

What comes back is judged in this order. A problem of the plane is a ``RefusedError`` with the problem's code, or a
``TemporaryError`` where the plane says that trying again helps. The plane's plain ``404 page not found`` means that the
URL names no deployment. Anything else that is not what was asked for was not said by the plane, but by a proxy, a
captive portal or another program on its port: ``UnreachableError`` with the evidence in its hint.

The agent token goes out in a header and comes back nowhere: no error text is made from what we sent.
"""

import asyncio
import json
import os
import re
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeVar
from uuid import UUID

from pydantic import BaseModel, ValidationError

from isthmus import __version__
from isthmus.agent import conditions
from isthmus.agent.config import OFF, AgentConfig, Timing
from isthmus.agent.credentials import Credential
from isthmus.agent.road import Road
from isthmus.kit import calling
from isthmus.kit.clocks import Clock
from isthmus.kit.contents import Content
from isthmus.kit.errors import ConfigError, IsthmusError, RefusedError, TemporaryError, UnreachableError
from isthmus.kit.health import Health
from isthmus.wire import agents, dags, paths, problems, workloads
from isthmus.wire import logs as task_logs
from isthmus.wire.problems import Code

Body = TypeVar("Body", bound=BaseModel)
Headers = tuple[tuple[bytes, bytes], ...]

#: An answer of the agent API. A claim brings at most 1,024 workloads of about 2 KB.
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
#: An answer to a task that is read whole before it is passed on; a longer one is passed on as it comes.
WHOLE_BYTES: Final = 256 * 1024

#: Not one of the plane's: nothing is served at the URL.
DEPLOYMENT_NOT_FOUND: Final = "deployment_not_found"

#: What the plane says about the agent's token; a new one in the token file may help.
TOKEN_CODES: Final = frozenset(
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
#: What the plane says about the agent. On a task's call they are not the task's business.
AGENT_CODES: Final = TOKEN_CODES | {
    Code.SOURCE_NOT_ALLOWED,
    Code.ROLE_NOT_USED,
    Code.AGENT_UNKNOWN,
    Code.AGENT_REPLACED,
    Code.AGENT_NAME_TAKEN,
    Code.SDK_TOO_NEW,
    Code.AGENT_TOO_OLD,
}
#: Of these, what is about the agent where a task or a component calls. TOKEN_SCOPE is about the call there: a component
#: has no business with it.
_CALLERS_CODES: Final = AGENT_CODES - {Code.TOKEN_SCOPE}
#: What the plane says when it cannot answer anybody.
OUTAGE_CODES: Final = frozenset({Code.DATABASE_UNAVAILABLE, Code.SHUTTING_DOWN})

#: Calls that are repeated until they succeed, so that a refusal of one lasts until then.
_LASTING: Final = frozenset({paths.ENROLMENTS, paths.HEARTBEATS, paths.CLAIMS, paths.STARTS, paths.SETTLEMENTS})

#: Failures before anything was asked (``kit.calling``).
_NO_CONNECTION: Final = frozenset({"name_unresolved", "connect_failed", "proxy_refused", "tls_untrusted", "tls_failed"})

_JSON: Final = b"application/json"
_PROBLEM: Final = problems.CONTENT_TYPE.encode()
_HTML_TAG: Final = re.compile(r"<(script|style).*?</\1\s*>|<[^>]*>", re.DOTALL | re.IGNORECASE)


def is_not_about_the_call(error: IsthmusError) -> bool:
    """Whether the same call can succeed later: an outage, or a refusal of the agent, its token or the URL."""
    return error.retryable or error.code in AGENT_CODES or error.code == DEPLOYMENT_NOT_FOUND


class TokenRefusedError(RefusedError):
    """The plane refuses the agent token that was sent; ``version`` is the credential's at that time."""

    def __init__(self, refusal: IsthmusError, version: int) -> None:
        super().__init__(refusal.summary, code=refusal.code, hint=refusal.hint)
        self.version = version


@dataclass(frozen=True, slots=True)
class Forwarded:
    """The plane's answer to a task's call. ``body`` is None when ``reply`` has to be read."""

    status: int
    headers: calling.Headers
    body: bytes | None
    reply: calling.Reply
    #: Airflow's own "no" to the task token, as opposed to the plane's policy.
    token_refused: bool = False


def judge(status: int, content_type: bytes, body: bytes, location: bytes = b"") -> IsthmusError | None:
    """What an answer says when it is not the plane's "yes"; None for a 2xx with a JSON body."""
    kind = content_type.partition(b";")[0].strip().lower()
    if kind in {_PROBLEM, _JSON} and status >= 400:
        try:
            return _error_of(problems.Problem.model_validate_json(body))
        except ValidationError:
            return foreign(status, content_type, body, location)
    if kind == _JSON and 200 <= status < 300:
        return None
    if status == 404 and body.strip() == paths.NOT_FOUND_TEXT.strip().encode():
        return RefusedError(
            "nothing is served at this URL",
            code=DEPLOYMENT_NOT_FOUND,
            hint="Check the URL: it ends in the deployment's id. It is shown by: isthmus deployment show.",
        )
    return foreign(status, content_type, body, location)


def _error_of(problem: problems.Problem) -> IsthmusError:
    summary = problem.title if problem.detail in {"", problem.title} else f"{problem.title}: {problem.detail}"
    if problem.source_address:
        summary += f" (the plane sees us as {problem.source_address})"
    kind = TemporaryError if problem.retryable else RefusedError
    return kind(summary, code=problem.code, hint=problem.hint)


def foreign(status: int, content_type: bytes, body: bytes, location: bytes = b"") -> UnreachableError:
    """The error for an answer that the plane did not give, with what it looks like."""
    text = " ".join(_HTML_TAG.sub(" ", body[:4096].decode("utf-8", "replace")).split())[:160]
    kind = content_type.partition(b";")[0].decode("latin-1") or "no content type"
    evidence = f"It redirects to {location.decode('latin-1')[:160]}." if location else f"It says: {text!r}."
    return UnreachableError(
        f"something that is not the plane answered with {status} {kind}",
        code="foreign_answer",
        hint=f"{evidence} Look for a proxy, a captive portal or another program at this address.",
    )


def find_proxy(config: AgentConfig, environment: Mapping[str, str]) -> calling.Proxy | None:
    """The proxy to use: the configured one, or the one that the environment names for this host."""
    if config.proxy == OFF:
        return None
    if config.proxy:
        return calling.parse_proxy(config.proxy)
    if not ({"https_proxy", "HTTPS_PROXY"} & environment.keys()):
        return None
    # Only here: it is a megabyte, and hardly anyone has a proxy in the environment.
    from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415

    origin = calling.parse_origin(config.url)
    url = getproxies().get("https")
    if not url or origin.scheme != "https" or proxy_bypass(origin.host):
        return None
    return calling.parse_proxy(url if "://" in url else f"http://{url}")


def make_tls(config: AgentConfig) -> ssl.SSLContext:
    """What is trusted, and who we say we are. Raises ConfigError."""
    try:
        context = ssl.create_default_context(cafile=config.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"ca_file {config.ca_file} cannot be used: {error}", code="ca_file_unusable", hint="It must be PEM."
        ) from None
    if config.client_certificate is not None:
        try:
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(config.client_certificate, config.client_key, password="")
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"client_certificate {config.client_certificate} cannot be used: {error}",
                code="client_certificate_unusable",
                hint="Certificate and key must be PEM, belong together, and be readable by the agent's user.",
            ) from None
    return context


class PlaneClient:
    """One deployment's Remote Execution API."""

    def __init__(
        self, config: AgentConfig, timing: Timing, *, credential: Credential, health: Health, road: Road, clock: Clock
    ) -> None:
        """Raises ConfigError for certificates that cannot be used."""
        origin = calling.parse_origin(config.url)
        self._timing = timing
        self._credential = credential
        self._health = health
        self._road = road
        path = config.url.partition("://")[2].partition("/")[2]
        self._prefix = f"/{path}".encode() if path else b""
        self._base = f"{origin.scheme}://{origin.authority}".encode()
        self._agent = b"isthmus-agent/" + __version__.encode()
        self._refused: set[str] = set()
        self._welcome = asyncio.Event()
        self._clock = clock
        self.tls = make_tls(config)
        self.caller = calling.Caller(origin, clock, tls=self.tls, proxy=find_proxy(config, os.environ))

    @property
    def token(self) -> str:
        """The agent token, for checks that make connections of their own."""
        return self._credential.token.decode("ascii")

    # --- the agent API ---

    async def enrol(self, request: agents.EnrolmentRequest) -> agents.EnrolmentResponse:
        """``POST enrolments``."""
        return await self._post(paths.ENROLMENTS, request, agents.EnrolmentResponse)

    async def heartbeat(self, request: agents.HeartbeatRequest) -> agents.HeartbeatResponse:
        """``POST heartbeats``."""
        return await self._post(paths.HEARTBEATS, request, agents.HeartbeatResponse)

    async def claim(self, request: workloads.ClaimRequest) -> workloads.ClaimResponse:
        """``POST claims``; takes as long as the request says that the plane may wait."""
        return await self._post(
            paths.CLAIMS,
            request,
            workloads.ClaimResponse,
            again=request.model_copy(update={"repeated": True}),
            answer_seconds=request.wait_seconds + self._timing.answer,
        )

    async def start(self, request: workloads.StartRequest) -> workloads.StartResponse:
        """``POST starts``."""
        return await self._post(paths.STARTS, request, workloads.StartResponse)

    async def settle(self, request: workloads.SettleRequest) -> workloads.SettleResponse:
        """``POST settlements``."""
        return await self._post(paths.SETTLEMENTS, request, workloads.SettleResponse)

    async def send_log(self, request: agents.LogTailRequest) -> agents.LogTailResponse:
        """``POST log-tails``."""
        return await self._post(paths.LOG_TAILS, request, agents.LogTailResponse)

    async def log_reads(self, request: task_logs.LogReadsRequest) -> task_logs.LogReadsResponse:
        """``POST log-reads``; takes as long as the request says that the plane may wait."""
        return await self._post(
            paths.LOG_READS,
            request,
            task_logs.LogReadsResponse,
            answer_seconds=request.wait_seconds + self._timing.answer,
        )

    async def send_log_chunk(
        self, request: task_logs.LogChunkRequest, *, answer_seconds: float
    ) -> task_logs.LogChunkResponse:
        """``POST log-reads/chunks``; takes as long as the plane has no room for the next."""
        return await self._post(
            paths.LOG_CHUNKS, request, task_logs.LogChunkResponse, answer_seconds=answer_seconds + self._timing.answer
        )

    async def ship_log(self, request: task_logs.LogShipmentRequest) -> task_logs.LogShipmentResponse:
        """``POST log-shipments``."""
        return await self._post(paths.LOG_SHIPMENTS, request, task_logs.LogShipmentResponse)

    async def mint(self, workload_id: UUID, request: workloads.TaskTokenRequest) -> workloads.TaskTokenResponse:
        """``POST workloads/{id}/token``."""
        path = paths.TASK_TOKENS.format(workload_id=workload_id)
        return await self._post(path, request, workloads.TaskTokenResponse)

    async def component_token(self, request: dags.ComponentTokenRequest) -> dags.ComponentTokenResponse:
        """``POST component-tokens``."""
        return await self._post(paths.COMPONENT_TOKENS, request, dags.ComponentTokenResponse)

    async def _post(
        self,
        path: str,
        request: BaseModel,
        kind: type[Body],
        *,
        again: BaseModel | None = None,
        answer_seconds: float | None = None,
    ) -> Body:
        """Send ``request``, or ``again`` when it has to be sent for the second time."""
        version = self._credential.version
        headers = (
            (b"authorization", b"Bearer " + self._credential.token),
            (b"content-type", _JSON),
            (b"accept", _JSON),
            (b"user-agent", self._agent),
        )
        try:
            reply = await self.caller.call(
                "POST",
                self._prefix + path.encode("ascii"),
                headers,
                request.model_dump_json().encode(),
                again=None if again is None else again.model_dump_json().encode(),
                answer_seconds=self._timing.answer if answer_seconds is None else answer_seconds,
            )
            body = await reply.read(MAX_ANSWER_BYTES)
            error = _judged(reply, body)
            if error is not None:
                raise error
            try:
                answer = kind.model_validate_json(body)
            except ValidationError:
                raise foreign(reply.status, _JSON, body) from None
        except TemporaryError as error:
            # The plane is there when it says that it does not know us.
            if error.code == Code.AGENT_UNKNOWN:
                self._road.opened()
            else:
                self._road.closed(error)
            raise
        except RefusedError as error:
            self._road.opened()
            self._welcome.clear()
            if path in _LASTING and is_not_about_the_call(error):
                self._refused.add(path)
                self._health.raise_(conditions.REFUSED, str(error), error.hint)
            if error.code in TOKEN_CODES:
                raise TokenRefusedError(error, version) from None
            raise
        self._road.opened()
        self._welcome.set()
        if path in self._refused:
            self._refused.remove(path)
            if not self._refused:
                self._health.clear(conditions.REFUSED)
        return answer

    def renew(self) -> None:
        """The plane's name leads elsewhere: leave all connections, and ask again now what was refused."""
        self.caller.renew()
        self._welcome.set()

    def reread_token(self, error: IsthmusError) -> bool:
        """After a refusal: whether there is another token by now than the one that was refused."""
        if not isinstance(error, TokenRefusedError):
            return False
        if error.version != self._credential.version:
            return True
        try:
            return self._credential.reread()
        except ConfigError:
            return False  # half-written: the next refusal looks again

    async def rest(self, error: IsthmusError, seconds: float) -> None:
        """Wait ``seconds`` after ``error``, or less if there is reason to think that it is over."""
        if self.reread_token(error):
            return
        if not error.retryable:
            await self._clock.wait(self._welcome, seconds)
        elif self._road.is_open:
            await self._clock.sleep(seconds)
        else:
            await self._road.wait_open(seconds)

    # --- the execution prefix ---

    async def forward(
        self,
        method: str,
        target: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        content: Content,
        *,
        task_token: str,
        agent_id: UUID,
        workload_id: UUID | None,
        answer_seconds: float,
    ) -> Forwarded:
        """A task's call, or a component's (no workload), under the agent's credential.

        ``target`` begins with ``/execution/``.

        Raises UnreachableError, and TemporaryError or RefusedError when the plane's answer is about the agent and not
        about the call.
        """
        version = self._credential.version
        sent = [
            *headers,
            (b"authorization", b"Bearer " + task_token.encode("latin-1")),
            (paths.AGENT_TOKEN_HEADER.lower().encode(), self._credential.token),
            (paths.AGENT_ID_HEADER.lower().encode(), str(agent_id).encode()),
        ]
        if workload_id is not None:
            sent.append((paths.WORKLOAD_ID_HEADER.lower().encode(), str(workload_id).encode()))
        try:
            reply = await self.caller.call(method, self._prefix + target, sent, content, answer_seconds=answer_seconds)
            forwarded = await self._receive(method, reply)
        except UnreachableError as error:
            # What one task's call brings about says nothing about the road; the agent's own calls will tell.
            if error.code in _NO_CONNECTION:
                self._road.closed(error)
            raise
        except TemporaryError as error:
            if error.code in OUTAGE_CODES:
                self._road.closed(error)
            raise
        except RefusedError as error:
            if error.code in TOKEN_CODES:
                raise TokenRefusedError(error, version) from None
            raise
        self._road.opened()
        token = self._credential.token
        if forwarded.status >= 400 and forwarded.body is not None and token in forwarded.body:
            # A plane that quotes requests in its errors must not hand the token to tasks.
            return replace(forwarded, body=forwarded.body.replace(token, b"***"))
        return forwarded

    # --- the agent API, for components ---

    async def relay(
        self, target: bytes, headers: Iterable[tuple[bytes, bytes]], content: Content, *, answer_seconds: float
    ) -> Forwarded:
        """A component's ``POST`` to the agent API: its body as it is, under the agent token.

        The plane's problems are answers here. Raises UnreachableError when it was not the plane that answered.
        """
        sent = (
            *headers,
            (b"authorization", b"Bearer " + self._credential.token),
            (b"accept", _JSON),
            (b"user-agent", self._agent),
        )
        try:
            reply = await self.caller.call("POST", self._prefix + target, sent, content, answer_seconds=answer_seconds)
            body = await reply.read(MAX_ANSWER_BYTES)
            error = _judged(reply, body)
            if isinstance(error, UnreachableError):
                raise error
        except UnreachableError as error:
            if error.code in _NO_CONNECTION:
                self._road.closed(error)
            raise
        if error is None or error.code not in OUTAGE_CODES:
            self._road.opened()
        return Forwarded(reply.status, reply.headers, body, reply)

    def _is_ours(self, location: bytes) -> bool:
        """Whether a redirection, if this is one, stays with the plane."""
        path_only = location[:1] == b"/" and location[:2] != b"//"
        return not location or path_only or location.startswith(self._base + b"/")

    async def _receive(self, method: str, reply: calling.Reply) -> Forwarded:
        status = reply.status
        if status < 400:
            location = reply.header(b"location") or b""
            bodiless = status in {204, 304} or method == "HEAD" or reply.header(b"content-length") == b"0"
            if (not bodiless and not _is_json(reply)) or not self._is_ours(location):
                body = await reply.read(MAX_ANSWER_BYTES)
                raise foreign(status, reply.header(b"content-type") or b"", body, location)
            if not reply.arrived and int(reply.header(b"content-length") or WHOLE_BYTES + 1) > WHOLE_BYTES:
                return Forwarded(status, reply.headers, None, reply)
            return Forwarded(status, reply.headers, await reply.read(MAX_ANSWER_BYTES), reply)
        body = await reply.read(MAX_ANSWER_BYTES)
        if not _is_json(reply):
            if status == 500:
                return Forwarded(status, reply.headers, body, reply)  # Starlette's own words for a bug
            error = _judged(reply, body)
            if error is not None and error.code == DEPLOYMENT_NOT_FOUND:
                # An ingress that is being changed says so for a moment; the agent's own calls will tell.
                raise TemporaryError(error.summary, code=error.code, hint=error.hint)
            raise error or foreign(status, b"", body)
        code = _code_of(body)
        if code in _CALLERS_CODES or code in OUTAGE_CODES:
            raise _judged_execution(body)
        return Forwarded(status, reply.headers, body, reply, token_refused=code is None and status in {401, 403})


def _is_json(reply: calling.Reply) -> bool:
    kind = (reply.header(b"content-type") or b"").partition(b";")[0].strip().lower()
    return kind in {_JSON, _PROBLEM}


def _judged(reply: calling.Reply, body: bytes) -> IsthmusError | None:
    return judge(reply.status, reply.header(b"content-type") or b"", body, reply.header(b"location") or b"")


def _code_of(body: bytes) -> str | None:
    """The code of a problem in an answer on the execution prefix; None for Airflow's own errors."""
    try:
        value = json.loads(body)
    except ValueError:
        return None
    code = value.get("code") if isinstance(value, dict) else None
    return code if isinstance(code, str) else None


def _judged_execution(body: bytes) -> IsthmusError:
    """The problem in ``body``, in either of its forms."""
    try:
        problem = problems.ExecutionProblem.model_validate_json(body)
    except ValidationError:
        error = judge(503, _PROBLEM, body)
        assert error is not None  # noqa: S101 - a 503 is never a "yes"
        return error
    return _error_of(
        problems.Problem(
            type=problem.type,
            title=problem.title,
            status=problem.status,
            detail=problem.detail.message,
            code=problem.code,
            hint=problem.hint,
            retryable=problem.retryable,
            source_address=problem.source_address,
        )
    )
