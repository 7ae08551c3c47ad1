"""Frames between the agent's control process and its fork server, over a UNIX stream socket.

The same frames go between the control process and its components (the DAG processor, the triggerer): ``Ready``,
``Begin``, ``Status``, ``Stop``.

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

from isthmus.wire.agents import AgentWarning
from isthmus.wire.bodies import Request
from isthmus.wire.names import Kind, Privacy

#: A payload is about 1 KB; 16 MiB leaves room for callbacks with large arguments.
MAX_FRAME_BYTES: Final = 16 * 1024 * 1024
LENGTH: Final = struct.Struct(">I")

#: Command-line options of the fork server; each is followed by the number of an inherited descriptor.
SOCKET_OPTION: Final = "--socket-fd"
LOCK_OPTION: Final = "--lock-fd"


class Ready(Request):
    """Fork server → control: imported, frozen, and waiting; these are my versions.

    ``log_folder`` is Airflow's base_log_folder there, and ``remote_logs`` whether remote logging is configured.
    """

    type: Literal["ready"] = "ready"
    pid: int
    airflow: str
    task_sdk: str
    python: str
    log_folder: str = ""
    remote_logs: bool = False


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


class Foreign(Request):
    """Fork server → control: these, which are below me and are to be killed, are another user's; I may not.

    A task with ``run_as_user`` has such processes. The control process kills those that are below the fork server.
    """

    type: Literal["foreign"] = "foreign"
    pids: tuple[int, ...] = Field(max_length=1000)


class Stop(Request):
    """Control → fork server: kill what is left and end."""

    type: Literal["stop"] = "stop"


class Begin(Request):
    """Control → component: the plane has let us in for your role; do it.

    ``agent_id`` and ``instance_id`` go into every body to the plane. ``gateway_token`` opens the gateway for the role's
    paths. Sent again when the agent has enrolled anew: then what the plane had given before is void. ``privacy`` is the
    profile in force: only in ``open`` reasons of failures may be told to the plane.
    """

    type: Literal["begin"] = "begin"
    agent_id: UUID
    instance_id: UUID
    slots: int = Field(ge=1)
    gateway_socket: str
    gateway_token: str = Field(repr=False)
    privacy: Privacy = Privacy.OPEN

    @property
    def wants_reasons(self) -> bool:
        """Whether the plane may know why something has failed."""
        return self.privacy is Privacy.OPEN


class Status(Request):
    """Component → control: how it is; sent on a change. ``warnings`` is everything that is wrong now."""

    type: Literal["status"] = "status"
    slots_used: int = Field(default=0, ge=0)
    warnings: tuple[AgentWarning, ...] = Field(default=(), max_length=16)


Frame = Annotated[
    Ready | Launch | Launched | Exited | Kill | Foreign | Stop | Begin | Status, Field(discriminator="type")
]
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
