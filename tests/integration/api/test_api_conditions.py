"""What a checkup finds: the database, certificates and token files as they really are on disk."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from tests.faults.harness.certificates import Authority

from isthmus.deployment.conditions import Checkup
from isthmus.deployment.config import DeploymentConfig
from isthmus.kit.clocks import ManualClock
from isthmus.kit.health import Health
from isthmus.wire.agents import AgentWarning, Severity


class FakePool:
    def __init__(self) -> None:
        self.fault: Exception | None = None

    async def execute(self, _statement: str) -> None:
        if self.fault is not None:
            raise self.fault


class Subject:
    """A checkup of a process with the given settings."""

    def __init__(self, **settings: Any) -> None:
        self.clock = ManualClock(datetime.now(UTC))
        self.pool = FakePool()
        self.listening: tuple[AgentWarning, ...] = ()
        self.up: list[float] = []
        config = DeploymentConfig(**{"deployment_id": "dtest234", "listen_host": "127.0.0.1", **settings})
        self.written = 0.0
        plane: Any = SimpleNamespace(
            config=config,
            pool=self.pool,
            listener=SimpleNamespace(health=lambda: self.listening),
            roster=SimpleNamespace(writable_seconds=lambda: self.written),
        )
        self.checkup = Checkup(plane, Health(self.clock), self.clock, self.up.append)

    async def codes(self) -> list[str]:
        await self.checkup.look()
        return [warning.code for warning in self.checkup.warnings()]


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "admin-token"
    path.touch(mode=0o600)
    path.write_text("token")
    return path


async def test_a_process_that_is_well(token: Path) -> None:
    assert await Subject(admin_token_file=token).codes() == []


async def test_a_database_that_goes_and_comes_back(token: Path) -> None:
    subject = Subject(admin_token_file=token)
    subject.listening = (AgentWarning(code="notifications_missing", severity=Severity.WARNING, summary="x"),)
    assert await subject.codes() == ["notifications_missing"]
    subject.pool.fault = ConnectionRefusedError("no")
    # One cause, one line: that notifications stay away is explained by it.
    assert await subject.codes() == ["database_unavailable"]
    subject.pool.fault = None
    assert await subject.codes() == ["notifications_missing"]
    assert subject.up == [1, 0, 1]


async def test_a_database_that_is_busy_is_not_away(token: Path) -> None:
    subject = Subject(admin_token_file=token)
    subject.pool.fault = TimeoutError()
    assert await subject.codes() == ["database_unavailable"]
    subject.pool.fault = None
    assert await subject.codes() == []
    subject.pool.fault, subject.written = TimeoutError(), 5.0
    assert await subject.codes() == ["database_busy"]
    subject.written = 0.0
    assert await subject.codes() == ["database_unavailable"]
    subject.pool.fault = None
    assert await subject.codes() == []


async def test_tokens_in_plain_text(token: Path) -> None:
    assert await Subject(admin_token_file=token, listen_host="0.0.0.0").codes() == ["plain_http"]
    behind = {"admin_token_file": token, "listen_host": "0.0.0.0", "trusted_proxies": ("10.0.0.0/8",)}
    assert await Subject(**behind).codes() == []


async def test_the_admin_token(token: Path, tmp_path: Path) -> None:
    assert await Subject().codes() == ["admin_token_unusable"]
    assert await Subject(admin_token_file=tmp_path / "missing").codes() == ["admin_token_unusable"]
    subject = Subject(admin_token_file=token)
    token.chmod(0o640)
    assert await subject.codes() == ["admin_token_exposed"]
    token.chmod(0o600)
    assert await subject.codes() == []
    token.write_text("\n")
    assert await subject.codes() == ["admin_token_unusable"]


async def test_the_age_of_the_certificate(token: Path, tmp_path: Path) -> None:
    pair = Authority(tmp_path, "test").issue("plane")
    ends = x509.load_pem_x509_certificate(pair.certificate.read_bytes()).not_valid_after_utc
    subject = Subject(
        admin_token_file=token, tls_certificate=pair.certificate, tls_private_key=pair.private_key, listen_host="::"
    )
    subject.clock = ManualClock(ends)
    for before, codes in (
        (timedelta(days=15), []),
        (timedelta(days=13), ["certificate_expiring"]),
        (timedelta(seconds=1), ["certificate_expiring"]),
        (timedelta(0), ["certificate_expired"]),
        (timedelta(days=-1), ["certificate_expired"]),
        (timedelta(days=15), []),
    ):
        subject.checkup._clock = ManualClock(ends - before)
        assert await subject.codes() == codes, before
    pair.certificate.write_text("nonsense")
    assert await subject.codes() == ["certificate_unreadable"]
