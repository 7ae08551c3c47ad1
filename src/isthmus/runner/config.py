"""The fork server's settings: what its command line says, and nothing from anywhere else."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from isthmus.kit.processes import User


class Shortcut(StrEnum):
    """What the runner does to be quick. Each can be left out (``--without``) to measure what it is worth."""

    #: End the supervisor's wait by the child's pidfd (``pidfds``).
    PIDFD = "pidfd"
    #: Fill caches and rehearse before the first fork (``warming``).
    WARMING = "warming"
    #: Keep supervisors ready for workloads to come (``launching``).
    SPARES = "spares"
    #: Let a supervisor run one task after another (``launching``).
    REUSE = "reuse"
    #: Fork tasks from the fork server, to whose memory nobody writes, instead of from supervisors (``forking``).
    PRISTINE = "pristine"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerConfig:
    """Exactly one of ``socket_fd`` and ``socket_path`` is set."""

    #: An inherited, connected UNIX stream socket: the control process is at its other end.
    socket_fd: int | None = None
    #: Where to listen instead, for a control process in another container or systemd unit.
    socket_path: Path | None = None
    #: Who may connect to ``socket_path``; the runner's own user unless given.
    control_user: User | None = None
    #: A descriptor that stays open for as long as the fork server or a supervisor lives.
    lock_fd: int | None = None
    #: Supervisors kept ready on an idle agent: two take a pair of tasks at once. Each holds a few MiB of its own.
    spares: int = 2
    #: Modules to import before the first fork, for DAGs that all import the same heavy library.
    preload: tuple[str, ...] = ()
    without: frozenset[Shortcut] = field(default_factory=frozenset)
