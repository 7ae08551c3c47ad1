"""What this agent holds: each lease from its claim to its settlement, and the slots that they take.

::

    claimed ─► starting ──confirmed──► launching ──Launched──► running ──Exited──► settled
                  └───────refused──► forgotten

At most once to start: nothing is launched before the plane has confirmed the start, and a start whose answer was lost
is asked for again, not assumed. Everything that can be prepared is prepared while the plane is asked. A slot is free
as soon as the workload's process tree is gone; the settlement takes its own time.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from isthmus.agent import privacy
from isthmus.agent.client import PlaneClient, is_not_about_the_call
from isthmus.agent.config import Timing
from isthmus.agent.enrolling import Membership
from isthmus.agent.forkserver import ForkServer
from isthmus.agent.gateway import Gateway
from isthmus.agent.metrics import Metrics
from isthmus.agent.patience import Patience
from isthmus.agent.settling import Settling
from isthmus.agent.shipping import Shipping
from isthmus.kit.clocks import Clock
from isthmus.kit.errors import IsthmusError
from isthmus.kit.logs import get
from isthmus.wire import agents, frames, workloads
from isthmus.wire.problems import Code

log = get(component="running")

#: What ``wire.workloads.Settlement`` allows for people.
_DETAIL = 2000

Spawn = Callable[[str, Coroutine[Any, Any, None]], object]


class Stage(StrEnum):
    """How far a workload has come here."""

    STARTING = "starting"
    LAUNCHING = "launching"
    RUNNING = "running"


@dataclass(slots=True)
class Held:
    """A lease that we hold."""

    lease: workloads.LeasedWorkload
    gateway_token: str
    #: The encoded order to the fork server.
    launch: bytes
    claimed_at: float
    stage: Stage = Stage.STARTING
    #: Whether the fork server has been told.
    sent: bool = False
    #: Why we want it to end; empty while we do not.
    ending: str = ""
    launched_at: float | None = None


class Running:
    """The held workloads. Also what the fork server tells of them (``forkserver.Listener``)."""

    def __init__(
        self,
        timing: Timing,
        client: PlaneClient,
        membership: Membership,
        *,
        slots: int,
        kill_grace_seconds: float,
        gateway: Gateway,
        gateway_socket: str,
        runner: ForkServer,
        settling: Settling,
        shipping: Shipping,
        metrics: Metrics,
        clock: Clock,
        spawn: Spawn,
        ready: Callable[[frames.Ready], None],
        freed: Callable[[], None],
    ) -> None:
        """``spawn`` runs a named coroutine in the agent's group; ``freed`` is told when a slot may be free."""
        self._timing = timing
        self._client = client
        self._membership = membership
        self._slots = slots
        self._grace = kill_grace_seconds
        self._gateway = gateway
        self._gateway_socket = gateway_socket
        self._runner = runner
        self._settling = settling
        self._shipping = shipping
        self._metrics = metrics
        self._clock = clock
        self._spawn = spawn
        self._ready = ready
        self._freed = freed
        self._held: dict[UUID, Held] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    # --- slots ---

    @property
    def used(self) -> int:
        """Slots that are taken."""
        return len(self._held)

    @property
    def free(self) -> int:
        """Slots that a claim may ask for."""
        return max(0, self._slots - len(self._held))

    def leases(self) -> tuple[agents.HeldLease, ...]:
        """What the heartbeat reports."""
        return tuple(
            agents.HeldLease(
                workload_id=held.lease.workload_id,
                fence=held.lease.fence,
                started=held.stage is not Stage.STARTING,
            )
            for held in self._held.values()
        )

    async def wait_empty(self, seconds: float | None) -> bool:
        """Return when nothing is held, or after ``seconds``; whether nothing is."""
        return await self._clock.wait(self._empty, seconds)

    # --- from the claim to the launch ---

    def take(self, leases: Sequence[workloads.LeasedWorkload]) -> None:
        """Start what was claimed. Leases for which there is no slot, or that we hold already, go back."""
        batch: list[Held] = []
        for lease in leases:
            if lease.workload_id in self._held or not self.free:
                log.warning("more was claimed than fits", workload_id=str(lease.workload_id))
                self.give_back([lease], "the agent has no free slot")
                continue
            token = self._gateway.admit(lease)
            launch = frames.Launch(
                workload_id=lease.workload_id,
                kind=lease.kind,
                payload=lease.payload,
                gateway_socket=self._gateway_socket,
                gateway_token=token,
            )
            held = Held(lease, token, frames.encode(launch), self._clock.monotonic())
            self._held[lease.workload_id] = held
            batch.append(held)
        if batch:
            self._empty.clear()
            self._spawn("start", self._start(batch))

    def give_back(self, leases: Sequence[workloads.LeasedWorkload], why: str) -> None:
        """Let another agent have what we have claimed and not started."""
        for lease in leases:
            self._settling.add(
                workloads.Settlement(
                    workload_id=lease.workload_id,
                    fence=lease.fence,
                    outcome=workloads.Outcome.RELEASED,
                    detail=why[:_DETAIL],
                )
            )
            self._metrics.workloads.labels(workloads.Outcome.RELEASED.value).inc()

    async def _start(self, batch: list[Held]) -> None:
        """Ask until the plane has answered, and launch what it confirms."""
        verdicts = await self._ask(batch)
        if verdicts is None:
            for held in batch:
                if self._held.get(held.lease.workload_id) is held:
                    self._drop(held)
                    self.give_back([held.lease], "the plane did not take the start")
            return
        confirmed = {
            (verdict.workload_id, verdict.fence)
            for verdict in verdicts
            if verdict.verdict is workloads.StartVerdict.CONFIRMED
        }
        late: list[Held] = []
        for held in batch:
            if self._held.get(held.lease.workload_id) is not held:
                continue  # abandoned meanwhile
            if (held.lease.workload_id, held.lease.fence) not in confirmed:
                log.info("the start was refused: the lease is gone", workload_id=str(held.lease.workload_id))
                self._drop(held)
            elif held.ending:
                self._finish(held, exit_code=None, detail="")
            else:
                held.stage = Stage.LAUNCHING
                if not self._launch(held):
                    late.append(held)
        if late:
            await self._launch_late(late)

    async def _ask(self, batch: list[Held]) -> tuple[workloads.StartedLease, ...] | None:
        """The verdicts; None when the plane does not understand the question."""
        references = tuple(
            agents.LeaseReference(workload_id=held.lease.workload_id, fence=held.lease.fence) for held in batch
        )
        patience = Patience(self._timing, self._clock)
        while True:
            await self._membership.enrolled.wait()
            try:
                response = await self._client.start(
                    workloads.StartRequest(
                        agent_id=self._membership.agent_id,
                        instance_id=self._membership.instance_id,
                        leases=references,
                    )
                )
            except IsthmusError as error:
                wait = patience.after(error)
                if error.code == Code.AGENT_UNKNOWN:
                    self._membership.forgotten()
                elif is_not_about_the_call(error):
                    await self._client.rest(error, wait)
                else:
                    log.error("the plane does not take a start", error=str(error), hint=error.hint)
                    return None
                continue
            return response.verdicts

    def _launch(self, held: Held) -> bool:
        """Order the launch; False while there is no fork server."""
        self._shipping.begins(held.lease)
        if not self._runner.send(held.launch):
            return False
        held.sent = True
        held.launch = b""
        self._metrics.launch_seconds.observe(self._clock.monotonic() - held.claimed_at)
        return True

    async def _launch_late(self, batch: list[Held]) -> None:
        """Launch once the fork server is back: what has not run yet need not fail with it."""
        back = await self._clock.wait(self._runner.ready, self._timing.runner_ready)
        for held in batch:
            if held.lease.workload_id not in self._held:
                continue  # ended meanwhile
            if not back or held.ending or not self._launch(held):
                self._finish(held, exit_code=None, detail="the fork server was not there to start it")

    # --- what the fork server tells ---

    def runner_ready(self, runner: frames.Ready) -> None:
        """The fork server takes workloads."""
        self._ready(runner)
        self._freed()

    def launched(self, frame: frames.Launched) -> None:
        """A supervisor has the workload."""
        held = self._held.get(frame.workload_id)
        if held is None:
            return
        held.stage = Stage.RUNNING
        held.launched_at = self._clock.monotonic()
        log.info("launched", workload_id=str(frame.workload_id), name=held.lease.display_name, pid=frame.pid)

    def exited(self, frame: frames.Exited) -> None:
        """The workload's process tree is gone."""
        held = self._held.get(frame.workload_id)
        if held is not None:
            self._finish(held, exit_code=frame.exit_code, detail=frame.detail, quoted=True)

    def runner_lost(self, detail: str) -> None:
        """The fork server is gone, and with it all that it ran; what it had not been told of waits for the next."""
        for held in [held for held in self._held.values() if held.sent]:
            self._finish(held, exit_code=None, detail=f"{detail}, and the workload with it")
        self._freed()

    # --- the end ---

    def kill(self, reference: agents.LeaseReference, why: str) -> None:
        """End one workload, if we still hold it under this fence. Asking again changes nothing."""
        held = self._held.get(reference.workload_id)
        if held is not None and held.lease.fence == reference.fence:
            self._kill(held, why, self._grace)

    def kill_all(self, why: str, grace_seconds: float) -> None:
        """End everything; with a shorter grace than before, if it was asked to end before."""
        for held in list(self._held.values()):
            held.ending = ""
            self._kill(held, why, grace_seconds)

    def abandon(self, why: str) -> None:
        """The agent ends and the fork server is gone: report everything, started or not."""
        for held in list(self._held.values()):
            if held.stage is Stage.STARTING:
                self._drop(held)
                self.give_back([held.lease], why)
            else:
                self._finish(held, exit_code=None, detail=why)

    def _kill(self, held: Held, why: str, grace_seconds: float) -> None:
        if held.ending:
            return
        held.ending = why
        log.info("ending a workload", workload_id=str(held.lease.workload_id), why=why, grace_seconds=grace_seconds)
        if held.sent:
            self._runner.kill(held.lease.workload_id, grace_seconds)

    def _finish(self, held: Held, *, exit_code: int | None, detail: str, quoted: bool = False) -> None:
        """Report the end, and free the slot. A ``quoted`` detail is the runner's, and may hold an exception's text."""
        self._drop(held)
        outcome = workloads.Outcome.SUCCEEDED if exit_code == 0 else workloads.Outcome.FAILED
        shown = privacy.failure_shown(self._membership.privacy, detail) if quoted else detail
        text = _joined(held.ending, shown, exit_code)
        self._settling.add(
            workloads.Settlement(
                workload_id=held.lease.workload_id,
                fence=held.lease.fence,
                outcome=outcome,
                exit_code=exit_code,
                detail=text,
            )
        )
        self._shipping.ended(held.lease.workload_id)
        self._metrics.workloads.labels(outcome.value).inc()
        seconds = None if held.launched_at is None else round(self._clock.monotonic() - held.launched_at, 3)
        log.info(
            "ended",
            workload_id=str(held.lease.workload_id),
            name=held.lease.display_name,
            outcome=outcome.value,
            exit_code=exit_code,
            seconds=seconds,
            detail=_joined(held.ending, detail, exit_code),
        )

    def _drop(self, held: Held) -> None:
        self._gateway.dismiss(held.gateway_token)
        self._held.pop(held.lease.workload_id, None)
        if not self._held:
            self._empty.set()
        self._freed()


def _joined(ending: str, detail: str, exit_code: int | None) -> str:
    """Why a workload ended; for people."""
    reasons = [reason for reason in (ending, detail) if reason]
    if exit_code and not reasons:
        reasons.append(f"the supervisor ended with {exit_code}")
    return "; ".join(reasons)[:_DETAIL]
