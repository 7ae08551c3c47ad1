"""An hour as bars."""

from datetime import UTC, datetime, timedelta

from isthmus.control.web import plots
from isthmus.wire.admin import MinuteView

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def minutes(*ends: tuple[int, int]) -> list[MinuteView]:
    """Sixty minutes, the last of which brought ``ends``: succeeded and failed."""
    quiet = [(0, 0)] * (60 - len(ends))
    return [
        MinuteView(at=NOW + timedelta(minutes=index), succeeded=good, failed=bad, lost=0, cancelled=0)
        for index, (good, bad) in enumerate((*quiet, *ends))
    ]


def test_a_quiet_hour_is_said_to_be_one() -> None:
    plot = plots.throughput(minutes())
    assert plot.words == "No workload ended in the last hour."
    assert all(bar.good_height == bar.bad_height == 0 for bar in plot.bars)


def test_bars_stand_on_each_other_and_fit() -> None:
    plot = plots.throughput(minutes((30, 10), (1, 0), (0, 400)))
    assert plot.top == 400
    assert len(plot.bars) == 60
    for bar in plot.bars:
        assert 0 <= bar.bad_y <= bar.good_y <= plots.HEIGHT
        assert bar.good_y + bar.good_height == plots.HEIGHT
        assert bar.bad_y + bar.bad_height == bar.good_y
        assert 0 <= bar.x < bar.x + bar.width <= plots.WIDTH
    assert plot.bars[-2].good_height == 1, "one of four hundred is seen all the same"
    assert plot.bars[-1].bad_height == plots.HEIGHT
    assert "31 succeeded, 410 failed" in plot.words
    assert "at most 400 ended in one minute" in plot.words


def test_little_is_not_drawn_as_much() -> None:
    assert plots.throughput(minutes((1, 0))).bars[-1].good_height < plots.HEIGHT / 5
