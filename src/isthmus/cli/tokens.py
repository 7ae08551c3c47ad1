"""``isthmus token``: the credentials of agents.

A secret is shown once, when its token is made. With ``--quiet`` it is all that standard output carries, so that it can
go straight into a file or a secret store.
"""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from isthmus.cli import printing
from isthmus.cli.calling import Json, Plane, with_plane
from isthmus.kit.errors import ConfigError
from isthmus.wire import admin
from isthmus.wire.names import Role

app = typer.Typer(add_completion=False, no_args_is_help=False, help="Agent tokens: create, list, revoke, rotate.")

ExpiresDays = Annotated[
    int, typer.Option("--expires-days", min=1, max=admin.MAX_TOKEN_DAYS, help="Days until the token expires.")
]
NeverExpires = Annotated[bool, typer.Option("--never-expires", help="The token lives until it is revoked.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the secret alone.")]
Out = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write the secret to a new file (mode 0600) instead."),
]
TokenId = Annotated[str, typer.Argument(metavar="TOKEN_ID", help="The token's id, as in: isthmus token list.")]


def _show(token: admin.TokenView, secret: str) -> None:
    printing.facts(
        (
            ("token", token.token_id),
            ("name", token.name),
            ("state", token.state),
            ("roles", printing.words(token.roles, "any")),
            ("queues", printing.words(token.queues, "any")),
            ("links", printing.words(map(str, token.links), "any path")),
            ("bundles", printing.words(token.bundles, "any")),
            ("expires", "never" if token.expires_at is None else printing.age(token.expires_at)),
            ("secret", secret),
        )
    )


def _hand_over(created: admin.TokenCreated, *, as_json: bool, quiet: bool, out: Path | None) -> None:
    if out is not None:
        try:
            out.touch(mode=0o600, exist_ok=False)
            out.write_text(created.secret + "\n", encoding="ascii")
        except OSError as error:
            # The token exists and nobody can know its secret any more: say which one to revoke.
            raise ConfigError(
                f"token {created.token.token_id} was made, but its secret cannot be written to {out}: {error.strerror}",
                code="token_file_refused",
                hint=f"Revoke it (isthmus token revoke {created.token.token_id}) and name a new file.",
            ) from None
    if as_json:
        printing.json_of(created)
    elif quiet:
        if out is None:
            printing.say(created.secret)
    else:
        _show(created.token, created.secret if out is None else f"in {out}")
        if out is None:
            printing.note("Keep the secret now: it is not shown again.")


@app.command("create")
@with_plane
def create(
    plane: Plane,
    name: Annotated[str, typer.Argument(help="What the token is for, as in: site-oslo.")],
    *,
    expires_days: ExpiresDays = 365,
    never_expires: NeverExpires = False,
    role: Annotated[list[Role] | None, typer.Option("--role", help="Only for agents of this role; may repeat.")] = None,
    queue: Annotated[list[str] | None, typer.Option("--queue", help="Only for this queue; may repeat.")] = None,
    link: Annotated[
        list[int] | None,
        typer.Option(
            "--link",
            metavar="LINK_ID",
            help="Only through this private link connection; may repeat. Ids are shown by: isthmus link connections.",
        ),
    ] = None,
    bundle: Annotated[
        list[str] | None,
        typer.Option(
            "--bundle",
            metavar="PATTERN",
            help="Its agents may bring DAG bundles of such names, and run their triggers, only: sales_*; may repeat.",
        ),
    ] = None,
    quiet: Quiet = False,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Make an agent token and show its secret, once."""
    _free(out)
    body = _checked(
        name=name,
        expires_days=None if never_expires else expires_days,
        roles=tuple(role or ()),
        queues=tuple(queue or ()),
        links=tuple(link or ()),
        bundles=tuple(bundle or ()),
    )
    _hand_over(plane.create_token(body), as_json=as_json, quiet=quiet, out=out)


@app.command("list")
@with_plane
def list_tokens(plane: Plane, *, as_json: Json = False) -> None:
    """List the tokens, newest first."""
    page = plane.tokens()
    if as_json:
        printing.json_of(page)
        return
    printing.table(
        ("TOKEN", "NAME", "STATE", "SCOPE", "EXPIRES", "LAST USED"),
        (
            (
                token.token_id,
                token.name,
                token.state.value,
                printing.words(
                    (
                        *token.roles,
                        *token.queues,
                        *(f"link {link}" for link in token.links),
                        *(f"bundle {pattern}" for pattern in token.bundles),
                    ),
                    "any",
                ),
                "never" if token.expires_at is None else printing.age(token.expires_at),
                printing.words(
                    part
                    for part in (printing.age(token.last_used_at), token.last_used_address or "")
                    if part not in ("", printing.NOTHING)
                ),
            )
            for token in page.tokens
        ),
        empty="There is no agent token. Make one with: isthmus token create NAME",
    )


@app.command("revoke")
@with_plane
def revoke(plane: Plane, token_id: TokenId, *, as_json: Json = False) -> None:
    """End a token now; its agents are refused from here on."""
    token = plane.revoke_token(token_id)
    if as_json:
        printing.json_of(token)
    else:
        printing.say(f"Token {token.token_id} ({token.name}) is {token.state}.")


@app.command("rotate")
@with_plane
def rotate(
    plane: Plane,
    token_id: TokenId,
    *,
    overlap_hours: Annotated[
        float, typer.Option("--overlap-hours", min=0, max=24 * 90, help="Hours for which the old token still works.")
    ] = 24.0,
    expires_days: ExpiresDays = 365,
    never_expires: NeverExpires = False,
    quiet: Quiet = False,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Make a successor of the same name and scope; both work during the overlap."""
    _free(out)
    body = admin.TokenRotateRequest(overlap_hours=overlap_hours, expires_days=None if never_expires else expires_days)
    _hand_over(plane.rotate_token(token_id, body), as_json=as_json, quiet=quiet, out=out)


def _checked(**fields: object) -> admin.TokenCreateRequest:
    try:
        return admin.TokenCreateRequest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}",
            code="request_invalid",
            hint="See: isthmus token create --help",
        ) from None


def _free(out: Path | None) -> None:
    if out is not None and out.exists():
        raise ConfigError(
            f"{out} exists", code="token_file_exists", hint="Name a file that does not exist: no token is overwritten."
        )
