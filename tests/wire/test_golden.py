"""What goes over the wire, word for word: a change of these files is a change of the protocol.

Each top-level body has a file in ``golden/``. A body that is added needs a file; a field that is added needs a default,
so that the file of before still parses.
"""

import inspect
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from isthmus.wire import admin, agents, control, dags, frames, logs, probes, problems, traffic, triggers, workloads
from isthmus.wire.bodies import Request, Response

GOLDEN = Path(__file__).parent / "golden"
BODIES: dict[str, type[Request] | type[Response]] = {
    name: body
    for module in (agents, workloads, dags, logs, admin, control, probes, problems, frames, traffic, triggers)
    for name, body in vars(module).items()
    if inspect.isclass(body) and issubclass(body, Request | Response) and body.__module__ == module.__name__
}
#: Parts of other bodies, shown in theirs.
PARTS = {
    "AgentPlace",
    "AgentSight",
    "AgentWarning",
    "AuditEntry",
    "BundleVerdict",
    "BundleView",
    "DagClaim",
    "DagClaimReference",
    "DeploymentSight",
    "ExecutionDetail",
    "FieldProblem",
    "HeldBundle",
    "HeldLease",
    "KnownConnection",
    "LeaseReference",
    "LeasedWorkload",
    "LogRead",
    "LogSubject",
    "NoteView",
} | {
    "MinuteView",
    "PortUseView",
    "ProbedAgent",
    "ProbeRow",
    "Observation",
    "ObservedBundle",
    "ObservedFile",
    "OfferedBundle",
    "QueueView",
    "RefusedBundleView",
    "RefusedCaller",
    "RouteView",
    "SettledLease",
    "Settlement",
    "StandbyTerms",
    "StandbyView",
    "StartedLease",
    "StepProgressView",
    "StepView",
    "Submission",
    "SubmittedFile",
    "TriggerEventReport",
    "TriggerFailure",
    "TriggerWorkload",
    "TriggererView",
    "VerificationEntry",
    "Versions",
    "WaitingTriggersView",
    "WayView",
}


def test_every_body_has_its_file() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(BODIES) - PARTS


@pytest.mark.parametrize("name", sorted(set(BODIES) - PARTS))
def test_the_body_is_what_it_was(name: str) -> None:
    text = (GOLDEN / f"{name}.json").read_text()
    body = BODIES[name].model_validate_json(text, strict=True)
    assert json.loads(body.model_dump_json()) == json.loads(text)


@pytest.mark.parametrize("name", sorted(set(BODIES) - PARTS))
def test_unknown_fields(name: str) -> None:
    """A request with a typo is an error; an answer of a newer plane is read by an older agent."""
    body = BODIES[name]
    more = {**json.loads((GOLDEN / f"{name}.json").read_text()), "from_the_future": 1}
    if issubclass(body, Request):
        with pytest.raises(ValidationError):
            body.model_validate(more)
    else:
        body.model_validate(more)


def test_secrets_are_in_no_repr() -> None:
    for name in (
        "ClaimResponse",
        "TaskTokenResponse",
        "TokenCreated",
        "OperatorCreated",
        "Launch",
        "Begin",
        "ComponentTokenResponse",
    ):
        text = (GOLDEN / f"{name}.json").read_text()
        assert "s3cret" in text
        assert "s3cret" not in repr(BODIES[name].model_validate_json(text))


def test_codes_and_their_statuses_stay() -> None:
    known = json.loads((Path(__file__).parent / "codes.json").read_text())
    assert {code.value: problems.MEANINGS[code].status for code in problems.Code} == known
