"""``isthmus config explain``: every setting with its value, where the value came from, and what it is for."""

# ruff: noqa: PLC0415 - each side is installed without the other

import dataclasses
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from isthmus.cli import printing
from isthmus.kit import settings
from isthmus.kit.errors import ConfigError
from isthmus.wire.bodies import Response

app = typer.Typer(add_completion=False, help="Explain the settings of an agent or a deployment.")


class Side(StrEnum):
    """Whose settings."""

    AGENT = "agent"
    DEPLOYMENT = "deployment"


class SettingView(Response):
    """One setting as ``--json`` shows it. Secrets are masked."""

    name: str
    value: str
    source: str
    default: str
    unit: str
    meaning: str
    why: str


class SettingsView(Response):
    """All settings of one side."""

    role: Side
    settings: tuple[SettingView, ...]


@app.callback()
def config() -> None:
    """Explain the settings of an agent or a deployment."""


@app.command("explain")
def explain(
    *,
    role: Annotated[Side, typer.Option("--role", help="Whose settings.")] = Side.AGENT,
    file: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The agent's TOML file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show every setting, its value here, where that came from, and what it is for.

    For an agent that is the environment (ISTHMUS_AGENT_*), the file and the defaults; for a deployment Airflow's
    configuration, section [isthmus]. Where one that is needed is missing, all are shown with their defaults, and the
    command fails.
    """
    try:
        explained = _agent(file) if role is Side.AGENT else _deployment()
    except ConfigError as error:
        if error.code == "config_missing":
            _show(role, settings.describe(_kind(role)), as_json=as_json)
        raise
    _show(role, explained, as_json=as_json)


def _show(role: Side, explained: tuple[settings.Explained, ...], *, as_json: bool) -> None:
    if as_json:
        views = tuple(
            SettingView(
                name=one.name,
                value=one.value,
                source=str(one.origin),
                default=one.default,
                unit=one.unit,
                meaning=one.meaning,
                why=one.why,
            )
            for one in explained
        )
        printing.json_of(SettingsView(role=role, settings=views))
        return
    for one in explained:
        unit = f" {one.unit}" if one.unit and one.value != "(not set)" else ""
        printing.say(f"{one.name} = {one.value}{unit}    [{one.origin}]")
        printing.paragraph(f"{one.meaning} {one.why}".strip(), indent=4)


def _kind(role: Side) -> type[Any]:
    if role is Side.AGENT:
        from isthmus.agent.config import AgentConfig

        return AgentConfig
    from isthmus.deployment.config import DeploymentConfig

    return DeploymentConfig


def _agent(file: Path | None) -> tuple[settings.Explained, ...]:
    from isthmus.agent import config

    return settings.explain(config.load({}, environment=dict(os.environ), file=file))


def _deployment() -> tuple[settings.Explained, ...]:
    from isthmus.deployment import compat

    config = compat.deployment_config()
    origins = {}
    for field in dataclasses.fields(config):
        is_default = getattr(config, field.name) == field.default
        source = settings.Source.DEFAULT if is_default else settings.Source.FILE
        origins[field.name] = settings.Origin(source, "" if is_default else "Airflow's configuration")
    return settings.explain(settings.Loaded(config, origins))
