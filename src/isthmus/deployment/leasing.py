"""The life of a lease in SQL: many rows a statement, each following ``workloads.transition``.

A lease is (workload, fence): the fence grows by one with every claim, and a report with an older one changes nothing.
All times are the database's. Each statement is a transaction of its own when it runs on the pool, and part of the
caller's when it runs on a connection. Settlements, losses and cancellations set ``unseen`` and
notify the scheduler in the same transaction; whatever goes back to the queue notifies the dispatchers.

Invariants: a workload has at most one holder; a start is confirmed to the holder alone; every workload that is leased
or running has a lease that ends, so none can get stuck.
"""

# ruff: noqa: S608 - values are parameters; what is put into the text are constants of ours.

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from isthmus.deployment.matching import Claim, QueuedRow
from isthmus.deployment.pooling import Connection, Database, Record, plain_text
from isthmus.deployment.tables import AGENTS_CHANNEL, QUEUED_CHANNEL, SCHEDULER_CHANNEL
from isthmus.wire.names import Kind
from isthmus.wire.workloads import Outcome, SettleVerdict


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """How long leases last, in seconds. A lease is extended by heartbeats."""

    lease_seconds: float = 30.0
    running_lease_seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class Lease:
    """A reference to a lease, as agents report it."""

    workload_id: UUID
    fence: int


@dataclass(frozen=True, slots=True)
class LeasedRow:
    """A workload that was leased now: all that its agent needs, apart from the task token."""

    workload_id: UUID
    fence: int
    agent_id: UUID
    claim_id: UUID
    kind: Kind
    queue: str
    display_name: str
    subject_id: str
    payload: dict[str, Any]
    lease_seconds: float
    #: From the queueing to this lease, by the database's clock.
    waited_seconds: float

    @property
    def lease(self) -> Lease:
        """The reference to this lease."""
        return Lease(self.workload_id, self.fence)


@dataclass(frozen=True, slots=True)
class HeldRow:
    """A workload under a live lease: what minting a task token or admitting an Execution API call needs."""

    workload_id: UUID
    fence: int
    agent_id: UUID
    kind: Kind
    started: bool
    subject_id: str
    payload: dict[str, Any]
    cancel_requested: bool


@dataclass(frozen=True, slots=True)
class Report:
    """How one lease ended at its agent."""

    workload_id: UUID
    fence: int
    outcome: Outcome
    exit_code: int | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A lease that an agent says it holds."""

    agent_id: UUID
    workload_id: UUID
    fence: int


@dataclass(frozen=True, slots=True)
class Ended:
    """Leases that ended without a word of their agents: requeued, lost, or kept because the task itself is alive."""

    requeued: int = 0
    lost: int = 0
    kept: int = 0


#: What returns a lease to the queue; the fence stays, the next claim raises it.
_REQUEUED: Final = """
    state = 'queued', agent_id = NULL, claim_id = NULL, lease_expires_at = NULL, leased_at = NULL,
    releases = LEAST(w.releases + 1, 32767)
"""

_SELECT_QUEUED: Final = """
SELECT r.id, r.queue, r.priority, r.queued_at
FROM unnest($1::text[], $2::int[]) AS wanted(queue, slots)
CROSS JOIN LATERAL (
    SELECT w.id, w.queue, w.priority, w.queued_at
    FROM isthmus_workload AS w
    WHERE w.state = 'queued' AND w.queue = wanted.queue
    ORDER BY w.priority DESC, w.queued_at
    LIMIT wanted.slots
    FOR UPDATE SKIP LOCKED
) AS r
"""

_LEASED_COLUMNS: Final = (
    "w.id, w.fence, w.agent_id, w.claim_id, w.kind, w.queue, w.display_name, w.subject_id, w.payload, "
    "extract(epoch FROM w.leased_at - w.queued_at)::float AS waited_seconds"
)

# Work stays away from an agent that was cordoned a moment ago; the lock keeps one from being removed or replaced
# between the look and the commit. It does not wait for heartbeats, which change no key.
_CLAIM: Final = f"""
WITH takers AS (
    SELECT id FROM isthmus_agent
    WHERE id = ANY($2::uuid[]) AND NOT cordoned AND NOT draining AND phase = 'ready'
      AND (standby_for IS NULL OR standby_active)
    ORDER BY id FOR KEY SHARE
)
UPDATE isthmus_workload AS w
SET state = 'leased', agent_id = p.agent_id, claim_id = p.claim_id, fence = w.fence + 1,
    lease_expires_at = now() + $4 * interval '1 second', leased_at = now(), started_at = NULL
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS p(id, agent_id, claim_id)
JOIN takers ON takers.id = p.agent_id
WHERE w.id = p.id AND w.state = 'queued'
RETURNING {_LEASED_COLUMNS}
"""

_REPEAT: Final = f"""
UPDATE isthmus_workload AS w
SET lease_expires_at = now() + $3 * interval '1 second'
WHERE w.agent_id = $1 AND w.claim_id = $2 AND w.state = 'leased'
RETURNING {_LEASED_COLUMNS}
"""

# A start that is asked for again, because the answer was lost, is confirmed again: same lease, same holder.
_START: Final = """
UPDATE isthmus_workload AS w
SET state = 'running', started_at = coalesce(w.started_at, now()),
    lease_expires_at = now() + $4 * interval '1 second',
    unseen = w.unseen OR (w.state = 'leased' AND w.kind = 'callback')
FROM unnest($2::uuid[], $3::bigint[]) AS s(id, fence)
WHERE w.id = s.id AND w.fence = s.fence AND w.agent_id = $1 AND w.state IN ('leased', 'running')
RETURNING w.id, w.fence
"""

_SETTLE: Final = f"""
WITH moved AS (
    UPDATE isthmus_workload AS w
    SET state = CASE WHEN s.outcome = 'succeeded' THEN 'succeeded'
                     WHEN w.cancel_requested THEN 'cancelled'
                     ELSE 'failed' END,
        lease_expires_at = NULL, settled_at = now(), exit_code = s.exit_code, detail = s.detail, unseen = true
    FROM unnest($2::uuid[], $3::bigint[], $4::text[], $5::int[], $6::text[]) AS s(id, fence, outcome, exit_code, detail)
    WHERE w.id = s.id AND w.fence = s.fence AND w.agent_id = $1 AND w.state = 'running'
    RETURNING w.id
), told AS (
    SELECT pg_notify('{SCHEDULER_CHANNEL}', '') FROM (SELECT FROM moved LIMIT 1) AS any_moved
)
SELECT moved.id, (SELECT count(*) FROM told) FROM moved
"""

_RELEASE: Final = f"""
WITH moved AS (
    UPDATE isthmus_workload AS w
    SET {_REQUEUED}
    FROM unnest($1::uuid[], $2::bigint[]) AS s(id, fence)
    WHERE w.id = s.id AND w.fence = s.fence AND w.state = 'leased' AND ($3::uuid IS NULL OR w.agent_id = $3)
    RETURNING w.id
), told AS (
    SELECT pg_notify('{QUEUED_CHANNEL}', '') FROM (SELECT FROM moved LIMIT 1) AS any_moved
)
SELECT moved.id, (SELECT count(*) FROM told) FROM moved
"""

_STANDING: Final = """
SELECT id, state, fence, agent_id, started_at IS NOT NULL AS started FROM isthmus_workload WHERE id = ANY($1::uuid[])
"""

# Only leases of which a quarter is over are written: a running lease of 120 s costs a write in 30 s and not one with
# every heartbeat. Rows that somebody else has locked are skipped, so this never waits and never deadlocks.
_EXTEND: Final = """
WITH held AS (
    SELECT w.id, w.fence, w.agent_id, w.lease_expires_at,
           CASE WHEN w.state = 'running' THEN $5::float ELSE $4::float END * interval '1 second' AS span
    FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]) AS h(agent_id, id, fence)
    JOIN isthmus_workload AS w ON w.id = h.id AND w.fence = h.fence AND w.agent_id = h.agent_id
    WHERE w.state IN ('leased', 'running')
), due AS (
    SELECT w.id, held.span
    FROM held
    JOIN isthmus_workload AS w ON w.id = held.id AND w.fence = held.fence AND w.agent_id = held.agent_id
    WHERE w.state IN ('leased', 'running') AND held.lease_expires_at < now() + 0.75 * held.span
    FOR UPDATE OF w SKIP LOCKED
), extended AS (
    UPDATE isthmus_workload AS w SET lease_expires_at = now() + due.span FROM due WHERE w.id = due.id
)
SELECT agent_id, id, fence FROM held
"""

_HELD: Final = """
SELECT id, fence, agent_id, kind, state = 'running' AS started, subject_id, payload, cancel_requested
FROM isthmus_workload
WHERE id = $1 AND state IN ('leased', 'running') AND agent_id IS NOT NULL
"""

_EXPIRE_LEASED: Final = f"""
WITH overdue AS (
    SELECT id FROM isthmus_workload
    WHERE state = 'leased' AND lease_expires_at < now()
    ORDER BY lease_expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
), moved AS (
    UPDATE isthmus_workload AS w SET {_REQUEUED} FROM overdue WHERE w.id = overdue.id RETURNING w.id
), told AS (
    SELECT pg_notify('{QUEUED_CHANNEL}', '') FROM (SELECT FROM moved LIMIT 1) AS any_moved
)
SELECT moved.id, (SELECT count(*) FROM told) FROM moved
"""

# The one place where this package reads a table of Airflow's: ``task_instance`` with ``id`` (uuid) and
# ``last_heartbeat_at``, as Airflow 3.3 has them. Look here first when Airflow's schema changes.
_EXPIRE_RUNNING: Final = f"""
WITH overdue AS (
    SELECT id,
           CASE WHEN kind = 'task' AND subject_id ~ '^[0-9a-fA-F-]{{36}}$' THEN subject_id::uuid END AS task_instance_id
    FROM isthmus_workload
    WHERE state = 'running' AND lease_expires_at < now()
    ORDER BY lease_expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
), judged AS (
    SELECT overdue.id, t.last_heartbeat_at + $2 * interval '1 second' AS alive_until
    FROM overdue
    LEFT JOIN task_instance AS t ON t.id = overdue.task_instance_id
        AND t.last_heartbeat_at + $2 * interval '1 second' > now()
), moved AS (
    UPDATE isthmus_workload AS w
    SET state = CASE WHEN judged.alive_until IS NULL THEN 'lost' ELSE 'running' END,
        lease_expires_at = judged.alive_until,
        settled_at = CASE WHEN judged.alive_until IS NULL THEN now() END,
        detail = CASE WHEN judged.alive_until IS NULL THEN $3 ELSE w.detail END,
        unseen = w.unseen OR judged.alive_until IS NULL
    FROM judged WHERE w.id = judged.id
    RETURNING w.id, w.state
), told AS (
    SELECT pg_notify('{SCHEDULER_CHANNEL}', '') FROM (SELECT FROM moved WHERE state = 'lost' LIMIT 1) AS any_lost
)
SELECT moved.state, (SELECT count(*) FROM told) FROM moved
"""

_ABANDON_LEASED: Final = f"""
WITH moved AS (
    UPDATE isthmus_workload AS w SET {_REQUEUED}
    WHERE w.agent_id = ANY($1::uuid[]) AND w.state = 'leased'
    RETURNING w.id
), told AS (
    SELECT pg_notify('{QUEUED_CHANNEL}', '') FROM (SELECT FROM moved LIMIT 1) AS any_moved
)
SELECT moved.id, (SELECT count(*) FROM told) FROM moved
"""

_ABANDON_RUNNING: Final = f"""
WITH moved AS (
    UPDATE isthmus_workload AS w
    SET state = 'lost', lease_expires_at = NULL, settled_at = now(), detail = $2, unseen = true
    WHERE w.agent_id = ANY($1::uuid[]) AND w.state = 'running'
    RETURNING w.id
), told AS (
    SELECT pg_notify('{SCHEDULER_CHANNEL}', '') FROM (SELECT FROM moved LIMIT 1) AS any_moved
)
SELECT moved.id, (SELECT count(*) FROM told) FROM moved
"""

_CANCEL: Final = f"""
WITH moved AS (
    UPDATE isthmus_workload AS w
    SET cancel_requested = true,
        state = CASE WHEN w.state = 'running' THEN 'running' ELSE 'cancelled' END,
        lease_expires_at = CASE WHEN w.state = 'running' THEN w.lease_expires_at END,
        settled_at = CASE WHEN w.state = 'running' THEN NULL ELSE now() END,
        unseen = w.unseen OR w.state <> 'running'
    WHERE w.id = ANY($1::uuid[]) AND w.state IN ('queued', 'leased', 'running')
    RETURNING w.id, w.state
), told AS (
    SELECT pg_notify(channel, '')
    FROM (
        SELECT DISTINCT CASE WHEN state = 'running' THEN '{AGENTS_CHANNEL}' ELSE '{SCHEDULER_CHANNEL}' END AS channel
        FROM moved
    ) AS channels
)
SELECT moved.id, (SELECT count(*) FROM told) FROM moved
"""

_LARGEST_EXIT_CODE: Final = 2**31 - 1


async def select_queued(connection: Connection, wanted: Mapping[str, int]) -> list[QueuedRow]:
    """Lock up to ``wanted[queue]`` queued rows of each queue, best first, skipping what others have locked.

    Must run in a transaction: the locks end with it.
    """
    rows = await connection.fetch(_SELECT_QUEUED, list(wanted), list(wanted.values()))
    return [QueuedRow(row["id"], row["queue"], row["priority"], row["queued_at"]) for row in rows]


async def claim(connection: Connection, pairs: Sequence[tuple[QueuedRow, Claim]], times: LeaseTimes) -> list[LeasedRow]:
    """Lease each row to its claim's agent. A row whose agent is gone, cordoned, draining or left stays queued."""
    rows = await connection.fetch(
        _CLAIM,
        [row.workload_id for row, _ in pairs],
        [claim.agent_id for _, claim in pairs],
        [claim.claim_id for _, claim in pairs],
        times.lease_seconds,
    )
    order = {row.workload_id: place for place, (row, _) in enumerate(pairs)}
    return sorted((_leased(row, times) for row in rows), key=lambda leased: order[leased.workload_id])


async def leave_queued(connection: Connection) -> None:
    """Tell the dispatchers to look again: rows that were locked are still queued, and others have skipped them."""
    await connection.execute(f"SELECT pg_notify('{QUEUED_CHANNEL}', '')")


async def repeat(database: Database, agent_id: UUID, claim_id: UUID, times: LeaseTimes) -> list[LeasedRow]:
    """What is leased and not yet started under ``claim_id``, with the lease begun anew."""
    rows = await database.fetch(_REPEAT, agent_id, claim_id, times.lease_seconds)
    return [_leased(row, times) for row in rows]


async def start(database: Database, agent_id: UUID, leases: Sequence[Lease], times: LeaseTimes) -> list[bool]:
    """For each lease: may its agent start the workload? True again when the same lease asks again.

    False when the fence is old, the lease has ended, or the workload was cancelled.
    """
    asked = _ordered(leases)
    rows = await database.fetch(
        _START,
        agent_id,
        [lease.workload_id for lease in asked],
        [lease.fence for lease in asked],
        times.running_lease_seconds,
    )
    confirmed = {Lease(row["id"], row["fence"]) for row in rows}
    return [lease in confirmed for lease in leases]


async def settle(database: Database, agent_id: UUID, reports: Sequence[Report]) -> list[SettleVerdict]:
    """Take the outcomes in; one verdict per report, in the same order.

    A started workload can succeed or fail, an unstarted one can be released; any other report is stale. Of two reports
    on one workload in the same call the first counts.
    """
    firsts: dict[UUID, int] = {}
    for place, report in enumerate(reports):
        firsts.setdefault(report.workload_id, place)
    taken = sorted((reports[place] for place in firsts.values()), key=lambda report: report.workload_id)
    moved: set[UUID] = set()
    if ended := [report for report in taken if report.outcome is not Outcome.RELEASED]:
        rows = await database.fetch(
            _SETTLE,
            agent_id,
            [report.workload_id for report in ended],
            [report.fence for report in ended],
            [report.outcome.value for report in ended],
            [_storable(report.exit_code) for report in ended],
            [plain_text(report.detail) for report in ended],
        )
        moved |= {row["id"] for row in rows}
    if released := [report for report in taken if report.outcome is Outcome.RELEASED]:
        moved |= await _release(database, [Lease(report.workload_id, report.fence) for report in released], agent_id)
    settled_now = {place for workload_id, place in firsts.items() if workload_id in moved}
    if len(settled_now) == len(reports):
        return [SettleVerdict.SETTLED] * len(reports)
    standing = {row["id"]: row for row in await database.fetch(_STANDING, list(firsts))}
    return [
        SettleVerdict.SETTLED
        if place in settled_now
        else _verdict_on_unmoved(report, agent_id, standing.get(report.workload_id))
        for place, report in enumerate(reports)
    ]


async def release(database: Database, leases: Sequence[Lease]) -> int:
    """Give back leases that the plane itself could not deliver. Returns how many were still unstarted."""
    return len(await _release(database, leases, None))


async def extend(database: Database, heartbeats: Collection[Heartbeat], times: LeaseTimes) -> set[Heartbeat]:
    """Extend what is still held, all agents in one statement. Returns the heartbeats whose lease is still held."""
    rows = await database.fetch(
        _EXTEND,
        [beat.agent_id for beat in heartbeats],
        [beat.workload_id for beat in heartbeats],
        [beat.fence for beat in heartbeats],
        times.lease_seconds,
        times.running_lease_seconds,
    )
    return {Heartbeat(row["agent_id"], row["id"], row["fence"]) for row in rows}


async def held(database: Database, workload_id: UUID) -> HeldRow | None:
    """The workload if it is under a lease now, else None."""
    row = await database.fetchrow(_HELD, workload_id)
    if row is None:
        return None
    return HeldRow(
        workload_id=row["id"],
        fence=row["fence"],
        agent_id=row["agent_id"],
        kind=Kind(row["kind"]),
        started=row["started"],
        subject_id=row["subject_id"],
        payload=row["payload"],
        cancel_requested=row["cancel_requested"],
    )


async def expire(database: Database, times: LeaseTimes, *, leased: bool, running: bool, limit: int = 500) -> Ended:
    """End leases whose time is over: unstarted ones if ``leased``, started ones if ``running``; ``limit`` of each.

    A started task that itself still heartbeats to Airflow is kept. Two statements: not one transaction on a pool.
    """
    requeued = lost = kept = 0
    if leased:
        requeued = len(await database.fetch(_EXPIRE_LEASED, limit))
    if running:
        reason = "The agent stopped reporting and the lease ended."
        rows = await database.fetch(_EXPIRE_RUNNING, limit, times.running_lease_seconds, reason)
        lost = sum(row["state"] == "lost" for row in rows)
        kept = len(rows) - lost
    return Ended(requeued, lost, kept)


async def abandon(connection: Connection, agent_ids: Iterable[UUID], reason: str) -> Ended:
    """End every lease of the agents at once: nothing that they held is alive. For use in a transaction."""
    agents = list(agent_ids)
    requeued = await connection.fetch(_ABANDON_LEASED, agents)
    lost = await connection.fetch(_ABANDON_RUNNING, agents, reason)
    return Ended(len(requeued), len(lost))


async def cancel(database: Database, workload_ids: Sequence[UUID]) -> int:
    """Cancel what has not started; ask what runs to stop. Returns how many were not settled yet."""
    return len(await database.fetch(_CANCEL, sorted(workload_ids)))


async def _release(database: Database, leases: Sequence[Lease], agent_id: UUID | None) -> set[UUID]:
    asked = _ordered(leases)
    rows = await database.fetch(
        _RELEASE, [lease.workload_id for lease in asked], [lease.fence for lease in asked], agent_id
    )
    return {row["id"] for row in rows}


def _storable(exit_code: int | None) -> int | None:
    """An exit code that the column holds; no process has one that it does not hold."""
    return exit_code if exit_code is not None and abs(exit_code) <= _LARGEST_EXIT_CODE else None


def _ordered(leases: Iterable[Lease]) -> list[Lease]:
    """In the order of ids: statements that lock rows in one order do not deadlock."""
    return sorted(set(leases), key=lambda lease: (lease.workload_id, lease.fence))


def _leased(row: Record, times: LeaseTimes) -> LeasedRow:
    return LeasedRow(
        workload_id=row["id"],
        fence=row["fence"],
        agent_id=row["agent_id"],
        claim_id=row["claim_id"],
        kind=Kind(row["kind"]),
        queue=row["queue"],
        display_name=row["display_name"],
        subject_id=row["subject_id"],
        payload=row["payload"],
        lease_seconds=times.lease_seconds,
        waited_seconds=row["waited_seconds"],
    )


def _verdict_on_unmoved(report: Report, agent_id: UUID, row: Record | None) -> SettleVerdict:
    """Why a report changed nothing: it came before (duplicate), or it is not this lease's to make (stale)."""
    if row is None or row["fence"] != report.fence:
        return SettleVerdict.STALE
    if report.outcome is Outcome.RELEASED:
        return SettleVerdict.DUPLICATE if row["state"] == "queued" else SettleVerdict.STALE
    settled_by_agent = row["state"] in {"succeeded", "failed"} or (row["state"] == "cancelled" and row["started"])
    return SettleVerdict.DUPLICATE if settled_by_agent and row["agent_id"] == agent_id else SettleVerdict.STALE
