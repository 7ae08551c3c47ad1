"""The little of ASGI that we speak ourselves: types, reading a bounded body, writing a whole answer.

The edge and the agent API do without a web framework, because the two requests that come all the time (heartbeats and
claims) would spend most of their time in it; see the measurements in docs/benchmarks.md.
"""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Header: TypeAlias = tuple[bytes, bytes]


class ClientGoneError(Exception):
    """The client went away: nobody reads an answer."""


class BodyTooLargeError(Exception):
    """The body is larger than ``limit`` bytes; reading stopped there."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"more than {limit} bytes")
        self.limit = limit


class BodyEncodingError(Exception):
    """The body is encoded in a way that is not understood, or is not what its encoding says."""


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header called ``name`` (lower case)."""
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return None


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body. Counts what arrives, whatever ``Content-Length`` says; that one only helps to say no early.

    Raises BodyTooLargeError and ClientGoneError.
    """
    declared = header(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise BodyTooLargeError(limit)
    event = await receive()
    if event["type"] == "http.disconnect":
        raise ClientGoneError
    body: bytes = event.get("body", b"")
    if len(body) > limit:
        raise BodyTooLargeError(limit)
    if not event.get("more_body", False):
        return body
    parts = [body]
    size = len(body)
    while event.get("more_body", False):
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ClientGoneError
        parts.append(event.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise BodyTooLargeError(limit)
    return b"".join(parts)


def expanded(body: bytes, encoding: bytes | None, limit: int) -> bytes:
    """``body`` without its ``Content-Encoding``; no more than ``limit`` bytes are ever made of it.

    Raises BodyTooLargeError, BodyEncodingError for anything but gzip, or what is no gzip.
    """
    if encoding is None or encoding.lower() == b"identity":
        return body
    if encoding.lower() not in {b"gzip", b"x-gzip"}:
        raise BodyEncodingError(encoding.decode("latin-1"))
    inflating = zlib.decompressobj(wbits=31)
    try:
        plain = inflating.decompress(body, limit + 1)
    except zlib.error:
        raise BodyEncodingError("gzip") from None
    if len(plain) > limit:
        raise BodyTooLargeError(limit)
    if not inflating.eof or inflating.unused_data:
        raise BodyEncodingError("gzip")
    return plain


async def gone(receive: Receive) -> None:
    """Return when the client has gone away. The body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


def replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives ``body`` once, then what the real one gives."""
    given = False

    async def again() -> Event:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def respond(send: Send, status: int, body: bytes, content_type: bytes, headers: Iterable[Header] = ()) -> None:
    """Send a whole answer."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", content_type),
                (b"content-length", b"%d" % len(body)),
                (b"x-content-type-options", b"nosniff"),
                (b"cache-control", b"no-store"),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def unless_gone(work: Awaitable[Any], receive: Receive) -> Any:
    """The result of ``work``, or ClientGoneError with ``work`` cancelled when the client goes away first."""
    doing = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(gone(receive))
    try:
        await asyncio.wait((doing, leaving), return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise ClientGoneError
    finally:
        for task in (doing, leaving):
            task.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)
