"""Everything that the runner uses of Airflow's internals, in one place, with a check that it is what it was.

Written against Airflow 3.3. No other module of the runner imports Airflow. ``check`` compares signatures with what is
called here and below, before anything is forked, so that an Airflow that changed says so at start and by name instead
of failing tasks. Importing this module imports Airflow: the environment must be set before (``__main__``).
"""

# ruff: noqa: SLF001 - private members of Airflow's are what this module is for

import codecs
import importlib
import inspect
import logging
import os
import platform
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, wraps
from importlib.metadata import entry_points
from itertools import chain
from pathlib import Path
from selectors import BaseSelector
from types import ModuleType, SimpleNamespace
from typing import Any, BinaryIO, Final, NoReturn, Self, cast

import airflow
import attrs
import structlog
from airflow import settings as airflow_settings
from airflow._shared.observability.traces import configure_otel
from airflow.configuration import AIRFLOW_HOME
from airflow.configuration import conf as core_conf
from airflow.dag_processing import dagbag
from airflow.dag_processing.bundles import base as bundles
from airflow.dag_processing.bundles.local import LocalDagBundle
from airflow.exceptions import AirflowConfigException
from airflow.executors.workloads import ExecuteCallback, ExecuteTask, ExecutorWorkload, TestConnection
from airflow.providers_manager import ProvidersManager
from airflow.sdk import __version__ as task_sdk_version
from airflow.sdk import log as sdk_log
from airflow.sdk import plugins_manager as sdk_plugins_manager
from airflow.sdk._shared.listeners.listener import ListenerManager
from airflow.sdk._shared.listeners.spec import lifecycle, taskinstance
from airflow.sdk._shared.logging import structlog as structlog_setup
from airflow.sdk._shared.observability.metrics.base_stats_logger import NoStatsLogger
from airflow.sdk._shared.secrets_masker.secrets_masker import reset_secrets_masker
from airflow.sdk.api.client import Client, get_hostname, getuser
from airflow.sdk.api.datamodels._generated import TIRunContext
from airflow.sdk.configuration import conf
from airflow.sdk.execution_time import callback_supervisor, comms, connection_test_supervisor, supervisor, task_runner
from airflow.sdk.execution_time.comms import StartupDetails
from airflow.sdk.execution_time.coordinator import get_coordinator_manager
from airflow.sdk.execution_time.supervisor import ActivitySubprocess, ProcessTracker, WatchedSubprocess
from airflow.sdk.listener import get_listener_manager
from airflow.sdk.observability.metrics import stats_utils
from opentelemetry.trace import NoOpTracer
from pydantic import JsonValue, TypeAdapter, ValidationError

from isthmus.kit.errors import ConfigError, PermanentError

__all__ = [
    "Client",
    "IncompatibleAirflowError",
    "PayloadError",
    "ProcessTracker",
    "accept_any_executor",
    "airflow_version",
    "bundle_modules",
    "call_with_each_subprocess",
    "check",
    "configure_logging",
    "has_remote_logs",
    "import_exporter",
    "import_what_tasks_import",
    "keep_bundles_at_home",
    "keep_task_logging",
    "keep_type_adapters",
    "load_supervisor_parts",
    "log_folder",
    "parse_workload",
    "python_version",
    "read_remote_log",
    "remove_stale_versions",
    "run_task",
    "run_task_here",
    "run_workload",
    "settle_what_is_absent",
    "skip_first_heartbeat",
    "start_tasks_with",
    "start_tracing",
    "startup_frames",
    "task_sdk_version",
]

airflow_version: Final[str] = airflow.__version__
python_version: Final[str] = platform.python_version()

#: Series whose internals were read and tested.
_SUPPORTED: Final = ("3.3.",)

#: What Airflow imports late, found by looking at what a task of each standard operator still imported.
_TASK_MODULES: Final = (
    "airflow.providers.standard.decorators.python",
    "airflow.providers.standard.operators.bash",
    "airflow.providers.standard.operators.empty",
    "airflow.providers.standard.operators.python",
    "airflow.sdk.definitions.asset.metadata",
    "airflow.sdk.execution_time.task_runner",
    "airflow.sdk.serde",
    "encodings.idna",
    "jinja2.ext",
)

#: Section and key of where bundles are checked out.
_BUNDLE_STORAGE: Final = ("dag_processor", "dag_bundle_storage_path")

#: What ``ActivitySubprocess.start`` passes on for a task that is started as this runner knows it.
_TASK_ARGUMENTS: Final = frozenset(
    {"id", "client", "logger", "use_exec", "new_process_group", "subprocess_logs_to_stdout"}
)

#: What a task with ``run_as_user`` has sudo execute, and what it executes here.
_REEXECUTION: Final = "from airflow.sdk.execution_time.task_runner import main; main()"
_OUR_REEXECUTION: Final = f"from isthmus.runner.reexecuted import tie; tie(); {_REEXECUTION}"

_WORKLOAD: Final[TypeAdapter[Any]] = TypeAdapter(ExecutorWorkload)


class IncompatibleAirflowError(ConfigError):
    """The installed Airflow is not the one that this runner was written for."""

    def __init__(self, summary: str) -> None:
        super().__init__(
            summary,
            code="airflow_incompatible",
            hint=f"install apache-airflow>=3.3,<3.4 beside the runner; found {airflow_version}",
        )


class PayloadError(PermanentError):
    """The workload is not one that this Airflow can read."""


# --- the check ---------------------------------------------------------------------------------------------------


def _calls() -> dict[str, tuple[Callable[..., Any], tuple[str, ...], tuple[str, ...]]]:
    """What is called: by name, the callable, its positional arguments, its keyword arguments."""
    return {
        "BundleUsageTrackingManager._remove_stale_bundle_versions_for_bundle": (
            bundles.BundleUsageTrackingManager._remove_stale_bundle_versions_for_bundle,
            ("",),
            ("bundle_name",),
        ),
        "supervise_task": (
            supervisor.supervise_task,
            (),
            ("ti", "bundle_info", "dag_rel_path", "token", "log_path", "client", "sentry_integration"),
        ),
        "supervise_callback": (
            callback_supervisor.supervise_callback,
            (),
            ("id", "callback_path", "callback_kwargs", "dag_rel_path", "log_path", "bundle_info", "token", "client"),
        ),
        "supervise_connection_test": (
            connection_test_supervisor.supervise_connection_test,
            (),
            ("connection_test_id", "connection_id", "timeout", "token", "server"),
        ),
        "WatchedSubprocess._register_pipe_readers": (
            WatchedSubprocess._register_pipe_readers,
            ("self", "stdout", "stderr", "requests", "logs"),
            ("data",),
        ),
        "ActivitySubprocess._on_child_started": (
            ActivitySubprocess._on_child_started,
            ("self",),
            ("ti", "dag_rel_path", "bundle_info", "sentry_integration"),
        ),
        "supervisor._configure_logs_over_json_channel": (supervisor._configure_logs_over_json_channel, ("fd",), ()),
        "dagbag._validate_executor_fields": (dagbag._validate_executor_fields, ("dag", "bundle"), ()),
        "task_runner.main": (task_runner.main, (), ()),
        "configure_otel": (configure_otel, ("conf",), ()),
        "WatchedSubprocess.start": (
            WatchedSubprocess.start,
            (),
            ("target", "logger", "use_exec", "new_process_group"),
        ),
        "supervisor._fork_main": (
            supervisor._fork_main,
            ("requests", "stdout", "stderr", "log_fd", "target"),
            (),
        ),
        "supervisor._subprocess_main": (supervisor._subprocess_main, (), ()),
        "Client.__init__": (Client.__init__, ("self",), ("base_url", "token", "transport", "timeout")),
        "Client._get_ssl_context_cached": (Client._get_ssl_context_cached, ("ca_file", "ca_path"), ()),
    }


def check() -> None:
    """Raise IncompatibleAirflowError if something that the runner calls or replaces is not what it was."""
    if not airflow_version.startswith(_SUPPORTED):
        raise IncompatibleAirflowError(f"Airflow {airflow_version} is not supported by this runner")
    try:
        calls = _calls()
    except AttributeError as error:
        raise IncompatibleAirflowError(f"something of Airflow's is gone: {error}") from None
    for name, (function, positional, keywords) in calls.items():
        try:
            inspect.signature(function).bind(*positional, **dict.fromkeys(keywords))
        except TypeError as error:
            raise IncompatibleAirflowError(f"Airflow's {name} has changed: {error}") from None
    missing = {"pid", "selector", "_exit_code", "_open_sockets"} - {
        field.name for field in attrs.fields(WatchedSubprocess)
    }
    if missing:
        raise IncompatibleAirflowError(f"Airflow's ActivitySubprocess has no {', '.join(sorted(missing))}")
    if _REEXECUTION not in inspect.getsource(task_runner) or "os.execvp(" not in inspect.getsource(task_runner):
        raise IncompatibleAirflowError("Airflow's task runner becomes another user in another way")
    if getattr(connection_test_supervisor, "Client", None) is not Client:
        raise IncompatibleAirflowError("Airflow's connection test supervisor makes its client in another way")


# --- running -----------------------------------------------------------------------------------------------------


def parse_workload(payload: Mapping[str, Any], token: str) -> ExecuteTask | ExecuteCallback | TestConnection:
    """Airflow's own object for ``payload``, its JSON without the token. Raises PayloadError."""
    try:
        return cast(
            "ExecuteTask | ExecuteCallback | TestConnection", _WORKLOAD.validate_python({**payload, "token": token})
        )
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:5])
        raise PayloadError(
            f"the workload is not one that Airflow {airflow_version} can read: {problems}",
            code="payload_unreadable",
            hint="the plane's Airflow may be newer than the agent's",
        ) from None


def run_workload(workload: ExecuteTask | ExecuteCallback | TestConnection, client: Client) -> int:
    """Run ``workload`` to its end in this process and its child; 0, an exit code, or a negative signal number.

    What ``BaseExecutor.run_workload`` does, which takes no client. Never call it twice in a process: Airflow's
    supervisors leave logging, signal handlers and caches behind.
    """
    match workload:
        case ExecuteTask():
            return int(
                supervisor.supervise_task(
                    ti=cast("Any", workload.ti),
                    bundle_info=workload.bundle_info,
                    dag_rel_path=workload.dag_rel_path,
                    token="",
                    log_path=workload.log_path,
                    client=client,
                    sentry_integration=workload.sentry_integration,
                )
            )
        case ExecuteCallback():
            return int(
                callback_supervisor.supervise_callback(
                    id=workload.callback.id,
                    callback_path=workload.callback.data.get("path", ""),
                    callback_kwargs=workload.callback.data.get("kwargs", {}),
                    dag_rel_path=workload.dag_rel_path,
                    log_path=workload.log_path,
                    bundle_info=workload.bundle_info,
                    token="",
                    client=client,
                )
            )
        case TestConnection():
            # It makes its own client and offers no way to pass one.
            _replace(connection_test_supervisor, "Client", lambda **_: client)
            return int(
                connection_test_supervisor.supervise_connection_test(
                    connection_test_id=workload.connection_test_id,
                    connection_id=workload.connection_id,
                    timeout=workload.timeout,
                    token="",
                    server="",
                )
            )


# --- once in the fork server, instead of in each task ------------------------------------------------------------


def configure_logging() -> None:
    """Airflow's logging for the fork server and the supervisors: JSON lines on standard error, secrets masked."""
    sdk_log.configure_logging(json_output=True, output=sys.stderr.buffer)


def import_what_tasks_import() -> None:
    """Import what every task imports on its way, also what Airflow imports lazily."""
    for name in _TASK_MODULES:
        importlib.import_module(name)
    ProvidersManager().initialize_providers_taskflow_decorator()  # type: ignore[no-untyped-call]


def bundle_modules() -> tuple[str, ...]:
    """The modules of the configured bundles' classes that come with Airflow and its providers, each once.

    Every task imports that of its bundle. GitDagBundle's costs 0.35 s of CPU, six times what all else of a task does.
    """
    try:
        configured: Any = core_conf.getjson("dag_processor", "dag_bundle_config_list", fallback=[])
        paths = [str(one["classpath"]) for one in configured]
    except (AirflowConfigException, TypeError, KeyError, ValueError):
        return ()  # each task that has a bundle says it better
    return tuple(dict.fromkeys(path.rpartition(".")[0] for path in paths if path.startswith("airflow.")))


def keep_type_adapters() -> None:
    """Build the pydantic validators of a task's messages once.

    Each task makes five (its whole protocol with the supervisor among them) and throws them away with its process.
    """
    adapters: dict[int, tuple[object, TypeAdapter[Any]]] = {}

    def type_adapter(of: Any) -> TypeAdapter[Any]:
        if id(of) not in adapters:
            adapters[id(of)] = (of, TypeAdapter(of))  # held, so that its id stays its own
        return adapters[id(of)][1]

    for module in (comms, task_runner):
        _replace(module, "TypeAdapter", type_adapter)
    for of in (comms.ToTask, JsonValue):
        type_adapter(of)


@dataclass(frozen=True)
class _Logging:
    """How a process logs: structlog's configuration, and the root handlers of ``logging``."""

    structlog_config: dict[str, Any]
    handlers: list[logging.Handler]

    @classmethod
    def current(cls) -> Self:
        return cls(structlog.get_config(), logging.root.handlers[:])

    def apply(self) -> None:
        structlog.configure(**self.structlog_config)
        logging.root.handlers[:] = self.handlers

    def towards(self, output: BinaryIO) -> Self:
        """The same configuration with another end."""
        factory = self.structlog_config["logger_factory"]
        for handler in self.handlers:
            # Not setStream, which flushes the former stream: here that one is closed, or another process's.
            cast("logging.StreamHandler[Any]", handler).stream = codecs.getwriter("utf-8")(output)
        config = {**self.structlog_config, "logger_factory": type(factory)(factory.cls, io=output)}
        return replace(self, structlog_config=config)


@cache
def _task_logging() -> _Logging | None:
    """A task's logging, built once; None when remote logging has processors of its own.

    Those may hold connections, which must be made in the task.
    """
    remote = sdk_log.load_remote_log_handler()
    if remote is not None and getattr(remote, "processors", None):
        return None
    ours = _Logging.current()
    try:
        with open(os.devnull, "wb", buffering=0) as nowhere:  # noqa: PTH123 - unbuffered binary
            sdk_log.reset_logging()  # type: ignore[no-untyped-call]
            sdk_log.configure_logging(json_output=True, output=nowhere, sending_to_supervisor=True)
            return _Logging.current()
    finally:
        ours.apply()


def keep_task_logging() -> None:
    """Have each task point its logging at the supervisor instead of building it anew.

    Airflow's own way makes all processors, and goes through every logger of the process some seventy times.
    """
    prepared = _task_logging()
    if prepared is None:
        return

    def point(log_fd: int) -> None:
        prepared.towards(os.fdopen(log_fd, "wb", buffering=0)).apply()
        structlog_setup._install_excepthook()

    _replace(supervisor, "_configure_logs_over_json_channel", point)


def skip_first_heartbeat() -> None:
    """Let the first heartbeat of a task wait for its interval.

    The ``run`` request that was just answered has set ``last_heartbeat_at`` already. Airflow's supervisor sends a
    heartbeat in its first loop all the same: a quarter of all requests of a short task, at the plane as well.
    """
    started = ActivitySubprocess._on_child_started

    @wraps(started)
    def on_child_started(self: Any, *args: Any, **kwargs: Any) -> None:
        started(self, *args, **kwargs)
        self._last_heartbeat_attempt = time.monotonic()

    _replace(ActivitySubprocess, "_on_child_started", on_child_started)


def start_tasks_with(fork_task: Callable[[Sequence[socket.socket]], ProcessTracker]) -> None:
    """Have the supervisors of this process get their tasks from ``fork_task`` instead of forking them.

    ``fork_task`` gets the task's ends of its requests, standard output, standard error and log sockets. What is not a
    plain task (a callback, a task of a coordinator of its own) is forked as ever.
    """
    start = cast("Any", WatchedSubprocess.start).__func__

    def start_elsewhere(cls: Any, /, *, target: Any = supervisor._subprocess_main, **arguments: Any) -> Any:
        if target is not supervisor._subprocess_main or set(arguments) - _TASK_ARGUMENTS:
            return start(cls, target=target, **arguments)
        logger = arguments.pop("logger", None) or structlog.get_logger(logger_name="task").bind()
        arguments.pop("use_exec", None)
        pairs = [socket.socketpair() for _ in range(4)]
        try:
            process = fork_task([theirs for theirs, _ in pairs])
        finally:
            for theirs, _ in pairs:
                theirs.close()
        requests, stdout, stderr, logs = (ours for _, ours in pairs)
        task = cls(
            pid=process.pid,
            stdin=requests,
            process=process,
            process_log=logger,
            start_time=time.monotonic(),
            **arguments,
        )
        task._register_pipe_readers(stdout, stderr, requests, logs, data={})
        return task

    _replace(WatchedSubprocess, "start", classmethod(start_elsewhere))


def run_task(requests: socket.socket, stdout: socket.socket, stderr: socket.socket, logs: socket.socket) -> NoReturn:
    """Be the task of a supervisor that has the other ends of these sockets."""

    def main() -> None:
        start_tracing()
        _reexecute_ours()
        supervisor._subprocess_main()  # type: ignore[no-untyped-call]

    supervisor._fork_main(requests, stdout, stderr, logs.fileno(), main)


def _reexecute_ours() -> None:
    """Have a task that becomes another user begin with ``isthmus.runner.reexecuted``. For a task's own process."""
    execute = os.execvp

    def execvp(file: str, args: Any) -> NoReturn:
        if file == "sudo" and args[-1] == _REEXECUTION:
            args = [*args[:-1], _OUR_REEXECUTION]
        execute(file, args)

    _replace(os, "execvp", execvp)


def start_tracing() -> None:
    """Export spans from this process, if ``[traces] otel_on``. Once in a process that was forked by the fork server."""
    configure_otel(core_conf)


def import_exporter() -> None:
    """Import what exports spans, if anything does, once for all tasks. Raises ConfigError when it is not installed."""
    if not core_conf.getboolean("traces", "otel_on", fallback=False):
        return
    name = os.environ.get("OTEL_TRACES_EXPORTER", "otlp")
    found = list(entry_points(group="opentelemetry_traces_exporter", name=name))
    if not found:
        raise ConfigError(
            f"no exporter {name!r} of spans is installed",
            code="airflow_unusable",
            hint="set OTEL_TRACES_EXPORTER to otlp_proto_http, or install what it names beside the runner",
        )
    found[0].load()


def accept_any_executor() -> None:
    """Let DAG files name executors that only the plane knows.

    Parsing a DAG file compares each task's ``executor`` with ``[core] executor``, which an agent would have to repeat.
    The scheduler has made its choice already when the task is here.
    """
    _replace(dagbag, "_validate_executor_fields", lambda *_, **__: None)


def keep_bundles_at_home() -> None:
    """Keep what is checked out of DAG bundles below AIRFLOW_HOME, unless the configuration names a place.

    Airflow's own place is one in the folder of temporary files: whoever came first on a host would own it, and could
    put code of his own there for the tasks of others.
    """
    if core_conf.get(*_BUNDLE_STORAGE, fallback=None):
        return
    folder = Path(AIRFLOW_HOME) / "dag_bundles"
    os.environ["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH"] = str(folder)
    _replace(bundles, "STALE_BUNDLE_TRACKING_FOLDER", folder / "_tracking")  # made of the former place at its import


def remove_stale_versions(bundle: str, version: str | None) -> None:
    """Now and then remove checked-out versions of a bundle that no task has used lately.

    Airflow's DAG processor does it where it runs; here it is done after a task of that bundle, for agents that are
    workers alone. Age, number and interval are Airflow's (``[dag_processor] stale_bundle_cleanup_*``). A version that
    a task uses is locked. Raises OSError, as when another process was faster.
    """
    interval = core_conf.getint("dag_processor", "stale_bundle_cleanup_interval")
    if version is None or interval <= 0:
        return
    last = Path(core_conf.get(*_BUNDLE_STORAGE)) / "_locks" / f"{bundle}.cleaned"
    if last.exists() and time.time() - last.stat().st_mtime < interval:
        return
    last.parent.mkdir(parents=True, exist_ok=True)
    last.touch()
    bundles.BundleUsageTrackingManager()._remove_stale_bundle_versions_for_bundle(bundle_name=bundle)


def call_with_each_subprocess(watch: Callable[[int, ProcessTracker, BaseSelector], None]) -> None:
    """Call ``watch`` with the pid, tracker and selector of each ``WatchedSubprocess`` that has its sockets selected."""
    register = WatchedSubprocess._register_pipe_readers

    @wraps(register)
    def register_and_watch(self: Any, *args: Any, **kwargs: Any) -> None:
        register(self, *args, **kwargs)
        watch(self.pid, self._process, self.selector)

    _replace(WatchedSubprocess, "_register_pipe_readers", register_and_watch)


def load_supervisor_parts() -> None:
    """What a supervisor looks up before it runs a task: the same in each."""
    sdk_log.load_remote_log_handler()
    sdk_log.logging_processors(json_output=True)
    get_coordinator_manager()
    supervisor.ensure_secrets_backend_loaded()
    # As each supervisor does: what is masked in a task's log is what that task meets.
    reset_secrets_masker()
    get_hostname()  # type: ignore[no-untyped-call]
    getuser()


def settle_what_is_absent() -> None:
    """Shut the ORM for good, and remember that there are no plugins, if there are none.

    Plugins that exist are loaded by each task, as everywhere: their code may start threads and open connections. A
    plugin that is added while the agent runs is seen after a restart, as Airflow says of plugins anyway.
    """
    supervisor.block_orm_access()  # type: ignore[no-untyped-call]
    in_folder = any(Path(airflow_settings.PLUGINS_FOLDER or "").rglob("*.py"))
    # Our own has only a page of the API server's: a task loads nothing of it.
    foreign = [one for one in entry_points(group="airflow.plugins") if one.module != "isthmus.deployment.plugin"]
    if not in_folder and not foreign and airflow_settings.LAZY_LOAD_PROVIDERS:
        get_listener_manager()
        sdk_plugins_manager.integrate_macros_plugins()


# --- the rehearsal -----------------------------------------------------------------------------------------------


def startup_frames(payload: Mapping[str, Any], context: Mapping[str, Any], *, answers: int) -> bytes:
    """What a supervisor would send to the task of ``payload``: the start, and ``answers`` empty answers."""
    workload: Any = parse_workload(payload, "")
    start = StartupDetails.model_construct(
        ti=workload.ti,
        dag_rel_path=os.fspath(workload.dag_rel_path),
        bundle_info=workload.bundle_info,
        ti_context=TIRunContext.model_validate(context),
        start_date=datetime.now(tz=UTC),
        sentry_integration="",
    )
    frames = [
        comms._ResponseFrame(id=0, body=start.model_dump()),
        *(comms._ResponseFrame(id=n) for n in range(answers)),
    ]
    return b"".join(bytes(frame.as_bytes()) for frame in frames)


def run_task_here(bundle: Path) -> None:
    """Run Airflow's task runner in this process on the frames that wait at descriptor 0, noticed by nobody.

    Listeners, plugins, cluster policies, metrics, traces and logs do not see it. Restoring what a task does to its
    process is the caller's. Raises what the task raises.
    """

    class Bundles:
        def get_bundle(self, name: str, version: str | None = None) -> LocalDagBundle:
            return LocalDagBundle(name=name, version=version, path=str(bundle))

    def listeners() -> ListenerManager:
        manager = ListenerManager()  # type: ignore[no-untyped-call]
        manager.add_hookspecs(lifecycle)
        manager.add_hookspecs(taskinstance)
        return manager

    ours = _Logging.current()
    with (
        open(os.devnull, "wb", buffering=0) as nowhere,  # noqa: PTH123 - unbuffered binary
        _replaced(task_runner, "DagBundlesManager", Bundles),
        _replaced(task_runner, "get_listener_manager", listeners),
        _replaced(task_runner, "tracer", NoOpTracer()),
        _replaced(stats_utils, "get_stats_factory", lambda: NoStatsLogger),
        _replaced(sdk_plugins_manager, "integrate_macros_plugins", lambda: None),
        _replaced(airflow_settings, "dag_policy", lambda dag: None),
        _replaced(airflow_settings, "task_policy", lambda task: None),
    ):
        quiet = (_task_logging() or ours).towards(nowhere)
        # A logger that is kept would keep this configuration, and supervisors share some of them.
        replace(quiet, structlog_config={**quiet.structlog_config, "cache_logger_on_first_use": False}).apply()
        try:
            task_runner.main()  # type: ignore[no-untyped-call]
        finally:
            ours.apply()
            vars(task_runner).pop("SUPERVISOR_COMMS", None)


@contextmanager
def _replaced(module: ModuleType, name: str, value: object) -> Iterator[None]:
    before = getattr(module, name)
    _replace(module, name, value)
    try:
        yield
    finally:
        _replace(module, name, before)


def _replace(owner: ModuleType | type, name: str, value: object) -> None:
    """Put something of ours in the place of something of Airflow's; all such places are in this module."""
    setattr(owner, name, value)


# --- task logs -----------------------------------------------------------------------------------------------------


def log_folder() -> str:
    """Where tasks write their logs."""
    return str(Path(conf.get("logging", "base_log_folder")).expanduser())


def has_remote_logs() -> bool:
    """Whether remote logging is configured, as tasks see it."""
    handler = sdk_log.load_remote_log_handler()
    # The plane's own handler, in an environment that was copied from there, keeps nothing.
    return handler is not None and type(handler).__module__ != "isthmus.deployment.remotelogs"


def read_remote_log(path: str, subject: Mapping[str, Any]) -> tuple[Sequence[str], Iterable[str]] | None:
    """Where the log was found, and its text in parts; None without remote logging. A provider may raise anything.

    ``subject`` has what a provider may look at of a task instance.
    """
    handler: Any = sdk_log.load_remote_log_handler()
    if not has_remote_logs():
        return None
    subject_given: Any = SimpleNamespace(**subject)
    read = getattr(handler, "stream", None) or handler.read
    sources, found = read(path, subject_given)
    return sources, chain.from_iterable([one] if isinstance(one, str) else one for one in found or ())
