"""A deployment's queues: what waits where, who would take it, and what the last hour brought."""

import asyncio
from typing import Any, Final

from isthmus.control.operating import OperatedDeployment
from isthmus.control.web import plots
from isthmus.control.web.pages.deployments import BASE, asked
from isthmus.control.web.visits import Page, View, Visit


async def queues(visit: Visit) -> View:
    """All queues, those with work that nobody serves first."""

    async def ask(operated: OperatedDeployment) -> dict[str, Any]:
        page, hour = await asyncio.gather(operated.queues(), operated.throughput())
        return {
            "queues": page.queues,
            "plot": plots.throughput(hour.minutes),
            "width": plots.WIDTH,
            "height": plots.HEIGHT,
        }

    return await asked(visit, "queues", "Queues", ask, ("deployments/queue_rows", "deployments/queue_plot"))


PAGES: Final = (Page(f"{BASE}/queues", queues),)
