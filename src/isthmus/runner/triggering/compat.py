"""The triggerer's part of Airflow's internals: the supervisor of its trigger runner, without a database.

Written against Airflow 3.3, whose ``TriggerRunnerSupervisor`` has seams for this (AIP-92). What is different here:

- which triggers run, what they are, and what becomes of their events is the plane's business, by way of ``holding`` and
  ``reporting``; the loop itself never waits for the network;
- what a trigger asks of Airflow's API is answered by threads, so that one slow answer delays one trigger;
- a trigger that is taken away because it runs elsewhere now is cancelled without ``on_kill``, which would end the
  customer's work outside; one that somebody ended is cancelled with it, once;
- a trigger that ended is not started again while the plane still takes its event in; a watcher that ended is, with
  pauses that grow;
- logs are appended to, and few files are open.
"""

# ruff: noqa: SLF001 - private members of Airflow's are what this module is for

import contextvars
import inspect
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, cast

import attrs
import structlog
from airflow._shared.observability.metrics import stats
from airflow.configuration import conf
from airflow.executors.workloads.trigger import RunTrigger
from airflow.jobs import triggerer_job_runner
from airflow.jobs.triggerer_job_runner import TriggerLoggingFactory, TriggerRunner, TriggerRunnerSupervisor, messages
from airflow.observability.metrics import stats_utils
from airflow.sdk.exceptions import ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse, MaskSecret
from airflow.sdk.execution_time.supervisor import WatchedSubprocess
from airflow.sdk.log import init_log_file, load_remote_log_handler
from airflow.sdk.serde import serialize
from airflow.triggers.base import BaseTaskEndEvent, TriggerEvent

from isthmus.kit.logs import get
from isthmus.runner import compat
from isthmus.runner.clients import GatewayClient
from isthmus.runner.compat import IncompatibleAirflowError
from isthmus.runner.triggering.holding import Fetched, Holding
from isthmus.runner.triggering.reporting import Reporting
from isthmus.runner.triggering.trails import OpenFiles, Trail
from isthmus.wire.triggers import (
    TriggerEventReport,
    TriggerOutcome,
    TriggerVerdict,
)

log = get(component="triggerer")

#: Threads that answer what triggers ask.
ANSWERING_THREADS: Final = 16
#: Between two starts of a watcher that ends by itself.
RESTART_SECONDS: Final = (1.0, 60.0)
#: How long triggers have for their end when we stop.
STOP_SECONDS: Final = 5.0


def check() -> None:
    """Raise IncompatibleAirflowError if something that is called or replaced here is not what it was."""
    compat.check()
    supervisor: Any = TriggerRunnerSupervisor
    calls: dict[str, tuple[Callable[..., Any], tuple[str, ...], tuple[str, ...]]] = {
        "start": (supervisor.start, (), ("job", "logger", "capacity")),
        "load_triggers": (supervisor.load_triggers, ("self",), ()),
        "run_once": (supervisor.run_once, ("self",), ()),
        "handle_events": (supervisor.handle_events, ("self",), ()),
        "handle_failed_triggers": (supervisor.handle_failed_triggers, ("self",), ()),
        "clean_unused": (supervisor.clean_unused, ("self",), ()),
        "heartbeat": (supervisor.heartbeat, ("self",), ()),
        "make_client": (supervisor.make_client, ("self",), ()),
        "metric_tags": (supervisor.metric_tags, ("self",), ()),
        "_handle_request": (supervisor._handle_request, ("self", "msg", "log", "req_id"), ()),
        "send_msg": (WatchedSubprocess.send_msg, ("self", "msg", "request_id"), ("error",)),
        "TriggerRunner.cancel_triggers": (TriggerRunner.cancel_triggers, ("self",), ()),
        "serde.serialize": (serialize, ("o",), ()),
        "init_log_file": (init_log_file, ("local_relative_path",), ()),
    }
    for name, (function, positional, keywords) in calls.items():
        try:
            inspect.signature(function).bind(*positional, **dict.fromkeys(keywords))
        except TypeError as error:
            raise IncompatibleAirflowError(f"Airflow's triggerer has changed: {name}: {error}") from None
    fields = {field.name for field in attrs.fields(supervisor)}
    known = {"running_triggers", "cancelling_triggers", "creating_triggers", "logger_cache", "persisted_event_seqs"}
    if missing := known - fields:
        raise IncompatibleAirflowError(f"Airflow's trigger supervisor has no {', '.join(sorted(missing))}")
    if not isinstance(getattr(triggerer_job_runner, "_USER_ACTION_CANCEL_MSG", None), str):
        raise IncompatibleAirflowError("Airflow's triggerer says in another way that somebody ended a task")


def bundles() -> tuple[str, ...]:
    """The DAG bundles that this environment names; none if it does not say, which means any."""
    given = conf.get("dag_processor", "dag_bundle_config_list")
    if given == conf.get_default_value("dag_processor", "dag_bundle_config_list"):
        return ()
    configured = conf.getjson("dag_processor", "dag_bundle_config_list")
    listed = configured if isinstance(configured, list) else []
    return tuple(str(one["name"]) for one in listed if isinstance(one, dict) and one.get("name"))


def prepare() -> None:
    """What Airflow's triggerer does before it starts."""
    compat.configure_logging()
    stats.initialize(
        factory=cast("Any", stats_utils.get_stats_factory()),
        export_legacy_names=conf.getboolean("metrics", "legacy_names_on"),
    )


class QuietRunner(TriggerRunner):
    """The process in which triggers run. Numbers to cancel that are below zero run elsewhere now."""

    def __init__(self) -> None:
        made: Any = super()
        made.__init__()
        self._cancelled: set[int] = set()

    async def cancel_triggers(self) -> None:
        """As Airflow's, but each once: a second cancellation would end the ``on_kill`` that the first began."""
        self._cancelled &= self.triggers.keys()
        while self.to_cancel:
            number = self.to_cancel.popleft()
            details = self.triggers.get(abs(number))
            if details is None or abs(number) in self._cancelled:
                continue
            self._cancelled.add(abs(number))
            if number < 0:
                details["task"].cancel()
            else:
                details["task"].cancel(triggerer_job_runner._USER_ACTION_CANCEL_MSG)


@attrs.define(kw_only=True)
class AppendingLog(TriggerLoggingFactory):
    """The log of one trigger. It keeps no logger: with 10,000 triggers those would be most of what they cost here."""

    files: OpenFiles = attrs.field(repr=False)
    uploading: ThreadPoolExecutor = attrs.field(repr=False)
    _path: str = attrs.field(default="", init=False)

    def __call__(self, processors: Iterable[structlog.typing.Processor]) -> Any:
        """A logger that appends to the trigger's file."""
        if not self._path:
            self._path = str(init_log_file(self.log_path))
        return structlog.wrap_logger(self._end(), processors=processors)

    def upload_to_remote(self) -> None:
        """Upload to the customer's own store, if there is one: not while triggers wait for the loop."""
        if self._path and self.ti is not None:  # else there is no store, or nothing to be stored
            self.bound_logger = structlog.wrap_logger(self._end(), processors=[])
            self.uploading.submit(super().upload_to_remote)

    def close(self) -> None:
        """Nothing more comes."""
        self.files.close(self._path)

    def _end(self) -> structlog.BytesLogger:
        return structlog.BytesLogger(cast("Any", Trail(self._path, self.files)))


@attrs.define(kw_only=True)
class RemoteTriggerSupervisor(TriggerRunnerSupervisor):
    """Runs the triggers that ``holding`` names and tells ``reporting`` what they fire."""

    holding: Holding
    reporting: Reporting
    stopped: threading.Event
    gateway_socket: str
    gateway_token: str = attrs.field(repr=False)

    _files: OpenFiles = attrs.field(factory=OpenFiles, init=False)
    _answering: ThreadPoolExecutor = attrs.field(
        factory=lambda: ThreadPoolExecutor(ANSWERING_THREADS, thread_name_prefix="answering"), init=False
    )
    _uploading: ThreadPoolExecutor = attrs.field(
        factory=lambda: ThreadPoolExecutor(4, thread_name_prefix="uploading"), init=False
    )
    #: Whether logs go to the customer's own store as well, for which the task of each is remembered.
    _uploads: bool = attrs.field(factory=lambda: load_remote_log_handler() is not None, init=False)
    _sending: Any = attrs.field(factory=threading.Lock, init=False)
    #: Under which fence each trigger was last seen as ours.
    _fences: dict[int, int] = attrs.field(factory=dict, init=False)
    #: Triggers of tasks that have ended here: the plane has their event, or will have it.
    _over: set[int] = attrs.field(factory=set, init=False)
    #: Watchers and callbacks as they are to be started again: the workload, when, and the pause before the next time.
    _watchers: dict[int, RunTrigger] = attrs.field(factory=dict, init=False)
    _resting: dict[int, tuple[float, float]] = attrs.field(factory=dict, init=False)

    @classmethod
    def run_in_process(cls) -> None:
        """In the child: run triggers."""
        runner: Any = QuietRunner()
        runner.run()

    def make_client(self) -> Any:
        """Airflow's API, through the gateway."""
        return GatewayClient(self.gateway_socket, self.gateway_token)

    def should_stop(self) -> bool:
        """Whether the control process wants us to end."""
        return self.stop or self.stopped.is_set()

    def stalled(self) -> bool:
        """Whether the process of the triggers has not been heard of for long: a trigger blocks all of them."""
        threshold = self.runner_health_check_threshold
        return threshold > 0 and time.monotonic() - self._last_runner_comms > threshold

    def heartbeat(self) -> None:
        """The agent heartbeats; that we live is known by our loads."""

    def clean_unused(self) -> None:
        """The plane does."""

    def metric_tags(self) -> dict[str, str]:
        """Who we are in Airflow's metrics."""
        return {"hostname": socket.gethostname()}

    # --- which triggers run ---

    def load_triggers(self) -> None:
        """Start what is new, cancel what is not ours any more."""
        view = self.holding.look(len(self.creating_triggers))
        now = time.monotonic()
        for one in view.fetched:
            self._create(one)
        for trigger_id in [one for one, (when, _) in self._resting.items() if when <= now]:
            if trigger_id in self._watchers and trigger_id not in self.running_triggers:
                _, pause = self._resting[trigger_id]
                self._resting[trigger_id] = (float("inf"), pause)
                self.creating_triggers.append(self._watchers[trigger_id])
        gone = self._fences.keys() - view.held
        for trigger_id in gone:
            # Under the same fence somebody has ended it; else it runs elsewhere.
            ended = view.fence is not None and self._fences.pop(trigger_id) == view.fence
            self._fences.pop(trigger_id, None)
            self._over.discard(trigger_id)
            self._watchers.pop(trigger_id, None)
            self._resting.pop(trigger_id, None)
            if trigger_id in self.running_triggers:
                self.cancelling_triggers.add(trigger_id if ended else -trigger_id)
        if gone:
            kept = [one for one in self.creating_triggers if one.id not in gone]
            self.creating_triggers.clear()
            self.creating_triggers.extend(kept)
        if view.fence is not None:
            for trigger_id in self._fences:
                self._fences[trigger_id] = view.fence

    def _create(self, fetched: Fetched) -> None:
        trigger_id = fetched.trigger_id
        if trigger_id in self.running_triggers or trigger_id in self._over or self.holding.fence is None:
            self._fences.setdefault(trigger_id, self.holding.fence or 0)
            return
        try:
            workload = RunTrigger.model_validate(fetched.workload)
        except ValueError as error:
            log.error("a trigger cannot be read", trigger_id=trigger_id, why=str(error)[:500])
            self.reporting.failed(trigger_id, [f"This agent cannot read the trigger: {error}\n"])
            return
        self._fences[trigger_id] = self.holding.fence
        if workload.ti is None:
            self._watchers[trigger_id] = workload
            self._resting[trigger_id] = (float("inf"), RESTART_SECONDS[0])
        elif fetched.log_path is not None:
            self.logger_cache[trigger_id] = AppendingLog(
                log_path=fetched.log_path,
                ti=cast("Any", workload.ti if self._uploads else None),
                files=self._files,
                uploading=self._uploading,
            )
        self.creating_triggers.append(workload)

    def _ended(self, trigger_ids: Iterable[int]) -> None:
        """These do not run any more."""
        for trigger_id in trigger_ids:
            self.running_triggers.discard(trigger_id)
            cancelled = {trigger_id, -trigger_id} & self.cancelling_triggers
            self.cancelling_triggers -= cancelled
            if cancelled or trigger_id not in self._fences:
                continue
            if trigger_id in self._watchers:
                when, pause = self._resting.get(trigger_id, (0.0, RESTART_SECONDS[0]))
                if when == float("inf"):
                    self._resting[trigger_id] = (time.monotonic() + pause, min(RESTART_SECONDS[1], pause * 2))
            else:
                self._over.add(trigger_id)

    # --- what they fire ---

    def handle_events(self) -> None:
        """Have the plane told of what has fired."""
        while self.events:
            entry = self.events.popleft()
            self._report(entry.trigger_id, entry.event, entry.persist_seq)
            stats.incr("triggers.succeeded")

    def _report(self, trigger_id: int, event: TriggerEvent, sequence: int | None) -> None:
        outcome: TriggerOutcome | None = None
        xcoms: dict[str, Any] = {}
        try:
            if isinstance(event, BaseTaskEndEvent):
                outcome = TriggerOutcome(str(event.task_instance_state.value))
                xcoms = {key: serialize(value) for key, value in (event.xcoms or {}).items()}
            report = TriggerEventReport(
                event_id=uuid.uuid4(),
                trigger_id=trigger_id,
                payload=cast("Any", serialize(event.payload)),
                outcome=outcome,
                xcoms=cast("Any", xcoms),
            )
        except Exception as error:  # serde raises whatever the customer's classes do
            log.error("an event cannot be encoded", trigger_id=trigger_id, why=repr(error)[:500])
            self.reporting.failed(trigger_id, [f"The event of the trigger cannot be encoded: {error!r}\n"])
            return

        def confirmed(verdict: TriggerVerdict) -> None:
            if sequence is not None and verdict in {TriggerVerdict.ACCEPTED, TriggerVerdict.DUPLICATE}:
                self.persisted_event_seqs.append(sequence)

        self.reporting.add(report, confirmed)

    def handle_failed_triggers(self) -> None:
        """Have the plane told of what has failed."""
        while self.failed_triggers:
            trigger_id, traceback = self.failed_triggers.popleft()
            self.reporting.failed(trigger_id, traceback or [])
            self._ended([trigger_id])  # one that could not be made has never been running for the runner
            stats.incr("triggers.failed")

    # --- what they ask ---

    def _handle_request(self, msg: Any, log: Any, req_id: int) -> None:
        if isinstance(msg, messages.TriggerStateChanges):
            finished = list(msg.finished or ())
            cancelling = set(self.cancelling_triggers)
            super()._handle_request(msg, log, req_id)
            self.cancelling_triggers |= cancelling & {*finished, *(-one for one in finished)}  # for ``_ended``
            self._ended(finished)
        elif isinstance(msg, MaskSecret):
            super()._handle_request(msg, log, req_id)
        else:
            self._last_runner_comms = time.monotonic()
            context = contextvars.copy_context()
            self._answering.submit(context.run, self._answer, msg, log, req_id)

    def _answer(self, msg: Any, log: Any, req_id: int) -> None:
        """As Airflow's ``handle_requests`` does around it, in a thread."""
        try:
            super()._handle_request(msg, log, req_id)
        except Exception as error:
            response = getattr(error, "response", None)
            log.warning("what a trigger asked for was refused", asked=type(msg).__name__, why=str(error))
            detail = {
                "status_code": getattr(response, "status_code", None),
                "message": str(error),
                "exception_type": type(error).__name__,
            }
            failed = ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail=detail)
            try:
                self.send_msg(None, request_id=req_id, error=failed)
            except OSError:
                log.debug("nobody waits for the answer any more")

    def send_msg(self, msg: Any, request_id: int, error: Any = None, **dump_opts: Any) -> None:
        """One at a time: threads answer too."""
        with self._sending:
            super().send_msg(msg, request_id=request_id, error=error, **dump_opts)

    # --- the end ---

    def close(self) -> None:
        """End the process of the triggers. They run elsewhere next: none is told that somebody ended its task."""
        self.kill(escalation_delay=STOP_SECONDS, force=True)
        self._answering.shutdown(wait=False, cancel_futures=True)
        self._uploading.shutdown(wait=True)


def start(
    holding: Holding,
    reporting: Reporting,
    *,
    capacity: int,
    stopped: threading.Event,
    gateway_socket: str,
    gateway_token: str,
) -> RemoteTriggerSupervisor:
    """Fork the process of the triggers. No thread may run yet."""
    os.environ.pop("_AIRFLOW_PROCESS_CONTEXT", None)
    return cast(
        "RemoteTriggerSupervisor",
        RemoteTriggerSupervisor.start(
            job=None,
            logger=structlog.get_logger(logger_name="triggerer"),
            capacity=capacity,
            holding=holding,
            reporting=reporting,
            stopped=stopped,
            gateway_socket=gateway_socket,
            gateway_token=gateway_token,
        ),
    )
