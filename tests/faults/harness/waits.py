"""Waiting for something to become true, with a deadline and a name for the failure."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: How much longer than on an idle machine everything may take.
PATIENCE = float(os.environ.get("FAULTS_PATIENCE", "1"))


def until(
    what: str,
    condition: Callable[[], T],
    *,
    seconds: float,
    pause: float = 0.1,
    evidence: Callable[[], str] | None = None,
) -> T:
    """The first truthy value of ``condition``. Fails the test after ``seconds``, saying ``what`` did not happen.

    All limits here are against hanging, for an idle machine with two cores; ``FAULTS_PATIENCE`` stretches them.
    """
    seconds *= PATIENCE
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(
                f"not within {seconds:g} s: {what} (last seen: {value!r}){chr(10) + evidence() if evidence else ''}"
            )
        time.sleep(pause)


def stays(what: str, condition: Callable[[], bool], *, seconds: float, pause: float = 0.1) -> None:
    """``condition`` holds for ``seconds`` without a break."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition(), f"did not stay for {seconds:g} s: {what}"
        time.sleep(pause)
