"""Every command of the tutorial, typed into a shell, with the real ``az``; and what the page says it prints."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from isthmus.lab import removing
from network.lab.shells import AZ, ROOT, Shell, matches

PAGE = ROOT / "docs" / "lab.md"

#: A block of commands, and what it prints if the page says so.
BLOCK = re.compile(r"```sh\n(?P<commands>.*?)```\n(?:```text\n(?P<output>.*?)```)?", re.DOTALL)


@dataclass(frozen=True)
class Block:
    commands: str
    output: str


def blocks() -> list[Block]:
    return [Block(one["commands"], one["output"] or "") for one in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    home = tmp_path / "home"
    shell = Shell({"ISTHMUS_LAB_HOME": str(home)})
    yield shell
    shell.close()
    removing.remove(home, keep=False)


def test_the_page_has_about_twenty_az_commands() -> None:
    commands = "".join(block.commands for block in blocks())
    assert 18 <= len(re.findall(r"^(?:\w+=\$\()?az ", commands, re.MULTILINE)) <= 32


@pytest.mark.skipif(not (AZ / "az").exists(), reason="there is no az: make az")
@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.timeout(300)
def test_every_command_of_the_tutorial_does_what_the_page_says(shell: Shell) -> None:
    for block in blocks():
        output, failed = shell.run(block.commands)
        assert failed == 0, f"{block.commands}\n{output}\n{shell.close()}"
        for line in block.output.splitlines():
            assert matches(line, output), f"{line!r} is not in the output of\n{block.commands}\n{output}"
