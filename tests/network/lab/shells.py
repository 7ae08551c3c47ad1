"""One bash for a whole page of commands, as a reader has."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
#: Where ``make az`` puts Microsoft's command line.
AZ = ROOT / ".az" / "venv" / "bin"


class Shell:
    """Knows ``isthmus`` and ``az``; ``environment`` comes on top of this process's."""

    _END = "--- end of block"

    def __init__(self, environment: Mapping[str, str]) -> None:
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
            env={**clean, "PATH": path, "AZURE_CORE_COLLECT_TELEMETRY": "no", **environment},
        )

    def run(self, commands: str) -> tuple[str, int]:
        """What a block prints, and the exit code of the last command that fails."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # The shell goes on after a failing command: variables of a block are there in the next one.
        self._process.stdin.write(
            f"failed=0; trap 'failed=$?' ERR\n{commands}\ntrap - ERR\necho '{self._END}' $failed\n"
        )
        self._process.stdin.flush()
        lines = []
        for line in self._process.stdout:
            said, end, code = line.partition(self._END)  # what a command prints need not end with a newline
            lines.append(said)
            if end:
                return "".join(lines), int(code)
        raise AssertionError(f"the shell ended: {''.join(lines)}")

    def close(self) -> str:
        """End it; what was said on standard error."""
        _, errors = self._process.communicate(timeout=30)
        return errors


def matches(line: str, output: str) -> bool:
    """Whether a line of ``output`` is ``line``; an ellipsis stands for anything."""
    pattern = re.compile(".*?".join(map(re.escape, line.split("…"))) + r"\s*", re.DOTALL)
    return any(pattern.match(one.strip()) for one in output.splitlines())
