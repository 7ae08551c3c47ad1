"""A real Airflow on a database of its own: its models, its scheduler's methods, our executor; agents played in SQL."""

# ruff: noqa: PLC0415 - Airflow reads its environment when it is imported, so it is imported by the fixtures that set it

import datetime
import itertools
import logging
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import select

from isthmus.deployment import databases


def execute(url: str, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Run one statement on a connection of its own, and commit it."""
    with databases.connected(url) as connection, connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def airflow_url(
    airflow_database: str, airflow_environment: Callable[[str], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """This process's Airflow is set up on ``airflow_database``."""
    for name, value in airflow_environment(airflow_database).items():
        monkeypatch.setenv(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Airflow's own imports
        from airflow import logging_config, settings
        from airflow.jobs import scheduler_job_runner  # noqa: F401
        from airflow.models import import_all_models

        import_all_models()
    logging_config.configure_logging()  # Airflow calls methods that only its own kind of logger has
    settings.dispose_orm()
    settings.configure_vars()
    settings.configure_orm()
    yield airflow_database
    settings.dispose_orm()


@dataclass
class Plane:
    """One scheduler with one ``RemoteExecutor``, driven by hand, and agents that do as the test says."""

    url: str
    job: Any
    runner: Any
    executor: Any
    agent_id: uuid.UUID | None = None

    # --- the scheduler

    def schedule(self) -> None:
        """The part of the scheduler's loop that queues tasks."""
        with self.session() as session:
            self.runner._do_scheduling(session)
            session.expunge_all()

    def finish(self) -> None:
        """The part that hears of outcomes."""
        with self.session() as session:
            self.runner._process_executor_events(executor=self.executor, session=session)

    def loop(self) -> None:
        """A loop, without the pause at its end."""
        self.schedule()
        self.executor.heartbeat()
        self.finish()

    @contextmanager
    def broken(self) -> Iterator[None]:
        """Our table is gone for a while."""
        self.execute("ALTER TABLE isthmus_workload RENAME TO gone")
        try:
            yield
        finally:
            self.execute("ALTER TABLE gone RENAME TO isthmus_workload")

    def adopt(self) -> int:
        return self.runner.adopt_or_reset_orphaned_tasks()

    def die(self) -> None:
        """As SIGKILL: nothing is cleaned up, and its heartbeats end."""
        execute(self.url, "UPDATE job SET latest_heartbeat = now() - interval '1 hour' WHERE id = %s", self.job.id)
        if self.executor._pacer is not None:
            self.executor._pacer.close()
        self.executor._pacers.pop(self.job.id, None)

    def session(self) -> AbstractContextManager[Any]:
        """A session as the scheduler's, which commits at the end."""
        from airflow.utils.session import create_session

        return create_session(scoped=False)

    def task_instance(self, task_id: str = "one") -> Any:
        from airflow.models.taskinstance import TaskInstance

        with self.session() as session:
            return session.scalars(select(TaskInstance).where(TaskInstance.task_id == task_id)).one()

    def workload(self, task_id: str = "one", **changes: Any) -> Any:
        """The workload that the scheduler would make of the task instance."""
        from airflow.executors.workloads import ExecuteTask
        from airflow.models.taskinstance import TaskInstance

        with self.session() as session:
            ti = session.scalars(select(TaskInstance).where(TaskInstance.task_id == task_id)).one()
            made = ExecuteTask.make(ti, generator=self.executor.jwt_generator)
        for name, value in changes.items():
            setattr(made.ti, name, value)
        return made

    def queue(self, workload: Any) -> None:
        """Queue a workload in a transaction of its own."""
        with self.session() as session:
            self.executor.queue_workload(workload, session)

    # --- looking

    def execute(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        return execute(self.url, statement, *parameters)

    def workloads(self, condition: str = "true") -> list[dict[str, Any]]:
        columns = (
            "id::text, kind, state, queue, priority, subject_id, task_id, map_index, try_number, scheduler_job_id, "
            "unseen, cancel_requested, payload, executor_config, display_name, bundle, team_name, detail"
        )
        rows = execute(self.url, f"SELECT {columns} FROM isthmus_workload WHERE {condition} ORDER BY queued_at, id")
        names = [column.strip().removesuffix("::text") for column in columns.split(",")]
        return [dict(zip(names, row, strict=True)) for row in rows]

    def task_states(self) -> dict[str, str | None]:
        return dict(execute(self.url, "SELECT task_id, state FROM task_instance ORDER BY task_id"))

    def read_log(self) -> list[str]:
        """The log of task "one" as Airflow's API server reads it."""
        from airflow.utils.log.log_reader import TaskLogReader

        stream, _ = TaskLogReader().read_log_chunks(self.task_instance(), 1, {})
        return [str(line) for line in stream]

    # --- agents and tasks

    def start(self, condition: str = "state = 'queued'") -> None:
        """An agent has claimed and started these."""
        if self.agent_id is None:
            self.agent_id = uuid.uuid4()
            execute(
                self.url,
                "INSERT INTO isthmus_token (id, name, secret_sha256) VALUES ('t', 't', '') ON CONFLICT DO NOTHING",
            )
            execute(
                self.url,
                "INSERT INTO isthmus_agent (id, name, role, instance_id, token_id, queues, slots, versions) "
                "VALUES (%s, 'agent-' || %s, 'worker', gen_random_uuid(), 't', '[]', 1, '{}')",
                str(self.agent_id),
                str(self.agent_id)[:4],
            )
        execute(
            self.url,
            f"UPDATE isthmus_workload SET state = 'running', agent_id = %s, fence = fence + 1 WHERE {condition}",
            str(self.agent_id),
        )

    def set_task(self, state: str, condition: str = "true") -> None:
        """A task reported its state to Airflow's Execution API."""
        execute(
            self.url,
            f"UPDATE task_instance SET state = %s, last_heartbeat_at = now(), start_date = now() WHERE {condition}",
            state,
        )

    def settle(self, state: str = "succeeded", condition: str = "state = 'running'", detail: str = "") -> None:
        """An agent has settled these, or the plane gave them up."""
        execute(
            self.url,
            f"WITH settled AS (UPDATE isthmus_workload SET state = %s, unseen = true, settled_at = now(), detail = %s "
            f"WHERE {condition} RETURNING 1) SELECT pg_notify('isthmus_scheduler', '') FROM settled",
            state,
            detail,
        )


@pytest.fixture
def plane_factory(airflow_url: str) -> Iterator[Callable[..., Plane]]:
    """Make schedulers; each has a job row of its own."""
    planes: list[Plane] = []

    def make(**options: Any) -> Plane:
        from airflow.jobs.job import Job
        from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

        from isthmus.deployment.executor import RemoteExecutor

        job = Job(job_type="SchedulerJob")
        job.prepare_for_execution()
        executor = RemoteExecutor(**options)
        runner = SchedulerJobRunner(job=job, executors=[executor], num_runs=1)
        runner._log = logging.getLogger("test")
        executor.job_id = job.id
        executor.callback_sink = _Sink()
        executor.start()
        planes.append(Plane(airflow_url, job, runner, executor))
        return planes[-1]

    yield make
    for plane in planes:
        plane.executor.end()


class _Sink:
    """Where the scheduler sends failure callbacks; nobody runs them here."""

    def send(self, request: object) -> None:
        pass


@pytest.fixture
def plane(plane_factory: Callable[..., Plane]) -> Plane:
    """One scheduler."""
    return plane_factory()


@pytest.fixture
def start_run(airflow_url: str) -> Callable[[str], None]:
    """Start a run of a DAG, as Airflow's UI does."""

    def start(dag_id: str) -> None:
        from airflow._shared.timezones import timezone
        from airflow.models.serialized_dag import SerializedDagModel
        from airflow.utils.session import create_session
        from airflow.utils.state import DagRunState
        from airflow.utils.types import DagRunTriggeredByType, DagRunType

        with create_session() as session:
            serialized = SerializedDagModel.get_dag(dag_id, session=session)
            serialized.create_dagrun(
                run_id=f"run_{uuid.uuid4().hex[:8]}",
                run_after=timezone.utcnow(),
                run_type=DagRunType.MANUAL,
                triggered_by=DagRunTriggeredByType.TEST,
                state=DagRunState.QUEUED,
                session=session,
            )

    return start


@pytest.fixture
def run_dag(airflow_url: str, start_run: Callable[[str], None]) -> Callable[..., str]:
    """Register a DAG and start a run of it; returns the DAG's id.

    ``tasks`` are keyword arguments of operators; all are independent unless ``chain``.
    """

    def make(*tasks: dict[str, Any], chain: bool = False) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from airflow.models.dag import DagModel
            from airflow.models.dagbundle import DagBundleModel
            from airflow.models.serialized_dag import SerializedDagModel
            from airflow.providers.standard.operators.python import PythonOperator
            from airflow.sdk import DAG
            from airflow.serialization.definitions.dag import SerializedDAG
            from airflow.serialization.serialized_objects import LazyDeserializedDAG
            from airflow.utils.session import create_session

            dag_id = f"dag_{uuid.uuid4().hex[:8]}"
            with DAG(dag_id, schedule=None, start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)) as dag:
                made = [PythonOperator(python_callable=print, **task) for task in tasks]
                if chain:
                    for before, after in itertools.pairwise(made):
                        before >> after
            lazy = LazyDeserializedDAG.from_dag(dag)
            with create_session() as session:
                if session.get(DagBundleModel, "tests") is None:
                    session.add(DagBundleModel(name="tests"))
                session.flush()
                SerializedDAG.bulk_write_to_db("tests", None, [lazy], session=session)
                SerializedDagModel.write_dag(lazy, bundle_name="tests", session=session)
            with create_session() as session:
                session.get(DagModel, dag_id).is_paused = False
            start_run(dag_id)
            return dag_id

    return make


class Callbacks:
    """Callbacks and connection tests that the scheduler hands to its executor."""

    def add(self, plane: Plane, dag_id: str, **data: Any) -> str:
        """A callback, as a missed deadline leaves it; queued."""
        from airflow.models.callback import CallbackFetchMethod, ExecutorCallback
        from airflow.models.dagrun import DagRun
        from airflow.sdk.definitions.callback import SyncCallback

        with plane.session() as session:
            run = session.scalars(select(DagRun).where(DagRun.dag_id == dag_id)).one()
            callback = ExecutorCallback(
                SyncCallback("builtins.print", kwargs=data), fetch_method=CallbackFetchMethod.IMPORT_PATH
            )
            callback.data |= {"dag_id": dag_id, "dag_run_id": run.id}
            callback.state = "pending"
            session.add(callback)
            session.flush()
            made = str(callback.id)
            plane.runner._enqueue_executor_callbacks(session)
        return made

    def state(self, plane: Plane, callback_id: str) -> str:
        [(state,)] = plane.execute("SELECT state FROM callback WHERE id = %s", callback_id)
        return str(state)

    def add_connection_test(self, plane: Plane, **options: Any) -> str:
        from airflow.models.connection_test import ConnectionTestRequest

        with plane.session() as session:
            request = ConnectionTestRequest(connection_id="db", conn_type="postgres", **options)
            request.state = "pending"
            session.add(request)
            session.flush()
            made = str(request.id)
            plane.runner._enqueue_connection_tests(session=session)
        return made


@pytest.fixture
def callbacks() -> Callbacks:
    return Callbacks()
