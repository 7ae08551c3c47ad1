"""A deployment's directory: what is in it, what stays, and who may read it."""

import shlex
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from isthmus.deployment import initializing
from isthmus.deployment.initializing import DeploymentSpec
from isthmus.kit import certificates
from isthmus.kit.errors import ConfigError, NotFoundError

URL = "postgresql://airflow:it's&a%25secret@db/airflow"


def initialize(directory: Path, **changes: Any) -> initializing.Deployment:
    return initializing.initialize(DeploymentSpec(directory=directory, **{"database_url": URL, **changes}))


def secrets_of(deployment: initializing.Deployment) -> dict[str, str]:
    names = ("CORE__FERNET_KEY", "API__SECRET_KEY", "API_AUTH__JWT_SECRET", "ISTHMUS__DEPLOYMENT_ID")
    kept = {name: deployment.environment[f"AIRFLOW__{name}"] for name in names}
    kept |= {path.name: path.read_text() for path in [*deployment.directory.glob("tls/*"), deployment.admin_token_file]}
    return kept


def test_everything_that_a_deployment_needs(tmp_path: Path) -> None:
    made = initialize(tmp_path / "d", names=("plane.example.org", "192.0.2.1"), listen_port=9443)
    environment = made.environment
    assert environment["AIRFLOW__CORE__EXECUTOR"] == "RemoteExecutor:isthmus.deployment.executor.RemoteExecutor"
    assert environment["AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME"] == "0"
    assert environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].startswith("postgresql+psycopg2://")
    assert environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC"].startswith("postgresql+asyncpg://")
    assert environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:8080/execution/"
    assert len(environment["AIRFLOW__API_AUTH__JWT_SECRET"]) >= 64
    Fernet(environment["AIRFLOW__CORE__FERNET_KEY"])
    assert made.config.listen_port == 9443
    assert made.agent_url == f"https://plane.example.org:9443/{made.config.deployment_id}"
    assert made.config.tls_certificate == tmp_path / "d" / "tls" / "server.crt"
    assert initializing.load(tmp_path / "d") == made


def test_a_second_run_keeps_every_secret(tmp_path: Path) -> None:
    first = initialize(tmp_path)
    again = initializing.initialize(DeploymentSpec(directory=tmp_path))
    assert secrets_of(again) == secrets_of(first)
    assert again.environment == first.environment
    assert secrets_of(initialize(tmp_path / "other")) != secrets_of(first)


def test_what_people_changed_stays_and_what_is_told_changes(tmp_path: Path) -> None:
    initialize(tmp_path)
    path = tmp_path / "airflow.env"
    path.write_text(
        path.read_text().replace("AIRFLOW__CORE__LOAD_EXAMPLES=False", "AIRFLOW__CORE__LOAD_EXAMPLES=True")
        + "# ours\nAIRFLOW__ISTHMUS__HEARTBEAT_SECONDS=5\nAIRFLOW__ISTHMUS__PUBLIC_URL='https://gate.example.org'\n"
    )
    again = initializing.initialize(DeploymentSpec(directory=tmp_path, airflow_port=9090))
    assert again.config.heartbeat_seconds == 5
    assert again.environment["AIRFLOW__CORE__LOAD_EXAMPLES"] == "True"
    assert again.config.public_url == "https://gate.example.org"
    assert again.airflow_url == "http://127.0.0.1:9090"
    assert again.environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:9090/execution/"
    moved = initializing.initialize(DeploymentSpec(directory=tmp_path, database_url="postgresql://u@other/db"))
    assert moved.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC"] == "postgresql+asyncpg://u@other/db"
    assert moved.environment["AIRFLOW__CORE__FERNET_KEY"] == again.environment["AIRFLOW__CORE__FERNET_KEY"]


def test_secrets_are_the_owners_alone(tmp_path: Path) -> None:
    made = initialize(tmp_path)
    for path in (
        made.environment_file,
        made.admin_token_file,
        tmp_path / "tls" / "ca.key",
        tmp_path / "tls" / "server.key",
    ):
        assert path.stat().st_mode & 0o777 == 0o600, path
    assert made.ca_certificate.stat().st_mode & 0o777 == 0o644
    assert made.environment["AIRFLOW__API__SECRET_KEY"] not in repr(made)
    assert "a%25secret" not in repr(made)
    assert list(tmp_path.glob("**/.*")) == []


def test_a_shell_reads_the_environment_file_as_we_do(tmp_path: Path) -> None:
    made = initialize(tmp_path, environment={"AIRFLOW__SMTP__SMTP_PASSWORD": "a b'$HOME`id`\"#"})
    shown = subprocess.run(
        ["sh", "-c", f"set -a; . {shlex.quote(str(made.environment_file))}; env -0"],
        env={},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    seen = dict(line.split("=", 1) for line in shown.split("\0") if line)
    assert {name: seen[name] for name in made.environment} == made.environment


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"database_url": "sqlite:///x.db"}, "database_unsupported"),
        ({"database_url": None}, "database_missing"),
        ({"deployment_id": "production"}, None),
        ({"names": ("not a name",)}, "tls_name_invalid"),
        ({"environment": {"AIRFLOW__ISTHMUS__TYPO": "1"}}, None),
        ({"environment": {"A B": "1"}}, "environment_malformed"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, changes: dict[str, Any], code: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        initialize(tmp_path, **changes)
    if code is not None:
        assert caught.value.code == code
    assert not (tmp_path / "airflow.env").exists()


def test_the_id_does_not_change(tmp_path: Path) -> None:
    initialize(tmp_path, deployment_id="dabcdefg")
    with pytest.raises(ConfigError, match="deployment_id_fixed"):
        initialize(tmp_path, deployment_id="dabcdefh")


def test_a_directory_without_a_deployment(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        initializing.load(tmp_path)
    (tmp_path / "airflow.env").write_text("this is not a variable\n")
    with pytest.raises(ConfigError, match="line 1"):
        initializing.load(tmp_path)


def handshake(made: initializing.Deployment, name: str) -> None:
    """One TLS handshake with the deployment's certificate, by a client that trusts its authority alone."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made.directory / "tls" / "server.crt", made.directory / "tls" / "server.key")
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client = ssl.create_default_context(cafile=str(made.ca_certificate))
        client.verify_flags |= ssl.VERIFY_X509_STRICT
        client.wrap_socket(ours, server_hostname=name).close()
    finally:
        ours.close()
        thread.join()


def test_the_certificate_is_for_the_names_and_for_nothing_else(tmp_path: Path) -> None:
    made = initialize(tmp_path, names=("plane.example.org", "192.0.2.1", "2001:db8::1", "bücher.example"))
    for name in ("plane.example.org", "192.0.2.1", "2001:db8::1", "xn--bcher-kva.example"):
        handshake(made, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(made, "other.example.org")


def test_the_certificate_follows_the_names_and_its_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def certificate() -> str:
        return (tmp_path / "tls" / "server.crt").read_text()

    initialize(tmp_path, names=("one.example.org",))
    first = certificate()
    authority = (tmp_path / "tls" / "ca.crt").read_text()
    initialize(tmp_path)
    assert certificate() == first
    initialize(tmp_path, names=("two.example.org",))
    second = certificate()
    assert second != first
    monkeypatch.setattr(certificates, "_RENEW_BEFORE", certificates._SERVER_LIFE)
    initialize(tmp_path)
    assert certificate() != second
    assert (tmp_path / "tls" / "ca.crt").read_text() == authority


def test_a_new_directory_has_all_roles_and_an_older_one_keeps_its_own(tmp_path: Path) -> None:
    made = initialize(tmp_path / "d")
    assert tuple(made.config.roles) == ("worker", "dag-processor", "triggerer")
    file = made.environment_file
    file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if "ROLES" not in line))
    assert tuple(initialize(tmp_path / "d").config.roles) == ("worker",)
