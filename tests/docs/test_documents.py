"""What the documents say exists: commands, options, make targets, files; and what is generated is up to date."""

import dataclasses
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from isthmus.agent import config
from isthmus.cli import documenting, main
from isthmus.kit import settings

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted({ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("src/**/*.md")})

#: A line of a code block, or an inline code span, that is a command of ours.
COMMAND = re.compile(r"(?:^\$? *|`|: )((?:isthmus|make) [^`\n]*)", re.MULTILINE)


def _commands(page: Path) -> Iterator[str]:
    for found in COMMAND.finditer(page.read_text(encoding="utf-8")):
        # Comments in code blocks, prose after a hint's colon, placeholders, what is said to another program.
        yield re.split(r"\s--\s|\s+#|\s+\(|[;,|>]\s|\.$", found[1])[0].strip().rstrip(".")


def _resolve(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and the words after its name."""
    command: Any = get_command(main.app)
    for number, word in enumerate(words):
        below = getattr(command, "get_command", lambda *_: None)(None, word)
        if below is None:
            return command, words[number:]
        command = below
    return command, []


def _flags(command: Any) -> set[str]:
    return {"--help", "-h"} | {
        flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)
    }


CASES = [(page, command) for page in PAGES for command in dict.fromkeys(_commands(page))]


@pytest.mark.parametrize(("page", "command"), CASES, ids=[f"{page.name}: {command}" for page, command in CASES])
def test_the_command_exists(page: Path, command: str) -> None:
    program, *words = command.split()
    if program == "make":
        targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert [word for word in words if "=" not in word and word not in targets] == []
        return
    found, rest = _resolve(words)
    if hasattr(found, "get_command"):
        # A group alone, options of the whole program, or a placeholder such as COMMAND.
        assert not rest or rest[0] in {"COMMAND", "…"} or rest[0].startswith("-"), f"isthmus has no {' '.join(words)}"
    unknown = [word for word in rest if word.startswith("-") and word.split("=")[0] not in _flags(found)]
    assert unknown == [], f"isthmus {' '.join(words)}"


def test_there_are_commands_to_check() -> None:
    """The pattern above finds something."""
    assert len(CASES) > 30


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/**/*.md")), ids=lambda page: page.name)
def test_generated_tables_are_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert documenting.filled(text, page.parent) == text, "run: make docs"


def test_every_table_is_in_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in documenting.TABLES if f"<!-- begin: {name} -->" not in text] == []


@pytest.mark.parametrize("file", [ROOT / "deploy/systemd/agent.toml"], ids=lambda file: file.name)
def test_agent_files_have_known_keys(file: Path) -> None:
    assert set(tomllib.loads(file.read_text())) <= set(settings.settings_of(config.AgentConfig))


def test_the_agent_file_of_the_documents_has_known_keys() -> None:
    block = re.search(r"```toml\n(.*?)```", (ROOT / "docs/configuration.md").read_text(), re.DOTALL)
    assert block is not None
    assert set(tomllib.loads(block[1])) <= set(settings.settings_of(config.AgentConfig))


def test_environment_files_are_what_the_agent_reads() -> None:
    assert "AIRFLOW_HOME" in config.read_environment_file(ROOT / "deploy/systemd/task-environment")


def test_the_service_waits_longer_than_the_agent_drains() -> None:
    unit = (ROOT / "deploy/systemd/isthmus-agent.service").read_text()
    waits = re.search(r"TimeoutStopSec=(\d+)", unit)
    assert waits is not None
    drains = next(one for one in dataclasses.fields(config.AgentConfig) if one.name == "drain_seconds")
    assert int(waits[1]) > drains.default


def test_every_direct_dependency_is_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["plane"]]
    page = (ROOT / "docs/libraries.md").read_text()
    names = {re.split(r"[<>=\[ ]", one)[0] for one in wanted}
    assert sorted(name for name in names if name not in page) == []


def test_every_package_has_a_readme() -> None:
    packages = [path.parent for path in (ROOT / "src/isthmus").glob("*/__init__.py")]
    assert [str(package) for package in packages if not (package / "README.md").exists()] == []
