"""Run or clean the demo of a checkout: ``python -m isthmus.cli.demo``."""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from isthmus.cli import places, stacks
from isthmus.cli.composing import contained
from isthmus.cli.demo import publicly, story
from isthmus.cli.demo.network import commands_environment
from isthmus.cli.demo.telling import Teller
from isthmus.cli.exits import Exit, conclude
from isthmus.deployment import embedded
from isthmus.kit.errors import ConfigError
from isthmus.lab import removing
from isthmus.lab.packets import requirements
from isthmus.lab.packets.namespaces import SYSTEM_PATHS


def main() -> int:
    """Parse the command line, and do it; the exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description="Run the example DAGs on agents, over every path.")
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    parser.add_argument("--clean", action="store_true", help="remove what earlier runs have left")
    parser.add_argument("--public-only", action="store_true", help="only what needs no root")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[4], help="the checkout")
    arguments = parser.parse_args()
    root: Path = arguments.root.resolve()
    if arguments.clean:
        clean(root)
        return Exit.DONE
    if not (root / "examples" / "dags").is_dir():
        return conclude(ConfigError(f"{root} has no examples", code="demo_no_examples", hint="Run it in a checkout."))
    return contained(lambda: _run(root, keep=arguments.keep, public_only=arguments.public_only))


def _run(root: Path, *, keep: bool, public_only: bool) -> int:
    with stacks.alone(root / ".demo"):
        (root / ".demo").chmod(0o755)
        return _tell(root, keep=keep, public_only=public_only)


def _tell(root: Path, *, keep: bool, public_only: bool) -> int:
    teller = Teller(commands_environment({}))
    missing = ["it was asked to be the public part alone"] if public_only else _missing()
    if missing:
        teller.console.print("Isthmus demo: a deployment and an agent on this machine", soft_wrap=True)
        teller.console.print(f"\nThe private link is left out: {'; '.join(missing)}.", soft_wrap=True, markup=False)
        return publicly.run(teller, root, keep=keep)
    teller.console.print("Isthmus demo: a plane and two customers, from the public path to a private link")
    return story.run(teller, root, keep=keep)


def _missing() -> list[str]:
    """What the whole story lacks here, each with what to do about it."""
    found = requirements.missing()
    if shutil.which("haproxy", path=os.pathsep.join((os.environ.get("PATH", os.defpath), *SYSTEM_PATHS))) is None:
        found.append("haproxy is missing: apt-get install haproxy")
    return found


def clean(root: Path) -> None:
    """Remove everything that demos of this checkout have left."""
    state = root / ".demo"
    postgres = state / "postgres"
    if (state / "lab").exists():
        removing.remove(state / "lab", keep=False)
    if postgres.exists():
        embedded.stop(postgres)
        identity: dict[str, Any] = {}
        if (postgres / "embedded.json").exists():
            identity = json.loads((postgres / "embedded.json").read_text())
        shutil.rmtree(identity.get("data", postgres / "data"), ignore_errors=True)
    for name in ("agent", *(f"agent-{one}" for one in story.NETWORKS)):
        places.remove(state / name)
    shutil.rmtree(state, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
