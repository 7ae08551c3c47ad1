"""The core of one Remote Execution API process: what its requests share, and its loops.

``Plane`` holds the pool, the listener, the tokens, the allow list, the roster, the dispatcher and the reaper, wires their
notifications, and runs their loops. It knows nothing of HTTP. The order of stopping: claims are answered with nothing
(``stop``), the last heartbeats are written, then the loops end and the pool closes.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from isthmus.deployment.access import AllowList
from isthmus.deployment.config import DeploymentConfig
from isthmus.deployment.dispatching import Dispatcher
from isthmus.deployment.leasing import LeaseTimes
from isthmus.deployment.listening import Listener
from isthmus.deployment.pooling import Pool
from isthmus.deployment.reaping import Reaper
from isthmus.deployment.roster import Roster
from isthmus.deployment.tokens import TokenBook
from isthmus.kit.clocks import Clock


@dataclass(frozen=True, slots=True)
class Plane:
    """What the requests of one process share."""

    config: DeploymentConfig
    times: LeaseTimes
    pool: Pool
    listener: Listener
    tokens: TokenBook
    allow_list: AllowList
    roster: Roster
    dispatcher: Dispatcher
    reaper: Reaper

    async def stop(self) -> None:
        """Answer waiting claims and write the last heartbeats; safe to call again."""
        raise NotImplementedError


@asynccontextmanager
async def running(config: DeploymentConfig, database_url: str, *, clock: Clock | None = None) -> AsyncIterator[Plane]:
    """A plane whose loops run. Raises DatabaseError when the database does not answer at first.

    An unexpected end of a loop ends the body with its exception.
    """
    raise NotImplementedError
    yield
