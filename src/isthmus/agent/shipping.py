"""Shipping the logs of tasks that have ended to the plane, if this agent and the deployment both want that (ADR 0022).

::

    Launch ──marker──► (the task writes its file) ──ended──► parts, one at a time ──complete──► marker removed

A marker is a small file in the state folder that names the log. It is written before the task begins, so a control
process that is killed finds it when it comes back: nothing that it names is alive then, and all are shipped. The plane
says at each part where the next one begins, so nothing else has to be remembered.

One part of one log is in memory at a time, and there is a pause after each: tasks' own calls go first.
"""

import asyncio
import base64
import contextlib
import json
import os
import zlib
from collections import deque
from pathlib import Path
from typing import BinaryIO, Final
from uuid import UUID

from isthmus.agent import conditions, logfiles
from isthmus.agent.client import PlaneClient, is_not_about_the_call
from isthmus.agent.config import Timing
from isthmus.agent.enrolling import Membership
from isthmus.agent.logfiles import LogFileError
from isthmus.agent.logsending import LogHome
from isthmus.agent.patience import Patience
from isthmus.kit.clocks import Clock
from isthmus.kit.errors import IsthmusError
from isthmus.kit.health import Health
from isthmus.kit.logs import get
from isthmus.wire.logs import MAX_CHUNK_BYTES, LogFault, LogShipmentRequest
from isthmus.wire.names import Kind
from isthmus.wire.problems import Code
from isthmus.wire.workloads import LeasedWorkload

log = get(component="shipping")

#: In the state folder.
FOLDER: Final = "unshipped-logs"
#: Logs that wait to be shipped; the newest are left out beyond it.
_MOST_WAITING: Final = 10_000
#: Between two parts: 2.5 MiB a second at most, before compression.
_PAUSE_SECONDS: Final = 0.05


class Shipping:
    """The loop that ships, and the markers of what is to be shipped."""

    def __init__(
        self,
        timing: Timing,
        client: PlaneClient,
        membership: Membership,
        home: LogHome,
        *,
        wanted: bool,
        state_dir: Path,
        health: Health,
        clock: Clock,
    ) -> None:
        """``wanted`` is the agent's own setting."""
        self._client = client
        self._membership = membership
        self._home = home
        self._wanted = wanted
        self._folder = state_dir / FOLDER
        self._health = health
        self._clock = clock
        self._patience = Patience(timing, clock)
        self._waiting: deque[UUID] = deque()
        self._due = asyncio.Event()
        self._done = asyncio.Event()
        self._done.set()
        self._home_known = asyncio.Event()
        if wanted:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._find_markers()
        else:
            self._drop_markers()

    # --- what is to be shipped ---

    def steered(self) -> None:
        """The plane's terms may be others."""
        if not self._wanted or self._membership.terms is None:
            return
        if not self._home.shown():
            self._health.raise_(
                conditions.LOGS_NOT_SHIPPED,
                "task logs are not shipped: the privacy profile shows none",
                "Set show_logs of the agent, if the plane may have logs, or its ship_logs off.",
            )
        elif not self._membership.terms.ship_logs:
            self._health.raise_(
                conditions.LOGS_NOT_SHIPPED,
                "task logs are not shipped: the deployment keeps none",
                "Set [isthmus] ship_logs of the deployment, or ship_logs off at the agent.",
            )
        else:
            self._health.clear(conditions.LOGS_NOT_SHIPPED)

    def home_known(self) -> None:
        """The fork server is ready: it has said where the logs are."""
        self._home_known.set()

    def begins(self, lease: LeasedWorkload) -> None:
        """A task is about to be launched."""
        path = lease.payload.get("log_path")
        if lease.kind is not Kind.TASK or not isinstance(path, str):
            return
        if not self._ships or len(self._waiting) >= _MOST_WAITING:
            return
        try:
            self._marker(lease.workload_id).write_text(json.dumps({"path": path}))
        except (OSError, ValueError) as error:
            log.warning("a task's log will not be shipped", workload_id=str(lease.workload_id), error=str(error))

    def ended(self, workload_id: UUID) -> None:
        """It has ended, or was never launched; nothing writes its log any more."""
        if self._wanted and self._marker(workload_id).exists():
            self._wait_for(workload_id)

    @property
    def waiting(self) -> int:
        """Logs that wait to be shipped."""
        return len(self._waiting)

    async def flush(self, seconds: float) -> int:
        """Ship what waits, within ``seconds``; how much is left for the next start."""
        await self._clock.wait(self._done, seconds)
        return len(self._waiting)

    @property
    def _ships(self) -> bool:
        terms = self._membership.terms
        return self._wanted and terms is not None and terms.ship_logs and self._home.shown()

    def _find_markers(self) -> None:
        """What a former process has left, oldest first."""
        found = sorted(self._folder.glob("*.json"), key=lambda one: one.stat().st_mtime)
        for marker in found[:_MOST_WAITING]:
            with contextlib.suppress(ValueError):  # somebody else's file
                self._wait_for(UUID(marker.stem))

    def _wait_for(self, workload_id: UUID) -> None:
        self._waiting.append(workload_id)
        self._done.clear()
        self._due.set()

    def _drop_markers(self) -> None:
        """What was to be shipped before somebody turned it off."""
        for marker in self._folder.glob("*.json"):
            marker.unlink(missing_ok=True)

    def _marker(self, workload_id: UUID) -> Path:
        return self._folder / f"{workload_id}.json"

    # --- shipping ---

    async def run(self) -> None:
        """Ship one log after the other. Runs until cancelled."""
        while True:
            await self._due.wait()
            await self._home_known.wait()
            await self._membership.enrolled.wait()
            workload_id = self._waiting[0]
            try:
                await self._ship(workload_id)
            except LogFileError as error:
                log.warning("a task's log cannot be shipped", workload_id=str(workload_id), error=str(error))
            except IsthmusError as error:
                wait = self._patience.after(error)
                if error.code == Code.AGENT_UNKNOWN:
                    await self._clock.sleep(wait)  # the heartbeat finds out as well, and enrols anew
                    continue
                if is_not_about_the_call(error):
                    await self._client.rest(error, wait)
                    continue
                log.warning("the plane does not keep a task's log", workload_id=str(workload_id), error=str(error))
            self._patience.succeeded()
            self._marker(workload_id).unlink(missing_ok=True)
            self._waiting.popleft()
            if not self._waiting:
                self._due.clear()
                self._done.set()

    async def _ship(self, workload_id: UUID) -> None:
        """Ship one log, from where the plane's copy ends. Raises LogFileError, and what ``PlaneClient`` does."""
        if not self._ships:
            return  # it was wanted when the task began, and is not now
        try:
            path = str(json.loads(self._marker(workload_id).read_text())["path"])
        except (OSError, ValueError, KeyError, TypeError):
            return  # the process was killed while it wrote this, before the task began
        with await asyncio.to_thread(logfiles.open_log, self._home.folder(), path, self._home.user) as file:
            offset = 0
            while True:
                data = await asyncio.to_thread(_read, file, offset)
                answer = await self._client.ship_log(
                    LogShipmentRequest(
                        agent_id=self._membership.agent_id,
                        instance_id=self._membership.instance_id,
                        workload_id=workload_id,
                        offset=offset,
                        data=base64.b64encode(zlib.compress(data, 6)) if data else b"",
                        end=len(data) < MAX_CHUNK_BYTES,
                    )
                )
                if answer.complete:
                    return
                self._patience.succeeded()
                if answer.offset == offset:
                    raise LogFileError(LogFault.FAILED, "the plane took nothing of it")
                offset = answer.offset
                await self._clock.sleep(_PAUSE_SECONDS)


def _read(file: BinaryIO, offset: int) -> bytes:
    return os.pread(file.fileno(), MAX_CHUNK_BYTES, offset)
