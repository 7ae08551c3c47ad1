"""The component ``dag-processor``: Airflow's parsing loop (``compat_dags``), a desk (``reporting``), and their seam."""

import os
import socket
import threading
import time
import zipfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from setproctitle import setproctitle

from isthmus.kit import logs, processes
from isthmus.runner import compat, compat_dags
from isthmus.runner.dag_processing import contents
from isthmus.runner.dag_processing.claims import Claim
from isthmus.runner.dag_processing.contents import Parsed
from isthmus.runner.dag_processing.plane import Plane
from isthmus.runner.dag_processing.reporting import Desk, Offer
from isthmus.runner.link import Link
from isthmus.wire import frames

log = logs.get(component="dag_processing")

#: A file's text that is larger is not sent along, wanted or not.
_MAX_SOURCE_BYTES: Final = 1024 * 1024
#: A bundle that is not there this long after it was assigned, or not looked for anew this long after it was to be, is
#: shown as wrong: a clone of some size takes a minute.
_FETCH_SECONDS: Final = 90.0
#: How often a bundle is tried that could not be made: its connection may be there by now.
_MAKE_SECONDS: Final = 15.0
#: Git waits for ever for a server that has gone silent, and so would the whole loop. Less than a byte a second in a
#: minute ends a fetch, unless the environment says otherwise; a server that is at work sends something each 5 s.
_GIT_PATIENCE: Final = {"GIT_HTTP_LOW_SPEED_LIMIT": "1", "GIT_HTTP_LOW_SPEED_TIME": "60"}
#: What to do about an agent that has no DAG files. It is what somebody sees first who starts one without more.
_CONFIGURE: Final = (
    "Name your bundles with AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST in the agent's runner_environment_file; "
    "or set role to what else the agent is to do."
)


def main(socket_fd: int) -> None:
    """Run the component to its end. Raises ConfigError when this Airflow or its bundles do not fit."""
    compat.configure_logging()
    compat_dags.check()
    compat.accept_any_executor()
    compat.keep_bundles_at_home()
    for name, value in _GIT_PATIENCE.items():
        os.environ.setdefault(name, value)
    bundles, broken = compat_dags.get_bundles()
    setproctitle("isthmus dag-processor")
    processes.set_subreaper()
    # What parses DAG files has no business with the control process.
    os.register_at_fork(after_in_child=lambda: _close(socket_fd))
    link = Link(socket_fd)
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    link.open(_ready(), woken=lambda: _wake(theirs))
    if link.wait_begun() is None:
        return
    seam = Seam(link)
    processor = compat_dags.Processor(desk=seam, open_client=seam.open_client, waker=ours, print_stats_interval=0.0)
    processor.use_bundles(bundles)
    seam.serve(processor, broken)
    try:
        processor.run_to_end()
    finally:
        processor.terminate()
        seam.desk.finish()
        log.info("the DAG processor has ended")


def _ready() -> frames.Ready:
    return frames.Ready(
        pid=os.getpid(),
        airflow=compat.airflow_version,
        task_sdk=compat.task_sdk_version,
        python=compat.python_version,
    )


def _close(descriptor: int) -> None:
    with suppress(OSError):
        os.close(descriptor)


def _wake(end: socket.socket) -> None:
    with suppress(OSError):  # full is awake enough
        end.send(b"\0")


class Seam:
    """What Airflow's loop asks and tells (``compat_dags.Desk``), in the desk's terms."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._plane = Plane(self._begun)
        self._used = self._begun()
        self._client: compat_dags.ParsingClient | None = None
        self._processor: compat_dags.Processor | None = None
        self._callbacks: dict[int, tuple[object, Claim]] = {}
        self._held_since: dict[str, float] = {}
        #: Bundles that could not be made, and when to try again (monotonic).
        self._broken: frozenset[str] = frozenset()
        self._make_at = 0.0
        self.desk = Desk(self._plane, self._offers)

    def serve(self, processor: compat_dags.Processor, broken: Collection[str]) -> None:
        """This is the loop. ``broken`` are bundles that cannot be made."""
        self._processor = processor
        if not broken and not list(processor.bundles()):
            self.desk.warn("bundles_missing", "no DAG bundle is configured, so that no DAG file is parsed", _CONFIGURE)
        self._note_broken(frozenset(broken))

    def _note_broken(self, names: frozenset[str]) -> None:
        self._broken = names
        self._make_at = time.monotonic() + _MAKE_SECONDS
        if names:
            self.desk.warn(
                "bundle_unusable",
                f"bundles cannot be made: {', '.join(sorted(names))}",
                "The agent's log says why; look at dag_bundle_config_list, and at their connections.",
            )
        else:
            self.desk.well("bundle_unusable")

    def _make_broken(self) -> None:
        """Try again what could not be made."""
        if not self._broken or self._processor is None or time.monotonic() < self._make_at:
            return
        made = compat_dags.make_bundles(self._broken)
        self._processor.use_bundles(made)
        self._note_broken(self._broken - made.keys())
        if made:
            log.info("bundles can be made now", bundles=sorted(made))

    def open_client(self) -> compat_dags.ParsingClient:
        """Airflow's client through the gateway, for what files ask for while they are parsed."""
        if self._client is None:
            self._client = compat_dags.ParsingClient(
                self._used.gateway_socket, self._used.gateway_token, self._plane.note_failure
            )
        return self._client

    def _begun(self) -> frames.Begin:
        begun = self._link.begun
        if begun is None:  # main waits for it
            raise RuntimeError("the component has not begun")
        return begun

    def _offers(self) -> Iterable[Offer]:
        if self._processor is None:
            return
        for one in self._processor.bundles():
            yield Offer(
                name=one.name,
                version=one.version,
                view_url_template=one.view_url_template,
                template_params=one.template_params,
                refreshed_at=one.refreshed_at,
            )

    # --- compat_dags.Desk ---

    @property
    def held(self) -> frozenset[str]:
        """The bundles to parse."""
        return self.desk.held

    @property
    def is_paused(self) -> bool:
        """Whether no further file should be parsed now."""
        return self.desk.is_paused

    def turn(self) -> bool:
        """The desk's turn; False when the control process wants us to end."""
        if self._link.stopped.is_set():
            return False
        begun = self._begun()
        if begun is not self._used:
            self._used, self._client = begun, None
            self.desk.renewed()
        self._make_broken()
        self.desk.turn()
        self._watch_fetching()
        # To the plane a DAG processor has one slot: it is at work or it is not.
        busy = self._processor is not None and self._processor.active > 0
        self._link.tell(slots_used=int(busy), warnings=self.desk.warnings)
        return True

    @contextmanager
    def fetching(self, bundle: str) -> Iterator[None]:
        """Say so while it takes too long: the loop waits for it, and has no turns in which to say anything."""
        alarm = threading.Timer(_FETCH_SECONDS, self._say_late, (bundle,))
        alarm.daemon = True
        alarm.start()
        try:
            yield
        finally:
            alarm.cancel()

    def _say_late(self, bundle: str) -> None:
        """In the alarm's thread, while the loop waits."""
        self._warn_late([bundle])
        self._link.tell(slots_used=1, warnings=self.desk.warnings)

    def files_first(self) -> Iterable[tuple[str, str, bool]]:
        """What the plane wants again, and what somebody asked for, whose bundle may have to be refreshed for it."""
        for bundle, path in self.desk.again():
            yield bundle, path, False
        for claim in self.desk.claims.new_parses():
            if not self.desk.has(claim.bundle, claim.relative_fileloc):
                self.desk.claims.settle(claim)  # the refresh finds it, if it is there
            yield claim.bundle, claim.relative_fileloc, True

    def callbacks(self) -> Iterable[Any]:
        """Callbacks to run; one that this Airflow cannot read is settled, because it never will."""
        for claim in self.desk.claims.new_callbacks():
            try:
                request = compat_dags.read_callback(claim.request or {})
            except ValueError as error:
                log.error("a callback cannot be read", claim_id=claim.claim_id, error=str(error)[:500])
                self.desk.claims.settle(claim)
                continue
            self._callbacks[id(request)] = (request, claim)  # held, so that its id stays its own
            yield request

    def is_wanted(self, callback: object) -> bool:
        """Whether its claim is still ours."""
        known = self._callbacks.get(id(callback))
        if known is not None and self.desk.claims.is_open(known[1]):
            return True
        self._callbacks.pop(id(callback), None)
        return False

    def impossible(self, callback: object, why: str) -> None:
        """Back to the plane, for another try here or elsewhere; not for ever."""
        known = self._callbacks.pop(id(callback), None)
        if known is not None:
            again = self.desk.claims.died(known[1])
            log.warning("a callback cannot be run", why=why, claim_id=known[1].claim_id, again=again)

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
        self.desk.present(bundle, files, version, refreshed_at, has_data=has_data)

    def ended(self, outcome: compat_dags.Outcome) -> None:
        """A file was parsed, or its callbacks were run."""
        for callback in outcome.callbacks:
            self._callback_ended(callback, outcome)
        if outcome.dropped or (outcome.callbacks and outcome.result is None):
            return
        parsed = Parsed(
            bundle=outcome.bundle,
            relative_fileloc=outcome.relative_fileloc,
            version=outcome.version,
            version_data=outcome.version_data,
            began=outcome.began,
            duration_seconds=outcome.duration_seconds,
            result=outcome.result or {},
            source=self._source(outcome),
        )
        if outcome.result is None:
            log.error("a DAG file could not be parsed", file=outcome.relative_fileloc, reason=outcome.fault)
            parsed = contents.failure(parsed, outcome.fault)
        self.desk.parsed(parsed)

    def _callback_ended(self, callback: object, outcome: compat_dags.Outcome) -> None:
        known = self._callbacks.pop(id(callback), None)
        if known is None:
            return
        claim = known[1]
        if outcome.fault and not outcome.timed_out:
            again = self.desk.claims.died(claim)
            log.warning("a callback's process died", reason=outcome.fault, claim_id=claim.claim_id, again=again)
            return
        if outcome.timed_out:
            log.error("a callback was ended", reason=outcome.fault, claim_id=claim.claim_id)
        self.desk.claims.settle(claim)

    def _source(self, outcome: compat_dags.Outcome) -> str | None:
        if not self.desk.sources_wanted or outcome.result is None:
            return None
        with suppress(OSError, UnicodeDecodeError):
            return _read_source(outcome.absolute_path)
        return None

    def _watch_fetching(self) -> None:
        """Say so when a bundle that is ours cannot be had: no folder, a failing clone, credentials that are missing."""
        if self._processor is None:
            return
        now = time.monotonic()
        held = self.desk.held
        self._held_since = {name: self._held_since.get(name, now) for name in held}
        ours = [one for one in self._processor.bundles() if one.name in held]
        unread = [f"{one.name} ({one.folder})" for one in ours if one.folder is not None and not _is_read(one.folder)]
        if unread:
            self.desk.warn(
                "bundle_folder_unreadable",
                f"the task user cannot read the folder of DAG bundles: {', '.join(unread)}",
                f"Create it and let that user read it. {_CONFIGURE}",
            )
        else:
            self.desk.well("bundle_folder_unreadable")
        late = [one.name for one in ours if _is_late(one, now - self._held_since[one.name])]
        if late:
            self._warn_late(late)
        else:
            self.desk.well("bundle_unready")

    def _warn_late(self, bundles: Iterable[str]) -> None:
        self.desk.warn(
            "bundle_unready",
            f"bundles cannot be fetched: {', '.join(bundles)}",
            "The agent's log says why: the repository, its credentials, the folder.",
        )


def _is_late(bundle: compat_dags.Bundle, held_seconds: float) -> bool:
    """Whether a bundle should have been fetched, or looked for anew, some time ago."""
    if bundle.refreshed_at is None:
        return held_seconds > _FETCH_SECONDS
    age = (datetime.now(tz=UTC) - bundle.refreshed_at).total_seconds()
    return age > bundle.refresh_seconds + _FETCH_SECONDS


def _is_read(folder: Path) -> bool:
    """Whether DAG files can be looked for there."""
    # Not of Path: it raises where a folder above may not be looked into.
    return os.path.isdir(folder) and os.access(folder, os.R_OK | os.X_OK)  # noqa: PTH112


def _read_source(path: Path) -> str | None:
    """A file's text; None for a zip file, or for one too large to be looked at. Raises OSError, UnicodeDecodeError."""
    if path.stat().st_size > _MAX_SOURCE_BYTES or (path.suffix != ".py" and zipfile.is_zipfile(path)):
        return None
    return path.read_text(encoding="utf-8")
