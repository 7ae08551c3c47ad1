"""One ingress process: HAProxy, the loop that follows the registry, and what is wrong in the log."""

import asyncio

import structlog

from isthmus.control.ingress.config import IngressConfig
from isthmus.control.ingress.following import Ingress
from isthmus.control.ingress.registry import HttpRegistry
from isthmus.control.stopping import on_signals
from isthmus.kit.clocks import SystemClock
from isthmus.kit.health import Health, Occurrence, Severity

log = structlog.get_logger(__name__)


async def run(config: IngressConfig, *, stop: asyncio.Event | None = None) -> None:
    """Serve until ``stop`` is set or a signal asks for it. Raises ConfigError, InternalError."""
    stopping, clock = stop or asyncio.Event(), SystemClock()
    health = Health(clock)
    health.observe(_say)
    with on_signals(stopping):
        async with HttpRegistry(config) as registry:
            watching = asyncio.create_task(health.watch(), name="health")
            try:
                await Ingress(config, registry, health, clock).run(stopping)
            finally:
                watching.cancel()


def _say(occurrence: Occurrence, came: bool) -> None:
    if not came:
        log.info("over", condition=occurrence.code)
    elif occurrence.severity is Severity.ERROR:
        log.error(occurrence.summary, condition=occurrence.code, hint=occurrence.hint)
    else:
        log.warning(occurrence.summary, condition=occurrence.code, hint=occurrence.hint)
