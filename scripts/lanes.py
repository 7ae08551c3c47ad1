"""Run the tests: two lanes side by side, then what measures by itself, then once more what failed.

Most tests wait for real processes far more than they compute, so two lanes take little more than half as long as one.
What measures speed runs when the lanes are through. What failed is tried once more, by itself, in a process of its own;
both runs are shown, and a failure that goes away is still worth a look. The last lines name both kinds.

    python scripts/lanes.py             everything
    python scripts/lanes.py PATH...     these alone, in one lane
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
#: Tiers by lane, cheapest first. The first lane has what makes namespaces, browsers and whole deployments.
LANES: Final = {
    "machines": ("network", "browser", "security", "faults", "logs", "e2e"),
    "services": ("unit", "wire", "docs", "integration"),
}
ALONE: Final = "load"
#: pytest's exit codes that say something of the tests themselves; 5 is "nothing was selected".
PASSED, FAILED, NOTHING = 0, 1, 5


def _pytest(lane: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-o", f"cache_dir={_cache(lane)}", *arguments]


def _cache(lane: str) -> Path:
    return ROOT / ".pytest_cache" / lane


def _say(text: str) -> None:
    sys.stdout.write(f"\n=== {text} ===\n")
    sys.stdout.flush()


def _paths(tiers: Sequence[str]) -> list[str]:
    return [f"tests/{tier}" for tier in tiers if (ROOT / "tests" / tier).is_dir()]


def _side_by_side(lanes: dict[str, list[str]]) -> dict[str, int]:
    """Each lane's exit code. Every line that a lane prints has its name in front."""

    def run(lane: str) -> int:
        pipe = subprocess.PIPE
        with subprocess.Popen(_pytest(lane, *lanes[lane]), cwd=ROOT, stdout=pipe, stderr=subprocess.STDOUT) as process:
            for line in process.stdout or ():
                sys.stdout.buffer.write(f"{lane:8} | ".encode() + line)
                sys.stdout.flush()
        return process.returncode

    with ThreadPoolExecutor(len(lanes)) as pool:
        return dict(zip(lanes, pool.map(run, lanes), strict=True))


def _failed(lane: str) -> set[str]:
    """The tests of a lane that failed when they last ran."""
    try:
        return set(json.loads((_cache(lane) / "v/cache/lastfailed").read_text()))
    except FileNotFoundError:
        return set()


def _in_turn(lane: str, *arguments: str) -> int:
    return subprocess.run(_pytest(lane, *arguments), cwd=ROOT, check=False).returncode


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 when every test has passed, at the second try at the latest."""
    parser = argparse.ArgumentParser(description="Run the tests.")
    parser.add_argument("paths", nargs="*", help="run these alone, in one lane")
    asked: list[str] = parser.parse_args(argv).paths
    began = time.monotonic()
    if asked:
        lanes = {"asked": asked}
        codes = {"asked": _in_turn("asked", *asked)}
    else:
        tiers = {path.name for path in (ROOT / "tests").iterdir() if any(path.glob("**/test_*.py"))}
        if unknown := tiers - {ALONE, *(tier for lane in LANES.values() for tier in lane)}:
            sys.exit(f"scripts/lanes.py runs no tests of {', '.join(sorted(unknown))}: add them to LANES")
        lanes = {lane: found for lane, tiers in LANES.items() if (found := _paths(tiers))}
        codes = _side_by_side(lanes)
        if alone := _paths([ALONE]):
            lanes[ALONE] = alone
            _say(f"{ALONE}, by itself")
            codes[ALONE] = _in_turn(ALONE, *alone)
    told: list[str] = []
    for lane in (lane for lane, code in codes.items() if code == FAILED):
        first = second = _failed(lane)
        if first:
            _say(f"{lane}: what failed, once more")
            codes[lane] = _in_turn(lane, "--last-failed", *lanes[lane])
            second = _failed(lane)
        told += [f"failed, and passed when tried again: {test}" for test in sorted(first - second)]
        told += [f"failed: {test}" for test in sorted(second)]
        if codes[lane] == FAILED and not second:
            told.append(f"failed: {lane}, after its tests: see above")
    bad = [lane for lane, code in codes.items() if code not in {PASSED, NOTHING}]
    sys.stdout.write("".join(f"{line}\n" for line in told))
    _say(f"{'failed: ' + ', '.join(bad) if bad else 'passed'} after {(time.monotonic() - began) / 60:.0f} minutes")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
