"""Putting one parsed file into Airflow's tables, and remembering what was put there.

Runs in a thread, with Airflow's ORM: a transaction for each file, which holds the bundle's row so that it stays with
the agent under that fence, and the file's DAG ids so that two files cannot take the same one at once. Airflow's own
function stores DAGs, import errors and warnings. A file that is refused has an import error that says why, so that
people see it where they look for DAGs.

Invariant: a file is remembered with its content hash exactly when Airflow's tables have what it said.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy import exc, text
from sqlalchemy.orm import Session

from isthmus.deployment import compat
from isthmus.deployment.dags import compat as compat_dags
from isthmus.deployment.dags.checking import CheckedFile, RefusedFileError, check
from isthmus.wire.dags import RefusalCode, Submission, SubmissionVerdict, SubmittedFile

#: Two files that name the same asset for the first time can collide.
ATTEMPTS: Final = 3
BUSY_SECONDS: Final = 2.0

_HELD: Final = text(
    "SELECT 1 FROM isthmus_bundle WHERE name = :bundle AND agent_id = :agent_id AND fence = :fence FOR SHARE"
)
_LOCK_IDS: Final = text(
    "SELECT pg_advisory_xact_lock(hashtextextended(dag_id, 0)) "
    "FROM (SELECT unnest(CAST(:dag_ids AS text[])) AS dag_id ORDER BY 1) AS ids"
)
_OWNERS: Final = text("SELECT name, token_id FROM isthmus_bundle WHERE name = ANY(:names)")
_REMEMBER: Final = text(
    """
    INSERT INTO isthmus_dag_file
        (bundle, relative_fileloc, content_hash, code, detail, dag_ids, import_errors, duration_seconds)
    VALUES
        (:bundle, :relative_fileloc, :content_hash, :code, :detail, CAST(:dag_ids AS jsonb), :import_errors, :duration)
    ON CONFLICT (bundle, relative_fileloc) DO UPDATE
    SET content_hash = EXCLUDED.content_hash, code = EXCLUDED.code, detail = EXCLUDED.detail,
        dag_ids = EXCLUDED.dag_ids, import_errors = EXCLUDED.import_errors,
        duration_seconds = EXCLUDED.duration_seconds, submitted_at = now()
    """
)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Submitter:
    """The agent that submits, and the tokens whose bundles are its own."""

    agent_id: UUID
    kin: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Work:
    """What is to be stored of a file: its DAGs as Airflow reads them, or why it was refused."""

    checked: CheckedFile
    dags: Collection[Any]
    refusal: RefusedFileError | None


class _UndoneError(Exception):
    """Airflow rolled the transaction back to try again, and with it went our locks."""


def take(submitter: Submitter, submission: Submission, *, sources: bool) -> SubmittedFile:
    """Put the file into Airflow's tables; the verdict on it. ``sources``: whether its text may be shown."""
    refusal: RefusedFileError | None = None
    try:
        checked = check(submission)
        dags = compat_dags.read(checked)
    except RefusedFileError as error:
        checked, dags, refusal = _nothing(submission), [], error
    last: Exception | None = None
    for _ in range(ATTEMPTS):
        try:
            with compat.own_session() as session:
                return _write(session, submitter, submission, _Work(checked, dags, refusal), sources=sources)
        except RefusedFileError as error:
            checked, dags, refusal = _nothing(submission), [], error
        except (exc.IntegrityError, _UndoneError) as error:
            last = error
        except (exc.OperationalError, exc.InterfaceError, exc.TimeoutError) as error:
            log.warning("a parsed file cannot be stored now", why=type(error).__name__)
            return later(submission)
        except Exception as error:
            if refusal is not None:
                raise
            log.warning("Airflow does not take a parsed file", bundle=submission.bundle, exc_info=error)
            refusal = RefusedFileError(
                RefusalCode.RESULT_INVALID, f"Airflow does not take it: {type(error).__name__}: {error}"[:2000]
            )
            checked, dags = _nothing(submission), []
    log.warning("a parsed file could not be stored", bundle=submission.bundle, exc_info=last)
    return later(submission)


def later(submission: Submission, seconds: float = BUSY_SECONDS) -> SubmittedFile:
    """Send it again."""
    return _verdict(submission, SubmissionVerdict.LATER, retry_seconds=seconds)


def _write(
    session: Session,
    submitter: Submitter,
    submission: Submission,
    work: "_Work",
    *,
    sources: bool,
) -> SubmittedFile:
    checked, dags, refusal = work.checked, work.dags, work.refusal
    held = session.execute(
        _HELD, {"bundle": submission.bundle, "agent_id": submitter.agent_id, "fence": submission.fence}
    ).first()
    if held is None:
        return _verdict(submission, SubmissionVerdict.STALE)
    transaction = session.get_transaction()
    dag_ids = sorted(checked.dags)
    if dag_ids:
        session.execute(_LOCK_IDS, {"dag_ids": dag_ids})
        _check_owners(session, submitter, submission.bundle, dag_ids)
        if (seconds := compat_dags.wait_seconds(session, dags, submission.version)) > 0:
            return later(submission, seconds)
    if refusal is not None:
        told = f"{refusal.detail}\n\nIsthmus did not take this file ({refusal.code})."
        checked = CheckedFile(submission.bundle, submission.relative_fileloc, {}, (), {checked.relative_fileloc: told})
    errors = compat_dags.persist(
        session,
        checked,
        dags,
        version=submission.version,
        version_data=submission.version_data if refusal is None else None,
        duration_seconds=submission.duration_seconds,
        source=checked.source if sources else None,
    )
    if session.get_transaction() is not transaction:
        session.rollback()
        raise _UndoneError
    session.execute(
        _REMEMBER,
        {
            "bundle": submission.bundle,
            "relative_fileloc": submission.relative_fileloc,
            "content_hash": submission.content_hash,
            "code": "" if refusal is None else refusal.code.value,
            "detail": "" if refusal is None else refusal.detail,
            # With an import error Airflow makes the file's DAGs stale: then none of them must be there.
            "dag_ids": json.dumps([] if errors else dag_ids),
            "import_errors": len(errors),
            "duration": submission.duration_seconds,
        },
    )
    if refusal is not None:
        return _verdict(submission, SubmissionVerdict.REFUSED, code=refusal.code.value, detail=refusal.detail)
    return _verdict(submission, SubmissionVerdict.ACCEPTED)


def _check_owners(session: Session, submitter: Submitter, bundle: str, dag_ids: Collection[str]) -> None:
    """Raise RefusedFileError for a DAG id that another bundle has.

    A DAG that is stale there may move, if both bundles are of the same owner.
    """
    others = {
        dag_id: (name, stale)
        for dag_id, (name, stale) in compat_dags.holders(session, dag_ids).items()
        if name != bundle
    }
    if not others:
        return
    names = {name for name, _ in others.values()}
    owners = {row.name: row.token_id for row in session.execute(_OWNERS, {"names": list(names)})}
    for dag_id, (name, stale) in sorted(others.items()):
        if not stale or owners.get(name) not in submitter.kin:
            raise RefusedFileError(
                RefusalCode.DAG_FOREIGN,
                f"The DAG id {dag_id!r} belongs to another bundle of this deployment. Choose another id, or delete the "
                "other DAG (its file first, then the DAG in Airflow).",
            )


def _nothing(submission: Submission) -> CheckedFile:
    return CheckedFile(submission.bundle, submission.relative_fileloc, {})


def _verdict(submission: Submission, verdict: SubmissionVerdict, **values: Any) -> SubmittedFile:
    return SubmittedFile(
        bundle=submission.bundle, relative_fileloc=submission.relative_fileloc, verdict=verdict, **values
    )
