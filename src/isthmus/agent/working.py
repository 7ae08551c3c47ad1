"""The role worker: workloads are claimed, run by the fork server, and settled.

::

    claiming ──leases──► running ──Launch──► forkserver ──Exited──► running ──► settling
    gateway: tasks' calls ──► client ──► the plane
"""

import asyncio
from typing import Any

from isthmus.agent.claiming import Claiming
from isthmus.agent.draining import Work
from isthmus.agent.forkserver import ForkServer
from isthmus.agent.members import Member, Shared
from isthmus.agent.running import Running
from isthmus.agent.settling import Settling
from isthmus.agent.shipping import Shipping
from isthmus.kit import guarding, logs
from isthmus.wire import frames
from isthmus.wire.agents import Phase
from isthmus.wire.names import Role

log = logs.get(component="control")


class Worker(Member):
    """The member that runs workloads."""

    def __init__(self, shared: Shared) -> None:
        """Raises ConfigError for a certificate or an environment file that cannot be used."""
        super().__init__(Role.WORKER, shared)
        config, timing, clock, prepared = shared.config, shared.timing, shared.clock, shared.prepared
        self.settling = Settling(timing, self.client, self.membership, health=self.health, clock=clock)
        self._shipping = Shipping(
            timing,
            self.client,
            self.membership,
            self.log_home,
            wanted=config.ship_logs,
            state_dir=config.state_dir,
            health=self.health,
            clock=clock,
        )
        self._forkserver = ForkServer(
            config,
            timing,
            user=prepared.task_user,
            lock_fd=prepared.lock_fd,
            health=self.health,
            clock=clock,
            spared=self._siblings,
        )
        self._running = Running(
            timing,
            self.client,
            self.membership,
            slots=config.slots,
            kill_grace_seconds=config.kill_grace_seconds,
            gateway=self.gateway,
            gateway_socket=str(config.gateway_socket()),
            runner=self._forkserver,
            settling=self.settling,
            shipping=self._shipping,
            metrics=shared.metrics,
            clock=clock,
            spawn=self._spawn,
            ready=self._runner_ready,
            freed=self._freed,
        )
        self._forkserver.listen(self._running)
        self._claiming = Claiming(
            timing,
            self.client,
            self.membership,
            running=self._running,
            runner=self._forkserver,
            metrics=shared.metrics,
            clock=clock,
            stopped=lambda: self.heartbeating.cordoned or self.draining.phase is not Phase.READY,
        )
        self._begin_with(self._running)

    @property
    def child(self) -> ForkServer:
        """The fork server."""
        return self._forkserver

    def steered(self) -> None:
        """Claim, or do not."""
        self._shipping.steered()
        self._claiming.look()
        super().steered()

    def state(self) -> dict[str, Any]:
        """With the outcomes that the plane has yet to take."""
        return {**super().state(), "unsettled": self.settling.pending, "unshipped_logs": self._shipping.waiting}

    def _loops(self, group: asyncio.TaskGroup) -> None:
        guarding.start(group, "forkserver", self._forkserver.run(), ends=True)
        guarding.start(group, "claiming", self._claiming.run())
        guarding.start(group, "settling", self.settling.run())
        guarding.start(group, "shipping", self._shipping.run())

    def _work(self) -> Work:
        return self._running

    async def _end_of_work(self) -> None:
        await self._forkserver.stop()
        self._running.abandon("the agent was stopped")
        unsettled = await self.settling.flush(self._shared.timing.farewell)
        if unsettled:
            log.warning("outcomes were not reported", count=unsettled)
        unshipped = await self._shipping.flush(self._shared.timing.farewell)
        if unshipped:
            log.warning("task logs were not shipped: the next start does, if this disk is there", count=unshipped)

    def _runner_ready(self, runner: frames.Ready) -> None:
        self._shipping.home_known()
        self.enrolling.runner_ready(runner)

    def _freed(self) -> None:
        self._claiming.look()
        self.draining.look()
