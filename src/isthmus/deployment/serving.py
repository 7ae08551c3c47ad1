"""One Remote Execution API process: everything composed, started, and stopped in order.

``run`` puts the plane's core, Airflow's Execution API, the public listener (TLS) and the internal one into one event
loop. A database that is away changes nothing here: requests are answered ``database_unavailable`` until it is back, and
even at the start the process waits for it instead of ending.

The order of stopping, on SIGTERM or SIGINT: new requests are turned away (``shutting_down``), waiting claims are
answered with nothing and the last heartbeats are written (``Plane.stop``), the listeners finish what is under way, the
loops end, the pool closes. SIGHUP reads the TLS certificate again; connections that exist keep the old one.
"""

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
import structlog
import uvicorn
import uvloop
from fastapi import FastAPI

from isthmus.deployment import compat, plane
from isthmus.deployment.api import asgi, execution, internal
from isthmus.deployment.api.agents import AgentApi
from isthmus.deployment.api.dags import DagApi
from isthmus.deployment.api.edge import Edge
from isthmus.deployment.api.execution import ExecutionApi, SchedulerBell
from isthmus.deployment.api.internal import Internal
from isthmus.deployment.api.metrics import Metrics
from isthmus.deployment.api.refusals import RefusalLog
from isthmus.deployment.api.triggers import TriggerApi
from isthmus.deployment.conditions import Checkup
from isthmus.deployment.config import DeploymentConfig
from isthmus.deployment.dags import compat as compat_dags
from isthmus.deployment.dags.processing import Dags
from isthmus.deployment.errors import DatabaseError
from isthmus.deployment.plane import Plane
from isthmus.deployment.triggers import compat as trigger_compat
from isthmus.kit import guarding
from isthmus.kit.clocks import SystemClock
from isthmus.kit.errors import ConfigError, InternalError
from isthmus.kit.health import Health, Occurrence, Severity
from isthmus.wire import paths
from isthmus.wire.names import Role

#: Connections that bring no request are closed after this: later than agents close theirs, sooner than Azure's load
#: balancers forget them (240 s).
KEEP_ALIVE_SECONDS: Final = 120
#: How long requests that are under way may take when the process stops.
GRACE_SECONDS: Final = 10
#: How long the last answer on a connection may take to leave when the process stops.
IDLE_SECONDS: Final = 0.5
BACKLOG: Final = 2048
#: An agent has two connections, and one more for each few tasks that run.
OPEN_FILES: Final = 65536
_SWEEP_SECONDS: Final = 15.0
_DATABASE_RETRY_SECONDS: Final = 2.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the two listeners can be reached, with the ports that they really have."""

    public: tuple[str, int]
    internal: tuple[str, int]


def main(config: DeploymentConfig, *, database_url: str | None = None) -> None:
    """Run until SIGTERM or SIGINT. Raises ConfigError."""
    uvloop.run(run(config, database_url=database_url))


async def run(
    config: DeploymentConfig,
    *,
    database_url: str | None = None,
    ready: Callable[[Addresses], None] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Run until ``stop`` is set or a signal asks for it; ``ready`` is called when both listeners answer.

    ``database_url`` is Airflow's unless it is given. Raises ConfigError for what cannot work: a port in use, a
    certificate that cannot be read, tables that are not there.
    """
    compat.check((*compat.API_SIDE, *trigger_compat.EXPECTED))
    if Role.DAG_PROCESSOR in config.roles:
        compat.check(compat_dags.DAG_SIDE)
        compat_dags.prepare()
    # uvicorn warns of every request that is not HTTP; strangers shall not be able to fill the log.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    stopping = stop or asyncio.Event()
    _raise_file_limit()
    context = _tls_context(config)
    airflow = _Airflow(compat.TaskTokens(), compat.execution_app())
    async with AsyncExitStack() as stack:
        public = stack.enter_context(_bound("listen", config.listen_host, config.listen_port))
        inner = stack.enter_context(_bound("admin", config.admin_host, config.admin_port))
        stack.enter_context(_signals(stopping, lambda: _reload(config, context)))
        entered = await _plane(stack, config, database_url or compat.database_url(), stopping)
        if entered is None:
            return
        trigger_compat.check_columns()
        await stack.enter_async_context(airflow.app.router.lifespan_context(airflow.app))
        await compat.warm(airflow.app)
        dags = stack.enter_context(contextlib.closing(Dags(config, entered.pool)))
        composed = _compose(entered, airflow, dags)
        servers = (_Server(composed.edge, context), _Server(composed.internal, None))
        where = Addresses(_address(public), _address(inner))
        await _serve(composed, servers, (public, inner), stopping, lambda: _ready(where, config, ready))


@dataclass(frozen=True, slots=True)
class _Airflow:
    """What we use of Airflow; made first, because it fails for reasons that only people can mend."""

    task_tokens: compat.TaskTokens
    app: FastAPI


@dataclass(frozen=True, slots=True)
class _Composed:
    """What the listeners serve, and the loops that go with it."""

    plane: Plane
    edge: Edge
    internal: Internal
    checkup: Checkup
    health: Health
    bell: SchedulerBell
    refused: RefusalLog


async def _plane(
    stack: AsyncExitStack, config: DeploymentConfig, database_url: str, stopping: asyncio.Event
) -> Plane | None:
    """A running plane, as soon as the database answers; None when the process is stopped before."""
    said = False
    while not stopping.is_set():
        try:
            return await stack.enter_async_context(plane.running(config, database_url))
        except DatabaseError as error:
            if not said:
                log.warning("the database does not answer; waiting for it", why=str(error))
            said = True
        except asyncpg.UndefinedTableError:
            raise ConfigError(
                "the database does not have Isthmus' tables",
                code="database_not_migrated",
                hint="Run: airflow db migrate",
            ) from None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), _DATABASE_RETRY_SECONDS)
    return None


def _compose(entered: Plane, airflow: _Airflow, dags: Dags) -> _Composed:
    """The applications over a running plane."""
    config, clock = entered.config, SystemClock()
    metrics = Metrics()
    metrics.watch(entered)
    health = Health(clock)
    health.observe(_say)
    checkup = Checkup(entered, health, clock, metrics.database_up.set)
    refused = RefusalLog(log, time.monotonic)
    bell = SchedulerBell(entered.pool)
    triggers = TriggerApi(entered, bell.ring)
    agents = AgentApi(
        entered,
        airflow.task_tokens,
        metrics,
        task_sdk_version=compat.task_sdk_version(),
        more=(*DagApi(entered, dags).operations, *triggers.operations),
    )
    execution.attach_database_errors(airflow.app)
    tasks = ExecutionApi(
        entered,
        airflow.app,
        f"/{config.deployment_id}{paths.EXECUTION_PREFIX}",
        bell.ring,
        airflow.task_tokens.component,
    )
    app = internal.application(
        entered,
        metrics,
        checkup,
        clock,
        agent_document=agents.document(),
        airflow_version=compat.airflow_version,
        airflow_url=compat.airflow_url(),
    )
    return _Composed(
        plane=entered,
        edge=Edge(entered, agents, tasks, metrics, refused),
        internal=Internal(entered, metrics, refused, app),
        checkup=checkup,
        health=health,
        bell=bell,
        refused=refused,
    )


async def _serve(
    composed: _Composed,
    servers: tuple["_Server", "_Server"],
    sockets: tuple[socket.socket, socket.socket],
    stopping: asyncio.Event,
    ready: Callable[[], None],
) -> None:
    async with asyncio.TaskGroup() as group:
        loops = [
            guarding.start(group, "checkup", composed.checkup.run()),
            guarding.start(group, "health", composed.health.watch()),
            guarding.start(group, "scheduler bell", composed.bell.run()),
            guarding.start(group, "refusal log", _sweep(composed.refused)),
        ]
        listeners = [
            guarding.start(group, f"listener {listener.getsockname()}", _listen(server, listener), ends=True)
            for server, listener in zip(servers, sockets, strict=True)
        ]
        for server in servers:
            await server.up.wait()
        # What was imported stays for good: the collector need not look at Airflow's half million objects again.
        gc.collect()
        gc.freeze()
        ready()
        await stopping.wait()
        log.info("stopping")
        composed.edge.stop()
        await composed.plane.stop()
        for server in servers:
            server.should_exit = True
        await asyncio.wait(listeners)
        for loop in loops:
            loop.cancel()


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: one process, two servers, one order of stopping."""

    def __init__(self, app: asgi.App, context: ssl.SSLContext | None) -> None:
        tls: dict[str, Any] = {} if context is None else {"ssl_context_factory": lambda *_: context}
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=GRACE_SECONDS,
                **tls,
            )
        )
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, and say so."""
        await super().startup(sockets)
        self.up.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is under way, and do not wait for clients that have nothing under way."""
        dropping = asyncio.ensure_future(self._drop_idle())
        try:
            await super().shutdown(sockets)
        finally:
            dropping.cancel()

    async def _drop_idle(self) -> None:
        """A client with an idle connection does not read that it is being closed, and TLS would wait for its answer."""
        while True:
            await asyncio.sleep(IDLE_SECONDS)
            for connection in list(self.server_state.connections):
                cycle = getattr(connection, "cycle", None)
                if cycle is None or cycle.response_complete:
                    connection.transport.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to ``run``."""
        yield


async def _listen(server: _Server, listener: socket.socket) -> None:
    await server.serve(sockets=[listener])
    if not server.should_exit:
        raise InternalError("a listener ended by itself", code="listener_ended", hint="See the log before this.")


async def _sweep(refused: RefusalLog) -> None:
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        refused.sweep()


def _raise_file_limit() -> None:
    """Let this process have as many connections as it may: the usual 1,024 files are 500 agents."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _bound(setting: str, host: str, port: int) -> socket.socket:
    """A socket that is bound and does not listen yet.

    Bound before anything else starts, so that a port in use is one clear error; whoever connects before the process can
    answer is refused, not kept waiting.
    """
    listener: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.setblocking(False)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror or error}",
            code="listen_failed",
            hint=f"Check [isthmus] {setting}_host and {setting}_port, and what else uses the port.",
        ) from None
    return listener


def _address(listener: socket.socket) -> tuple[str, int]:
    host, port = listener.getsockname()[:2]
    return host, port


def _tls_context(config: DeploymentConfig) -> ssl.SSLContext | None:
    """TLS for the public listener, or None for plain HTTP. Raises ConfigError."""
    if config.tls_certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load_certificate(context, config.tls_certificate, config.tls_private_key)
    return context


def _load_certificate(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"the TLS certificate {certificate} and its key cannot be used: {error}",
            code="certificate_invalid",
            hint="[isthmus] tls_certificate names a PEM chain, tls_private_key its key; both readable by this user.",
        ) from None


def _reload(config: DeploymentConfig, context: ssl.SSLContext | None) -> None:
    """Read the certificate again; a bad one changes nothing."""
    if context is None or config.tls_certificate is None:
        return
    try:
        # Tried on a context of its own first: a certificate without its key would spoil the one that is in use.
        _load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), config.tls_certificate, config.tls_private_key)
        _load_certificate(context, config.tls_certificate, config.tls_private_key)
    except ConfigError as error:
        log.error("the certificate was not replaced", why=str(error), hint=error.hint)
    else:
        log.info("the certificate was read again", certificate=str(config.tls_certificate))


@contextlib.contextmanager
def _signals(stopping: asyncio.Event, reload: Callable[[], None]) -> Iterator[None]:
    """Handle the signals of a service, where there are any to handle (a test may run in another thread)."""
    loop = asyncio.get_running_loop()
    handlers = {signal.SIGTERM: stopping.set, signal.SIGINT: stopping.set, signal.SIGHUP: reload}
    try:
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
    except (RuntimeError, ValueError):
        yield
        return
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


def _ready(where: Addresses, config: DeploymentConfig, ready: Callable[[Addresses], None] | None) -> None:
    log.info(
        "the Remote Execution API is ready",
        deployment_id=config.deployment_id,
        agents="{}:{}".format(*where.public),
        tls=config.tls_certificate is not None,
        internal="{}:{}".format(*where.internal),
    )
    if ready is not None:
        ready(where)


def _say(occurrence: Occurrence, came: bool) -> None:
    """Write what comes into sight and goes; the same list is in ``/healthz``."""
    if not came:
        log.info("over", condition=occurrence.code)
    elif occurrence.severity is Severity.ERROR:
        log.error(occurrence.summary, condition=occurrence.code, hint=occurrence.hint)
    else:
        log.warning(occurrence.summary, condition=occurrence.code, hint=occurrence.hint)
