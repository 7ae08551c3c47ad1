"""Following the plane's name: when it leads elsewhere, the next call goes there.

A deployment moves to a private link by a change in DNS alone. Connections live for two minutes and claims hold them
open, so an agent would come the old way for that long. This loop looks the name up every few seconds, as the client
would; when the answer has changed the client leaves its connections, and the plane hears from us at once. What is under
way on an old connection finishes there.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable

from isthmus.agent.client import PlaneClient
from isthmus.agent.config import Timing
from isthmus.kit.clocks import Clock
from isthmus.kit.logs import get

log = get(component="following")


class Following:
    """The loop that looks the name up."""

    def __init__(self, timing: Timing, client: PlaneClient, *, clock: Clock, moved: Callable[[], None]) -> None:
        """``moved`` is called when the name leads elsewhere than before."""
        self._timing = timing
        self._client = client
        self._clock = clock
        self._moved = moved
        self._known: frozenset[str] | None = None

    async def run(self) -> None:
        """Look now and then. Runs until cancelled; does nothing where no name is looked up here."""
        host = self._client.caller.origin.host
        if self._client.caller.proxy is not None or _is_address(host):
            await asyncio.Event().wait()
        while True:
            await self._look(host)
            await self._clock.sleep(self._timing.follow)

    async def _look(self, host: str) -> None:
        try:
            answer = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError:
            return  # whoever needs the name says so
        found = frozenset(str(address[0]) for *_, address in answer)
        before, self._known = self._known, found
        if before is None or before & found:
            return
        log.info("the plane's name leads elsewhere now", before=sorted(before), now=sorted(found))
        self._client.renew()
        self._moved()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
