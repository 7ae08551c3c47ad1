"""The scheduler's pause, taken over: wait for the database's news instead of sleeping a second (ADR 0002).

Airflow's scheduler sleeps after every loop that found nothing to do, so a chain of short tasks advances once a second
under any executor. With ``[scheduler] scheduler_idle_sleep_time = 0`` the executor's ``sync`` waits here instead, on a
connection of its own. It listens to ``isthmus_scheduler``, which says that a task's state changed or an outcome came
in; and because nobody notifies of runs that are started in Airflow's UI, it looks for new ones a few times a second, by
a statement that reads two index entries.

While queued work waits for agents, all slots are taken and another loop can hurry nothing: then loops are held a
quarter of a second apart, so that a burst of ends is one loop.

Invariants: nothing here raises or keeps the scheduler for longer than asked; without a connection it is the plain sleep
that Airflow would have done; a loop that found something to do is followed by the next one without a pause, unless work
waits for agents; after a reconnect there may always be news, so nothing is missed.
"""

import contextlib
import logging
import select
import time
from typing import Final

import psycopg2
import psycopg2.extensions

from isthmus.deployment import databases, tables
from isthmus.kit.backoffs import Backoff, BackoffConfig
from isthmus.kit.clocks import SystemClock

#: What Airflow sleeps by default after a loop that found nothing to do.
IDLE_SECONDS: Final = 1.0
#: How often to look for what nobody notifies of: a run waits a tenth of a second on average.
LOOK_SECONDS: Final = 0.2
#: How far apart loops are while work waits for agents. One costs 25 to 50 ms of CPU, its database included.
BREATH_SECONDS: Final = 0.25
#: A look that takes longer is no look: the database is in trouble, and the scheduler goes on without.
_STATEMENT_MILLISECONDS: Final = 2000

_log = logging.getLogger(__name__)


class Pacer:
    """Waits for news in the scheduler's place. One per scheduler job, used by its main thread.

    ``look`` is a statement with one row, which differs from the last one when there is news; ``backlog`` one whose only
    value says whether work waits for agents.
    """

    def __init__(self, url: str, look: str, backlog: str) -> None:
        #: With several executors in one scheduler (a team's each) one of them waits, for all.
        self.waiter: object = None
        self._worked = False
        self._look = look
        self._backlog = backlog
        self._ended = 0.0
        self._seen: object = None
        self._dsn = databases.libpq_dsn(url)
        self._connection: psycopg2.extensions.connection | None = None
        self._backoff = Backoff(BackoffConfig(first_seconds=1.0, longest_seconds=60.0), SystemClock())
        self._next_attempt = 0.0

    @property
    def is_listening(self) -> bool:
        """Whether there is a connection on which notifications come."""
        return self._connection is not None

    def note_work(self) -> None:
        """There was something to do in this loop: the next one follows at once."""
        self._worked = True

    def pause(self, *, news: bool, seconds: float = IDLE_SECONDS) -> bool:
        """Wait for news, unless there was work or ``news`` in this loop. Returns whether news may have come."""
        worked, self._worked = self._worked, False
        came = not worked and not news and self._wait(seconds)
        waited = self._breathe()
        self._ended = time.monotonic()
        return came or waited

    def poll(self) -> bool:
        """Whether there may be news since the last look; does not wait."""
        if self._connection is None:
            return self._connect()
        return self._has_news(self._connection)

    def _wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            connection = self._connection
            if connection is None:
                time.sleep(left)
                return False
            poller = select.poll()  # unlike select.select, for descriptors above 1023 as well
            poller.register(connection, select.POLLIN)
            poller.poll(min(left, LOOK_SECONDS) * 1000)
            if self._has_news(connection):
                return True
        return False

    def _breathe(self) -> bool:
        """Keep loops apart while work waits for agents. Returns whether that took time."""
        left = self._ended + BREATH_SECONDS - time.monotonic()
        if left <= 0 or self._connection is None:
            return False
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(self._backlog)
                (waits,) = cursor.fetchone() or (False,)
        except psycopg2.Error as error:
            self._lost(error)
            return True
        if waits:
            time.sleep(left)
        return bool(waits)

    def close(self) -> None:
        """Give the connection back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg2.Error):
                connection.close()

    def _has_news(self, connection: psycopg2.extensions.connection) -> bool:
        try:
            with connection.cursor() as cursor:
                cursor.execute(self._look)  # takes notifications in as well
                found = cursor.fetchone()
        except psycopg2.Error as error:
            self._lost(error)
            return True
        notified, changed = bool(connection.notifies), found != self._seen
        connection.notifies.clear()
        self._seen = found
        return notified or changed

    def _connect(self) -> bool:
        if time.monotonic() < self._next_attempt:
            return False
        try:
            # The scheduler waits for this, so it is short; keepalives find out that a silent network is a dead one.
            connection = psycopg2.connect(
                self._dsn,
                connect_timeout=3,
                application_name="isthmus-scheduler",
                keepalives_idle=30,
                keepalives_interval=10,
                keepalives_count=3,
            )
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f"SET statement_timeout = {_STATEMENT_MILLISECONDS}")
                cursor.execute(f"LISTEN {tables.SCHEDULER_CHANNEL}")
                cursor.execute(self._look)
                self._seen = cursor.fetchone()
        except psycopg2.Error as error:
            self._lost(error)
            return False
        if self._backoff.failures:
            _log.info("The scheduler listens to the database again")
        self._backoff.succeeded()
        self._connection = connection
        return True

    def _lost(self, error: psycopg2.Error) -> None:
        self.close()
        wait = self._backoff.failed()
        self._next_attempt = time.monotonic() + wait
        if self._backoff.failures == 1:
            _log.warning("The scheduler cannot listen to the database and sleeps as usual: %s", str(error).strip())
