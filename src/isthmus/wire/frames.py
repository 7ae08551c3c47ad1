"""Frames between the agent's control process and its fork server, over a UNIX stream socket.

Each frame is a 4-byte big-endian length and a JSON object with a ``type``. The fork server says ``Ready`` first. The
control process owns the socket's life: when it closes, the fork server kills every workload and ends.

The fork server is executed with two inherited descriptors, which its command line names (``SOCKET_OPTION 5
LOCK_OPTION 6``): its end of the socket, and the locked file of the agent's state directory. The lock is never used,
only kept open, by the fork server and the supervisors and not by tasks: while any of them lives, no other instance of
the agent can begin.
"""

import struct
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import Field, TypeAdapter

from isthmus.wire.bodies import Request
from isthmus.wire.names import Kind

#: A payload is about 1 KB; 16 MiB leaves room for callbacks with large arguments.
MAX_FRAME_BYTES: Final = 16 * 1024 * 1024
LENGTH: Final = struct.Struct(">I")

#: Command-line options of the fork server; each is followed by the number of an inherited descriptor.
SOCKET_OPTION: Final = "--socket-fd"
LOCK_OPTION: Final = "--lock-fd"


class Ready(Request):
    """Fork server → control: imported, frozen, and waiting; these are my versions."""

    type: Literal["ready"] = "ready"
    pid: int
    airflow: str
    task_sdk: str
    python: str


class Launch(Request):
    """Control → fork server: run this workload.

    ``gateway_token`` replaces the task token in the payload: it opens the gateway for this workload and nothing else.
    """

    type: Literal["launch"] = "launch"
    workload_id: UUID
    kind: Kind
    payload: dict[str, Any]
    gateway_socket: str
    gateway_token: str = Field(repr=False)


class Launched(Request):
    """Fork server → control: a supervisor process has it."""

    type: Literal["launched"] = "launched"
    workload_id: UUID
    pid: int


class Exited(Request):
    """Fork server → control: the workload's whole process tree is gone.

    ``exit_code`` is the supervisor's: 0 when the workload succeeded or handed its state over itself, negative for a
    signal.
    """

    type: Literal["exited"] = "exited"
    workload_id: UUID
    exit_code: int
    detail: str = ""


class Kill(Request):
    """Control → fork server: end the workload's process tree; SIGTERM first, SIGKILL after ``grace_seconds``."""

    type: Literal["kill"] = "kill"
    workload_id: UUID
    grace_seconds: float = Field(ge=0)


class Stop(Request):
    """Control → fork server: kill what is left and end."""

    type: Literal["stop"] = "stop"


Frame = Annotated[Ready | Launch | Launched | Exited | Kill | Stop, Field(discriminator="type")]
_FRAME: Final[TypeAdapter[Frame]] = TypeAdapter(Frame)


class FrameError(ValueError):
    """The peer sent something that is not a frame."""


def encode(frame: Frame) -> bytes:
    """The bytes of a frame, length first."""
    body = _FRAME.dump_json(frame)
    return LENGTH.pack(len(body)) + body


def decode(body: bytes) -> Frame:
    """The frame in ``body``, which comes without its length. Raises FrameError."""
    try:
        return _FRAME.validate_json(body)
    except ValueError as error:
        raise FrameError(str(error)) from None


class FrameReader:
    """Cuts a byte stream into frames; feed it what arrives."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """All frames that ``data`` completes. Raises FrameError for an oversize or malformed one."""
        self._buffer += data
        frames: list[Frame] = []
        while len(self._buffer) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME_BYTES:
                raise FrameError(f"a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}")
            end = LENGTH.size + length
            if len(self._buffer) < end:
                break
            frames.append(decode(bytes(self._buffer[LENGTH.size : end])))
            del self._buffer[:end]
        return frames
