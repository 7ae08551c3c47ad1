"""``scripts/lanes.py`` on tests of its own: what it runs again, what it says, and how it ends."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "lanes.py"

PASSES = "def test_it(): pass\n"
FAILS = "def test_it(): assert False\n"
FAILS_ONCE = """
from pathlib import Path
def test_it():
    seen = Path(__file__).with_suffix(".seen")
    again = seen.exists()
    seen.touch()
    assert again
"""
#: An error after the last test, as of what nobody has closed.
ENDS_BADLY = """
def test_it(request):
    request.config.add_cleanup(lambda: 1 / 0)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with nothing but the script."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib -p no:schemathesis\n")
    return tmp_path


def run(project: Path, *arguments: str, **tests: str) -> tuple[int, str]:
    """The exit code and the output, with one test in each of some tiers."""
    for tier, content in tests.items():
        (project / "tests" / tier).mkdir(parents=True)
        (project / "tests" / tier / "test_one.py").write_text(content)
    ended = subprocess.run(
        [sys.executable, "scripts/lanes.py", *arguments],
        cwd=project,
        env={"PATH": os.environ["PATH"], "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return ended.returncode, ended.stdout


def test_lanes_run_side_by_side_and_what_measures_by_itself(project: Path) -> None:
    code, said = run(project, unit=PASSES, faults=PASSES, load=PASSES)
    assert code == 0
    assert "services | tests/unit/test_one.py ." in said
    assert "machines | tests/faults/test_one.py ." in said
    assert "\ntests/load/test_one.py ." in said
    assert "=== passed after 0 minutes ===" in said


def test_what_failed_is_tried_once_more_and_named_at_the_end(project: Path) -> None:
    code, said = run(project, unit=FAILS_ONCE, faults=PASSES)
    assert code == 0
    *_, named, nothing, last = said.splitlines()
    assert named == "failed, and passed when tried again: tests/unit/test_one.py::test_it"
    assert (nothing, last) == ("", "=== passed after 0 minutes ===")


def test_what_fails_twice_fails_the_run(project: Path) -> None:
    code, said = run(project, unit=FAILS, faults=PASSES)
    assert code == 1
    *_, named, nothing, last = said.splitlines()
    assert named == "failed: tests/unit/test_one.py::test_it"
    assert (nothing, last) == ("", "=== failed: services after 0 minutes ===")


def test_an_error_after_the_tests_fails_the_run(project: Path) -> None:
    code, said = run(project, unit=ENDS_BADLY, faults=PASSES)
    assert code == 1
    assert "\nfailed: services, after its tests: see above\n" in said


def test_a_part_is_run_in_one_lane(project: Path) -> None:
    code, said = run(project, "tests/unit", unit=PASSES, faults=FAILS)
    assert code == 0
    assert "test_one.py" in said
    assert "faults" not in said


def test_a_tier_without_a_lane_is_an_error(project: Path) -> None:
    code, said = run(project, unknown=PASSES)
    assert code == 1
    assert "scripts/lanes.py runs no tests of unknown" in said
