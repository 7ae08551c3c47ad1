"""Carrying TCP connections between networks that have no road to each other, and between them and this machine.

The lab's networks see neither the machine's own addresses nor, unless they are peered, each other: as in Azure. What
crosses all the same is asked for by name: ``host:8080=plane:8080`` listens on this machine's 127.0.0.1:8080 and
connects to 127.0.0.1:8080 inside the network ``plane``. One process serves any number of such pairs; a connection is
carried byte for byte, each direction ended on its own, and ends with the process.
"""

import asyncio
import re
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import Final

from isthmus.kit import logs
from isthmus.kit.errors import ConfigError, IsthmusError, PermanentError
from isthmus.lab.packets import namespaces

#: The place that is no network of the lab's: this machine.
HOST: Final = "host"
_LOOPBACK: Final = IPv4Address("127.0.0.1")
_CONNECT_SECONDS: Final = 20.0
_CHUNK_BYTES: Final = 1 << 16
_PLACE: Final = re.compile(r"(?P<network>[^:=]+):(?:(?P<address>[^:=]+):)?(?P<port>\d{1,5})")

log = logs.get(component="lab")


@dataclass(frozen=True, slots=True)
class Place:
    """An address and a port in a network; ``network`` is a name or id as in ``lab exec``, or ``host``."""

    network: str
    address: IPv4Address
    port: int

    def __str__(self) -> str:
        """As one types it."""
        return f"{self.network}:{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Forward:
    """Connections to ``listen`` are carried to ``target``."""

    listen: Place
    target: Place

    def __str__(self) -> str:
        """As one types it."""
        return f"{self.listen}={self.target}"


def parse(text: str) -> Forward:
    """``LISTEN=TARGET``, each ``NETWORK:[ADDRESS:]PORT``. Raises ConfigError."""
    listen, equals, target = text.partition("=")
    if not equals:
        raise _malformed(text, "there is no =")
    return Forward(_place(text, listen), _place(text, target))


def _place(whole: str, text: str) -> Place:
    found = _PLACE.fullmatch(text)
    if found is None:
        raise _malformed(whole, f"{text!r} is no NETWORK:PORT or NETWORK:ADDRESS:PORT")
    port = int(found["port"])
    if not 1 <= port <= 0xFFFF:
        raise _malformed(whole, f"there is no port {port}")
    try:
        address = IPv4Address(found["address"]) if found["address"] else _LOOPBACK
    except AddressValueError:
        raise _malformed(whole, f"{found['address']!r} is no IPv4 address") from None
    return Place(found["network"], address, port)


def _malformed(text: str, why: str) -> ConfigError:
    return ConfigError(
        f"cannot forward {text!r}: {why}",
        code="forward_malformed",
        hint="LISTEN=TARGET, as in host:8080=plane:10.1.0.20:80; a place without an address is 127.0.0.1 there.",
    )


async def serve(
    forwards: Sequence[Forward], find: Callable[[str], str], ready: Callable[[Forward], None] | None = None
) -> None:
    """Carry connections until SIGTERM or SIGINT. ``find`` knows the namespace of a network.

    Raises PermanentError when something else listens there already, and what ``find`` raises.
    """
    spaces = {
        one.network: "" if one.network == HOST else find(one.network)
        for forward in forwards
        for one in (forward.listen, forward.target)
    }
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    async with AsyncExitStack() as stack:
        carriers = [_Carrier(one, spaces) for one in forwards]
        for carrier in carriers:
            await carrier.start()
            stack.push_async_callback(carrier.stop)
        for one in forwards:
            if ready is not None:
                ready(one)
        await over.wait()


class _Carrier:
    """One forward: its listener, and its connections."""

    def __init__(self, forward: Forward, spaces: dict[str, str]) -> None:
        self._forward = forward
        self._spaces = spaces
        self._server: asyncio.Server | None = None
        self._under_way: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        listen = self._forward.listen
        try:
            made = await namespaces.within(
                self._spaces[listen.network], lambda: socket.create_server((str(listen.address), listen.port))
            )
        except OSError as error:
            raise PermanentError(
                f"cannot listen on {listen}: {error.strerror}",
                code="forward_taken",
                hint="Choose another port, or an address that the network has: isthmus lab status.",
            ) from None
        self._server = await asyncio.start_server(self._carry, sock=made)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for one in list(self._under_way):
            one.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        try:
            other_reader, other_writer = await self._connect()
        except (OSError, IsthmusError) as error:
            log.warning("not forwarded", target=str(self._forward.target), reason=str(error))
            writer.transport.abort()
            return
        try:
            await asyncio.gather(_copy(reader, other_writer), _copy(other_reader, writer))
        except OSError:  # one side was reset: so is the other
            writer.transport.abort()
            other_writer.transport.abort()
        finally:
            writer.close()
            other_writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        target = self._forward.target
        made = await namespaces.within(self._spaces[target.network], _socket)
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(made, (str(target.address), target.port))
        except BaseException:
            made.close()
            raise
        return await asyncio.open_connection(sock=made)


def _socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What one says until it has said all, at the pace of the other."""
    while data := await reader.read(_CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    with suppress(OSError):
        writer.write_eof()
