"""The last verification of each agent that comes through a cluster's link, the worst first."""

from typing import Final

from isthmus.control.overviews import SeenAgent
from isthmus.control.web.visits import Visit
from isthmus.wire.admin import AgentHealth
from isthmus.wire.names import PathKind
from isthmus.wire.probes import ProbeReport, ProbeRow, ProbeStatus

#: So many are shown; the rest is counted.
SHOWN: Final = 20
#: None: it has not verified its way yet.
_WORST_FIRST: Final = (ProbeStatus.FAIL, ProbeStatus.WARN, None, ProbeStatus.SKIP, ProbeStatus.PASS)


async def through_link(visit: Visit, cluster_id: str) -> list[SeenAgent]:
    """The agents that come through the link, by their last report. Nobody waits for a deployment."""
    overview = await visit.core.operating.glance(cluster_id)
    found = [
        one for one in overview.agents if one.agent.path is PathKind.LINK and one.agent.health is not AgentHealth.LEFT
    ]
    return sorted(found, key=_badness)


def worst(report: ProbeReport) -> ProbeRow | None:
    """The row that a report is as bad as; None when nothing is wrong."""
    bad = [row for row in report.rows if row.status in (ProbeStatus.FAIL, ProbeStatus.WARN)]
    return min(bad, key=lambda row: _WORST_FIRST.index(row.status), default=None)


def _badness(one: SeenAgent) -> tuple[int, str]:
    report = one.agent.probe_report
    return _WORST_FIRST.index(None if report is None else report.status), one.agent.name
