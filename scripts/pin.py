"""Resolves requirements/*.txt again: every version pinned, every file with its hash, no index addresses.

``pyproject.toml`` says what is wanted; existing pins stay unless uv is told otherwise (``make requirements`` after
removing a file, or ``UV_UPGRADE=1``). All files agree with each other, because each is resolved under the first;
az.txt alone stands by itself, in an environment of its own. lineage.txt has only what dev.txt has not: it is installed
into a folder beside that environment.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path("requirements")

_EXTRAS = ("runner", "git", "plane", "lab", "azure", "dev")
_DEVELOPMENT = ["pyproject.toml", *(f"--extra={extra}" for extra in _EXTRAS)]

#: file, what goes into it
FILES = (
    ("dev.txt", _DEVELOPMENT),
    ("bench.txt", [*_DEVELOPMENT, "--extra=bench"]),
    ("plane.txt", ["pyproject.toml", "--extra=plane"]),
    ("control.txt", ["pyproject.toml", "--extra=control", "--extra=azure"]),
    ("runner.txt", ["pyproject.toml", "--extra=runner", "--extra=git"]),
    ("agent.txt", ["pyproject.toml"]),
    ("azure.txt", ["pyproject.toml", "--extra=azure"]),
    ("lab.txt", ["pyproject.toml", "--extra=lab"]),
    ("bootstrap.txt", ["--group=bootstrap"]),
    ("az.txt", ["--group=az"]),
    ("lineage.txt", ["--group=lineage"]),
)


def _pins(file: Path) -> list[str]:
    """The pinned packages of a file, each with its hashes."""
    return re.split(r"^(?=[a-z0-9])", file.read_text(), flags=re.MULTILINE)[1:]


def _drop_what_is_in(base: Path, file: Path) -> None:
    known = {pin.partition("==")[0] for pin in _pins(base)}
    file.write_text("".join(pin for pin in _pins(file) if pin.partition("==")[0] not in known))


def main() -> int:
    uv = Path(sys.executable).with_name("uv")
    for name, wanted in FILES:
        command: list[str | Path] = [uv, "pip", "compile", "--quiet", "--universal", "--python-version=3.11"]
        command += ["--generate-hashes", "--no-annotate", "--no-header", "--no-emit-index-url", "--no-emit-find-links"]
        if name not in ("dev.txt", "az.txt"):
            command += ["--constraints", FOLDER / "dev.txt"]
        command += [*wanted, "--output-file", FOLDER / name]
        if (code := subprocess.run(command, cwd=ROOT, check=False).returncode) != 0:
            return code
        if name == "lineage.txt":
            _drop_what_is_in(ROOT / FOLDER / "dev.txt", ROOT / FOLDER / name)
        print(f"requirements/{name}: {(ROOT / FOLDER / name).read_text().count('==')} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
