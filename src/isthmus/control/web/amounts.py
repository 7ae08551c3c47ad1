"""Amounts as people say them. Pure."""

from typing import Final

_UNITS: Final = ("B", "kB", "MB", "GB", "TB")


def size(count: int) -> str:
    """Bytes in decimal units: ``999 B``, ``1.5 kB``, ``12.0 GB``."""
    amount = float(count)
    for unit in _UNITS[:-1]:
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} {_UNITS[-1]}"


def percent(value: float) -> str:
    """A share. Of 64 thousand ports a tenth of a percent is still some; what is less is not nothing."""
    return "under 0.1 %" if 0 < value < 0.1 else f"{value:.1f} %" if 0 < value < 10 else f"{value:.0f} %"
