"""What an agent submits of a file, looked at before Airflow sees it; pure.

Out comes what Airflow's functions may be given: file locations are virtual (``<bundle>/<relative path>``), whatever
they were at the agent; warnings and import errors are about this file and its DAGs; numbers and lengths are bounded by
what Airflow's columns hold. Invariant: nothing that is returned names a path of anybody's disk, or a DAG, file or
bundle other than those submitted.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from isthmus.wire.dags import RefusalCode, Submission

MAX_CHARACTERS: Final = 8 * 1024 * 1024
MAX_SOURCE_CHARACTERS: Final = 1024 * 1024
MAX_DAGS: Final = 2000
MAX_TASKS: Final = 20_000
MAX_TAGS: Final = 200
MAX_WARNINGS: Final = 2000
#: What Airflow's columns hold: ``dag.dag_id``, ``dag_tag.name``, ``dag_owner_attributes``.
MAX_ID: Final = 250
MAX_TAG: Final = 100
MAX_OWNER: Final = 500
#: An import error is read by people.
MAX_ERROR: Final = 64 * 1024
MAX_WARNING: Final = 4000
#: NUL, which PostgreSQL cannot hold, as ``json.dumps`` writes it; not a backslash that somebody wrote before u0000.
_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


class RefusedFileError(Exception):
    """The file cannot be taken; ``code`` and ``detail`` become its import error."""

    def __init__(self, code: RefusalCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Warned:
    """One of Airflow's DAG warnings."""

    dag_id: str
    warning_type: str
    text: str


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """A submission that Airflow may be given. ``dags`` are ``data`` of ``LazyDeserializedDAG``, by DAG id."""

    bundle: str
    relative_fileloc: str
    dags: Mapping[str, dict[str, Any]]
    warnings: tuple[Warned, ...] = ()
    import_errors: Mapping[str, str] = field(default_factory=dict)
    source: str | None = None


def check(submission: Submission) -> CheckedFile:
    """What Airflow may be given. Raises RefusedFileError."""
    result = submission.result
    _check_size(submission)
    dags = _dags(submission, result.get("serialized_dags"))
    return CheckedFile(
        bundle=submission.bundle,
        relative_fileloc=submission.relative_fileloc,
        dags=dags,
        warnings=_warnings(result.get("warnings") or [], dags),
        import_errors=_import_errors(submission, result.get("import_errors") or {}),
        source=submission.source,
    )


def belongs(path: str, relative_fileloc: str) -> bool:
    """Whether ``path`` is the file, or lies in it (a zip)."""
    return path == relative_fileloc or path.startswith(f"{relative_fileloc}/")


def _check_size(submission: Submission) -> None:
    try:
        text = json.dumps([submission.result, submission.version_data], allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise RefusedFileError(RefusalCode.RESULT_INVALID, f"The result is not JSON: {error}.") from None
    if len(text) > MAX_CHARACTERS:
        raise RefusedFileError(
            RefusalCode.TOO_LARGE, f"The result has {len(text)} characters; {MAX_CHARACTERS} are taken."
        )
    if _NUL.search(text) or "\0" in (submission.source or ""):
        raise RefusedFileError(RefusalCode.RESULT_INVALID, "The result has a NUL character, which cannot be stored.")
    if len(submission.source or "") > MAX_SOURCE_CHARACTERS:
        raise RefusedFileError(RefusalCode.TOO_LARGE, f"The source has more than {MAX_SOURCE_CHARACTERS} characters.")


def _dags(submission: Submission, serialized: object) -> dict[str, dict[str, Any]]:
    if not isinstance(serialized, list):
        raise _invalid("serialized_dags is not a list")
    _bounded("DAGs", len(serialized), MAX_DAGS)
    found: dict[str, dict[str, Any]] = {}
    for one in serialized:
        data = one.get("data") if isinstance(one, dict) else None
        dag = data.get("dag") if isinstance(data, dict) else None
        if not isinstance(data, dict) or not isinstance(dag, dict):
            raise _invalid("a serialized DAG has no data.dag")
        dag_id = dag.get("dag_id")
        if not isinstance(dag_id, str) or not 0 < len(dag_id) <= MAX_ID:
            raise _invalid(f"a DAG's id is not a text of 1 to {MAX_ID} characters")
        if dag_id in found:
            raise RefusedFileError(RefusalCode.DAG_FOREIGN, f"The file has the DAG id {dag_id!r} twice.")
        found[dag_id] = {**data, "dag": _virtual(submission, _bounded_dag(dag_id, dag))}
    return found


def _bounded_dag(dag_id: str, dag: dict[str, Any]) -> dict[str, Any]:
    tasks, tags, owner_links = dag.get("tasks"), dag.get("tags") or [], dag.get("owner_links") or {}
    if not isinstance(tasks, list) or not isinstance(tags, list) or not isinstance(owner_links, dict):
        raise _invalid(f"the DAG {dag_id!r} has tasks, tags or owner_links that are none")
    _bounded(f"tasks in {dag_id!r}", len(tasks), MAX_TASKS)
    _bounded(f"tags in {dag_id!r}", len(tags), MAX_TAGS)
    _bounded(f"owner links in {dag_id!r}", len(owner_links), MAX_TAGS)
    for tag in tags:
        if not isinstance(tag, str) or len(tag) > MAX_TAG:
            raise _invalid(f"the DAG {dag_id!r} has a tag that is no text of up to {MAX_TAG} characters")
    for owner, link in owner_links.items():
        if not isinstance(link, str) or max(len(owner), len(link)) > MAX_OWNER:
            raise _invalid(f"the DAG {dag_id!r} has an owner link of more than {MAX_OWNER} characters")
    return dag


def _virtual(submission: Submission, dag: dict[str, Any]) -> dict[str, Any]:
    """The DAG with locations that lead nowhere on anybody's disk."""
    inside = dag.get("relative_fileloc")
    relative = submission.relative_fileloc
    if isinstance(inside, str) and ".." not in inside.split("/") and belongs(inside, relative) and len(inside) <= 1000:
        relative = inside
    return {
        **dag,
        "relative_fileloc": relative,
        "fileloc": f"{submission.bundle}/{relative}",
        "_processor_dags_folder": submission.bundle,
    }


def _warnings(given: object, dags: Mapping[str, object]) -> tuple[Warned, ...]:
    if not isinstance(given, list):
        raise _invalid("warnings is not a list")
    _bounded("warnings", len(given), MAX_WARNINGS)
    found = []
    for one in given:
        values = one if isinstance(one, dict) else {}
        dag_id, kind, text = (values.get(name) for name in ("dag_id", "warning_type", "message"))
        # Airflow warns about DAGs of the file, also of those that did not get through.
        if isinstance(dag_id, str) and isinstance(kind, str) and isinstance(text, str) and dag_id in dags:
            found.append(Warned(dag_id, kind, text[:MAX_WARNING]))
    return tuple(found)


def _import_errors(submission: Submission, given: object) -> dict[str, str]:
    """By relative path. An error about another file is one of this file: it came up while this one was parsed."""
    if not isinstance(given, dict):
        raise _invalid("import_errors is not an object")
    found: dict[str, str] = {}
    for path, text in given.items():
        place = (
            path if belongs(path, submission.relative_fileloc) and len(path) <= 1000 else submission.relative_fileloc
        )
        found[place] = (found.get(place, "") + str(text))[-MAX_ERROR:]
    return found


def _bounded(what: str, count: int, limit: int) -> None:
    if count > limit:
        raise RefusedFileError(RefusalCode.TOO_LARGE, f"There are {count} {what}; {limit} are taken.")


def _invalid(reason: str) -> RefusedFileError:
    return RefusedFileError(RefusalCode.RESULT_INVALID, f"This is not what Airflow's DAG processor makes: {reason}.")
