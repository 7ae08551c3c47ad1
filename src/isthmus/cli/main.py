"""The ``isthmus`` program: a table of commands, each loaded when it is used, and the one place where errors end.

A command's module is imported when the command runs, so that ``isthmus agent`` carries nothing of the plane and
``isthmus --help`` answers at once. Whatever a command raises as an ``IsthmusError`` becomes two lines (what happened,
what to do) and an exit code of ``exits``; anything else is a bug and keeps its traceback.
"""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from isthmus.cli.exits import MEANINGS, Exit, conclude, report
from isthmus.kit.errors import ConfigError, IsthmusError


@dataclass(frozen=True, slots=True)
class Lazy:
    """A command that is not loaded yet: its module has a Typer ``app``."""

    module: str
    summary: str


COMMANDS: Final[dict[str, Lazy]] = {
    "deployment": Lazy("isthmus.cli.deployments", "Set up a deployment, run it, look at it, and say who may come in."),
    "token": Lazy("isthmus.cli.tokens", "Agent tokens: create, list, revoke, rotate."),
    "agents": Lazy("isthmus.cli.agents", "Agents: look at them, cordon, drain, remove."),
    "bundles": Lazy("isthmus.cli.bundles", "DAG bundles: who parses each, what is in it, what was refused."),
    "triggers": Lazy("isthmus.cli.triggers", "Triggers: who runs how many, and what waits for somebody to."),
    "queues": Lazy("isthmus.cli.queues", "Queues: what waits, what runs, who serves them."),
    "workloads": Lazy("isthmus.cli.workloads", "Workloads: look at them, cancel."),
    "agent": Lazy("isthmus.cli.agent", "Run an agent: it claims workloads and runs them here."),
    "api": Lazy("isthmus.cli.api", "Run the Remote Execution API of a deployment."),
    "verify": Lazy("isthmus.cli.verify", "Look at the way from this network to a deployment, step by step."),
    "endpoint": Lazy(
        "isthmus.cli.endpoints", "Private endpoints in your own network, and the names that lead to them."
    ),
    "cluster": Lazy("isthmus.cli.clusters", "Clusters, and the deployments that their ingress leads to."),
    "link": Lazy("isthmus.cli.links", "Private links of your clusters: publish them, decide who may connect."),
    "operator": Lazy("isthmus.cli.operators", "Operators of the control plane: create, list, revoke."),
    "audit": Lazy("isthmus.cli.audits", "Who changed what, when, from where."),
    "control": Lazy("isthmus.cli.control", "Run the control plane, and the ingress of a cluster."),
    "lab": Lazy("isthmus.cli.lab", "A local Azure network with real packets, to learn and to test private links."),
    "config": Lazy("isthmus.cli.settings", "Explain the settings of an agent or a deployment."),
    "version": Lazy("isthmus.cli.versions", "Show the version."),
}

EPILOG: Final = "Exit codes: " + "; ".join(f"{code.value} {meaning}" for code, meaning in MEANINGS.items()) + "."


class LazyGroup(TyperGroup):
    """Knows its commands by name and summary, and imports the one that is used."""

    _listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command itself, or a stand-in with its summary while help is being printed."""
        lazy = COMMANDS.get(cmd_name)
        if lazy is None:
            return None
        if self._listing:
            return TyperCommand(cmd_name, help=lazy.summary)
        command = get_command(importlib.import_module(lazy.module).app)
        command.name = cmd_name
        return command

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print help without loading the commands."""
        self._listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._listing = False


app = typer.Typer(
    cls=LazyGroup,
    help="Run Apache Airflow tasks in your own network.",
    epilog=EPILOG,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(context: typer.Context) -> None:
    """Run Apache Airflow tasks in your own network."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(Exit.USAGE)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    command = get_command(app)
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        result = command.main(given, prog_name="isthmus", standalone_mode=False)
    except IsthmusError as error:
        return conclude(error)
    except typer.TyperException as error:
        report(error.format_message(), f"see: isthmus {' '.join([*_words(given), '--help'])}")
        return Exit.USAGE
    except typer.Abort:
        return Exit.INTERRUPTED
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "isthmus":
            raise
        return conclude(_not_installed(error.name))
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
        return Exit.FAILED
    return result if isinstance(result, int) else Exit.DONE


def _not_installed(module: str) -> ConfigError:
    package = module.partition(".")[0]
    hint = "The bare install runs agents. For a deployment's side: requirements/plane.txt, or isthmus[plane]."
    if package == "azure":
        hint = "The bare install runs agents. For private links on Azure: requirements/azure.txt, or isthmus[azure]."
    return ConfigError(f"this command needs {module}, which is not installed here", code="not_installed", hint=hint)


def _words(given: Sequence[str]) -> list[str]:
    """The command's name in what was typed: known words before the first option."""
    words: list[str] = []
    for word in given[:2]:
        if word.startswith("-") or (not words and word not in COMMANDS):
            break
        words.append(word)
    if len(words) == 2 and words[0] in {"agent", "api", "verify", "version"}:
        words.pop()
    return words


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run())


if __name__ == "__main__":
    main()
