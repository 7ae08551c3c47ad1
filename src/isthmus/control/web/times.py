"""Times as people say them. The page's script keeps them ticking."""

from datetime import UTC, datetime, timedelta
from typing import Final

_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
#: What stands where there is nothing to say.
NOTHING: Final = "–"


def absolute(moment: datetime) -> str:
    """A time in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def short(moment: datetime) -> str:
    """A time in UTC, for where the script has not come yet."""
    return moment.astimezone(UTC).strftime("%d %b %H:%M:%S")


def machine(moment: datetime) -> str:
    """A time for programs."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def duration(span: timedelta | float) -> str:
    """A length of time in its largest unit: ``340 ms``, ``4.2 s``, ``3 min``, ``12 d``."""
    seconds = span.total_seconds() if isinstance(span, timedelta) else span
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    for size, unit in _UNITS:
        # A unit is used from twice its size on: "90 min" says more than "2 h".
        if seconds >= 2 * size or unit == "s":
            return f"{seconds / size:.0f} {unit}"
    raise AssertionError("unreachable")
