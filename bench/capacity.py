"""What one API process can carry: heartbeats beside edge3's endpoint, and many agents at once.

The server has one core to itself, PostgreSQL and the load generator share the other, so the figure is what a core of
the server is worth. Both heartbeat endpoints get the same generator with the same sixteen connections one after the
other; edge3's over plain HTTP, ours over TLS as it ships.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bench import components, measuring, places, services, stacks
from isthmus.kit import processes

#: Heartbeats come from this many workers or agents in turn.
SENDERS = 50
CONNECTIONS = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is asked of the API."""

    agents: int = 2000
    heartbeat_seconds: float = 8.0
    settle_seconds: float = 12.0
    idle_seconds: float = 30.0
    dispatch_seconds: float = 20.0
    rate: float = 50.0

    @classmethod
    def quick(cls) -> "Plan":
        """As many agents, for a shorter time."""
        return cls(heartbeat_seconds=4.0, settle_seconds=6.0, idle_seconds=10.0, dispatch_seconds=6.0)


@dataclass(frozen=True, slots=True)
class Cores:
    """Which cores the server and everything else use; both the same where there is only one."""

    server: list[int]
    rest: list[int]

    @classmethod
    def split(cls) -> "Cores":
        """The first core that we may use is the server's."""
        available = sorted(os.sched_getaffinity(0))
        return cls(available[:1], available[1:] or available)


def edge_heartbeats(database: services.Database, plan: Plan, *, spared: set[int]) -> dict[str, Any]:
    """Heartbeats a second that edge3's endpoint takes in one API server process."""
    cores = Cores.split()
    stack = stacks.EdgeStack(database)
    stack.create()
    try:
        stack.start_api(cores.server)
        requests = subprocess.run(
            [sys.executable, "-m", "bench.edge_requests", stack.url, str(SENDERS)],
            env=stack.environment,
            cwd=places.ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        task = {
            **_beating(plan, stack.api_port, stack.components["api-server"].pid, database),
            "requests": json.loads(requests),
        }
        return _generate(task, cores, database)
    finally:
        stack.stop(spared=spared)


def remote_api(database: services.Database, plan: Plan, *, spared: set[int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same for the Remote Execution API, and then what it does with many agents."""
    cores = Cores.split()
    stack = stacks.RemoteStack(database)
    stack.create()
    try:
        api = stack.start_remote_api(cores.server)
        door = {
            "ca": str(stack.made.ca_certificate),
            "prefix": f"/{stack.made.config.deployment_id}",
            "token": stack.create_token(),
        }
        heartbeats = _generate(_beating(plan, stack.made.config.listen_port, api.pid, database) | door, cores, database)
        task = {
            "action": "simulate",
            "host": "127.0.0.1",
            "port": stack.made.config.listen_port,
            **door,
            "dsn": database.dsn(stack.database_name),
            "agents": plan.agents,
            "settle_seconds": plan.settle_seconds,
            "idle_seconds": plan.idle_seconds,
            "dispatch_seconds": plan.dispatch_seconds,
            "rate": plan.rate,
            "pids": {"api": api.pid, "postgresql": database.pid},
        }
        return heartbeats, _generate(task, cores, database)
    finally:
        stack.stop(spared=spared)


def _beating(plan: Plan, port: int, api_pid: int, database: services.Database) -> dict[str, Any]:
    return {
        "action": "beat",
        "host": "127.0.0.1",
        "port": port,
        "ca": None,
        "prefix": "",
        "token": "",
        "agents": SENDERS,
        "connections": CONNECTIONS,
        "warm_up_seconds": 1.0,
        "seconds": plan.heartbeat_seconds,
        "pids": {"api": api_pid, "postgresql": database.pid},
        "requests": [],
    }


def _generate(task: dict[str, Any], cores: Cores, database: services.Database) -> dict[str, Any]:
    """Run the load generator and return what it saw. Raises ComponentError."""
    _move([database.pid, *measuring.descendants(measuring.process_table(), database.pid)], cores.rest)
    parent = os.getpid()

    def prepare() -> None:
        processes.die_with_parent(parent)
        os.sched_setaffinity(0, cores.rest)

    try:
        ended = subprocess.run(
            [sys.executable, "-m", "bench.load"],
            input=json.dumps(task),
            cwd=places.ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
            preexec_fn=prepare,
        )
    finally:
        everywhere = sorted(os.sched_getaffinity(0))
        _move([database.pid, *measuring.descendants(measuring.process_table(), database.pid)], everywhere)
    if ended.returncode:
        raise components.ComponentError(f"the load generator failed:\n{ended.stderr[-3000:]}")
    seen: dict[str, Any] = json.loads(ended.stdout)
    return seen


def _move(pids: Iterable[int], cores: list[int]) -> None:
    for pid in pids:
        try:
            os.sched_setaffinity(pid, cores)
        except ProcessLookupError:
            continue
