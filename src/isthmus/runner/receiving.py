"""Frames on their way through the fork server, which reads of them no more than it needs and keeps no copy.

A ``Launch`` carries a gateway token, and whatever is in the fork server's memory is in that of every task it forks: so
frames are cut in place, handed on as they came, and wiped; a child wipes what was waiting when it was forked.
"""

import socket
from collections.abc import Iterator
from typing import Final, Literal
from uuid import UUID

from pydantic import BaseModel, ValidationError

from isthmus.wire import frames

_BUFFER_BYTES: Final = 65536


class PeerError(Exception):
    """The control process sent what it must not send."""


class Head(BaseModel):
    """All that the fork server reads of a frame."""

    type: Literal["ready", "launch", "launched", "exited", "kill", "stop"]
    workload_id: UUID | None = None
    grace_seconds: float = 0.0


def read_head(frame: memoryview) -> Head:
    """The head of a whole frame. Raises PeerError."""
    body = bytearray(frame[frames.LENGTH.size :])
    try:
        return Head.model_validate_json(body)
    except ValidationError as error:
        raise PeerError(f"not a frame: {error.errors(include_input=False)[0]['msg']}") from None
    finally:
        body[:] = bytes(len(body))


class Inbox:
    """Cuts what arrives into frames.

    One buffer, used in place and wiped: what a ``bytearray`` that grows and shrinks gives back to the allocator is not.
    """

    def __init__(self, size: int = _BUFFER_BYTES) -> None:
        self._buffer = bytearray(size)
        self._used = 0

    def receive_from(self, connection: socket.socket) -> int:
        """The number of bytes that came; 0 at the end."""
        if self._used == len(self._buffer):
            larger = bytearray(2 * self._used)
            larger[: self._used] = self._buffer
            self._buffer[:] = bytes(self._used)
            self._buffer = larger
        count = connection.recv_into(memoryview(self._buffer)[self._used :])
        self._used += count
        return count

    def wipe(self) -> None:
        """In a child: what came, and was to be handed on, is not its business."""
        memoryview(self._buffer)[: self._used] = bytes(self._used)

    def frames(self) -> Iterator[memoryview]:
        """The whole frames, each with its length, and gone when the next one is asked for. Raises PeerError."""
        view = memoryview(self._buffer)
        while self._used >= frames.LENGTH.size:
            (length,) = frames.LENGTH.unpack_from(self._buffer)
            if length > frames.MAX_FRAME_BYTES:
                raise PeerError(f"a frame of {length} bytes is over the limit of {frames.MAX_FRAME_BYTES}")
            end = frames.LENGTH.size + length
            if self._used < end:
                return
            try:
                yield view[:end]
            finally:
                rest = self._used - end
                view[:rest] = view[end : self._used]
                view[rest : self._used] = bytes(end)
                self._used = rest
