"""The road between an agent and the plane, in the test's hands.

``Road`` forwards bytes and can be cut. ``Checkpoint`` ends TLS with a certificate of the test's own authority, sees
each request, and can hold it back or drop its answer. Both run on one event loop in a thread of their own, so that
tests stay straight lines.
"""

import asyncio
import re
import ssl
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, TypeVar

import h11

from faults.harness import ports, waits
from faults.harness.certificates import Authority

T = TypeVar("T")

_BLOCK = 65536


class Loop:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="proxies", daemon=True).start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def call(self, function: Callable[[], T]) -> T:
        async def wrapped() -> T:
            return function()

        return self.run(wrapped())


class NewConnections(Enum):
    """What a connection attempt meets while the road is cut."""

    REFUSED = auto()
    SILENCE = auto()


@dataclass(eq=False)
class _Lane:
    """One connection. A lane that was there when the road was cut never carries a byte again, as behind a device that
    forgot it: the ends have to notice by themselves."""

    dead: bool = False


class Road:
    """A TCP proxy from ``port`` to the plane."""

    def __init__(self, loop: Loop, target_port: int) -> None:
        self.port = ports.free_port()
        self.connections = 0
        self.bytes_lost = 0
        self._target_port = target_port
        self._loop = loop
        self._lanes: set[_Lane] = set()
        self._cut: NewConnections | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = loop.run(asyncio.start_server(self._accept, "127.0.0.1", self.port))

    def cut(self, new: NewConnections = NewConnections.REFUSED) -> None:
        """Lose every byte of both directions from now on, and let no new connection through."""

        def apply() -> None:
            self._cut = new
            for lane in self._lanes:
                lane.dead = True

        self._loop.call(apply)

    def resume(self) -> None:
        """Let new connections through; those of before the cut stay dead."""

        def apply() -> None:
            self._cut = None

        self._loop.call(apply)

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
        self.connections += 1
        lane = _Lane(dead=self._cut is not None)
        self._lanes.add(lane)
        there: asyncio.StreamWriter | None = None
        try:
            if self._cut is NewConnections.REFUSED:
                writer.transport.abort()
                return
            if lane.dead:
                await self._swallow(reader)
                return
            back, there = await asyncio.open_connection("127.0.0.1", self._target_port)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(lane, reader, there))
                group.create_task(self._carry(lane, back, writer))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass
        finally:
            self._lanes.discard(lane)
            self._tasks.discard(task)
            for end in (writer, there):
                if end is not None:
                    end.transport.abort()

    async def _carry(self, lane: _Lane, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while block := await source.read(_BLOCK):
            if lane.dead:
                self.bytes_lost += len(block)
                continue
            sink.write(block)
            await sink.drain()
        if not lane.dead:
            raise ConnectionResetError  # one end is gone: so is the other

    async def _swallow(self, reader: asyncio.StreamReader) -> None:
        while block := await reader.read(_BLOCK):
            self.bytes_lost += len(block)


@dataclass
class Seen:
    """A request that went through a checkpoint."""

    method: str
    path: str
    headers: list[tuple[str, str]] = field(repr=False)
    body: bytes = field(repr=False)
    status: int | None = None
    answer: bytes = field(default=b"", repr=False)
    dropped: bool = False


class Checkpoint:
    """A TLS-ending HTTP proxy to the plane.

    ``hold(pattern)`` keeps matching requests from going on until ``release``, also when who sent them is gone by then:
    so a delayed packet arrives late. ``drop_answer(pattern, when)`` forwards the next matching request, and closes the
    connection in place of answering; from that moment on it can hold others.
    """

    def __init__(self, loop: Loop, authority: Authority, target_port: int, trusted: Authority) -> None:
        self.port = ports.free_port()
        self.authority = authority
        self.seen: list[Seen] = []
        self.held: list[Seen] = []
        self._target_port = target_port
        self._loop = loop
        self._hold: re.Pattern[str] | None = None
        self._released = asyncio.Event()
        self._forgets = False
        self._drop: tuple[re.Pattern[str], Callable[[Seen], bool], str | None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        pair = authority.issue(f"checkpoint-{self.port}")
        server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server_context.load_cert_chain(pair.certificate, pair.private_key)
        self._client_context = ssl.create_default_context(cafile=str(trusted.certificate))
        self._server = loop.run(asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=server_context))

    def hold(self, pattern: str) -> None:
        self._loop.call(lambda: self._hold_from_now(pattern))

    def await_held(self, seconds: float = 20) -> Seen:
        return waits.until("a request is held at the checkpoint", lambda: self.held, seconds=seconds, pause=0.02)[0]

    def hold_no_more(self) -> None:
        """New requests pass; the held ones stay where they are."""

        def apply() -> None:
            self._hold = None

        self._loop.call(apply)

    def release(self, *, forget: bool = False) -> None:
        """New requests pass, and the held ones go on, or are lost."""

        def apply() -> None:
            self._hold = None
            self._forgets = forget
            self._released.set()
            self.held.clear()

        self._loop.call(apply)

    def drop_answer(self, pattern: str, when: Callable[[Seen], bool], *, then_hold: str | None = None) -> None:
        def apply() -> None:
            self._drop = (re.compile(pattern), when, then_hold)

        self._loop.call(apply)

    def dropped(self) -> list[Seen]:
        return [seen for seen in list(self.seen) if seen.dropped]

    def close(self) -> None:
        def apply() -> None:
            self._server.close()
            for task in self._tasks:
                task.cancel()

        self._loop.call(apply)

    def _hold_from_now(self, pattern: str) -> None:
        self._released.clear()
        self._forgets = False
        self._hold = re.compile(pattern)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        there: asyncio.StreamWriter | None = None
        try:
            back, there = await asyncio.open_connection(
                "127.0.0.1", self._target_port, ssl=self._client_context, server_hostname="127.0.0.1"
            )
            await self._converse(reader, writer, back, there)
        except (OSError, h11.RemoteProtocolError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for end in (writer, there):
                if end is not None:
                    end.transport.abort()

    async def _converse(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        back: asyncio.StreamReader,
        there: asyncio.StreamWriter,
    ) -> None:
        here = h11.Connection(h11.SERVER)
        plane = h11.Connection(h11.CLIENT)
        while True:
            incoming = await _receive(here, reader)
            if incoming is None:
                return
            request, body = incoming
            assert isinstance(request, h11.Request)
            headers = [(name.decode(), value.decode("latin-1")) for name, value in request.headers]
            seen = Seen(request.method.decode(), request.target.decode(), headers, body)
            self.seen.append(seen)
            if self._hold is not None and self._hold.search(seen.path):
                self.held.append(seen)
                await self._released.wait()
                if self._forgets:
                    return
            await _send(plane, there, request, body)
            outgoing = await _receive(plane, back)
            if outgoing is None:
                return
            response, seen.answer = outgoing
            assert isinstance(response, h11.Response)
            seen.status = response.status_code
            if self._drop is not None and self._drop[0].search(seen.path) and self._drop[1](seen):
                seen.dropped = True
                if self._drop[2] is not None:
                    self._hold_from_now(self._drop[2])
                self._drop = None
                return
            await _send(here, writer, response, seen.answer)
            if h11.MUST_CLOSE in {here.our_state, plane.our_state}:
                return
            here.start_next_cycle()
            plane.start_next_cycle()


async def _receive(
    connection: h11.Connection, reader: asyncio.StreamReader
) -> tuple[h11.Request | h11.Response, bytes] | None:
    """The next head and its whole body; None when the other end is gone."""
    head: h11.Request | h11.Response | None = None
    body = bytearray()
    while True:
        match connection.next_event():
            case h11.NEED_DATA:
                data = await reader.read(_BLOCK)
                if not data and head is None:
                    return None
                connection.receive_data(data)
            case h11.Request() | h11.Response() as event:
                head = event
            case h11.Data() as event:
                body += event.data
            case h11.EndOfMessage():
                assert head is not None
                return head, bytes(body)
            case h11.ConnectionClosed() | h11.PAUSED:
                return None


async def _send(
    connection: h11.Connection, writer: asyncio.StreamWriter, head: h11.Request | h11.Response, body: bytes
) -> None:
    with suppress(ConnectionError):
        writer.write(connection.send(head) or b"")
        if body:
            writer.write(connection.send(h11.Data(data=body)) or b"")
        writer.write(connection.send(h11.EndOfMessage()) or b"")
        await writer.drain()
