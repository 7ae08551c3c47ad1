"""Sending task logs when the plane asks for them: one long poll, and a few reads at a time.

A file is read as far as it was written when the read began, in chunks, each sent when the plane has room for it: one
chunk of each read is in memory. Logs that are no files here any more come from the customer's own
store, through Airflow's remote logging: a short-lived process with the tasks' environment, as the tasks' user, writes
them to a pipe (``isthmus.runner.log_reading``).
"""

import asyncio
import base64
import contextlib
import json
import os
import signal
import subprocess
import zlib
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final
from uuid import UUID

from isthmus.agent import logfiles
from isthmus.agent.client import PlaneClient
from isthmus.agent.config import Timing
from isthmus.agent.enrolling import Membership
from isthmus.agent.logfiles import LogFileError
from isthmus.agent.patience import Patience
from isthmus.kit import processes
from isthmus.kit.clocks import Clock
from isthmus.kit.errors import IsthmusError
from isthmus.kit.logs import get, masked
from isthmus.wire.logs import (
    MAX_CHUNK_BYTES,
    MAX_CHUNKS,
    MAX_READS,
    LogChunkRequest,
    LogFault,
    LogRead,
    LogReadsRequest,
    LogSource,
)
from isthmus.wire.problems import Code
from isthmus.wire.workloads import MAX_CLAIM_WAIT_SECONDS

log = get(component="logsending")

#: What the process that asks the store may write before its first byte of a log.
_HEADER_BYTES: Final = 64 * 1024
#: For it to import Airflow and to find the log.
_STORE_SECONDS: Final = 40.0
#: Processes that ask a store at a time: each has imported Airflow.
_STORE_READS: Final = 2
#: Beyond what the plane waits for room.
_ROOM_SECONDS: Final = 25.0


@dataclass(frozen=True, slots=True)
class LogHome:
    """Where this agent's logs are. ``folder`` and ``has_store`` are what the tasks' Airflow said last.

    ``shown`` says whether logs may leave the network at all.
    """

    folder: Callable[[], Path]
    has_store: Callable[[], bool]
    shown: Callable[[], bool]
    command: tuple[str, ...]
    environment: Mapping[str, str]
    #: Whom tasks run as; None means like the control process.
    user: processes.User | None


class LogSending:
    """The loop that is asked, and the reads that it began."""

    def __init__(
        self,
        timing: Timing,
        client: PlaneClient,
        membership: Membership,
        home: LogHome,
        *,
        clock: Clock,
        spawn: Callable[[str, Coroutine[Any, Any, None]], object],
    ) -> None:
        self._client = client
        self._membership = membership
        self._home = home
        self._clock = clock
        self._spawn = spawn
        self._patience = Patience(timing, clock)
        self._threads = ThreadPoolExecutor(MAX_READS, thread_name_prefix="logs")
        self._stores = asyncio.Semaphore(_STORE_READS)
        self._reads: set[UUID] = set()
        self._freed = asyncio.Event()

    async def run(self) -> None:
        """Ask what is asked. Runs until cancelled."""
        while True:
            await self._membership.enrolled.wait()
            self._freed.clear()
            if len(self._reads) >= MAX_READS:
                await self._freed.wait()
                continue
            try:
                answer = await self._client.log_reads(self._request())
            except IsthmusError as error:
                wait = self._patience.after(error)
                if error.code == Code.AGENT_UNKNOWN:
                    await self._clock.sleep(wait)  # the heartbeat finds out as well, and enrols anew
                else:
                    await self._client.rest(error, wait)
                continue
            self._patience.succeeded()
            for read in answer.reads:
                if read.read_id in self._reads or len(self._reads) >= MAX_READS:
                    continue  # more than was asked for: whoever reads hears nothing, and asks again
                self._reads.add(read.read_id)
                self._spawn(f"log {read.read_id}", self._send(read))

    def _request(self) -> LogReadsRequest:
        terms = self._membership.terms
        return LogReadsRequest(
            agent_id=self._membership.agent_id,
            instance_id=self._membership.instance_id,
            free=MAX_READS - len(self._reads),
            wait_seconds=MAX_CLAIM_WAIT_SECONDS if terms is None else terms.claim_wait_seconds,
        )

    async def _send(self, read: LogRead) -> None:
        """One read, from its beginning to its end."""
        sending = _Sending(self._client, self._membership, read.read_id)
        try:
            if not self._home.shown():
                raise LogFileError(LogFault.REFUSED, "its task logs stay in its network (show_logs, privacy)")
            match read.source:
                case LogSource.FILE | LogSource.TRIGGER_FILES:
                    await self._send_files(read, sending)
                case LogSource.STORE:
                    await self._send_store(read, sending)
        except LogFileError as error:
            await sending.end(error.fault, error.summary)
        except IsthmusError as error:
            # Nobody waits any more, or the plane is away: whoever reads hears nothing more, and asks again.
            log.debug("a task's log was not sent to its end", error=str(error))
        finally:
            self._reads.discard(read.read_id)
            self._freed.set()

    # --- files ---

    async def _send_files(self, read: LogRead, sending: "_Sending") -> None:
        folder, user = self._home.folder(), self._home.user
        if read.source is LogSource.FILE:
            files = [await self._threaded(logfiles.open_log, folder, read.path, user)]
        else:
            files = await self._threaded(logfiles.open_trigger_logs, folder, read.path, user)
        with contextlib.ExitStack() as stack:
            for file in files:
                stack.enter_context(file)
            sending.origin = str(folder / read.path) + (".trigger.*" if read.source is LogSource.TRIGGER_FILES else "")
            for file in files:
                left = os.fstat(file.fileno()).st_size  # and not a byte more: it may grow faster than we send
                while left > 0:
                    data = await self._threaded(_read, file, min(left, MAX_CHUNK_BYTES))
                    if not data:
                        break  # it was truncated meanwhile
                    left -= len(data)
                    if not await sending.put(await self._threaded(_packed, data)):
                        return
        await sending.end()

    async def _threaded(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)

    # --- the store ---

    async def _send_store(self, read: LogRead, sending: "_Sending") -> None:
        if not self._home.has_store():
            raise LogFileError(LogFault.NO_STORE, "")
        logfiles.steps_of(read.path)  # a store has no links, but its folders may have names above them
        if self._stores.locked():
            raise LogFileError(LogFault.BUSY, "")
        async with self._stores:
            try:
                process = processes.spawn(
                    self._home.command,
                    environment=self._home.environment,
                    user=self._home.user,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            except processes.ProcessError as error:
                raise LogFileError(LogFault.FAILED, error.summary) from None
            try:
                await self._pass_on(process, read, sending)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # a session of its own, so a group of its own
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        pipe.close()
                await asyncio.to_thread(process.wait)

    async def _pass_on(self, process: "subprocess.Popen[bytes]", read: LogRead, sending: "_Sending") -> None:
        assert process.stdin is not None  # noqa: S101 - asked for above
        assert process.stdout is not None  # noqa: S101
        asked = {"path": read.path, "subject": None if read.subject is None else read.subject.model_dump(mode="json")}
        with contextlib.suppress(BrokenPipeError):  # it ended at once, and says nothing below
            process.stdin.write(json.dumps(asked).encode() + b"\n")  # less than a pipe holds
            process.stdin.close()
        reader = asyncio.StreamReader(limit=_HEADER_BYTES)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), process.stdout)
        try:
            try:
                async with asyncio.timeout(_STORE_SECONDS):
                    said = json.loads(await reader.readline())
                fault = None if said["fault"] is None else LogFault(said["fault"])
                origin, detail = str(said["origin"]), str(said["detail"])
            except (TimeoutError, ValueError, KeyError, TypeError):
                raise LogFileError(
                    LogFault.FAILED, "the process that asks the store failed; see the agent's log"
                ) from None
            if fault is not None:
                raise LogFileError(fault, detail)
            sending.origin = origin
            while data := await _filled(reader, MAX_CHUNK_BYTES):
                if not await sending.put(await self._threaded(_packed, data)):
                    return
            await sending.end()
        finally:
            transport.close()


class _Sending:
    """The chunks of one read, in their order."""

    def __init__(self, client: PlaneClient, membership: Membership, read_id: UUID) -> None:
        self._client = client
        self._membership = membership
        self._read_id = read_id
        self._sequence = 0
        #: Where the bytes come from, for people; goes out with the first chunk.
        self.origin = ""

    async def put(self, packed: bytes) -> bool:
        """Send a chunk, and wait until there is room for the next; False when it was the last that is allowed."""
        last = self._sequence == MAX_CHUNKS - 1
        if last:
            await self._post(packed, fault=LogFault.FAILED, detail="it is longer than what is shown; the rest is cut")
            return False
        answer = await self._post(packed)
        while not answer:
            answer = await self._post(b"")
        self._sequence += 1
        return True

    async def end(self, fault: LogFault | None = None, detail: str = "") -> None:
        """Say that there is no more, and why. Errors are logged: nobody waits for the answer."""
        try:
            await self._post(b"", end=True, fault=fault, detail=detail)
        except IsthmusError as error:
            log.debug("the end of a task's log was not sent", error=str(error))

    async def _post(self, packed: bytes, *, end: bool = False, fault: LogFault | None = None, detail: str = "") -> bool:
        request = LogChunkRequest(
            agent_id=self._membership.agent_id,
            instance_id=self._membership.instance_id,
            read_id=self._read_id,
            sequence=self._sequence,
            data=base64.b64encode(packed),
            origin=self.origin[:500] if self._sequence == 0 else "",
            end=end,
            fault=fault,
            detail=masked(detail)[:500],
        )
        answer = await self._client.send_log_chunk(request, answer_seconds=_ROOM_SECONDS)
        return answer.proceed


def _read(file: BinaryIO, size: int) -> bytes:
    return file.read(size) or b""


def _packed(data: bytes) -> bytes:
    return zlib.compress(data, 1)


async def _filled(reader: asyncio.StreamReader, size: int) -> bytes:
    """The next ``size`` bytes, or what is left: a chunk has its price, and a pipe holds little."""
    try:
        return await reader.readexactly(size)
    except asyncio.IncompleteReadError as error:
        return error.partial
