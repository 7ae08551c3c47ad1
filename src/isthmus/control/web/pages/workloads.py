"""A deployment's workloads: filtered and paged by the deployment, and one of them."""

import re
from typing import Any, Final
from uuid import UUID

from isthmus.control.api.refusals import field
from isthmus.control.api.routes import ProblemError
from isthmus.control.operating import OperatedDeployment
from isthmus.control.web.pages.deployments import BASE, asked, operated_by
from isthmus.control.web.visits import Form, Moved, Notice, Page, View, Visit, address
from isthmus.wire.admin import WorkloadState
from isthmus.wire.names import Kind

_PAGE: Final = 50
_FIELDS: Final = ("state", "queue", "kind", "dag_id", "agent_id")
#: Where a page ends, as the deployment wrote it.
_BEFORE: Final = re.compile(r"[\w:.+-]{1,128}")


async def workloads(visit: Visit) -> View:
    """A page of workloads, newest first."""
    wanted = {name: visit.query(name) for name in _FIELDS}
    before = visit.query("before")
    if wanted["state"] not in (None, *WorkloadState) or wanted["kind"] not in (None, *Kind):
        raise ProblemError(field("state or kind", "is none that workloads have"))
    if before is not None and not _BEFORE.fullmatch(before):
        raise ProblemError(field("before", "is no place in the list"))
    base = ("clusters", visit.part("cluster_id"), "deployments", visit.part("deployment_id"), "workloads")

    async def ask(operated: OperatedDeployment) -> dict[str, Any]:
        page = await operated.workloads(**wanted, limit=_PAGE, before=before)
        return {
            "workloads": page.workloads,
            "wanted": wanted,
            "is_filtered": any(wanted.values()),
            "states": [one.value for one in WorkloadState],
            "kinds": [one.value for one in Kind],
            "next": address(*base, **wanted, before=page.next_before) if page.next_before else None,
            "first": address(*base, **wanted) if before else None,
        }

    return await asked(visit, "workloads", "Workloads", ask, () if before else ("deployments/workload_rows",))


async def workload(visit: Visit) -> View:
    """One workload, with what Airflow wants done."""
    workload_id = _id(visit.part("workload_id"))

    async def ask(operated: OperatedDeployment) -> dict[str, Any]:
        found = await operated.workload(workload_id)
        return {"workload": found.workload, "payload": found.payload}

    return await asked(visit, "workload", "Workload", ask, ("deployments/workload_facts",))


async def cancel(visit: Visit, form: Form) -> Moved:
    """Cancel a workload, or ask it to stop."""
    operated = await operated_by(visit)
    found = await operated.cancel_workload(visit.actor, _id(visit.part("workload_id")))
    said = "It is cancelled." if found.state is WorkloadState.CANCELLED else "Its agent is asked to stop it."
    return Moved(visit.here, Notice(said))


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise ProblemError(field("workload", "has no such id")) from None


PAGES: Final = (
    Page(f"{BASE}/workloads", workloads),
    Page(f"{BASE}/workloads/{{workload_id}}", workload, {"cancel": cancel}),
)
