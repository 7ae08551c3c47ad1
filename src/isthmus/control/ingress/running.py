"""HAProxy as a program: checked, started, reloaded, stopped.

One master process stays and keeps the sockets; a reload (SIGUSR2) makes it read the configuration again and start a new
worker, which takes the listeners over from the old one, so that no connection is refused in between. The old worker
answers what it has accepted and ends (HAProxy, "Management guide", 4). One that was left behind, because who started it
was killed, serves on until it is replaced in the same way. Invariant: what is in force has passed
``haproxy -c``; a configuration that does not pass changes nothing, on disk neither.
"""

import asyncio
import contextlib
import os
import re
import signal
from pathlib import Path
from typing import Final

import structlog

from isthmus.control.ingress.rendering import Files
from isthmus.kit.errors import ConfigError, TemporaryError

_CHECK_SECONDS: Final = 20.0
#: How long a new worker may take to be there.
_RELOAD_SECONDS: Final = 15.0
_LOOK_SECONDS: Final = 0.05
#: After its time to drain, HAProxy is not asked any more.
_KILL_SECONDS: Final = 5.0
#: Lines of ``show proc``: process id, what it is, and the number of reloads that it has seen.
_WORKER: Final = re.compile(r"^(\d+)\s+worker\s+(\d+)\s", re.MULTILINE)
_MASTER: Final = re.compile(r"^(\d+)\s+master\s", re.MULTILINE)

log = structlog.get_logger(__name__)


class ReloadError(TemporaryError):
    """HAProxy did not take a configuration that it had found good; the old one is still served."""


class Haproxy:
    """One HAProxy. Not safe for use by two tasks at once."""

    def __init__(self, program: str, files: Files) -> None:
        self._program = program
        self._files = files
        self._process: asyncio.subprocess.Process | None = None

    @property
    def is_running(self) -> bool:
        """Whether the master process is there."""
        return self._process is not None and self._process.returncode is None

    async def apply(self, text: str, certificate: bytes) -> None:
        """Put a configuration in force, by a start or a reload.

        Raises ConfigError if HAProxy finds it wrong, ReloadError if it does not come up; then the one before is served.
        """
        before = _kept(self._files.configuration), _kept(self._files.certificate)
        await self._check(text, certificate)
        _write(self._files.certificate, certificate)
        _write(self._files.configuration, text.encode())
        try:
            await (self._reload() if self.is_running else self._start())
        except ReloadError:
            for path, content in zip((self._files.configuration, self._files.certificate), before, strict=True):
                if content is not None:
                    _write(path, content)
            raise

    async def wait(self) -> int:
        """Return how the master process ended, when it has."""
        if self._process is None:
            raise ConfigError("HAProxy was not started", code="haproxy_not_started")
        return await self._process.wait()

    async def stop(self, seconds: float) -> None:
        """Let requests end for ``seconds``, and then end without them."""
        if self._process is None:
            return
        for number, patience in ((signal.SIGUSR1, seconds), (signal.SIGTERM, _KILL_SECONDS), (signal.SIGKILL, None)):
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), patience)
                break
        for path in (self._files.master, self._files.stats, self._files.inner):
            path.unlink(missing_ok=True)

    async def workers(self) -> dict[int, int]:
        """The workers that serve or drain, by process id, with the reloads that each has seen; empty without answer."""
        return {int(pid): int(reloads) for pid, reloads in _WORKER.findall(await self._processes())}

    async def _processes(self) -> str:
        """What the master process says of all of them; empty without answer."""
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                reader, writer = await asyncio.open_unix_connection(str(self._files.master))
                try:
                    writer.write(b"show proc\n")
                    writer.write_eof()
                    return (await reader.read()).decode()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return ""

    async def _check(self, text: str, certificate: bytes) -> None:
        """Raise ConfigError unless HAProxy would take the configuration; tried beside the one in force."""
        trial = Files(self._files.home / "trial")
        trial.home.mkdir(mode=0o700, exist_ok=True)
        try:
            _write(trial.certificate, certificate)
            _write(trial.configuration, text.replace(str(self._files.certificate), str(trial.certificate)).encode())
            code, said = await self._run("-c", "-q", "-f", str(trial.configuration))
        finally:
            for path in (trial.certificate, trial.configuration):
                path.unlink(missing_ok=True)
        if code != 0:
            raise ConfigError(
                f"HAProxy does not take the ingress's configuration: {_first_alert(said)}",
                code="ingress_configuration_refused",
                hint="The one before is in force. The words are HAProxy's own; check certificate, ports and servers.",
            )

    async def _run(self, *arguments: str) -> tuple[int, str]:
        try:
            process = await asyncio.create_subprocess_exec(
                self._program, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
            )
        except OSError as error:
            raise _not_found(self._program, error) from None
        try:
            said, _ = await asyncio.wait_for(process.communicate(), _CHECK_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
            return 1, "no answer (a host name that does not resolve?)"
        return process.returncode or 0, said.decode(errors="replace")

    async def _start(self) -> None:
        before = frozenset(await self.workers())
        left_behind = [int(pid) for pid in _MASTER.findall(await self._processes())]
        if not left_behind:
            for path in (self._files.master, self._files.stats, self._files.inner):
                path.unlink(missing_ok=True)
        command = [self._program, "-W", "-S", f"{self._files.master},mode,600", "-f", str(self._files.configuration)]
        if left_behind:
            log.warning("taking over from an HAProxy that was left behind", pid=left_behind[0])
            command += ["-x", str(self._files.stats)]
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for us: we stop it in order
            )
        except OSError as error:
            raise _not_found(self._program, error) from None
        await self._new_worker(before)
        for pid in left_behind:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)

    async def _reload(self) -> None:
        assert self._process is not None  # noqa: S101 - apply has looked
        before = frozenset(await self.workers())
        self._process.send_signal(signal.SIGUSR2)
        await self._new_worker(before)

    async def _new_worker(self, before: frozenset[int]) -> None:
        """Return when there is a worker that was not there before."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RELOAD_SECONDS):
                while self.is_running:
                    current = [pid for pid, reloads in (await self.workers()).items() if reloads == 0]
                    if any(pid not in before for pid in current):
                        return
                    await asyncio.sleep(_LOOK_SECONDS)
        raise ReloadError(
            "HAProxy did not come up with the new configuration",
            code="ingress_reload_failed",
            hint="See its own lines in the log: most often a port is in use by something else.",
        )


def _first_alert(said: str) -> str:
    lines = [line.partition(" : ")[2] or line for line in said.splitlines() if "[ALERT]" in line]
    return (lines[0] if lines else said.strip() or "no reason given")[:500]


def _kept(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _write(path: Path, content: bytes) -> None:
    """Replace a file whole, readable by its owner alone."""
    fresh = path.with_suffix(path.suffix + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    fresh.replace(path)


def _not_found(program: str, error: OSError) -> ConfigError:
    return ConfigError(
        f"{program} cannot be started: {error.strerror}",
        code="haproxy_missing",
        hint="Install HAProxy 2.6 or later (Debian, Ubuntu: apt-get install haproxy), or name it with --haproxy.",
    )
