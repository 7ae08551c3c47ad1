"""A deployment's triggers: which agents run how many, and what nobody runs."""

from typing import Any, Final

from isthmus.control.operating import OperatedDeployment
from isthmus.control.web.pages.deployments import BASE, asked
from isthmus.control.web.visits import Page, View, Visit, address, number

_PAGE: Final = 50


async def triggers(visit: Visit) -> View:
    """A page of triggerers by name, and all that waits: what nobody could run first."""
    start = number(visit, "start")
    base = ("clusters", visit.part("cluster_id"), "deployments", visit.part("deployment_id"), "triggers")

    async def ask(operated: OperatedDeployment) -> dict[str, Any]:
        seen = await operated.triggers(start=start, limit=_PAGE)
        return {
            "seen": seen,
            "next": None if seen.next_start is None else address(*base, start=seen.next_start),
            "first": address(*base) if start else None,
        }

    return await asked(visit, "triggers", "Triggers", ask, () if start else ("deployments/trigger_rows",))


PAGES: Final = (Page(f"{BASE}/triggers", triggers),)
