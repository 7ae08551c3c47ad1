"""Resolves requirements/*.txt again: every version pinned, every file with its hash, no index addresses.

``pyproject.toml`` says what is wanted; existing pins stay unless uv is told otherwise (``make requirements`` after
removing a file, or ``UV_UPGRADE=1``). All files agree with each other, because each is resolved under the first;
az.txt alone stands by itself, in an environment of its own.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path("requirements")

_DEVELOPMENT = ["pyproject.toml", "--extra=runner", "--extra=plane", "--extra=lab", "--extra=azure", "--extra=dev"]

#: file, what goes into it
FILES = (
    ("dev.txt", _DEVELOPMENT),
    ("bench.txt", [*_DEVELOPMENT, "--extra=bench"]),
    ("plane.txt", ["pyproject.toml", "--extra=plane"]),
    ("control.txt", ["pyproject.toml", "--extra=control", "--extra=azure"]),
    ("runner.txt", ["pyproject.toml", "--extra=runner"]),
    ("agent.txt", ["pyproject.toml"]),
    ("azure.txt", ["pyproject.toml", "--extra=azure"]),
    ("lab.txt", ["pyproject.toml", "--extra=lab"]),
    ("bootstrap.txt", ["--group=bootstrap"]),
    ("az.txt", ["--group=az"]),
)


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
        print(f"requirements/{name}: {(ROOT / FOLDER / name).read_text().count('==')} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
