"""Who was turned away at the door, kept for operators: an agent that never got in is on no roster.

Refusals are added up in memory by code, source address, path and token, and written every two seconds in one
statement, so that every process of the plane adds to the same rows and a caller that knocks every second costs none of
its own. Invariants: memory and table are bounded whatever strangers send; nothing that a stranger has made up is kept
(the id of a token only if there is such a token); a request never waits for this.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from isthmus.deployment.arrivals import Arrival
from isthmus.deployment.errors import DatabaseError, PlaneRefusedError, translated
from isthmus.deployment.pooling import Database, Pool, inet_text, plain_text
from isthmus.kit.clocks import Clock, SystemClock
from isthmus.wire.names import PathKind
from isthmus.wire.problems import Code

#: What keeps an agent out. Other refusals are about requests of agents that are in, or about the plane itself.
DOOR: Final = frozenset(
    {
        Code.SOURCE_NOT_ALLOWED,
        Code.TOKEN_MISSING,
        Code.TOKEN_INVALID,
        Code.TOKEN_EXPIRED,
        Code.TOKEN_REVOKED,
        Code.TOKEN_WRONG_DEPLOYMENT,
        Code.TOKEN_WRONG_LINK,
        Code.TOKEN_SCOPE,
        Code.AGENT_NAME_TAKEN,
        Code.SDK_TOO_NEW,
        Code.AGENT_TOO_OLD,
    }
)
#: A caller that was turned away this recently still knocks: agents that are refused wait two minutes at most.
RECENT_SECONDS: Final = 150.0
WRITE_SECONDS: Final = 2.0
#: More distinct callers than this are not told apart between two writes, nor kept.
MAX_PENDING: Final = 500
MAX_KEPT: Final = 1000
_KEPT_HOURS: Final = 24
_FORGET_SECONDS: Final = 60.0
_DETAIL: Final = 300

log = structlog.get_logger(__name__)

_WRITE: Final = """
INSERT INTO isthmus_refusal AS r (code, address, path, link_id, token_id, times, detail)
SELECT * FROM unnest($1::text[], $2::inet[], $3::text[], $4::bigint[], $5::text[], $6::bigint[], $7::text[])
ON CONFLICT (code, address, path, link_id, token_id)
DO UPDATE SET times = r.times + excluded.times, detail = excluded.detail, last_at = now()
"""

_FORGET: Final = """
DELETE FROM isthmus_refusal AS r USING (
    SELECT id, row_number() OVER (ORDER BY last_at DESC) AS place, last_at FROM isthmus_refusal
) AS old
WHERE r.id = old.id AND (old.place > $2 OR old.last_at < now() - $1 * interval '1 hour')
"""

_LISTED: Final = """
SELECT r.id, r.code, nullif(host(r.address), '0.0.0.0') AS address, r.path, nullif(r.link_id, -1) AS link_id,
       nullif(r.token_id, '') AS token_id, t.name AS token_name, r.detail, r.times, r.first_at, r.last_at,
       extract(epoch FROM now() - r.last_at)::float < $1 AS is_recent
FROM isthmus_refusal AS r LEFT JOIN isthmus_token AS t ON t.id = r.token_id
WHERE $2::timestamptz IS NULL OR (r.last_at, r.id) < ($2, $3)
ORDER BY r.last_at DESC, r.id DESC LIMIT $4
"""

_RECENT: Final = "SELECT count(*)::int FROM isthmus_refusal WHERE last_at > now() - $1 * interval '1 second'"


@dataclass(frozen=True, slots=True)
class RefusedCaller:
    """Somebody who was turned away: why, from where, by which path, with which token, how often and when.

    ``address`` is the one that the allow list judges; None if the transport knew none. ``token_id`` is None unless the
    deployment has such a token. ``is_recent``: the caller still knocks.
    """

    id: int
    code: str
    address: str | None
    path: PathKind
    link_id: int | None
    token_id: str | None
    token_name: str | None
    detail: str
    times: int
    first_at: datetime
    last_at: datetime
    is_recent: bool


_Key = tuple[str, str, str, int, str]


class RefusedCallers:
    """Adds refusals up and writes them."""

    def __init__(self, pool: Pool, *, clock: Clock | None = None) -> None:
        self._pool = pool
        self._clock = clock or SystemClock()
        self._times: Counter[_Key] = Counter()
        self._details: dict[_Key, str] = {}

    def note(self, code: Code, arrival: Arrival, *, token_id: str = "", detail: str = "") -> None:
        """Take a refusal in, if it is one at the door. ``token_id`` is of a token that there is, or empty."""
        if code not in DOOR:
            return
        # An address that is none (a UNIX socket) is written as the one that no packet comes from.
        address = inet_text(arrival.address) or "0.0.0.0"  # noqa: S104 - nothing listens here
        link = -1 if arrival.link_id is None else arrival.link_id
        key = (code.value, address, arrival.path.value, link, token_id)
        if key not in self._times and len(self._times) >= MAX_PENDING:
            return  # the log and the metrics have it
        self._times[key] += 1
        self._details[key] = plain_text(detail)[:_DETAIL]

    async def flush(self) -> None:
        """Write what has been added up. Raises DatabaseError; then it is kept for the next time."""
        if not self._times:
            return
        times, details = self._times, self._details
        self._times, self._details = Counter(), {}
        keys = sorted(times)  # one order for all processes: no two of them wait for each other in a circle
        columns = zip(*((*key, times[key], details[key]) for key in keys), strict=True)
        try:
            with translated():
                await self._pool.execute(_WRITE, *(list(column) for column in columns))
        except DatabaseError:
            times.update(self._times)
            self._times, self._details = times, {**details, **self._details}
            raise

    async def forget(self) -> None:
        """Delete what is old, and what is more than is kept. Raises DatabaseError."""
        with translated():
            await self._pool.execute(_FORGET, _KEPT_HOURS, MAX_KEPT)

    async def run(self) -> None:
        """Write every two seconds and forget every minute, through every outage, until cancelled."""
        forgotten_at = self._clock.monotonic()
        while True:
            await self._clock.sleep(WRITE_SECONDS)
            try:
                await self.flush()
                if self._clock.monotonic() - forgotten_at >= _FORGET_SECONDS:
                    await self.forget()
                    forgotten_at = self._clock.monotonic()
            except DatabaseError as error:
                log.debug("refusals cannot be written now", why=str(error))


async def listed(
    database: Database, *, before: tuple[datetime, int] | None = None, limit: int = 100
) -> list[RefusedCaller]:
    """Who was turned away in the last day, the last one first; ``before`` is the last row's (last_at, id) of a page.

    Raises DatabaseError.
    """
    at, number = before or (None, 0)
    with translated():
        rows = await database.fetch(_LISTED, RECENT_SECONDS, at, number, limit)
    return [RefusedCaller(**{**row, "path": PathKind(row["path"])}) for row in rows]


def cursor(row: RefusedCaller) -> str:
    """Where the page after ``row`` begins."""
    return f"{row.last_at.isoformat()}~{row.id}"


def parse_cursor(text: str) -> tuple[datetime, int]:
    """What ``cursor`` said. Raises PlaneRefusedError(REQUEST_INVALID)."""
    when, _, number = text.partition("~")
    try:
        moment = datetime.fromisoformat(when)
        if moment.tzinfo is None or not 0 < int(number) < 2**63:
            raise ValueError("no time with a zone, or no id")
        return moment, int(number)
    except ValueError:
        raise PlaneRefusedError(
            Code.REQUEST_INVALID, "before: not a value of next_before of an earlier page."
        ) from None


async def recent(database: Database) -> int:
    """How many callers still knock. Raises DatabaseError."""
    with translated():
        found: int = await database.fetchval(_RECENT, RECENT_SECONDS)
    return found
