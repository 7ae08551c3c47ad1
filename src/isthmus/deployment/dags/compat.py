"""What the plane's side of DAG processing uses of Airflow: ``compat`` for DAGs, with the same rules.

The server never reads its own disk for a DAG. ``DagCode.get_code_from_file``, which Airflow calls with a DAG's
``fileloc``, is replaced in this process by one that knows the text that came with the submission (``SOURCE``) or says
that there is none; ``prepare`` does it and checks that it holds. On Airflow 3.3 reading a serialized DAG runs no code
that the plane has not got itself: classes are looked up among Airflow's own and the registered plugins'.
"""

import string
from collections.abc import Collection, Iterable, Mapping
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from airflow._shared.timezones import timezone
from airflow.configuration import conf
from airflow.dag_processing.bundles.manager import _is_safe_bundle_url, _sign_bundle_url
from airflow.dag_processing.collection import update_dag_parsing_results_in_db
from airflow.models.asset import remove_references_to_deleted_dags
from airflow.models.callback import DagProcessorCallback
from airflow.models.dag import DagModel
from airflow.models.dagbag import DagPriorityParsingRequest
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagcode import DagCode
from airflow.models.dagwarning import DagWarning, DagWarningType
from airflow.models.errors import ParseImportError
from airflow.models.serialized_dag import SerializedDagModel
from airflow.serialization.serialized_objects import LazyDeserializedDAG
from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.orm import Session

from isthmus.deployment.compat import Expected
from isthmus.deployment.dags.checking import CheckedFile, RefusedFileError, belongs
from isthmus.kit.errors import InternalError
from isthmus.wire.dags import RefusalCode

#: What DAG processing leans on.
DAG_SIDE: Final = (
    Expected(
        "airflow.dag_processing.collection:update_dag_parsing_results_in_db",
        (
            "bundle_name",
            "bundle_version",
            "dags",
            "import_errors",
            "parse_duration",
            "warnings",
            "session",
            "version_data",
            "warning_types",
            "files_parsed",
        ),
    ),
    Expected("airflow.dag_processing.bundles.manager:_is_safe_bundle_url", ("url",)),
    Expected("airflow.dag_processing.bundles.manager:_sign_bundle_url", ("url", "bundle_name")),
    Expected("airflow.models.dagcode:DagCode.get_code_from_file", ("fileloc",)),
    Expected("airflow.models.dagcode:DagCode.write_code", ("dag_version", "fileloc", "session")),
    Expected("airflow.models.dagcode:DagCode.update_source_code", ("dag_id", "fileloc", "session")),
    Expected("airflow.models.serialized_dag:SerializedDagModel.hash", ("dag_data",)),
    Expected("airflow.models.serialized_dag:SerializedDagModel._prefetch_dag_write_metadata", ("dag_ids", "session")),
    Expected("airflow.models.dagwarning:DagWarning.__init__", ("self", "dag_id", "warning_type", "message", "kwargs")),
    Expected("airflow.models.asset:remove_references_to_deleted_dags", ("session",)),
    Expected("airflow.models.callback:DagProcessorCallback.get_callback_request", ("self",)),
)

#: The text of the file that is being persisted in this thread.
SOURCE: Final[ContextVar[str | None]] = ContextVar("isthmus_dag_source", default=None)
NO_SOURCE: Final = "# The source of this DAG stays in the network of the agent that parsed it.\n"

_KINDS: Final = frozenset(kind.value for kind in DagWarningType)


def _code_of_submission(fileloc: str) -> str:
    """The text for ``fileloc``, which is not looked at: that is the point."""
    return SOURCE.get() or NO_SOURCE


def prepare() -> None:
    """Have Airflow in this process take DAG code from submissions alone. Raises InternalError if it does not."""
    replaced: Any = DagCode
    replaced.get_code_from_file = staticmethod(_code_of_submission)
    if replaced.get_code_from_file(__file__) != NO_SOURCE:
        raise InternalError("DAG code would be read from this machine's disk", code="dag_code_not_replaced")


# --- bundles -----------------------------------------------------------------------------------------------------


def put_bundle(
    session: Session,
    name: str,
    *,
    version: str | None,
    refreshed_at: datetime | None,
    view_url_template: str | None,
    template_params: Mapping[str, str],
) -> None:
    """Keep Airflow's row of a bundle, and keep it active: a DAG processor elsewhere must not retire it."""
    model = session.get(DagBundleModel, name)
    if model is None:
        model = DagBundleModel(name=name)
        session.add(model)
    model.active = True
    if version is not None:
        model.version = version
    if refreshed_at is not None:
        model.last_refreshed = min(refreshed_at, timezone.utcnow())
    safe = view_url_template is not None and is_safe_template(view_url_template, template_params)
    if not safe:
        model.signed_url_template = None
    elif model._unsign_url() != view_url_template:  # noqa: SLF001 - signing anew changes the row each time
        model.signed_url_template = _sign_bundle_url(str(view_url_template), name)
    model.template_params = dict(template_params) or None


def is_safe_template(template: str, params: Mapping[str, str]) -> bool:
    """Whether Airflow may sign the template, and fill it in.

    Airflow's own check is about the scheme. Filling in is ``str.format`` on the server: so there are plain fields that
    are known, and no attributes, indexes, conversions or widths (``{version:>9999999999}``).
    """
    try:
        fields = [part[1:] for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError:
        return False
    known = {"version", *params}
    plain = all(name in known and not spec and conversion is None for name, spec, conversion in fields)
    return plain and _is_safe_bundle_url(template)


# --- files -------------------------------------------------------------------------------------------------------


def read(checked: CheckedFile) -> list[LazyDeserializedDAG]:
    """The DAGs as Airflow reads them. Raises RefusedFileError where it cannot, as for a class that is not here."""
    found = []
    for dag_id, data in checked.dags.items():
        try:
            dag = LazyDeserializedDAG(data=data)
            dag._real_dag  # noqa: B018, SLF001 - reads it all; kept there, and needed for its next run
            found.append(dag)
        except RecursionError:
            raise RefusedFileError(RefusalCode.TOO_LARGE, f"The DAG {dag_id!r} is nested too deeply.") from None
        except Exception as error:
            raise _unreadable(dag_id, error) from None
    return found


def _unreadable(dag_id: str, error: Exception) -> RefusedFileError:
    """Airflow's errors about classes that are not registered all carry the class as ``type_string``."""
    causes = [one for one in (error, error.__cause__) if hasattr(one, "type_string")]
    if causes:
        missing = getattr(causes[0], "type_string")  # noqa: B009 - none of Airflow's base classes has it
        return RefusedFileError(
            RefusalCode.CLASS_UNKNOWN,
            f"The DAG {dag_id!r} needs the class {missing}, which the deployment does not have. Install the plugin "
            "that registers it where the deployment's scheduler, API server and Remote Execution API run, and restart "
            "them.",
        )
    said = f"{type(error).__name__}: {error}"
    if error.__cause__ is not None:  # where Airflow says what it is about
        said += f" ({type(error.__cause__).__name__}: {error.__cause__})"
    return RefusedFileError(RefusalCode.RESULT_INVALID, f"Airflow cannot read the DAG {dag_id!r}: {said}"[:2000])


def holders(session: Session, dag_ids: Collection[str]) -> dict[str, tuple[str, bool]]:
    """By DAG id: the bundle that has it, and whether it is stale there."""
    rows = session.execute(
        select(DagModel.dag_id, DagModel.bundle_name, DagModel.is_stale).where(DagModel.dag_id.in_(dag_ids))
    )
    return {row.dag_id: (row.bundle_name, bool(row.is_stale)) for row in rows}


def wait_seconds(session: Session, dags: Iterable[LazyDeserializedDAG], version: str | None) -> float:
    """For how long Airflow would drop a change of these DAGs without a word.

    A serialized DAG, and the bundle's version beside it, is written once in ``min_serialized_dag_update_interval``.
    Where the DAG processor parses again and again that is harmless; here the next submission comes with the next
    change.
    """
    interval = timedelta(seconds=conf.getint("core", "min_serialized_dag_update_interval", fallback=30))
    by_id = {dag.dag_id: dag for dag in dags}
    longest = 0.0
    model: Any = SerializedDagModel  # untyped in Airflow
    written = SerializedDagModel._prefetch_dag_write_metadata(by_id, session=session)  # noqa: SLF001
    for dag_id, metadata in written.items():
        if metadata.last_updated is None:
            continue
        left = (metadata.last_updated + interval - timezone.utcnow()).total_seconds()
        same = metadata.dag_version is not None and metadata.dag_version.bundle_version == version
        if left > 0 and not (same and metadata.dag_hash == model.hash(by_id[dag_id].data)):
            longest = max(longest, left)
    return longest


def persist(
    session: Session,
    checked: CheckedFile,
    dags: Collection[LazyDeserializedDAG],
    *,
    version: str | None,
    version_data: dict[str, Any] | None,
    duration_seconds: float,
    source: str | None,
) -> dict[str, str]:
    """Have Airflow store the file's DAGs, errors and warnings; the import errors that there are then, by path.

    DAGs that the file had and has no more become stale.
    """
    bundle, relative = checked.bundle, checked.relative_fileloc
    errors = {(bundle, path): text for path, text in checked.import_errors.items()}
    # Deleted by Airflow for the files that it is told of: also for what was in a zip and is gone.
    parsed = {(bundle, relative), *((bundle, path) for path in _erring(session, bundle) if belongs(path, relative))}
    token = SOURCE.set(source)
    try:
        update_dag_parsing_results_in_db(
            bundle_name=bundle,
            bundle_version=version,
            version_data=version_data,
            dags=dags,
            import_errors=errors,
            parse_duration=duration_seconds,
            warnings={
                DagWarning(one.dag_id, one.warning_type, one.text)
                for one in checked.warnings
                if one.warning_type in _KINDS
            },
            session=session,
            files_parsed=parsed | set(errors),
        )
    finally:
        SOURCE.reset(token)
    session.execute(
        update(DagModel)
        .where(
            DagModel.bundle_name == bundle,
            or_(
                DagModel.relative_fileloc == relative,
                func.starts_with(DagModel.relative_fileloc, f"{relative}/"),
            ),
            DagModel.dag_id.not_in([dag.dag_id for dag in dags]),
            ~DagModel.is_stale,
        )
        .values(is_stale=True)
        .execution_options(synchronize_session=False)
    )
    return {path: text for (_, path), text in errors.items()}


def _erring(session: Session, bundle: str) -> list[str]:
    rows = session.scalars(select(ParseImportError.filename).where(ParseImportError.bundle_name == bundle))
    return [path for path in rows if path is not None]


def retire(session: Session, bundle: str, present: Collection[str]) -> int:
    """Make stale what came from files that are gone, forget their errors and warnings; how many DAGs it was."""
    rows = session.execute(
        select(DagModel.dag_id, DagModel.relative_fileloc).where(DagModel.bundle_name == bundle, ~DagModel.is_stale)
    )
    gone = [row.dag_id for row in rows if not _is_present(row.relative_fileloc or "", present)]
    if gone:
        session.execute(
            update(DagModel)
            .where(DagModel.dag_id.in_(gone), DagModel.bundle_name == bundle)
            .values(is_stale=True)
            .execution_options(synchronize_session=False)
        )
        session.execute(
            delete(DagWarning).where(DagWarning.dag_id.in_(gone)).execution_options(synchronize_session=False)
        )
        session.flush()
        remove_references_to_deleted_dags(session)
    absent = [path for path in _erring(session, bundle) if not _is_present(path, present)]
    if absent:
        session.execute(
            delete(ParseImportError)
            .where(ParseImportError.bundle_name == bundle, ParseImportError.filename.in_(absent))
            .execution_options(synchronize_session=False)
        )
    return len(gone)


def _is_present(path: str, present: Collection[str]) -> bool:
    """Whether the path is one of the files, or lies in one (a zip)."""
    parts = path.split("/")
    return any("/".join(parts[:length]) in present for length in range(len(parts), 0, -1))


#: Everything in bundle $1 was parsed just now, and is as it was.
BUMP: Final = "UPDATE dag SET last_parsed_time = now() WHERE bundle_name = $1 AND NOT is_stale"

#: The DAGs of files $2 of bundle $1 are of version $3: what Airflow's ``update_dags`` and ``write_dag`` do with DAGs
#: that are as they were. New runs are made at the version in ``dag``; links go to that of the latest ``dag_version``.
MOVE: Final = """
WITH moved AS (
    SELECT d.dag_id FROM isthmus_dag_file AS f CROSS JOIN LATERAL jsonb_array_elements_text(f.dag_ids) AS d(dag_id)
    WHERE f.bundle = $1 AND f.relative_fileloc = ANY($2::text[])
), latest AS (
    SELECT DISTINCT ON (dag_id) id FROM dag_version WHERE dag_id IN (SELECT dag_id FROM moved)
    ORDER BY dag_id, version_number DESC
), versions AS (
    UPDATE dag_version SET bundle_version = $3, version_data = NULL, last_updated = now()
    WHERE id IN (SELECT id FROM latest) AND bundle_name = $1
)
UPDATE dag SET bundle_version = $3
WHERE bundle_name = $1 AND NOT is_stale AND dag_id IN (SELECT dag_id FROM moved)
"""

#: Files of bundle $1 whose DAGs are not (any more) in Airflow's table, as after somebody deleted them there.
MISSING: Final = """
SELECT DISTINCT f.relative_fileloc
FROM isthmus_dag_file AS f CROSS JOIN LATERAL jsonb_array_elements_text(f.dag_ids) AS d(dag_id)
LEFT JOIN dag ON dag.dag_id = d.dag_id AND dag.bundle_name = f.bundle AND NOT dag.is_stale
WHERE f.bundle = $1 AND dag.dag_id IS NULL
"""


# --- callbacks ---------------------------------------------------------------------------------------------------


def waiting_parses(session: Session, bundles: Collection[str], limit: int) -> list[tuple[str, str, str]]:
    """(id, bundle, relative path) of what is to be parsed first."""
    rows = session.execute(
        select(
            DagPriorityParsingRequest.id,
            DagPriorityParsingRequest.bundle_name,
            DagPriorityParsingRequest.relative_fileloc,
        )
        .where(DagPriorityParsingRequest.bundle_name.in_(bundles))
        .order_by(DagPriorityParsingRequest.id)
        .limit(limit)
    )
    return [(row.id, row.bundle_name, row.relative_fileloc) for row in rows]


def waiting_callbacks(session: Session, bundles: Collection[str], taken: Collection[UUID], limit: int) -> list[Any]:
    """Callbacks for the DAG processor, the weightiest first, without those that are ``taken``."""
    return list(
        session.scalars(
            select(DagProcessorCallback)
            .where(DagProcessorCallback.bundle_name.in_(bundles), DagProcessorCallback.id.not_in(taken))
            .order_by(DagProcessorCallback.priority_weight.desc(), DagProcessorCallback.created_at)
            .limit(limit)
        )
    )


def callback_request(callback: Any) -> dict[str, Any]:
    """Airflow's JSON of the request in a row. Raises whatever Airflow raises on one that it cannot read."""
    found: dict[str, Any] = callback.get_callback_request().model_dump(mode="json")
    return found


def finish(session: Session, ids: Collection[str]) -> None:
    """Delete what was done, of either kind: a callback's id is a UUID, that of a request to parse 32 hex digits."""
    session.execute(
        delete(DagPriorityParsingRequest)
        .where(DagPriorityParsingRequest.id.in_(ids))
        .execution_options(synchronize_session=False)
    )
    callbacks = [one for one in ids if "-" in one]
    if callbacks:
        session.execute(
            delete(DagProcessorCallback)
            .where(DagProcessorCallback.id.in_(callbacks))
            .execution_options(synchronize_session=False)
        )
