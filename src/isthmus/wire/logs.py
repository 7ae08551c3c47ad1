"""Bodies by which a task's log reaches Airflow's UI: which logs are asked for, and their bytes in chunks.

claim (which reads are mine) → chunks, numbered from 0, until one says ``end``. The plane names the file as it stands in
the workload that it stored itself; the agent looks below the tasks' log folder and nowhere else. An answer to a chunk
comes when there is room for the next: that is the whole flow control.
"""

from enum import StrEnum
from typing import Annotated, Final
from uuid import UUID

from pydantic import Base64Bytes, Field, StringConstraints, WithJsonSchema

from isthmus.wire.bodies import Request, Response
from isthmus.wire.workloads import MAX_CLAIM_WAIT_SECONDS

#: The most of a log that is in one chunk, before compression.
MAX_CHUNK_BYTES: Final = 128 * 1024
#: The same after compression: zlib makes what it cannot compress a little longer.
MAX_PACKED_BYTES: Final = MAX_CHUNK_BYTES + 1024
#: The chunks of the longest log that is shown: 4 GiB.
MAX_CHUNKS: Final = 32 * 1024
#: As JSON: base64 with its padding (RFC 4648, section 4), a third longer.
PackedBytes = Annotated[
    Base64Bytes,
    Field(max_length=MAX_PACKED_BYTES),
    WithJsonSchema(
        {
            "type": "string",
            "contentEncoding": "base64",
            "pattern": r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
            "maxLength": (MAX_PACKED_BYTES + 2) // 3 * 4,
        }
    ),
]
#: The most reads that an agent has at a time.
MAX_READS: Final = 8

#: A file below the log folder, as Airflow's log template renders it.
LogPath = Annotated[str, StringConstraints(min_length=1, max_length=2000)]


class LogSource(StrEnum):
    """Where a log is looked for."""

    #: The file that the agent's own tasks write.
    FILE = "file"
    #: The files beside it that triggers write (``<path>.trigger.<job id>.log``).
    TRIGGER_FILES = "trigger_files"
    #: Airflow's remote logging, as the tasks' environment configures it: the customer's own store.
    STORE = "store"


class LogFault(StrEnum):
    """Why there is no log, or no more of it."""

    #: There is no such file, or nothing in the store.
    MISSING = "missing"
    #: The file is there, and is none that the agent gives away: a link, a device, somebody else's.
    REFUSED = "refused"
    #: The tasks' environment configures no remote logging.
    NO_STORE = "no_store"
    #: It could not be read; ``detail`` says why.
    FAILED = "failed"
    #: The agent reads as many logs as it reads at once.
    BUSY = "busy"


class LogReadsRequest(Request):
    """``POST log-reads``: which logs are asked of me? Answered when there is one, or after ``wait_seconds``."""

    agent_id: UUID
    instance_id: UUID
    free: int = Field(default=MAX_READS, ge=1, le=MAX_READS)
    wait_seconds: float = Field(default=MAX_CLAIM_WAIT_SECONDS, ge=0, le=MAX_CLAIM_WAIT_SECONDS)


class LogSubject(Response):
    """The task instance that wrote the log: some stores are searched by it."""

    id: UUID
    dag_id: str
    task_id: str
    run_id: str
    map_index: int = -1
    try_number: int = 0


class LogRead(Response):
    """One log that is asked for."""

    read_id: UUID
    source: LogSource
    path: LogPath
    subject: LogSubject | None = None


class LogReadsResponse(Response):
    """The reads; none when the wait ended without one."""

    reads: tuple[LogRead, ...] = Field(default=(), max_length=MAX_READS)


class LogChunkRequest(Request):
    """``POST log-reads/chunks``: the next part of the log, deflated by zlib.

    ``end`` is the last one; with a ``fault`` it is the last one as well. ``origin`` says in the first chunk where the
    bytes come from, for people.
    """

    agent_id: UUID
    instance_id: UUID
    read_id: UUID
    sequence: int = Field(ge=0, lt=MAX_CHUNKS)
    data: PackedBytes = Field(default=b"", repr=False)
    origin: Annotated[str, StringConstraints(max_length=500)] = ""
    end: bool = False
    fault: LogFault | None = None
    detail: Annotated[str, StringConstraints(max_length=500)] = ""


class LogChunkResponse(Response):
    """``proceed`` when the next chunk can be taken; otherwise the same number is asked for again, without its data."""

    proceed: bool = True


class LogShipmentRequest(Request):
    """``POST log-shipments``: a part of a finished log, to be kept; deflated by zlib.

    ``offset`` is where the part begins in the file, in bytes. ``end`` says that the file ends with it.
    """

    agent_id: UUID
    instance_id: UUID
    workload_id: UUID
    offset: int = Field(ge=0, le=2**53 - 1)
    data: PackedBytes = Field(default=b"", repr=False)
    end: bool = False


class LogShipmentResponse(Response):
    """What the plane has: the next part begins at ``offset``, whatever was sent; none is wanted when ``complete``."""

    offset: int
    complete: bool = False
