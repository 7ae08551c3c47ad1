"""Sockets in a lab's networks, for tests that stay outside: a socket stays in the namespace that it was made in."""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from faults.harness.proxies import Loop
from isthmus.lab.packets import namespaces

#: The namespace that the tests themselves run in.
HOST = ""

_BLOCK = 65536


@dataclass(frozen=True)
class Place:
    """Where something listens: a namespace, an address and a port in it."""

    namespace: str
    port: int
    address: str = "127.0.0.1"


def made_in(namespace: str, make: Callable[[], socket.socket]) -> socket.socket:
    """What ``make`` makes in a thread that has entered ``namespace``. Raises what ``make`` raises."""

    def run() -> socket.socket:
        if namespace:
            namespaces.enter(namespace)
        return make()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()


class Relay:
    """Carries connections from one place to another: what listens on loopback is there in another network as well."""

    def __init__(self, loop: Loop, here: Place, there: Place) -> None:
        self._loop = loop
        self._there = there
        self._tasks: set[asyncio.Task[None]] = set()
        listening = made_in(here.namespace, lambda: socket.create_server((here.address, here.port)))
        self._server = loop.run(asyncio.start_server(self._accept, sock=listening))

    def close(self) -> None:
        def apply() -> None:
            self._server.close()
            for task in self._tasks:
                task.cancel()

        self._loop.call(apply)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        far: asyncio.StreamWriter | None = None
        try:
            back, far = await self._reach()
            async with asyncio.TaskGroup() as group:
                group.create_task(_carry(reader, far))
                group.create_task(_carry(back, writer))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for end in (writer, far):
                if end is not None:
                    end.transport.abort()

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        outgoing = made_in(self._there.namespace, socket.socket)
        try:
            outgoing.setblocking(False)
            await asyncio.get_running_loop().sock_connect(outgoing, (self._there.address, self._there.port))
        except OSError:
            outgoing.close()
            raise
        return await asyncio.open_connection(sock=outgoing)


async def _carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while block := await source.read(_BLOCK):
        sink.write(block)
        await sink.drain()
    with suppress(OSError):
        sink.write_eof()
