"""The small server: limits, streams, clients that leave, and the spool of large bodies."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from isthmus.kit import serving
from isthmus.kit.contents import MEMORY_BYTES, Content
from isthmus.kit.serving import Answer, Request, Server, ServingConfig

Answering = Callable[[Request], Awaitable[Answer]]


@asynccontextmanager
async def served(answering: Answering, config: ServingConfig | None = None) -> AsyncIterator[httpx.AsyncClient]:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    server = Server(answering, config)
    await server.listen(listener)
    port = listener.getsockname()[1]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=5) as client:
            yield client
    finally:
        await server.close()


async def echo(request: Request) -> Answer:
    return Answer(
        200, ((b"x-method", request.method.encode()), (b"x-target", request.target)), b"".join(request.content.chunks())
    )


async def test_the_raw_target_and_the_body_arrive() -> None:
    async with served(echo) as client:
        response = await client.put("/a%2Fb/c%20d?e=%26", content=b"body")
    assert (response.status_code, response.content) == (200, b"body")
    assert (response.headers["x-method"], response.headers["x-target"]) == ("PUT", "/a%2Fb/c%20d?e=%26")


async def test_a_body_over_the_limit_is_413() -> None:
    async with served(echo, ServingConfig(max_body_bytes=10)) as client:
        assert (await client.post("/", content=b"x" * 10)).status_code == 200
        assert (await client.post("/", content=b"x" * 11)).status_code == 413
        assert (await client.post("/", content=b"x" * 10)).status_code == 200


async def test_large_bodies_wait_on_disk(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    async def look(request: Request) -> Answer:
        seen.append([part.name for part in tmp_path.iterdir()])
        return await echo(request)

    body = bytes(range(256)) * (MEMORY_BYTES // 64)
    async with served(look, ServingConfig(max_body_bytes=len(body), spool=tmp_path)) as client:
        response = await client.post("/", content=body)
    assert response.content == body
    assert seen == [[]]  # the file has no name


async def test_a_failing_answer_is_a_500_without_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_: Request) -> Answer:
        raise RuntimeError("secret reason")

    async with served(fail) as client:
        response = await client.get("/")
    assert response.status_code == 500
    assert "secret" not in response.text


class Pieces:
    """A stream that notes that it was closed."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.closed = False

    def __aiter__(self) -> "Pieces":
        return self

    async def __anext__(self) -> bytes:
        if not self.left:
            raise StopAsyncIteration
        self.left -= 1
        return b"piece"

    async def aclose(self) -> None:
        self.closed = True


@pytest.mark.parametrize("sized", [True, False])
async def test_streams_are_sent_and_closed(sized: bool) -> None:
    pieces = Pieces(3)
    headers = ((b"content-length", b"15"),) if sized else ()
    async with served(lambda _: _later(serving.Answer(200, headers, pieces))) as client:
        response = await client.get("/")
    assert response.content == b"piece" * 3
    assert ("transfer-encoding" in response.headers) is not sized
    assert pieces.closed


async def _later(answer: Answer) -> Answer:
    return answer


async def test_a_client_that_leaves_cancels_its_answer() -> None:
    cancelled = asyncio.Event()

    async def wait(_: Request) -> Answer:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return Answer(200)

    async with served(wait) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/", timeout=0.1)
        async with asyncio.timeout(3):
            await cancelled.wait()


def test_a_content_reads_the_same_as_often_as_asked(tmp_path: Path) -> None:
    for size in (0, 10, MEMORY_BYTES, MEMORY_BYTES + 1, 3 * MEMORY_BYTES):
        content = Content(folder=tmp_path)
        data = bytes(range(251)) * (size // 251 + 1)
        for start in range(0, size, 1000):
            content.append(data[start : min(start + 1000, size)])
        assert content.size == size
        assert b"".join(content.chunks()) == b"".join(content.chunks()) == data[:size]
        content.close()
