"""Airflow's Execution API, mounted in this process, and what we decide before it is asked.

A task reaches it through its agent's gateway, with three things beside Airflow's own task token: the agent token, the
agent's id and the workload's id. They must fit together: the workload is running, under a lease of that agent, which
enrolled with that token, and the task token was minted for that workload. Then policy: connections and variables of
the deployment are refused unless it allows them (a name that it does not have is "not found" all the same: operators
read variables that nobody has set, with a default), and the worker's host name, which Airflow would connect to for
logs, is replaced by a name that leads nowhere.

An agent with the role dag-processor or triggerer calls for itself as well: without a workload's id, with a token whose
subject is the agent. It reaches what its role needs (``components``, ``triggers.admitting``) and nothing else.

Policy looks at the very path that Airflow's router looks at, so there is no second reading of it. Areas of the API
that we do not know are not served at all. A successful change of a task's state tells the scheduler, and that of one
that is deferred whoever hands out triggers. Invariant: nothing
reaches Airflow for a workload that the caller does not hold.
"""

import asyncio
import base64
import binascii
import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl
from uuid import UUID

import structlog
from fastapi import FastAPI
from sqlalchemy import exc as sqlalchemy_errors
from starlette.requests import Request
from starlette.responses import Response

from isthmus.deployment import components, leasing, reading
from isthmus.deployment.api import asgi
from isthmus.deployment.api.operations import Caller
from isthmus.deployment.api.refusals import BadRequestError
from isthmus.deployment.config import DeploymentConfig
from isthmus.deployment.dags import admitting as dags_admitting
from isthmus.deployment.errors import DatabaseError, PlaneRefusedError, translated
from isthmus.deployment.plane import Plane
from isthmus.deployment.pooling import Pool
from isthmus.deployment.tables import SCHEDULER_CHANNEL
from isthmus.deployment.triggers import admitting as triggers_admitting
from isthmus.deployment.triggers import holding
from isthmus.wire import paths
from isthmus.wire.names import Role
from isthmus.wire.problems import Code, execution_problem, problem

#: The first parts of the paths of Airflow's Execution API, as of 3.3. A new one is not served before it was looked at:
#: it may hand out what policy withholds.
AREAS: Final = frozenset(
    {
        "asset-events",
        "assets",
        "connection-tests",
        "connections",
        "dag-runs",
        "dags",
        "health",
        "hitlDetails",
        "store",
        "task-instances",
        "task-reschedules",
        "variables",
        "xcoms",
    }
)

#: How long an answer of the database about who holds a workload is believed: a task of a fifth of a second makes five
#: calls and costs one query; a lease that has ended is noticed within two seconds, and by Airflow's own fence at once.
HELD_SECONDS: Final = 2.0
_HELD_LIMIT: Final = 20_000
_RETRY_SECONDS: Final = 1.0

_AGENT_ID: Final = paths.AGENT_ID_HEADER.lower().encode()
_WORKLOAD_ID: Final = paths.WORKLOAD_ID_HEADER.lower().encode()
_OURS: Final = (b"isthmus-", b"content-length", b"transfer-encoding")

#: What the body has that defers a task (``TIDeferredStatePayload``), as Airflow's SDK writes it.
_DEFERRED: Final = b'"deferred"'

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Held:
    """A running workload, and the agent that holds it; or, with a ``role``, an agent that calls for itself."""

    agent_name: str
    subject_id: str
    role: Role | None = None


class ExecutionApi:
    """The execution prefix of one deployment in this process."""

    def __init__(
        self, plane: Plane, app: asgi.App, prefix: str, told: Callable[[], None], mint: Callable[[str], str]
    ) -> None:
        self._plane = plane
        self._app = app
        self._prefix = prefix
        self._told = told
        self._mint = mint
        self._held: dict[tuple[UUID | None, UUID, str], tuple[float, Held]] = {}

    def knows(self, path: str) -> bool:
        """Whether ``path`` (the whole one) lies in an area of Airflow's API that is served."""
        return path.startswith(self._prefix + "/") and _parts(path[len(self._prefix) :])[0] in AREAS

    async def answer(self, caller: Caller, scope: asgi.Scope, send: asgi.Send) -> int:
        """Have Airflow answer, if the caller holds the workload and policy allows it. Returns the HTTP status.

        Raises PlaneRefusedError, BadRequestError, DatabaseError, and what ``asgi.read_body`` raises.
        """
        method: str = scope["method"]
        path: str = scope["path"][len(self._prefix) :]
        held = await self._admitted(caller, scope)
        authorization = _authorization(scope, held)
        if held.role is not None:
            check_component(held.role, method, path)
            authorization = await self._of_component(held, method, path, authorization)
        withheld = refused(self._plane.config, method, path, scope.get("query_string", b""))
        if withheld is not None and not _asks_for_one(method, path):
            raise withheld
        body = await asgi.read_body(scope, caller.receive, self._plane.config.max_execution_body_bytes)
        if _says_hostname(method, path):
            body = with_hostname(body, f"{held.agent_name}.isthmus.invalid")
        headers = [
            (name, value) for name, value in scope["headers"] if name != b"authorization" and not name.startswith(_OURS)
        ]
        headers += [(b"content-length", b"%d" % len(body)), *authorization]
        inner = {**scope, "root_path": self._prefix, "headers": headers}
        if withheld is not None:
            return await self._only_if_missing(withheld, inner, asgi.replay(body, caller.receive), send)
        status = await _call(self._app, inner, asgi.replay(body, caller.receive), send)
        if method == "PATCH" and status < 300 and path.endswith("/state"):
            self._told()
            if _DEFERRED in body:
                await self._tell_of_triggers()
        return status

    async def _only_if_missing(
        self, withheld: PlaneRefusedError, inner: asgi.Scope, receive: asgi.Receive, send: asgi.Send
    ) -> int:
        """Say "not found" of what is not there, so that a default of the DAG counts; refuse what is there."""
        events: list[asgi.Event] = []

        async def keep(event: asgi.Event) -> None:
            events.append(event)

        status = await _call(self._app, inner, receive, keep)
        if status not in {404, 503}:
            raise withheld
        for event in events:
            await send(event)
        return status

    async def _of_component(
        self, held: Held, method: str, path: str, authorization: list[asgi.Header]
    ) -> list[asgi.Header]:
        """The header for Airflow of an agent's own call: as it came, or with a token for whom the call is made."""
        agent_id, subject = UUID(held.subject_id), None
        match held.role:
            case Role.DAG_PROCESSOR:
                await dags_admitting.check(self._plane.pool, agent_id, _parts(path))
            case Role.TRIGGERER:
                subject = await triggers_admitting.subject(self._plane.pool, agent_id, method, _parts(path))
        return authorization if subject is None else [(b"authorization", b"Bearer " + self._mint(subject).encode())]

    async def _tell_of_triggers(self) -> None:
        """A trigger was made. Who misses it looks once a second all the same."""
        with contextlib.suppress(DatabaseError), translated():
            await holding.tell(self._plane.pool)

    async def _admitted(self, caller: Caller, scope: asgi.Scope) -> Held:
        agent_id = _uuid(scope, _AGENT_ID, paths.AGENT_ID_HEADER)
        own = asgi.header(scope, _WORKLOAD_ID) is None
        workload_id = agent_id if own else _uuid(scope, _WORKLOAD_ID, paths.WORKLOAD_ID_HEADER)
        key = (None if own else workload_id, agent_id, caller.token.token_id)
        now = time.monotonic()
        until, held = self._held.get(key, (0.0, None))
        if held is not None and now < until:
            return held
        if own:
            held = await self._look_component(agent_id, caller.token.token_id)
        else:
            held = await self._look(agent_id, workload_id, caller.token.token_id)
        if len(self._held) >= _HELD_LIMIT:
            self._held = {old: value for old, value in self._held.items() if value[0] > now}
        self._held[key] = (now + HELD_SECONDS, held)
        return held

    async def _look(self, agent_id: UUID, workload_id: UUID, token_id: str) -> Held:
        with translated():
            row = await leasing.held(self._plane.pool, workload_id)
            if row is None:
                await reading.workload(self._plane.pool, workload_id)
        if row is None or row.agent_id != agent_id:
            raise PlaneRefusedError(Code.LEASE_LOST)
        if not row.started:
            raise PlaneRefusedError(Code.LEASE_LOST, "The start of this workload has not been confirmed.")
        agent = await self._plane.roster.find(agent_id)
        if agent is None or not self._plane.tokens.related(agent.token_id, token_id):
            raise PlaneRefusedError(Code.AGENT_UNKNOWN, "The agent enrolled with another token.")
        return Held(agent_name=agent.name, subject_id=row.subject_id)

    async def _look_component(self, agent_id: UUID, token_id: str) -> Held:
        agent = await self._plane.roster.find(agent_id)
        if agent is None or not self._plane.tokens.related(agent.token_id, token_id):
            raise PlaneRefusedError(Code.AGENT_UNKNOWN)
        if agent.role not in components.COMPONENT_AREAS:
            raise BadRequestError.field(paths.WORKLOAD_ID_HEADER, "is missing")
        if agent.role not in self._plane.config.roles:
            raise PlaneRefusedError(Code.ROLE_NOT_USED)
        return Held(agent_name=agent.name, subject_id=str(agent.agent_id), role=agent.role)


class SchedulerBell:
    """Tells the scheduler that there is something to look at; rings that come together are one notification."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Tell the scheduler soon."""
        self._rung.set()

    async def run(self) -> None:
        """Notify until cancelled. A notification that fails is tried again: a late one is as good."""
        while True:
            await self._rung.wait()
            self._rung.clear()
            try:
                with translated():
                    await self._pool.execute("SELECT pg_notify($1, '')", SCHEDULER_CHANNEL)
            except DatabaseError:
                self._rung.set()
                await asyncio.sleep(_RETRY_SECONDS)


def check_component(role: Role, method: str, path: str) -> None:
    """Raise PlaneRefusedError(TOKEN_SCOPE) unless an agent with ``role`` may ask for ``path`` itself."""
    area = _parts(path)[0]
    if not components.may(role, method, area):
        raise PlaneRefusedError(
            Code.TOKEN_SCOPE, f"An agent with the role {role} may not send {method} to {area!r} for itself."
        )


def refused(config: DeploymentConfig, method: str, path: str, query: bytes) -> PlaneRefusedError | None:
    """Why the deployment does not hand out what ``path`` asks for; None if it does.

    ``path`` is decoded, as the router sees it. Airflow's SDK takes 403 for an authoritative no: it does not look for
    the connection elsewhere, and the task's log says that access was denied. Backends at the agent were asked before.
    """
    parts = _parts(path)
    match parts[0]:
        case "connections":
            connection_id = "/".join(parts[1:])
            if not config.allows_connection(connection_id):
                return PlaneRefusedError(
                    Code.CONNECTION_NOT_ALLOWED,
                    f"The deployment does not hand the connection {connection_id!r} to tasks.",
                )
        case "variables" if method == "GET" and parts[1:] == ["keys"]:
            prefix = _query_value(query, "prefix")
            if not config.allows_listing(prefix):
                return PlaneRefusedError(
                    Code.VARIABLE_NOT_ALLOWED,
                    f"The deployment does not show tasks the keys of its variables that begin with {prefix!r}.",
                )
        case "variables":
            key = "/".join(parts[1:])
            if not config.allows_variable(key):
                return PlaneRefusedError(
                    Code.VARIABLE_NOT_ALLOWED, f"The deployment does not hand the variable {key!r} to tasks."
                )
        case _:
            pass
    return None


def with_hostname(body: bytes, hostname: str) -> bytes:
    """``body`` with its ``hostname`` replaced. Raises BadRequestError if it is no JSON object.

    It is written anew, so that what Airflow reads is what was changed here, however the original was spelt.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequestError(problem(Code.BODY_MALFORMED)) from None
    if not isinstance(content, dict):
        raise BadRequestError.field("", "is not a JSON object")
    return json.dumps(content | {"hostname": hostname}).encode()


def subject_of(token: bytes) -> str | None:
    """The subject that a JWT names, unverified: Airflow verifies the very same token afterwards."""
    parts = token.split(b".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + b"=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return None
    subject = claims.get("sub") if isinstance(claims, dict) else None
    return subject if isinstance(subject, str) else None


def attach_database_errors(app: FastAPI) -> None:
    """Have Airflow's application say that the database is away in our words, where it would say "server error"."""

    async def unavailable(_: Request, error: Exception) -> Response:
        log.warning("Airflow's Execution API cannot reach the database", why=type(error).__name__)
        body = execution_problem(problem(Code.DATABASE_UNAVAILABLE)).model_dump_json()
        return Response(body, status_code=503, media_type="application/json", headers={"retry-after": "1"})

    for kind in (sqlalchemy_errors.OperationalError, sqlalchemy_errors.InterfaceError, sqlalchemy_errors.TimeoutError):
        app.add_exception_handler(kind, unavailable)


def _parts(path: str) -> list[str]:
    """The parts of ``path`` after its first slash; the first part is the area."""
    return path.split("/")[1:]


def _says_hostname(method: str, path: str) -> bool:
    """Whether Airflow reads ``hostname`` from the body: the transition to running stores it, heartbeats compare it."""
    parts = _parts(path)
    return parts[0] == "task-instances" and len(parts) == 3 and (method, parts[2]) in _HOSTNAMES


_HOSTNAMES: Final = frozenset({("PATCH", "run"), ("PUT", "heartbeat")})


def _asks_for_one(method: str, path: str) -> bool:
    """Whether this reads one connection or variable by its name."""
    parts = _parts(path)
    is_name = len(parts) > 1 and all(part.isprintable() and part for part in parts[1:]) and parts[1:] != ["keys"]
    return method == "GET" and parts[0] in {"connections", "variables"} and is_name


def _query_value(query: bytes, name: str) -> str:
    found = [value for key, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True) if key == name]
    return found[-1] if found else ""


def _uuid(scope: asgi.Scope, name: bytes, shown: str) -> UUID:
    value = asgi.header(scope, name)
    try:
        return UUID((value or b"").decode("latin-1"))
    except ValueError:
        raise BadRequestError.field(shown, "is missing" if value is None else "is not a UUID") from None


def _authorization(scope: asgi.Scope, held: Held) -> list[asgi.Header]:
    """The header for Airflow: as it came, if its token names the workload's subject. What is no JWT is left out."""
    value = asgi.header(scope, b"authorization")
    scheme, _, token = (value or b"").partition(b" ")
    subject = subject_of(token.strip()) if scheme.lower() == b"bearer" else None
    if value is None or subject is None:
        return []
    if subject != held.subject_id:
        raise BadRequestError(
            problem(
                Code.TOKEN_SCOPE,
                "The task token was not minted for this workload or agent.",
                hint="Send each call with the task token of its own workload.",
            )
        )
    return [(b"authorization", value)]


async def _call(app: asgi.App, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> int:
    """The status that ``app`` answered with."""
    status = 0

    async def noting(event: asgi.Event) -> None:
        nonlocal status
        if event["type"] == "http.response.start":
            status = event["status"]
        await send(event)

    try:
        await app(scope, receive, noting)
    except Exception:
        if not status:
            raise
        # Starlette answers 500 and raises all the same; Airflow has logged the traceback.
        log.error("Airflow's Execution API failed", path=scope["path"], method=scope["method"], status=status)
    return status
