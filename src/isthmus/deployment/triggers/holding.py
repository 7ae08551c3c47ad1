"""Who runs which trigger, in SQL: triggerers come and go, triggers are handed out, unused ones are removed.

A triggerer is one instance of an agent with the role triggerer. Its number is that of a row in Airflow's ``job`` table,
so Airflow's own health and the "triggerer" of a task in its UI are right; ``trigger.triggerer_id`` names it, and it is
the fence of all that the agent says. ``Trigger.assign_unassigned`` of Airflow is never used: it knows neither agents
nor bundles.

Everything here is done by one loop a process (``running``), in one transaction a round, under a lock that one process
has at a time. Statements skip what others have locked, so a round never waits for the scheduler.

Invariants: a trigger has one holder; a triggerer that was given up holds nothing, from the same transaction on; no
trigger is removed that a task, an asset or a callback waits for.
"""

# ruff: noqa: S608 - values are parameters; what is put into the text are constants of ours.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from isthmus.deployment.pooling import Connection, Database, json_text
from isthmus.deployment.tables import TRIGGERS_CHANNEL
from isthmus.deployment.triggers.sharing import Share, Taker, Waiting
from isthmus.wire.names import Role

#: The columns of Airflow's that are read or written here, as of 3.3 (``compat.check_columns``).
COLUMNS: Final = {
    "trigger": {"id", "triggerer_id", "created_date"},
    "task_instance": {"id", "dag_id", "run_id", "queue", "state", "trigger_id", "priority_weight"},
    "callback": {"trigger_id", "priority_weight", "bundle_name", "data"},
    "asset_watcher": {"asset_id", "trigger_id"},
    "dag_schedule_asset_reference": {"asset_id", "dag_id"},
    "dag": {"dag_id", "bundle_name"},
    "job": {"id", "job_type", "state", "start_date", "end_date", "latest_heartbeat", "hostname", "unixname"},
}

#: Of the advisory locks of this database; any number that nobody else uses ("isth" and "trig" in ASCII).
_LOCK: Final = 0x69737468_74726967

#: How many triggers one round hands out, and removes: it bounds the time of its locks.
ROUND_TRIGGERS: Final = 5000

_FIND: Final = """
SELECT job_id, instance_id FROM isthmus_triggerer WHERE agent_id = $1 FOR UPDATE
"""

_ENTER: Final = """
WITH entered AS (
    INSERT INTO job (job_type, state, start_date, latest_heartbeat, hostname, unixname)
    VALUES ('TriggererJob', 'running', now(), now(), $1, 'isthmus')
    RETURNING id
)
INSERT INTO isthmus_triggerer (job_id, agent_id, instance_id, capacity, bundles)
SELECT id, $2, $3, $4, $5::text::jsonb FROM entered
RETURNING job_id
"""

_SEEN: Final = """
UPDATE isthmus_triggerer SET capacity = $2, bundles = $3::text::jsonb, loaded_at = now() WHERE job_id = $1
"""

#: What ends triggerers: ``lost`` has (job_id, ended), the latter being the state of their job.
_END: Final = """
gone AS (
    DELETE FROM isthmus_triggerer AS t USING lost WHERE t.job_id = lost.job_id RETURNING t.job_id
), released AS (
    UPDATE trigger SET triggerer_id = NULL FROM gone WHERE trigger.triggerer_id = gone.job_id RETURNING trigger.id
), ended AS (
    UPDATE job SET state = lost.ended, end_date = now() FROM lost WHERE job.id = lost.job_id
)
SELECT (SELECT count(*) FROM gone) AS triggerers, (SELECT count(*) FROM released) AS triggers
"""

_END_ONE: Final = f"WITH lost AS (SELECT $1::int AS job_id, 'failed' AS ended), {_END}"

# A triggerer is given up at once when its agent was removed, replaced, drains or has left. Its silence counts while
# this process may judge ($1): that of its agent's heartbeats, and that of its own loads.
_END_LOST: Final = f"""
WITH lost AS (
    SELECT t.job_id, CASE WHEN a.phase <> 'ready' OR a.draining THEN 'success' ELSE 'failed' END AS ended
    FROM isthmus_triggerer AS t
    LEFT JOIN isthmus_agent AS a ON a.id = t.agent_id
    WHERE a.id IS NULL OR a.instance_id <> t.instance_id OR a.role <> '{Role.TRIGGERER}'
       OR a.phase <> 'ready' OR a.draining
       OR ($1 AND (coalesce(a.last_heartbeat_at, a.enrolled_at) < now() - $2 * interval '1 second'
                   OR t.loaded_at < now() - $3 * interval '1 second'))
    FOR UPDATE OF t SKIP LOCKED
), {_END}
"""

_BEAT: Final = """
UPDATE job SET latest_heartbeat = a.last_heartbeat_at
FROM isthmus_triggerer AS t JOIN isthmus_agent AS a ON a.id = t.agent_id
WHERE job.id = t.job_id AND job.latest_heartbeat < a.last_heartbeat_at
"""

# As Airflow's Trigger.clean_unused. A task whose state was changed by somebody lets go of its trigger first: the row
# of the trigger takes the tasks that name it along (ON DELETE CASCADE).
_LET_GO: Final = """
UPDATE task_instance SET trigger_id = NULL WHERE id IN (
    SELECT id FROM task_instance
    WHERE trigger_id IS NOT NULL AND state IS DISTINCT FROM 'deferred'
    LIMIT $1 FOR UPDATE SKIP LOCKED
)
"""

_REMOVE: Final = """
DELETE FROM trigger WHERE id IN (
    SELECT tr.id FROM trigger AS tr
    WHERE NOT EXISTS (SELECT FROM task_instance AS ti WHERE ti.trigger_id = tr.id)
      AND NOT EXISTS (SELECT FROM asset_watcher AS w WHERE w.trigger_id = tr.id)
      AND NOT EXISTS (SELECT FROM callback AS c WHERE c.trigger_id = tr.id)
    LIMIT $1 FOR UPDATE OF tr SKIP LOCKED
)
"""

#: Of an agent ``a``: whether it may be given triggers.
TAKES: Final = f"""
a.role = '{Role.TRIGGERER}' AND NOT a.cordoned AND NOT a.draining AND a.phase = 'ready'
  AND (a.standby_for IS NULL OR a.standby_active)
"""

_TAKERS: Final = f"""
SELECT t.job_id, a.queues, t.bundles, t.capacity, count(tr.id) AS held
FROM isthmus_triggerer AS t
JOIN isthmus_agent AS a ON a.id = t.agent_id AND a.instance_id = t.instance_id
LEFT JOIN trigger AS tr ON tr.triggerer_id = t.job_id
WHERE {TAKES} AND a.last_heartbeat_at > now() - $1 * interval '1 second'
GROUP BY t.job_id, a.queues, t.bundles, t.capacity
HAVING count(tr.id) < t.capacity
"""

#: The triggers that nobody runs, with what decides who may. A holder that is none of ours is a central triggerer: while
#: its job lives its triggers are its own; ``$1`` is after how many seconds without a heartbeat it is dead. ``kind`` is
#: 0 for callbacks, 1 for tasks, 2 for assets.
UNHELD: Final = """
unheld AS (
    SELECT tr.id, tr.created_date, tr.triggerer_id AS was
    FROM trigger AS tr
    WHERE tr.triggerer_id IS NULL
       OR NOT EXISTS (SELECT FROM isthmus_triggerer AS t WHERE t.job_id = tr.triggerer_id)
      AND NOT EXISTS (
          SELECT FROM job WHERE job.id = tr.triggerer_id AND job.job_type = 'TriggererJob' AND job.end_date IS NULL
          AND job.latest_heartbeat > now() - $1 * interval '1 second'
      )
), waiting AS (
    SELECT u.id, u.was, u.created_date, 0 AS kind, c.priority_weight AS priority, NULL AS queue,
           array_remove(ARRAY[coalesce(c.bundle_name, d.bundle_name)], NULL) AS bundles
    FROM unheld AS u
    JOIN callback AS c ON c.trigger_id = u.id
    LEFT JOIN dag AS d ON d.dag_id = coalesce(c.data #>> '{__var,dag_id}', c.data ->> 'dag_id')
  UNION ALL
    SELECT u.id, u.was, u.created_date, 1, ti.priority_weight, ti.queue, array_remove(ARRAY[d.bundle_name], NULL)
    FROM unheld AS u
    JOIN task_instance AS ti ON ti.trigger_id = u.id AND ti.state = 'deferred'
    LEFT JOIN dag AS d ON d.dag_id = ti.dag_id
  UNION ALL
    SELECT u.id, u.was, u.created_date, 2, 0, NULL, array_remove(array_agg(DISTINCT d.bundle_name), NULL)
    FROM unheld AS u
    JOIN asset_watcher AS w ON w.trigger_id = u.id
    LEFT JOIN dag_schedule_asset_reference AS r ON r.asset_id = w.asset_id
    LEFT JOIN dag AS d ON d.dag_id = r.dag_id
    GROUP BY u.id, u.was, u.created_date
)
"""

# Callbacks first, then tasks, then assets, each by priority and age, as Airflow has it.
_WAITING: Final = f"""
WITH takers AS (
    SELECT * FROM unnest($2::text[], $3::text[]) AS taker(queues, bundles)
), {UNHELD}
SELECT w.id, w.was, w.queue, w.bundles FROM waiting AS w
WHERE EXISTS (
    SELECT FROM takers
    WHERE (w.queue IS NULL OR takers.queues::jsonb ? w.queue)
      AND (takers.bundles = '[]' OR w.bundles = '{{}}' OR takers.bundles::jsonb ?| w.bundles::text[])
)
ORDER BY w.kind, w.priority DESC NULLS LAST, w.created_date, w.id
LIMIT $4
"""

_ASSIGN: Final = """
UPDATE trigger SET triggerer_id = s.job_id
FROM unnest($1::int[], $2::int[], $3::int[]) AS s(id, job_id, was)
WHERE trigger.id = s.id AND trigger.triggerer_id IS NOT DISTINCT FROM s.was
"""

_HELD: Final = """
SELECT t.job_id, coalesce(array_agg(tr.id ORDER BY tr.id) FILTER (WHERE tr.id IS NOT NULL), '{}') AS trigger_ids
FROM isthmus_triggerer AS t LEFT JOIN trigger AS tr ON tr.triggerer_id = t.job_id
WHERE t.job_id = ANY($1::int[])
GROUP BY t.job_id
"""

_HOLDS_TASK: Final = """
SELECT EXISTS (
    SELECT FROM task_instance AS ti
    JOIN trigger AS tr ON tr.id = ti.trigger_id
    JOIN isthmus_triggerer AS t ON t.job_id = tr.triggerer_id
    WHERE t.agent_id = $1 AND ti.id = $2
)
"""

_HOLDS_RUN: Final = """
SELECT EXISTS (
    SELECT FROM isthmus_triggerer AS t
    JOIN trigger AS tr ON tr.triggerer_id = t.job_id
    JOIN task_instance AS ti ON ti.trigger_id = tr.id
    WHERE t.agent_id = $1 AND ti.dag_id = $2 AND ($3::text IS NULL OR ti.run_id = $3)
)
"""

#: Events whose ids are remembered for this long: an agent that could not send one for longer has been given up.
_REMEMBER_HOURS: Final = 24
_FORGET_EVENTS: Final = f"""
DELETE FROM isthmus_trigger_event WHERE received_at < now() - interval '{_REMEMBER_HOURS} hours'
"""


@dataclass(frozen=True, slots=True)
class Triggerer:
    """An instance of an agent that runs triggers, as it introduces itself."""

    agent_id: UUID
    instance_id: UUID
    name: str
    capacity: int
    bundles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Patience:
    """After how many seconds of silence somebody is given up."""

    #: An agent without a heartbeat.
    agent_seconds: float
    #: A triggerer without a load.
    triggerer_seconds: float
    #: A central triggerer, as Airflow judges it.
    central_seconds: float


@dataclass(frozen=True, slots=True)
class Ended:
    """Triggerers that were given up, and how many triggers they had."""

    triggerers: int = 0
    triggers: int = 0


async def begin(connection: Connection) -> bool:
    """Whether this process may do a round now: one at a time. The lock ends with the transaction."""
    return bool(await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK))


async def enter(connection: Connection, triggerer: Triggerer, hostname: str) -> int:
    """The triggerer's number: the one that it has, or a new one. A former instance is given up.

    Must run in a transaction.
    """
    # Two loads of one agent at once, as after an answer that was lost, must not make two triggerers.
    await connection.execute("SELECT FROM isthmus_agent WHERE id = $1 FOR NO KEY UPDATE", triggerer.agent_id)
    present = await connection.fetchrow(_FIND, triggerer.agent_id)
    bundles = json_text(list(triggerer.bundles))
    if present is not None and present["instance_id"] == triggerer.instance_id:
        await connection.execute(_SEEN, present["job_id"], triggerer.capacity, bundles)
        return int(present["job_id"])
    if present is not None:
        await connection.fetchrow(_END_ONE, present["job_id"])
    entered = await connection.fetchval(
        _ENTER, hostname, triggerer.agent_id, triggerer.instance_id, triggerer.capacity, bundles
    )
    return int(entered)


async def end_lost(connection: Connection, patience: Patience, *, trusted: bool) -> Ended:
    """Give up triggerers that have gone; those that are only silent if the plane may judge (``trusted``)."""
    row = await connection.fetchrow(_END_LOST, trusted, patience.agent_seconds, patience.triggerer_seconds)
    return Ended(row["triggerers"], row["triggers"]) if row is not None else Ended()


async def beat(connection: Connection) -> None:
    """Have the jobs of healthy triggerers look alive to Airflow."""
    await connection.execute(_BEAT)


async def clean(connection: Connection) -> int:
    """Remove triggers that nobody waits for; how many."""
    await connection.execute(_LET_GO, ROUND_TRIGGERS)
    return int((await connection.execute(_REMOVE, ROUND_TRIGGERS)).rpartition(" ")[2])


async def takers(connection: Connection, patience: Patience) -> list[Taker]:
    """The triggerers that may take more."""
    rows = await connection.fetch(_TAKERS, patience.agent_seconds)
    return [
        Taker(row["job_id"], frozenset(row["queues"]), frozenset(row["bundles"]), row["capacity"], row["held"])
        for row in rows
    ]


async def waiting(connection: Connection, takers: Sequence[Taker], patience: Patience) -> list[Waiting]:
    """The triggers that one of ``takers`` could run and nobody does, best first."""
    rows = await connection.fetch(
        _WAITING,
        patience.central_seconds,
        [json_text(sorted(taker.queues)) for taker in takers],
        [json_text(sorted(taker.bundles)) for taker in takers],
        min(ROUND_TRIGGERS, sum(taker.capacity - taker.held for taker in takers)),
    )
    return [Waiting(row["id"], row["queue"], frozenset(row["bundles"]), row["was"]) for row in rows]


async def assign(connection: Connection, shares: Sequence[Share]) -> int:
    """Hand triggers out; how many were still there to be."""
    done = await connection.execute(
        _ASSIGN,
        [one.trigger.trigger_id for one in shares],
        [one.job_id for one in shares],
        [one.trigger.was for one in shares],
    )
    return int(done.rpartition(" ")[2])


async def tell(database: Database) -> None:
    """Have every process look again."""
    await database.execute("SELECT pg_notify($1, '')", TRIGGERS_CHANNEL)


async def held(database: Database, job_ids: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """The triggers of each triggerer; one that has been given up is missing."""
    rows = await database.fetch(_HELD, list(job_ids))
    return {row["job_id"]: tuple(row["trigger_ids"]) for row in rows}


async def any_triggerer(database: Database) -> bool:
    """Whether there is a triggerer at all."""
    return bool(await database.fetchval("SELECT EXISTS (SELECT FROM isthmus_triggerer)"))


async def forget_events(database: Database) -> None:
    """Forget which events were taken long ago."""
    await database.execute(_FORGET_EVENTS)


async def holds_task(database: Database, agent_id: UUID, task_instance_id: UUID) -> bool:
    """Whether the agent runs the trigger that the task instance waits for."""
    return bool(await database.fetchval(_HOLDS_TASK, agent_id, task_instance_id))


async def holds_run(database: Database, agent_id: UUID, dag_id: str, run_id: str | None) -> bool:
    """Whether the agent runs a trigger for a task of this run, or of any run of the DAG."""
    return bool(await database.fetchval(_HOLDS_RUN, agent_id, dag_id, run_id))
