"""A small HTTP proxy that knows CONNECT, plain or behind TLS, with a password if wanted. Runs in a thread."""

import asyncio
import base64
import ssl
import threading
from pathlib import Path
from types import TracebackType
from typing import Self


class FakeProxy:
    """Start it with ``with``; ``connects`` lists what it was asked for."""

    def __init__(
        self,
        *,
        password: str = "",
        forbidden: bool = False,
        certificate: Path | None = None,
        key: Path | None = None,
    ) -> None:
        self._expected = f"basic {base64.b64encode(password.encode()).decode()}" if password else ""
        self._forbidden = forbidden
        self._tls: ssl.SSLContext | None = None
        if certificate is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate, key)
        self.connects: list[str] = []
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fake proxy", daemon=True)
        self._ready = threading.Event()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://localhost:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(5)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _run(self) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.1))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, target, _ = head.split(" ", 2)
        self.connects.append(target)
        if self._expected and f"proxy-authorization: {self._expected}" not in head.lower().replace(
            self._expected.lower(), self._expected
        ):
            refused = b"407 Proxy Authentication Required"
        elif self._forbidden or method != "CONNECT":
            refused = b"403 Forbidden"
        else:
            refused = b""
        if refused:
            writer.write(b"HTTP/1.1 " + refused + b"\r\ncontent-length: 0\r\n\r\n")
            writer.close()
            return
        host, _, port = target.rpartition(":")
        there_reader, there_writer = await asyncio.open_connection(
            "127.0.0.1" if host == "localhost" else host, int(port)
        )
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_pump(reader, there_writer), _pump(there_reader, writer), return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
