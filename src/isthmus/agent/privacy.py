"""What a task's call of Airflow's Execution API may carry out of the network, by privacy profile. Pure.

``open`` sends what Airflow sends. ``masked`` withholds what people only look at: rendered fields, reasons of failures,
notes, names of hosts and users. ``strict`` also withholds the data of tasks: an XCom or a stored state leaves only as a
reference, a URL below one of the prefixes that the agent was told (where the object storage backend of the customer
keeps the values). What work cannot do without passes in each profile; ``docs/privacy.md`` lists every field.

The rules name what passes. A call that changes something and has no rule is refused in ``masked`` and ``strict``, and
a field that has none is left out: what a later Airflow adds is looked at before it leaves. Tasks belong to the customer
as much as the agent does: the rules are against accidents, not against a task that hides data in the name of a key.

Invariant: the path is read as the plane's router reads it, percent-decoded once.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from isthmus.wire.names import WITHHELD, Privacy

#: In place of what was withheld; Airflow's own masker writes the same.
MASK: Final = "***"
#: A body that has a rule is read as a whole; nothing that passes one is larger.
MAX_READ_BYTES: Final = 16 * 1024 * 1024
#: A reference is a URL, and this is what browsers and stores take of one.
_MAX_REFERENCE_CHARACTERS: Final = 2048
#: The XCom by which Airflow's scheduler learns what a branch has skipped: ids of tasks.
_SKIPMIXIN_KEY: Final = "skipmixin_key"

_STATE_REFERENCE_KEY: Final = "__airflow_state_ref__"

_READING: Final = frozenset({"GET", "HEAD"})
#: W3C baggage is free text of the caller; trace ids (traceparent, tracestate) are none.
_WITHHELD_HEADERS: Final = frozenset({b"baggage"})

_DAG_BUNDLES: Final = "/agent/v1/dag-processing/bundles"


@dataclass(frozen=True, slots=True)
class Forwarded:
    """The call goes on, with ``body`` in place of its own; None leaves it as it is."""

    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class AnsweredHere:
    """Nothing leaves; the task hears ``status``, as if the plane had taken it."""

    status: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing leaves, and the task hears why."""

    detail: str


Decision = Forwarded | AnsweredHere | Refused


@dataclass(frozen=True, slots=True)
class _Call:
    """One call with a rule. ``parts`` are the parts of its path, the area first."""

    profile: Privacy
    parts: Sequence[str]
    content: Any
    prefixes: Sequence[str]

    @property
    def strict(self) -> bool:
        return self.profile is Privacy.STRICT


_Rule = Callable[[_Call], Decision]


def stricter(one: Privacy, other: Privacy) -> Privacy:
    """The one of two profiles that lets less out."""
    order = list(Privacy)
    return max(one, other, key=order.index)


def needs_body(profile: Privacy, method: str, path: str) -> bool:
    """Whether ``decide`` wants to see the body of a call: False where the path alone decides."""
    if profile is Privacy.OPEN or method in _READING:
        return False
    rule = _rule(method, _parts(path))
    return rule is not None and rule not in _BODILESS and not (profile is Privacy.MASKED and rule in _DATA)


def decide(profile: Privacy, method: str, path: str, body: bytes | None, prefixes: Sequence[str] = ()) -> Decision:
    """What happens to a call. ``path`` is the request target without its query, ``body`` None where none is needed."""
    if profile is Privacy.OPEN or method in _READING:
        return Forwarded(None if profile is Privacy.OPEN else b"")
    parts = _parts(path)
    rule = _rule(method, parts)
    if rule is None:
        return Refused(f"No rule lets {method} {'/'.join(parts[:1])} out.")
    if body is None:
        return Forwarded(b"") if rule is _empty else Forwarded()
    try:
        content = json.loads(body) if body else None
    except (ValueError, RecursionError):
        return Refused("The body is not JSON.")
    return rule(_Call(profile, parts, content, prefixes))


def headers_kept(profile: Privacy, headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers of a call that go along."""
    if profile is Privacy.OPEN:
        return list(headers)
    return [header for header in headers if header[0] not in _WITHHELD_HEADERS]


def failure_shown(profile: Privacy, detail: str) -> str:
    """The reason for a workload's failure, as the runner words it: it may quote an exception."""
    return detail if profile is Privacy.OPEN or not detail else WITHHELD


def log_shown(profile: Privacy, lines: tuple[str, ...]) -> tuple[str, ...]:
    """The end of the agent's own log, when the plane asks for it."""
    if profile is Privacy.OPEN:
        return lines
    return (f"Withheld: the agent's privacy profile is {profile}.",)


def shows_logs(profile: Privacy, wanted: bool | None) -> bool:
    """Whether tasks' logs may be read from outside. ``wanted`` is what the agent was told, None if nothing."""
    return profile is not Privacy.STRICT if wanted is None else wanted


def answer_shown(profile: Privacy, path: str, answer: bytes) -> bytes:
    """The plane's answer to a component: a plane that wants the text of DAG files is not heard."""
    if profile is Privacy.OPEN or path != _DAG_BUNDLES:
        return answer
    try:
        content = json.loads(answer)
    except (ValueError, RecursionError):
        return answer
    if not isinstance(content, dict) or not content.get("sources_wanted"):
        return answer
    return json.dumps(content | {"sources_wanted": False}).encode()


def is_reference(value: object, prefixes: Sequence[str]) -> bool:
    """Whether ``value`` only says where the value is: a URL below one of ``prefixes``, which end with a slash.

    A state store backend's reference comes in Airflow's wrapping (``sdk/execution_time/context.py``).
    """
    if isinstance(value, dict) and set(value) == {_STATE_REFERENCE_KEY}:
        value = value[_STATE_REFERENCE_KEY]
    return (
        isinstance(value, str)
        and len(value) <= _MAX_REFERENCE_CHARACTERS
        and value.isprintable()
        and value.startswith(tuple(prefixes))
    )


# --- the rules -------------------------------------------------------------------------------------------------------


def _pass(_: _Call) -> Decision:
    return Forwarded()


def _empty(_: _Call) -> Decision:
    return Forwarded(b"")


def _kept(call: _Call, passing: frozenset[str], changed: Mapping[str, object]) -> Decision:
    """Of an object's fields, those of ``passing`` as they are, those of ``changed`` with that value, and no other."""
    if not isinstance(call.content, dict):
        return Refused("The body is not a JSON object.")
    kept = {name: value for name, value in call.content.items() if name in passing}
    kept |= {name: value for name, value in changed.items() if call.content.get(name) is not None}
    return _with(kept)


def _with(content: object) -> Forwarded:
    return Forwarded(json.dumps(content).encode())


def _run(call: _Call) -> Decision:
    return _kept(call, frozenset({"state", "pid", "start_date"}), {"hostname": MASK, "unixname": MASK})


def _heartbeat(call: _Call) -> Decision:
    return _kept(call, frozenset({"pid"}), {"hostname": MASK})


_STATE_FIELDS: Final = frozenset(
    {
        "state",
        "end_date",
        "reschedule_date",
        "retry_delay_seconds",
        "task_outlets",
        "outlet_events",
        # What a deferred task is resumed with; a trigger cannot run without it.
        "classpath",
        "trigger_kwargs",
        "trigger_timeout",
        "timeout",
        "queue",
        "next_method",
        "next_kwargs",
    }
)


def _state(call: _Call) -> Decision:
    changed: dict[str, object] = {"retry_reason": MASK}
    events = call.content.get("outlet_events") if isinstance(call.content, dict) else None
    if call.strict and isinstance(events, list):
        changed["outlet_events"] = [_without_extra(event) for event in events]
    return _kept(call, _STATE_FIELDS, changed)


def _without_extra(event: object) -> object:
    if not isinstance(event, dict):
        return {}
    return {name: {} if name in {"extra", "dest_asset_extra"} else value for name, value in event.items()}


def _rendered(call: _Call) -> Decision:
    """Field names, or nothing: Airflow shows that there is nothing."""
    if call.strict:
        return AnsweredHere(201)
    if not isinstance(call.content, dict):
        return Refused("The body is not a JSON object.")
    return _with(dict.fromkeys(call.content, MASK))


def _map_label(_: _Call) -> Decision:
    """Airflow shows the map index itself then."""
    return AnsweredHere(204)


def _xcom(call: _Call) -> Decision:
    if not call.strict or is_reference(call.content, call.prefixes) or _is_skipped(call):
        return Forwarded()
    return _no_reference("An XCom", call)


def _is_skipped(call: _Call) -> bool:
    if call.parts[4:] != [_SKIPMIXIN_KEY] or not isinstance(call.content, dict):
        return False
    return set(call.content) <= {"followed", "skipped"} and all(
        isinstance(ids, list) and all(isinstance(one, str | list) for one in ids) for ids in call.content.values()
    )


def _stored(call: _Call) -> Decision:
    value = call.content.get("value") if isinstance(call.content, dict) else None
    if call.strict and not is_reference(value, call.prefixes):
        return _no_reference("A stored state", call)
    return _kept(call, frozenset({"value", "expires_at"}), {})


def _no_reference(what: str, call: _Call) -> Refused:
    where = ", ".join(call.prefixes) or "(none is set)"
    return Refused(f"{what} leaves this network only as a reference below privacy_references: {where}.")


def _variable(call: _Call) -> Decision:
    if call.strict:
        return Refused("Variables are not written to the plane.")
    return _kept(call, frozenset({"val"}), {"description": MASK})


def _dag_run(call: _Call) -> Decision:
    content = call.content
    if call.strict and isinstance(content, dict) and content.get("conf"):
        return Refused("A DAG run is started without conf.")
    fields = frozenset({"logical_date", "run_after", "conf", "reset_dag_run", "partition_key"})
    return _kept(call, fields, {"note": MASK})


def _human(call: _Call) -> Decision:
    if call.strict:
        return Refused("What people are asked, and what they answer, would be in the plane.")
    return Forwarded()


def _connection_test(call: _Call) -> Decision:
    return _kept(call, frozenset({"state"}), {"result_message": MASK})


#: The rules that do not look at the body.
_BODILESS: Final = frozenset({_pass, _empty})
#: The rules that let data of tasks through in ``masked``, however large it is.
_DATA: Final = frozenset({_xcom, _human})

#: By method and path: every call of Airflow 3.3's Execution API that changes something.
_RULES: Final[Sequence[tuple[str, re.Pattern[str], _Rule]]] = tuple(
    (method, re.compile(pattern), rule)
    for method, pattern, rule in (
        ("PATCH", r"task-instances/[^/]+/run", _run),
        ("PATCH", r"task-instances/[^/]+/state", _state),
        ("PATCH", r"task-instances/[^/]+/skip-downstream", _pass),
        ("PUT", r"task-instances/[^/]+/heartbeat", _heartbeat),
        ("PUT", r"task-instances/[^/]+/rtif", _rendered),
        ("PATCH", r"task-instances/[^/]+/rendered-map-index", _map_label),
        ("POST", r"xcoms/[^/]+/[^/]+/[^/]+/.+", _xcom),
        ("DELETE", r"xcoms/[^/]+/[^/]+/[^/]+/.+", _empty),
        ("PUT", r"store/ti/[^/]+/.+", _stored),
        ("PUT", r"store/asset/[^/]+/value", _stored),
        ("DELETE", r"store/(ti|asset)/.+", _empty),
        ("PUT", r"variables/.+", _variable),
        ("DELETE", r"variables/.+", _empty),
        ("POST", r"dag-runs/[^/]+/[^/]+", _dag_run),
        ("POST", r"dag-runs/[^/]+/[^/]+/clear", _empty),
        ("POST", r"hitlDetails/[^/]+", _human),
        ("PATCH", r"hitlDetails/[^/]+", _human),
        ("PATCH", r"connection-tests/[^/]+", _connection_test),
    )
)


def _parts(path: str) -> list[str]:
    """The parts of a path below ``/execution/``."""
    return unquote(path).split("/")[2:]


def _rule(method: str, parts: Sequence[str]) -> _Rule | None:
    path = "/".join(parts)
    return next((rule for its, pattern, rule in _RULES if its == method and pattern.fullmatch(path)), None)
