"""``isthmus control``: the composition roots of the control plane and of a cluster's ingress.

Without a database URL the control plane brings a PostgreSQL of its own, which is the deployment's embedded one: the two
sides never import each other, and meet here.
"""

import asyncio
import contextlib
import inspect
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from isthmus.cli import flags as flagging
from isthmus.cli import operators as operator_commands
from isthmus.cli import printing
from isthmus.control import config as control
from isthmus.control.ingress import config as ingress_settings
from isthmus.kit import logs
from isthmus.kit.errors import ConfigError
from isthmus.link.drivers.azure import config as azure

app = typer.Typer(
    add_completion=False, help="Run the control plane and the ingress of a cluster; prepare its database."
)

_SERVE_HELP = (
    "Run the control plane in the foreground: its API, and the loop that looks after links.\n\n"
    "Settings come from flags, then from the environment (ISTHMUS_CONTROL_LISTEN_PORT for --listen-port), then from "
    "the file, then defaults; Azure's credentials from where its own tools find them. On SIGTERM it ends; what was "
    "under way is taken up by the next one."
)
_INGRESS_HELP = (
    "Run the ingress of a cluster in the foreground: HAProxy, with a configuration that follows the control plane.\n\n"
    "Settings come from flags, then from the environment (ISTHMUS_INGRESS_LISTEN_PORT for --listen-port), then from "
    "the file, then defaults. While the control plane is away it goes on with what it has."
)

ControlFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="PATH", help=f"A TOML file with settings; or {control.FILE_VARIABLE}."),
]
IngressFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="PATH", help=f"A TOML file with settings; or {ingress_settings.FILE_VARIABLE}."),
]
Home = Annotated[str | None, typer.Option("--home", metavar="PATH", help="Where the embedded PostgreSQL is.")]


def serve(*, config_file: ControlFile = None, **flags: str | None) -> None:
    """Run the control plane that flags, environment and file describe."""
    from isthmus.control import schema, serving  # noqa: PLC0415 - help is printed without the plane
    from isthmus.control.databases import Database  # noqa: PLC0415
    from isthmus.link.drivers.azure.driver import AzureCloud  # noqa: PLC0415 - an extra

    cloud_config = azure.load({name: flags.pop(name) for name in azure.FLAGS}, os.environ)
    loaded = control.load(flags, file=config_file).config
    logs.configure(loaded.log_level, loaded.log_format)
    logging.getLogger("azure").setLevel(logging.CRITICAL)  # what it tells is in our errors

    async def run(url: str) -> None:
        if loaded.database_url is None:  # nobody else would
            async with Database(url) as database:
                await schema.migrate(database)
        async with AzureCloud(cloud_config) as cloud:
            await serving.run(loaded, url, cloud)

    with _database(loaded) as url:
        asyncio.run(run(url))


@app.command("migrate")
def migrate(*, config_file: ControlFile = None, home: Home = None) -> None:
    """Create the tables of the control plane's database, or bring them up to date."""
    from isthmus.control import schema  # noqa: PLC0415
    from isthmus.control.databases import Database  # noqa: PLC0415

    async def run(url: str) -> str:
        async with Database(url) as database:
            return await schema.migrate(database)

    with _database(control.load({"home": home}, file=config_file).config) as url:
        printing.say(f"The tables are of revision {asyncio.run(run(url))}.")


@app.command("admit")
def admit(
    name: Annotated[str, typer.Argument(help="The first admin's name, as in: ann.")],
    *,
    config_file: ControlFile = None,
    home: Home = None,
    out: operator_commands.Out = None,
    quiet: operator_commands.Quiet = False,
) -> None:
    """Make an admin straight in the database: the first one, or when nobody has a token any more."""
    from isthmus.cli.asking import body_of  # noqa: PLC0415
    from isthmus.control import operators, schema  # noqa: PLC0415
    from isthmus.control.auditing import Actor  # noqa: PLC0415
    from isthmus.control.databases import Database  # noqa: PLC0415
    from isthmus.wire.control import OperatorCreateRequest, OperatorRole  # noqa: PLC0415

    operator_commands.free(out)
    named = body_of(OperatorCreateRequest, name=name, role=OperatorRole.ADMIN)

    async def run(url: str) -> str:
        async with Database(url) as database:
            await schema.migrate(database)
            async with database.begin() as connection:
                return (await operators.create(connection, Actor("console"), named.name, named.role))[1]

    with _database(control.load({"home": home}, file=config_file).config) as url:
        operator_commands.hand_over(name, asyncio.run(run(url)), out, quiet=quiet)


def ingress(*, config_file: IngressFile = None, **flags: str | None) -> None:
    """Run the ingress that flags, environment and file describe."""
    from isthmus.control.ingress import serving  # noqa: PLC0415 - help is printed without it

    loaded = ingress_settings.load(flags, file=config_file).config
    logs.configure(loaded.log_level, loaded.log_format)
    asyncio.run(serving.run(loaded))


@contextlib.contextmanager
def _database(config: control.ControlConfig) -> Iterator[str]:
    """The URL of the database, which runs for as long as this is open if it is the embedded one."""
    if config.database_url is not None:
        yield config.database_url
        return
    try:
        from isthmus.deployment import embedded  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"there is no database: the embedded PostgreSQL needs {error.name}, which is not installed here",
            code="database_missing",
            hint=f"Install isthmus[plane], or set {control.PREFIX}DATABASE_URL.",
        ) from None
    directory = config.home / "postgres"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        config.home.chmod(0o711)
    except OSError as error:
        raise ConfigError(
            f"{directory} cannot be made: {error.strerror}", code="home_unusable", hint="Name another with --home."
        ) from None
    with embedded.start(directory) as server:
        yield server.url


def _signature(command: Any, *configs: type[Any]) -> inspect.Signature:
    own = [one for one in inspect.signature(command).parameters.values() if one.kind is not one.VAR_KEYWORD]
    return inspect.Signature([*own, *(option for config in configs for option in flagging.options(config))])


serve.__signature__ = _signature(serve, control.ControlConfig, azure.AzureConfig)  # type: ignore[attr-defined]
ingress.__signature__ = _signature(ingress, ingress_settings.IngressConfig)  # type: ignore[attr-defined]
app.command("serve", help=_SERVE_HELP)(serve)
app.command("ingress", help=_INGRESS_HELP)(ingress)
