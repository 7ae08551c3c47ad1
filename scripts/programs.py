"""Installs the programs that tests need beside Python, as root on Debian and Ubuntu; elsewhere it says what is missing.

They are those of the lab's packets, HAProxy, and Chromium for the pages. Runs on .venv, before the tests. Nothing depends on its success:
those tests say themselves what they lack.
"""

import os
import shutil
import sys

import bootstrap
from isthmus.lab.packets import requirements


def main() -> int:
    """Install what is missing."""
    missing = [*requirements.packages_missing()]
    missing += [program for program in ("haproxy", "chromium") if shutil.which(program) is None]
    for package in missing:
        if os.geteuid() != 0:
            bootstrap.say(f"tests need {package}: apt-get install {package}")
            continue
        try:
            bootstrap.install_debian_package(package)
        except bootstrap.BootstrapError as error:
            bootstrap.say(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
