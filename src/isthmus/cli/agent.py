"""``isthmus agent``: the composition root of the agent's control process.

Its options are made from ``AgentConfig``, one for each setting that may come from a flag, so that help, checks and
documentation have one source. Nothing of the plane, of Airflow or of Rich is loaded on the way to the control process.
"""

import dataclasses
import inspect
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from isthmus.agent import config
from isthmus.cli import defaults
from isthmus.kit import settings

HELP: Final = (
    "Run an agent: it claims workloads and runs them here.\n\n"
    "Settings come from flags, then from the environment (ISTHMUS_AGENT_SLOTS for --slots), then from the file, then "
    "defaults. The agent token comes from --token-file or ISTHMUS_AGENT_TOKEN. On SIGTERM the agent drains: it takes "
    "no new work and finishes what it runs; then the exit code is 0."
)

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="PATH", help=f"A TOML file with settings; or {config.FILE_VARIABLE}."),
]

app = typer.Typer()


def _help(field: "dataclasses.Field[Any]", about: settings.Setting) -> str:
    text = about.meaning
    if defaults.is_required(field, about):
        text += " Required."
    elif default := defaults.shown(field, about):
        text += f" Default: {default}."
    return text.replace("[", r"\[")  # square brackets are markup to Rich


def _metavar(hint: Any, about: settings.Setting) -> str:
    if about.unit:
        return about.unit.upper()
    return "PATH" if Path in {hint, *typing.get_args(hint)} else "TEXT"


def options() -> Iterator[inspect.Parameter]:
    """One parameter of a Typer command for each setting that a flag may give. Values stay text: ``settings`` parses."""
    abouts = settings.settings_of(config.AgentConfig)
    hints = typing.get_type_hints(config.AgentConfig)
    for field in dataclasses.fields(config.AgentConfig):
        about = abouts[field.name]
        if settings.Source.FLAG in about.sources:
            flag = "--" + field.name.replace("_", "-")
            option = typer.Option(flag, help=_help(field, about), metavar=_metavar(hints[field.name], about))
            yield inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
            )


def agent(*, config_file: ConfigFile = None, **flags: str | None) -> None:
    """Run the agent that flags, environment and file describe."""
    from isthmus.agent import control  # noqa: PLC0415 - help is printed without the agent

    loaded = config.load(flags, file=config_file)
    raise typer.Exit(control.run(loaded.config))


_CONFIG_FILE: Final = inspect.signature(agent).parameters["config_file"]
agent.__signature__ = inspect.Signature([_CONFIG_FILE, *options()])  # type: ignore[attr-defined]
app.command(help=HELP)(agent)
