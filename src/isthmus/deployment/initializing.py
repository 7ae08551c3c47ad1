"""A deployment's directory: everything that one Airflow with Isthmus needs to start, made once and kept.

::

    <directory>/airflow.env      what Airflow's processes and the Remote Execution API get as environment (0600)
                admin-token      what the admin API asks for (0600)
                airflow/         AIRFLOW_HOME
                tls/ca.crt       what agents are given, besides their token
                tls/ca.key, server.crt, server.key (keys 0600)

``initialize`` may be run again at any time: it fills in what is missing, takes over what it is told, and keeps the
rest: the id, the secrets, and whatever people changed or added. It starts nothing; the CLI does, with
``Deployment.environment``. Invariant: when it returns, the settings are valid (``config.load`` has read them).
"""

import base64
import os
import re
import secrets
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from isthmus.deployment import config, databases, provider
from isthmus.kit import certificates
from isthmus.kit.errors import ConfigError, NotFoundError
from isthmus.wire.names import DEPLOYMENT_ID_PATTERN, Role

_ISTHMUS: Final = "AIRFLOW__ISTHMUS__"
_ID_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz234567"
_LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1")
#: In the environment file: the certificate's names, for the next run.
_NAMES_KEPT: Final = "ISTHMUS_SERVER_NAMES"
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


#: For new directories alone: one that is in use may have remote logging of its own.
_AGENT_LOGS: Final = {"AIRFLOW__LOGGING__LOGGING_CONFIG_CLASS": provider.LOGGING_CONFIG}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSpec:
    """What is wanted of a deployment. None keeps what is there, or takes the default."""

    directory: Path
    #: The metadata database; PostgreSQL (``databases``). Needed the first time.
    database_url: str | None = None
    #: Names and addresses under which agents reach it; the first one becomes the public URL. Default: this machine.
    names: tuple[str, ...] | None = None
    #: Default: a new random one.
    deployment_id: str | None = None
    dags_folder: Path | None = None
    #: Where Airflow's own API server and UI listen, on loopback. Default 8080.
    airflow_port: int | None = None
    #: Where agents are listened for. Defaults: the settings' own.
    listen_host: str | None = None
    listen_port: int | None = None
    admin_port: int | None = None
    #: Further lines of the environment file, which win over everything.
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment's directory, read."""

    directory: Path
    #: For every process of the deployment, on top of a clean environment.
    environment: Mapping[str, str] = field(repr=False)
    config: config.DeploymentConfig

    @property
    def environment_file(self) -> Path:
        """For ``systemd``'s EnvironmentFile, and for ``set -a; . airflow.env``."""
        return self.directory / "airflow.env"

    @property
    def ca_certificate(self) -> Path:
        """What agents verify the Remote Execution API by."""
        return self.directory / "tls" / "ca.crt"

    @property
    def admin_token_file(self) -> Path:
        """What opens the admin API."""
        return self.directory / "admin-token"

    @property
    def agent_url(self) -> str:
        """What agents are told to connect to."""
        return f"{self.config.public_url}/{self.config.deployment_id}"

    @property
    def airflow_url(self) -> str:
        """Where Airflow's UI is."""
        return self.environment["AIRFLOW__API__BASE_URL"]


def initialize(spec: DeploymentSpec) -> Deployment:
    """Make the directory what ``spec`` says, keeping what it does not mention. Raises ConfigError."""
    directory = spec.directory.expanduser().resolve()
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    (directory / "airflow").mkdir(exist_ok=True)
    held = _read(directory / "airflow.env")
    environment = _environment(spec, directory, held)
    checked = _checked(environment)
    _ensure_secret_file(directory / "admin-token")
    _ensure_certificates(directory / "tls", checked.deployment_id, environment[_NAMES_KEPT].split(","))
    _write(directory / "airflow.env", _render(environment), 0o600)
    return Deployment(directory, environment, checked)


def load(directory: Path) -> Deployment:
    """The deployment of a directory that was initialized. Raises NotFoundError, ConfigError."""
    directory = directory.expanduser().resolve()
    environment = _read(directory / "airflow.env")
    if not environment:
        raise NotFoundError(
            f"{directory} is not a deployment's directory",
            code="deployment_not_found",
            hint="Make one with: isthmus deployment init DIR.",
        )
    return Deployment(directory, environment, _checked(environment))


# --- the environment ---------------------------------------------------------------------------------------------


def _environment(spec: DeploymentSpec, directory: Path, held: Mapping[str, str]) -> dict[str, str]:
    def chosen(name: str, default: str | Callable[[], str], told: object = None) -> str:
        """What ``spec`` tells, or else what is there, or else the default."""
        if told is not None:
            return str(told)
        return held.get(name) or (default if isinstance(default, str) else default())

    def derived(name: str, value: str, *told: object) -> str:
        """What follows from others: made anew when ``spec`` tells one of them, and otherwise left alone."""
        return value if any(one is not None for one in told) else held.get(name) or value

    database = chosen("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "", spec.database_url)
    if not database:
        raise ConfigError(
            "the deployment has no database", code="database_missing", hint="Give a PostgreSQL URL, or --embedded."
        )
    names = chosen(_NAMES_KEPT, ",".join(_LOCAL_NAMES), ",".join(spec.names) if spec.names else None)
    airflow_port = chosen("AIRFLOW__API__PORT", "8080", spec.airflow_port)
    airflow_url = f"http://127.0.0.1:{airflow_port}"
    listen_port = chosen(f"{_ISTHMUS}LISTEN_PORT", "8443", spec.listen_port)
    public_url = f"https://{_bracketed(names.partition(',')[0])}:{listen_port}"
    tls = directory / "tls"
    made = {
        "AIRFLOW_HOME": str(directory / "airflow"),
        "AIRFLOW__CORE__EXECUTOR": chosen("AIRFLOW__CORE__EXECUTOR", f"RemoteExecutor:{provider.EXECUTOR}"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": derived(
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL", f"{airflow_url}/execution/", spec.airflow_port
        ),
        "AIRFLOW__CORE__FERNET_KEY": chosen("AIRFLOW__CORE__FERNET_KEY", _fernet_key),
        "AIRFLOW__CORE__LOAD_EXAMPLES": chosen("AIRFLOW__CORE__LOAD_EXAMPLES", "False"),
        "AIRFLOW__CORE__DAGS_FOLDER": chosen(
            "AIRFLOW__CORE__DAGS_FOLDER", str(directory / "airflow" / "dags"), spec.dags_folder
        ),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": databases.airflow_url(database),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": derived(
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC", databases.airflow_async_url(database), spec.database_url
        ),
        "AIRFLOW__API__HOST": chosen("AIRFLOW__API__HOST", "127.0.0.1"),
        "AIRFLOW__API__PORT": airflow_port,
        "AIRFLOW__API__BASE_URL": derived("AIRFLOW__API__BASE_URL", airflow_url, spec.airflow_port),
        "AIRFLOW__API__SECRET_KEY": chosen("AIRFLOW__API__SECRET_KEY", lambda: secrets.token_urlsafe(48)),
        # HS512 wants a key as long as its digest.
        "AIRFLOW__API_AUTH__JWT_SECRET": chosen("AIRFLOW__API_AUTH__JWT_SECRET", lambda: secrets.token_urlsafe(64)),
        # The executor takes over the scheduler's pause (ADR 0002).
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": chosen("AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME", "0"),
        f"{_ISTHMUS}DEPLOYMENT_ID": chosen(f"{_ISTHMUS}DEPLOYMENT_ID", new_deployment_id, spec.deployment_id),
        # A directory of before there were other roles stays as it is.
        f"{_ISTHMUS}ROLES": chosen(f"{_ISTHMUS}ROLES", Role.WORKER if held else ",".join(Role)),
        f"{_ISTHMUS}LISTEN_HOST": chosen(f"{_ISTHMUS}LISTEN_HOST", "0.0.0.0", spec.listen_host),  # noqa: S104
        f"{_ISTHMUS}LISTEN_PORT": listen_port,
        f"{_ISTHMUS}ADMIN_PORT": chosen(f"{_ISTHMUS}ADMIN_PORT", "8444", spec.admin_port),
        f"{_ISTHMUS}ADMIN_TOKEN_FILE": str(directory / "admin-token"),
        f"{_ISTHMUS}TLS_CERTIFICATE": chosen(f"{_ISTHMUS}TLS_CERTIFICATE", str(tls / "server.crt")),
        f"{_ISTHMUS}TLS_PRIVATE_KEY": chosen(f"{_ISTHMUS}TLS_PRIVATE_KEY", str(tls / "server.key")),
        f"{_ISTHMUS}PUBLIC_URL": derived(f"{_ISTHMUS}PUBLIC_URL", public_url, spec.names, spec.listen_port),
        _NAMES_KEPT: names,
    }
    if (old := held.get(f"{_ISTHMUS}DEPLOYMENT_ID")) and made[f"{_ISTHMUS}DEPLOYMENT_ID"] != old:
        raise ConfigError(
            f"this directory is deployment {old}; its id cannot change",
            code="deployment_id_fixed",
            hint="Agent tokens name the deployment. Make another directory for another deployment.",
        )
    return {**({} if held else _AGENT_LOGS), **held, **made, **spec.environment}


def _bracketed(name: str) -> str:
    return f"[{name}]" if ":" in name and not name.startswith("[") else name


def new_deployment_id() -> str:
    """A random deployment id."""
    made = "d" + "".join(secrets.choice(_ID_LETTERS) for _ in range(7))
    assert re.match(DEPLOYMENT_ID_PATTERN, made)  # noqa: S101 - the two definitions must agree
    return made


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def _checked(environment: Mapping[str, str]) -> config.DeploymentConfig:
    section = {
        name.removeprefix(_ISTHMUS).lower(): value for name, value in environment.items() if name.startswith(_ISTHMUS)
    }
    return config.load(section)


# --- files -------------------------------------------------------------------------------------------------------


def _read(path: Path) -> dict[str, str]:
    """The variables of an environment file; none when there is no file. Raises ConfigError."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, separator, value = line.strip().partition("=")
        try:
            parts = shlex.split(value)
        except ValueError:
            parts = ["", ""]
        if not separator or not _NAME.fullmatch(name) or len(parts) > 1:
            raise ConfigError(
                f"{path}, line {number}: not NAME=value",
                code="environment_malformed",
                hint="One variable a line; a value with spaces or special characters in single quotes.",
            )
        found[name] = parts[0] if parts else ""
    return found


def _render(environment: Mapping[str, str]) -> str:
    for name, value in environment.items():
        if not _NAME.fullmatch(name) or "\n" in value:
            raise ConfigError(f"{name} cannot stand in an environment file", code="environment_malformed")
    lines = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    return "\n".join(["# The environment of this deployment's processes. Holds secrets.", *lines, ""])


def _ensure_secret_file(path: Path) -> None:
    if not path.exists():
        _write(path, secrets.token_urlsafe(32) + "\n", 0o600)


def _ensure_certificates(folder: Path, deployment_id: str, names: Sequence[str]) -> None:
    folder.mkdir(exist_ok=True)
    authority, authority_key = folder / "ca.crt", folder / "ca.key"
    if not (authority.exists() and authority_key.exists()):
        certificate, key = certificates.make_authority(f"Isthmus deployment {deployment_id}")
        _write(authority_key, key.decode(), 0o600)
        _write(authority, certificate.decode(), 0o644)
    server, server_key = folder / "server.crt", folder / "server.key"
    if (
        server_key.exists()
        and server.exists()
        and certificates.fits(server.read_bytes(), authority.read_bytes(), names)
    ):
        return
    certificate, key = certificates.issue(authority.read_bytes(), authority_key.read_bytes(), names)
    _write(server_key, key.decode(), 0o600)
    _write(server, certificate.decode(), 0o644)


def _write(path: Path, content: str, mode: int) -> None:
    """Replace the file as a whole, so that nobody reads half of one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
    draft.replace(path)
