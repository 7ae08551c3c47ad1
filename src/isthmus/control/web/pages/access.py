"""A deployment's Settings › Advanced: the allow list, and who would be cut off by another one.

What another list would do is a page with an address, because nothing is changed by it: ``try`` is what was typed,
``to`` is ``cluster``. The deployment itself says who would be cut off (a dry run), and from there it is put in force:
for those alone who were shown.
"""

import ipaddress
from typing import Any, Final

from isthmus.control import clusters
from isthmus.control.api.refusals import field
from isthmus.control.api.routes import ProblemError
from isthmus.control.errors import ControlRefusedError
from isthmus.control.operating import OperatedDeployment
from isthmus.control.web.pages.deployments import BASE, asked, operated_by
from isthmus.control.web.visits import Form, Moved, Notice, Page, View, Visit, address, body_of
from isthmus.wire import admin
from isthmus.wire.admin import RestrictionOutcome
from isthmus.wire.problems import Code

_SAID: Final = {
    RestrictionOutcome.RESTRICTED: "Only {ranges} may come in now.",
    RestrictionOutcome.WIDENED: "{ranges} may come in as well. When a healthy agent comes from there, restrict again.",
    RestrictionOutcome.UNRESTRICTED: "Every address may come in now.",
    RestrictionOutcome.UNCHANGED: "It was so already.",
    RestrictionOutcome.REFUSED: "Nothing is changed.",
}


async def access(visit: Visit) -> View:
    """The list in force, and what was asked about."""

    async def ask(operated: OperatedDeployment) -> dict[str, Any]:
        current, cidr = (await operated.allow_list()).ranges, await _cidr(visit)
        tried = None
        ranges = _tried(visit, cidr)
        if ranges is not None:
            body = body_of(admin.RestrictionRequest, ranges=ranges, dry_run=True)
            tried = await operated.restrict(visit.actor, body)
        return {
            "ranges": current,
            "cidr": cidr,
            "tried": tried,
            "typed": visit.form.get("ranges") or (visit.query("try") if ranges else None) or "\n".join(current),
            "base": address("clusters", visit.part("cluster_id"), "deployments", visit.part("deployment_id"), "access"),
        }

    return await asked(visit, "access", "Settings", ask)


async def restrict(visit: Visit, form: Form) -> Moved:
    """Put a list in force."""
    ranges = _ranges(form.lines("ranges"))
    operated = await operated_by(visit)
    planned = await operated.restrict(visit.actor, body_of(admin.RestrictionRequest, ranges=ranges, dry_run=True))
    if new := _names(planned) - set(form.lines("cut_off")):
        raise ControlRefusedError(Code.PLAN_CHANGED, f"{len(new)} more would be cut off than were shown.")
    body = body_of(admin.RestrictionRequest, ranges=ranges, force=form.get("force") == "true")
    return _moved(visit, await operated.restrict(visit.actor, body))


async def unrestrict(visit: Visit, form: Form) -> Moved:
    """Let every address in."""
    made = await (await operated_by(visit)).unrestrict(visit.actor)
    return _moved(visit, made)


def _names(planned: admin.RestrictionView) -> set[str]:
    """Who would be cut off, by the deployment's own reckoning."""
    return {str(one.agent_id) for one in planned.cut_off}


def _moved(visit: Visit, made: admin.RestrictionView) -> Moved:
    said = _SAID[made.outcome].format(ranges=", ".join(made.ranges_after))
    back = address("clusters", visit.part("cluster_id"), "deployments", visit.part("deployment_id"), "access")
    return Moved(back, Notice(said, is_warning=made.outcome is RestrictionOutcome.WIDENED))


async def _cidr(visit: Visit) -> str:
    async with visit.core.database.begin() as database:
        return str((await clusters.get(database, visit.part("cluster_id"))).cidr)


def _tried(visit: Visit, cidr: str) -> tuple[str, ...] | None:
    if visit.query("to") == "cluster":
        return (cidr,)
    text = visit.query("try")
    return None if text is None else _ranges(tuple(text.replace(",", " ").split()))


def _ranges(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Networks as they are written. Raises ProblemError, naming the one that is none."""
    if not texts:
        raise ProblemError(field("ranges", "are empty: to let everybody in there is a button"))
    for text in texts:
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise ProblemError(field("ranges", f"have {text[:60]}: {error}")) from None
    return texts


PAGES: Final = (Page(f"{BASE}/access", access, {"restrict": restrict, "unrestrict": unrestrict}),)
