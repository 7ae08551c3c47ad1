"""What is sent of a parsed file: canonical JSON, and the hash by which an unchanged file is noticed. Pure.

The hash is over what would be sent, not over the file: a file whose imports, variables or surroundings changed is
another one, and one that was only touched is not. Left out of it is what differs although nothing changed: times of
loading, the folders of this host (the plane replaces them), and the addresses in tracebacks.
"""

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from typing import Any, Final

from isthmus.wire.names import WITHHELD

#: ``<object at 0x7f0a…>`` in a traceback: another one in each process.
_ADDRESS: Final = re.compile(r"\b0x[0-9a-f]{6,16}\b")
#: Members of a serialized DAG that say where it was parsed.
_PLACES: Final = ("fileloc", "_processor_dags_folder")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """One file, parsed. ``result`` is Airflow's ``DagFileParsingResult`` in JSON's types; ``began`` is monotonic."""

    bundle: str
    relative_fileloc: str
    version: str | None = None
    version_data: dict[str, Any] | None = None
    began: float = 0.0
    duration_seconds: float = 0.0
    result: dict[str, Any] = field(repr=False)
    source: str | None = field(default=None, repr=False)

    @property
    def key(self) -> tuple[str, str]:
        """Which file it is."""
        return self.bundle, self.relative_fileloc

    @property
    def failed(self) -> bool:
        """Whether something could not be imported."""
        return bool(self.result.get("import_errors"))


@dataclass(frozen=True, slots=True)
class Prepared:
    """A submission, ready to be put into a body but for the bundle's fence, which may change while it waits."""

    key: tuple[str, str]
    content_hash: str
    version: str | None
    #: The members of the JSON object, without its braces and without ``fence``.
    members: bytes = field(repr=False)

    def as_json(self, fence: int) -> bytes:
        """The submission under ``fence``."""
        return b'{"fence":%d,%s}' % (fence, self.members)


def _json(value: Any) -> bytes:
    """Canonical: sorted keys, no spaces, ASCII. Raises ValueError for what JSON has no words for (NaN)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def content_hash(result: dict[str, Any], source: str | None) -> str:
    """SHA-256, in hex, of a result without what is volatile, and of the source. Raises ValueError."""
    dags = []
    for serialized in result.get("serialized_dags") or ():
        data = dict(serialized.get("data") or {})
        if isinstance(data.get("dag"), dict):
            data["dag"] = {name: value for name, value in data["dag"].items() if name not in _PLACES}
        dags.append(data)
    errors = {path: _ADDRESS.sub("0x", text) for path, text in (result.get("import_errors") or {}).items()}
    whole = {"dags": dags, "errors": errors, "warnings": result.get("warnings") or [], "source": source}
    return hashlib.sha256(_json(whole)).hexdigest()


def prepare(parsed: Parsed, *, max_bytes: int) -> Prepared:
    """A submission; one that cannot be sent becomes an import error of the file that says so."""
    try:
        hashed = content_hash(parsed.result, parsed.source)
        members = _members(parsed, hashed)
    except ValueError as error:
        return _instead(parsed, f"The DAGs of this file cannot be sent: {error}.")
    if len(members) > max_bytes:
        return _instead(
            parsed,
            f"The DAGs of this file take {len(members):,} bytes as JSON; the deployment accepts {max_bytes:,} at once. "
            "Split the file, or have the deployment's limit raised.",
        )
    return Prepared(parsed.key, hashed, parsed.version, members)


def failure(parsed: Parsed, text: str) -> Parsed:
    """The file with an import error in place of its DAGs."""
    result: dict[str, Any] = {
        "fileloc": parsed.result.get("fileloc") or parsed.relative_fileloc,
        "serialized_dags": [],
        "warnings": None,
        "import_errors": {parsed.relative_fileloc: text},
    }
    return Parsed(
        bundle=parsed.bundle,
        relative_fileloc=parsed.relative_fileloc,
        version=parsed.version,
        began=parsed.began,
        duration_seconds=parsed.duration_seconds,
        result=result,
    )


def without_reasons(parsed: Parsed) -> Parsed:
    """The file with its import errors, but not why: for a plane that is not to know."""
    errors = dict.fromkeys(parsed.result.get("import_errors") or {}, WITHHELD)
    return replace(parsed, result=parsed.result | {"import_errors": errors})


def stand_in(prepared: Prepared, text: str) -> Prepared:
    """An import error in place of a submission that the plane cannot read, under its hash: it is as good as sent."""
    bundle, path = prepared.key
    failed = failure(Parsed(bundle=bundle, relative_fileloc=path, version=prepared.version, result={}), text)
    return Prepared(prepared.key, prepared.content_hash, prepared.version, _members(failed, prepared.content_hash))


def _instead(parsed: Parsed, text: str) -> Prepared:
    failed = failure(parsed, text)
    hashed = content_hash(failed.result, None)
    return Prepared(parsed.key, hashed, parsed.version, _members(failed, hashed))


def _members(parsed: Parsed, hashed: str) -> bytes:
    whole = {
        "bundle": parsed.bundle,
        "version": parsed.version,
        "version_data": parsed.version_data,
        "relative_fileloc": parsed.relative_fileloc,
        "content_hash": hashed,
        "duration_seconds": round(max(0.0, min(parsed.duration_seconds, 86400.0)), 3),
        "result": parsed.result,
        "source": parsed.source,
    }
    return _json({name: value for name, value in whole.items() if value is not None})[1:-1]
