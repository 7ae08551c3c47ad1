"""The resolvers: one dnsmasq a namespace, started with its configuration on standard input, and again when it ends or
changes.

A dnsmasq dies with the process that started it (``setpriv --pdeathsig``), so there is never more than one at an
address; one that was left over all the same is found by its namespace. While it starts again, questions wait
(``networks``, "silence").
"""

import asyncio
import os
import subprocess
import time
from collections.abc import Collection, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from isthmus.kit import logs
from isthmus.lab.packets import namespaces
from isthmus.lab.packets.machines import Resolver
from isthmus.lab.packets.namespaces import PacketsError

log = logs.get(component="lab")

_READY_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 0.001
_END_SECONDS: Final = 2.0
_DNS_PORT: Final = 53


class Resolvers:
    """The dnsmasq processes of one lab. Use it from one event loop's thread: they end with that thread."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[Resolver, subprocess.Popen[bytes]]] = {}

    def ended(self) -> list[str]:
        """The namespaces whose resolver is not there any more."""
        return [name for name, (_, process) in self._running.items() if process.poll() is not None]

    async def converge(self, wanted: Mapping[str, Resolver], *, anew: Collection[str] = ()) -> None:
        """Have exactly ``wanted`` run; those in namespaces ``anew`` start again anyway. Raises PacketsError."""
        dead = {*self.ended(), *anew}
        gone = [name for name in self._running if name in dead or wanted.get(name) != self._running[name][0]]
        for name in gone:
            _, process = self._running.pop(name)
            await _end(process)
        new = {name: resolver for name, resolver in wanted.items() if name not in self._running}
        for name, resolver in new.items():
            self._running[name] = resolver, _start(name, resolver)
        for name, resolver in new.items():
            await _ready(name, resolver.address, self._running[name][1])

    async def stop(self) -> None:
        """End them all."""
        await self.converge({})


def _start(namespace: str, resolver: Resolver) -> subprocess.Popen[bytes]:
    configuration = os.memfd_create("dnsmasq.conf")
    try:
        os.write(configuration, resolver.configuration.encode("latin-1"))
        os.lseek(configuration, 0, os.SEEK_SET)
        return subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL", "nsenter", f"--net={namespaces.DIRECTORY / namespace}"),
                *("dnsmasq", "--keep-in-foreground", "--conf-file=-", "--pid-file"),
                # Another user would not die with us: the kernel forgets that wish when the user changes.
                *("--user=root", "--group=root", "--bind-interfaces", f"--listen-address={resolver.address}"),
            ],
            stdin=configuration,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=namespaces.environment(namespace, os.environ),
            start_new_session=True,
        )
    except OSError as error:
        raise PacketsError(f"cannot start dnsmasq: {error}", code="resolver_failed") from error
    finally:
        os.close(configuration)


async def _ready(namespace: str, address: IPv4Address, process: subprocess.Popen[bytes]) -> None:
    """Until the resolver listens. Raises PacketsError."""
    deadline = time.monotonic() + _READY_SECONDS
    while not _listens(process.pid, address):
        if process.poll() is not None:
            raise PacketsError(
                f"dnsmasq in {namespace} ended with exit code {process.returncode}",
                code="resolver_failed",
                hint="A record may hold what dnsmasq does not take.",
            )
        if time.monotonic() > deadline:
            raise PacketsError(f"dnsmasq in {namespace} does not listen", code="resolver_failed")
        await asyncio.sleep(_PAUSE_SECONDS)


def _listens(pid: int, address: IPv4Address) -> bool:
    """Whether somebody in the namespace of ``pid`` listens on UDP there. TCP comes first with dnsmasq."""
    wanted = f"{int.from_bytes(address.packed, 'little'):08X}:{_DNS_PORT:04X}"
    try:
        lines = Path(f"/proc/{pid}/net/udp").read_text().splitlines()
    except OSError:
        return False
    return any(line.split()[1] == wanted for line in lines[1:])


async def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    deadline = time.monotonic() + _END_SECONDS
    while process.poll() is None:
        if time.monotonic() > deadline:
            log.error("dnsmasq does not end", pid=process.pid)
            return
        await asyncio.sleep(_PAUSE_SECONDS)
