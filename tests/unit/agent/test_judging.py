"""What an answer means, by its status, its type and its body."""

import pytest

from isthmus.agent.client import DEPLOYMENT_NOT_FOUND, judge
from isthmus.kit.errors import RefusedError, TemporaryError, UnreachableError
from isthmus.wire import paths, problems
from isthmus.wire.problems import Code

PROBLEM = problems.CONTENT_TYPE.encode()
JSON = b"application/json"


@pytest.mark.parametrize("code", list(Code))
def test_every_problem_of_the_plane_keeps_its_code_and_hint(code: Code) -> None:
    problem = problems.problem(code)
    error = judge(problem.status, PROBLEM, problem.model_dump_json().encode())
    assert error is not None
    assert (error.code, error.hint) == (code, problem.hint)
    assert isinstance(error, TemporaryError if problem.retryable else RefusedError)


def test_the_address_that_the_plane_saw_is_told() -> None:
    problem = problems.problem(Code.SOURCE_NOT_ALLOWED, source_address="203.0.113.9")
    error = judge(problem.status, PROBLEM, problem.model_dump_json().encode())
    assert "203.0.113.9" in str(error)


def test_a_yes_is_json() -> None:
    assert judge(200, b"application/json; charset=utf-8", b"{}") is None
    assert judge(201, JSON, b"{}") is None


def test_the_planes_404_names_the_url() -> None:
    error = judge(404, b"text/plain; charset=utf-8", paths.NOT_FOUND_TEXT.encode())
    assert isinstance(error, RefusedError)
    assert error.code == DEPLOYMENT_NOT_FOUND


@pytest.mark.parametrize(
    ("status", "kind", "body", "location", "evidence"),
    [
        (200, b"text/html", b"<html><script>var x=1</script><h1>Log in</h1> to   Wifi", b"", "'Log in to Wifi'"),
        (302, b"", b"", b"http://portal.example/", "redirects to http://portal.example/"),
        (502, b"text/html", b"<html>Bad Gateway</html>", b"", "Bad Gateway"),
        (404, b"text/plain", b"Not here", b"", "Not here"),
        (401, JSON, b'{"message":"who are you"}', b"", "who are you"),
        (403, JSON, b"not json", b"", "not json"),
        (200, b"", b"\xff\xfe\x00", b"", "It says"),
        (407, b"text/html", b"Proxy", b"", "Proxy"),
    ],
)
def test_what_the_plane_did_not_say(status: int, kind: bytes, body: bytes, location: bytes, evidence: str) -> None:
    error = judge(status, kind, body, location)
    assert isinstance(error, UnreachableError)
    assert (error.code, error.retryable) == ("foreign_answer", True)
    assert str(status) in str(error)
    assert evidence in error.hint
