"""Every command of the tutorial, typed into a shell, with the real ``az``; and what the page says it prints."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from isthmus.lab import removing

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "lab.md"
AZ = ROOT / ".az" / "venv" / "bin"

#: A block of commands, and what it prints if the page says so.
BLOCK = re.compile(r"```sh\n(?P<commands>.*?)```\n(?:```text\n(?P<output>.*?)```)?", re.DOTALL)


@dataclass(frozen=True)
class Block:
    commands: str
    output: str


def blocks() -> list[Block]:
    return [Block(one["commands"], one["output"] or "") for one in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))]


class Shell:
    """One bash for the whole page, as a reader has."""

    _END = "--- end of block"

    def __init__(self, home: Path) -> None:
        path = os.pathsep.join((str(Path(sys.executable).parent), str(AZ), os.environ["PATH"]))
        clean = {
            name: value for name, value in os.environ.items() if not name.endswith(("_CA_BUNDLE", "SSL_CERT_FILE"))
        }
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**clean, "PATH": path, "ISTHMUS_LAB_HOME": str(home), "AZURE_CORE_COLLECT_TELEMETRY": "no"},
        )

    def run(self, commands: str) -> tuple[str, int]:
        """What a block prints, and the exit code of the first command that fails."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # A failing command ends the block, and the shell goes on: variables of a block are there in the next one.
        self._process.stdin.write(
            f"failed=0; trap 'failed=$?' ERR\n{commands}\ntrap - ERR\necho '{self._END}' $failed\n"
        )
        self._process.stdin.flush()
        lines = []
        for line in self._process.stdout:
            if line.startswith(self._END):
                return "".join(lines), int(line.split()[-1])
            lines.append(line)
        raise AssertionError(f"the shell ended: {''.join(lines)}")

    def close(self) -> str:
        """End it; what was said on standard error."""
        _, errors = self._process.communicate(timeout=30)
        return errors


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    home = tmp_path / "home"
    shell = Shell(home)
    yield shell
    shell.close()
    removing.remove(home, keep=False)


def matches(line: str, output: str) -> bool:
    """Whether a line of ``output`` is ``line``; an ellipsis stands for anything."""
    pattern = re.compile(".*?".join(map(re.escape, line.split("…"))) + r"\s*", re.DOTALL)
    return any(pattern.match(one.strip()) for one in output.splitlines())


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
