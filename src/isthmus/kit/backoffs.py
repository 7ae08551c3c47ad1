"""How long to wait before trying again.

Waits double from ``first_seconds`` to ``longest_seconds``, each shortened by a random part so that agents that lost the
plane together do not come back together. A success does not reset the sequence at once: what works for a second and
fails again is still failing. Only a success that has lasted ``reset_after_seconds`` starts it anew.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from isthmus.kit.clocks import Clock


@dataclass(frozen=True, slots=True)
class BackoffConfig:
    """The shape of a sequence of waits."""

    #: The first wait, before jitter.
    first_seconds: float = 0.5
    #: No wait is longer.
    longest_seconds: float = 30.0
    #: Each wait is this many times the one before.
    factor: float = 2.0
    #: The share of a wait that is random: 0.5 means between half of it and all of it.
    jitter: float = 0.5
    #: Success must last this long before a failure counts as the first again.
    reset_after_seconds: float = 30.0


class Backoff:
    """One sequence of waits. Tell it of every failure and success."""

    def __init__(self, config: BackoffConfig, clock: Clock, *, chance: Callable[[], float] = random.random) -> None:
        self._config = config
        self._clock = clock
        self._chance = chance
        self._failures = 0
        self._well_since: float | None = None

    @property
    def failures(self) -> int:
        """Failures since the sequence began."""
        return self._failures

    def failed(self) -> float:
        """Count a failure; the seconds to wait before the next try."""
        config = self._config
        if self._well_since is not None:
            if self._clock.monotonic() - self._well_since >= config.reset_after_seconds:
                self._failures = 0
            self._well_since = None
        # The exponent is capped: 2.0 ** 1024 overflows, and an outage can last for days.
        wait = min(config.longest_seconds, config.first_seconds * config.factor ** min(self._failures, 64))
        self._failures += 1
        return wait * (1.0 - config.jitter * self._chance())

    def succeeded(self) -> None:
        """Note a success; it counts once it has lasted."""
        if self._well_since is None:
            self._well_since = self._clock.monotonic()
