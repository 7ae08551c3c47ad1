"""Writes river_gauges.csv: hourly levels of five gauges over four days, by a fixed formula.

A slow swell runs down the river: each gauge sees it some hours after the one above, and lower. A daily ripple lies on
top. Run it from anywhere: ``python examples/data/make_river_gauges.py``; a test holds the file against it.
"""

import csv
import io
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

#: gauge, kilometres below the first one, mean level in cm, flood mark in cm
GAUGES = (
    ("alder-bridge", 0, 182, 260),
    ("birch-weir", 14, 205, 270),
    ("cedar-lock", 31, 240, 310),
    ("dogwood-mill", 47, 228, 275),
    ("elm-harbour", 66, 310, 350),
)
START = datetime(2025, 3, 1, tzinfo=UTC)
HOURS = 96


def level_cm(kilometres: int, mean_cm: int, hour: int) -> int:
    """The level at a gauge, in whole centimetres."""
    peak_hour = 36 + kilometres / 2.5  # the swell moves at 2.5 km/h
    height_cm = 95 - kilometres * 0.6  # and loses height on its way
    swell = height_cm * math.exp(-(((hour - peak_hour) / 11) ** 2))
    ripple = 4 * math.sin(2 * math.pi * (hour + kilometres / 8) / 24)
    return round(mean_cm + swell + ripple)


def render() -> str:
    """The whole file."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("gauge", "measured_at", "level_cm", "flood_mark_cm"))
    for hour in range(HOURS):
        measured_at = (START + timedelta(hours=hour)).strftime("%Y-%m-%dT%H:%M:%SZ")
        for gauge, kilometres, mean_cm, flood_mark_cm in GAUGES:
            rows.writerow((gauge, measured_at, level_cm(kilometres, mean_cm, hour), flood_mark_cm))
    return text.getvalue()


if __name__ == "__main__":
    Path(__file__).with_name("river_gauges.csv").write_text(render(), encoding="utf-8")
