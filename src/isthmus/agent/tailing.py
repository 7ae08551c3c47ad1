"""Sending the end of the agent's own log when the plane asks for it.

The lines are those of ``kit.logs``: masked, and without the logs of tasks. The order comes with every heartbeat until
the plane has the lines, so a post that fails is made again then; one that was taken, or that the plane did not ask for,
is not.
"""

import asyncio
from uuid import UUID

from isthmus.agent import privacy
from isthmus.agent.client import PlaneClient
from isthmus.agent.enrolling import Membership
from isthmus.kit.errors import IsthmusError
from isthmus.kit.logs import Tail, get
from isthmus.wire.agents import LogTailRequest
from isthmus.wire.problems import Code

log = get(component="tailing")


class Tailing:
    """The loop that sends the log tail."""

    def __init__(self, client: PlaneClient, membership: Membership, tail: Tail) -> None:
        self._client = client
        self._membership = membership
        self._tail = tail
        self._order: UUID | None = None
        self._done: UUID | None = None
        self._due = asyncio.Event()

    def ordered(self, order_id: UUID) -> None:
        """The plane wants the log tail; heard with each heartbeat until it has it."""
        if order_id != self._done:
            self._order = order_id
            self._due.set()

    async def run(self) -> None:
        """Send when it is asked for. Runs until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            order_id = self._order
            if order_id is None or order_id == self._done:
                continue
            try:
                await self._send(order_id)
            except IsthmusError as error:
                log.warning("the plane did not take the log tail", error=str(error))
                if error.code == Code.LOG_NOT_ASKED:
                    self._done = order_id
            else:
                self._done = order_id

    async def _send(self, order_id: UUID) -> None:
        lines = privacy.log_shown(self._membership.privacy, self._tail.lines)
        while True:
            request = LogTailRequest(
                agent_id=self._membership.agent_id,
                instance_id=self._membership.instance_id,
                order_id=order_id,
                lines=lines,
            )
            try:
                await self._client.send_log(request)
            except IsthmusError as error:
                if error.code != Code.BODY_TOO_LARGE or not lines:
                    raise
                lines = lines[len(lines) // 2 + 1 :]  # this plane takes less than others: the newest go first
            else:
                return
