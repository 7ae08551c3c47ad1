"""What the triggers' side of the plane uses of Airflow: its models of triggers, and what becomes of their events.

Airflow has the same in ``TriggerRunnerSupervisor`` (the workloads) and ``Trigger.submit_event`` (the events), for a
process that trusts its own child. Here the events come from outside. So whose trigger it is is checked under a lock in
the same transaction, an event is taken once, and its payload is handed on as the agent encoded it: nothing of it is
decoded in the plane, which has none of the customer's classes and wants none of them.

Synchronous, with Airflow's own sessions: it runs in threads. Heavy imports stay inside functions, as in
``deployment.compat``.
"""

# ruff: noqa: PLC0415

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import structlog
from airflow.utils.state import TaskInstanceState
from sqlalchemy import exc as sqlalchemy_errors
from sqlalchemy import select, text
from sqlalchemy.orm import Session, lazyload, selectinload

from isthmus.deployment import pooling
from isthmus.deployment.compat import Expected, own_session
from isthmus.deployment.errors import DatabaseError
from isthmus.deployment.triggers import holding
from isthmus.kit.errors import ConfigError
from isthmus.wire.triggers import TriggerEventReport, TriggerFailure, TriggerOutcome, TriggerVerdict

if TYPE_CHECKING:
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import Trigger

log = structlog.get_logger(__name__)

#: What this module leans on.
EXPECTED: Final = (
    Expected(
        "airflow.models.trigger:handle_event_submit",
        ("event", "task_instance", "session"),
    ),
    Expected("airflow.models.taskinstance:TaskInstance.xcom_push", ("self", "key", "value", "session")),
    Expected("airflow.models.trigger:Trigger.encrypt_kwargs", ("kwargs",)),
    Expected("airflow.models.trigger:Trigger._decrypt_kwargs", ("encrypted_kwargs",)),
    Expected("airflow.models.crypto:get_fernet", ()),
    Expected("airflow.models.callback:TriggererCallback.handle_event", ("self", "event", "session")),
    Expected("airflow.models.dagbag:DBDagBag.get_serialized_dag_model_for_run", ("self", "dag_run", "session")),
    Expected("airflow.models.dagbag:DBDagBag.get_serialized_dag_model", ("self", "version_id", "session")),
    Expected("airflow.utils.helpers:log_filename_template_renderer", ()),
    Expected(
        "airflow.executors.workloads.trigger:RunTrigger",
        (
            *("id", "classpath", "encrypted_kwargs", "ti", "timeout_after", "type", "dag_data", "dag_run_data"),
            "watched_assets",
        ),
    ),
)

#: As Airflow marks a task that is to fail as soon as a worker resumes it, and what it says for a reason.
_FAIL: Final = "__fail__"
_REASON: Final = "Trigger failure"
#: Where Airflow's serde names the class of what is no plain value.
_CLASSNAME: Final = "__classname__"
#: Airflow's ``Encoding.TYPE``, which is no key by itself: an enumeration has a hash of its own.
_ENCODED: Final = "__type"
#: What callbacks' events may carry besides their state: a column of text, cut here.
_OUTPUT_CHARACTERS: Final = 100_000
_LIVING: Final = (sqlalchemy_errors.OperationalError, sqlalchemy_errors.InterfaceError, sqlalchemy_errors.TimeoutError)

_HOLDS: Final = text(
    "SELECT FROM isthmus_triggerer WHERE job_id = :fence AND agent_id = :agent AND instance_id = :instance FOR SHARE"
)
_REMEMBER: Final = text("INSERT INTO isthmus_trigger_event (id) VALUES (:id) ON CONFLICT DO NOTHING RETURNING id")
_COLUMNS: Final = text(
    "SELECT table_name, column_name FROM information_schema.columns WHERE table_name = ANY(:tables) "
    "AND table_schema = ANY(current_schemas(false))"
)


@dataclass(frozen=True, slots=True)
class Holder:
    """Under which fence which instance of which agent speaks."""

    agent_id: UUID
    instance_id: UUID
    fence: int


@dataclass(frozen=True, slots=True)
class Built:
    """A trigger as it is to be run: Airflow's JSON, without the DAG, which is in ``Workloads.dags`` under ``dag``."""

    trigger_id: int
    workload: dict[str, Any] = field(repr=False)
    dag: str | None
    log_path: str | None


@dataclass(frozen=True, slots=True)
class Workloads:
    """Triggers as they are to be run, and the DAGs that some of them need, each once."""

    built: tuple[Built, ...]
    dags: Mapping[str, dict[str, Any]] = field(repr=False)


def check_columns() -> None:
    """Raise ConfigError unless Airflow's tables have the columns that ``holding`` names."""
    with own_session() as session:
        rows = session.execute(_COLUMNS, {"tables": list(holding.COLUMNS)}).all()
    found: dict[str, set[str]] = {}
    for table, column in rows:
        found.setdefault(table, set()).add(column)
    missing = [
        f"{table}.{column}"
        for table, columns in holding.COLUMNS.items()
        for column in sorted(columns - found.get(table, set()))
    ]
    if missing:
        raise ConfigError(
            f"Airflow's database has no {', '.join(missing)}",
            code="airflow_incompatible",
            hint="Run: airflow db migrate, with the Airflow that Isthmus was installed for.",
        )


# --- workloads ---------------------------------------------------------------------------------------------------


def build(holder: Holder, trigger_ids: Sequence[int]) -> Workloads:
    """The triggers as they are to be run; those that the holder does not hold are left out. Raises DatabaseError."""
    from airflow.models.asset import AssetWatcherModel
    from airflow.models.dagbag import DBDagBag
    from airflow.models.trigger import Trigger
    from airflow.utils.helpers import log_filename_template_renderer

    with _transaction() as session:
        if not _holds(session, holder):
            return Workloads((), {})
        rows = session.scalars(
            select(Trigger)
            .where(Trigger.id.in_(trigger_ids), Trigger.triggerer_id == holder.fence)
            .options(
                selectinload(Trigger.task_instance),
                selectinload(Trigger.asset_watchers).selectinload(AssetWatcherModel.asset),
                selectinload(Trigger.callback),
            )
        ).all()
        builder = _Builder(session, DBDagBag(), log_filename_template_renderer(), holder.fence)
        built = [one for row in rows if (one := builder.build(row)) is not None]
    return Workloads(tuple(built), builder.dags)


class _Builder:
    """Makes workloads of triggers, and remembers the DAGs that it has looked at."""

    def __init__(self, session: Session, dag_bag: Any, log_name: Any, fence: int) -> None:
        self._session = session
        self._dag_bag = dag_bag
        self._log_name = log_name
        self._fence = fence
        #: By DAG version: its serialized form, and the tasks in it that start from a trigger.
        self._versions: dict[str, tuple[dict[str, Any], frozenset[str]] | None] = {}
        #: By run and by the version that the task itself names: which of the former it is.
        self._chosen: dict[tuple[int, UUID | None], str | None] = {}
        self.dags: dict[str, dict[str, Any]] = {}

    def build(self, trigger: "Trigger") -> Built | None:
        """As Airflow's ``_create_workload``; None for a trigger that waits for nobody or cannot be run."""
        ti = trigger.task_instance
        try:
            values: dict[str, Any] = {
                "id": trigger.id,
                "classpath": trigger.classpath,
                "encrypted_kwargs": _plain_kwargs(trigger.encrypted_kwargs),
            }
        except Exception as error:  # cryptography has its own root of errors: a key that is gone, a row that is torn
            log.error("a trigger's arguments cannot be decrypted", trigger_id=trigger.id, why=type(error).__name__)
            return None
        if ti is None:
            if not trigger.asset_watchers and trigger.callback is None:
                return None
            watched = {watcher.asset.name: watcher.asset.uri for watcher in trigger.asset_watchers}
            return self._built(trigger.id, values | {"watched_assets": watched or None}, None, None)
        if not ti.dag_version_id:  # a task of Airflow 2, deferred while it was upgraded
            log.warning("a task without a DAG version waits for a trigger", task_instance_id=str(ti.id))
            return None
        dag = self._dag(ti)
        if dag is not None:
            run: Any = ti.get_dagrun(session=self._session)
            values |= {"dag_run_data": run.dag_run_data.model_dump(exclude_unset=True)}
        values |= {"ti": ti, "timeout_after": ti.trigger_timeout}
        log_path = f"{self._log_name(ti=ti)}.trigger.{self._fence}.log"
        return self._built(trigger.id, values, dag, log_path)

    def _built(self, trigger_id: int, values: dict[str, Any], dag: str | None, log_path: str | None) -> Built:
        from airflow.executors.workloads.task import TaskInstanceDTO
        from airflow.executors.workloads.trigger import RunTrigger

        if (ti := values.get("ti")) is not None:
            values = values | {"ti": TaskInstanceDTO.model_validate(ti, from_attributes=True)}
        return Built(trigger_id, RunTrigger(**values).model_dump(mode="json", exclude={"dag_data"}), dag, log_path)

    def _dag(self, ti: "TaskInstance") -> str | None:
        """The key of the task's DAG if the task starts from its trigger, whose templates are rendered with it."""
        key = (ti.dag_run.id, ti.dag_version_id)
        if key not in self._chosen:
            model = self._dag_bag.get_serialized_dag_model_for_run(
                ti.dag_run, session=self._session
            ) or self._dag_bag.get_serialized_dag_model(version_id=ti.dag_version_id, session=self._session)
            self._chosen[key] = None if model is None else self._version(model)
        version = self._chosen[key]
        found = self._versions.get(version or "")
        if version is None or found is None or ti.task_id not in found[1]:
            return None
        self.dags[version] = found[0]
        return version

    def _version(self, model: Any) -> str:
        version = str(model.dag_version_id)
        if version not in self._versions:
            data = json.loads(model.data) if isinstance(model.data, str) else model.data
            starting = {task.task_id for task in model.dag.tasks if task.start_from_trigger}
            self._versions[version] = (data, frozenset(starting))
        return version


def _plain_kwargs(encrypted: str) -> str:
    """The arguments as JSON: what agents have no key for is decrypted here. Not decoded: they may name any class."""
    from airflow.models.crypto import get_fernet

    if encrypted.startswith("{"):
        return encrypted
    return get_fernet().decrypt(encrypted.encode()).decode()


# --- events and failures -----------------------------------------------------------------------------------------


def take_events(holder: Holder, events: Sequence[TriggerEventReport]) -> list[TriggerVerdict]:
    """Have Airflow take the events in; one verdict for each, in the same order. Raises DatabaseError.

    All of them in one transaction; if Airflow fails on one, each in its own, so that one cannot spoil the others.
    """
    return _each(holder, events, _Events.take)


def take_failures(holder: Holder, failures: Sequence[TriggerFailure]) -> list[TriggerVerdict]:
    """Have the tasks fail that wait for these triggers; verdicts as ``take_events``. Raises DatabaseError."""
    return _each(holder, failures, _Events.fail)


def _each(holder: Holder, reports: Sequence[Any], take: Any) -> list[TriggerVerdict]:
    if not reports:
        return []
    try:
        with _transaction() as session:
            taking = _Events(session, holder, reports)
            return [take(taking, report) for report in reports]
    except DatabaseError:
        raise
    except Exception as error:
        if len(reports) > 1:
            return [verdict for report in reports for verdict in _each(holder, [report], take)]
        log.warning("an event of a trigger cannot be taken", trigger_id=reports[0].trigger_id, why=repr(error)[:300])
        with _transaction() as session:
            taking = _Events(session, holder, reports)
            return [taking.refuse(reports[0], f"{type(error).__name__}: {error}"[:1000])]


class _Events:
    """What waits for the triggers of one batch of reports, locked until its transaction ends."""

    def __init__(
        self, session: Session, holder: Holder, reports: Sequence[TriggerEventReport | TriggerFailure]
    ) -> None:
        from airflow.models.asset import AssetWatcherModel
        from airflow.models.callback import Callback
        from airflow.models.taskinstance import TaskInstance
        from airflow.models.trigger import Trigger

        self._session = session
        ids = sorted({report.trigger_id for report in reports})
        self._fence: int | None = holder.fence if _holds(session, holder) else None
        self._holders: dict[int, int | None] = {}
        self._tasks: dict[int, list[Any]] = {}
        self._callbacks: dict[int, Any] = {}
        self._assets: dict[int, list[Any]] = {}
        if self._fence is None:
            return
        self._holders = {
            row.id: row.triggerer_id
            for row in session.execute(select(Trigger.id, Trigger.triggerer_id).where(Trigger.id.in_(ids)))
        }
        held = [trigger_id for trigger_id, holder_id in self._holders.items() if holder_id == holder.fence]
        # Locked in one order, so that two batches cannot wait for each other; what the UI changes meanwhile is seen.
        tasks = session.scalars(
            select(TaskInstance)
            .where(TaskInstance.trigger_id.in_(held), TaskInstance.state == TaskInstanceState.DEFERRED)
            .options(lazyload("*"))
            .order_by(TaskInstance.id)
            .with_for_update(of=TaskInstance, key_share=True)
        )
        for task in tasks:
            self._tasks.setdefault(task.trigger_id or 0, []).append(task)
        callbacks = session.scalars(
            select(Callback).where(Callback.trigger_id.in_(held)).with_for_update(of=Callback, key_share=True)
        )
        self._callbacks = {callback.trigger_id: callback for callback in callbacks}
        watchers = session.scalars(
            select(AssetWatcherModel)
            .where(AssetWatcherModel.trigger_id.in_(held))
            .options(selectinload(AssetWatcherModel.asset))
        )
        for watcher in watchers:
            self._assets.setdefault(watcher.trigger_id, []).append(watcher.asset)

    def take(self, report: TriggerEventReport) -> TriggerVerdict:
        """One event."""
        if (refused := self._refused(report.trigger_id)) is not None:
            return refused
        payload = plain(report.payload)
        waiting = self._tasks.pop(report.trigger_id, [])
        for task in waiting:
            if report.outcome is None:
                self._resume(task, _spliced(task.next_kwargs, payload))
            else:
                self._end(task, report.outcome, report.xcoms)
        taken = bool(waiting)
        if (assets := self._assets.get(report.trigger_id)) and self._first(report.event_id):
            taken = True
            for asset in assets:
                self._change(asset, payload)
        if (callback := self._callbacks.get(report.trigger_id)) is not None:
            taken = self._call_back(callback, payload) or taken
        return TriggerVerdict.ACCEPTED if taken else TriggerVerdict.DUPLICATE

    def fail(self, report: TriggerFailure) -> TriggerVerdict:
        """One trigger that ended without an event. Assets and callbacks go on waiting: it is started again."""
        if (refused := self._refused(report.trigger_id)) is not None:
            return refused
        lines = [pooling.plain_text(line) for line in report.traceback]
        return self._fail_tasks(report.trigger_id, _REASON, lines or None)

    def refuse(self, report: TriggerEventReport | TriggerFailure, why: str) -> TriggerVerdict:
        """An event that Airflow cannot take: what waits for it fails and says so."""
        if (refused := self._refused(report.trigger_id)) is not None:
            return refused
        reason = f"Could not resume the task: its trigger's event could not be taken ({pooling.plain_text(why)})"
        self._fail_tasks(report.trigger_id, reason, [reason])
        return TriggerVerdict.UNUSABLE

    def _refused(self, trigger_id: int) -> TriggerVerdict | None:
        """The verdict on a trigger that is not the caller's; None for one that is."""
        if self._fence is None:
            return TriggerVerdict.STALE
        if trigger_id not in self._holders:
            return TriggerVerdict.DUPLICATE  # removed: its event was taken, or nobody waits for it
        return None if self._holders[trigger_id] == self._fence else TriggerVerdict.STALE

    def _first(self, event_id: UUID) -> bool:
        """Whether this is the first time; the event is remembered."""
        return self._session.execute(_REMEMBER, {"id": event_id}).first() is not None

    def _resume(self, task: Any, next_kwargs: dict[str, Any]) -> None:
        """As Airflow's ``handle_event_submit`` of a plain event, which decodes what this does not."""
        from airflow._shared.timezones import timezone

        task.next_kwargs = next_kwargs
        task.trigger_id = None
        task.state = TaskInstanceState.SCHEDULED
        task.scheduled_dttm = timezone.utcnow()

    def _end(self, task: Any, outcome: TriggerOutcome, xcoms: Mapping[str, Any]) -> None:
        from airflow.models.trigger import handle_event_submit
        from airflow.triggers import base

        made: Any = {
            TriggerOutcome.SUCCESS: base.TaskSuccessEvent,
            TriggerOutcome.FAILED: base.TaskFailedEvent,
            TriggerOutcome.SKIPPED: base.TaskSkippedEvent,
        }[outcome]
        handle_event_submit(made(), task_instance=task, session=self._session)
        # Not by the event: Airflow would store them in a transaction of its own, before ours is sure.
        if task.state != TaskInstanceState.UP_FOR_RETRY:
            for key, value in xcoms.items():
                task.xcom_push(key=pooling.plain_text(key), value=plain(value), session=self._session)

    def _change(self, asset: Any, payload: Any) -> None:
        from airflow.assets.manager import AssetManager

        AssetManager.register_asset_change(
            asset=asset.to_serialized(), extra={"from_trigger": True, "payload": payload}, session=self._session
        )

    def _call_back(self, callback: Any, payload: Any) -> bool:
        """Airflow's word for a callback's end is the event's; what comes with it is text. False for another event."""
        from airflow.triggers.base import TriggerEvent
        from airflow.triggers.callback import PAYLOAD_BODY_KEY, PAYLOAD_STATUS_KEY

        if not isinstance(payload, dict) or not isinstance(payload.get(PAYLOAD_STATUS_KEY), str):
            return False
        body = payload.get(PAYLOAD_BODY_KEY)
        if body is not None:
            body = (body if isinstance(body, str) else json.dumps(body))[:_OUTPUT_CHARACTERS]
        before = callback.state
        event: Any = TriggerEvent
        callback.handle_event(
            event({PAYLOAD_STATUS_KEY: payload[PAYLOAD_STATUS_KEY], PAYLOAD_BODY_KEY: body}), self._session
        )
        if callback.trigger is None:  # the callback has ended
            self._callbacks = {key: one for key, one in self._callbacks.items() if one is not callback}
        return bool(callback.state != before)

    def _fail_tasks(self, trigger_id: int, reason: str, traceback: list[str] | None) -> TriggerVerdict:
        """As Airflow's ``Trigger.submit_failure``."""
        waiting = self._tasks.pop(trigger_id, [])
        for task in waiting:
            self._resume(task, {"error": reason, "traceback": traceback})
            task.next_method = _FAIL
        return TriggerVerdict.ACCEPTED if waiting else TriggerVerdict.DUPLICATE


def plain(value: Any) -> Any:
    """``value`` as PostgreSQL's JSON can hold it."""
    return json.loads(pooling.json_text(value))


def _spliced(next_kwargs: Any, payload: Any) -> dict[str, Any]:
    """What the task is resumed with: its own arguments as they are stored, and the event, already encoded.

    What workers of Airflow 3 store is a plain dict of encoded values. What the scheduler stores for a task that starts
    from a trigger is in the older encoding, of Airflow's own types alone, and is translated.
    """
    from airflow.sdk.serde import serialize
    from airflow.serialization.serialized_objects import BaseSerialization

    stored = next_kwargs or {}
    if isinstance(stored, dict) and _ENCODED in stored:
        stored = serialize(BaseSerialization.deserialize(stored))
    if not isinstance(stored, dict) or _CLASSNAME in stored:
        raise ValueError(f"the stored next_kwargs are no dict but {type(stored).__name__}")
    return {**stored, "event": payload}


def _holds(session: Session, holder: Holder) -> bool:
    """Whether the fence is the caller's of today; it stays so until the transaction ends."""
    values = {"fence": holder.fence, "agent": holder.agent_id, "instance": holder.instance_id}
    return session.execute(_HOLDS, values).first() is not None


@contextmanager
def _transaction() -> Iterator[Session]:
    """A transaction of Airflow's that commits at the end. Raises DatabaseError for what passes by itself."""
    try:
        with own_session() as session:
            yield session
    except _LIVING as error:
        raise DatabaseError(str(error.__cause__ or error)) from error
