"""Rows in a deployment's database, as the executor and the agents make them, for tests of the plane."""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from isthmus.deployment import databases, tables
from isthmus.deployment.arrivals import Arrival
from isthmus.deployment.pooling import Pool
from isthmus.deployment.roster import Enrolment
from isthmus.deployment.tokens import Token
from isthmus.wire.names import Role


def execute(url: str, *statements: str) -> None:
    with databases.connected(url) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


#: A stand-in for the one table of Airflow's that the plane reads.
TASK_INSTANCE = "CREATE TABLE task_instance (id uuid PRIMARY KEY, last_heartbeat_at timestamptz)"

ADD = """
INSERT INTO isthmus_workload (id, kind, queue, priority, display_name, payload, subject_id, dag_id, queued_at)
SELECT w.id, $2, w.queue, w.priority, 'dag.task', $3::text::jsonb, w.id::text, 'dag',
       clock_timestamp() + w.place * interval '1 microsecond'
FROM unnest($1::uuid[], $4::text[], $5::int[]) WITH ORDINALITY AS w(id, queue, priority, place)
"""


async def add_workloads(
    pool: Pool, count: int = 1, *, queue: str = "default", priority: int = 0, kind: str = "task", notify: bool = True
) -> list[uuid.UUID]:
    """Queue workloads as the executor does, in one transaction with the notification."""
    ids = [uuid.uuid4() for _ in range(count)]
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(ADD, ids, kind, json.dumps({"ti": {}}), [queue] * count, [priority] * count)
        if notify:
            await connection.execute(f"SELECT pg_notify('{tables.QUEUED_CHANNEL}', '')")
    return ids


async def add_token(pool: Pool, token_id: str = "aaaaaaaaaaaa") -> Token:
    """A token row that is good enough for agents to refer to."""
    row = await pool.fetchrow(
        "INSERT INTO isthmus_token (id, name, secret_sha256) VALUES ($1, $1, '') "
        "ON CONFLICT (id) DO UPDATE SET name = excluded.name RETURNING created_at",
        token_id,
    )
    assert row is not None
    return Token(token_id, token_id, "", frozenset(), frozenset(), row["created_at"], None, None, None, None, None)


async def add_agents(pool: Pool, count: int = 1, *, prefix: str = "agent", slots: int = 4) -> list[uuid.UUID]:
    """Agents that can hold leases."""
    await add_token(pool)
    ids = [uuid.uuid4() for _ in range(count)]
    await pool.execute(
        "INSERT INTO isthmus_agent (id, name, role, instance_id, token_id, queues, slots, versions, last_heartbeat_at) "
        "SELECT a.id, $2 || a.place, 'worker', gen_random_uuid(), 'aaaaaaaaaaaa', '[\"default\"]', $3, '{}', now() "
        "FROM unnest($1::uuid[]) WITH ORDINALITY AS a(id, place)",
        ids,
        prefix,
        slots,
    )
    return ids


def enrolment(name: str = "agent-1", **changes: Any) -> Enrolment:
    values: dict[str, Any] = {
        "name": name,
        "role": Role.WORKER,
        "instance_id": uuid.uuid4(),
        "queues": ("default",),
        "slots": 4,
        "versions": {"isthmus": "0.1.0", "python": "3.11"},
        "labels": {},
        "arrival": Arrival("192.0.2.7"),
    }
    return Enrolment(**{**values, **changes})


async def states(pool: Pool) -> dict[uuid.UUID, str]:
    """The state of every workload."""
    return {row["id"]: row["state"] for row in await pool.fetch("SELECT id, state FROM isthmus_workload")}


async def until(condition: Callable[[], Awaitable[object] | object], *, seconds: float = 5.0) -> None:
    """Wait for something that happens in another task. Fails after ``seconds``."""
    async with asyncio.timeout(seconds):
        while True:
            holds = condition()
            if isinstance(holds, Awaitable):
                holds = await holds
            if holds:
                return
            await asyncio.sleep(0.005)
