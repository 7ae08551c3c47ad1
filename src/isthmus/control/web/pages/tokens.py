"""A deployment's agent tokens: made, shown once, rotated, revoked."""

from typing import Any, Final

from isthmus.control.api.refusals import field
from isthmus.control.api.routes import ProblemError
from isthmus.control.operating import OperatedDeployment
from isthmus.control.web.pages.deployments import BASE, asked, operated_by
from isthmus.control.web.visits import Form, Moved, Notice, Page, View, Visit, address, body_of, number
from isthmus.wire import admin
from isthmus.wire.admin import TokenState
from isthmus.wire.names import Role

_PAGE: Final = 50


async def tokens(visit: Visit) -> View:
    """The tokens, newest first, without their secrets."""
    wanted = {name: visit.query(name) for name in ("find", "state")}
    if wanted["state"] not in (None, *TokenState):
        raise ProblemError(field("state", f"is none of {', '.join(TokenState)}"))
    start = number(visit, "start")

    async def ask(operated: OperatedDeployment) -> dict[str, Any]:
        there = (await operated.tokens()).tokens
        found = [one for one in there if _is_wanted(one, wanted)]
        base = ("clusters", visit.part("cluster_id"), "deployments", visit.part("deployment_id"), "tokens")
        return {
            "tokens": found[start : start + _PAGE],
            "count": len(found),
            "all": len(there),
            "wanted": wanted,
            "states": [one.value for one in TokenState],
            "first": address(*base, **wanted) if start else None,
            "next": address(*base, **wanted, start=start + _PAGE) if len(found) > start + _PAGE else None,
            "roles": [one.value for one in Role],
            "limit": (await operated.show()).token_limit,
        }

    return await asked(visit, "tokens", "Tokens", ask)


async def create(visit: Visit, form: Form) -> View:
    """Make a token. Its secret is on the page that answers, and nowhere else."""
    body = body_of(
        admin.TokenCreateRequest,
        name=form.get("name", ""),
        expires_days=_days(form),
        roles=form.lines("roles"),
        queues=form.lines("queues"),
        links=_links(form),
        bundles=form.lines("bundles"),
    )
    made = await (await operated_by(visit)).create_token(visit.actor, body)
    return await _created(visit, made)


async def rotate(visit: Visit, form: Form) -> View:
    """Make a successor; the old one works on for a day."""
    body = body_of(admin.TokenRotateRequest, overlap_hours=form.number("overlap_hours") or 0, expires_days=_days(form))
    made = await (await operated_by(visit)).rotate_token(visit.actor, form.get("token_id", ""), body)
    return await _created(visit, made)


async def revoke(visit: Visit, form: Form) -> Moved:
    """End a token now."""
    made = await (await operated_by(visit)).revoke_token(visit.actor, form.get("token_id", ""))
    return Moved(visit.here, Notice(f"Token {made.name} ({made.token_id}) opens nothing any more."))


async def _created(visit: Visit, made: admin.TokenCreated) -> View:
    async def ask(_: OperatedDeployment) -> dict[str, Any]:
        return {"created": made.token, "secret": made.secret}

    return await asked(visit, "token_created", f"Token {made.token.name}", ask)


def _is_wanted(one: admin.TokenView, wanted: dict[str, str | None]) -> bool:
    text = (wanted["find"] or "").lower()
    return wanted["state"] in (None, one.state.value) and (text in one.name.lower() or text in one.token_id)


def _days(form: Form) -> int | None:
    return None if form.get("expires") == "never" else form.number("expires_days") or 365


def _links(form: Form) -> tuple[int, ...]:
    texts = form.lines("links")
    if not all(one.isascii() and one.isdigit() and len(one) < 12 for one in texts):
        raise ProblemError(field("links", "are ids of connections, which are numbers"))
    return tuple(int(one) for one in texts)


PAGES: Final = (Page(f"{BASE}/tokens", tokens, {"create": create, "rotate": rotate, "revoke": revoke}),)
