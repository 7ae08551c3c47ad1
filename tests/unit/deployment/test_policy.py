"""What is decided about a request without asking anybody: versions, policy, host names, subjects."""

import base64
import json

import pytest
from packaging.version import Version
from pydantic import ValidationError

from isthmus.deployment.api import execution
from isthmus.deployment.api.agents import check_versions
from isthmus.deployment.api.execution import AREAS
from isthmus.deployment.api.refusals import BadRequestError
from isthmus.deployment.config import DeploymentConfig
from isthmus.deployment.errors import PlaneRefusedError
from isthmus.wire.agents import Versions
from isthmus.wire.problems import Code


@pytest.mark.parametrize(
    ("sdk", "isthmus", "code"),
    [
        ("1.3.2", "0.7.0", None),
        ("1.3.1", "0.7.0", None),
        ("1.2.9", "0.7.0", None),
        (None, "0.7.0", None),
        ("1.3.3", "0.7.0", Code.SDK_TOO_NEW),
        ("1.4.0b1", "0.7.0", Code.SDK_TOO_NEW),
        ("2.0", "0.7.0", Code.SDK_TOO_NEW),
        ("1.3.2", "0.8.0", None),
        ("1.3.2", "1.0.0", None),
        ("1.3.2", "0.6.5", None),
        ("1.3.2", "0.5.0", None),
        ("1.3.2", "0.4.9", Code.AGENT_TOO_OLD),
    ],
)
def test_versions_at_enrolment(sdk: str | None, isthmus: str, code: Code | None) -> None:
    versions = Versions(isthmus=isthmus, task_sdk=sdk, python="3.11")
    if code is None:
        check_versions(versions, Version("1.3.2"), Version("0.7.1"))
    else:
        with pytest.raises(PlaneRefusedError) as refused:
            check_versions(versions, Version("1.3.2"), Version("0.7.1"))
        assert refused.value.problem is code


def test_an_agent_of_an_older_major_version_is_too_old() -> None:
    with pytest.raises(PlaneRefusedError) as refused:
        check_versions(Versions(isthmus="1.9", python="3"), Version("1.3.2"), Version("2.0"))
    assert refused.value.problem is Code.AGENT_TOO_OLD


@pytest.mark.parametrize("text", ["", "latest", "1.0-beta", "v1", "1.", "1.0 ", "1" * 65])
@pytest.mark.parametrize("field", ["isthmus", "task_sdk", "airflow"])
def test_what_is_no_version_is_refused(field: str, text: str) -> None:
    with pytest.raises(ValidationError):
        Versions.model_validate({"isthmus": "0.7.0", "python": "3", field: text})


@pytest.mark.parametrize("text", ["1", "3.3.2", "1.4.0b1", "2!1.0.post1.dev2", "0.2.0.dev3+g1a2b.d20260101"])
def test_every_version_that_the_wire_takes_can_be_compared(text: str) -> None:
    assert Versions(isthmus=text, python="3").isthmus == str(Version(text))


CONFIG = DeploymentConfig(
    deployment_id="dtest234", allowed_connections=("public_*", "exact"), allowed_variables=("shared_*", "a/b")
)


@pytest.mark.parametrize(
    ("method", "path", "query", "code"),
    [
        ("GET", "/connections/public_x", b"", None),
        ("GET", "/connections/exact", b"", None),
        ("GET", "/connections/exactly", b"", Code.CONNECTION_NOT_ALLOWED),
        ("GET", "/connections/x/public_x", b"", Code.CONNECTION_NOT_ALLOWED),
        ("GET", "/connections", b"", Code.CONNECTION_NOT_ALLOWED),
        ("GET", "/variables/shared_x", b"", None),
        ("PUT", "/variables/shared_x", b"", None),
        ("DELETE", "/variables/other", b"", Code.VARIABLE_NOT_ALLOWED),
        ("GET", "/variables/a/b", b"", None),
        ("GET", "/variables/keys", b"", Code.VARIABLE_NOT_ALLOWED),
        ("GET", "/variables/keys", b"prefix=shared_", None),
        ("GET", "/variables/keys", b"prefix=shared_&prefix=", Code.VARIABLE_NOT_ALLOWED),
        ("GET", "/variables/keys", b"prefix=%73hared_", None),
        ("DELETE", "/variables/keys", b"prefix=shared_", Code.VARIABLE_NOT_ALLOWED),
        ("PATCH", "/task-instances/x/run", b"", None),
        ("GET", "/connection-tests/x/connection", b"", None),
    ],
)
def test_policy(method: str, path: str, query: bytes, code: Code | None) -> None:
    refusal = execution.refused(CONFIG, method, path, query)
    assert (refusal.problem if refusal else None) is code


def test_nothing_is_handed_out_by_default() -> None:
    config = DeploymentConfig(deployment_id="dtest234")
    for path in ("/connections/a", "/variables/a", "/variables/keys"):
        assert execution.refused(config, "GET", path, b"") is not None


def test_the_hostname_is_replaced_and_the_rest_is_kept() -> None:
    body = '{"hostname": "a", "pid": 1, "hostname": "b", "x": ["ü", null, 1.5]}'.encode()
    assert json.loads(execution.with_hostname(body, "h")) == {"hostname": "h", "pid": 1, "x": ["ü", None, 1.5]}
    assert json.loads(execution.with_hostname('{"hostname": "a"}'.encode("utf-16"), "h")) == {"hostname": "h"}
    for bad in (b"", b"{", b"[]", b"1", b"[" * 100_000):
        with pytest.raises(BadRequestError):
            execution.with_hostname(bad, "h")


def jwt(claims: object) -> bytes:
    return b"h." + base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=") + b".s"


@pytest.mark.parametrize(
    ("token", "subject"),
    [
        (jwt({"sub": "a"}), "a"),
        (jwt({"sub": 1}), None),
        (jwt({}), None),
        (jwt([]), None),
        (b"", None),
        (b"a.b", None),
        (b"a.b.c", None),
        (b"a.b.c.d", None),
        (b"a.\xff\xff.c", None),
    ],
)
def test_the_subject_of_a_token(token: bytes, subject: str | None) -> None:
    assert execution.subject_of(token) == subject


def test_areas_that_policy_must_look_at_are_known() -> None:
    assert {"connections", "variables"} <= AREAS
