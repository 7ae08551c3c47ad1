"""The scheduler's side of the queue, in SQL: put work in, take outcomes out, call work back, take over from the dead.

Every function is one statement in the session that it is given: the scheduler's for ``put``, so that a workload exists
exactly when Airflow's transaction says that the task is queued (ADR 0001), and sessions of the executor's own for the
rest. Notifications are sent by the same statement, so they arrive on commit or never.

Invariants: what moves follows ``workloads.transition``; a subject (a task instance, a callback, a connection test) has
at most one workload that can still be started; outcomes are taken by the scheduler job whose executor waits for them,
each once. Neighbours: ``executor`` calls this, ``leasing`` is the other side.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import RowMapping, TextClause, and_, func, not_, or_, text, update
from sqlalchemy.orm import Session

from isthmus.deployment import compat, tables, workloads
from isthmus.wire.admin import WorkloadState as State
from isthmus.wire.names import Kind

#: Callbacks end what has begun and connection tests have a person waiting: both go before any task.
FIRST: Final = 2**31 - 1

_LIVE: Final = "('queued', 'leased', 'running')"


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose executor a workload belongs to. In Airflow's multi-team mode a scheduler job has one for each team."""

    scheduler_job_id: int
    team_name: str | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """A workload as its executor remembers it: which row, and under which key Airflow knows it."""

    workload_id: UUID
    key: compat.WorkloadKey


@dataclass(frozen=True, slots=True)
class News:
    """A change that Airflow must hear of."""

    workload_id: UUID
    key: compat.WorkloadKey
    state: State
    detail: str
    agent_name: str | None


# --- putting in --------------------------------------------------------------------------------------------------

#: Whether work waits for agents that are all busy: it would have been leased within milliseconds otherwise. What waits
#: for longer than ten seconds may wait for an agent that does not exist, and says nothing of the others.
BACKLOG: Final = """
    SELECT EXISTS (
        SELECT FROM isthmus_workload
        WHERE state = 'queued' AND queued_at BETWEEN now() - interval '10 seconds' AND now() - interval '0.05 seconds'
    )
"""

_PUT: Final = text(
    """
    WITH superseded AS (
        UPDATE isthmus_workload
        SET state = 'cancelled', cancel_requested = true, lease_expires_at = NULL, settled_at = now(),
            detail = 'queued anew by Airflow'
        WHERE subject_id = :subject_id AND state IN ('queued', 'leased')
    ), added AS (
        INSERT INTO isthmus_workload (
            id, kind, queue, priority, bundle, display_name, payload, executor_config, subject_id,
            dag_id, task_id, run_id, map_index, try_number, scheduler_job_id, team_name
        ) VALUES (
            :id, :kind, :queue, :priority, :bundle, :display_name, CAST(:payload AS jsonb),
            CAST(:executor_config AS jsonb), :subject_id,
            :dag_id, :task_id, :run_id, :map_index, :try_number, :scheduler_job_id, :team_name
        )
    )
    SELECT pg_notify(:channel, '')
    """
)


def put(session: Session, workload: compat.Workload, owner: Owner, *, default_queue: str) -> Held:
    """Add a row for ``workload``. It can be claimed once the session commits, and never existed if it does not.

    An older row of the same subject that has not started is cancelled: Airflow queues a subject again only when it has
    given the earlier attempt up, and two rows would be two starts. Does not commit.
    """
    workload_id = uuid4()
    session.execute(
        _PUT,
        {
            "id": workload_id,
            **_described(workload, default_queue),
            "payload": json.dumps(storable(workload.model_dump(mode="json", exclude={"token"}))),
            "scheduler_job_id": owner.scheduler_job_id,
            "team_name": owner.team_name,
            "channel": tables.QUEUED_CHANNEL,
        },
    )
    return Held(workload_id, workload.key)


def _described(workload: compat.Workload, default_queue: str) -> dict[str, Any]:
    """The columns that say what the workload is."""
    columns: dict[str, Any] = dict.fromkeys(("bundle", "dag_id", "task_id", "run_id", "map_index", "try_number"))
    columns |= {"executor_config": None, "queue": default_queue, "priority": FIRST}
    match workload:
        case compat.ExecuteTask(ti=ti):
            name = f"{ti.dag_id}.{ti.task_id}" + (f"[{ti.map_index}]" if ti.map_index >= 0 else "")
            return columns | {
                "kind": Kind.TASK,
                "subject_id": str(ti.id),
                "display_name": name,
                "queue": ti.queue,
                "priority": ti.priority_weight,
                "bundle": workload.bundle_info.name,
                "dag_id": ti.dag_id,
                "task_id": ti.task_id,
                "run_id": ti.run_id,
                "map_index": ti.map_index,
                "try_number": ti.try_number,
                "executor_config": json.dumps(storable(ti.executor_config)) if ti.executor_config else None,
            }
        case compat.ExecuteCallback(callback=callback):
            return columns | {
                "kind": Kind.CALLBACK,
                "subject_id": callback.id,
                "display_name": workload.display_name,
                "bundle": workload.bundle_info.name,
                "dag_id": callback.data.get("dag_id"),
            }
        case compat.TestConnection():
            return columns | {
                "kind": Kind.CONNECTION_TEST,
                "subject_id": str(workload.connection_test_id),
                "display_name": workload.display_name,
                "queue": workload.queue or default_queue,
            }


def storable(value: Any) -> Any:
    """``value`` as PostgreSQL's jsonb can hold it: JSON without NUL characters, lone surrogates, NaN and infinities.

    What is not JSON at all, as a pod in an executor config, becomes its ``to_dict()`` or its text. A value that the
    database refuses would end the scheduler's transaction, and the next one, and so on.
    """
    match value:
        case None | bool() | int():
            return value
        case str():
            return value.replace("\0", "\ufffd").encode(errors="replace").decode()
        case float():
            return value if math.isfinite(value) else str(value)
        case Mapping():
            return {storable(str(name)): storable(one) for name, one in value.items()}
        case list() | tuple() | set() | frozenset():
            return [storable(one) for one in value]
        case _:
            to_dict = getattr(value, "to_dict", None)
            return storable(to_dict() if callable(to_dict) else str(value))


# --- taking out --------------------------------------------------------------------------------------------------

_TAKE: Final = text(
    """
    WITH taken AS (
        UPDATE isthmus_workload SET unseen = false
        WHERE id IN (
            SELECT id FROM isthmus_workload
            WHERE unseen AND scheduler_job_id = :scheduler_job_id AND team_name IS NOT DISTINCT FROM :team_name
            LIMIT :limit
            FOR UPDATE SKIP LOCKED
        )
        RETURNING id, kind, state, detail, subject_id, dag_id, task_id, run_id, map_index, try_number, agent_id,
            settled_at
    )
    SELECT taken.*, agent.name AS agent_name
    FROM taken LEFT JOIN isthmus_agent AS agent ON agent.id = taken.agent_id
    ORDER BY taken.settled_at
    """
)


def take(session: Session, owner: Owner, *, limit: int) -> list[News]:
    """Up to ``limit`` changes that Airflow has not heard of; they count as heard when the session commits."""
    rows = session.execute(_TAKE, {**_owned(owner), "limit": limit}).mappings()
    return [
        News(row["id"], _key(row), State(row["state"]), str(row["detail"]), row["agent_name"])
        for row in rows.fetchall()
    ]


def _owned(owner: Owner) -> dict[str, Any]:
    return {"scheduler_job_id": owner.scheduler_job_id, "team_name": owner.team_name}


def _key(row: RowMapping) -> compat.WorkloadKey:
    match Kind(row["kind"]):
        case Kind.TASK:
            return compat.TaskInstanceKey(
                dag_id=row["dag_id"],
                task_id=row["task_id"],
                run_id=row["run_id"],
                try_number=row["try_number"],
                map_index=row["map_index"],
            )
        case Kind.CALLBACK:
            return compat.CallbackKey(id=row["subject_id"])
        case Kind.CONNECTION_TEST:
            return compat.ConnectionTestKey(id=row["subject_id"])


_STILL: Final = text(
    f"""
    SELECT id FROM isthmus_workload
    WHERE id = ANY(:ids) AND scheduler_job_id = :scheduler_job_id AND (unseen OR state IN {_LIVE})
    """  # noqa: S608 - a constant
)


def still(session: Session, owner: Owner, workload_ids: Sequence[UUID]) -> set[UUID]:
    """Which of the workloads exist, are the owner's, and have an outcome to come."""
    return set(session.scalars(_STILL, {"ids": list(workload_ids), "scheduler_job_id": owner.scheduler_job_id}))


# --- calling back ------------------------------------------------------------------------------------------------


def _recall(condition: str) -> TextClause:
    return text(
        f"""
        WITH recalled AS (
            UPDATE isthmus_workload
            SET cancel_requested = true,
                state = CASE WHEN state = 'running' THEN state ELSE 'cancelled' END,
                lease_expires_at = CASE WHEN state = 'running' THEN lease_expires_at END,
                settled_at = CASE WHEN state = 'running' THEN settled_at ELSE now() END,
                detail = CASE WHEN state = 'running' THEN detail ELSE :detail END
            WHERE {condition} AND state IN {_LIVE}
            RETURNING id
        ), told AS (
            SELECT pg_notify(channel, '') FROM unnest(CAST(:channels AS text[])) AS channel
            WHERE EXISTS (SELECT FROM recalled)
        )
        SELECT count(*) FROM recalled, (SELECT count(*) FROM told) AS told
        """  # noqa: S608 - both conditions are constants below
    )


_RECALL_SUBJECT: Final = _recall("subject_id = :subject_id")
_RECALL: Final = _recall("id = :id")


def recall_subject(session: Session, subject_id: str, detail: str) -> int:
    """Cancel what has not started of the subject, and ask what runs to stop. Returns how many workloads that were.

    Nothing is reported back to Airflow: it was Airflow's decision.
    """
    return _recalled(session, _RECALL_SUBJECT, {"subject_id": subject_id, "detail": detail})


def recall(session: Session, workload_id: UUID, detail: str) -> int:
    """The same for one workload."""
    return _recalled(session, _RECALL, {"id": workload_id, "detail": detail})


def _recalled(session: Session, statement: TextClause, parameters: dict[str, Any]) -> int:
    channels = [tables.AGENTS_CHANNEL, tables.QUEUED_CHANNEL]
    return int(session.scalar(statement, {**parameters, "channels": channels}) or 0)


# --- taking over -------------------------------------------------------------------------------------------------

_ADOPT: Final = text(
    f"""
    WITH newest AS (
        SELECT DISTINCT ON (subject_id) id FROM isthmus_workload
        WHERE subject_id = ANY(:subject_ids) AND kind = 'task'
        ORDER BY subject_id, queued_at DESC, id DESC
    )
    UPDATE isthmus_workload AS workload
    SET scheduler_job_id = :scheduler_job_id, team_name = :team_name
    FROM newest
    WHERE workload.id = newest.id AND NOT cancel_requested AND (unseen OR state IN {_LIVE})
    RETURNING workload.id, kind, subject_id, dag_id, task_id, run_id, map_index, try_number
    """  # noqa: S608 - a constant
)


def adopt(session: Session, owner: Owner, subject_ids: Sequence[str]) -> dict[str, Held]:
    """Make the newest workloads of these task instances the owner's; by subject, those that were worth it.

    Worth it is a workload that can still run, runs, or has an outcome that nobody has heard of. One that was called
    back is not: Airflow had given it up.
    """
    rows = session.execute(_ADOPT, {**_owned(owner), "subject_ids": list(subject_ids)}).mappings()
    return {row["subject_id"]: Held(row["id"], _key(row)) for row in rows}


def take_over(session: Session, owner: Owner, *, dead_seconds: float) -> list[Held]:
    """Make callbacks and connection tests of dead schedulers the owner's; Airflow does not offer them for adoption.

    What counts is that Airflow still waits for them. So an outcome that a scheduler took and died with is told again.
    """
    workload = tables.workload.c
    statement = (
        update(tables.workload)
        .where(
            workload.kind.in_([Kind.CALLBACK, Kind.CONNECTION_TEST]),
            workload.subject_id.in_(compat.unfinished_subjects()),
            workload.team_name.is_not_distinct_from(owner.team_name),
            not_(workload.cancel_requested),
            or_(
                workload.scheduler_job_id.is_(None),
                and_(
                    workload.scheduler_job_id != owner.scheduler_job_id,
                    ~compat.scheduler_lives(workload.scheduler_job_id, dead_seconds),
                ),
            ),
        )
        .values(
            scheduler_job_id=owner.scheduler_job_id,
            unseen=workload.state.in_([State.RUNNING, *workloads.SETTLED]),
        )
        .returning(workload.id, workload.kind, workload.subject_id)
    )
    return [Held(row["id"], _key(row)) for row in session.execute(statement).mappings()]


def recall_given_up(session: Session) -> int:
    """Cancel queued workloads, anybody's, that Airflow does not wait for any more. Returns how many that were.

    A task that is queued has a task instance that is queued: both were written in one transaction. Where somebody has
    marked it, cleared it or deleted its run since, an agent would start it for nothing; and where no agent serves the
    queue, it would keep its scheduler's slot for ever.
    """
    workload = tables.workload.c
    statement = (
        update(tables.workload)
        .where(
            workload.state == State.QUEUED,
            or_(
                and_(workload.kind == Kind.TASK, ~compat.is_queued(workload.subject_id)),
                and_(workload.kind != Kind.TASK, workload.subject_id.not_in(compat.unfinished_subjects())),
            ),
        )
        .values(state=State.CANCELLED, cancel_requested=True, settled_at=func.now(), detail="given up by Airflow")
        .returning(workload.id)
    )
    return len(session.execute(statement).all())
