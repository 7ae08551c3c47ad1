"""The settings of a deployment: section ``[isthmus]`` of Airflow's configuration as one frozen value.

``DeploymentConfig`` documents each setting where it is defined: what it means, its unit, its default and why. The same
text becomes ``OPTIONS``, from which the provider's metadata, and so ``airflow config list``, is made. Reading Airflow's
configuration is the business of ``compat``; here a plain mapping goes in and a checked value comes out. Invariant: a
``DeploymentConfig`` that exists is usable, and a key that is not in ``OPTIONS`` was refused.
"""

# ruff: noqa: RUF009 - ``_setting`` is ``dataclasses.field`` with the documentation in its metadata.

import dataclasses
import fnmatch
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from isthmus.kit.errors import ConfigError
from isthmus.wire.names import DEPLOYMENT_ID_PATTERN
from isthmus.wire.workloads import MAX_CLAIM_WAIT_SECONDS

SECTION: Final = "isthmus"

OptionType = Literal["string", "integer", "float", "boolean"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_TRUE: Final = frozenset({"true", "t", "1", "yes", "y", "on"})
_FALSE: Final = frozenset({"false", "f", "0", "no", "n", "off"})


@dataclass(frozen=True, slots=True)
class Option:
    """One key of the section, as Airflow's provider metadata wants it. ``default`` is text, or None for "not set"."""

    name: str
    description: str
    type: OptionType
    default: str | None
    example: str | None
    version_added: str


def _invalid(name: str, summary: str) -> ConfigError:
    return ConfigError(
        f"[{SECTION}] {name}: {summary}",
        code="config_invalid",
        hint=f"Correct {name} in section [{SECTION}] of Airflow's configuration, or AIRFLOW__ISTHMUS__{name.upper()}.",
    )


def _text(value: str) -> str:
    return value


def _boolean(value: str) -> bool:
    lowered = value.lower()
    if lowered in _TRUE:
        return True
    if lowered in _FALSE:
        return False
    raise ValueError(f"{value!r} is neither true nor false")


def _list(value: str) -> tuple[str, ...]:
    return tuple(part for part in (piece.strip() for piece in value.split(",")) if part)


def _networks(value: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(part) for part in _list(value))


def _path(value: str) -> Path:
    return Path(value).expanduser()


def _setting(
    description: str,
    default: Any = dataclasses.MISSING,
    *,
    parse: Callable[[str], Any] = _text,
    kind: OptionType = "string",
    shown: str | None = None,
    example: str | None = None,
    added: str = "0.1.0",
) -> Any:
    """A field with its documentation. ``shown`` is the default as text where ``str(default)`` is not."""
    if shown is None and default is not dataclasses.MISSING and default is not None:
        shown = str(default)
    return dataclasses.field(
        default=default,
        metadata={
            "description": description,
            "type": kind,
            "default": shown,
            "example": example,
            "version_added": added,
            "parse": parse,
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentConfig:
    """Everything that a deployment's executor and Remote Execution API can be told."""

    deployment_id: str = _setting(
        "The deployment's id: the letter d and seven characters of a-z and 2-7. It is the first part of every path of "
        "the Remote Execution API and part of every agent token. There is no default: an id that two deployments "
        "share would let a token of one look like one of the other.",
        example="dq7xk2ma",
    )
    public_url: str | None = _setting(
        "Where agents reach the Remote Execution API from outside, without the deployment id, as "
        "https://<cluster-id>.external.<domain>. Only shown to people; nothing connects to it. Not set: "
        "made from listen_host and listen_port.",
        None,
        example="https://cl8k2nq4tz7.external.example.org",
    )
    event_driven_scheduling: bool = _setting(
        "Whether the executor waits for the database's notifications in the scheduler's place, so that a finished task "
        "is followed by its successor at once instead of after Airflow's idle sleep of a second. Works only with "
        "[scheduler] scheduler_idle_sleep_time = 0; on by default because it costs nothing while nothing happens.",
        True,
        parse=_boolean,
        kind="boolean",
    )
    heartbeat_seconds: float = _setting(
        "Seconds between two heartbeats of an agent; three missed ones make it unhealthy. 10 keeps 2,000 agents at "
        "200 small requests a second.",
        10.0,
        parse=float,
        kind="float",
    )
    lease_seconds: float = _setting(
        "Seconds for which a claimed workload that has not started stays with its agent without a heartbeat; then it "
        "goes back to the queue. Three heartbeats by default: one lost heartbeat must not cost a lease.",
        30.0,
        parse=float,
        kind="float",
    )
    running_lease_seconds: float = _setting(
        "Seconds for which a started workload stays with its agent without a heartbeat; then it is lost, unless the "
        "task itself still heartbeats to Airflow. 120 outlives a restart of a network device and is less than half of "
        "Airflow's own 300.",
        120.0,
        parse=float,
        kind="float",
    )
    claim_wait_seconds: float = _setting(
        "The longest that a claim is held open when there is no work, in seconds. At most 25: proxies cut idle "
        "requests after 30 to 60 seconds, and an agent must notice a dead path soon.",
        MAX_CLAIM_WAIT_SECONDS,
        parse=float,
        kind="float",
    )
    token_limit: int = _setting(
        "How many active agent tokens the deployment may have. 50: enough for one per site, few enough to oversee.",
        50,
        parse=int,
        kind="integer",
    )
    allowed_connections: tuple[str, ...] = _setting(
        "Which of this deployment's connections tasks may read through the Remote Execution API: shell-style "
        "patterns of connection ids, separated by commas. None by default: secrets stay with the agents.",
        (),
        parse=_list,
        shown="",
        example="public_*, warehouse_readonly",
    )
    allowed_variables: tuple[str, ...] = _setting(
        "Which of this deployment's variables tasks may read, write and delete through the Remote Execution API: "
        "shell-style patterns of keys, separated by commas. None by default. Listing keys shows the allowed ones.",
        (),
        parse=_list,
        shown="",
        example="shared_*",
    )
    trusted_proxies: tuple[Network, ...] = _setting(
        "The addresses or ranges of the ingress in front of the Remote Execution API, separated by commas. "
        "X-Forwarded-For counts only when it comes from these; anything else could claim any address.",
        (),
        parse=_networks,
        shown="",
        example="10.20.0.0/16, fd00:20::/64",
    )
    max_body_bytes: int = _setting(
        "The largest request body of the agent API, in bytes. A heartbeat with 1,024 leases is below 150,000.",
        1024 * 1024,
        parse=int,
        kind="integer",
    )
    max_execution_body_bytes: int = _setting(
        "The largest request body that tasks may send to Airflow's Execution API, in bytes: mostly XComs. Larger "
        "values belong into an XCom backend at the agent.",
        16 * 1024 * 1024,
        parse=int,
        kind="integer",
    )
    listen_host: str = _setting(
        "The address on which the Remote Execution API listens for agents. All IPv4 addresses by default.",
        "0.0.0.0",  # noqa: S104 - agents come from other networks: that is what this listener is for
    )
    listen_port: int = _setting(
        "The port on which the Remote Execution API listens for agents.", 8443, parse=int, kind="integer"
    )
    tls_certificate: Path | None = _setting(
        "A file with the certificate chain (PEM) of the Remote Execution API. Read again on SIGHUP. Not set: plain "
        "HTTP, for use behind an ingress that ends TLS.",
        None,
        parse=_path,
        example="/etc/isthmus/tls.crt",
    )
    tls_private_key: Path | None = _setting(
        "A file with the private key (PEM) of tls_certificate.", None, parse=_path, example="/etc/isthmus/tls.key"
    )
    admin_host: str = _setting(
        "The address of the internal listener: admin API, health, metrics, OpenAPI documents. Loopback by default; it "
        "must never face agents.",
        "127.0.0.1",
    )
    admin_port: int = _setting("The port of the internal listener.", 8444, parse=int, kind="integer")
    admin_token_file: Path | None = _setting(
        "A file with the token that the admin API asks for. Not set: the admin API refuses every request.",
        None,
        parse=_path,
        example="/etc/isthmus/admin-token",
    )
    notify_url: str | None = _setting(
        "A direct connection to the database (postgresql://...) for LISTEN, where [database] sql_alchemy_conn goes "
        "through a pooler in transaction mode. Not set: the same database URL.",
        None,
        example="postgresql://airflow@db.internal:5432/airflow",
    )
    retention_hours: float = _setting(
        "Hours for which settled workloads are kept for looking at. A week by default; Airflow keeps its own history.",
        168.0,
        parse=float,
        kind="float",
    )

    def __post_init__(self) -> None:
        """Check what the types cannot say. Raises ConfigError."""
        if not re.match(DEPLOYMENT_ID_PATTERN, self.deployment_id):
            raise _invalid("deployment_id", f"{self.deployment_id!r} is not the letter d and seven of a-z, 2-7")
        self._within("heartbeat_seconds", 0.1, 60)
        self._within("lease_seconds", 2 * self.heartbeat_seconds, 600)
        self._within("running_lease_seconds", self.lease_seconds, 24 * 3600)
        self._within("claim_wait_seconds", 0.1, MAX_CLAIM_WAIT_SECONDS)
        self._within("token_limit", 1, 10_000)
        self._within("max_body_bytes", 1024, 64 * 1024 * 1024)
        self._within("max_execution_body_bytes", 1024, 1024 * 1024 * 1024)
        self._within("listen_port", 0, 65535)
        self._within("admin_port", 0, 65535)
        self._within("retention_hours", 1, 24 * 3650)
        if (self.tls_certificate is None) != (self.tls_private_key is None):
            missing = "tls_certificate" if self.tls_certificate is None else "tls_private_key"
            raise _invalid(missing, "certificate and private key are set together or not at all")
        if self.listen_port and self.listen_port == self.admin_port:
            raise _invalid("admin_port", "the internal listener cannot share the port of the public one")

    def _within(self, name: str, least: float, most: float) -> None:
        value = getattr(self, name)
        if not least <= value <= most:
            raise _invalid(name, f"{value:g} is not between {least:g} and {most:g}")

    def allows_connection(self, connection_id: str) -> bool:
        """Whether tasks may read this connection of the deployment."""
        return any(fnmatch.fnmatchcase(connection_id, pattern) for pattern in self.allowed_connections)

    def allows_variable(self, key: str) -> bool:
        """Whether tasks may read, write and delete this variable of the deployment."""
        return any(fnmatch.fnmatchcase(key, pattern) for pattern in self.allowed_variables)

    def trusts_proxy(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        """Whether ``X-Forwarded-For`` from this peer counts."""
        return any(address in network for network in self.trusted_proxies)


OPTIONS: Final[tuple[Option, ...]] = tuple(
    Option(
        name=setting.name,
        description=setting.metadata["description"],
        type=setting.metadata["type"],
        default=setting.metadata["default"],
        example=setting.metadata["example"],
        version_added=setting.metadata["version_added"],
    )
    for setting in dataclasses.fields(DeploymentConfig)
)


def load(section: Mapping[str, str | float | bool | None]) -> DeploymentConfig:
    """The config in ``section``, whose values are text or already typed; an empty text means "not set".

    Raises ConfigError for an unknown key, a missing ``deployment_id`` and a value that does not fit.
    """
    known = {setting.name: setting for setting in dataclasses.fields(DeploymentConfig)}
    if unknown := sorted(set(section) - set(known)):
        raise ConfigError(
            f"[{SECTION}] has no key {', '.join(unknown)}",
            code="config_unknown_key",
            hint=f"The keys are: {', '.join(sorted(known))}.",
        )
    values: dict[str, Any] = {}
    for name, given in section.items():
        if given is None or not (text := str(given).strip()):
            continue
        try:
            values[name] = known[name].metadata["parse"](text)
        except ValueError as error:
            raise _invalid(name, str(error)) from None
    if "deployment_id" not in values:
        raise ConfigError(
            f"[{SECTION}] deployment_id is not set",
            code="config_missing",
            hint="Choose one and keep it: the letter d and seven characters of a-z and 2-7, as in dq7xk2ma.",
        )
    return DeploymentConfig(**values)
