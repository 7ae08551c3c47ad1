"""The loop of an ingress: ask for the picture, put it in force when it has changed, say what is wrong.

The control plane may be away: the ingress goes on with what it has, from disk if it was started anew. Certificates are
read at each look, so a renewed one is in force a moment later without being asked for.
"""

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Final, Protocol

import structlog

from isthmus.control.ingress.config import IngressConfig
from isthmus.control.ingress.pictures import IngressPicture
from isthmus.control.ingress.rendering import Files, render
from isthmus.control.ingress.running import Haproxy
from isthmus.kit import processes
from isthmus.kit.backoffs import Backoff, BackoffConfig
from isthmus.kit.clocks import Clock
from isthmus.kit.errors import ConfigError, InternalError, IsthmusError, TemporaryError
from isthmus.kit.health import Condition, Health, Severity

REGISTRY_AWAY: Final = Condition("registry_unreachable", Severity.WARNING, visible_after_seconds=10.0)
NOT_IN_FORCE: Final = Condition("ingress_not_current", Severity.ERROR)

#: Errors here are other people's to mend: look again soon, and do not spin.
_PATIENCE: Final = BackoffConfig(first_seconds=1.0, longest_seconds=30.0)

#: sockaddr_un has 107 bytes for a path (unix(7)), and HAProxy binds to the path with ``.<pid>.tmp`` behind it first.
_SOCKET_PATH_BYTES: Final = 95

log = structlog.get_logger(__name__)


class Registry(Protocol):
    """Where pictures come from."""

    async def picture(self) -> IngressPicture:
        """What the ingress should do now. Raises IsthmusError."""
        ...


class Ingress:
    """Keeps one HAProxy at what the registry says."""

    def __init__(self, config: IngressConfig, registry: Registry, health: Health, clock: Clock) -> None:
        self._config = config
        self._registry = registry
        self._health = health
        self._clock = clock
        self._files = Files(config.home)
        self._haproxy = Haproxy(config.haproxy, self._files)
        self._in_force = ""
        self.reloads = 0

    @property
    def is_serving(self) -> bool:
        """Whether some configuration is in force."""
        return bool(self._in_force) and self._haproxy.is_running

    async def workers(self) -> dict[int, int]:
        """HAProxy's workers by process id, with the reloads that each has seen."""
        return await self._haproxy.workers()

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop``. Raises ConfigError if it cannot begin, InternalError if HAProxy ends by itself."""
        _prepare(self._config)
        try:
            await self._begin(stop)
            if not stop.is_set():
                await self._follow(stop)
        finally:
            await self._haproxy.stop(self._config.drain_seconds)

    async def look(self) -> bool:
        """Ask once, and put in force what is new; whether there was something new. Raises IsthmusError."""
        try:
            picture = await self._registry.picture()
        except TemporaryError as error:
            self._health.raise_(REGISTRY_AWAY, f"the registry does not answer: {error.summary}", error.hint)
            raise
        self._health.clear(REGISTRY_AWAY)
        try:
            is_new = await self._apply(render(picture, self._config))
        except IsthmusError as error:
            self._health.raise_(NOT_IN_FORCE, error.summary, error.hint)
            raise
        self._health.clear(NOT_IN_FORCE)
        return is_new

    async def _begin(self, stop: asyncio.Event) -> None:
        """Start with the registry's picture, or with the last configuration while it does not answer."""
        backoff = Backoff(_PATIENCE, self._clock)
        while not stop.is_set():
            try:
                await self.look()
            except TemporaryError:
                if await self._resume():
                    return
                await self._clock.wait(stop, backoff.failed())
            else:
                return

    async def _resume(self) -> bool:
        try:
            text = self._files.configuration.read_text()
        except FileNotFoundError:
            return False
        log.warning("starting with the configuration of the last time", configuration=str(self._files.configuration))
        try:
            await self._apply(text)
        except IsthmusError as error:
            log.warning("it cannot be used any more", why=str(error))
            return False
        return True

    async def _follow(self, stop: asyncio.Event) -> None:
        backoff = Backoff(_PATIENCE, self._clock)
        ending = asyncio.ensure_future(self._haproxy.wait())
        try:
            while not stop.is_set() and not ending.done():
                pause = self._config.reload_seconds
                try:
                    await self.look()
                    backoff.succeeded()
                except IsthmusError:
                    pause = max(pause, backoff.failed())
                await self._clock.wait(stop, pause)
        finally:
            ending.cancel()
        if not stop.is_set():
            raise InternalError("HAProxy ended by itself", code="haproxy_ended", hint="See its last lines in the log.")

    async def _apply(self, text: str) -> bool:
        certificate = _certificate(self._config.certificate, self._config.private_key)
        fingerprint = hashlib.sha256(text.encode() + b"\0" + certificate).hexdigest()
        if fingerprint == self._in_force:
            return False
        await self._haproxy.apply(text, certificate)
        self.reloads += 1 if self._in_force else 0
        self._in_force = fingerprint
        log.info("the configuration is in force", reloads=self.reloads)
        return True


def _prepare(config: IngressConfig) -> None:
    """Make the home, and see that HAProxy can use it. Raises ConfigError."""
    home = config.home
    try:
        home.mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the ingress's home {home} cannot be made: {error.strerror}",
            code="home_unusable",
            hint="Name another with --home.",
        ) from None
    longest = max(len(os.fsencode(path.absolute())) for path in Files(home).sockets)
    if longest > _SOCKET_PATH_BYTES:
        raise ConfigError(
            f"the ingress's home {home} is too deep: a socket in it would have a path of {longest} bytes",
            code="home_unusable",
            hint=f"The system allows {_SOCKET_PATH_BYTES}. Name another with --home.",
        )
    if config.user is None or os.geteuid() != 0:
        return
    user = processes.find_user(config.user)
    shut = next((one for one in (home.absolute(), *home.absolute().parents) if not user.may_enter(one)), None)
    if shut is not None:  # it would serve the public entrance, and reset every connection of a link
        raise ConfigError(
            f"HAProxy's user {config.user} cannot enter {shut}, where the ingress's sockets are to be",
            code="home_unusable",
            hint=f"chmod o+x {shut}, or name another home with --home.",
        )


def _certificate(chain: Path, key: Path) -> bytes:
    try:
        return chain.read_bytes().rstrip() + b"\n" + key.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{error.filename} cannot be read: {error.strerror}",
            code="certificate_unreadable",
            hint="--certificate and --private-key name PEM files that this user may read.",
        ) from None
