"""What leaves of each call, under each profile."""

import json
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.agent import privacy
from isthmus.agent.privacy import AnsweredHere, Forwarded, Refused
from isthmus.wire.names import Privacy

TI = "/execution/task-instances/0b7e2a0c-4b7b-4c58-9a35-0d2f4e1c6a01"
XCOM = "/execution/xcoms/dag/run/task/return_value"
STATE = "/execution/store/ti/0b7e2a0c-4b7b-4c58-9a35-0d2f4e1c6a01/offset"
CANARY = "canary"
PREFIX = "s3://warehouse@data/xcom/"


def decide(profile: Privacy, method: str, path: str, content: Any) -> privacy.Decision:
    body = json.dumps(content).encode() if privacy.needs_body(profile, method, path) else None
    return privacy.decide(profile, method, path, body, (PREFIX,))


def sent(decision: privacy.Decision) -> Any:
    assert isinstance(decision, Forwarded)
    assert decision.body is not None
    return json.loads(decision.body)


READING = {"GET", "HEAD", "OPTIONS"}

#: Every call that carries what people only look at, with canaries where that is.
LOOKED_AT = [
    ("PATCH", f"{TI}/run", {"state": "running", "hostname": CANARY, "unixname": CANARY, "pid": 3}),
    ("PUT", f"{TI}/heartbeat", {"hostname": CANARY, "pid": 3}),
    ("PUT", f"{TI}/rtif", {"bash_command": CANARY, "env": {"A": [CANARY]}}),
    ("PATCH", f"{TI}/rendered-map-index", CANARY),
    ("PATCH", f"{TI}/state", {"state": "up_for_retry", "retry_reason": CANARY, "rendered_map_index": CANARY}),
    ("PATCH", "/execution/connection-tests/x", {"state": "failed", "result_message": CANARY}),
    ("POST", "/execution/dag-runs/a/b", {"note": CANARY, "conf": {}}),
    ("PUT", "/execution/variables/a", {"val": None, "description": CANARY}),
]
#: Every call that carries data of tasks.
DATA = [
    ("POST", XCOM, CANARY),
    ("POST", XCOM, {"rows": [CANARY]}),
    ("PUT", STATE, {"value": CANARY}),
    ("PUT", "/execution/store/asset/by-name/value", {"value": {"x": CANARY}}),
    ("PUT", "/execution/variables/a/b", {"val": CANARY}),
    ("POST", "/execution/dag-runs/a/b", {"conf": {"x": CANARY}}),
    ("POST", "/execution/hitlDetails/x", {"subject": CANARY, "options": ["yes"]}),
    ("PATCH", "/execution/hitlDetails/x", {"chosen_options": ["yes"], "params_input": {"a": CANARY}}),
]


@pytest.mark.parametrize(("method", "path", "content"), [*LOOKED_AT, *DATA])
def test_open_sends_what_airflow_sends(method: str, path: str, content: Any) -> None:
    assert not privacy.needs_body(Privacy.OPEN, method, path)
    assert privacy.decide(Privacy.OPEN, method, path, None) == Forwarded()


@pytest.mark.parametrize("profile", [Privacy.MASKED, Privacy.STRICT])
@pytest.mark.parametrize(("method", "path", "content"), LOOKED_AT)
def test_what_people_only_look_at_stays(profile: Privacy, method: str, path: str, content: Any) -> None:
    decision = decide(profile, method, path, content)
    if isinstance(decision, Forwarded):
        assert CANARY not in json.dumps(sent(decision))
    else:
        assert isinstance(decision, AnsweredHere) or profile is Privacy.STRICT


@pytest.mark.parametrize(("method", "path", "content"), DATA)
def test_data_passes_when_masked_and_not_when_strict(method: str, path: str, content: Any) -> None:
    masked = decide(Privacy.MASKED, method, path, content)
    assert masked == Forwarded() or sent(masked) == content
    assert isinstance(decide(Privacy.STRICT, method, path, content), Refused)


def test_rendered_fields_keep_their_names_when_masked_and_stay_when_strict() -> None:
    content = {"bash_command": CANARY, "env": {"A": CANARY}}
    assert sent(decide(Privacy.MASKED, "PUT", f"{TI}/rtif", content)) == {"bash_command": "***", "env": "***"}
    assert decide(Privacy.STRICT, "PUT", f"{TI}/rtif", content) == AnsweredHere(201)


@pytest.mark.parametrize("profile", [Privacy.MASKED, Privacy.STRICT])
def test_a_deferral_keeps_what_its_trigger_needs(profile: Privacy) -> None:
    content = {"state": "deferred", "classpath": "a.B", "trigger_kwargs": {"s": 1}, "next_method": "go", "queue": None}
    assert sent(decide(profile, "PATCH", f"{TI}/state", content)) == content


@pytest.mark.parametrize("extra", ["extra", "dest_asset_extra"])
def test_asset_events_travel_without_extra_when_strict(extra: str) -> None:
    event = {"dest_asset_key": {"name": "a", "uri": "b"}, extra: {"x": CANARY}}
    content = {"state": "success", "end_date": "2026-01-01", "task_outlets": [], "outlet_events": [event]}
    assert sent(decide(Privacy.MASKED, "PATCH", f"{TI}/state", content)) == content
    kept = sent(decide(Privacy.STRICT, "PATCH", f"{TI}/state", content))
    assert kept["outlet_events"] == [{"dest_asset_key": {"name": "a", "uri": "b"}, extra: {}}]


@pytest.mark.parametrize(
    ("value", "is_one"),
    [
        (f"{PREFIX}dag/run/task/1.json", True),
        ({"__airflow_state_ref__": f"{PREFIX}state"}, True),
        ({"__airflow_state_ref__": f"{PREFIX}state", "more": 1}, False),
        (f"{PREFIX}a\nb", False),
        (PREFIX + "x" * 2048, False),
        ("s3://warehouse@data-of-others/x", False),
        ("postgres://user:password@host/db", False),
        ([f"{PREFIX}x"], False),
        (None, False),
        (7, False),
    ],
)
def test_a_reference_is_a_url_below_a_known_place(value: object, is_one: bool) -> None:
    assert privacy.is_reference(value, (PREFIX,)) is is_one
    assert not privacy.is_reference(value, ())
    assert (decide(Privacy.STRICT, "POST", XCOM, value) == Forwarded()) is is_one
    assert isinstance(decide(Privacy.STRICT, "PUT", STATE, {"value": value}), Forwarded) is is_one


def test_what_a_branch_skipped_is_no_data() -> None:
    path = "/execution/xcoms/dag/run/task/skipmixin_key"
    assert decide(Privacy.STRICT, "POST", path, {"followed": ["a", ["b", 1]]}) == Forwarded()
    assert isinstance(decide(Privacy.STRICT, "POST", path, {"followed": [{"a": CANARY}]}), Refused)
    assert isinstance(decide(Privacy.STRICT, "POST", path, {"rows": [CANARY]}), Refused)
    assert isinstance(decide(Privacy.STRICT, "POST", XCOM, {"followed": ["a"]}), Refused)


@pytest.mark.parametrize("profile", [Privacy.MASKED, Privacy.STRICT])
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/execution/new-area/x"), ("PATCH", f"{TI}/new"), ("PUT", "/execution/xcoms/a"), ("POST", f"{TI}/rtif")],
)
def test_a_call_without_a_rule_is_refused(profile: Privacy, method: str, path: str) -> None:
    assert isinstance(privacy.decide(profile, method, path, None), Refused)


@pytest.mark.parametrize("path", ["/execution/task%2Dinstances/x/rtif", "/execution/task-instances%2Fx%2Frtif"])
def test_a_path_is_read_as_the_plane_reads_it(path: str) -> None:
    assert privacy.needs_body(Privacy.MASKED, "PUT", path)
    assert sent(decide(Privacy.MASKED, "PUT", path, {"a": CANARY})) == {"a": "***"}


@pytest.mark.parametrize("profile", [Privacy.MASKED, Privacy.STRICT])
def test_reading_and_deleting_carry_no_body(profile: Privacy) -> None:
    for method, path in (("GET", XCOM), ("HEAD", XCOM), ("DELETE", XCOM), ("DELETE", STATE)):
        assert privacy.decide(profile, method, path, None) == Forwarded(b"")


@pytest.mark.parametrize("body", [b"{", b"[1]", b"[" * 100_000, b"\xff"])
def test_a_body_that_cannot_be_looked_at_stays(body: bytes) -> None:
    assert isinstance(privacy.decide(Privacy.MASKED, "PUT", f"{TI}/rtif", body), Refused)


@given(
    st.sampled_from(list(Privacy)[1:]),
    st.dictionaries(st.text(), st.just(CANARY)),
    st.sampled_from([f"{TI}/state", f"{TI}/run", f"{TI}/heartbeat", "/execution/connection-tests/x"]),
)
def test_a_field_without_a_rule_is_left_out(profile: Privacy, fields: dict[str, str], path: str) -> None:
    method = "PUT" if path.endswith("heartbeat") else "PATCH"
    unknown = {f"new_{name}": value for name, value in fields.items()}
    assert sent(decide(profile, method, path, {"state": "success", **unknown})) in ({"state": "success"}, {})


def test_the_stricter_profile_holds() -> None:
    assert privacy.stricter(Privacy.OPEN, Privacy.MASKED) is Privacy.MASKED
    assert privacy.stricter(Privacy.STRICT, Privacy.MASKED) is Privacy.STRICT


def test_baggage_and_words_of_failures_stay() -> None:
    headers = [(b"traceparent", b"00-a-b-01"), (b"baggage", CANARY.encode())]
    assert privacy.headers_kept(Privacy.OPEN, headers) == headers
    assert privacy.headers_kept(Privacy.MASKED, headers) == headers[:1]
    assert privacy.failure_shown(Privacy.OPEN, CANARY) == CANARY
    assert CANARY not in privacy.failure_shown(Privacy.MASKED, CANARY)
    assert privacy.failure_shown(Privacy.MASKED, "") == ""
    assert privacy.log_shown(Privacy.OPEN, (CANARY,)) == (CANARY,)
    assert CANARY not in str(privacy.log_shown(Privacy.STRICT, (CANARY,)))


@pytest.mark.parametrize(
    ("profile", "wanted", "shown"),
    [
        (Privacy.OPEN, None, True),
        (Privacy.MASKED, None, True),
        (Privacy.STRICT, None, False),
        (Privacy.STRICT, True, True),
        (Privacy.OPEN, False, False),
    ],
)
def test_logs_are_shown_as_the_agent_was_told(profile: Privacy, wanted: bool | None, shown: bool) -> None:
    assert privacy.shows_logs(profile, wanted) is shown


def test_a_plane_that_wants_sources_is_not_heard() -> None:
    path, answer = "/agent/v1/dag-processing/bundles", b'{"sources_wanted": true, "bundles": []}'
    assert privacy.answer_shown(Privacy.OPEN, path, answer) == answer
    assert json.loads(privacy.answer_shown(Privacy.MASKED, path, answer)) == {"sources_wanted": False, "bundles": []}
    assert privacy.answer_shown(Privacy.MASKED, "/agent/v1/triggers/load", answer) == answer


def test_every_call_of_airflow_that_changes_something_has_a_rule() -> None:
    """By Airflow's own routes, in a process of its own: a call that a later Airflow adds is looked at first."""
    listing = (
        "import json, warnings; warnings.simplefilter('ignore')\n"
        "from airflow.api_fastapi.execution_api.routes import execution_api_router\n"
        "print(json.dumps([[method, route.path] for route in execution_api_router.routes for method in route.methods]))"
    )
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    routes = [(method, path) for method, path in json.loads(done.stdout.splitlines()[-1]) if method not in READING]
    assert len(routes) >= 20
    for method, path in routes:
        call = "/execution" + re.sub(r"\{[^}]*\}", "x", path)
        known = privacy.decide(Privacy.MASKED, method, call, None)
        assert isinstance(known, Forwarded), f"{method} {path} has no rule"
