"""What a verification found: typed rows, in the order in which one depends on the other.

A row says what was looked at, what was seen and what to do about it. The command line, the control plane's pages and
the heartbeat show the same rows.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from isthmus.wire.probes import ProbeReport, ProbeRow, ProbeStatus

#: A line on the wire is not longer (``wire.probes.Line``).
_LINE: Final = 512


class Status(StrEnum):
    """How one check ended. SKIP: not looked at, because something before it failed or it does not apply here."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


class Check(StrEnum):
    """What can be checked, in order."""

    RESOLVER = "resolver"
    NAME = "name"
    ADDRESS = "address"
    PROXY = "proxy"
    #: Only where the endpoint's connection is known.
    CONNECTION = "connection"
    TCP = "tcp"
    TLS = "tls"
    INGRESS = "ingress"
    DEPLOYMENT = "deployment"
    SOURCE = "source"
    TOKEN = "token"
    CLOCK = "clock"
    HEARTBEAT = "heartbeat"
    KEEP_ALIVE = "keep_alive"
    PUBLIC_PATH = "public_path"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. ``remedy`` says what to do, empty where nothing has to be done; ``code`` names a cause."""

    status: Status
    details: str
    remedy: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a report. ``target`` is what was looked at: a name, an address with its port, a URL."""

    check: Check
    target: str
    status: Status
    details: str
    remedy: str
    took_seconds: float
    code: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All rows of one verification of ``url``, begun at ``started_at`` (aware, UTC)."""

    url: str
    started_at: datetime
    rows: tuple[Row, ...]

    @property
    def failed(self) -> tuple[Row, ...]:
        """The rows that failed."""
        return tuple(row for row in self.rows if row.status is Status.FAIL)

    @property
    def status(self) -> Status:
        """The worst of the rows; PASS where some were skipped and the rest passed."""
        statuses = {row.status for row in self.rows}
        for status in (Status.FAIL, Status.WARN):
            if status in statuses:
                return status
        return Status.PASS


def to_wire(report: Report, order_id: UUID | None = None, *, finished: bool = True) -> ProbeReport:
    """The report as it is sent and shown, cut to what the wire allows; not ``finished``: the rows so far."""
    return ProbeReport(
        order_id=order_id,
        url=report.url[:_LINE],
        started_at=report.started_at,
        status=ProbeStatus(report.status.value),
        rows=tuple(row_to_wire(row) for row in report.rows),
        finished=finished,
    )


def row_to_wire(row: Row) -> ProbeRow:
    """One row, cut in the same way."""
    return ProbeRow(
        check=row.check.value,
        target=row.target[:_LINE],
        status=ProbeStatus(row.status.value),
        details=row.details[:_LINE],
        remedy=row.remedy[:_LINE],
        took_seconds=round(row.took_seconds, 4),
        code=row.code,
    )
