"""The agents that this process knows: enrolment, heartbeats, and the commands that go back.

A heartbeat is answered from memory at once; ``flush`` writes all that were gathered, once a second, in one statement
for the agents, one for their leases and one for the tokens that were used. Flags and cancellations come back with the
flush and whenever the agents channel is notified, so that the next answer carries them.

Invariants: an agent's name has one instance at a time, and a replaced instance's leases end in the transaction that
replaces it; what could not be written is kept until it can, unless something newer has come.
"""

# ruff: noqa: S608 - values are parameters; what is put into the text are constants of ours.

import asyncio
import dataclasses
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import structlog

from isthmus.deployment import arrivals, leasing, verifications
from isthmus.deployment.arrivals import Arrival
from isthmus.deployment.errors import DatabaseError, PlaneRefusedError, translated
from isthmus.deployment.leasing import Lease, LeaseTimes
from isthmus.deployment.pooling import Connection, Pool, Record, inet_text, json_text
from isthmus.deployment.refreshing import Refresher
from isthmus.deployment.tables import AGENTS_CHANNEL
from isthmus.deployment.tokens import Token, TokenBook, TokenUse
from isthmus.deployment.verifications import Reported
from isthmus.kit import guarding
from isthmus.kit.clocks import Clock, SystemClock
from isthmus.kit.errors import InternalError
from isthmus.wire.agents import Phase, StandbyTerms
from isthmus.wire.names import Role
from isthmus.wire.problems import Code

log = structlog.get_logger(__name__)

#: An agent is healthy until it has missed this many heartbeats.
HEALTHY_HEARTBEATS: Final = 3
FLUSH_SECONDS: Final = 1.0
#: Longer than this without a written flush is a gap: leases may have looked old without an agent's fault.
GAP_SECONDS: Final = 5.0
#: An agent that this process has not heard of for so long is forgotten here, not in the database.
SILENT_SECONDS: Final = 900.0
#: Of so many orders the reports of one agent are kept until the next flush: honest ones have one or two.
REPORTS_AT_ONCE: Final = 4


@dataclass(frozen=True, slots=True)
class Enrolment:
    """An agent that wants to join."""

    name: str
    role: Role
    instance_id: UUID
    queues: tuple[str, ...]
    slots: int
    versions: Mapping[str, str | None]
    labels: Mapping[str, str]
    arrival: Arrival = arrivals.NOWHERE
    group: str | None = None
    standby: StandbyTerms | None = None


@dataclass(frozen=True, slots=True)
class Agent:
    """An enrolled agent, as far as requests need it. ``probes`` is the order whose report is awaited, ``log_order``
    that of its log tail.
    """

    agent_id: UUID
    name: str
    role: Role
    instance_id: UUID
    token_id: str
    queues: frozenset[str]
    slots: int
    phase: Phase = Phase.READY
    cordoned: bool = False
    draining: bool = False
    probes: Mapping[str, Any] | None = None
    log_order: UUID | None = None
    #: Stands by for a group, and has not taken over (``standby``).
    stands_by: bool = False

    @property
    def admits_work(self) -> bool:
        """Whether new work may go to the agent."""
        return not self.cordoned and not self.draining and not self.stands_by and self.phase is Phase.READY


@dataclass(frozen=True, slots=True)
class Beat:
    """One heartbeat. ``warnings`` and ``probe_report`` are JSON values; None keeps the last probe report.

    ``order_id`` is the order that the report answers; None for a report that the agent makes by itself. A report that
    is not ``finished`` has the rows so far.
    """

    phase: Phase = Phase.READY
    slots_used: int = 0
    leases: tuple[Lease, ...] = ()
    warnings: Sequence[Mapping[str, Any]] = ()
    probe_report: Mapping[str, Any] | None = None
    order_id: UUID | None = None
    finished: bool = True
    arrival: Arrival = arrivals.NOWHERE


@dataclass(frozen=True, slots=True)
class Commands:
    """What the plane wants of an agent now: states, not events."""

    cordoned: bool = False
    drain: bool = False
    cancel: tuple[Lease, ...] = ()
    lost: tuple[Lease, ...] = ()
    probes: Mapping[str, Any] | None = None
    fetch_log: UUID | None = None


@dataclass(frozen=True, slots=True)
class Flushed:
    """What one flush wrote."""

    agents: int = 0
    leases: int = 0
    lost: int = 0
    tokens: int = 0


@dataclass(slots=True)
class _Known:
    """What this process remembers of an agent."""

    agent: Agent
    seen_at: float
    #: Leases that the last written heartbeat listed and that are not held any more.
    lost: frozenset[Lease] = frozenset()


_COLUMNS: Final = (
    "id, name, role, instance_id, token_id, queues, slots, phase, cordoned, draining, probes_order, log_order, "
    "standby_for IS NOT NULL AND NOT standby_active AS stands_by"
)

_FIND_BY_NAME: Final = f"""
SELECT {_COLUMNS}, coalesce(last_heartbeat_at, enrolled_at) > now() - $2 * interval '1 second' AS recent
FROM isthmus_agent WHERE name = $1 FOR UPDATE
"""

_INSERT: Final = f"""
INSERT INTO isthmus_agent
    (id, name, role, instance_id, token_id, queues, slots, versions, labels, address, path, link_id,
     group_name, standby_for, standby_seconds, path_since, last_heartbeat_at)
VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, $7, $8::text::jsonb, $9::text::jsonb, $10::text::inet, $11, $12, $13, $14,
    $15, now(), now())
ON CONFLICT (name) DO NOTHING
RETURNING {_COLUMNS}
"""

# A cordon is the operator's word on the name and stays; a drain was meant for the instance that has gone.
_REPLACE: Final = f"""
UPDATE isthmus_agent
SET role = $3, token_id = $5, queues = $6::text::jsonb, slots = $7, versions = $8::text::jsonb,
    labels = $9::text::jsonb, address = $10::text::inet, path = $11, link_id = $12,
    group_name = $13, standby_for = $14, standby_seconds = $15,
    standby_active = standby_active AND standby_for IS NOT DISTINCT FROM $14,
    path_since = CASE WHEN path_since IS NULL OR (path, link_id) IS DISTINCT FROM ($11, $12::bigint) THEN now()
                      ELSE path_since END,
    last_heartbeat_at = now(), phase = 'ready',
    draining = draining AND instance_id = $4,
    enrolled_at = CASE WHEN instance_id = $4 THEN enrolled_at ELSE now() END,
    slots_used = CASE WHEN instance_id = $4 THEN slots_used ELSE 0 END,
    warnings = CASE WHEN instance_id = $4 THEN warnings ELSE '[]' END,
    probe_report = CASE WHEN instance_id = $4 THEN probe_report END,
    instance_id = $4
WHERE id = $1 AND name = $2
RETURNING {_COLUMNS}
"""

_WRITE_BEATS: Final = """
UPDATE isthmus_agent AS a
SET phase = b.phase, slots_used = b.slots_used, warnings = b.warnings::jsonb,
    probe_report = coalesce(b.probe_report::jsonb, a.probe_report),
    probe_reported_at = CASE WHEN b.probe_report IS NULL THEN a.probe_reported_at ELSE now() END,
    probes_order = CASE WHEN (a.probes_order->>'order_id')::uuid IS NOT DISTINCT FROM b.order_id THEN NULL
                        ELSE a.probes_order END,
    address = coalesce(b.address::inet, a.address), path = b.path, link_id = b.link_id,
    path_since = CASE WHEN a.path_since IS NULL OR (a.path, a.link_id) IS DISTINCT FROM (b.path, b.link_id) THEN now()
                      ELSE a.path_since END,
    last_heartbeat_at = now()
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::int[], $5::text[], $6::text[], $7::text[], $8::uuid[], $9::text[],
            $10::bigint[])
    AS b(id, instance_id, phase, slots_used, warnings, probe_report, address, order_id, path, link_id)
WHERE a.id = b.id AND a.instance_id = b.instance_id
RETURNING a.id, a.cordoned, a.draining, a.probes_order, a.log_order,
          a.standby_for IS NOT NULL AND NOT a.standby_active AS stands_by
"""

_WRITE_USES: Final = """
UPDATE isthmus_token AS t
SET last_used_at = GREATEST(t.last_used_at, u.used_at),
    last_used_address = coalesce(u.address::inet, t.last_used_address)
FROM unnest($1::text[], $2::timestamptz[], $3::text[]) AS u(id, used_at, address)
WHERE t.id = u.id
"""

_CANCELLING: Final = """
SELECT agent_id, id, fence FROM isthmus_workload
WHERE cancel_requested AND state IN ('leased', 'running') AND agent_id IS NOT NULL
"""

_FLAGS: Final = """
SELECT id, instance_id, phase, cordoned, draining, probes_order, log_order,
       standby_for IS NOT NULL AND NOT standby_active AS stands_by
FROM isthmus_agent WHERE id = ANY($1::uuid[])
"""


class Roster:
    """The agents known to this process."""

    def __init__(
        self,
        pool: Pool,
        tokens: TokenBook,
        times: LeaseTimes,
        *,
        heartbeat_seconds: float = 10.0,
        clock: Clock | None = None,
    ) -> None:
        self._pool = pool
        self._tokens = tokens
        self._times = times
        self._healthy_seconds = HEALTHY_HEARTBEATS * heartbeat_seconds
        self._clock = clock or SystemClock()
        self._known: dict[UUID, _Known] = {}
        self._gathered: dict[UUID, tuple[Agent, Beat]] = {}
        #: Of each agent, by order: a report that is finished is not forgotten for the rows of the next.
        self._reports: dict[UUID, dict[UUID | None, Reported]] = {}
        self._cancels: dict[UUID, tuple[Lease, ...]] = {}
        self._withdrawn: list[Callable[[UUID], None]] = []
        self._trusted_since: float | None = None
        self._written_at = float("-inf")
        self._flushing = asyncio.Lock()
        self._refresher = Refresher("agents", self.refresh_commands)

    def on_withdrawn(self, callback: Callable[[UUID], None]) -> None:
        """Call ``callback(agent_id)`` when an agent stops taking work: cordoned, draining, replaced, left, removed."""
        self._withdrawn.append(callback)

    async def enrol(self, enrolment: Enrolment, token: Token) -> Agent:
        """Let an agent in: a new one, the same instance again, or a new instance in the place of the old.

        Does not check the token's scope (``tokens.check_scope``). Raises PlaneRefusedError(AGENT_NAME_TAKEN) when a
        healthy agent of another role, or of an unrelated token, holds the name; DatabaseError.
        """
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                row, replaced = await self._enrol(connection, enrolment, token)
        agent = _agent(row)
        if replaced:
            self._withdraw(agent.agent_id)
            self._gathered.pop(agent.agent_id, None)
        self._known[agent.agent_id] = _Known(agent, self._clock.monotonic())
        return agent

    async def lookup(self, agent_id: UUID, instance_id: UUID, token_id: str) -> Agent:
        """The agent, from memory or else from the database.

        Raises PlaneRefusedError: AGENT_UNKNOWN when it is not enrolled or belongs to an unrelated token,
        AGENT_REPLACED when another instance has taken its name; DatabaseError.
        """
        known = self._known.get(agent_id)
        agent = known.agent if known is not None and known.agent.instance_id == instance_id else None
        if agent is None:
            agent = await self._read(agent_id)
        if agent is None or not self._tokens.related(agent.token_id, token_id):
            raise PlaneRefusedError(Code.AGENT_UNKNOWN)
        if agent.instance_id != instance_id:
            raise PlaneRefusedError(
                Code.AGENT_REPLACED, f"The agent {agent.name!r} runs as another process since this one enrolled."
            )
        return agent

    async def find(self, agent_id: UUID) -> Agent | None:
        """The agent whatever its instance, from memory or else from the database. Raises DatabaseError."""
        known = self._known.get(agent_id)
        return known.agent if known is not None else await self._read(agent_id)

    def heartbeat(self, agent: Agent, beat: Beat) -> Commands:
        """Take a heartbeat in; it is written by the next flush. The answer comes from memory."""
        known = self._known.get(agent.agent_id)
        if known is None:
            known = self._known[agent.agent_id] = _Known(agent, 0.0)
        if known.agent.instance_id != agent.instance_id:  # replaced since it was looked up: its next request learns it
            return Commands()
        known.seen_at = self._clock.monotonic()
        beat = self._take_report(known.agent, beat)
        before = self._gathered.get(agent.agent_id)
        if before is not None and beat.probe_report is None:
            beat = dataclasses.replace(beat, probe_report=before[1].probe_report, order_id=before[1].order_id)
        self._gathered[agent.agent_id] = (known.agent, beat)
        if beat.phase is not known.agent.phase:
            known.agent = dataclasses.replace(known.agent, phase=beat.phase)
            if not known.agent.admits_work:
                self._withdraw(agent.agent_id)
        return Commands(
            cordoned=known.agent.cordoned,
            drain=known.agent.draining,
            cancel=self._cancels.get(agent.agent_id, ()),
            lost=tuple(lease for lease in beat.leases if lease in known.lost),
            probes=known.agent.probes,
            fetch_log=known.agent.log_order,
        )

    def _take_report(self, agent: Agent, beat: Beat) -> Beat:
        """Keep the beat's report for the history; the beat without it unless it is finished."""
        if beat.probe_report is None:
            return beat
        kept = self._reports.setdefault(agent.agent_id, {})
        present = kept.get(beat.order_id)
        if len(kept) < REPORTS_AT_ONCE if present is None else not present.finished:
            kept[beat.order_id] = Reported(
                agent.agent_id, agent.instance_id, beat.order_id, beat.probe_report, beat.finished
            )
        return beat if beat.finished else dataclasses.replace(beat, probe_report=None, order_id=None)

    async def flush(self) -> Flushed:
        """Write what was gathered. Raises DatabaseError; then everything is kept for the next one."""
        async with self._flushing:
            gathered, self._gathered = self._gathered, {}
            reports, self._reports = self._reports, {}
            uses = self._tokens.take_uses()
            try:
                with translated():
                    async with self._pool.acquire() as connection:
                        flushed = await self._write(connection, gathered, reports, uses)
            except BaseException:
                self._gathered = gathered | self._gathered
                for agent_id, kept in reports.items():
                    self._reports[agent_id] = kept | self._reports.get(agent_id, {})
                self._tokens.give_back_uses(uses)
                raise
            self._note_written()
            return flushed

    async def refresh_commands(self) -> None:
        """Read flags and cancellations of the known agents again. Raises DatabaseError."""
        self._forget_silent()
        asked = dict(self._known)
        with translated():
            rows = await self._pool.fetch(_FLAGS, list(asked))
            cancelling = await self._pool.fetch(_CANCELLING)
        current = {row["id"]: row for row in rows}
        for agent_id, known in asked.items():
            row = current.get(agent_id)
            if self._known.get(agent_id) is not known:
                continue  # enrolled anew while the database was asked: newer than the answer
            if row is None or row["instance_id"] != known.agent.instance_id:
                self._drop(agent_id)
            else:
                self._put_flags(known, row)
        self._put_cancels(cancelling)

    def refresh(self) -> None:
        """Callback of the agents channel: read flags and cancellations again soon."""
        self._refresher.request()

    async def run(self) -> None:
        """Flush once a second and refresh when asked to, through every outage, until cancelled."""
        async with asyncio.TaskGroup() as group:
            guarding.start(group, "roster.flush", self._flush_forever())
            guarding.start(group, "roster.refresh", self._refresher.run())

    def writable_seconds(self) -> float:
        """For how long heartbeats have been written without a gap: how far the plane may trust what it has read."""
        now = self._clock.monotonic()
        if self._trusted_since is None or now - self._written_at > GAP_SECONDS:
            return 0.0
        return now - self._trusted_since

    async def _flush_forever(self) -> None:
        failing = False
        while True:
            await self._clock.sleep(FLUSH_SECONDS)
            try:
                await self.flush()
            except DatabaseError as error:
                if not failing:
                    log.warning("heartbeats cannot be written; keeping them", why=str(error))
                failing = True
            else:
                if failing:
                    log.info("heartbeats are written again")
                failing = False

    async def _enrol(self, connection: Connection, enrolment: Enrolment, token: Token) -> tuple[Record, bool]:
        """The agent's row, and whether it took the place of another instance."""
        values = (
            enrolment.name,
            enrolment.role.value,
            enrolment.instance_id,
            token.token_id,
            json_text(list(enrolment.queues)),
            enrolment.slots,
            json_text(dict(enrolment.versions)),
            json_text(dict(enrolment.labels)),
            inet_text(enrolment.arrival.address),
            enrolment.arrival.path.value,
            enrolment.arrival.link_id,
            enrolment.group,
            None if enrolment.standby is None else enrolment.standby.for_group,
            0.0 if enrolment.standby is None else enrolment.standby.after_seconds,
        )
        while True:
            present = await connection.fetchrow(_FIND_BY_NAME, enrolment.name, self._healthy_seconds)
            if present is not None:
                break
            inserted = await connection.fetchrow(_INSERT, uuid.uuid4(), *values)
            if inserted is not None:
                return inserted, False
        replaces = present["instance_id"] != enrolment.instance_id
        if replaces:
            self._check_name(present, enrolment, token)
            await leasing.abandon(connection, [present["id"]], "The agent was started again while this ran.")
        updated = await connection.fetchrow(_REPLACE, present["id"], *values)
        if updated is None:
            raise InternalError("an agent's row vanished under its lock", code="agent_vanished")
        if replaces:
            await connection.execute("SELECT pg_notify($1, '')", AGENTS_CHANNEL)
        return updated, replaces

    def _check_name(self, present: Record, enrolment: Enrolment, token: Token) -> None:
        """Raise AGENT_NAME_TAKEN unless the enrolment may take the place of what is present."""
        if not present["recent"] or present["phase"] == Phase.LEFT:
            return
        if present["role"] != enrolment.role:
            raise PlaneRefusedError(
                Code.AGENT_NAME_TAKEN, f"A healthy {present['role']} agent is called {enrolment.name!r}."
            )
        if not self._tokens.related(present["token_id"], token.token_id):
            raise PlaneRefusedError(
                Code.AGENT_NAME_TAKEN, f"A healthy agent with another token is called {enrolment.name!r}."
            )

    async def _read(self, agent_id: UUID) -> Agent | None:
        with translated():
            row = await self._pool.fetchrow(f"SELECT {_COLUMNS} FROM isthmus_agent WHERE id = $1", agent_id)
        if row is None:
            self._drop(agent_id)
            return None
        agent = _agent(row)
        known = self._known.get(agent_id)
        if known is not None and known.agent.instance_id != agent.instance_id:
            self._drop(agent_id)
        self._known[agent_id] = _Known(agent, self._clock.monotonic())
        return agent

    async def _write(
        self,
        connection: Connection,
        gathered: dict[UUID, tuple[Agent, Beat]],
        reports: dict[UUID, dict[UUID | None, Reported]],
        uses: list[TokenUse],
    ) -> Flushed:
        """The statements of a flush. Each stands alone: what an agent reports is as true without the rest."""
        leases = lost = 0
        if gathered:
            await self._write_beats(connection, gathered)
            leases, lost = await self._extend(connection, gathered)
            left = [agent_id for agent_id, (_, beat) in gathered.items() if beat.phase is Phase.LEFT]
            if left:
                async with connection.transaction():
                    await leasing.abandon(connection, left, "The agent left.")
        if reports:
            await verifications.record(connection, [one for kept in reports.values() for one in kept.values()])
        if uses:
            await connection.execute(
                _WRITE_USES,
                [use.token_id for use in uses],
                [use.used_at for use in uses],
                [inet_text(use.address) for use in uses],
            )
        self._put_cancels(await connection.fetch(_CANCELLING))
        return Flushed(agents=len(gathered), leases=leases, lost=lost, tokens=len(uses))

    async def _write_beats(self, connection: Connection, gathered: dict[UUID, tuple[Agent, Beat]]) -> None:
        ordered = sorted(gathered.items())
        beats = [beat for _, (_, beat) in ordered]
        rows = await connection.fetch(
            _WRITE_BEATS,
            [agent_id for agent_id, _ in ordered],
            [agent.instance_id for _, (agent, _) in ordered],
            [beat.phase.value for beat in beats],
            [beat.slots_used for beat in beats],
            [json_text(list(beat.warnings)) for beat in beats],
            [None if beat.probe_report is None else json_text(beat.probe_report) for beat in beats],
            [inet_text(beat.arrival.address) for beat in beats],
            [beat.order_id for beat in beats],
            [beat.arrival.path.value for beat in beats],
            [beat.arrival.link_id for beat in beats],
        )
        written = {row["id"]: row for row in rows}
        for agent_id, (agent, _) in ordered:
            known = self._known.get(agent_id)
            if known is None or known.agent.instance_id != agent.instance_id:
                continue
            row = written.get(agent_id)
            if row is None:  # removed, or replaced at another process
                self._drop(agent_id)
            else:
                self._put_flags(known, row)

    async def _extend(self, connection: Connection, gathered: dict[UUID, tuple[Agent, Beat]]) -> tuple[int, int]:
        reported = {
            leasing.Heartbeat(agent_id, lease.workload_id, lease.fence)
            for agent_id, (_, beat) in gathered.items()
            for lease in beat.leases
        }
        held = await leasing.extend(connection, reported, self._times) if reported else set()
        lost: dict[UUID, set[Lease]] = {}
        for beat in reported - held:
            lost.setdefault(beat.agent_id, set()).add(Lease(beat.workload_id, beat.fence))
        for agent_id in gathered:
            if (known := self._known.get(agent_id)) is not None:
                known.lost = frozenset(lost.get(agent_id, ()))
        return len(held), len(reported) - len(held)

    def _put_flags(self, known: _Known, row: Record) -> None:
        agent = known.agent
        current = dataclasses.replace(
            agent,
            cordoned=row["cordoned"],
            draining=row["draining"],
            probes=row["probes_order"],
            log_order=row["log_order"],
            stands_by=row["stands_by"],
        )
        if current == agent:
            return
        known.agent = current
        if agent.admits_work and not current.admits_work:
            self._withdraw(known.agent.agent_id)

    def _put_cancels(self, rows: list[Record]) -> None:
        cancels: dict[UUID, tuple[Lease, ...]] = {}
        for row in rows:
            cancels[row["agent_id"]] = (*cancels.get(row["agent_id"], ()), Lease(row["id"], row["fence"]))
        self._cancels = cancels

    def _note_written(self) -> None:
        now = self._clock.monotonic()
        if self._trusted_since is None or now - self._written_at > GAP_SECONDS:
            self._trusted_since = now
        self._written_at = now

    def _drop(self, agent_id: UUID) -> None:
        if self._known.pop(agent_id, None) is not None:
            self._withdraw(agent_id)

    def _withdraw(self, agent_id: UUID) -> None:
        for callback in self._withdrawn:
            callback(agent_id)

    def _forget_silent(self) -> None:
        """Agents that have gone, or talk to another process now, need not be remembered here."""
        earliest = self._clock.monotonic() - SILENT_SECONDS
        for agent_id in [agent_id for agent_id, known in self._known.items() if known.seen_at < earliest]:
            self._known.pop(agent_id)


def _agent(row: Record) -> Agent:
    return Agent(
        agent_id=row["id"],
        name=row["name"],
        role=Role(row["role"]),
        instance_id=row["instance_id"],
        token_id=row["token_id"],
        queues=frozenset(row["queues"]),
        slots=row["slots"],
        phase=Phase(row["phase"]),
        cordoned=row["cordoned"],
        draining=row["draining"],
        probes=row["probes_order"],
        log_order=row["log_order"],
        stands_by=row["stands_by"],
    )
