"""Everything of Airflow that the plane's side touches, and a check that it is as we know it.

Airflow's executor interface, scheduler and Execution API are ours to use and not ours to change; between minor versions
they move. So no other module of this package imports Airflow, ``check`` compares what we lean on with what is installed
before anything starts, and a difference is one clear error instead of a task that fails at night. The one exception is
``plugin``, which is loaded where this module would be too heavy, and which leans on what Airflow documents for plugins.

Heavy imports (the Execution API is a FastAPI application of its own) stay inside functions: the executor is loaded by
processes that never need them.
"""

# ruff: noqa: PLC0415

import importlib
import importlib.metadata
import inspect
import os
import re
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy.engine
from airflow import __version__ as airflow_version
from airflow import settings
from airflow.configuration import conf
from airflow.executors.base_executor import BaseExecutor
from airflow.executors.workloads import ExecuteCallback, ExecuteTask, TestConnection
from airflow.jobs.job import Job, JobState
from airflow.models.callback import CallbackKey, ExecutorCallback
from airflow.models.connection_test import ConnectionTestKey, ConnectionTestRequest, ConnectionTestState
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.utils.db_manager import BaseDBManager
from airflow.utils.session import create_session
from airflow.utils.state import CallbackState, TaskInstanceState
from packaging.version import Version
from sqlalchemy import ColumnElement, Exists, Select, Text, Uuid, cast, exists, func, select, union_all
from sqlalchemy.orm import Session

from isthmus.deployment import components, config
from isthmus.kit.errors import ConfigError, InternalError
from isthmus.wire import admin
from isthmus.wire.names import Kind

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = [
    "BaseDBManager",
    "BaseExecutor",
    "CallbackKey",
    "CallbackState",
    "ConnectionTestKey",
    "ConnectionTestState",
    "ExecuteCallback",
    "ExecuteTask",
    "TaskInstance",
    "TaskInstanceKey",
    "TaskInstanceState",
    "TestConnection",
    "Workload",
    "WorkloadKey",
    "airflow_version",
    "check",
    "own_session",
]

#: 3.3 is the first version that refuses to run code from serialized DAGs; 3.4 changes the executor's keys and queues.
LEAST_VERSION: Final = "3.3"
BELOW_VERSION: Final = "3.4"

Workload = ExecuteTask | ExecuteCallback | TestConnection
WorkloadKey = TaskInstanceKey | CallbackKey | ConnectionTestKey


@dataclass(frozen=True, slots=True)
class Expected:
    """A callable of Airflow's (``module:qualified.name``) and the parameters that we pass to it or are passed by it."""

    path: str
    parameters: tuple[str, ...]


#: What the executor and the migrations lean on.
EXECUTOR_SIDE: Final = (
    Expected("airflow.executors.base_executor:BaseExecutor.__init__", ("self", "parallelism", "team_name")),
    Expected("airflow.executors.base_executor:BaseExecutor.queue_workload", ("self", "workload", "session")),
    Expected(
        "airflow.executors.base_executor:BaseExecutor.change_state", ("self", "key", "state", "info", "remove_running")
    ),
    Expected("airflow.executors.base_executor:BaseExecutor.sync", ("self",)),
    Expected("airflow.executors.base_executor:BaseExecutor.revoke_task", ("self", "ti")),
    Expected("airflow.executors.base_executor:BaseExecutor.try_adopt_task_instances", ("self", "tis")),
    Expected("airflow.executors.base_executor:BaseExecutor.get_task_log", ("self", "ti", "try_number")),
    Expected("airflow.utils.log.file_task_handler:FileTaskHandler._read_from_local", ("self", "worker_log_path")),
    Expected("airflow.utils.log.file_task_handler:FileTaskHandler._get_executor_get_task_log", ("self", "ti")),
    Expected("airflow.utils.log.file_task_handler:_get_compatible_log_stream", ("log_messages",)),
    Expected("airflow.logging_config:get_remote_task_log", ()),
    Expected("airflow.logging.remote:RemoteLogStreamIO.stream", ("self", "relative_path", "ti")),
    Expected("airflow.logging.remote:RemoteLogIO.upload", ("self", "path", "ti")),
    Expected("airflow.executors.base_executor:BaseExecutor.fail_connection_test", ("self", "key")),
    Expected("airflow.executors.base_executor:BaseExecutor.debug_dump", ("self",)),
    Expected("airflow.utils.session:create_session", ("scoped",)),
    Expected("airflow.utils.db_manager:BaseDBManager.initdb", ("self", "use_migration_files")),
    Expected(
        "airflow.utils.db_manager:BaseDBManager.upgradedb",
        ("self", "to_revision", "from_revision", "show_sql_only", "use_migration_files"),
    ),
    Expected("airflow.utils.db_manager:BaseDBManager.check_migration", ("self",)),
)

#: What the Remote Execution API leans on.
API_SIDE: Final = (
    Expected("airflow.api_fastapi.execution_api.app:create_task_execution_api_app", ("lifespan",)),
    Expected("airflow.api_fastapi.common.dagbag:create_dag_bag", ()),
    Expected("airflow.api_fastapi.auth.tokens:get_signing_args", ("make_secret_key_if_needed",)),
    Expected("airflow.api_fastapi.auth.tokens:JWTGenerator.generate", ("self", "extras", "headers", "valid_for")),
)


def differences(expectations: Iterable[Expected]) -> list[str]:
    """How the installed Airflow differs from ``expectations``, for people; empty when it does not."""
    found = []
    for expected in expectations:
        module, _, name = expected.path.partition(":")
        try:
            target: Any = importlib.import_module(module)
            for part in name.split("."):
                target = getattr(target, part)
            parameters = tuple(inspect.signature(target).parameters)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            found.append(f"{expected.path} is missing: {error}")
            continue
        if parameters != expected.parameters:
            found.append(f"{expected.path} takes ({', '.join(parameters)}), not ({', '.join(expected.parameters)})")
    return found


def check(expectations: Iterable[Expected] = EXECUTOR_SIDE) -> None:
    """Raise ConfigError unless this Airflow is one that we know, by its version and by ``expectations``."""
    installed = Version(airflow_version)
    if not Version(LEAST_VERSION) <= installed or installed.release >= Version(BELOW_VERSION).release:
        raise ConfigError(
            f"Airflow {airflow_version} is installed; this version of Isthmus needs >={LEAST_VERSION},<{BELOW_VERSION}",
            code="airflow_version",
            hint=f"Install apache-airflow>={LEAST_VERSION},<{BELOW_VERSION}, or another version of Isthmus.",
        )
    if found := differences(expectations):
        raise ConfigError(
            f"Airflow {airflow_version} is not the Airflow that Isthmus knows: {'; '.join(found)}",
            code="airflow_incompatible",
            hint="Something replaced parts of Airflow (a patch, a plugin, a development version): install a release.",
        )


# --- configuration -----------------------------------------------------------------------------------------------


def deployment_config() -> config.DeploymentConfig:
    """Section ``[isthmus]`` of Airflow's configuration. Raises ConfigError."""
    return config.load(conf.getsection(config.SECTION) or {})


def database_url() -> str:
    """``[database] sql_alchemy_conn``, as it is set."""
    return str(conf.get_mandatory_value("database", "sql_alchemy_conn"))


def idle_sleep_seconds() -> float:
    """How long the scheduler sleeps after a loop that found nothing to do."""
    return float(conf.getfloat("scheduler", "scheduler_idle_sleep_time"))


def scheduler_dead_seconds() -> int:
    """After how many seconds without a heartbeat a scheduler counts as dead."""
    return int(conf.getint("scheduler", "scheduler_health_check_threshold"))


def airflow_url() -> str | None:
    """Where people reach Airflow's UI, [api] base_url; None if that is not set, or is nothing that a browser opens."""
    url = conf.get("api", "base_url", fallback="").rstrip("/")
    return url if re.fullmatch(admin.WEB_URL_PATTERN, url) else None


def default_queue() -> str:
    """The queue of workloads that name none."""
    return str(conf.get_mandatory_value("operators", "default_queue"))


def is_configured_executor(module_path: str) -> bool:
    """Whether ``[core] executor`` names the executor ``module_path``, alone or among others."""
    executors: Mapping[str, object] | str = conf.get_mandatory_value("core", "executor")
    return module_path in str(executors)


# --- the database ------------------------------------------------------------------------------------------------


#: A row that changes when a run is created, or set back to be run again, by anybody. Two index lookups: ``max`` of the
#: primary key, and at most a hundred entries of Airflow's partial index on queued runs.
RUNS_TO_START: Final = """
    SELECT max(id), (SELECT count(*) FROM (SELECT FROM dag_run WHERE state = 'queued' LIMIT 100) AS queued) FROM dag_run
"""


def unfinished_subjects() -> Select[tuple[str]]:
    """The ids of the callbacks and connection tests that Airflow has handed to an executor and waits for."""
    callbacks = select(cast(ExecutorCallback.id, Text)).where(
        ExecutorCallback.state.in_([CallbackState.QUEUED, CallbackState.RUNNING])
    )
    tests = select(cast(ConnectionTestRequest.id, Text)).where(
        ConnectionTestRequest.state.in_([ConnectionTestState.QUEUED, ConnectionTestState.RUNNING])
    )
    return select(union_all(callbacks, tests).subquery().c[0])


def is_queued(task_instance_id: ColumnElement[str]) -> Exists:
    """The condition that the task instance exists and is queued."""
    return exists().where(
        TaskInstance.id == cast(task_instance_id, Uuid), TaskInstance.state == TaskInstanceState.QUEUED
    )


def scheduler_lives(job_id: ColumnElement[int], dead_seconds: float) -> Exists:
    """The condition that the scheduler job ``job_id`` runs and has heartbeated in the last ``dead_seconds``."""
    return exists().where(
        Job.id == job_id,
        Job.job_type == "SchedulerJob",
        Job.state == JobState.RUNNING,
        Job.latest_heartbeat > func.now() - timedelta(seconds=dead_seconds),
    )


def own_session() -> AbstractContextManager[Session]:
    """A session of our own, which commits at the end: the scheduler's may be in the middle of something."""
    return create_session(scoped=False)


def engine() -> sqlalchemy.engine.Engine:
    """Airflow's engine. Raises InternalError before Airflow has set it up."""
    found: sqlalchemy.engine.Engine | None = settings.engine
    if found is None:
        raise InternalError("Airflow has no database engine yet", code="airflow_not_initialized")
    return found


# --- task logs -----------------------------------------------------------------------------------------------------


def is_live(ti: Any) -> bool:
    """Whether lines may still be added to the log of ``ti``, a task instance or one of its history."""
    return ti.state in {TaskInstanceState.RUNNING, TaskInstanceState.DEFERRED}


def remote_task_log() -> object:
    """What Airflow reads logs with that are not on its own disk; None if that is nothing."""
    from airflow.logging_config import get_remote_task_log

    return get_remote_task_log()


def plane_logs(relative_path: str) -> tuple[list[str], list[Generator[str, None, None]]]:
    """What Airflow's own processes (scheduler, triggerer) wrote about a task into a folder that this one sees.

    Airflow does not look there for a finished task that has remote logs.
    """
    from airflow.utils.log.file_task_handler import FileTaskHandler

    folder = Path(conf.get_mandatory_value("logging", "base_log_folder")).expanduser()
    handler: Any = FileTaskHandler(str(folder))
    sources, streams = handler._read_from_local(folder / relative_path)  # noqa: SLF001 - checked above
    return sources, streams


# --- the Remote Execution API ------------------------------------------------------------------------------------


def task_sdk_version() -> str:
    """The version of Airflow's Task SDK that is installed here."""
    return importlib.metadata.version("apache-airflow-task-sdk")


class TaskTokens:
    """Mints the tokens by which a workload speaks to Airflow's Execution API, with Airflow's own key.

    Airflow knows two scopes. ``workload`` opens the transition to running (which answers with an ``execution`` token)
    and connection tests, and nothing else; ``execution`` opens the rest. A callback makes no transition, so it gets an
    ``execution`` token from the start: with the other one Airflow 3.3 refuses it every connection.
    """

    def __init__(self) -> None:
        """Raises ConfigError when Airflow has no key to sign with."""
        from airflow.api_fastapi.auth.tokens import JWTGenerator, get_signing_args

        try:
            signing = get_signing_args(make_secret_key_if_needed=False)
        except ValueError as error:
            raise ConfigError(
                f"Airflow has no key for task tokens: {error}",
                code="jwt_key_missing",
                hint="Set [api_auth] jwt_secret, or jwt_private_key_path, the same for every Airflow component.",
            ) from None
        self._generator = JWTGenerator(
            valid_for=conf.getint("execution_api", "jwt_expiration_time"),
            audience=conf.get_mandatory_list_value("execution_api", "jwt_audience")[0],
            issuer=conf.get("api_auth", "jwt_issuer", fallback=None),
            **signing,
        )
        self._unstarted_seconds = conf.getfloat("scheduler", "task_queued_timeout")

    def first(self, kind: Kind, subject_id: str) -> str:
        """The token that goes out with the lease."""
        if kind is Kind.CALLBACK:
            return self._generator.generate({"sub": subject_id, "scope": "execution"})
        return self._generator.generate({"sub": subject_id, "scope": "workload"}, valid_for=self._unstarted_seconds)

    def again(self, kind: Kind, subject_id: str) -> str:
        """A token for a workload that has started, as after an outage that outlived the one it had."""
        if kind is Kind.CONNECTION_TEST:
            return self.first(kind, subject_id)
        return self._generator.generate({"sub": subject_id, "scope": "execution"})

    def component(self, agent_id: str) -> str:
        """A token for the calls that an agent makes for itself: its subject is the agent."""
        return self._generator.generate(
            {"sub": agent_id, "scope": "execution"}, valid_for=components.COMPONENT_TOKEN_SECONDS
        )


def execution_app() -> "FastAPI":
    """Airflow's Execution API as an application of its own, whose lifespan its owner must enter.

    Its services are its own (``svcs`` registry), so nothing is shared with another instance in this process.
    """
    # Airflow's switch between the secrets backends of servers and of tasks, read when they are first used.
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
    import attrs
    import svcs
    from airflow.api_fastapi.common.dagbag import create_dag_bag
    from airflow.api_fastapi.execution_api.app import create_task_execution_api_app, lifespan

    app = create_task_execution_api_app(lifespan=attrs.evolve(lifespan, registry=svcs.Registry()))
    app.state.dag_bag = create_dag_bag()
    return app


def may_see_plugins() -> Callable[..., None]:
    """A FastAPI dependency: 401 without Airflow's session or token, 403 for who may not see Airflow's plugins."""
    from airflow.api_fastapi.auth.managers.models.resource_details import AccessView
    from airflow.api_fastapi.core_api.security import requires_access_view

    return requires_access_view(AccessView.PLUGINS)


async def warm(app: "FastAPI") -> None:
    """Have the Execution API built, whose lifespan has been entered.

    Cadwyn makes the routers of every API version in its first request: seconds of CPU in the event loop, during which
    no agent could connect and no heartbeat would be answered.
    """
    import httpx

    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://warming") as client:
        (await client.get("/health")).raise_for_status()
