"""What is wrong, as a list: the same one in the log, ``/healthz``, the heartbeat, the CLI and the web page.

A ``Condition`` is declared once, with its code and severity. It is raised with a summary of this occurrence and a hint,
and cleared when it is over. Two rules keep the list short: a condition is shown only when it has lasted
``visible_after``, and not while another one that explains it (``depends_on``) is raised. Observers hear of each change
once, however often a loop raises the same condition again. (The idea is tailscale's ``health`` package.)
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from isthmus.kit.clocks import Clock


class Severity(StrEnum):
    """How bad it is. ``ERROR`` means that the component does not do its work."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that can be wrong. ``code`` is stable."""

    code: str
    severity: Severity
    #: How long it must last before it is shown.
    visible_after_seconds: float = 0.0
    #: Codes of conditions that explain this one: while one of them is raised, this one is not shown.
    depends_on: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A condition that holds now."""

    condition: Condition
    summary: str
    hint: str
    since: datetime

    @property
    def code(self) -> str:
        """The condition's code."""
        return self.condition.code

    @property
    def severity(self) -> Severity:
        """The condition's severity."""
        return self.condition.severity


#: Called with an occurrence and whether it came into sight (True) or went (False).
Observer = Callable[[Occurrence, bool], None]


@dataclass(slots=True)
class _Raised:
    occurrence: Occurrence
    began: float


class Health:
    """The conditions of one component."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._raised: dict[str, _Raised] = {}
        self._shown: dict[str, Occurrence] = {}
        self._observers: list[Observer] = []
        self._changed = asyncio.Event()

    def observe(self, observer: Observer) -> None:
        """Have ``observer`` called once for each occurrence that comes into sight or goes."""
        self._observers.append(observer)

    def raise_(self, condition: Condition, summary: str, hint: str = "") -> None:
        """Note that ``condition`` holds. Raising it again replaces the words and keeps the beginning."""
        raised = self._raised.get(condition.code)
        if raised is None:
            self._raised[condition.code] = _Raised(
                Occurrence(condition, summary, hint, self._clock.now()), self._clock.monotonic()
            )
            self._changed.set()
        else:
            raised.occurrence = replace(raised.occurrence, summary=summary, hint=hint)
        self._refresh()

    def clear(self, condition: Condition) -> None:
        """Note that ``condition`` is over, if it was raised."""
        if self._raised.pop(condition.code, None) is not None:
            self._changed.set()
            self._refresh()

    def holds(self, condition: Condition) -> bool:
        """Whether ``condition`` is raised, shown or not."""
        return condition.code in self._raised

    def visible(self) -> tuple[Occurrence, ...]:
        """What is shown now, the worst first, then the oldest."""
        self._refresh()
        order = list(Severity)
        return tuple(sorted(self._shown.values(), key=lambda one: (-order.index(one.severity), one.since)))

    @property
    def well(self) -> bool:
        """Whether nothing of severity ``ERROR`` is shown."""
        return all(one.severity is not Severity.ERROR for one in self.visible())

    async def watch(self) -> None:
        """Tell the observers of conditions that come into sight by waiting. Runs until cancelled."""
        while True:
            self._changed.clear()
            self._refresh()
            await self._clock.wait(self._changed, self._next_seconds())

    def _next_seconds(self) -> float | None:
        now = self._clock.monotonic()
        waits = [
            raised.began + raised.occurrence.condition.visible_after_seconds - now for raised in self._raised.values()
        ]
        return min((wait for wait in waits if wait > 0), default=None)

    def _refresh(self) -> None:
        now = self._clock.monotonic()
        visible = {
            code: raised.occurrence
            for code, raised in self._raised.items()
            if now - raised.began >= raised.occurrence.condition.visible_after_seconds
            and not (raised.occurrence.condition.depends_on & self._raised.keys())
        }
        gone = [occurrence for code, occurrence in self._shown.items() if code not in visible]
        come = [occurrence for code, occurrence in visible.items() if code not in self._shown]
        self._shown = visible
        for occurrence in gone:
            self._tell(occurrence, came=False)
        for occurrence in come:
            self._tell(occurrence, came=True)

    def _tell(self, occurrence: Occurrence, *, came: bool) -> None:
        for observer in self._observers:
            observer(occurrence, came)
