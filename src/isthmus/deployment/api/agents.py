"""The agent API: enrol, heartbeat, claim, start, settle, the task token, the probe, the log tail, task logs.

``Operation`` says all that there is to say of a route: path, bodies, what may be refused. From the same table come the
routing, the validation and the OpenAPI document, so the three cannot disagree. The calls are plain coroutines from
(caller, request body) to response body; who the caller is was decided by the edge before. Invariant: whatever an agent
says about its leases is checked against the fence in the database, and never believed from memory.
"""

import asyncio
import inspect
from collections.abc import Iterable
from typing import Any, Final, Protocol
from uuid import UUID

from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from packaging.version import Version

from isthmus import __version__
from isthmus.deployment import leasing, logshipping, logtails, reading, tokens
from isthmus.deployment.api import asgi, documents
from isthmus.deployment.api.metrics import Metrics
from isthmus.deployment.api.operations import ENROLLED, Caller, Nothing, Operation
from isthmus.deployment.api.refusals import BadRequestError
from isthmus.deployment.components import COMPONENT_AREAS, COMPONENT_TOKEN_SECONDS
from isthmus.deployment.errors import PlaneRefusedError, translated
from isthmus.deployment.leasing import Lease, LeasedRow, Report
from isthmus.deployment.logreads import Asked as AskedLog
from isthmus.deployment.logreads import Chunk
from isthmus.deployment.plane import Plane
from isthmus.deployment.reading import AgentRow
from isthmus.deployment.roster import Agent, Beat, Enrolment
from isthmus.kit.clocks import Clock, SystemClock
from isthmus.wire import paths
from isthmus.wire.admin import AgentHealth
from isthmus.wire.agents import (
    EnrolmentRequest,
    EnrolmentResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    LeaseReference,
    LogTailRequest,
    LogTailResponse,
    Versions,
)
from isthmus.wire.dags import ComponentTokenRequest, ComponentTokenResponse
from isthmus.wire.logs import (
    LogChunkRequest,
    LogChunkResponse,
    LogRead,
    LogReadsRequest,
    LogReadsResponse,
    LogShipmentRequest,
    LogShipmentResponse,
    LogSource,
    LogSubject,
)
from isthmus.wire.names import Kind, Role
from isthmus.wire.probes import ProbedAgent, ProbeOrder, ProbeResponse
from isthmus.wire.problems import Code
from isthmus.wire.workloads import (
    ClaimRequest,
    ClaimResponse,
    LeasedWorkload,
    SettledLease,
    SettleRequest,
    SettleResponse,
    StartedLease,
    StartRequest,
    StartResponse,
    StartVerdict,
    TaskTokenRequest,
    TaskTokenResponse,
)

TITLE: Final = "Isthmus agent API"
DESCRIPTION: Final = (
    "How Remote Execution Agents join a deployment, get work and report on it. The outer checks come first and in this "
    "order: path (`404 page not found` for every other), source address, agent token, body."
)

#: How far behind an agent's Isthmus may be: DESIGN asks that two minor versions work.
MINOR_VERSIONS_BEHIND: Final = 2
#: A probe shows as many agents of its token.
PROBED_AGENTS: Final = 50
#: A claim of an agent that may not take work is held this long, so that it cannot become a busy loop.
NOT_ADMITTED_SECONDS: Final = 5.0

_EVERYWHERE: Final = (
    Code.SOURCE_NOT_ALLOWED,
    Code.TOKEN_MISSING,
    Code.TOKEN_INVALID,
    Code.TOKEN_EXPIRED,
    Code.TOKEN_REVOKED,
    Code.TOKEN_WRONG_DEPLOYMENT,
    Code.TOKEN_WRONG_LINK,
    Code.BODY_TOO_LARGE,
    Code.BODY_MALFORMED,
    Code.REQUEST_INVALID,
    Code.METHOD_NOT_ALLOWED,
    Code.DATABASE_UNAVAILABLE,
    Code.SHUTTING_DOWN,
    Code.INTERNAL,
)


class TaskTokens(Protocol):
    """What mints Airflow's task tokens; ``compat.TaskTokens`` is the real one."""

    def first(self, kind: Kind, subject_id: str) -> str:
        """The token that goes out with the lease."""
        ...

    def again(self, kind: Kind, subject_id: str) -> str:
        """A token for a workload that has started."""
        ...

    def component(self, agent_id: str) -> str:
        """A token for an agent's own calls."""
        ...


class AgentApi:
    """The agent API of one deployment in this process."""

    def __init__(
        self,
        plane: Plane,
        task_tokens: TaskTokens,
        metrics: Metrics,
        *,
        task_sdk_version: str,
        more: Iterable[Operation[Any, Any]] = (),
        clock: Clock | None = None,
    ) -> None:
        """``more`` are operations that other modules have, as those of DAG processing."""
        self._plane = plane
        self._clock = clock or SystemClock()
        self._task_tokens = task_tokens
        self._metrics = metrics
        self._task_sdk = Version(task_sdk_version)
        self.operations: tuple[Operation[Any, Any], ...] = (
            Operation(
                "enrol",
                paths.ENROLMENTS,
                EnrolmentRequest,
                EnrolmentResponse,
                self.enrol,
                (Code.TOKEN_SCOPE, Code.ROLE_NOT_USED, Code.AGENT_NAME_TAKEN, Code.SDK_TOO_NEW, Code.AGENT_TOO_OLD),
            ),
            Operation("heartbeat", paths.HEARTBEATS, HeartbeatRequest, HeartbeatResponse, self.heartbeat, ENROLLED),
            Operation(
                "claim",
                paths.CLAIMS,
                ClaimRequest,
                ClaimResponse,
                self.claim,
                (*ENROLLED, Code.TOKEN_SCOPE),
                waits=True,
            ),
            Operation("start", paths.STARTS, StartRequest, StartResponse, self.start, ENROLLED),
            Operation("settle", paths.SETTLEMENTS, SettleRequest, SettleResponse, self.settle, ENROLLED),
            Operation("probe", paths.PROBE, Nothing, ProbeResponse, self.probe, ()),
            Operation(
                "log_tail",
                paths.LOG_TAILS,
                LogTailRequest,
                LogTailResponse,
                self.log_tail,
                (*ENROLLED, Code.LOG_NOT_ASKED),
            ),
            Operation(
                "log_reads", paths.LOG_READS, LogReadsRequest, LogReadsResponse, self.log_reads, ENROLLED, waits=True
            ),
            Operation(
                "log_chunk",
                paths.LOG_CHUNKS,
                LogChunkRequest,
                LogChunkResponse,
                self.log_chunk,
                (*ENROLLED, Code.LOG_READ_ENDED),
                waits=True,
            ),
            Operation(
                "log_shipment",
                paths.LOG_SHIPMENTS,
                LogShipmentRequest,
                LogShipmentResponse,
                self.log_shipment,
                (*ENROLLED, Code.LOGS_NOT_KEPT, Code.WORKLOAD_NOT_FOUND),
            ),
            Operation(
                "component_token",
                paths.COMPONENT_TOKENS,
                ComponentTokenRequest,
                ComponentTokenResponse,
                self.component_token,
                (*ENROLLED, Code.TOKEN_SCOPE, Code.ROLE_NOT_USED),
            ),
            *more,
            Operation(
                "task_token",
                paths.TASK_TOKENS,
                TaskTokenRequest,
                TaskTokenResponse,
                self.task_token,
                (*ENROLLED, Code.WORKLOAD_NOT_FOUND, Code.LEASE_LOST),
            ),
        )
        self._task_token = self.operations[-1]
        self._by_path = {operation.path: operation for operation in self.operations[:-1]}
        self._before_id, self._after_id = paths.TASK_TOKENS.split("{workload_id}")

    def find(self, path: str) -> tuple[Operation[Any, Any], str] | None:
        """The operation at ``path`` (without the deployment id) and the workload id in it, as it stands there."""
        operation = self._by_path.get(path)
        if operation is not None:
            return operation, ""
        if path.startswith(self._before_id) and path.endswith(self._after_id):
            workload_id = path[len(self._before_id) : -len(self._after_id)]
            if workload_id and "/" not in workload_id:
                return self._task_token, workload_id
        return None

    async def enrol(self, caller: Caller, asked: EnrolmentRequest) -> EnrolmentResponse:
        """Join the deployment, or come back to it."""
        check_versions(asked.versions, self._task_sdk, Version(__version__))
        tokens.check_scope(caller.token, asked.role, asked.queues)
        self._check_role(asked.role)
        agent = await self._plane.roster.enrol(
            Enrolment(
                name=asked.name,
                role=asked.role,
                instance_id=asked.instance_id,
                queues=asked.queues,
                slots=asked.slots,
                versions=asked.versions.model_dump(),
                labels=asked.labels,
                arrival=caller.arrival,
                group=asked.group,
                standby=asked.standby,
            ),
            caller.token,
        )
        config = self._plane.config
        return EnrolmentResponse(
            agent_id=agent.agent_id,
            heartbeat_seconds=config.heartbeat_seconds,
            claim_wait_seconds=config.claim_wait_seconds,
            lease_seconds=config.lease_seconds,
            plane_version=__version__,
            least_privacy=config.least_privacy,
            ship_logs=config.ship_logs,
        )

    async def heartbeat(self, caller: Caller, asked: HeartbeatRequest) -> HeartbeatResponse:
        """Say what is held, and hear what the plane wants. Answered from memory."""
        agent = await self._agent(caller, asked.agent_id, asked.instance_id)
        report = asked.probe_report
        commands = self._plane.roster.heartbeat(
            agent,
            Beat(
                phase=asked.phase,
                slots_used=asked.slots_used,
                leases=tuple(Lease(held.workload_id, held.fence) for held in asked.leases),
                warnings=[warning.model_dump(mode="json") for warning in asked.warnings],
                probe_report=None if report is None else report.model_dump(mode="json"),
                order_id=None if report is None else report.order_id,
                finished=report is None or report.finished,
                arrival=caller.arrival,
            ),
        )
        self._metrics.heartbeats.inc()
        return HeartbeatResponse(
            heartbeat_seconds=self._plane.config.heartbeat_seconds,
            cordoned=commands.cordoned,
            drain=commands.drain,
            cancel=_references(commands.cancel),
            lost=_references(commands.lost),
            probes=None if commands.probes is None else ProbeOrder.model_validate(commands.probes),
            fetch_log=commands.fetch_log,
        )

    async def claim(self, caller: Caller, asked: ClaimRequest) -> ClaimResponse:
        """Wait for work. Withdrawn when the client goes away, so that nothing is leased to nobody."""
        agent = await self._agent(caller, asked.agent_id, asked.instance_id)
        if agent.role is not Role.WORKER:
            raise PlaneRefusedError(Code.TOKEN_SCOPE, f"An agent with the role {agent.role} takes no workloads.")
        wait_seconds = min(asked.wait_seconds, self._plane.config.claim_wait_seconds)
        if agent.admits_work:
            claiming = self._plane.dispatcher.claim(
                agent.agent_id,
                agent.queues,
                asked.claim_id,
                asked.free_slots,
                wait_seconds,
                repeated=asked.repeated,
            )
        else:
            claiming = self._not_admitted(agent, asked, wait_seconds)
        rows: list[LeasedRow] = await asgi.unless_gone(claiming, caller.receive)
        if not asked.repeated:
            for row in rows:
                self._metrics.dispatch_seconds.observe(row.waited_seconds)
        try:
            leased = tuple(self._leased(row) for row in rows)
        except Exception:
            self._plane.dispatcher.give_back(rows)
            raise
        return ClaimResponse(workloads=leased)

    async def start(self, caller: Caller, asked: StartRequest) -> StartResponse:
        """May these be started? Only a confirmed one may."""
        agent = await self._agent(caller, asked.agent_id, asked.instance_id)
        with translated():
            confirmed = await leasing.start(
                self._plane.pool,
                agent.agent_id,
                [Lease(lease.workload_id, lease.fence) for lease in asked.leases],
                self._plane.times,
            )
        return StartResponse(
            verdicts=tuple(
                StartedLease(
                    workload_id=lease.workload_id,
                    fence=lease.fence,
                    verdict=StartVerdict.CONFIRMED if yes else StartVerdict.REFUSED,
                )
                for lease, yes in zip(asked.leases, confirmed, strict=True)
            )
        )

    async def settle(self, caller: Caller, asked: SettleRequest) -> SettleResponse:
        """Take outcomes in."""
        agent = await self._agent(caller, asked.agent_id, asked.instance_id)
        reports = [
            Report(one.workload_id, one.fence, one.outcome, one.exit_code, one.detail) for one in asked.settlements
        ]
        with translated():
            verdicts = await leasing.settle(self._plane.pool, agent.agent_id, reports)
        return SettleResponse(
            verdicts=tuple(
                SettledLease(workload_id=report.workload_id, fence=report.fence, verdict=verdict)
                for report, verdict in zip(reports, verdicts, strict=True)
            )
        )

    async def task_token(self, caller: Caller, asked: TaskTokenRequest) -> TaskTokenResponse:
        """Mint the task token of a workload that the agent holds anew."""
        agent = await self._agent(caller, asked.agent_id, asked.instance_id)
        try:
            workload_id = UUID(caller.workload_id)
        except ValueError:
            raise BadRequestError.field("workload_id", "is not a UUID") from None
        with translated():
            held = await leasing.held(self._plane.pool, workload_id)
            if held is None:
                await reading.workload(self._plane.pool, workload_id)
        if held is None or held.agent_id != agent.agent_id or held.fence != asked.fence:
            raise PlaneRefusedError(Code.LEASE_LOST)
        mint = self._task_tokens.again if held.started else self._task_tokens.first
        return TaskTokenResponse(task_token=mint(held.kind, held.subject_id))

    async def component_token(self, caller: Caller, asked: ComponentTokenRequest) -> ComponentTokenResponse:
        """Mint the token for an agent's own calls of Airflow's Execution API."""
        agent = await self._agent(caller, asked.agent_id, asked.instance_id)
        self._check_role(agent.role)
        if agent.role not in COMPONENT_AREAS:
            raise PlaneRefusedError(Code.TOKEN_SCOPE, f"An agent with the role {agent.role} makes no calls of its own.")
        return ComponentTokenResponse(
            token=self._task_tokens.component(str(agent.agent_id)), valid_seconds=COMPONENT_TOKEN_SECONDS
        )

    async def log_tail(self, caller: Caller, asked: LogTailRequest) -> LogTailResponse:
        """Take in the end of an agent's own log, as the plane has asked for it."""
        agent = await self._agent(caller, asked.agent_id, asked.instance_id)
        await logtails.take(self._plane.pool, agent.agent_id, asked.order_id, asked.lines)
        return LogTailResponse()

    async def log_reads(self, caller: Caller, asked: LogReadsRequest) -> LogReadsResponse:
        """Wait until a task's log is asked of the agent."""
        agent = await self._agent(caller, asked.agent_id, asked.instance_id)
        wait_seconds = min(asked.wait_seconds, self._plane.config.claim_wait_seconds)
        found: list[AskedLog] = await asgi.unless_gone(
            self._plane.log_desk.claim(agent.agent_id, asked.free, wait_seconds), caller.receive
        )
        return LogReadsResponse(reads=tuple(map(_log_read, found)))

    async def log_chunk(self, caller: Caller, asked: LogChunkRequest) -> LogChunkResponse:
        """Take in a part of a log that is asked of the agent; answered when there is room for the next."""
        agent = await self._agent(caller, asked.agent_id, asked.instance_id)
        chunk = Chunk(
            sequence=asked.sequence,
            data=asked.data,
            origin=asked.origin,
            final=asked.end or asked.fault is not None,
            fault=asked.fault,
            detail=asked.detail,
        )
        putting = self._plane.log_desk.put(agent.agent_id, asked.read_id, chunk)
        proceed: bool = await asgi.unless_gone(putting, caller.receive)
        return LogChunkResponse(proceed=proceed)

    async def log_shipment(self, caller: Caller, asked: LogShipmentRequest) -> LogShipmentResponse:
        """Keep a part of the log of a task that the agent has run, if it is the next one; say where that begins."""
        agent = await self._agent(caller, asked.agent_id, asked.instance_id)
        if not self._plane.config.ship_logs:
            raise PlaneRefusedError(Code.LOGS_NOT_KEPT)
        return await logshipping.take(
            self._plane.pool, agent.agent_id, asked.workload_id, asked.offset, asked.data, end=asked.end
        )

    async def probe(self, caller: Caller, _: Nothing) -> ProbeResponse:
        """Say how the caller is seen. Changes nothing, and tells a token of its own agents alone."""
        plane, token = self._plane, caller.token
        rows = await reading.agents_of(
            plane.pool,
            plane.tokens.kin(token.token_id),
            heartbeat_seconds=plane.config.heartbeat_seconds,
            limit=PROBED_AGENTS,
        )
        return ProbeResponse(
            deployment_id=plane.config.deployment_id,
            plane_version=__version__,
            now=self._clock.now(),
            restricted=bool(plane.allow_list.ranges),
            source_address=caller.arrival.address or "",
            path=caller.arrival.path,
            link_id=caller.arrival.link_id,
            token_id=token.token_id,
            token_name=token.name,
            token_expires_at=token.expires_at,
            token_roles=tuple(sorted(token.roles)),
            token_queues=tuple(sorted(token.queues)),
            token_links=tuple(sorted(token.links)),
            agents=tuple(_probed(row, silent) for row, silent in rows),
        )

    def document(self) -> dict[str, Any]:
        """The OpenAPI document."""
        config = self._plane.config
        document = get_openapi(
            title=TITLE,
            version=__version__,
            description=DESCRIPTION,
            routes=[_documented(operation) for operation in self.operations],
            servers=[{"url": config.agent_url}],
        )
        return documents.completed(document, "An agent token: isthmus_<deployment id>_<token id>_<secret>")

    async def _agent(self, caller: Caller, agent_id: UUID, instance_id: UUID) -> Agent:
        return await self._plane.roster.lookup(agent_id, instance_id, caller.token.token_id)

    def _check_role(self, role: Role) -> None:
        """Raise PlaneRefusedError(ROLE_NOT_USED) unless agents of this deployment have the role."""
        if role not in self._plane.config.roles:
            used = ", ".join(self._plane.config.roles)
            raise PlaneRefusedError(Code.ROLE_NOT_USED, f"Agents of this deployment have the roles {used}, not {role}.")

    async def _not_admitted(self, agent: Agent, asked: ClaimRequest, wait_seconds: float) -> list[LeasedRow]:
        """The answer to an agent that may not take work: what a repeated claim had got already, or nothing, late."""
        if asked.repeated:
            with translated():
                leased = await leasing.repeat(self._plane.pool, agent.agent_id, asked.claim_id, self._plane.times)
            if leased:
                return leased
        await asyncio.sleep(min(wait_seconds, NOT_ADMITTED_SECONDS))
        return []

    def _leased(self, row: LeasedRow) -> LeasedWorkload:
        return LeasedWorkload(
            workload_id=row.workload_id,
            fence=row.fence,
            kind=row.kind,
            queue=row.queue,
            display_name=row.display_name,
            payload=row.payload,
            task_token=self._task_tokens.first(row.kind, row.subject_id),
            lease_seconds=row.lease_seconds,
        )


def check_versions(versions: Versions, task_sdk: Version, plane: Version) -> None:
    """Raise PlaneRefusedError unless an agent with ``versions`` works with this deployment.

    Airflow's Execution API answers a newer SDK with whatever is newest here, without a word, and tasks fail later on
    what is missing: so that is refused now. An older SDK is served as Airflow promises. Of Isthmus itself two minor
    versions behind work.
    """
    theirs = Version(versions.isthmus)
    if versions.task_sdk is not None and (sdk := Version(versions.task_sdk)) > task_sdk:
        raise PlaneRefusedError(
            Code.SDK_TOO_NEW, f"The agent has apache-airflow-task-sdk {sdk}; the deployment has {task_sdk}."
        )
    behind = plane.minor - theirs.minor if theirs.major == plane.major else 0
    if theirs.major < plane.major or behind > MINOR_VERSIONS_BEHIND:
        raise PlaneRefusedError(Code.AGENT_TOO_OLD, f"The agent has Isthmus {theirs}; the deployment has {plane}.")


def _log_read(asked: AskedLog) -> LogRead:
    return LogRead(
        read_id=asked.read_id,
        source=LogSource(asked.source),
        path=asked.path,
        subject=None if asked.subject is None else LogSubject.model_validate(asked.subject),
    )


def _probed(row: AgentRow, silent_seconds: float | None) -> ProbedAgent:
    return ProbedAgent(
        name=row.name,
        role=row.role,
        healthy=row.health is AgentHealth.HEALTHY,
        left=row.health is AgentHealth.LEFT,
        path=row.arrival.path,
        link_id=row.arrival.link_id,
        address=row.arrival.address,
        heartbeat_seconds_ago=silent_seconds,
    )


def _references(leases: tuple[Lease, ...]) -> tuple[LeaseReference, ...]:
    return tuple(LeaseReference(workload_id=lease.workload_id, fence=lease.fence) for lease in leases)


def _documented(operation: Operation[Any, Any]) -> APIRoute:
    """The operation as FastAPI describes it; FastAPI never answers it."""

    async def endpoint(**_: Any) -> None:
        """Nobody calls this."""

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = []
    if operation.method == "POST":
        parameters.append(inspect.Parameter("body", keyword, annotation=operation.asked))
    if "{workload_id}" in operation.path:
        parameters.append(inspect.Parameter("workload_id", keyword, annotation=UUID))
    described: Any = endpoint
    described.__signature__ = inspect.Signature(parameters)
    said = (operation.call.__doc__ or "").strip()
    return APIRoute(
        operation.path,
        described,
        methods=[operation.method],
        response_model=operation.said,
        operation_id=operation.name,
        name=operation.name,
        summary=said.split(".")[0].split("?")[0],
        description=((operation.asked if operation.method == "POST" else operation.said).__doc__ or "").strip(),
        responses=documents.responses((*_EVERYWHERE, *operation.codes)),
    )
