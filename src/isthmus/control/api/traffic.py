"""The route that shows what goes through a cluster's link."""

from fastapi import APIRouter

from isthmus.control import clusters, links
from isthmus.control.api.documents import responses
from isthmus.control.api.routes import EVERYWHERE, ClusterId, Core
from isthmus.control.links import Problem
from isthmus.control.metering import Reading
from isthmus.link.traffic import LAST_HOUR
from isthmus.wire import paths
from isthmus.wire.control import NoteView
from isthmus.wire.problems import Code
from isthmus.wire.traffic import LinkTrafficView, PortUseView


def add(routes: APIRouter, core: Core) -> None:
    """Add the route."""

    @routes.get(
        paths.CONTROL_LINK_TRAFFIC,
        operation_id="link_traffic",
        responses=responses((*EVERYWHERE, Code.CLUSTER_NOT_FOUND, Code.LINK_NOT_FOUND)),
    )
    async def traffic(cluster_id: ClusterId) -> LinkTrafficView:
        """What went through the link in the last hour, as the cloud measured it; at most a minute old."""
        async with core.database.begin() as database:
            await clusters.get(database, cluster_id)
            found = await links.get(database, cluster_id)
        return view(cluster_id, await core.carrier.meter.read(found.spec.service.service_id))


def view(cluster_id: str, reading: Reading) -> LinkTrafficView:
    """A reading as the API has it."""
    measured = reading.traffic
    carried = None if measured is None else measured.traffic
    return LinkTrafficView(
        cluster_id=cluster_id,
        measured_at=reading.measured_at,
        span_seconds=int(LAST_HOUR.total_seconds()),
        bytes_in=None if carried is None else carried.bytes_in,
        bytes_out=None if carried is None else carried.bytes_out,
        nat_addresses=tuple(
            PortUseView(address=str(one.address), last_percent=one.last_percent, most_percent=one.most_percent)
            for one in (() if measured is None else measured.ports)
        ),
        problem=_note(reading.problem),
    )


def _note(problem: Problem | None) -> NoteView | None:
    return None if problem is None else NoteView(code=problem.code, sentence=problem.sentence, hint=problem.hint)
