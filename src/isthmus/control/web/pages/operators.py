"""Organization settings › Operators: who may come in, with tokens that are shown once."""

from typing import Final

from isthmus.control import operators
from isthmus.control.api import views
from isthmus.control.web.visits import Form, Moved, Notice, Page, View, Visit, address, body_of
from isthmus.wire import control


async def listed(visit: Visit) -> View:
    """All operators, without their tokens."""
    async with visit.core.database.begin() as database:
        found = await operators.all_of_them(database)
    values = {"operators": [views.operator(one) for one in found]}
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
