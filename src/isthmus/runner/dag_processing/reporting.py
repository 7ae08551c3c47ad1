"""The DAG processor's desk: everything between the parsing loop and the plane, done a little in each turn of the loop.

In order of a turn: which bundles are ours (``bundles``), what is to be done first (``claims``), changed files
(``submissions``), what there is after a pass (``observations``), what was done (``settlements``). Each has a time of
its own; a failure of any puts all of them off, longer each time. Nothing is given up while the plane cannot be reached:
submissions wait here, the newest of each file, and no further file is parsed, because what it reads at parse time
(variables, connections) is behind the same road. After a restart all of it is parsed again; the plane knows by the
content hash what it has already.

One thread; the loop's processes parse on while it waits for an answer.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from pydantic import TypeAdapter, ValidationError

from isthmus.kit import logs
from isthmus.kit.backoffs import Backoff, BackoffConfig
from isthmus.kit.clocks import SystemClock
from isthmus.kit.errors import IsthmusError, RefusedError, UnreachableError
from isthmus.runner.dag_processing import contents
from isthmus.runner.dag_processing.claims import Claims
from isthmus.runner.dag_processing.contents import Parsed, Prepared
from isthmus.runner.dag_processing.ledger import Ledger
from isthmus.runner.dag_processing.plane import Plane
from isthmus.wire import agents, dags
from isthmus.wire.problems import Code

log = logs.get(component="dag_processing")

#: A batch is sent when it has waited this long, or when it is this large (uncompressed).
_FLUSH_SECONDS: Final = 0.5
_FLUSH_BYTES: Final = 1024 * 1024
#: So much may wait here for the plane before no further file is parsed.
_MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
#: Room for what a body has besides submissions.
_ENVELOPE_BYTES: Final = 4096
#: Until the plane has said something else.
_POLL_SECONDS: Final = 10.0
_MAX_BODY_BYTES: Final = 8 * 1024 * 1024
#: A bundle of which the plane wanted something again is observed no sooner than this after.
_WANTED_SECONDS: Final = 2.0
_BACKOFF: Final = BackoffConfig(first_seconds=0.5, longest_seconds=15.0)

_BUNDLE_NAME: Final = TypeAdapter[str](dags.BundleName)
_RELATIVE: Final = TypeAdapter[str](dags.RelativePath)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A bundle as the configuration has it."""

    name: str
    version: str | None = None
    view_url_template: str | None = None
    template_params: Mapping[str, str] | None = None
    refreshed_at: datetime | None = None


class Desk:
    """What the parsing loop asks and tells."""

    def __init__(
        self,
        plane: Plane,
        offers: Callable[[], Iterable[Offer]],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``offers`` are the bundles that can be parsed here, as they are now."""
        self._plane = plane
        self._offers = offers
        self._monotonic = monotonic
        self._backoff = Backoff(_BACKOFF, SystemClock())
        self._put_off_until = float("-inf")
        self._ledgers: dict[str, Ledger] = {}
        self._waiting: dict[tuple[str, str], Prepared] = {}
        self._waiting_bytes = 0
        self._waiting_since: float | None = None
        self._not_before: dict[tuple[str, str], float] = {}
        self._again: set[tuple[str, str]] = set()
        self.claims = Claims()
        self._terms = dags.BundlesResponse(
            bundles=(), poll_seconds=_POLL_SECONDS, lease_seconds=60.0, max_body_bytes=_MAX_BODY_BYTES
        )
        self._held_until = float("-inf")
        self._bundles_at = float("-inf")
        self._claims_at = float("-inf")
        #: Bytes and requests up to the end of the last pass.
        self._counted = (0, 0, 0)
        self._wrong: dict[str, agents.AgentWarning] = {}

    # --- what the loop asks ---

    @property
    def held(self) -> frozenset[str]:
        """The bundles that are this agent's to parse."""
        return frozenset(self._ledgers)

    @property
    def is_paused(self) -> bool:
        """Whether no further file should be parsed now."""
        return (
            self._put_off_until > self._monotonic()
            or self._monotonic() > self._held_until
            or self._waiting_bytes > _MAX_WAITING_BYTES
        )

    @property
    def sources_wanted(self) -> bool:
        """Whether the files' text is to go along."""
        return self._terms.sources_wanted

    @property
    def warnings(self) -> tuple[agents.AgentWarning, ...]:
        """What is wrong, for the agent's health."""
        return tuple(self._wrong[code] for code in sorted(self._wrong))

    def has(self, bundle: str, path: str) -> bool:
        """Whether a file is in a bundle that is ours."""
        ledger = self._ledgers.get(bundle)
        return ledger is not None and path in ledger.files

    def again(self) -> set[tuple[str, str]]:
        """Files (bundle, relative path) to be parsed anew, before others."""
        found, self._again = self._again, set()
        return {key for key in found if key[0] in self._ledgers}

    def warn(self, code: str, summary: str, hint: str = "") -> None:
        """Show that something is wrong, until ``well``."""
        if code not in self._wrong or self._wrong[code].summary != summary[:512]:
            log.warning(summary, condition=code, hint=hint)
            self._wrong[code] = agents.AgentWarning(
                code=code,
                severity=agents.Severity.WARNING,
                summary=summary[:512],
                hint=hint[:512],
                since=datetime.now(tz=UTC),
            )

    def well(self, code: str) -> None:
        """It is no longer wrong."""
        self._wrong.pop(code, None)

    # --- what the loop tells ---

    def renewed(self) -> None:
        """The agent was enrolled anew: ask at once what is ours."""
        self._bundles_at = float("-inf")

    def present(
        self,
        bundle: str,
        files: Iterable[str],
        version: str | None,
        refreshed_at: datetime | None,
        *,
        has_data: bool = False,
    ) -> None:
        """A bundle's folder was looked through."""
        ledger = self._ledgers.get(bundle)
        if ledger is None:
            return
        there, unfit = set[str](), set[str]()
        for path in files:
            (there if _fits(_RELATIVE, path) else unfit).add(path)
        if unfit:
            self.warn(
                "dag_file_name",
                f"{len(unfit)} DAG files of bundle {bundle} have names that cannot be sent, such as {min(unfit)!r}",
                "Use names without control characters and backslashes, and paths of less than 1,000 characters.",
            )
        if len(there) > dags.MAX_FILES:
            self.warn(
                "dag_files_many",
                f"bundle {bundle} has {len(there):,} DAG files; the first {dags.MAX_FILES:,} are sent",
                "Use several bundles, or keep files that are no DAGs out with an .airflowignore file.",
            )
            there = set(sorted(there)[: dags.MAX_FILES])
        for path in ledger.present(there, version, refreshed_at, has_data=has_data):
            self._forget((bundle, path))

    def parsed(self, parsed: Parsed) -> None:
        """A file was parsed: send what came of it, unless the plane has just that."""
        ledger = self._ledgers.get(parsed.bundle)
        if ledger is None:
            return
        if parsed.version != ledger.version:
            # The next version was checked out over it: it may be a bit of both.
            self._again.add(parsed.key)
            return
        if parsed.failed and self._plane.failed_at >= parsed.began:
            # It may have failed for want of a variable of the plane's, which nobody should see as an import error.
            self._again.add(parsed.key)
            return
        if parsed.failed and not self._plane.wants_reasons:
            for path, why in parsed.result["import_errors"].items():
                log.warning("a DAG file cannot be imported", bundle=parsed.bundle, file=path, why=why)
            parsed = contents.without_reasons(parsed)
        prepared = contents.prepare(parsed, max_bytes=self._terms.max_body_bytes - _ENVELOPE_BYTES)
        self._forget(parsed.key)
        if ledger.parsed(parsed.relative_fileloc, prepared.content_hash, self._monotonic()):
            self._wait(prepared)
        else:
            self.claims.parsed(*parsed.key)

    # --- a turn ---

    def turn(self) -> None:
        """Do what is due. Raises nothing: what fails is tried again later."""
        now = self._monotonic()
        if now < self._put_off_until:
            return
        try:
            if now >= self._bundles_at:
                self._ask_bundles()
            if self._ledgers and now >= self._claims_at:
                self._ask_claims()
            self._submit()
            self._observe()
            self._settle()
        except IsthmusError as error:
            wait = self._backoff.failed()
            self._put_off_until = self._monotonic() + wait
            log.info("the plane is asked again later", error=str(error), hint=error.hint, wait_seconds=round(wait, 1))
            if isinstance(error, RefusedError):
                self.warn("dag_processing_refused", f"the plane refuses: {error}", error.hint)
                self._bundles_at = float("-inf")
        else:
            self._backoff.succeeded()
            self.well("dag_processing_refused")

    def finish(self) -> None:
        """At the end: one last try to hand in what waits, and to give the bundles back."""
        try:
            self._submit(everything=True)
            self._settle()
            self._plane.bundles(())
        except IsthmusError as error:
            log.info("not everything could be handed in; it is parsed again later", error=str(error))

    def _ask_bundles(self) -> None:
        offers, unfit = list[Offer](), list[Offer]()
        for offer in self._offers():
            (offers if _fits(_BUNDLE_NAME, offer.name) else unfit).append(offer)
        if unfit:
            names = ", ".join(repr(one.name) for one in unfit)
            self.warn("bundle_name", f"bundles with unfit names: {names}", "Use letters, digits, '_', '-', '.', ' '.")
        asked_at = self._monotonic()
        answer = self._plane.bundles(tuple(_offered(offer) for offer in offers[: dags.MAX_BUNDLES]))
        if answer.sources_wanted != self._terms.sources_wanted:
            log.info("sources of DAG files", wanted=answer.sources_wanted)
        self._terms = answer
        self._bundles_at = self._monotonic() + answer.poll_seconds
        self._held_until = asked_at + answer.lease_seconds
        assigned = {one.name: one for one in answer.bundles if one.accepted and one.assigned}
        self._lose(self._ledgers.keys() - assigned.keys())
        for name, verdict in assigned.items():
            if name not in self._ledgers:
                log.info("a bundle is ours to parse", bundle=name, fence=verdict.fence)
                self._ledgers[name] = Ledger(name, verdict.fence)
            self._ledgers[name].renew(verdict.fence)
        refused = [one for one in answer.bundles if not one.accepted]
        if refused:
            said = "; ".join(f"{one.name}: {one.detail} ({one.code})" for one in refused)
            self.warn(
                "bundle_refused",
                f"the plane refuses bundles: {said}",
                "A bundle belongs to the agents of one token. Give this agent that token, or its bundles other names "
                "in dag_bundle_config_list; or set role to what else the agent is to do.",
            )
        else:
            self.well("bundle_refused")

    def _ask_claims(self) -> None:
        held = tuple(dags.HeldBundle(name=one.bundle, fence=one.fence) for one in self._ledgers.values())
        answer = self._plane.claims(held, limit=20)
        now = self._monotonic()
        self._claims_at = now if len(answer.claims) >= 20 else now + answer.poll_seconds
        self.claims.take(answer.claims, now)

    def _submit(self, *, everything: bool = False) -> None:
        now = self._monotonic()
        while self._waiting:
            due = everything or self._waiting_bytes >= _FLUSH_BYTES
            due = due or len(self._waiting) >= self._terms.max_submissions
            if not due and self._waiting_since is not None and now - self._waiting_since < _FLUSH_SECONDS:
                return
            batch = self._next_batch(now)
            if not batch:
                return
            self._send(batch)
            if not self._waiting:
                self._waiting_since = None

    def _next_batch(self, now: float) -> list[Prepared]:
        batch: list[Prepared] = []
        size = 0
        for key, one in self._waiting.items():
            if key[0] not in self._ledgers or self._not_before.get(key, now) > now:
                continue
            if batch and size + len(one.members) + 64 > self._terms.max_body_bytes - _ENVELOPE_BYTES:
                break
            batch.append(one)
            size += len(one.members) + 64
            if len(batch) >= self._terms.max_submissions or size >= _FLUSH_BYTES:
                break
        return batch

    def _send(self, batch: list[Prepared]) -> None:
        """Raises IsthmusError. A body that the plane cannot read is taken apart until what spoils it is found."""
        try:
            answer = self._plane.submissions([one.as_json(self._ledgers[one.key[0]].fence) for one in batch])
        except RefusedError as error:
            if error.code not in _ABOUT_THE_BODY:
                raise
            if len(batch) > 1:
                self._send(batch[: len(batch) // 2])
                self._send([one for one in batch[len(batch) // 2 :] if one.key[0] in self._ledgers])
                return
            self._spoilt(batch[0], error)
            return
        if len(answer.files) != len(batch):
            raise UnreachableError("the plane did not answer for each file", code="plane_unreachable")
        now = self._monotonic()
        lost = set()
        for one, verdict in zip(batch, answer.files, strict=True):
            match verdict.verdict:
                case dags.SubmissionVerdict.ACCEPTED | dags.SubmissionVerdict.REFUSED:
                    if verdict.verdict is dags.SubmissionVerdict.REFUSED:
                        log.warning(
                            "the plane refuses a DAG file",
                            bundle=one.key[0],
                            file=one.key[1],
                            code=verdict.code,
                            detail=verdict.detail,
                        )
                    self._settled(one)
                case dags.SubmissionVerdict.LATER:
                    self._not_before[one.key] = now + max(0.5, verdict.retry_seconds)
                case dags.SubmissionVerdict.STALE:
                    lost.add(one.key[0])
        if lost:
            self._lose(lost)
            self._bundles_at = float("-inf")

    def _spoilt(self, one: Prepared, error: RefusedError) -> None:
        """The plane cannot read this file's submission at all: show that, and go on with the others."""
        bundle, path = one.key
        log.error("the plane cannot read what came of a DAG file", bundle=bundle, file=path, error=str(error))
        instead = contents.stand_in(one, f"The deployment cannot read the DAGs of this file: {error.summary}")
        try:
            self._plane.submissions([instead.as_json(self._ledgers[bundle].fence)])
        except RefusedError as again:
            if again.code not in _ABOUT_THE_BODY:
                raise
        self._settled(one)

    def _settled(self, one: Prepared) -> None:
        bundle, path = one.key
        self._ledgers[bundle].settled(path, one.content_hash, one.version)
        self._forget(one.key)
        self.claims.parsed(bundle, path)

    def _observe(self) -> None:
        now = self._monotonic()
        busy = {bundle for bundle, _ in self._waiting}
        due = [one for one in self._ledgers.values() if one.bundle not in busy and one.is_due(now)]
        if due:
            unknown = self._told_observation(due, whole=False)
            if unknown:
                self._told_observation(unknown, whole=True)

    def _told_observation(self, due: list[Ledger], *, whole: bool) -> list[Ledger]:
        """Tell of these; returns those of which the plane has something else."""
        now = self._monotonic()
        answer = self._plane.observations(tuple(_observation(one, whole=whole) for one in due))
        if len(answer.bundles) != len(due):
            raise UnreachableError("the plane did not answer for each bundle", code="plane_unreachable")
        unknown = []
        for ledger, said in zip(due, answer.bundles, strict=True):
            if not said.held:
                self._lose({ledger.bundle})
                self._bundles_at = float("-inf")
                continue
            ledger.told_moved()
            if not said.known and not whole:
                unknown.append(ledger)
                continue
            ledger.observed(now)
            log.info(
                "a pass has ended",
                bundle=ledger.bundle,
                files=len(ledger.files),
                sent_bytes=self._plane.sent_bytes - self._counted[0],
                polled_bytes=self._plane.polled_bytes - self._counted[1],
                requests=self._plane.requests - self._counted[2],
            )
            self._counted = (self._plane.sent_bytes, self._plane.polled_bytes, self._plane.requests)
            found = ledger.wanted(said.wanted)
            if found:
                ledger.not_before = now + _WANTED_SECONDS
                self._again |= {(ledger.bundle, path) for path in found}
        return unknown

    def _settle(self) -> None:
        now = self._monotonic()
        done, extended = self.claims.due(now)
        if done or extended:
            answer = self._plane.settle(done, extended)
            self.claims.told(done, extended, answer.lost, now)

    # --- what waits ---

    def _wait(self, prepared: Prepared) -> None:
        self._waiting[prepared.key] = prepared
        self._waiting_bytes += len(prepared.members)
        if self._waiting_since is None:
            self._waiting_since = self._monotonic()

    def _forget(self, key: tuple[str, str]) -> None:
        former = self._waiting.pop(key, None)
        if former is not None:
            self._waiting_bytes -= len(former.members)
        self._not_before.pop(key, None)

    def _lose(self, bundles: Iterable[str]) -> None:
        gone = set(bundles) & self._ledgers.keys()
        for name in gone:
            log.info("a bundle is no longer ours to parse", bundle=name)
            del self._ledgers[name]
        for key in [key for key in self._waiting if key[0] in gone]:
            self._forget(key)
        if gone:
            self.claims.drop(gone)


#: Refusals that are about what is in a body and not about who sends it.
_ABOUT_THE_BODY: Final = frozenset(
    {Code.REQUEST_INVALID, Code.BODY_MALFORMED, Code.BODY_TOO_LARGE, "http_400", "http_413", "http_422"}
)


def _fits(adapter: TypeAdapter[str], value: str) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True


def _offered(offer: Offer) -> dags.OfferedBundle:
    plain = dags.OfferedBundle(name=offer.name, refreshed_at=offer.refreshed_at)
    try:
        return dags.OfferedBundle(
            name=offer.name,
            version=offer.version,
            view_url_template=offer.view_url_template,
            template_params=dict(offer.template_params or {}),
            refreshed_at=offer.refreshed_at,
        )
    except ValidationError as error:
        log.warning("a bundle's link or version cannot be sent", bundle=offer.name, error=str(error)[:500])
        return plain


def _observation(ledger: Ledger, *, whole: bool) -> dags.Observation:
    hashes = ledger.hashes()
    files = tuple(dags.ObservedFile(relative_fileloc=path, content_hash=one) for path, one in hashes)
    return dags.Observation(
        bundle=ledger.bundle,
        fence=ledger.fence,
        version=ledger.version,
        count=len(hashes),
        digest=dags.digest(hashes),
        refreshed_at=ledger.refreshed_at,
        files=files if whole else None,
        moved=tuple(sorted(ledger.moved)),
    )
