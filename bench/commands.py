"""The command line of the benchmarks: ``compare`` (everything), ``capacity`` (the API process alone), ``report``
(the page from the last results)."""

import argparse
import contextlib
import fcntl
import json
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

from bench import comparing, components, installing, places, publishing, reporting, runs, stacks
from isthmus.kit import processes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("command", nargs="?", default="compare", choices=["compare", "capacity", "report"])
    quick = os.environ.get("QUICK", "") not in ("", "0")
    parser.add_argument("--quick", action="store_true", default=quick, help="under ten minutes (or QUICK=1)")
    parser.add_argument("--rounds", type=int, default=int(os.environ.get("ROUNDS") or 0), help="0: as many as the plan")
    parser.add_argument("--executors", nargs="+", default=stacks.all_labels(), choices=stacks.all_labels())
    return parser


def main() -> int:
    """Run a command; 0 when it worked, 1 when something failed, 130 when it was interrupted."""
    arguments = _parser().parse_args()
    processes.set_subreaper()
    signal.signal(signal.SIGTERM, _interrupt)
    failed: list[str] = []
    try:
        with _alone():
            match arguments.command:
                case "compare":
                    failed = _compare(arguments)
                case "capacity":
                    _capacity(arguments)
                case _:
                    publishing.write_page(publishing.load())
    except KeyboardInterrupt:
        return 130
    except (components.ComponentError, runs.RunError, installing.InstallError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if failed:
        print(f"bench: failed, and missing in the results: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Hold the checkout's lock: two benchmarks would share a database and spoil each other's figures."""
    places.SCRATCH.mkdir(exist_ok=True)
    with (places.SCRATCH / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise components.ComponentError("another benchmark of this checkout is running") from None
        yield


def _compare(arguments: argparse.Namespace) -> list[str]:
    """Measure everything and write it down; returns what failed."""
    make = comparing.Plan.quick if arguments.quick else comparing.Plan.full
    plan = make(arguments.executors, arguments.rounds) if arguments.rounds else make(arguments.executors)
    results = reporting.Results.begin(plan, quick=arguments.quick)
    comparison = comparing.Comparison(plan)
    try:
        failed = comparison.measure(results.keep)
        results.extras = comparison.capacity(quick=arguments.quick)
    finally:
        comparison.close()
    publishing.write(results.finish())
    return failed


def _capacity(arguments: argparse.Namespace) -> None:
    """Measure the API process alone, and put it into the results that are there."""
    comparison = comparing.Comparison(comparing.Plan.quick(()))
    try:
        extras = comparison.capacity(quick=arguments.quick)
    finally:
        comparison.close()
    print(json.dumps(extras, indent=2))
    if places.RESULTS.exists():
        publishing.write({**publishing.load(), **extras})


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
