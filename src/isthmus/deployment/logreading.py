"""Reading a task's log through agents: the reader's side, in Airflow's API server.

Everything here is blocking, as Airflow's log reading is, and streams: a window of chunks is in memory at a time. One
connection to the database serves the reads of one request, beside Airflow's pool, because it listens. A reader that
is closed, at its end or in the middle, takes its rows with it; one that is killed leaves them to the sweep.

An agent is trusted little: a chunk that does not unpack to what it may be ends its read with a word about it.
"""

# ruff: noqa: S608 - values are parameters; what is put into the text are constants of ours.

import json
import select
import time
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

import psycopg2
import psycopg2.extensions
import psycopg2.extras

from isthmus.deployment import databases
from isthmus.deployment.logreads import KEPT_SECONDS, Chunk
from isthmus.deployment.tables import LOG_READ_CHANNEL, LOG_ROOM_CHANNEL, LOGS_CHANNEL
from isthmus.kit import lines as texts
from isthmus.wire.logs import MAX_CHUNK_BYTES, LogFault, LogSource

#: For an agent to answer at all, and for a process at the agent that imports Airflow and asks a store.
FILE_SECONDS: Final = 5.0
STORE_SECONDS: Final = 45.0
#: Between two chunks of a log: an agent that is silent for so long is gone, or its link is.
STALL_SECONDS: Final = 15.0
#: Where notifications do not arrive, the database is asked so often.
_POLL_SECONDS: Final = 0.25
_TOUCH_SECONDS: Final = 10.0
#: A longer line is broken: it would have to be in memory as a whole.
_MAX_LINE_BYTES: Final = 1024 * 1024

_ASK: Final = f"""
INSERT INTO isthmus_log_read (id, agent_id, source, path, subject, expires_at)
VALUES (%s, %s, %s, %s, %s, now() + interval '{KEPT_SECONDS} seconds')
"""

_TAKE: Final = f"""
WITH taken AS (
    DELETE FROM isthmus_log_chunk WHERE read_id = %(id)s
    RETURNING sequence, data, origin, final, fault, detail
),
moved AS (
    UPDATE isthmus_log_read SET taken = taken + (SELECT count(*) FROM taken)
    WHERE id = %(id)s AND EXISTS (SELECT FROM taken) RETURNING id
),
told AS (SELECT pg_notify('{LOG_ROOM_CHANNEL}', '') FROM moved)
SELECT sequence, data, origin, final, fault, detail FROM taken LEFT JOIN told ON true ORDER BY sequence
"""

_TOUCH: Final = f"""
UPDATE isthmus_log_read SET expires_at = now() + interval '{KEPT_SECONDS} seconds' WHERE id = ANY(%s::uuid[])
"""

_END: Final = f"""
WITH chunks AS (DELETE FROM isthmus_log_chunk WHERE read_id = ANY(%(ids)s::uuid[])),
reads AS (DELETE FROM isthmus_log_read WHERE id = ANY(%(ids)s::uuid[]) RETURNING id)
SELECT pg_notify('{LOG_ROOM_CHANNEL}', '') FROM (SELECT count(*) FROM reads) AS ended
"""


@dataclass(frozen=True, slots=True)
class Ask:
    """One log that one agent is asked for. ``subject`` is a JSON value that some stores need."""

    agent_id: UUID
    agent_name: str
    source: LogSource
    path: str
    subject: dict[str, Any] | None = None


@dataclass(slots=True)
class Read:
    """One log that is being read. ``fault`` says why there is nothing; it is None while something may come."""

    ask: Ask
    read_id: UUID = field(default_factory=uuid4)
    chunks: deque[Chunk] = field(default_factory=deque)
    expected: int = 0
    answered: bool = False
    fault: LogFault | None = None
    detail: str = ""
    origin: str = ""


class Reader(AbstractContextManager["Reader"]):
    """The reads of one request. Close it, or let it go."""

    def __init__(self, url: str, closed: Callable[[], None]) -> None:
        """``closed`` is called once, at the end. Raises UnreachableError, ConfigError, and calls nothing then."""
        self._connected = databases.connected(url, application_name="isthmus-logs")
        self._connection = self._connected.__enter__()
        self._reads: list[Read] = []
        self._touched = time.monotonic()
        self._finalizer = weakref.finalize(self, _end, self._connected, self._connection, self._reads, closed)

    def close(self) -> None:
        """End all reads: their agents stop sending."""
        self._finalizer()

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def ask(self, asks: Sequence[Ask], *, seconds: float) -> list[Read]:
        """Ask for these logs, and wait until each has answered, or for so long. Raises psycopg2's errors."""
        reads = [Read(ask) for ask in asks]
        self._reads += reads
        with self._connection.cursor() as cursor:
            for read in reads:
                ask = read.ask
                cursor.execute(f'LISTEN "{_channel(read.read_id)}"')
                subject = None if ask.subject is None else psycopg2.extras.Json(ask.subject)
                cursor.execute(_ASK, (str(read.read_id), str(ask.agent_id), ask.source.value, ask.path, subject))
            cursor.execute("SELECT pg_notify(%s, '')", (LOGS_CHANNEL,))
        deadline = time.monotonic() + seconds
        while any(not read.answered for read in reads) and (left := deadline - time.monotonic()) > 0:
            self._wait(left)
            for read in reads:
                if not read.answered:
                    self._take(read)
        return reads

    def lines(self, read: Read, *, whole: bool) -> Iterator[str]:
        """The lines of an answered read, to its end. ``whole`` leaves out a last line that is still being written.

        What goes wrong on the way is the last line.
        """
        splitter = Splitter()
        while True:
            chunk = self._next(read)
            if chunk is None:
                yield note(f"Agent {read.ask.agent_name} has stopped sending this log; open it again.")
                return
            try:
                data = unpacked(chunk.data)
            except ValueError as error:
                yield note(f"Agent {read.ask.agent_name} sent something that is no part of a log ({error}).")
                return
            yield from splitter.put(data)
            if chunk.final:
                break
        if not whole:
            yield from splitter.end()
        if chunk.fault is not None:
            yield note(f"Agent {read.ask.agent_name} could not read this log to its end: {words(chunk.detail)}")

    def _next(self, read: Read) -> Chunk | None:
        deadline = time.monotonic() + STALL_SECONDS
        while not read.chunks:
            self._take(read)
            if read.chunks:
                break
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._wait(left)
        return read.chunks.popleft()

    def _take(self, read: Read) -> None:
        """What has come for ``read``."""
        with self._connection.cursor() as cursor:
            cursor.execute(_TAKE, {"id": str(read.read_id)})
            for sequence, data, origin, final, fault, detail in cursor.fetchall():
                chunk = Chunk(sequence, bytes(data), origin, final, fault, detail)
                if not read.answered:
                    read.answered, read.origin = True, origin
                    if fault is not None and not chunk.data:
                        read.fault, read.detail = LogFault(fault), words(detail)
                read.chunks.append(chunk)
            if time.monotonic() - self._touched > _TOUCH_SECONDS:
                self._touched = time.monotonic()
                cursor.execute(_TOUCH, ([str(one.read_id) for one in self._reads],))

    def _wait(self, seconds: float) -> None:
        """Until something may have come."""
        self._connection.poll()
        if not self._connection.notifies:
            select.select([self._connection], [], [], min(seconds, _POLL_SECONDS))
            self._connection.poll()
        self._connection.notifies.clear()


class Splitter:
    """Bytes that come in parts, as lines."""

    def __init__(self) -> None:
        self._rest = b""

    def put(self, data: bytes) -> Iterator[str]:
        """The lines that end in ``data``, and those that are too long to wait for."""
        *full, self._rest = (self._rest + data).split(b"\n")
        for line in full:
            yield line.decode("utf-8", "replace")
        while len(self._rest) > _MAX_LINE_BYTES:
            yield self._rest[:_MAX_LINE_BYTES].decode("utf-8", "replace")
            self._rest = self._rest[_MAX_LINE_BYTES:]

    def end(self) -> Iterator[str]:
        """A last line without an end."""
        if self._rest:
            yield self._rest.decode("utf-8", "replace")


def unpacked(data: bytes) -> bytes:
    """The bytes of a log in a chunk. Raises ValueError for anything that an honest agent does not send."""
    if not data:
        return b""
    unpacker = zlib.decompressobj()
    try:
        found = unpacker.decompress(data, MAX_CHUNK_BYTES)
    except zlib.error:
        raise ValueError("it is damaged") from None
    if unpacker.unconsumed_tail or not unpacker.eof:
        raise ValueError("it is too long, or cut off")
    return found


def note(text: str) -> str:
    """A line of ours, as a line of a task's log."""
    return json.dumps(
        {"timestamp": datetime.now(UTC).isoformat(), "level": "warning", "logger": "isthmus", "event": text}
    )


def words(text: str) -> str:
    """What an agent said, made visible."""
    return texts.visible(text)


def _channel(read_id: UUID) -> str:
    return f"{LOG_READ_CHANNEL}{read_id.hex}"


def _end(
    connected: AbstractContextManager[psycopg2.extensions.connection],
    connection: psycopg2.extensions.connection,
    reads: Sequence[Read],
    closed: Callable[[], None],
) -> None:
    try:
        if reads and not connection.closed:
            with connection.cursor() as cursor:
                cursor.execute(_END, {"ids": [str(read.read_id) for read in reads]})
    except psycopg2.Error:
        pass  # the sweep takes them
    finally:
        connected.__exit__(None, None, None)
        closed()
