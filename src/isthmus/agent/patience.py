"""How a loop takes a failure: an outage is tried again soon, a refusal after long, and one refusal ends the agent.

Each loop has its own ``Patience``, because what fails for one may work for another.
"""

from isthmus.agent.config import Timing
from isthmus.kit.backoffs import Backoff
from isthmus.kit.clocks import Clock
from isthmus.kit.errors import IsthmusError
from isthmus.wire.problems import Code


class ReplacedError(Exception):
    """Another process has enrolled under this agent's name: nothing that we hold is ours any more."""


class Patience:
    """The waits of one loop."""

    def __init__(self, timing: Timing, clock: Clock) -> None:
        self._outage = Backoff(timing.outage, clock)
        self._refusal = Backoff(timing.refusal, clock)

    def after(self, error: IsthmusError) -> float:
        """Seconds to wait after ``error``. Raises ReplacedError for the one refusal that no waiting cures."""
        if error.code == Code.AGENT_REPLACED:
            raise ReplacedError(str(error)) from error
        return self._outage.failed() if error.retryable else self._refusal.failed()

    def succeeded(self) -> None:
        """Note that the plane has answered as it should."""
        self._outage.succeeded()
        self._refusal.succeeded()
