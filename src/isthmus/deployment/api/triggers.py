"""The part of the agent API that agents with the role triggerer use: load, workloads, events, failures.

What Airflow's models do runs in threads of its own, a few at a time: an agent that sends events as fast as it can keeps
others waiting for a thread, and neither heartbeats nor claims. Invariant: whose trigger it is is decided in the
database, in the transaction that changes something.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar
from uuid import UUID

from isthmus.deployment import tokens
from isthmus.deployment.api import asgi
from isthmus.deployment.api.operations import ENROLLED, Caller, Operation
from isthmus.deployment.errors import PlaneRefusedError
from isthmus.deployment.plane import Plane
from isthmus.deployment.roster import Agent
from isthmus.deployment.triggers import compat
from isthmus.deployment.triggers.compat import Holder
from isthmus.wire import paths
from isthmus.wire.names import Role
from isthmus.wire.problems import Code
from isthmus.wire.triggers import (
    TriggerEventsRequest,
    TriggerFailuresRequest,
    TriggerLoadRequest,
    TriggerLoadResponse,
    TriggerReportsResponse,
    TriggerVerdict,
    TriggerWorkload,
    TriggerWorkloadsRequest,
    TriggerWorkloadsResponse,
)

#: Threads in which Airflow's models are used: with its pool of connections (5 and 10 more) left to the Execution API.
_THREADS: Final = 3
_CODES: Final = (*ENROLLED, Code.TOKEN_SCOPE, Code.ROLE_NOT_USED)

Result = TypeVar("Result")


class TriggerApi:
    """The routes of triggers. ``told`` is called when something came that the scheduler should look at."""

    def __init__(self, plane: Plane, told: Callable[[], None]) -> None:
        self._plane = plane
        self._told = told
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="triggers")
        self.operations: tuple[Operation[Any, Any], ...] = (
            Operation(
                "trigger_load",
                paths.TRIGGER_LOADS,
                TriggerLoadRequest,
                TriggerLoadResponse,
                self.load,
                _CODES,
                waits=True,
            ),
            Operation(
                "trigger_workloads",
                paths.TRIGGER_WORKLOADS,
                TriggerWorkloadsRequest,
                TriggerWorkloadsResponse,
                self.workloads,
                _CODES,
            ),
            Operation(
                "trigger_events",
                paths.TRIGGER_EVENTS,
                TriggerEventsRequest,
                TriggerReportsResponse,
                self.events,
                _CODES,
            ),
            Operation(
                "trigger_failures",
                paths.TRIGGER_FAILURES,
                TriggerFailuresRequest,
                TriggerReportsResponse,
                self.failures,
                _CODES,
            ),
        )

    async def load(self, caller: Caller, asked: TriggerLoadRequest) -> TriggerLoadResponse:
        """Wait for a change of the triggers that the agent holds."""
        agent = await self._triggerer(caller, asked.agent_id, asked.instance_id)
        bundles = tokens.covered_bundles(caller.token, asked.bundles)
        wait_seconds = min(asked.wait_seconds, self._plane.config.claim_wait_seconds)
        loading = self._plane.loads.load(agent, asked.capacity, bundles, asked.revision, wait_seconds)
        loaded = await asgi.unless_gone(loading, caller.receive)
        return TriggerLoadResponse(fence=loaded.fence, trigger_ids=loaded.trigger_ids, revision=loaded.revision)

    async def workloads(self, caller: Caller, asked: TriggerWorkloadsRequest) -> TriggerWorkloadsResponse:
        """Say what the triggers are, as far as the agent holds them."""
        agent = await self._triggerer(caller, asked.agent_id, asked.instance_id)
        found = await self._in_thread(
            compat.build, Holder(agent.agent_id, agent.instance_id, asked.fence), asked.trigger_ids
        )
        return TriggerWorkloadsResponse(
            workloads=tuple(
                TriggerWorkload(trigger_id=one.trigger_id, workload=one.workload, dag=one.dag, log_path=one.log_path)
                for one in found.built
            ),
            dags=dict(found.dags),
        )

    async def events(self, caller: Caller, asked: TriggerEventsRequest) -> TriggerReportsResponse:
        """Take events in."""
        agent = await self._triggerer(caller, asked.agent_id, asked.instance_id)
        return self._said(
            await self._in_thread(
                compat.take_events, Holder(agent.agent_id, agent.instance_id, asked.fence), asked.events
            )
        )

    async def failures(self, caller: Caller, asked: TriggerFailuresRequest) -> TriggerReportsResponse:
        """Take failures in."""
        agent = await self._triggerer(caller, asked.agent_id, asked.instance_id)
        return self._said(
            await self._in_thread(
                compat.take_failures, Holder(agent.agent_id, agent.instance_id, asked.fence), asked.failures
            )
        )

    def _said(self, verdicts: list[TriggerVerdict]) -> TriggerReportsResponse:
        if TriggerVerdict.ACCEPTED in verdicts or TriggerVerdict.UNUSABLE in verdicts:
            self._told()
            self._plane.loads.look()  # what nobody waits for any more goes
        return TriggerReportsResponse(verdicts=tuple(verdicts))

    async def _triggerer(self, caller: Caller, agent_id: UUID, instance_id: UUID) -> Agent:
        agent = await self._plane.roster.lookup(agent_id, instance_id, caller.token.token_id)
        if agent.role is not Role.TRIGGERER:
            raise PlaneRefusedError(Code.TOKEN_SCOPE, f"An agent with the role {agent.role} runs no triggers.")
        if agent.role not in self._plane.config.roles:
            raise PlaneRefusedError(Code.ROLE_NOT_USED)
        return agent

    async def _in_thread(self, function: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
