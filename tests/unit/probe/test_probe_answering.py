"""What a deployment's answer condemns: one row for each cause, with what to do."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from isthmus.probe import answering
from isthmus.probe.answering import PlaneFindings
from isthmus.probe.asking import Answer, RoadError, Stage
from isthmus.probe.reports import Finding, Status
from isthmus.wire import problems
from isthmus.wire.probes import ProbeResponse
from isthmus.wire.problems import Code

NOW = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
PATH = "/dtest234"
AGENT: dict[str, Any] = {
    "name": "agent-1",
    "role": "worker",
    "healthy": True,
    "left": False,
    "path": "link",
    "link_id": 7,
    "address": "10.20.0.5",
    "heartbeat_seconds_ago": 3.2,
}


def response(**changes: Any) -> Answer:
    said = ProbeResponse.model_validate(
        {
            "deployment_id": "dtest234",
            "plane_version": "0.1.0",
            "now": NOW,
            "restricted": True,
            "source_address": "10.20.0.5",
            "path": "link",
            "link_id": 7,
            "token_id": "abcdefghijkl",
            "token_name": "oslo",
            "token_expires_at": NOW + timedelta(days=90),
            "token_roles": ["worker"],
            "token_queues": [],
            "token_links": [7],
            "agents": [AGENT],
            **changes,
        }
    )
    return Answer(200, {}, said.model_dump_json().encode())


def refused(code: Code, detail: str = "", **values: Any) -> Answer:
    problem = problems.problem(code, detail, **values)
    return Answer(problem.status, {}, problem.model_dump_json().encode())


def judge(answer: Answer | RoadError, *, has_token: bool = True, now: datetime = NOW) -> PlaneFindings:
    return answering.judge_probe(answer, path=PATH, has_token=has_token, now=now)


def found(findings: PlaneFindings) -> dict[str, Finding]:
    rows = {name: getattr(findings, name) for name in ("deployment", "source", "token", "clock", "heartbeat")}
    return {name: finding for name, finding in rows.items() if finding is not None}


def failed(findings: PlaneFindings) -> dict[str, Finding]:
    return {name: finding for name, finding in found(findings).items() if finding.status is Status.FAIL}


def test_all_is_well() -> None:
    findings = judge(response())
    assert {finding.status for finding in found(findings).values()} == {Status.PASS}
    assert len(found(findings)) == 5
    assert findings.is_restricted is True
    rows = found(findings)
    assert rows["source"].details == "seen as 10.20.0.5, through link 7"
    assert "agent-1 3 s ago through link 7" in rows["heartbeat"].details
    assert "for worker, link 7" in rows["token"].details


@pytest.mark.parametrize(
    "code",
    [
        Code.TOKEN_INVALID,
        Code.TOKEN_EXPIRED,
        Code.TOKEN_REVOKED,
        Code.TOKEN_WRONG_DEPLOYMENT,
        Code.TOKEN_WRONG_LINK,
        Code.TOKEN_MISSING,
    ],
)
def test_a_token_that_is_refused_is_the_one_failure(code: Code) -> None:
    findings = judge(refused(code, "What was seen."))
    assert set(failed(findings)) == {"token"}
    assert found(findings)["source"].status is Status.PASS
    finding = failed(findings)["token"]
    assert code.value in finding.details
    assert "What was seen." in finding.details
    assert finding.remedy == problems.MEANINGS[code].hint


def test_an_address_that_is_not_let_in_says_nothing_about_the_token() -> None:
    findings = judge(refused(Code.SOURCE_NOT_ALLOWED, source_address="198.51.100.7"))
    assert set(failed(findings)) == {"source"}
    assert "token" not in found(findings)
    assert "198.51.100.7" in failed(findings)["source"].details
    assert "allow add 198.51.100.7" in failed(findings)["source"].remedy


def test_without_a_token_the_address_is_judged_all_the_same() -> None:
    findings = judge(refused(Code.TOKEN_MISSING), has_token=False)
    assert failed(findings) == {}
    assert found(findings)["source"].status is Status.PASS
    assert found(findings)["token"].status is Status.SKIP


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(404, {}, b"404 page not found\n"), PATH),
        (Answer(502, {}, b"<html>bad gateway"), "status 502"),
        (Answer(200, {}, b"{}"), "not in the words"),
        (Answer(403, {}, b"forbidden"), "status 403"),
        (refused(Code.DATABASE_UNAVAILABLE), "database_unavailable"),
        (refused(Code.INTERNAL), "internal"),
        (RoadError(Stage.HTTP, EOFError("closed"), 1.0), "closed"),
    ],
)
def test_what_is_not_the_deployment_fails_in_its_row(answer: Answer | RoadError, words: str) -> None:
    findings = judge(answer)
    assert set(found(findings)) == {"deployment"}
    assert words in failed(findings)["deployment"].details
    assert failed(findings)["deployment"].remedy


@pytest.mark.parametrize("ahead", [timedelta(minutes=10), timedelta(minutes=-10)])
def test_a_clock_that_is_off(ahead: timedelta) -> None:
    clock = found(judge(response(), now=NOW + ahead))["clock"]
    assert clock.status is Status.WARN
    assert f"600 s {'ahead' if ahead > timedelta() else 'behind'}" in clock.details


def test_a_token_that_ends_soon() -> None:
    token = found(judge(response(token_expires_at=NOW + timedelta(days=3))))["token"]
    assert (token.status, "rotate abcdefghijkl" in token.remedy) == (Status.WARN, True)
    assert found(judge(response(token_expires_at=None)))["token"].status is Status.PASS


@pytest.mark.parametrize(
    ("agents", "status", "words"),
    [
        ([], Status.WARN, "no agent has enrolled"),
        ([{**AGENT, "healthy": False, "heartbeat_seconds_ago": 95}], Status.FAIL, "stopped"),
        ([{**AGENT, "healthy": False, "left": True, "heartbeat_seconds_ago": 900}], Status.FAIL, "left 15 min ago"),
        ([{**AGENT, "healthy": False}, {**AGENT, "name": "agent-2"}], Status.PASS, "agent-2"),
        ([{**AGENT, "name": f"a{number}"} for number in range(5)], Status.PASS, "and 2 more"),
    ],
)
def test_agents_of_the_token(agents: list[dict[str, Any]], status: Status, words: str) -> None:
    heartbeat = found(judge(response(agents=agents)))["heartbeat"]
    assert (heartbeat.status, words in heartbeat.details) == (status, True)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (refused(Code.SOURCE_NOT_ALLOWED, "198.51.100.7 is not in the allow list."), Status.PASS),
        (refused(Code.TOKEN_WRONG_LINK), Status.PASS),
        (RoadError(Stage.TCP, ConnectionRefusedError(), 0.1), Status.PASS),
        (Answer(404, {}, b"404 page not found"), Status.PASS),
        (RoadError(Stage.TLS, OSError("x"), 0.1), Status.WARN),
        (refused(Code.DATABASE_UNAVAILABLE), Status.WARN),
        (response(), Status.FAIL),
        (refused(Code.TOKEN_MISSING), Status.FAIL),
        (refused(Code.TOKEN_EXPIRED), Status.FAIL),
    ],
)
def test_the_public_path(answer: Answer | RoadError, status: Status) -> None:
    finding = answering.judge_public(answer)
    assert finding.status is status
    assert bool(finding.remedy) == (status is not Status.PASS)
