"""Everything that the remote DAG processor uses of Airflow's internals, with a check that it is what it was.

``DagFileProcessorManager`` of Airflow 3.3 has hooks for a processor without a metadata database (AIP-92). ``Processor``
overrides every one that would ask the database: bundles, their state, what is to be parsed first, callbacks, results,
deleted files. What is kept of Airflow's is what makes it Airflow's DAG processor: its loop, its queue and order, its
processes and their time limit, its logs, and every ``[dag_processor]`` setting of them.

Importing this module imports Airflow: the environment must be set before (``__main__``).
"""

# ruff: noqa: SLF001 - private members of Airflow's are what this module is for

import inspect
import json
import signal
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol

import attrs
from airflow._shared.timezones import timezone
from airflow.callbacks.callback_requests import CallbackRequest
from airflow.dag_processing.bundles.base import BaseDagBundle
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.manager import (
    BundleState,
    DagFileInfo,
    DagFileProcessorManager,
    process_parse_results,
)
from airflow.dag_processing.processor import DagFileParsingResult, DagFileProcessorProcess
from pydantic import TypeAdapter

from isthmus.kit.errors import ConfigError
from isthmus.runner import compat
from isthmus.runner.clients import GatewayClient

__all__ = ["Bundle", "Desk", "Outcome", "Processor", "check", "get_bundles", "make_bundles", "read_callback"]

_CALLBACK: Final[TypeAdapter[Any]] = TypeAdapter(CallbackRequest)

#: The loop waits while a bundle is fetched. One that fails is put off by so many times as long as that took, but by no
#: more seconds than these: the other bundles have most of the loop's time.
_PUT_OFF: Final = 9.0
_LONGEST_PUT_OFF_SECONDS: Final = 300.0

#: Hooks that are overridden here, with the arguments that Airflow's loop calls them with.
_HOOKS: Final[Mapping[str, tuple[str, ...]]] = {
    "before_run": (),
    "prepare_server_process_context": (),
    "sync_bundles": (),
    "load_dag_bundles": (),
    "get_all_bundles": (),
    "claim_priority_files": (),
    "fetch_callbacks": (),
    "prepare_callback_bundle": ("request",),
    "get_bundle_state": ("bundle_name",),
    "update_bundle_state": ("bundle_name", "last_refreshed", "version"),
    "purge_inactive_dag_warnings": (),
    "deactivate_stale_dags": ("last_parsed",),
    "deactivate_deleted_dags": ("bundle_name", "present"),
    "clear_orphaned_import_errors": ("bundle_name", "observed_filelocs"),
    "handle_parsing_result": ("file", "proc"),
    "handle_removed_files": ("known_files",),
    "terminate": (),
    "_add_files_to_queue": ("files", "mode"),
    "_create_process": ("dag_file",),
    "_get_team_names": ("bundle_names",),
    "_kill_timed_out_processors": (),
    "_refresh_dag_bundles": ("known_files",),
    "_start_new_processes": (),
}
#: Attributes of the loop that are read or written here.
_FIELDS: Final = frozenset(
    {
        "_api_server",
        "bundle_refresh_check_interval",
        "_bundle_version_data",
        "_bundle_versions",
        "_bundles_last_refreshed",
        "_callback_to_execute",
        "_dag_bundles",
        "_file_queue",
        "_file_stats",
        "_processors",
        "heartbeat",
        "selector",
    }
)


def check() -> None:
    """Raise IncompatibleAirflowError if something that is overridden or called here is not what it was."""
    compat.check()
    for name, arguments in _HOOKS.items():
        function = getattr(DagFileProcessorManager, name, None)
        if function is None:
            raise compat.IncompatibleAirflowError(f"Airflow's DagFileProcessorManager has no {name}")
        try:
            inspect.signature(function).bind(None, **dict.fromkeys(arguments))
        except TypeError as error:
            raise compat.IncompatibleAirflowError(
                f"Airflow's DagFileProcessorManager.{name} has changed: {error}"
            ) from None
    missing = _FIELDS - {field.name for field in attrs.fields(DagFileProcessorManager)}
    missing |= {"_exit_code", "had_callbacks", "parsing_result"} - {
        field.name for field in attrs.fields(DagFileProcessorProcess)
    }
    if missing:
        raise compat.IncompatibleAirflowError(f"Airflow's DAG processor has no {', '.join(sorted(missing))}")
    if missing_results := {"fileloc", "serialized_dags", "warnings", "import_errors"} - set(
        DagFileParsingResult.model_fields
    ):
        raise compat.IncompatibleAirflowError(f"Airflow's parsing result has no {', '.join(sorted(missing_results))}")
    if not hasattr(compat.Client.request, "__wrapped__"):
        raise compat.IncompatibleAirflowError("Airflow's client retries in another way")


# --- what passes between the loop and the plane's side -------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A configured bundle, as it is now."""

    name: str
    version: str | None
    view_url_template: str | None
    template_params: Mapping[str, str]
    refreshed_at: datetime | None
    refresh_seconds: float
    #: Where its files are; None until it is fetched, which it is once it is assigned.
    folder: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the processing of one file ended; times are monotonic seconds."""

    bundle: str
    relative_fileloc: str
    absolute_path: Path
    version: str | None
    version_data: dict[str, Any] | None
    began: float
    duration_seconds: float
    #: Airflow's ``DagFileParsingResult`` in JSON's types; None when there is none.
    result: dict[str, Any] | None
    #: The callbacks that were run in place of a parse.
    callbacks: tuple[object, ...]
    #: Why there is no result, if there should be one or the callbacks did not come to their end.
    fault: str
    #: Whether it took longer than a file may take.
    timed_out: bool = False
    #: Whether nobody wants to know any more.
    dropped: bool = False


class Desk(Protocol):
    """What the loop asks and tells, in the loop's thread."""

    @property
    def held(self) -> frozenset[str]:
        """The bundles to parse."""

    @property
    def is_paused(self) -> bool:
        """Whether no further file should be parsed now."""

    def turn(self) -> bool:
        """Once in each turn of the loop; False ends the loop."""

    def fetching(self, bundle: str) -> AbstractContextManager[None]:
        """Around the fetching of a bundle, while which there are no turns."""

    def files_first(self) -> Iterable[tuple[str, str, bool]]:
        """(bundle, relative path, whether its bundle is to be refreshed) of files to be parsed before others."""

    def callbacks(self) -> Iterable[Any]:
        """Airflow's callback requests to run now."""

    def is_wanted(self, callback: object) -> bool:
        """Whether a callback is still to be run here."""

    def impossible(self, callback: object, why: str) -> None:
        """A callback cannot be run here."""

    def present(
        self,
        bundle: str,
        files: Collection[str],
        version: str | None,
        refreshed_at: datetime | None,
        *,
        has_data: bool,
    ) -> None:
        """A bundle was looked through."""

    def ended(self, outcome: Outcome) -> None:
        """A file was parsed, or its callbacks were run, or neither."""


def get_bundles() -> tuple[dict[str, BaseDagBundle], tuple[str, ...]]:
    """The configured bundles that can be made, and the names of those that cannot. Raises ConfigError."""
    try:
        configured = DagBundlesManager()  # type: ignore[no-untyped-call]
        made = {bundle.name: bundle for bundle in configured.get_all_dag_bundles()}
        return made, tuple(sorted(set(configured.get_all_bundle_names()) - made.keys()))
    except Exception as error:
        raise ConfigError(
            f"the DAG bundles cannot be loaded: {type(error).__name__}: {error}",
            code="bundles_unusable",
            hint="look at [dag_processor] dag_bundle_config_list, and whether its providers are installed, and git",
        ) from error


def make_bundles(names: Iterable[str]) -> dict[str, BaseDagBundle]:
    """Those of the configured bundles that can be made now."""
    configured = DagBundlesManager()  # type: ignore[no-untyped-call]
    made: dict[str, BaseDagBundle] = {}
    for name in names:
        with suppress(Exception):  # why it cannot was said when it was first tried
            made[name] = configured.get_bundle(name)
    return made


def read_callback(request: dict[str, Any]) -> Any:
    """Airflow's callback request. Raises ValueError."""
    return _CALLBACK.validate_json(json.dumps(request))  # ValidationError is a ValueError


class ParsingClient(GatewayClient):
    """Airflow's client for what DAG files ask for while they are parsed. The loop waits for it: it is not patient."""

    def __init__(self, socket_path: str, token: str, failed: Callable[[], None]) -> None:
        super().__init__(socket_path, token, answer_seconds=20.0)
        self._failed = failed

    def request(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """One try. Airflow's client makes five, with waits between them."""
        try:
            response = compat.Client.request.__wrapped__(self, *args, **kwargs)
        except Exception as error:
            if getattr(getattr(error, "response", None), "status_code", 503) >= 500:
                self._failed()
            raise
        return response


# --- the loop ------------------------------------------------------------------------------------------------------


@attrs.define(kw_only=True)
class Processor(DagFileProcessorManager):
    """Airflow's DAG processor without a metadata database. ``run`` ends when the desk says so."""

    desk: Desk
    open_client: Callable[[], ParsingClient]
    #: Written to by other threads to end the loop's wait.
    waker: Any = None

    max_runs: int = -1
    _api_server: Any = attrs.field(init=False, default=None)
    _bundles: dict[str, BaseDagBundle] = attrs.field(init=False, factory=dict)
    _states: dict[str, BundleState] = attrs.field(init=False, factory=dict)
    #: Where the files of bundles are that have been fetched, or should be there.
    _folders: dict[str, Path] = attrs.field(init=False, factory=dict)
    #: When bundles that could not be fetched are tried again (monotonic seconds).
    _put_off_until: dict[str, float] = attrs.field(init=False, factory=dict)
    _known: dict[str, set[DagFileInfo]] = attrs.field(init=False, factory=dict)
    _began: dict[DagFileInfo, tuple[float, str | None, dict[str, Any] | None, tuple[object, ...]]] = attrs.field(
        init=False, factory=dict
    )
    _ending: bool = attrs.field(init=False, default=False)

    # --- for the outside ---

    def bundles(self) -> list[Bundle]:
        """The configured bundles, as they are now."""
        return [self._described(bundle) for bundle in self._bundles.values()]

    @property
    def active(self) -> int:
        """How many files are being processed now."""
        return len(self._processors)

    def use_bundles(self, bundles: Mapping[str, BaseDagBundle]) -> None:
        """Parse (those that are held of) these as well."""
        self._watch(bundles)
        self._states |= {name: BundleState(None, None) for name in bundles}

    def _watch(self, bundles: Mapping[str, BaseDagBundle]) -> None:
        for bundle in bundles.values():
            bundle.initialize = self._watched(bundle, bundle.initialize)  # type: ignore[method-assign]
            bundle.refresh = self._watched(bundle, bundle.refresh)  # type: ignore[method-assign]
        self._bundles |= bundles

    def _watched(self, bundle: BaseDagBundle, fetch: Callable[[], None]) -> Callable[[], None]:
        """``fetch`` of a bundle, so that it is known for how long it has been going on.

        A bundle that fails is put off, and made anew: its credentials are read when it is made.
        """

        def watched() -> None:
            began = time.monotonic()
            try:
                with self.desk.fetching(bundle.name):
                    fetch()
            except Exception:
                now = time.monotonic()
                self._put_off_until[bundle.name] = now + min(_PUT_OFF * (now - began), _LONGEST_PUT_OFF_SECONDS)
                self._watch(make_bundles([bundle.name]))
                raise
            else:
                self._put_off_until.pop(bundle.name, None)
            finally:
                if bundle.is_initialized:
                    self._folders[bundle.name] = bundle.path

        return watched

    def _named(self, names: Collection[str]) -> list[BaseDagBundle]:
        """The bundles of these names, in the configuration's order."""
        return [bundle for name, bundle in self._bundles.items() if name in names]

    def _described(self, bundle: BaseDagBundle) -> Bundle:
        template, params = None, {}
        with suppress(Exception):  # a link is not worth a bundle
            template = bundle.view_url_template()
            params = DagBundlesManager._extract_template_params(bundle)
        return Bundle(
            name=bundle.name,
            version=self._bundle_versions.get(bundle.name),
            view_url_template=template,
            template_params={name: str(value) for name, value in params.items()},
            refreshed_at=self._states[bundle.name].last_refreshed,
            refresh_seconds=max(bundle.refresh_interval, self.bundle_refresh_check_interval),
            folder=self._folders.get(bundle.name),
        )

    # --- the loop's beginning and end ---

    def run_to_end(self) -> None:
        """Parse until the desk or SIGTERM ends it."""
        self.run()  # type: ignore[no-untyped-call]

    def before_run(self) -> None:
        """As Airflow's; and the waker and the desk have their turn in the loop."""
        super().before_run()
        self.heartbeat = self._turn
        if self.waker is not None:
            self.selector.register(self.waker, 1, (self._woken, lambda _: None))  # 1 is EVENT_READ

    def register_exit_signals(self) -> None:
        """SIGTERM ends the loop by the same way as the control process's word."""
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_ending", True))
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _turn(self) -> None:
        if self._ending or not self.desk.turn():
            self._ending = True
            return
        self._give_up_dropped()
        self._queue_waiting_callbacks()

    def max_runs_reached(self) -> bool:
        """Whether the loop should end."""
        return self._ending

    @staticmethod
    def _woken(waker: Any) -> bool:
        waker.recv(4096)
        return True

    def terminate(self) -> None:
        """Files that are being parsed have nothing to finish; callbacks get Airflow's 5 s after SIGTERM."""
        for file, process in self._processors.items():
            callbacks = file in self._began and bool(self._began[file][3])
            process.kill(signal.SIGTERM if callbacks else signal.SIGKILL, escalation_delay=2.0)

    # --- hooks: bundles ---

    def prepare_server_process_context(self) -> None:
        """Not a server: credentials of bundles come from this agent's environment or secrets backend."""

    def sync_bundles(self) -> None:
        """The desk offers them to the plane."""

    def load_dag_bundles(self) -> None:
        """Those that are held, in each turn (``_refresh_dag_bundles``)."""
        self._dag_bundles = []

    def _refresh_dag_bundles(self, known_files: dict[str, set[DagFileInfo]]) -> None:
        self._known = known_files
        held = self.desk.held & self._bundles.keys()
        if held != {bundle.name for bundle in self._dag_bundles}:
            self._hold(held)
        now = time.monotonic()
        due = {name for name in held if self._put_off_until.get(name, now) <= now}
        self._dag_bundles = self._named(due)
        try:
            super()._refresh_dag_bundles(known_files)
        finally:
            self._dag_bundles = self._named(held)

    def _hold(self, held: Collection[str]) -> None:
        """Parse these from now on, and nothing else."""
        before = {bundle.name for bundle in self._dag_bundles}
        self._dag_bundles = self._named(held)
        for name in before - set(held):
            self._known.pop(name, None)
            self._bundle_versions.pop(name, None)
            self._bundle_version_data.pop(name, None)
            self._states[name] = BundleState(None, None)
            self._force_refresh_bundles.discard(name)
            for file in [file for file in self._callback_to_execute if file.bundle_name == name]:
                del self._callback_to_execute[file]
        self.handle_removed_files(known_files=self._known)
        self._bundles_last_refreshed = 0.0  # look at once

    def get_bundle_state(self, bundle_name: str, **_: Any) -> BundleState | None:
        """What this process knows: nothing from before it."""
        return self._states.get(bundle_name)

    def update_bundle_state(self, bundle_name: str, *, last_refreshed: datetime, version: str | None, **_: Any) -> None:
        """Keep it here; the desk tells the plane with the next poll."""
        self._states[bundle_name] = BundleState(last_refreshed, version or self._states[bundle_name].version)

    def deactivate_deleted_dags(self, bundle_name: str, present: set[DagFileInfo]) -> None:
        """The plane makes stale what is gone, by the observation that follows."""
        files = {str(file.rel_path) for file in present}
        state = self._states[bundle_name]
        version = self._bundle_versions.get(bundle_name)
        has_data = self._bundle_version_data.get(bundle_name) is not None
        self.desk.present(bundle_name, files, version, state.last_refreshed, has_data=has_data)

    def deactivate_stale_dags(self, last_parsed: dict[DagFileInfo, datetime | None], **_: Any) -> None:
        """The plane sees from a submission which DAGs a file no longer has."""

    def clear_orphaned_import_errors(self, bundle_name: str, observed_filelocs: set[str], **_: Any) -> None:
        """The plane clears them with the observation."""

    def purge_inactive_dag_warnings(self) -> None:
        """The plane's to do."""

    def _get_team_names(self, bundle_names: Collection[str]) -> dict[str, str | None]:
        """Teams are the plane's."""
        return {}

    # --- hooks: what is to be done ---

    def claim_priority_files(self) -> list[DagFileInfo]:
        """Files that somebody asked for, and those that the plane wants again."""
        for bundle_name, path, refresh in self.desk.files_first():
            bundle = self._bundles.get(bundle_name)
            if bundle is None or bundle_name not in self.desk.held:
                continue
            if refresh:
                self.request_bundle_refresh(bundle_name)
            file = DagFileInfo(rel_path=Path(path), bundle_name=bundle_name, bundle_path=bundle.path)
            if file in self._known.get(bundle_name, ()):
                self._add_files_to_queue([file], mode="frontprio")
        return []

    def fetch_callbacks(self) -> list[Any]:
        """Callbacks under claim."""
        return list(self.desk.callbacks())

    def prepare_callback_bundle(self, request: Any) -> BaseDagBundle | None:
        """Airflow's; what it cannot prepare is told, not dropped."""
        bundle: BaseDagBundle | None = super().prepare_callback_bundle(request)
        if bundle is None:
            self.desk.impossible(request, f"version {request.bundle_version} of the bundle cannot be prepared")
        elif not (bundle.path / request.filepath).exists():
            self.desk.impossible(request, f"{request.filepath} is not in the bundle any more")
            return None
        return bundle

    def _queue_waiting_callbacks(self) -> None:
        """Airflow drops a file from its queue while the same one is being parsed; its callbacks would wait for long."""
        for file, callbacks in list(self._callback_to_execute.items()):
            callbacks[:] = [one for one in callbacks if self.desk.is_wanted(one)]
            if not callbacks:
                del self._callback_to_execute[file]
            elif file not in self._file_queue and file not in self._processors:
                self._add_files_to_queue([file], mode="front")

    def _give_up_dropped(self) -> None:
        """Airflow's loop drops processes of files that are not in the bundle any more, without a result."""
        for file in self._began.keys() - self._processors.keys():
            self._tell(file, None, "The file was removed from the bundle while it was being processed.", dropped=True)

    # --- hooks: processes ---

    @property
    def client(self) -> Any:
        """Airflow's client through the gateway."""
        return self.open_client()

    def _start_new_processes(self) -> None:
        if not self.desk.is_paused and not self._ending:
            super()._start_new_processes()  # type: ignore[no-untyped-call]

    def _create_process(self, dag_file: DagFileInfo) -> DagFileProcessorProcess:
        callbacks = tuple(self._callback_to_execute.get(dag_file, ()))
        version = dag_file.bundle_version or self._bundle_versions.get(dag_file.bundle_name)
        data = self._bundle_version_data.get(dag_file.bundle_name)
        self._began[dag_file] = (time.monotonic(), version, data, callbacks)
        process: DagFileProcessorProcess = super()._create_process(dag_file)
        return process

    def _kill_timed_out_processors(self) -> None:
        before = dict(self._processors)
        super()._kill_timed_out_processors()  # type: ignore[no-untyped-call]
        for file in before.keys() - self._processors.keys():
            fault = f"Processing this file took longer than {self.processor_timeout:g} s, and was ended."
            self._tell(file, None, fault, timed_out=True)

    def handle_parsing_result(self, file: DagFileInfo, proc: DagFileProcessorProcess, **_: Any) -> None:
        """Tell the desk, and keep the numbers that Airflow's loop decides by."""
        callback_only = proc.had_callbacks and proc.parsing_result is None
        self._file_stats[file] = process_parse_results(
            run_duration=time.monotonic() - proc.start_time,
            finish_time=timezone.utcnow(),
            run_count=self._file_stats[file].run_count,
            bundle_name=file.bundle_name,
            parsing_result=proc.parsing_result,
            is_callback_only=callback_only,
            relative_fileloc=str(file.rel_path),
        )
        fault = ""
        if proc.parsing_result is None and (not callback_only or proc._exit_code != 0):
            fault = f"The process that ran this file {_ending(proc._exit_code)}."
        result = None if proc.parsing_result is None else proc.parsing_result.model_dump(mode="json")
        self._tell(file, result, fault)

    def _tell(
        self,
        file: DagFileInfo,
        result: dict[str, Any] | None,
        fault: str,
        *,
        timed_out: bool = False,
        dropped: bool = False,
    ) -> None:
        began, version, data, callbacks = self._began.pop(file)
        self.desk.ended(
            Outcome(
                bundle=file.bundle_name,
                relative_fileloc=str(file.rel_path),
                absolute_path=file.absolute_path,
                version=version,
                version_data=data,
                began=began,
                duration_seconds=time.monotonic() - began,
                result=result,
                callbacks=callbacks,
                fault=fault,
                timed_out=timed_out,
                dropped=dropped,
            )
        )


def _ending(exit_code: int | None) -> str:
    if exit_code is None:
        return "ended in an unknown way"
    if exit_code < 0:
        with suppress(ValueError):
            return f"was ended by {signal.Signals(-exit_code).name}"
    return f"ended with exit code {exit_code} and without a result"
