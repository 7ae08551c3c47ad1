"""One process of the control plane: the API and the loop over the links, started, and stopped in order.

A database that is away at the start is waited for; while it is away later, requests are answered
``database_unavailable``. On SIGTERM the listener finishes what is under way, and loops end; whatever they were in the
middle of is taken up by the next process.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import structlog
import uvicorn

from isthmus.control import conditions, schema
from isthmus.control.api.application import application
from isthmus.control.api.routes import Core
from isthmus.control.asking import AdminApis
from isthmus.control.carrying import Carrier
from isthmus.control.config import ControlConfig
from isthmus.control.credentials import AdminTokens
from isthmus.control.databases import Database
from isthmus.control.errors import DatabaseError
from isthmus.control.operating import Operating
from isthmus.control.sights import Lookout
from isthmus.control.stopping import on_signals
from isthmus.control.watching import Watch
from isthmus.control.web import site
from isthmus.control.web.visits import PREFIX
from isthmus.kit import guarding
from isthmus.kit.clocks import Clock, SystemClock
from isthmus.kit.errors import ConfigError
from isthmus.kit.health import Health, Occurrence, Severity
from isthmus.link.clouds import ProviderCloud
from isthmus.link.reconciling import Event, Patience

_GRACE_SECONDS: Final = 10
_DATABASE_RETRY_SECONDS: Final = 2.0

log = structlog.get_logger(__name__)


async def run(
    config: ControlConfig,
    database_url: str,
    cloud: ProviderCloud,
    *,
    ready: Callable[[str], None] | None = None,
    stop: asyncio.Event | None = None,
    clock: Clock | None = None,
    tell: Callable[[Event], None] = lambda _: None,
) -> None:
    """Serve until ``stop`` is set or a signal asks for it; ``ready`` is called with the URL when it answers.

    ``tell`` hears of each step that is taken at the cloud. Raises ConfigError for what cannot work.
    """
    stopping, time = stop or asyncio.Event(), clock or SystemClock()
    listener, context, authorities = _bound(config), _tls(config), _authorities(config)
    health = Health(time)
    health.observe(_say)
    if context is None:
        health.raise_(conditions.PLAIN_HTTP, "operators are served over plain HTTP", "On loopback alone; see TLS.")
    with contextlib.closing(listener), on_signals(stopping):
        async with Database(database_url) as database:
            if not await _answers(database, stopping):
                return
            carrier = Carrier(database, cloud, time, patience=Patience(failure_seconds=config.cloud_seconds), tell=tell)
            watch = Watch(database, carrier, health, time, look_seconds=config.look_seconds)
            apis = AdminApis(AdminTokens(config.admin_tokens), time, tls=authorities)
            lookout = Lookout(apis, time)
            core = Core(database, carrier, watch, config.organization, Operating(database, apis, lookout, time))
            pages = {PREFIX: site.application(core, health, stopping)}
            server = _Server(application(core, health, pages, home=f"{PREFIX}/"), context)
            async with contextlib.AsyncExitStack() as stack:
                stack.push_async_callback(apis.close)
                stack.push_async_callback(lookout.close)
                stack.push_async_callback(carrier.meter.close)
                await stack.enter_async_context(_running(server, listener, watch, health))
                url = _url(listener, context)
                log.info("the control plane is ready", url=url)
                if ready is not None:
                    ready(url)
                await stopping.wait()
                log.info("stopping")


@contextlib.asynccontextmanager
async def _running(server: "_Server", listener: socket.socket, watch: Watch, health: Health) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        loops = [
            guarding.start(group, "links", watch.run()),
            guarding.start(group, "health", health.watch()),
        ]
        serving = guarding.start(group, "listener", server.serve(sockets=[listener]), ends=True)
        await server.up.wait()
        try:
            yield
        finally:
            server.should_exit = True
            await asyncio.wait([serving])
            for loop in loops:
                loop.cancel()


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers."""

    def __init__(self, app: Any, context: ssl.SSLContext | None) -> None:
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
                timeout_graceful_shutdown=_GRACE_SECONDS,
                **tls,
            )
        )
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, and say so."""
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to ``run``."""
        yield


async def _answers(database: Database, stopping: asyncio.Event) -> bool:
    """Wait for a database that has our tables; False when the process is stopped before. Raises ConfigError."""
    said = False
    while not stopping.is_set():
        try:
            await schema.check(database)
        except DatabaseError as error:
            if not said:
                log.warning("the database does not answer; waiting for it", why=error.summary)
            said = True
        else:
            return True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), _DATABASE_RETRY_SECONDS)
    return False


def _bound(config: ControlConfig) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in config.listen_host else socket.AF_INET
        return socket.create_server((config.listen_host, config.listen_port), family=family)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {config.listen_host} port {config.listen_port}: {error.strerror or error}",
            code="listen_failed",
            hint="Check --listen-host and --listen-port, and what else uses the port.",
        ) from None


def _tls(config: ControlConfig) -> ssl.SSLContext | None:
    if config.tls_certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.tls_certificate, config.tls_private_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"the TLS certificate {config.tls_certificate} and its key cannot be used: {error}",
            code="certificate_invalid",
            hint="--tls-certificate names a PEM chain, --tls-private-key its key; both readable by this user.",
        ) from None
    return context


def _authorities(config: ControlConfig) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=config.admin_ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"--admin-ca {config.admin_ca} cannot be used: {error}", code="ca_file_unusable", hint="It must be PEM."
        ) from None


def _url(listener: socket.socket, context: ssl.SSLContext | None) -> str:
    host, port = listener.getsockname()[:2]
    return f"{'http' if context is None else 'https'}://{f'[{host}]' if ':' in host else host}:{port}"


def _say(occurrence: Occurrence, came: bool) -> None:
    """Write what comes into sight and goes; the same list is in ``/healthz``."""
    if not came:
        log.info("over", condition=occurrence.code)
    elif occurrence.severity is Severity.ERROR:
        log.error(occurrence.summary, condition=occurrence.code, hint=occurrence.hint)
    else:
        log.warning(occurrence.summary, condition=occurrence.code, hint=occurrence.hint)
