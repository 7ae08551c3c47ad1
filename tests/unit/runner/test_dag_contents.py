"""What is sent of a parsed file, and the hash by which an unchanged one is noticed."""

import json
from typing import Any

from isthmus.runner.dag_processing import contents
from isthmus.runner.dag_processing.contents import Parsed
from isthmus.wire import dags

MAX = 1024 * 1024


def result(*, loaded: str = "2026-01-01T00:00:00Z", folder: str = "/opt/a", tags: tuple[str, ...] = ("x",)) -> Any:
    dag = {"dag_id": "one", "fileloc": f"{folder}/one.py", "_processor_dags_folder": folder, "tags": list(tags)}
    return {
        "fileloc": f"{folder}/one.py",
        "serialized_dags": [{"data": {"__version": 3, "dag": dag}, "last_loaded": loaded}],
        "warnings": None,
        "import_errors": {},
    }


def parsed(body: Any, **more: Any) -> Parsed:
    return Parsed(bundle="etl", relative_fileloc="one.py", result=body, **more)


def test_what_differs_although_nothing_changed_is_not_hashed() -> None:
    plain = contents.content_hash(result(), None)
    assert contents.content_hash(result(loaded="2027-01-01T00:00:00Z"), None) == plain
    assert contents.content_hash(result(folder="/srv/b"), None) == plain
    assert contents.content_hash(result(tags=("y",)), None) != plain
    assert contents.content_hash(result(), "source") != plain


def test_addresses_in_tracebacks_are_not_hashed() -> None:
    first, second = ({"import_errors": {"one.py": f"<Hook at 0x7f{n}0aa>: {t}"}} for n, t in (("1", "a"), ("2", "a")))
    assert contents.content_hash(first, None) == contents.content_hash(second, None)
    other = {"import_errors": {"one.py": "<Hook at 0x7f10aa>: b"}}
    assert contents.content_hash(first, None) != contents.content_hash(other, None)


def test_a_submission_is_what_the_wire_expects() -> None:
    prepared = contents.prepare(parsed(result(), version="4f2c", duration_seconds=0.12345, source="#"), max_bytes=MAX)
    submission = dags.Submission.model_validate_json(prepared.as_json(7))
    assert (submission.bundle, submission.fence, submission.version) == ("etl", 7, "4f2c")
    assert submission.content_hash == prepared.content_hash == contents.content_hash(result(), "#")
    assert submission.duration_seconds == 0.123
    assert submission.result == result()


def test_what_cannot_be_sent_becomes_an_import_error() -> None:
    large = contents.prepare(parsed(result(tags=("t" * 5000,))), max_bytes=2000)
    (text,) = dags.Submission.model_validate_json(large.as_json(1)).result["import_errors"].values()
    assert "accepts 2,000 at once" in text
    endless = contents.prepare(parsed({"serialized_dags": [{"data": {"x": float("nan")}}]}), max_bytes=MAX)
    body = json.loads(endless.as_json(1))
    assert "cannot be sent" in body["result"]["import_errors"]["one.py"]
    assert body["result"]["serialized_dags"] == []
