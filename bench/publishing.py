"""Where results go: the file with all figures, the page, the plot."""

import json
from collections.abc import Mapping
from typing import Any

from bench import places, reporting


def write(results: Mapping[str, Any]) -> None:
    """Write the results, the page and the plot."""
    places.RESULTS.write_text(json.dumps(_rounded(results), indent=2) + "\n")
    write_page(results)


def load() -> dict[str, Any]:
    """The last results."""
    results: dict[str, Any] = json.loads(places.RESULTS.read_text())
    return results


def write_page(results: Mapping[str, Any]) -> None:
    """Write the page and the plot."""
    from bench import plotting  # noqa: PLC0415 - matplotlib takes a second to import

    plotting.write(results, places.PLOT)
    places.PAGE.write_text(reporting.page(results))


def _rounded(value: Any) -> Any:
    """Six significant digits are more than any of this is worth."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return value
