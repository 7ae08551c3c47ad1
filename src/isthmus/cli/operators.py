"""``isthmus operator``: who may look at the control plane, and who may change it."""

from pathlib import Path
from typing import Annotated

import typer

from isthmus.cli import printing
from isthmus.cli.asking import ControlPlane, Json, body_of, segment, with_control
from isthmus.kit.errors import ConfigError
from isthmus.wire import control, paths

app = typer.Typer(add_completion=False, help="Operators of the control plane: create, list, revoke.")

Name = Annotated[str, typer.Argument(help="As in: ann, or ingress-west.")]
Out = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write the token to a new file (mode 0600) instead."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the token alone.")]


@app.command("create")
@with_control
def create(
    plane: ControlPlane,
    name: Name,
    *,
    role: Annotated[
        control.OperatorRole, typer.Option("--role", help="viewer looks, admin changes.")
    ] = control.OperatorRole.VIEWER,
    out: Out = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make an operator and show the token, once."""
    free(out)
    body = body_of(control.OperatorCreateRequest, name=name, role=role)
    created = plane.ask(control.OperatorCreated, "POST", paths.CONTROL_OPERATORS, body)
    if as_json and out is None:
        printing.json_of(created)
        return
    hand_over(name, created.secret, out, quiet=quiet)


@app.command("list")
@with_control
def list_operators(
    plane: ControlPlane,
    *,
    find: Annotated[str | None, typer.Option("--find", metavar="TEXT", help="Only with this in the name.")] = None,
    active: Annotated[
        bool | None, typer.Option("--active/--revoked", help="Only who may come in, or only who may not any more.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the operators."""
    page = plane.ask(control.OperatorPage, "GET", paths.CONTROL_OPERATORS, find=find, is_active=active)
    if as_json:
        printing.json_of(page)
        return
    printing.table(
        ("OPERATOR", "ROLE", "STATE", "CREATED", "BY", "LAST USED"),
        (
            (
                one.name,
                one.role.value,
                "active" if one.revoked_at is None else "revoked",
                printing.age(one.created_at),
                one.created_by,
                printing.age(one.last_used_at),
            )
            for one in page.operators
        ),
        empty="There is no operator.",
    )


@app.command("revoke")
@with_control
def revoke(plane: ControlPlane, name: Name, *, as_json: Json = False) -> None:
    """Shut an operator out, now. The last admin stays."""
    path = paths.CONTROL_OPERATOR_REVOKE.format(
        name=segment(name, r"^[a-z0-9][-a-z0-9._@]*$", "an operator's name", "ann")
    )
    view = plane.ask(control.OperatorView, "POST", path)
    if as_json:
        printing.json_of(view)
    else:
        printing.say(f"{view.name} is revoked.")


def free(out: Path | None) -> None:
    """Raise ConfigError if there is such a file."""
    if out is not None and out.exists():
        raise ConfigError(
            f"{out} exists", code="token_file_exists", hint="Name a file that does not exist: no token is overwritten."
        )


def hand_over(name: str, secret: str, out: Path | None, *, quiet: bool) -> None:
    """Show a token, or write it to a new file. Raises ConfigError."""
    if out is not None:
        try:
            out.touch(mode=0o600, exist_ok=False)
            out.write_text(secret + "\n", encoding="ascii")
        except OSError as error:
            raise ConfigError(
                f"operator {name} was made, but the token cannot be written to {out}: {error.strerror}",
                code="token_file_refused",
                hint=f"Revoke it (isthmus operator revoke {name}) and name a new file.",
            ) from None
        printing.note(f"The token of {name} is in {out}.")
    elif quiet:
        printing.say(secret)
    else:
        printing.facts((("operator", name), ("token", secret)))
        printing.note("Keep the token now: it is not shown again.")
