"""What has fired, on its way to the plane: a thread that sends, and keeps what it could not send.

Events go in the order in which they fired, many at once. Each has an id, so that one that is sent again after a lost
answer is taken once. They carry no fence of their own: what counts is whether the trigger is ours when the plane takes
the event. Invariant: an event is forgotten when the plane has given a verdict on it, and not before.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, assert_never

from isthmus.kit.errors import IsthmusError
from isthmus.kit.logs import get
from isthmus.runner.triggering.calling import Calls
from isthmus.wire.names import WITHHELD
from isthmus.wire.problems import Code
from isthmus.wire.triggers import (
    MAX_REPORTS,
    MAX_TRACEBACK_LINE,
    MAX_TRACEBACK_LINES,
    TriggerEventReport,
    TriggerFailure,
    TriggerVerdict,
)

log = get(component="triggerer")

#: What the events of one request take together. A deployment accepts bodies of 1 MiB unless it is told otherwise.
BATCH_BYTES: Final = 512 * 1024
#: The largest event that is tried at all: what a deployment can be told to accept.
LARGEST_BYTES: Final = 60 * 1024 * 1024
RETRY_SECONDS: Final = (0.5, 15.0)

#: The plane's words about one request, which will be the same for the same request.
_HOPELESS: Final = frozenset({Code.REQUEST_INVALID, Code.BODY_MALFORMED, Code.BODY_TOO_LARGE})


@dataclass(slots=True)
class Report:
    """An event or a failure that waits to be told. ``confirmed`` is called once the plane has taken it."""

    what: TriggerEventReport | TriggerFailure = field(repr=False)
    size: int
    confirmed: Callable[[TriggerVerdict], None]


def confirmed_by_nobody(_: TriggerVerdict) -> None:
    """For reports that nobody waits for."""


class Reporting:
    """Sends in a thread of its own."""

    def __init__(
        self,
        calls: Calls,
        *,
        fence: Callable[[], int | None],
        stopped: threading.Event,
        wants_reasons: Callable[[], bool],
    ) -> None:
        """``wants_reasons``: whether the plane may know why a trigger has failed."""
        self._calls = calls
        self._wants_reasons = wants_reasons
        self._fence = fence
        self._stopped = stopped
        self._arrived = threading.Condition()
        self._waiting: deque[Report] = deque()
        self._sending = 0
        self.trouble: IsthmusError | None = None

    @property
    def pending(self) -> int:
        """How many the plane has not answered for."""
        return len(self._waiting)

    def add(
        self,
        what: TriggerEventReport | TriggerFailure,
        confirmed: Callable[[TriggerVerdict], None] = confirmed_by_nobody,
    ) -> None:
        """Tell the plane, soon and in order."""
        size = len(what.model_dump_json())
        if size > LARGEST_BYTES and isinstance(what, TriggerEventReport):
            what = _too_large(what.trigger_id, size)
            size = len(what.model_dump_json())
        with self._arrived:
            self._waiting.append(Report(what, size, confirmed))
            self._arrived.notify_all()

    def failed(self, trigger_id: int, traceback: Sequence[str]) -> None:
        """Tell the plane that a trigger has failed, and why if it may know."""
        if not self._wants_reasons():
            log.warning("a trigger has failed", trigger_id=trigger_id, why="".join(traceback))
            traceback = (f"{WITHHELD}\n",)
        lines = tuple(line[:MAX_TRACEBACK_LINE] for line in traceback[-MAX_TRACEBACK_LINES:])
        self.add(TriggerFailure(trigger_id=trigger_id, traceback=lines))

    def stop(self, seconds: float) -> None:
        """Wait until everything is told, or for ``seconds``."""
        with self._arrived:
            self._arrived.notify_all()
            self._arrived.wait_for(lambda: not self._waiting, seconds)

    def run(self) -> None:
        """Send until stopped and, then, for as long as ``stop`` waits."""
        least, most = RETRY_SECONDS
        pause = least
        while True:
            with self._arrived:
                self._arrived.wait_for(lambda: self._waiting or self._stopped.is_set(), 1.0)
                batch = self._batch()
            if not batch:
                if self._stopped.is_set():
                    return
                continue
            fence = self._fence()
            if fence is None:  # we are nobody yet; or nobody any more, and the plane will say so
                self._stopped.wait(least)
                continue
            try:
                self._send(fence, batch)
            except IsthmusError as error:
                if self.trouble is None or self.trouble.code != error.code:
                    log.warning("events are kept: they cannot be told", events=self.pending, why=str(error))
                self.trouble = error
                if self._stopped.wait(pause):
                    threading.Event().wait(least)
                pause = min(most, pause * 2)
            else:
                if self.trouble is not None:
                    log.info("events are told again", waiting=self.pending)
                self.trouble = None
                pause = least

    def _batch(self) -> list[Report]:
        """The first of what waits, of one kind, as much as fits."""
        batch: list[Report] = []
        size = 0
        for report in self._waiting:
            if batch and (
                len(batch) == MAX_REPORTS
                or size + report.size > BATCH_BYTES
                or type(report.what) is not type(batch[0].what)
            ):
                break
            batch.append(report)
            size += report.size
        return batch

    def _send(self, fence: int, batch: list[Report]) -> None:
        """Send, and forget what the plane has answered for. Raises IsthmusError."""
        try:
            verdicts = self._tell(fence, [report.what for report in batch])
        except IsthmusError as error:
            if error.code not in _HOPELESS:
                raise
            if len(batch) > 1:
                for report in batch:
                    self._send(fence, [report])
                return
            verdicts = self._give_up(fence, batch[0], error)
        for report, verdict in zip(batch, verdicts, strict=True):
            report.confirmed(verdict)
            if verdict in {TriggerVerdict.STALE, TriggerVerdict.UNUSABLE}:
                log.warning("an event was not taken", trigger_id=report.what.trigger_id, verdict=verdict.value)
        with self._arrived:
            for _ in batch:
                self._waiting.popleft()
            self._arrived.notify_all()

    def _tell(self, fence: int, reports: Sequence[TriggerEventReport | TriggerFailure]) -> Sequence[TriggerVerdict]:
        match reports[0]:
            case TriggerEventReport():
                return self._calls.events(fence, [one for one in reports if isinstance(one, TriggerEventReport)])
            case TriggerFailure():
                return self._calls.failures(fence, [one for one in reports if isinstance(one, TriggerFailure)])
            case _:
                assert_never(reports[0])

    def _give_up(self, fence: int, report: Report, error: IsthmusError) -> Sequence[TriggerVerdict]:
        """An event that the plane will never take: its task fails and says why. Raises IsthmusError."""
        log.error("the plane refuses an event", trigger_id=report.what.trigger_id, why=str(error), hint=error.hint)
        if isinstance(report.what, TriggerFailure):
            return (TriggerVerdict.UNUSABLE,)
        why = f"The trigger's event of {report.size} bytes was refused by the plane: {error}\n"
        return self._calls.failures(fence, [TriggerFailure(trigger_id=report.what.trigger_id, traceback=(why,))])


def _too_large(trigger_id: int, size: int) -> TriggerFailure:
    why = f"The trigger's event has {size} bytes; the most that can be sent is {LARGEST_BYTES}.\n"
    return TriggerFailure(trigger_id=trigger_id, traceback=(why,))
