"""Overview: what there is, and what is wrong with it."""

from typing import Final

from isthmus.control import clusters, conditions, links
from isthmus.control.api import views
from isthmus.control.web.visits import Page, View, Visit


async def overview(visit: Visit) -> View:
    """Everything at a glance."""
    async with visit.core.database.begin() as database:
        counts = await clusters.counts(database)
        found = await clusters.listed(database, after=None, limit=50)
        published = {one.cluster_id: one for one in await links.all_of_them(database)}
    values = {
        "counts": counts,
        "clusters": [views.cluster(one, ()) for one in found],
        "links": published,
        "warnings": [conditions.to_wire(one) for one in visit.health.visible()],
    }
    return View("overview/overview.html", "Overview", "overview", values, ("overview/state",))


PAGES: Final = (Page("/overview", overview),)
