"""One listening connection a process, and what to do where notifications cannot arrive.

PostgreSQL's notifications wake the loops of this process: ``subscribe`` gives a callback to a channel. A callback means
"look again", never more: it may come without cause, and always comes after a reconnect, so that nothing is missed. Whether
notifications arrive is tested: an echo that is sent through the pool must come back within a second. Where it does not
(PgBouncer in transaction mode, a connection that cannot be opened) every channel is called once a second instead, by one
loop a process, and ``health`` says so. [isthmus] notify_url names a direct connection.
"""

from collections.abc import Callable
from enum import StrEnum

from isthmus.deployment.pooling import Pool
from isthmus.kit.clocks import Clock, SystemClock
from isthmus.wire.agents import AgentWarning


class Mode(StrEnum):
    """How this process learns of changes."""

    CONNECTING = "connecting"
    NOTIFIED = "notified"
    POLLING = "polling"


class Listener:
    """Calls back when a channel of ``tables`` is notified."""

    def __init__(self, pool: Pool, url: str, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()

    @property
    def mode(self) -> Mode:
        """How changes arrive now."""
        raise NotImplementedError

    def subscribe(self, channel: str, callback: Callable[[], None]) -> None:
        """Call ``callback`` on the event loop whenever ``channel`` may have news. It must be quick and not raise."""
        raise NotImplementedError

    def health(self) -> tuple[AgentWarning, ...]:
        """What is wrong with listening, for ``/healthz``; empty when notifications arrive."""
        raise NotImplementedError

    async def run(self) -> None:
        """Listen until cancelled, through every outage."""
        raise NotImplementedError
