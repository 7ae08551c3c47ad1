"""Which triggers are ours: a thread that asks the plane, and what it has learnt.

It holds one load open, fetches what is new, and hands both to the supervisor's loop as a value (``look``). When the
plane cannot be reached nothing changes: triggers go on running, and what they fire is kept (``reporting``).
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from isthmus.kit.errors import IsthmusError
from isthmus.kit.logs import get
from isthmus.runner.triggering.calling import Calls
from isthmus.wire.triggers import MAX_WORKLOADS

log = get(component="triggerer")

WAIT_SECONDS: Final = 25.0
#: How often a thread that waits for room looks whether we end.
_STOP_LOOK_SECONDS: Final = 0.5
RETRY_SECONDS: Final = (0.5, 15.0)
#: How many triggers are on their way to being started at most: a workload takes much more memory than what it starts.
MAX_STARTING: Final = 1000
#: What the plane gave no workload for, though it is ours, is asked for again after this long.
MISSING_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Fetched:
    """A trigger to be run: Airflow's JSON of it with its DAG in place, and where its log goes."""

    trigger_id: int
    workload: dict[str, Any] = field(repr=False)
    log_path: str | None


@dataclass(frozen=True, slots=True)
class View:
    """What we hold now, and what is new of it since the last look."""

    fence: int | None
    held: frozenset[int]
    fetched: tuple[Fetched, ...]


class Holding:
    """Follows the plane in a thread of its own."""

    def __init__(
        self,
        calls: Calls,
        *,
        capacity: Callable[[], int],
        bundles: Sequence[str],
        stopped: threading.Event,
        paused: Callable[[], bool] = lambda: False,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """``paused`` is true while our triggers do not run: then the plane shall give them to somebody else."""
        self._calls = calls
        self._capacity = capacity
        self._bundles = tuple(bundles)
        self._stopped = stopped
        self._paused = paused
        self._changed = changed
        self._lock = threading.Lock()
        self._looked = threading.Condition(self._lock)
        self._fence: int | None = None
        self._held: frozenset[int] = frozenset()
        #: Fetched under this fence, or earlier and still ours.
        self._known: set[int] = set()
        self._fetched: list[Fetched] = []
        #: How many the supervisor had not handed on when it last looked.
        self._starting = 0
        #: What is wrong with the road, or nothing.
        self.trouble: IsthmusError | None = None

    @property
    def fence(self) -> int | None:
        """What we are to the plane now; None while it gives us nothing."""
        return self._fence

    def look(self, starting: int) -> View:
        """What there is to do. What is new is given once; ``starting`` of what was given have not been started."""
        with self._lock:
            fetched, self._fetched = self._fetched, []
            self._starting = starting + len(fetched)
            self._looked.notify_all()
            return View(self._fence, self._held, tuple(one for one in fetched if one.trigger_id in self._held))

    def run(self) -> None:
        """Follow until stopped."""
        revision = ""
        least, most = RETRY_SECONDS
        pause = least
        while not self._stopped.is_set():
            if self._paused():
                self._stopped.wait(1.0)
                continue
            try:
                missing = bool(self._held - self._known)
                loaded = self._calls.load(
                    revision, self._capacity(), self._bundles, MISSING_SECONDS if missing else WAIT_SECONDS
                )
                self._take(loaded.fence, frozenset(loaded.trigger_ids))
                for _ in self._fetch():
                    self._changed()
                revision = loaded.revision
                self._changed()
            except IsthmusError as error:
                if self.trouble is None or self.trouble.code != error.code:
                    log.warning("triggers cannot be asked for", why=str(error), hint=error.hint)
                self.trouble = error
                revision = ""
                self._changed()
                self._stopped.wait(pause)
                pause = min(most, pause * 2)
            else:
                self.trouble = None
                pause = least

    def _take(self, fence: int | None, held: frozenset[int]) -> None:
        with self._lock:
            self._fence = fence
            self._held = held
            self._known &= held

    def _fetch(self) -> Iterator[None]:
        """Fetch what is new, the oldest first, in parts: what is there can begin."""
        fence = self._fence
        new = sorted(self._held - self._known)
        for place in range(0, len(new) if fence is not None else 0, MAX_WORKLOADS):
            with self._lock:
                while not self._stopped.is_set() and len(self._fetched) + self._starting + MAX_WORKLOADS > MAX_STARTING:
                    self._looked.wait(_STOP_LOOK_SECONDS)
            if self._stopped.is_set() or fence is None:
                return
            said = self._calls.workloads(fence, new[place : place + MAX_WORKLOADS])
            fetched = [
                Fetched(
                    one.trigger_id,
                    one.workload if one.dag is None else {**one.workload, "dag_data": said.dags[one.dag]},
                    one.log_path,
                )
                for one in said.workloads
            ]
            with self._lock:
                self._fetched += fetched
                self._known |= {one.trigger_id for one in fetched}
            yield
