"""Options of a command made from a config class, one for each setting that may come from a flag.

So help, checks and documentation have one source. Values stay text: ``kit.settings`` parses them. Nothing of Rich is
loaded.
"""

import dataclasses
import inspect
import typing
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from isthmus.cli import defaults
from isthmus.kit import settings


def options(config: type[Any], *, without: Collection[str] = ()) -> Iterator[inspect.Parameter]:
    """One parameter of a Typer command for each setting of ``config`` but those ``without``."""
    abouts = settings.settings_of(config)
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        about = abouts[field.name]
        if settings.Source.FLAG in about.sources and field.name not in without:
            flag = "--" + field.name.replace("_", "-")
            option = typer.Option(flag, help=_help(field, about), metavar=_metavar(hints[field.name], about))
            yield inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
            )


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
