"""``isthmus agent``: the composition root of the agent's control process.

Its options are made from ``AgentConfig``, one for each setting that may come from a flag, so that help, checks and
documentation have one source. Nothing of the plane, of Airflow or of Rich is loaded on the way to the control process.
"""

import inspect
from pathlib import Path
from typing import Annotated, Final

import typer

from isthmus.agent import config
from isthmus.cli import flags as flagging

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

app = typer.Typer(add_completion=False)


def agent(*, config_file: ConfigFile = None, **flags: str | None) -> None:
    """Run the agent that flags, environment and file describe."""
    from isthmus.agent import control  # noqa: PLC0415 - help is printed without the agent

    loaded = config.load(flags, file=config_file)
    raise typer.Exit(control.run(loaded.config))


_CONFIG_FILE: Final = inspect.signature(agent).parameters["config_file"]
agent.__signature__ = inspect.Signature([_CONFIG_FILE, *flagging.options(config.AgentConfig)])  # type: ignore[attr-defined]
app.command(help=HELP)(agent)
