"""Writes the generated tables of ``docs/``: problem codes, settings, exit codes.

Each table has one source in the code and stands between two markers in a page that people write. ``python -m
isthmus.cli.documenting docs`` (``make docs``) writes them; with ``--check`` it only says which page is out of date, as
the tests do. Invariant: nothing outside the markers changes.
"""

import argparse
import dataclasses
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from isthmus.agent.config import PREFIX, AgentConfig
from isthmus.cli import defaults
from isthmus.cli.exits import MEANINGS as EXITS
from isthmus.control.config import PREFIX as CONTROL_PREFIX
from isthmus.control.config import ControlConfig
from isthmus.control.ingress.config import IngressConfig
from isthmus.deployment.config import DeploymentConfig
from isthmus.kit import settings
from isthmus.lab.config import LabConfig
from isthmus.link.drivers.azure.config import AzureConfig
from isthmus.wire.problems import MEANINGS as PROBLEMS

_BLOCK: Final = re.compile(r"(<!-- begin: (?P<name>[a-z-]+) -->\n).*?(<!-- end: (?P=name) -->)", re.DOTALL)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def problems() -> str:
    """Every problem code of ``isthmus.wire.problems``."""
    return _table(
        ("code", "status", "meaning", "what to do", "try again?"),
        (
            (f"`{code}`", str(meaning.status), meaning.title, meaning.hint, "yes" if meaning.retryable else "no")
            for code, meaning in PROBLEMS.items()
        ),
    )


def exits() -> str:
    """Every exit code of the command line."""
    return _table(("code", "meaning"), ((str(code.value), meaning) for code, meaning in EXITS.items()))


def _settings(config: type[Any], name: Callable[[str, settings.Setting], str]) -> str:
    abouts = settings.settings_of(config)
    rows = []
    for field in dataclasses.fields(config):
        about = abouts[field.name]
        meaning = f"{about.meaning} {about.why}".strip()
        rows.append((f"`{name(field.name, about)}`", _default(field, about), meaning))
    return _table(("setting", "default", "meaning"), rows)


def _default(field: "dataclasses.Field[Any]", about: settings.Setting) -> str:
    if about.derive is not None:
        return "derived"
    if defaults.is_required(field, about):
        return "**required**"
    text = defaults.shown(field, about)
    return f"`{text}`" if text else "not set"


def agent_settings() -> str:
    """Every setting of an agent, by its flag, or by its variable where there is no flag."""

    def name(field: str, about: settings.Setting) -> str:
        if settings.Source.FLAG in about.sources:
            return "--" + field.replace("_", "-")
        return PREFIX + field.upper()

    return _settings(AgentConfig, name)


def lab_settings() -> str:
    """Every setting of a lab, by its flag."""
    return _settings(LabConfig, lambda name, _: "--" + name.replace("_", "-"))


def azure_settings() -> str:
    """Every setting of the Azure driver, by its flag."""
    return _settings(AzureConfig, lambda name, _: "--" + name.replace("_", "-"))


def control_settings() -> str:
    """Every setting of a control plane, by its flag, or by its variable where there is no flag."""
    return _settings(ControlConfig, _control_name)


def _control_name(field: str, about: settings.Setting) -> str:
    if settings.Source.FLAG in about.sources:
        return "--" + field.replace("_", "-")
    return CONTROL_PREFIX + field.upper()


def ingress_settings() -> str:
    """Every setting of an ingress, by its flag."""
    return _settings(IngressConfig, lambda name, _: "--" + name.replace("_", "-"))


def deployment_settings() -> str:
    """Every key of section ``[isthmus]``."""
    return _settings(DeploymentConfig, lambda name, _: name)


def decisions(folder: Path) -> str:
    """Every decision of ``docs/adr``, by its first line."""
    pages = sorted(folder.glob("[0-9]*.md"))
    titles = (page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ") for page in pages)
    return "".join(f"- [{title}]({page.name})\n" for page, title in zip(pages, titles, strict=True))


#: Each takes the folder of the page that it is for.
TABLES: Final[dict[str, Callable[[Path], str]]] = {
    "problems": lambda _: problems(),
    "exits": lambda _: exits(),
    "agent-settings": lambda _: agent_settings(),
    "deployment-settings": lambda _: deployment_settings(),
    "control-settings": lambda _: control_settings(),
    "ingress-settings": lambda _: ingress_settings(),
    "lab-settings": lambda _: lab_settings(),
    "azure-settings": lambda _: azure_settings(),
    "decisions": decisions,
}


def filled(page: str, folder: Path) -> str:
    """``page`` with the table of each marker written anew. Raises KeyError for a marker without a table."""
    return _BLOCK.sub(lambda block: f"{block[1]}{TABLES[block['name']](folder)}{block[3]}", page)


def main() -> int:
    """Write or check the pages of a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a page is out of date")
    arguments = parser.parse_args()
    stale = []
    for path in sorted(arguments.folder.rglob("*.md")):
        before = path.read_text(encoding="utf-8")
        after = filled(before, path.parent)
        if after != before:
            stale.append(path)
            if not arguments.check:
                path.write_text(after, encoding="utf-8")
    for path in stale:
        sys.stdout.write(f"{path} {'is out of date: run make docs' if arguments.check else 'written'}\n")
    return 1 if stale and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
