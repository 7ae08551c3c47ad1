"""Live regions: the page is made again every second, and what has changed in it is sent as a server-sent event.

Events: ``region`` with a region's name, digest and HTML; ``end`` when the session is over or the page is gone, upon
which the browser loads the page. The stream ends by itself when the process stops.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from starlette.responses import StreamingResponse

from isthmus.control.web.rendering import Region
from isthmus.kit.errors import TemporaryError

#: Changes reach the page within this and the time that the page takes.
LOOK_SECONDS: Final = 1.0
#: So often at least something is sent, so that nothing between takes the connection for idle.
_QUIET_SECONDS: Final = 15

Look = Callable[[], Awaitable[list[Region]]]


class GoneError(Exception):
    """There is no such page for this session any more."""


def stream(look: Look, stopping: asyncio.Event) -> StreamingResponse:
    """The answer. ``look`` makes the regions as they are now; it raises GoneError."""
    return StreamingResponse(_events(look, stopping), media_type="text/event-stream")


async def _events(look: Look, stopping: asyncio.Event) -> AsyncIterator[str]:
    sent: dict[str, str] = {}
    quiet = 0.0
    while not stopping.is_set():
        try:
            regions = await look()
        except GoneError:
            yield "event: end\ndata: -\n\n"
            return
        except TemporaryError:  # the browser comes back, and says meanwhile that it is not live
            return
        for region in regions:
            if sent.get(region.name) != region.digest:
                sent[region.name] = region.digest
                data = json.dumps({"name": region.name, "digest": region.digest, "html": region.html})
                yield f"event: region\ndata: {data}\n\n"
                quiet = 0.0
        quiet += LOOK_SECONDS
        if quiet >= _QUIET_SECONDS:
            yield ": quiet\n\n"
            quiet = 0.0
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), LOOK_SECONDS)
