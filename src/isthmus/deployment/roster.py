"""The agents that this process knows: enrolment, heartbeats, and the commands that go back.

A heartbeat is answered from memory at once; ``flush`` writes all that were gathered, once a second, in one statement for the
agents, one for their leases and one for the tokens that were used. Flags and cancellations come back with the flush and
whenever the agents channel is notified, so that the next answer carries them.

Invariants: an agent's name has one instance at a time, and a replaced instance's leases end in the transaction that replaces
it; what could not be written is kept and written later, newest first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from isthmus.deployment.leasing import Lease, LeaseTimes
from isthmus.deployment.pooling import Pool
from isthmus.deployment.tokens import Token, TokenBook
from isthmus.kit.clocks import Clock, SystemClock
from isthmus.wire.agents import Phase
from isthmus.wire.names import Role


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
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Agent:
    """An enrolled agent, as far as requests need it."""

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

    @property
    def admits_work(self) -> bool:
        """Whether new work may go to the agent."""
        return not self.cordoned and not self.draining and self.phase is Phase.READY


@dataclass(frozen=True, slots=True)
class Beat:
    """One heartbeat. ``warnings`` and ``probe_report`` are JSON values; None keeps the last probe report."""

    phase: Phase = Phase.READY
    slots_used: int = 0
    leases: tuple[Lease, ...] = ()
    warnings: Sequence[Mapping[str, Any]] = ()
    probe_report: Mapping[str, Any] | None = None
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Commands:
    """What the plane wants of an agent now: states, not events."""

    cordoned: bool = False
    drain: bool = False
    cancel: tuple[Lease, ...] = ()
    lost: tuple[Lease, ...] = ()


@dataclass(frozen=True, slots=True)
class Flushed:
    """What one flush wrote."""

    agents: int = 0
    leases: int = 0
    lost: int = 0
    tokens: int = 0


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
        self._clock = clock or SystemClock()

    def on_withdrawn(self, callback: Callable[[UUID], None]) -> None:
        """Call ``callback(agent_id)`` when an agent stops taking work: cordoned, draining, replaced, left, removed."""
        raise NotImplementedError

    async def enrol(self, enrolment: Enrolment, token: Token) -> Agent:
        """Let an agent in: a new one, the same instance again, or a new instance in the place of the old.

        Does not check the token's scope (``tokens.check_scope``). Raises PlaneRefusedError(AGENT_NAME_TAKEN) when a
        healthy agent of another role, or of an unrelated token, holds the name; DatabaseError.
        """
        raise NotImplementedError

    async def lookup(self, agent_id: UUID, instance_id: UUID, token_id: str) -> Agent:
        """The agent, from memory or else from the database.

        Raises PlaneRefusedError: AGENT_UNKNOWN when it is not enrolled or belongs to an unrelated token,
        AGENT_REPLACED when another instance has taken its name; DatabaseError.
        """
        raise NotImplementedError

    async def find(self, agent_id: UUID) -> Agent | None:
        """The agent whatever its instance, from memory or else from the database. Raises DatabaseError."""
        raise NotImplementedError

    def heartbeat(self, agent: Agent, beat: Beat) -> Commands:
        """Take a heartbeat in; it is written by the next flush. The answer comes from memory."""
        raise NotImplementedError

    async def flush(self) -> Flushed:
        """Write what was gathered. Raises DatabaseError; then everything is kept for the next one."""
        raise NotImplementedError

    async def refresh_commands(self) -> None:
        """Read flags and cancellations of the known agents again. Raises DatabaseError."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Callback of the agents channel: read flags and cancellations again soon."""
        raise NotImplementedError

    async def run(self) -> None:
        """Flush once a second and refresh when asked to, through every outage, until cancelled."""
        raise NotImplementedError

    def writable_seconds(self) -> float:
        """For how long heartbeats have been written without a gap: how far the plane may trust what it has read."""
        raise NotImplementedError
