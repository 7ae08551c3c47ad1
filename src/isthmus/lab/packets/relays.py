"""The relay's process: there while an approved endpoint needs it, told what to do, started again when it ends."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import IPv4Address
from typing import Final

from isthmus.lab.packets import namespaces, relaying
from isthmus.lab.packets.fabric import Limits
from isthmus.lab.packets.machines import Relayed
from isthmus.lab.packets.namespaces import PacketsError

_ANSWER_SECONDS: Final = 10.0
_END_SECONDS: Final = 2.0


class Relays:
    """The relay of one lab, or none. Use it from one event loop's thread: it ends with that thread."""

    def __init__(self, namespace: str, limits: Limits) -> None:
        self._namespace = namespace
        self._limits = limits
        self._process: asyncio.subprocess.Process | None = None
        self._told: tuple[Relayed, ...] = ()

    @property
    def has_ended(self) -> bool:
        """Whether it should be there and is not."""
        return self._process is not None and self._process.returncode is not None

    async def converge(self, relayed: tuple[Relayed, ...]) -> None:
        """Have it relay exactly these. Raises PacketsError."""
        if not relayed or self.has_ended:
            await self.stop()
        if not relayed or (self._process is not None and relayed == self._told):
            return
        if self._process is None:
            self._process = await self._start()
        await self._tell(relayed)
        self._told = relayed

    async def ports_used(self) -> Mapping[IPv4Address, int]:
        """How many ports of NAT addresses, as they are inside the fabric, are in use. Raises PacketsError."""
        return await self._tell(self._told) if self._process is not None and not self.has_ended else {}

    async def stop(self) -> None:
        """End it, with its connections."""
        process, self._process, self._told = self._process, None, ()
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.kill()
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                await process.wait()

    async def _start(self) -> asyncio.subprocess.Process:
        try:
            return await asyncio.create_subprocess_exec(
                *("setpriv", "--pdeathsig", "KILL"),
                *("nsenter", f"--net={namespaces.DIRECTORY / self._namespace}"),
                *(sys.executable, "-m", relaying.__name__),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=namespaces.environment(self._namespace, os.environ),
                start_new_session=True,
            )
        except OSError as error:
            raise PacketsError(f"cannot start the relay: {error}", code="relay_failed") from error

    async def _tell(self, relayed: tuple[Relayed, ...]) -> Mapping[IPv4Address, int]:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return {}
        said = relaying.told(relayed, idle_seconds=self._limits.idle_seconds, ports=self._limits.ports)
        try:
            process.stdin.write(said)
            async with asyncio.timeout(_ANSWER_SECONDS):
                await process.stdin.drain()
                answer = await process.stdout.readline()
            return {IPv4Address(address): count for address, count in json.loads(answer).items()}
        except (OSError, TimeoutError, ValueError) as error:
            raise PacketsError(f"the relay does not answer: {error!r}", code="relay_failed") from error
