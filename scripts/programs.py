"""Installs the programs that the lab's packets need, as root on Debian and Ubuntu; elsewhere it says what is missing.

Runs on .venv, before tests that move packets. Nothing depends on its success: those tests say themselves what they
lack.
"""

import os
import sys

import bootstrap
from isthmus.lab.packets import requirements


def main() -> int:
    """Install what is missing."""
    for package in requirements.packages_missing():
        if os.geteuid() != 0:
            bootstrap.say(f"the lab's packets need {package}: apt-get install {package}")
            continue
        try:
            bootstrap.install_debian_package(package)
        except bootstrap.BootstrapError as error:
            bootstrap.say(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
