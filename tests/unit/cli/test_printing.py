"""Times as people say them."""

from datetime import UTC, datetime, timedelta

import pytest

from isthmus.cli import printing

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0341, "34 ms"),
        (0.9996, "1000 ms"),
        (4.24, "4.2 s"),
        (59, "59 s"),
        (119, "119 s"),
        (120, "2 min"),
        (5400, "90 min"),
        (7200, "2 h"),
        (86400 * 1.5, "36 h"),
        (86400 * 365, "365 d"),
    ],
)
def test_durations_have_the_unit_that_says_most(seconds: float, text: str) -> None:
    assert printing.duration(seconds) == text
    assert printing.duration(timedelta(seconds=seconds)) == text


def test_ages_look_back_and_ahead() -> None:
    assert printing.age(None, NOW) == "-"
    assert printing.age(NOW - timedelta(seconds=0.3), NOW) == "now"
    assert printing.age(NOW - timedelta(minutes=3), NOW) == "3 min ago"
    assert printing.age(NOW + timedelta(days=12), NOW) == "in 12 d"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (4240, "4.2 kB"), (12_345_678, "12 MB"), (3 * 10**15, "3000 TB")],
)
def test_sizes_have_the_unit_that_says_most(count: int, text: str) -> None:
    assert printing.size(count) == text


def test_facts_align_and_leave_out_what_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    printing.facts((("agent", "a"), ("warnings", "one\ntwo"), ("detail", "")))
    assert capsys.readouterr().out == "agent     a\nwarnings  one\n          two\n"
