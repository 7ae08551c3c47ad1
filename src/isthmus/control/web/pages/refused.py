"""A deployment's door: who was turned away, why, and what to do about it."""

from typing import Any, Final

from isthmus.control import links
from isthmus.control.operating import OperatedDeployment
from isthmus.control.web.pages.deployments import BASE, asked
from isthmus.control.web.visits import Page, View, Visit, address
from isthmus.link import names

_PAGE: Final = 50


async def refused(visit: Visit) -> View:
    """Callers of the last day, the last one first, with the endpoint that they came through."""

    async def ask(operated: OperatedDeployment) -> dict[str, Any]:
        before = visit.query("before")
        page = await operated.refused(before=before, limit=_PAGE)
        async with visit.core.database.begin() as database:
            known = await links.ever_known(database, visit.part("cluster_id"))
        base = ("clusters", visit.part("cluster_id"), "deployments", visit.part("deployment_id"), "refused")
        return {
            "callers": page.callers,
            "endpoints": {one.link_id: names.brief(one.endpoint_id) for one in known if one.link_id is not None},
            "next": address(*base, before=page.next_before) if page.next_before else None,
            "first": address(*base) if before else None,
        }

    return await asked(visit, "refused", "Turned away", ask, ("deployments/refused_rows",))


PAGES: Final = (Page(f"{BASE}/refused", refused),)
