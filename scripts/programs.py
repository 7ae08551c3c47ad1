"""Installs the programs that are needed beside Python, as root on Debian and Ubuntu; elsewhere it says what is missing.

``programs.py demo``: those of the lab's packets, and HAProxy. ``programs.py tests``: Chromium as well, for the pages,
Go, for the Helm chart, Git, for DAG bundles, PgBouncer, and sudo, for ``run_as_user``. Runs on .venv. Nothing depends
on its success: the demo and the tests say themselves what they lack.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Final

import bootstrap
from isthmus.lab.packets import requirements
from isthmus.lab.packets.namespaces import SYSTEM_PATHS

#: Programs that are in Debian packages of their names.
PROGRAMS: Final = {"demo": ("haproxy",), "tests": ("haproxy", "chromium", "git", "pgbouncer", "sudo")}
#: A file of the package → the package, where it is no program of its name. Go and Sprig render the Helm chart.
PACKAGES: Final[dict[str, dict[Path, str]]] = {
    "demo": {},
    "tests": {
        Path("/usr/bin/go"): "golang-go",
        Path("/usr/share/gocode/src/github.com/Masterminds/sprig"): "golang-github-masterminds-sprig-dev",
    },
}


def main(purpose: str) -> int:
    """Install what is missing."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *SYSTEM_PATHS))
    missing = [*requirements.packages_missing()]
    missing += [program for program in PROGRAMS[purpose] if shutil.which(program, path=path) is None]
    missing += [package for sign, package in PACKAGES[purpose].items() if not sign.exists()]
    for package in missing:
        if os.geteuid() != 0:
            bootstrap.say(f"the {purpose} would use {package}: apt-get install {package}")
            continue
        try:
            bootstrap.install_debian_package(package)
        except bootstrap.BootstrapError as error:
            bootstrap.say(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "tests"))
