"""Live regions: a page is made again every second while somebody has it open, and what has changed in it is sent.

All who have the same page open, in the same role, share one look a second: the ``Lives`` of a process make it once,
and each viewer takes the newest when its browser is ready for it. A browser that does not read holds up nobody, and
nothing is kept for it but that newest look. What is of a session alone is never in a look (``rendering``): its form
token is put in on the way out.

Who may still look is asked for all sessions in one statement a second. A stream ends when its session has ended or its
operator's role has changed.

Events: ``parts`` with the names of the page's regions, upon which the browser loads a page that has others;
``region`` with a region's name, digest and HTML; ``end`` when the session is over or the page is gone, upon
which the browser loads the page. All streams end by themselves when the process stops.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

import structlog
from starlette.responses import StreamingResponse

from isthmus.control.web.rendering import FORM_TOKEN_PLACE, Region
from isthmus.kit.errors import IsthmusError, TemporaryError
from isthmus.wire.control import OperatorRole

#: Changes reach the page within this and the time that the page takes.
LOOK_SECONDS: Final = 1.0
#: So often at least something is sent, so that nothing between takes the connection for idle.
_QUIET_SECONDS: Final = 15
#: Nobody is shown anything for longer than this after it was last known that they may look.
_ADMITTED_SECONDS: Final = 5.0
#: Open pages of one session. A browser opens six connections to one place over HTTP/1.1; several may share a session.
STREAMS_PER_SESSION: Final = 24

Look = Callable[[], Awaitable[list[Region]]]
#: The roles of those of these sessions (by the digest of their secret) that have not ended. Raises IsthmusError.
Admit = Callable[[Collection[str]], Awaitable[Mapping[str, OperatorRole]]]

log = structlog.get_logger(__name__)


class GoneError(Exception):
    """There is no such page any more."""


class TooManyError(Exception):
    """The session has too many pages open."""


class _Ending(Enum):
    """Why a stream ends: for good, or until the browser comes back, which says meanwhile that it is not live."""

    GONE = auto()
    AWAY = auto()


@dataclass(eq=False)
class Viewer:
    """One open stream: whose it is, and what wakes it."""

    session_id: str
    role: OperatorRole
    form_token: str
    #: Looks that began before it came are not for it: they may be older than the page that it has.
    after: int
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    ending: _Ending | None = None

    def has_ended(self) -> bool:
        """Whether nothing is to be sent any more; a browser may be slow to take what was sent before."""
        return self.ending is not None

    def end(self, ending: _Ending) -> None:
        """End the stream; the first reason is the one that counts."""
        self.ending = self.ending or ending
        self.woken.set()


@dataclass(eq=False)
class _Shared:
    """A page that somebody has open. ``number`` counts the looks that began, ``shown`` is the one of ``events``."""

    look: Look
    viewers: set[Viewer] = field(default_factory=set)
    number: int = 0
    shown: int = 0
    #: By region: its digest, and the event that shows it.
    events: dict[str, tuple[str, str]] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Look until cancelled, or until there is nothing to see."""
        try:
            while True:
                self.number += 1
                regions = await self.look()
                self.events = {one.name: self._event(one) for one in regions}
                self.shown = self.number
                for viewer in self.viewers:
                    viewer.woken.set()
                await asyncio.sleep(LOOK_SECONDS)
        except GoneError:
            self._end(_Ending.GONE)
        except TemporaryError:
            self._end(_Ending.AWAY)
        except Exception:
            # A bug in one page must not end the others, nor be silent.
            log.exception("a live page failed")
            self._end(_Ending.AWAY)

    def _event(self, region: Region) -> tuple[str, str]:
        """What shows a region; the one that there is already, when nothing has changed."""
        known = self.events.get(region.name)
        if known is not None and known[0] == region.digest:
            return known
        data = json.dumps({"name": region.name, "digest": region.digest, "html": region.html})
        return region.digest, f"event: region\ndata: {data}\n\n"

    def _end(self, ending: _Ending) -> None:
        for viewer in self.viewers:
            viewer.end(ending)


class Lives:
    """All live pages of a process. Nothing runs while nobody has one open."""

    def __init__(self, admit: Admit, stopping: asyncio.Event) -> None:
        self._admit = admit
        self._stopping = stopping
        self._shared: dict[Hashable, _Shared] = {}
        self._viewers: set[Viewer] = set()
        self._admitting: asyncio.Task[None] | None = None

    def stream(
        self, key: Hashable, look: Look, *, session_id: str, role: OperatorRole, form_token: str
    ) -> StreamingResponse:
        """The answer. ``look`` makes the regions as they are now, for everybody who has ``key``; it raises GoneError.

        Raises TooManyError.
        """
        if sum(one.session_id == session_id for one in self._viewers) >= STREAMS_PER_SESSION:
            raise TooManyError
        return StreamingResponse(self._events(key, look, session_id, role, form_token), media_type="text/event-stream")

    async def _events(
        self, key: Hashable, look: Look, session_id: str, role: OperatorRole, form_token: str
    ) -> AsyncIterator[str]:
        shared = self._shared.get(key)
        if shared is None or (shared.task is not None and shared.task.done()):
            shared = self._shared[key] = _Shared(look)
        viewer = Viewer(session_id, role, form_token, after=shared.number)
        self._join(key, shared, viewer)
        sent: dict[str, str] = {}
        parts: str | None = None
        try:
            while not viewer.has_ended():
                viewer.woken.clear()
                if shared.shown > viewer.after:
                    if (now := ",".join(shared.events)) != parts:
                        parts = now
                        yield f"event: parts\ndata: {parts}\n\n"
                    for name, (digest, event) in list(shared.events.items()):
                        if sent.get(name) != digest:
                            sent[name] = digest
                            yield event.replace(FORM_TOKEN_PLACE, form_token)
                            if viewer.has_ended():
                                break
                try:
                    async with asyncio.timeout(_QUIET_SECONDS):
                        await viewer.woken.wait()
                except TimeoutError:
                    yield ": quiet\n\n"
            if viewer.ending is _Ending.GONE:
                yield "event: end\ndata: -\n\n"
        finally:
            self._leave(key, shared, viewer)

    def _join(self, key: Hashable, shared: _Shared, viewer: Viewer) -> None:
        self._viewers.add(viewer)
        shared.viewers.add(viewer)
        if shared.task is None:
            shared.task = asyncio.create_task(shared.run(), name="live page")
        if self._admitting is None or self._admitting.done():
            self._admitting = asyncio.create_task(self._watch_sessions(), name="sessions of live pages")

    def _leave(self, key: Hashable, shared: _Shared, viewer: Viewer) -> None:
        self._viewers.discard(viewer)
        shared.viewers.discard(viewer)
        if not shared.viewers:
            if shared.task is not None:
                shared.task.cancel()
            if self._shared.get(key) is shared:
                del self._shared[key]

    async def _watch_sessions(self) -> None:
        """Ask once a second who may still look, while anybody does."""
        while self._viewers and not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), LOOK_SECONDS)
                break
            asked = list(self._viewers)
            try:
                async with asyncio.timeout(_ADMITTED_SECONDS):
                    admitted = await self._admit({one.session_id for one in asked})
            except (IsthmusError, TimeoutError):
                _end_all(asked, _Ending.AWAY)
                continue
            except Exception:
                log.exception("who may look could not be told")
                _end_all(asked, _Ending.AWAY)
                continue
            _end_all([one for one in asked if admitted.get(one.session_id) is not one.role], _Ending.GONE)
        _end_all(self._viewers, _Ending.AWAY)


def _end_all(viewers: Collection[Viewer], ending: _Ending) -> None:
    for viewer in viewers:
        viewer.end(ending)
