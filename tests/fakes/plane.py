"""A deployment's Remote Execution API from memory, over real HTTP or HTTPS: leases, fences, and faults on demand.

It keeps the rules that the agent relies on (a repeated claim gets the same leases, a start needs a lease, a settlement
ends one) and nothing else. ``faults[path]`` holds what happens instead of the next answers there. It runs under uvicorn
in a thread and can be stopped and started again on the same port.
"""

import asyncio
import json
import socket
import ssl
import threading
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID, uuid4

import uvicorn

from isthmus.wire import agents, dags, paths, probes, problems, workloads
from isthmus.wire.names import Kind, PathKind, Role
from isthmus.wire.problems import Code

DEPLOYMENT = "dtest234"
TOKEN = f"isthmus_{DEPLOYMENT}_abcdefgh2345_{'s' * 43}"
JSON = "application/json"


@dataclass(frozen=True)
class Call:
    """One request as it arrived; ``at`` is ``time.monotonic()``."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float
    peer: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: bytes = b"{}"
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Lost:
    """Do what was asked, and break the connection off in the middle of the answer."""


@dataclass(frozen=True)
class Slow:
    """Answer after ``seconds``."""

    seconds: float


Fault = Answer | Lost | Slow


def refusal(code: Code, *, execution: bool = False) -> Answer:
    problem = problems.problem(code)
    if execution:
        return Answer(problem.status, problems.execution_problem(problem).model_dump_json().encode())
    return Answer(problem.status, problem.model_dump_json().encode(), problems.CONTENT_TYPE)


PORTAL = Answer(200, b"<html><body><h1>Welcome</h1>Accept the terms of Hotel Wifi</body></html>", "text/html")


@dataclass
class Lease:
    workload: workloads.LeasedWorkload
    claim_id: UUID
    started: bool = False


class FakePlane:
    """Start it with ``with``; look at its attributes from the test's thread."""

    def __init__(
        self,
        *,
        certificate: Path | None = None,
        key: Path | None = None,
        client_ca: Path | None = None,
        heartbeat_seconds: float = 0.2,
        claim_wait_seconds: float = 2.0,
        address: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.address = address
        self.heartbeat_seconds = heartbeat_seconds
        self.claim_wait_seconds = claim_wait_seconds
        self.tokens = {TOKEN}
        self.roles = set(Role)
        self.calls: list[Call] = []
        self.faults: dict[str, deque[Fault]] = defaultdict(deque)
        self.cordoned = False
        self.drain = False
        self.cancel: list[UUID] = []
        #: What the answers to heartbeats ask for, until its report is here.
        self.probes: probes.ProbeOrder | None = None
        self.reports: list[probes.ProbeReport] = []
        self.fetch_log: UUID | None = None
        self.log_tails: list[agents.LogTailRequest] = []
        self.lost: list[UUID] = []
        self.agents: dict[str, tuple[UUID, UUID]] = {}
        self.queue: deque[workloads.LeasedWorkload] = deque()
        self.leases: dict[UUID, Lease] = {}
        self.settled: dict[UUID, workloads.Settlement] = {}
        self.released: list[workloads.Settlement] = []
        self.verdicts: list[workloads.SettleVerdict] = []
        self.fences: dict[UUID, int] = defaultdict(int)
        self.minted: list[str] = []
        self.task_tokens: dict[str, UUID] = {}
        self.execution: Callable[[Call], Answer] = lambda call: Answer(body=json.dumps({"path": call.path}).encode())
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self._queued: asyncio.Event | None = None
        self._open_claim: object = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self.port = port

    # --- for tests ---

    @property
    def url(self) -> str:
        scheme = "https" if self._certificate else "http"
        return f"{scheme}://{'localhost' if self._certificate else '127.0.0.1'}:{self.port}/{DEPLOYMENT}"

    def put(self, payload: dict[str, Any] | None = None, *, name: str = "dag.task") -> UUID:
        """Queue a workload; its id."""
        workload_id = uuid4()
        self.fences[workload_id] += 1
        token = f"task-token-{workload_id}-1"
        self.task_tokens[token] = workload_id
        lease = workloads.LeasedWorkload(
            workload_id=workload_id,
            fence=self.fences[workload_id],
            kind=Kind.TASK,
            queue="default",
            display_name=name,
            payload=payload or {},
            task_token=token,
            lease_seconds=30.0,
        )
        self.queue.append(lease)
        if self._loop is not None and self._queued is not None:
            self._loop.call_soon_threadsafe(self._queued.set)
        return workload_id

    def calls_to(self, path: str) -> list[Call]:
        return [call for call in list(self.calls) if call.path == path]

    def wait_for(self, condition: Callable[[], Any], seconds: float = 40.0) -> Any:
        """Return what ``condition`` returns once it is true."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s; calls: {[call.path for call in self.calls[-20:]]}")
            time.sleep(0.01)
        return found

    def start(self) -> Self:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.address, self.port))
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self,
            log_level="critical",
            access_log=False,
            lifespan="off",
            http="httptools",
            timeout_keep_alive=60,
            timeout_graceful_shutdown=1,
            ssl_certfile=self._certificate,
            ssl_keyfile=self._key,
            ssl_ca_certs=str(self._client_ca) if self._client_ca else None,
            ssl_cert_reqs=ssl.CERT_REQUIRED if self._client_ca else ssl.CERT_NONE,
        )
        self._server = uvicorn.Server(config)
        ready = threading.Event()

        async def serve() -> None:
            assert self._server is not None
            self._loop = asyncio.get_running_loop()
            self._queued = asyncio.Event()
            if self.queue:
                self._queued.set()
            self._loop.call_soon(ready.set)
            await self._server.serve(sockets=[listener])

        self._thread = threading.Thread(target=lambda: asyncio.run(serve()), name="fake plane", daemon=True)
        self._thread.start()
        ready.wait(5)
        self.wait_for(lambda: self._server is not None and self._server.started)
        return self

    def stop(self) -> None:
        """Be gone: connections are refused."""
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = self._server.force_exit = True
        if self._loop is not None and self._queued is not None:
            self._loop.call_soon_threadsafe(self._queued.set)
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._server = self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- the application ---

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            part = await receive()
            if part["type"] == "http.disconnect":
                return
            body += part.get("body", b"")
            if not part.get("more_body"):
                break
        raw = scope["raw_path"].decode("latin-1")
        path = raw.removeprefix(f"/{DEPLOYMENT}")
        if scope["query_string"]:
            path += "?" + scope["query_string"].decode()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        call = Call(scope["method"], path, headers, body, time.monotonic(), scope["client"][0])
        self.calls.append(call)
        faults = self.faults[path if path.startswith("/agent/") else "/execution"]
        fault = faults.popleft() if faults else None
        if isinstance(fault, Answer):
            await _reply(send, fault, call)
            return
        if isinstance(fault, Slow):
            await asyncio.sleep(fault.seconds)
        answer = await self._answer(call, raw)
        await _reply(send, answer, call, cut=isinstance(fault, Lost))

    async def _answer(self, call: Call, raw: str) -> Answer:
        if not raw.startswith(f"/{DEPLOYMENT}/"):
            return Answer(404, paths.NOT_FOUND_TEXT.encode(), "text/plain")
        if call.path.startswith("/execution/"):
            return self._execute(call)
        if call.headers.get("authorization") not in {f"Bearer {token}" for token in self.tokens}:
            return refusal(Code.TOKEN_INVALID)
        routes: dict[str, Callable[[Call], Awaitable[Answer]]] = {
            paths.ENROLMENTS: self._enrol,
            paths.HEARTBEATS: self._heartbeat,
            paths.LOG_TAILS: self._log_tail,
            paths.CLAIMS: self._claim,
            paths.STARTS: self._start,
            paths.SETTLEMENTS: self._settle,
            paths.COMPONENT_TOKENS: self._component_token,
            paths.DAG_BUNDLES: self._echo,
        }
        if call.path in routes:
            return await routes[call.path](call)
        if call.path == paths.PROBE:
            return self._probe(call)
        if call.path.endswith("/token"):
            return self._mint(call)
        return Answer(404, paths.NOT_FOUND_TEXT.encode(), "text/plain")

    def _known(self, agent_id: UUID, instance_id: UUID) -> Answer | None:
        for known, instance in self.agents.values():
            if known == agent_id:
                return None if instance == instance_id else refusal(Code.AGENT_REPLACED)
        return refusal(Code.AGENT_UNKNOWN)

    def _probe(self, call: Call) -> Answer:
        return _yes(
            probes.ProbeResponse(
                deployment_id=DEPLOYMENT,
                plane_version="0.1.0",
                now=datetime.now(UTC),
                restricted=False,
                source_address=call.peer,
                path=PathKind.PUBLIC,
                link_id=None,
                token_id="abcdefgh2345",
                token_name="test",
                token_expires_at=None,
                token_roles=(),
                token_queues=(),
                token_links=(),
                agents=tuple(
                    probes.ProbedAgent(
                        name=name,
                        role=Role.WORKER,
                        healthy=True,
                        left=False,
                        path=PathKind.PUBLIC,
                        link_id=None,
                        address=call.peer,
                        heartbeat_seconds_ago=0.1,
                    )
                    for name in self.agents
                ),
            )
        )

    async def _component_token(self, call: Call) -> Answer:
        request = dags.ComponentTokenRequest.model_validate_json(call.body)
        if refused := self._known(request.agent_id, request.instance_id):
            return refused
        token = f"component-token-{len(self.minted) + 1}"
        self.minted.append(token)
        return _yes(dags.ComponentTokenResponse(token=token, valid_seconds=600.0))

    async def _echo(self, call: Call) -> Answer:
        """What a component asks of the agent API comes back, if it is a member who asks."""
        said = json.loads(call.body)
        return self._known(UUID(said["agent_id"]), UUID(said["instance_id"])) or Answer(body=call.body)

    async def _enrol(self, call: Call) -> Answer:
        request = agents.EnrolmentRequest.model_validate_json(call.body)
        if request.role not in self.roles:
            return refusal(Code.ROLE_NOT_USED)
        agent_id = self.agents.get(request.name, (uuid4(),))[0]
        self.agents[request.name] = (agent_id, request.instance_id)
        return _yes(
            agents.EnrolmentResponse(
                agent_id=agent_id,
                heartbeat_seconds=self.heartbeat_seconds,
                claim_wait_seconds=self.claim_wait_seconds,
                lease_seconds=30.0,
                plane_version="0.1.0",
            )
        )

    async def _heartbeat(self, call: Call) -> Answer:
        request = agents.HeartbeatRequest.model_validate_json(call.body)
        if request.probe_report is not None:
            self.reports.append(request.probe_report)
        return self._known(request.agent_id, request.instance_id) or _yes(
            agents.HeartbeatResponse(
                heartbeat_seconds=self.heartbeat_seconds,
                cordoned=self.cordoned,
                drain=self.drain,
                cancel=tuple(self._reference(one) for one in self.cancel),
                lost=tuple(self._reference(one) for one in self.lost),
                probes=self.probes,
                fetch_log=self.fetch_log,
            )
        )

    async def _log_tail(self, call: Call) -> Answer:
        request = agents.LogTailRequest.model_validate_json(call.body)
        self.log_tails.append(request)
        return self._known(request.agent_id, request.instance_id) or _yes(agents.LogTailResponse())

    def _reference(self, workload_id: UUID) -> agents.LeaseReference:
        return agents.LeaseReference(workload_id=workload_id, fence=self.fences[workload_id])

    async def _claim(self, call: Call) -> Answer:
        request = workloads.ClaimRequest.model_validate_json(call.body)
        refused = self._known(request.agent_id, request.instance_id)
        if refused is not None:
            return refused
        # An agent has one open claim: this one ends those before it.
        self._open_claim = mine = object()
        if self._queued is not None:
            self._queued.set()
        again = [one.workload for one in self.leases.values() if one.claim_id == request.claim_id and not one.started]
        if request.repeated and again:
            return _yes(workloads.ClaimResponse(workloads=tuple(again)))
        deadline = time.monotonic() + request.wait_seconds
        server = self._server
        assert self._queued is not None
        await asyncio.sleep(0)
        while not self.queue and time.monotonic() < deadline and server is self._server and self._open_claim is mine:
            self._queued.clear()
            try:
                await asyncio.wait_for(self._queued.wait(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                break
            if server is not None and server.should_exit:
                break
        given = []
        while self.queue and len(given) < request.free_slots and self._open_claim is mine:
            workload = self.queue.popleft()
            self.leases[workload.workload_id] = Lease(workload, request.claim_id)
            given.append(workload)
        return _yes(workloads.ClaimResponse(workloads=tuple(given)))

    async def _start(self, call: Call) -> Answer:
        request = workloads.StartRequest.model_validate_json(call.body)
        refused = self._known(request.agent_id, request.instance_id)
        if refused is not None:
            return refused
        verdicts = []
        for reference in request.leases:
            lease = self.leases.get(reference.workload_id)
            good = lease is not None and lease.workload.fence == reference.fence
            if good and lease is not None:
                lease.started = True
            verdict = workloads.StartVerdict.CONFIRMED if good else workloads.StartVerdict.REFUSED
            verdicts.append(
                workloads.StartedLease(workload_id=reference.workload_id, fence=reference.fence, verdict=verdict)
            )
        return _yes(workloads.StartResponse(verdicts=tuple(verdicts)))

    async def _settle(self, call: Call) -> Answer:
        request = workloads.SettleRequest.model_validate_json(call.body)
        refused = self._known(request.agent_id, request.instance_id)
        if refused is not None:
            return refused
        verdicts = []
        for one in request.settlements:
            lease = self.leases.pop(one.workload_id, None)
            if lease is not None and lease.workload.fence == one.fence:
                verdict = workloads.SettleVerdict.SETTLED
                if one.outcome is workloads.Outcome.RELEASED:
                    self.released.append(one)
                    self._queue_again(lease.workload)
                else:
                    self.settled[one.workload_id] = one
            elif one.workload_id in self.settled:
                verdict = workloads.SettleVerdict.DUPLICATE
            else:
                verdict = workloads.SettleVerdict.STALE
            self.verdicts.append(verdict)
            verdicts.append(workloads.SettledLease(workload_id=one.workload_id, fence=one.fence, verdict=verdict))
        return _yes(workloads.SettleResponse(verdicts=tuple(verdicts)))

    def _queue_again(self, workload: workloads.LeasedWorkload) -> None:
        self.fences[workload.workload_id] += 1
        self.queue.append(workload.model_copy(update={"fence": self.fences[workload.workload_id]}))
        if self._queued is not None:
            self._queued.set()

    def _mint(self, call: Call) -> Answer:
        request = workloads.TaskTokenRequest.model_validate_json(call.body)
        workload_id = UUID(call.path.split("/")[-2])
        refused = self._known(request.agent_id, request.instance_id)
        if refused is not None:
            return refused
        if workload_id not in self.leases:
            return refusal(Code.LEASE_LOST)
        token = f"task-token-{workload_id}-minted-{len(self.minted)}"
        self.minted.append(token)
        self.task_tokens[token] = workload_id
        return _yes(workloads.TaskTokenResponse(task_token=token))

    def _execute(self, call: Call) -> Answer:
        """Both credentials, then whatever ``execution`` says."""
        if call.headers.get(paths.AGENT_TOKEN_HEADER.lower()) not in self.tokens:
            return refusal(Code.TOKEN_INVALID, execution=True)
        token = call.headers.get("authorization", "").removeprefix("Bearer ")
        workload_id = call.headers.get(paths.WORKLOAD_ID_HEADER.lower())
        if token not in self.minted if workload_id is None else str(self.task_tokens.get(token)) != workload_id:
            return Answer(403, b'{"detail":"Invalid auth token: Signature has expired"}')
        return self.execution(call)


def _yes(body: Any) -> Answer:
    return Answer(body=body.model_dump_json().encode())


async def _reply(send: Any, answer: Answer, call: Call, *, cut: bool = False) -> None:
    headers = {"content-type": answer.content_type, "content-length": str(len(answer.body)), **answer.headers}
    raw = [(name.encode(), value.encode()) for name, value in headers.items() if value]
    await send({"type": "http.response.start", "status": answer.status, "headers": raw})
    if cut:
        await send({"type": "http.response.body", "body": answer.body[:1], "more_body": True})
        return
    await send({"type": "http.response.body", "body": b"" if call.method == "HEAD" else answer.body})
