"""A deployment's DAG bundles: who parses each, what is in it, and what was refused."""

from typing import Any, Final

from isthmus.control.operating import OperatedDeployment
from isthmus.control.web.pages.deployments import BASE, asked
from isthmus.control.web.visits import Page, View, Visit, address, number

_PAGE: Final = 50


async def bundles(visit: Visit) -> View:
    """A page of bundles, those that nobody parses first."""
    start = number(visit, "start")
    base = ("clusters", visit.part("cluster_id"), "deployments", visit.part("deployment_id"), "bundles")

    async def ask(operated: OperatedDeployment) -> dict[str, Any]:
        page = await operated.bundles(start=start, limit=_PAGE)
        return {
            "bundles": page.bundles,
            "refused": page.refused,
            "next": None if page.next_start is None else address(*base, start=page.next_start),
            "first": address(*base) if start else None,
        }

    return await asked(visit, "bundles", "DAG bundles", ask, () if start else ("deployments/bundle_rows",))


PAGES: Final = (Page(f"{BASE}/bundles", bundles),)
