"""Programs of tests in a lab's namespaces: an echo server that says whom it sees, and a client that is told what to do.

Both are this file, started with ``nsenter``; they speak lines of JSON on their standard streams, and end
with their input.
"""

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype

SECONDS = 20


class Program:
    """One of them, running."""

    def __init__(self, namespace: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{namespace}", sys.executable, str(Path(__file__)), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def ask(self, **question: Any) -> Any:
        """The answer to a question."""
        self.tell(**question)
        return self.answer()

    def tell(self, **question: Any) -> None:
        """Ask, and take the answer later."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")

    def answer(self) -> Any:
        """What it says next."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the program has ended"
        return json.loads(line)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


@contextmanager
def server(namespace: str, *bound: str, say: str = "") -> Iterator[Program]:
    """An echo server on each of ``address:port`` (``udp:address:port`` for UDP); each connection begins with a line."""
    program = Program(namespace, "server", say, *bound)
    try:
        assert program.answer() == "ready"
        yield program
    finally:
        program.close()


@contextmanager
def client(namespace: str) -> Iterator[Program]:
    """A client: ``Connection`` and the functions below speak with it."""
    program = Program(namespace, "client")
    try:
        yield program
    finally:
        program.close()


# --- inside ----------------------------------------------------------------------------------------------------------


def _serve(say: str, bound: Sequence[str]) -> None:
    async def main() -> None:
        heads: list[str] = []

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                if say == "header":
                    head = await reader.readexactly(36)
                    writer.write(
                        json.dumps({"sees": writer.get_extra_info("peername"), "head": head.hex()}).encode() + b"\n"
                    )
                else:
                    port = writer.get_extra_info("sockname")[1]
                    seen = {"sees": writer.get_extra_info("peername"), "is": say, "port": port}
                    writer.write(json.dumps(seen).encode() + b"\n")
                while data := await reader.read(1 << 16):
                    writer.write(data)
                    await writer.drain()
            except OSError as error:
                heads.append(type(error).__name__)
            finally:
                writer.close()

        class Echo(asyncio.DatagramProtocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = transport

            def datagram_received(self, data: bytes, addr: Any) -> None:
                self.transport.sendto(json.dumps({"sees": addr, "is": say}).encode(), addr)  # type: ignore[attr-defined]

        for one in bound:
            address, port = one.rsplit(":", 1)
            if address.startswith("udp:"):
                loop = asyncio.get_running_loop()
                await loop.create_datagram_endpoint(Echo, local_addr=(address[4:], int(port)))
            else:
                await asyncio.start_server(take, address, int(port), backlog=512)
        print('"ready"', flush=True)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while await reader.readline():
            print(json.dumps(heads), flush=True)

    asyncio.run(main())


class _Client:
    def __init__(self) -> None:
        self.connections: dict[str, socket.socket] = {}

    def connect(self, name: str, to: str, port: int, seconds: float = 1.0, source: Any = None) -> Any:
        """Connect, and read the server's line."""
        one = socket.socket()
        one.settimeout(seconds)
        if source:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(tuple(source))
        began = time.monotonic()
        try:
            one.connect((to, port))
            line = b""
            while not line.endswith(b"\n"):
                more = one.recv(4096)
                if not more:
                    return "closed"
                line += more
        except OSError as error:
            one.close()
            return type(error).__name__
        self.connections[name] = one
        return {**json.loads(line), "from": one.getsockname()[0], "seconds": time.monotonic() - began}

    def connect_until(self, to: str, port: int, seconds: float) -> Any:
        """Connect again and again with little patience; the seconds of the clock when it was there."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            answer = self.connect("until", to, port, seconds=0.02)
            if isinstance(answer, dict):
                return time.monotonic()
        return None

    def talk(self, name: str, size: int = 10, seconds: float = 1.0) -> Any:
        """Send that many bytes, and whether they came back."""
        one = self.connections[name]
        one.settimeout(seconds)
        try:
            one.sendall(b"x" * size)
            left = size
            while left:
                got = len(one.recv(left))
                if not got:
                    return "closed"
                left -= got
        except OSError as error:
            return type(error).__name__
        return "echo"

    def listen(self, name: str, seconds: float) -> Any:
        """What comes by itself."""
        self.connections[name].settimeout(seconds)
        try:
            return self.connections[name].recv(100).decode() or "closed"
        except OSError as error:
            return type(error).__name__

    def close(self, name: str) -> Any:
        """Close."""
        self.connections.pop(name).close()

    def udp(self, to: str, port: int, seconds: float = 1.0) -> Any:
        """One datagram and its answer."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.settimeout(seconds)
            one.sendto(b"x", (to, port))
            try:
                return json.loads(one.recv(4096))
            except OSError as error:
                return type(error).__name__

    def ping(self, to: str, seconds: float = 1.0) -> Any:
        """Whether an ICMP echo is answered."""
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as one:
            one.settimeout(seconds)
            one.connect((to, 0))
            one.send(bytes.fromhex("0800f7fd00010001"))
            try:
                while True:
                    if one.recv(100)[20] == 0:
                        return True
            except OSError:
                return False

    def dns(
        self, name: str, kind: str = "A", server: str = "168.63.129.16", seconds: float = 2.0, tcp: bool = False
    ) -> Any:
        """Code and records: ``["NOERROR", [[name, ttl, type, value], ...]]``."""
        ask: Callable[..., Any] = dns.query.tcp if tcp else dns.query.udp
        try:
            said = ask(dns.message.make_query(name, kind), server, timeout=seconds)
        except (dns.exception.Timeout, OSError) as error:
            return [type(error).__name__, []]
        return [
            dns.rcode.to_text(said.rcode()),
            [
                [str(one.name).rstrip("."), one.ttl, dns.rdatatype.to_text(one.rdtype), str(value)]
                for one in said.answer
                for value in sorted(one, key=str)
            ],
        ]


def main() -> None:
    """Server or client."""
    if sys.argv[1] == "server":
        _serve(sys.argv[2], sys.argv[3:])
        return
    one = _Client()
    for line in sys.stdin:
        question = json.loads(line)
        print(json.dumps(getattr(one, question.pop("do"))(**question)), flush=True)


if __name__ == "__main__":
    main()
