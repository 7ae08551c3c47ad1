"""Organization settings › Operators: who may come in, with tokens that are shown once."""

from typing import Final

from isthmus.control import operators
from isthmus.control.api import views
from isthmus.control.api.refusals import field
from isthmus.control.api.routes import ProblemError
from isthmus.control.web.visits import Form, Moved, Notice, Page, View, Visit, address, body_of
from isthmus.wire import control

_PAGE: Final = 50
#: What operators are told apart by, and whether they may come in.
_STATES: Final = {"active": True, "revoked": False}


async def listed(visit: Visit) -> View:
    """The operators by name, without their tokens."""
    asked = {name: visit.query(name) for name in ("find", "state")}
    if asked["state"] not in (None, *_STATES):
        raise ProblemError(field("state", f"is none of {', '.join(_STATES)}"))
    after = visit.query("after")
    async with visit.core.database.begin() as database:
        found = await operators.listed(
            database,
            after=after,
            limit=_PAGE + 1,
            containing=asked["find"],
            is_active=None if asked["state"] is None else _STATES[asked["state"]],
        )
    values = {
        "operators": [views.operator(one) for one in found[:_PAGE]],
        "asked": asked,
        "states": tuple(_STATES),
        "is_filtered": any(asked.values()),
        "first": address("operators", **asked) if after else None,
        "next": address("operators", **asked, after=found[_PAGE - 1].name) if len(found) > _PAGE else None,
    }
    return View("operators/list.html", "Operators", "operators", values)


async def create(visit: Visit, form: Form) -> View:
    """Make an operator. The token is on the page that answers, and nowhere else."""
    body = body_of(
        control.OperatorCreateRequest, name=form.get("name", ""), role=form.get("role", control.OperatorRole.VIEWER)
    )
    async with visit.core.database.begin() as database:
        made, secret = await operators.create(database, visit.actor, body.name, body.role)
    values = {"operator": views.operator(made), "secret": secret}
    return View("operators/created.html", f"Token of {made.name}", "operators", values, status=201)


async def revoke(visit: Visit, form: Form) -> Moved:
    """Shut an operator out now."""
    async with visit.core.database.begin() as database:
        found = await operators.revoke(database, visit.actor, form.get("name", ""))
    return Moved(address("operators"), Notice(f"{found.name} is shut out."))


PAGES: Final = (Page("/operators", listed, {"create": create, "revoke": revoke}),)
