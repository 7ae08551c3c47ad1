"""Verifying the road to the plane: when the plane asks for it, and on a schedule if that was set.

The checks are those of ``isthmus verify``, with the agent's own token, certificates and proxy, from this process. The
report goes out with the next heartbeat, and on an order that asks for it the rows so far go before. What the checks
need is loaded when the first one runs: most agents never do.
An order names nothing that the agent would not do by itself: it is run at most once, and of the addresses that it
brings only public ones are connected to, so that a plane cannot look around in this network.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING
from uuid import UUID

from isthmus.agent import conditions
from isthmus.agent.client import PlaneClient
from isthmus.agent.config import AgentConfig, Timing
from isthmus.kit import calling
from isthmus.kit.clocks import Clock
from isthmus.kit.health import Health
from isthmus.kit.logs import get
from isthmus.wire.probes import ProbeOrder, ProbeReport, ProbeStatus

if TYPE_CHECKING:
    from isthmus.probe.reports import Row
    from isthmus.probe.verifying import Target

log = get(component="verifying")


class Verifying:
    """The loop that verifies."""

    def __init__(
        self,
        config: AgentConfig,
        timing: Timing,
        client: PlaneClient,
        *,
        health: Health,
        clock: Clock,
        quiet_seconds: Callable[[], float],
        reported: Callable[[], None],
    ) -> None:
        """``quiet_seconds`` is the longest pause on our connections; ``reported`` is called when a report is ready."""
        self._config = config
        self._timing = timing
        self._client = client
        self._health = health
        self._clock = clock
        self._quiet_seconds = quiet_seconds
        self._reported = reported
        self._order: ProbeOrder | None = None
        self._done: UUID | None = None
        self._due = asyncio.Event()
        #: The report that the plane has yet to hear of.
        self.report: ProbeReport | None = None

    def ordered(self, order: ProbeOrder) -> None:
        """The plane wants a report; the same order comes with each heartbeat until it has one."""
        if order.order_id == self._done or (self._order is not None and order.order_id == self._order.order_id):
            return
        self._order = order
        self._due.set()

    def heard(self, report: ProbeReport) -> None:
        """The plane has ``report``."""
        if self.report is report:
            self.report = None

    async def run(self) -> None:
        """Verify when it is due. Runs until cancelled."""
        every = self._config.verify_every_seconds or None
        while True:
            await self._clock.wait(self._due, every)
            self._due.clear()
            order = self._order
            self.report = await self._verify(order)
            if order is not None:
                self._done = order.order_id
            if self._order is order:
                self._order = None
            self._show(self.report)
            self._reported()

    async def _verify(self, order: ProbeOrder | None) -> ProbeReport:
        from isthmus.probe import planes, reports, verifying  # noqa: PLC0415 - see above

        plane = planes.ProbedPlane(self._client.token)
        tell = self._teller(order) if order is not None and order.live else _unheard
        report = await verifying.verify(self._target(order), plane=plane, tell=tell)
        return reports.to_wire(report, None if order is None else order.order_id)

    def _teller(self, order: ProbeOrder) -> "Callable[[Row], None]":
        """What hears of each row, and has the rows so far sent."""
        from isthmus.probe import reports  # noqa: PLC0415 - see above

        started_at = datetime.now(UTC)
        rows: list[Row] = []

        def tell(row: "Row") -> None:
            rows.append(row)
            if self.report is not None and self.report.finished:
                return  # an earlier one that the plane has yet to hear of; this one's rows come again at its end
            so_far = reports.Report(self._config.url, started_at, tuple(rows))
            self.report = reports.to_wire(so_far, order.order_id, finished=False)
            self._reported()

        return tell

    def _target(self, order: ProbeOrder | None) -> "Target":
        from isthmus.probe import resolving  # noqa: PLC0415 - see above
        from isthmus.probe.verifying import Target  # noqa: PLC0415

        origin = calling.parse_origin(self._config.url)
        public: tuple[IPv4Address | IPv6Address, ...] = ()
        if order is not None:
            public = tuple(one for one in order.public_addresses[:4] if not resolving.is_private(one))
        proxy = self._client.caller.proxy
        return Target(
            host=origin.host,
            port=origin.port,
            path="/" + self._config.url.partition("://")[2].partition("/")[2],
            tls=self._client.tls if origin.scheme == "https" else None,
            endpoint=None if order is None else order.endpoint,
            is_public_allowed=order is None or order.public_allowed,
            public_addresses=public,
            connection=None if order is None else order.connection,
            proxy="" if proxy is None else proxy.origin.address,
            quiet_seconds=self._quiet_seconds(),
            timeout_seconds=self._timing.probe,
        )

    def _show(self, report: ProbeReport) -> None:
        failed = [row for row in report.rows if row.status is ProbeStatus.FAIL]
        if not failed:
            log.info("verified the road to the plane", status=report.status.value)
            self._health.clear(conditions.VERIFICATION_FAILED)
            return
        first = failed[0]
        self._health.raise_(
            conditions.VERIFICATION_FAILED, f"the road to the plane, {first.check}: {first.details}", first.remedy
        )


def _unheard(_: "Row") -> None:
    """Whoever did not ask for rows in between gets the report at the end."""
