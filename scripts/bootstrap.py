"""Makes the virtual environment that everything here runs on, from a machine with little more than Python.

Standard library only, because it runs before anything is installed. The steps, each done only if it is needed:

1. choose the interpreter: one that other users can read is preferred, since the demo runs tasks as another user;
2. on Debian and Ubuntu install its ``-venv`` package if ``ensurepip`` is missing;
3. make the virtual environment, install uv into it from hashes, and let uv install the rest from hashes (pip does it
   where uv cannot reach a package index, in minutes instead of seconds);
4. unless the environment is for other people's programs, install this checkout in editable mode, without the network,
   and compile its bytecode (that of the rest is compiled when it is installed).

Invariant: the stamp exists only after everything else has succeeded.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("3.11", "3.12", "3.13")

#: Asks an interpreter about itself; runs isolated from the environment.
PROBE = """
import json, sys, sysconfig
try:
    import ensurepip, venv
    complete = True
except ImportError:
    complete = False
print(json.dumps({
    "version": "%d.%d" % sys.version_info[:2],
    "executable": sys._base_executable,
    "paths": [sys.base_prefix, sysconfig.get_path("stdlib")],
    "complete": complete,
}))
"""


class BootstrapError(Exception):
    """Something is missing that this script cannot get; the text says what to do."""


@dataclass(frozen=True)
class Interpreter:
    """A Python that could carry the virtual environment."""

    executable: Path
    version: str
    complete: bool  # it can make a virtual environment with pip in it
    shared: bool  # users other than its owner can run it


def say(text: str) -> None:
    print(f"bootstrap: {text}", flush=True)


def open_to_others(path: Path) -> bool:
    """Whether any user may reach and read ``path``."""
    path = path.resolve()
    wanted = 0o005 if path.is_dir() else 0o004
    return path.stat().st_mode & wanted == wanted and all(parent.stat().st_mode & 0o001 for parent in path.parents)


def look_at(executable: Path) -> Interpreter | None:
    """What kind of interpreter ``executable`` is; None if it is none that fits."""
    try:
        done = subprocess.run([executable, "-I", "-c", PROBE], capture_output=True, text=True, check=True)
        about = json.loads(done.stdout)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None
    if about["version"] not in VERSIONS:
        return None
    base = Path(about["executable"])
    shared = all(open_to_others(path) for path in (base, *map(Path, about["paths"])))
    return Interpreter(base, about["version"], about["complete"], shared)


def candidates() -> list[Path]:
    """Where a Python may be, the system's own before what a version manager put on PATH."""
    given = os.environ.get("ISTHMUS_PYTHON")
    if given:
        return [Path(given)]
    found: list[Path] = []
    for version in VERSIONS:
        found += [Path(f"/usr/bin/python{version}"), Path(f"/usr/local/bin/python{version}")]
        found += [Path(where) for where in (shutil.which(f"python{version}"),) if where]
    found.append(Path(sys.executable))
    return [path for path in dict.fromkeys(found) if path.exists()]


def choose() -> Interpreter:
    """The best interpreter here. Raises BootstrapError."""
    fitting = [interpreter for path in candidates() if (interpreter := look_at(path)) is not None]
    if not fitting:
        raise BootstrapError(f"no Python of {', '.join(VERSIONS)} was found; on Debian: apt-get install python3.11")
    # Stable: among equals the first stays first.
    chosen = min(fitting, key=lambda interpreter: not interpreter.shared)
    say(f"Python {chosen.version} at {chosen.executable}")
    if not chosen.shared:
        say("  other users cannot read it, so the demo will not be able to run tasks as another user")
    return chosen


def install_debian_package(package: str) -> None:
    """Install one package with apt. Raises BootstrapError where that is not possible."""
    apt = shutil.which("apt-get")
    if apt is None:
        raise BootstrapError(f"there is no apt-get here: install what your system calls {package}")
    prefix: list[str] = []
    if os.geteuid() != 0:
        sudo = shutil.which("sudo")
        if sudo is None:
            raise BootstrapError(f"{package} is missing: run as root: apt-get install {package}")
        prefix = [sudo]
    # In run level 1 a package's daemon is not started (invoke-rc.d); what we run, we start ourselves.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    install = [*prefix, apt, "install", "--yes", "--no-install-recommends", package]
    say(f"installing the Debian package {package}")
    lists = Path("/var/lib/apt/lists")
    known = lists.is_dir() and any(lists.glob("*_Packages*"))
    if known and subprocess.run(install, env=environment, capture_output=True, check=False).returncode == 0:
        return
    if subprocess.run([*prefix, apt, "update"], env=environment, check=False).returncode != 0:
        say("  apt-get update failed; trying to install all the same")
    if subprocess.run(install, env=environment, check=False).returncode != 0:
        raise BootstrapError(f"{package} could not be installed: run as root: apt-get install {package}")


def run(*command: str | Path, environment: dict[str, str] | None = None) -> bool:
    """Whether ``command`` succeeded; its output is shown."""
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0


def make_environment(venv: Path) -> Path:
    """A virtual environment with pip or uv in it; returns its Python. Raises BootstrapError."""
    python = venv / "bin" / "python"
    if python.exists() and look_at(python) is not None:
        if (venv / "bin" / "uv").exists() or run(python, "-c", "import pip"):
            return python
        if run(python, "-m", "ensurepip", "--upgrade"):
            return python
    interpreter = choose()
    if not interpreter.complete:
        install_debian_package(f"python{interpreter.version}-venv")
    if not run(interpreter.executable, "-m", "venv", "--clear", venv):
        raise BootstrapError(f"{interpreter.executable} -m venv {venv} failed")
    return python


def uv_environment(python: Path) -> dict[str, str]:
    """The environment for uv: pip's package index, where one is configured, is uv's as well."""
    environment = {**os.environ, "UV_COMPILE_BYTECODE": "1", "UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1"}
    for ours, pips in (("UV_DEFAULT_INDEX", "index-url"), ("UV_INDEX", "extra-index-url")):
        for section in (":env:", "install", "global"):
            asked = [python, "-m", "pip", "config", "get", f"{section}.{pips}"]
            done = subprocess.run(asked, capture_output=True, text=True, check=False)
            if done.returncode == 0 and ours not in environment:
                environment[ours] = done.stdout.strip()
    if "UV_DEFAULT_INDEX" not in environment:  # extra indexes alone: pip's fallback deals with them
        environment.pop("UV_INDEX", None)
    environment.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")  # as pip does it; the hashes decide
    return environment


def install(python: Path, requirements: Path, *, checkout: bool, folder: Path | None = None) -> None:
    """Install everything that ``requirements`` pins, and this checkout if wanted. Raises BootstrapError.

    With ``folder`` the packages go there, and what they depend on is in the environment already.
    """
    uv = python.with_name("uv")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    pinned: list[str | Path] = ["--require-hashes", "--requirement", requirements]
    if folder is not None:
        pinned += ["--no-deps", "--target", folder]
    have_uv = uv.exists() or run(*pip, "--require-hashes", "--requirement", ROOT / "requirements" / "bootstrap.txt")
    if have_uv:
        environment = uv_environment(python)
        have_uv = run(uv, "pip", "install", "--quiet", "--python", python, *pinned, environment=environment)
    if not have_uv:
        say("uv could not do it; pip will, which takes some minutes")
        if not run(*pip, *pinned):
            raise BootstrapError("the packages could not be installed: see above; a package index has to be reachable")
    if not checkout:
        return
    editable = ["--no-deps", "--no-build-isolation", "--editable", ROOT]
    if have_uv:
        installed = run(uv, "pip", "install", "--quiet", "--offline", "--python", python, *editable)
    else:
        installed = run(*pip, "--no-index", *editable)
    if not installed:
        raise BootstrapError("this checkout could not be installed into the virtual environment: see above")
    run(python, "-m", "compileall", "-q", ROOT / "src")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("venv", type=Path)
    parser.add_argument("--requirements", type=Path, required=True)
    parser.add_argument("--stamp", type=Path, required=True)
    parser.add_argument("--foreign", action="store_true", help="an environment of other people's programs, not for us")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="install there, beside what the environment has")
    arguments = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.chdir(ROOT)
    os.umask(0o022)  # other users read what is installed
    started = time.monotonic()
    try:
        say(f"preparing {arguments.into or arguments.venv}")
        python = make_environment(arguments.venv.absolute())
        install(
            python, arguments.requirements, checkout=not (arguments.foreign or arguments.into), folder=arguments.into
        )
    except BootstrapError as error:
        print(f"bootstrap: {error}", file=sys.stderr)
        return 2
    arguments.stamp.touch()
    say(f"done in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
