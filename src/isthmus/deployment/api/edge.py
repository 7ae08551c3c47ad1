"""The outermost layer of the public listener: what every request meets first, in one order.

path → source address → agent token → method → body → the API that answers. A path that is not one of ours gets
``404 page not found`` before anything else is looked at, with and without credentials, so that a stranger learns
nothing about what is installed here. Whatever goes wrong further in comes back here and leaves as a problem.

Invariants: nothing behind the edge sees a request without an admitted address and a verified token; no body is read
for somebody who may not come in, and none is kept that is over the limit; no exception reaches a client as text.
"""

import asyncio
import dataclasses
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

import structlog

from isthmus.deployment import arrivals, tokens
from isthmus.deployment.api import asgi, refusals, sources
from isthmus.deployment.api.agents import AgentApi
from isthmus.deployment.api.execution import ExecutionApi
from isthmus.deployment.api.metrics import Metrics
from isthmus.deployment.api.operations import Caller, Operation
from isthmus.deployment.api.refusals import RefusalLog
from isthmus.deployment.arrivals import Arrival
from isthmus.deployment.errors import PlaneRefusedError
from isthmus.deployment.plane import Plane
from isthmus.wire import paths
from isthmus.wire.problems import Code, Problem

_JSON: Final = b"application/json"
_AUTHORIZATION: Final = b"authorization"
_AGENT_TOKEN: Final = paths.AGENT_TOKEN_HEADER.lower().encode()
_CLOSE: Final = (b"connection", b"close")
#: The client went away before it had an answer; the number is nginx's.
_GONE: Final = 499

#: Large bodies that are taken apart at once: each may need memory of several times its size.
LARGE_AT_ONCE: Final = 2

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Visit:
    """One request on its way in, and what is known of it so far, for the log and the metrics."""

    scope: asgi.Scope
    api: str
    route: str
    arrival: Arrival = arrivals.NOWHERE
    credential: str | None = None


class Edge:
    """The public ASGI application."""

    def __init__(
        self, plane: Plane, agents: AgentApi, execution: ExecutionApi, metrics: Metrics, refused: RefusalLog
    ) -> None:
        self._plane = plane
        self._agents = agents
        self._execution = execution
        self._metrics = metrics
        self._refused = refused
        self._prefix = f"/{plane.config.deployment_id}"
        self._stopping = False
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)

    def stop(self) -> None:
        """Turn new requests away: another process answers them. What is being answered goes on."""
        self._stopping = True

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        if self._execution.knows(path):
            visit = _Visit(scope, "execution", "execution")
            operation, workload_id = None, ""
        elif path.startswith(self._prefix) and (found := self._agents.find(path[len(self._prefix) :])) is not None:
            operation, workload_id = found
            visit = _Visit(scope, "agent", operation.name)
        else:
            self._metrics.count("none", "none", 404)
            await refusals.not_found(send)
            return
        begun = perf_counter()
        try:
            caller = await self._admitted(visit, receive, workload_id)
            if operation is not None:
                status = await self._operate(operation, caller, scope, send)
            else:
                status = await self._execution.answer(caller, scope, send)
        except asgi.ClientGoneError:
            self._metrics.count(visit.api, visit.route, _GONE)
        except Exception as error:
            refusal = refusals.problem_of(error)
            if refusal.code == Code.INTERNAL:
                log.error("a request failed", route=visit.route, exc_info=error)
            await self._refuse(visit, refusal, send, method="POST" if operation is None else operation.method)
        else:
            self._metrics.count(visit.api, visit.route, status)
            if operation is None or not operation.waits:
                self._metrics.time(visit.api, visit.route, perf_counter() - begun)

    async def _admitted(self, visit: _Visit, receive: asgi.Receive, workload_id: str) -> Caller:
        """Who calls. Raises PlaneRefusedError for a stranger."""
        scope = visit.scope
        if self._stopping:
            raise PlaneRefusedError(Code.SHUTTING_DOWN)
        client = scope.get("client")
        peer = client[0] if client else None
        config = self._plane.config
        visit.arrival = sources.arrival(peer, scope["headers"], config.trusted_proxies, config.link_ingresses)
        admitted = self._plane.allow_list.check(visit.arrival.address or "")
        visit.arrival = dataclasses.replace(visit.arrival, address=admitted)
        visit.credential = _credential(visit)
        token = await self._plane.tokens.verify(visit.credential, visit.arrival)
        return Caller(token, visit.arrival, receive, workload_id)

    async def _operate(self, operation: Operation[Any, Any], caller: Caller, scope: asgi.Scope, send: asgi.Send) -> int:
        if scope["method"] != operation.method:
            raise PlaneRefusedError(Code.METHOD_NOT_ALLOWED, f"Send {operation.method}.")
        config = self._plane.config
        if operation.large:
            body = await asgi.read_body(scope, caller.receive, config.max_dags_body_bytes)
            encoding = asgi.header(scope, b"content-encoding")
            async with self._large:
                asked = await asyncio.to_thread(_unpacked, operation, body, encoding, config.max_dags_body_bytes)
        else:
            asked = operation.parse(await asgi.read_body(scope, caller.receive, config.max_body_bytes))
        said = await operation.call(caller, asked)
        await asgi.respond(send, 200, said.__pydantic_serializer__.to_json(said), _JSON)
        return 200

    async def _refuse(self, visit: _Visit, refusal: Problem, send: asgi.Send, *, method: str) -> None:
        code = Code(refusal.code)
        parts = tokens.parse(visit.credential) if visit.credential else None
        self._refused.note(
            code,
            address=visit.arrival.address or "",
            token_id=parts.token_id if parts is not None else "",
            detail=refusal.detail,
            route=visit.route,
        )
        known = parts is not None and self._plane.tokens.knows(parts.token_id)
        self._plane.refused.note(
            code, visit.arrival, token_id=parts.token_id if parts is not None and known else "", detail=refusal.detail
        )
        self._metrics.count(visit.api, visit.route, refusal.status, refusal.code)
        headers: list[asgi.Header] = []
        if code is Code.METHOD_NOT_ALLOWED:
            headers.append((b"allow", method.encode()))
        if code in {Code.BODY_TOO_LARGE, Code.SHUTTING_DOWN}:
            headers.append(_CLOSE)  # what is left of the body is not read; another process takes over
        await refusals.refuse(send, refusal, for_task=visit.api == "execution", headers=headers)


def _unpacked(operation: Operation[Any, Any], body: bytes, encoding: bytes | None, limit: int) -> Any:
    """The request in a body that may be compressed. Raises what ``asgi.expanded`` and ``Operation.parse`` raise."""
    return operation.parse(asgi.expanded(body, encoding, limit))


def _credential(visit: _Visit) -> str | None:
    """The text of the agent token: in a header of its own where ``Authorization`` holds Airflow's."""
    if visit.api == "execution":
        value = asgi.header(visit.scope, _AGENT_TOKEN)
        return value.decode("latin-1") if value is not None else None
    value = asgi.header(visit.scope, _AUTHORIZATION)
    if value is None or value[:7].lower() != b"bearer ":
        return None
    return value[7:].strip().decode("latin-1")
