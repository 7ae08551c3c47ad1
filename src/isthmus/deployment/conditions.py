"""Everything that can be wrong with a Remote Execution API process, declared once, and how it is found out.

The list in the log, in ``/healthz`` and in the metrics is made of these (``kit.health``). ``Checkup`` looks at what no
loop notices by itself: whether the database answers, the certificate's age, files that should be secret. Invariant: a
checkup never raises; what it cannot find out is a condition.
"""

import asyncio
import stat
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509

from isthmus.deployment.config import DeploymentConfig
from isthmus.deployment.errors import DatabaseError, translated
from isthmus.deployment.plane import Plane
from isthmus.kit.clocks import Clock
from isthmus.kit.health import Condition, Health, Occurrence, Severity
from isthmus.wire import agents

DATABASE: Final = Condition("database_unavailable", Severity.ERROR)
#: All connections of the pool are in use, as when thousands of agents come back at once.
DATABASE_BUSY: Final = Condition("database_busy", Severity.WARNING, depends_on=frozenset({"database_unavailable"}))
CERTIFICATE_EXPIRED: Final = Condition("certificate_expired", Severity.ERROR)
CERTIFICATE_EXPIRING: Final = Condition("certificate_expiring", Severity.WARNING)
CERTIFICATE_UNREADABLE: Final = Condition("certificate_unreadable", Severity.WARNING)
PLAIN_HTTP: Final = Condition("plain_http", Severity.WARNING)
ADMIN_TOKEN: Final = Condition("admin_token_unusable", Severity.WARNING)
ADMIN_TOKEN_EXPOSED: Final = Condition("admin_token_exposed", Severity.WARNING)

INTERVAL_SECONDS: Final = 10.0
#: A database that takes longer for ``SELECT 1`` is away as far as heartbeats are concerned.
ANSWER_SECONDS: Final = 3.0
#: Time enough to renew by hand.
EXPIRING: Final = timedelta(days=14)


def to_wire(occurrence: Occurrence) -> agents.AgentWarning:
    """An occurrence as ``/healthz`` shows it, cut to what the wire allows."""
    return agents.AgentWarning(
        code=occurrence.code,
        severity=agents.Severity(occurrence.severity.value),
        summary=occurrence.summary[:512],
        hint=occurrence.hint[:512],
        since=occurrence.since,
    )


class Checkup:
    """Looks at one process and its surroundings; raises and clears conditions."""

    def __init__(self, plane: Plane, health: Health, clock: Clock, database_up: Callable[[float], None]) -> None:
        self._plane = plane
        self._health = health
        self._clock = clock
        self._database_up = database_up
        self._looking = asyncio.Lock()

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            await self.look()
            await self._clock.sleep(INTERVAL_SECONDS)

    async def look(self) -> None:
        """Look at everything once."""
        async with self._looking:
            await self._look_at_database()
        config = self._plane.config
        self._look_at_road(config)
        if config.tls_certificate is not None:
            self._look_at_certificate(config.tls_certificate)
        self._look_at_admin_token(config.admin_token_file)

    def warnings(self) -> tuple[agents.AgentWarning, ...]:
        """What is wrong now, the worst first; the listener's own words included."""
        found = [to_wire(occurrence) for occurrence in self._health.visible()]
        if not self._health.holds(DATABASE):  # an outage of the database explains that notifications stay away
            found += self._plane.listener.health()
        order = list(agents.Severity)
        return tuple(sorted(found, key=lambda one: -order.index(one.severity)))

    async def _look_at_database(self) -> None:
        try:
            with translated():
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._plane.pool.execute("SELECT 1")
        except DatabaseError as error:
            if isinstance(error.__cause__, TimeoutError) and self._plane.roster.writable_seconds() > 0:
                self._health.raise_(
                    DATABASE_BUSY,
                    f"The database did not answer within {ANSWER_SECONDS:g} seconds, but heartbeats are written.",
                    "If it lasts, look at what the database is busy with.",
                )
                return
            self._database_up(0)
            self._health.raise_(
                DATABASE,
                f"The database does not answer: {error.summary}",
                "Heartbeats are kept and claims wait until it is back; nothing has to be restarted.",
            )
        else:
            self._database_up(1)
            self._health.clear(DATABASE)
            self._health.clear(DATABASE_BUSY)

    def _look_at_road(self, config: DeploymentConfig) -> None:
        if config.tls_certificate is None and not config.trusted_proxies and not _is_loopback(config.listen_host):
            self._health.raise_(
                PLAIN_HTTP,
                f"Agent tokens cross the network in plain text: {config.listen_host} is served without TLS.",
                "Set [isthmus] tls_certificate and tls_private_key, or trusted_proxies for an ingress that ends TLS.",
            )

    def _look_at_certificate(self, path: Path) -> None:
        try:
            ends = min(one.not_valid_after_utc for one in x509.load_pem_x509_certificates(path.read_bytes()))
        except (OSError, ValueError) as error:
            self._health.raise_(
                CERTIFICATE_UNREADABLE,
                f"{path} cannot be read any more: {error}",
                "The certificate that was read at the start is still used; a restart would fail.",
            )
            return
        self._health.clear(CERTIFICATE_UNREADABLE)
        left = ends - self._clock.now()
        hint = f"Replace {path} and its key, then send SIGHUP."
        if left <= timedelta():
            self._health.raise_(CERTIFICATE_EXPIRED, f"The certificate ended at {ends:%Y-%m-%d %H:%M} UTC.", hint)
        else:
            self._health.clear(CERTIFICATE_EXPIRED)
        if timedelta() < left <= EXPIRING:
            self._health.raise_(CERTIFICATE_EXPIRING, f"The certificate ends at {ends:%Y-%m-%d %H:%M} UTC.", hint)
        else:
            self._health.clear(CERTIFICATE_EXPIRING)

    def _look_at_admin_token(self, path: Path | None) -> None:
        hint = "Set [isthmus] admin_token_file to a file that only this user can read."
        if path is None:
            self._health.raise_(ADMIN_TOKEN, "The admin API refuses every request: it has no token.", hint)
            return
        try:
            mode = path.stat().st_mode
            empty = not path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            self._health.raise_(ADMIN_TOKEN, f"The admin API refuses every request: {error}", hint)
            return
        if empty:
            self._health.raise_(ADMIN_TOKEN, f"The admin API refuses every request: {path} is empty.", hint)
        else:
            self._health.clear(ADMIN_TOKEN)
        if mode & (stat.S_IRGRP | stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH):
            self._health.raise_(
                ADMIN_TOKEN_EXPOSED, f"{path} can be read or written by other users.", f"Run: chmod 600 {path}"
            )
        else:
            self._health.clear(ADMIN_TOKEN_EXPOSED)


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"
