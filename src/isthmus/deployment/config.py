"""The settings of a deployment: section ``[isthmus]`` of Airflow's configuration as one frozen value.

``DeploymentConfig`` documents each setting where it is defined: what it means, its unit, its default and why. From it
come ``OPTIONS``, the provider's metadata and so ``airflow config list``. Reading Airflow's configuration is the
business of ``compat``; here a plain mapping goes in and a checked value comes out. Invariant: a ``DeploymentConfig``
that was loaded is usable, and a key that is not in ``OPTIONS`` was refused.
"""

# ruff: noqa: RUF009 - ``setting`` is ``dataclasses.field`` with the documentation in its metadata.

import dataclasses
import fnmatch
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints

from isthmus.deployment import ranges
from isthmus.kit import settings
from isthmus.kit.errors import ConfigError
from isthmus.kit.settings import setting
from isthmus.wire.names import DEPLOYMENT_ID_PATTERN, Privacy, Role
from isthmus.wire.workloads import MAX_CLAIM_WAIT_SECONDS

SECTION: Final = "isthmus"
#: How Airflow reads a key of the section from the environment.
ENVIRONMENT_PREFIX: Final = "AIRFLOW__ISTHMUS__"

#: No address of anybody's, where an empty list of ranges would stand for all.
_NOBODY: Final = (IPv4Network("0.0.0.0/32"),)

OptionType = Literal["string", "integer", "float", "boolean"]
Port = Annotated[int, Field(ge=0, le=65535)]


@dataclass(frozen=True, slots=True)
class DeploymentConfig:
    """Everything that a deployment's executor and Remote Execution API can be told."""

    deployment_id: Annotated[str, StringConstraints(pattern=DEPLOYMENT_ID_PATTERN)] = setting(
        "The deployment's id: the letter d and seven characters of a-z and 2-7, as in dq7xk2ma. It is the first part "
        "of every path of the Remote Execution API and part of every agent token.",
        why="No default: an id that two deployments share would let a token of one look like one of the other.",
    )
    public_url: str | None = setting(
        "Where agents reach the Remote Execution API from outside, without the deployment id, as in "
        "https://cl4k2nq4tz7.external.example.org. Only shown to people; nothing connects to it.",
        default=None,
        why="Not set: made from listen_host and listen_port.",
    )
    control_url: str | None = setting(
        "Where people reach the control plane, as in https://isthmus.example.org. Airflow's menu Browse has an entry "
        "that opens it; nothing connects to it.",
        default=None,
        why="Not set: there is no such entry.",
    )
    event_driven_scheduling: bool = setting(
        "Whether the executor waits for the database's notifications in the scheduler's place, so that a finished task "
        "is followed by its successor at once instead of after Airflow's idle sleep of a second. Takes effect with "
        "[scheduler] scheduler_idle_sleep_time = 0.",
        default=True,
        why="It costs nothing while nothing happens.",
    )
    roles: Annotated[tuple[Role, ...], Field(min_length=1)] = setting(
        "Which roles agents of this deployment may have, separated by commas: worker, dag-processor, triggerer. With "
        "dag-processor or triggerer no such process of Airflow runs beside this deployment: agents do that work.",
        default=(Role.WORKER,),
        why="As deployments were before there were other roles; isthmus deployment init writes all three.",
    )
    dag_sources: bool = setting(
        "Whether agents send the text of DAG files, which Airflow's UI then shows to those who may see DAG code.",
        default=False,
        why="Code stays with the agents.",
    )
    ship_logs: bool = setting(
        "Whether the deployment keeps the logs of tasks that have ended, in its database, from agents that ship them.",
        default=False,
        why="Logs stay with the agents, or in a store of the customer's.",
    )
    ship_logs_days: Annotated[float, Field(gt=0, le=3650)] = setting(
        "For how long shipped logs are kept.",
        default=7.0,
        unit="days",
        why="They are in the database and in its backups: deflated, about a tenth of their size.",
    )
    bundle_limit: Annotated[int, Field(ge=1, le=10_000)] = setting(
        "How many DAG bundles agents may bring to the deployment.",
        default=200,
        why="More than teams have, few enough to oversee.",
    )
    max_dags_body_bytes: Annotated[int, Field(ge=65536, le=256 * 1024 * 1024)] = setting(
        "The largest body of the DAG processing API, as it is uncompressed: a batch of parsed files.",
        default=16 * 1024 * 1024,
        unit="bytes",
        why="A serialized DAG of 1,000 tasks is below 1 MiB.",
    )
    heartbeat_seconds: Annotated[float, Field(ge=0.1, le=60)] = setting(
        "The time between two heartbeats of an agent; three missed ones make it unhealthy.",
        default=10.0,
        unit="seconds",
        why="2,000 agents are 200 small requests a second.",
    )
    lease_seconds: Annotated[float, Field(ge=0.2, le=600)] = setting(
        "For how long a claimed workload that has not started stays with its agent without a heartbeat; then it goes "
        "back to the queue.",
        default=30.0,
        unit="seconds",
        why="Three heartbeats: one that is lost must not cost a lease.",
    )
    running_lease_seconds: Annotated[float, Field(ge=0.2, le=86400)] = setting(
        "For how long a started workload stays with its agent without a heartbeat; then it is lost, unless the task "
        "itself still heartbeats to Airflow.",
        default=120.0,
        unit="seconds",
        why="Outlives the restart of a network device and is less than half of Airflow's own 300.",
    )
    claim_wait_seconds: Annotated[float, Field(ge=0.1, le=MAX_CLAIM_WAIT_SECONDS)] = setting(
        "The longest that a claim is held open while there is no work.",
        default=MAX_CLAIM_WAIT_SECONDS,
        unit="seconds",
        why="Proxies cut idle requests after 30 to 60 seconds, and an agent must notice a dead path soon.",
    )
    token_limit: Annotated[int, Field(ge=1, le=10_000)] = setting(
        "How many active agent tokens the deployment may have.",
        default=50,
        why="Enough for one per site, few enough to oversee.",
    )
    allowed_connections: tuple[str, ...] = setting(
        "Which of this deployment's connections tasks may read through the Remote Execution API: shell-style patterns "
        "of connection ids, separated by commas, as in public_*, warehouse_readonly.",
        default=(),
        why="None: secrets stay with the agents.",
    )
    allowed_variables: tuple[str, ...] = setting(
        "Which of this deployment's variables tasks may read, write and delete through the Remote Execution API: "
        "shell-style patterns of keys, separated by commas. Keys may be listed under a prefix that a pattern covers: "
        "shared_* lets tasks list the keys that begin with shared_.",
        default=(),
        why="None: secrets stay with the agents.",
    )
    least_privacy: Privacy = setting(
        "The privacy profile that every agent of the deployment keeps at least: open, masked or strict. An agent whose "
        "own setting is stricter keeps that.",
        default=Privacy.OPEN,
        why="What leaves a network is its owner's to decide; this is for deployments that must not receive more.",
    )
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = setting(
        "The addresses or ranges of the ingress in front of the Remote Execution API, separated by commas, as in "
        "10.20.0.0/16, fd00:20::/64. X-Forwarded-For counts only when it comes from these.",
        default=(),
        why="None: anybody else could claim any address.",
    )
    link_ingresses: tuple[IPv4Network | IPv6Network, ...] = setting(
        "Those of trusted_proxies that set or remove Isthmus-Link-Id on every request, separated by commas, as in "
        "10.20.0.0/16. By that header the ingress says through which private link a request came.",
        default=(),
        why="None: a proxy that does not know the header would pass on what a stranger wrote into it.",
    )
    max_body_bytes: Annotated[int, Field(ge=1024, le=64 * 1024 * 1024)] = setting(
        "The largest request body of the agent and admin APIs.",
        default=1024 * 1024,
        unit="bytes",
        why="A heartbeat with 1,024 leases is below 150,000.",
    )
    max_execution_body_bytes: Annotated[int, Field(ge=1024, le=1024 * 1024 * 1024)] = setting(
        "The largest request body that tasks may send to Airflow's Execution API: mostly XComs.",
        default=16 * 1024 * 1024,
        unit="bytes",
        why="Larger values belong into an XCom backend at the agent.",
    )
    listen_host: str = setting(
        "The address on which the Remote Execution API listens for agents; :: for all of IPv6 and IPv4.",
        default="0.0.0.0",  # noqa: S104 - agents come from other networks: that is what this listener is for
        why="All IPv4 addresses: agents come from other networks.",
    )
    listen_port: Port = setting("The port on which the Remote Execution API listens for agents.", default=8443)
    tls_certificate: Path | None = setting(
        "A file with the certificate chain (PEM) of the Remote Execution API. Read again on SIGHUP.",
        default=None,
        why="Not set: plain HTTP, for use behind an ingress that ends TLS.",
    )
    tls_private_key: Path | None = setting(
        "A file with the private key (PEM) of tls_certificate.", default=None, why="Not set: plain HTTP."
    )
    admin_host: str = setting(
        "The address of the internal listener: admin API, health, metrics, OpenAPI documents.",
        default="127.0.0.1",
        why="Loopback: it must never face agents.",
    )
    admin_port: Port = setting("The port of the internal listener.", default=8444)
    admin_token_file: Path | None = setting(
        "A file with the token that the admin API asks for.",
        default=None,
        why="Not set: the admin API refuses every request.",
    )
    notify_url: str | None = setting(
        "A direct connection to the database (postgresql://...) for notifications, where [database] sql_alchemy_conn "
        "goes through a pooler in transaction mode.",
        default=None,
        why="Not set: [database] sql_alchemy_conn.",
        secret=True,
    )
    retention_hours: Annotated[float, Field(ge=1, le=24 * 3650)] = setting(
        "For how long settled workloads are kept for looking at.",
        default=168.0,
        unit="hours",
        why="A week; Airflow keeps its own history.",
    )

    def __post_init__(self) -> None:
        """Check what one field cannot say alone. Raises ValueError."""
        if self.control_url is not None and not self.control_url.startswith(("https://", "http://")):
            raise ValueError("control_url must begin with https:// or http://")
        if self.lease_seconds < 2 * self.heartbeat_seconds:
            raise ValueError("lease_seconds must be at least twice heartbeat_seconds")
        if self.running_lease_seconds < self.lease_seconds:
            raise ValueError("running_lease_seconds must be at least lease_seconds")
        if (self.tls_certificate is None) != (self.tls_private_key is None):
            raise ValueError("tls_certificate and tls_private_key are set together or not at all")
        if self.link_ingresses and not ranges.covers(self.trusted_proxies or _NOBODY, self.link_ingresses):
            raise ValueError("link_ingresses must be among trusted_proxies")
        if self.listen_port and self.listen_port == self.admin_port:
            raise ValueError("listen_port and admin_port must differ")

    def allows_connection(self, connection_id: str) -> bool:
        """Whether tasks may read this connection of the deployment."""
        return any(fnmatch.fnmatchcase(connection_id, pattern) for pattern in self.allowed_connections)

    def allows_variable(self, key: str) -> bool:
        """Whether tasks may read, write and delete this variable of the deployment."""
        return any(fnmatch.fnmatchcase(key, pattern) for pattern in self.allowed_variables)

    def allows_listing(self, prefix: str) -> bool:
        """Whether tasks may list the keys of variables that begin with ``prefix``: one pattern must cover them all."""
        return any(
            pattern.endswith("*") and not set("*?[") & set(pattern[:-1]) and prefix.startswith(pattern[:-1])
            for pattern in self.allowed_variables
        )

    @property
    def agent_url(self) -> str:
        """Where agents reach the Remote Execution API, with the deployment id."""
        if self.public_url is not None:
            return f"{self.public_url.rstrip('/')}/{self.deployment_id}"
        scheme = "http" if self.tls_certificate is None else "https"
        host = f"[{self.listen_host}]" if ":" in self.listen_host else self.listen_host
        return f"{scheme}://{host}:{self.listen_port}/{self.deployment_id}"


@dataclass(frozen=True, slots=True)
class Option:
    """One key of the section, as Airflow's provider metadata wants it. ``default`` is text, or None for "not set"."""

    name: str
    description: str
    type: OptionType
    default: str | None
    example: str | None
    sensitive: bool
    version_added: str


_EXAMPLES: Final = {
    "deployment_id": "dq7xk2ma",
    "public_url": "https://cl4k2nq4tz7.external.example.org",
    "control_url": "https://isthmus.example.org",
    "allowed_connections": "public_*, warehouse_readonly",
    "allowed_variables": "shared_*",
    "trusted_proxies": "10.20.0.0/16, fd00:20::/64",
    "link_ingresses": "10.20.0.0/16",
    "tls_certificate": "/etc/isthmus/tls.crt",
    "tls_private_key": "/etc/isthmus/tls.key",
    "admin_token_file": "/etc/isthmus/admin-token",
    "notify_url": "postgresql://airflow@db.internal:5432/airflow",
}


def _option(name: str, about: settings.Setting, hint: Any, default: Any) -> Option:
    kinds: dict[Any, OptionType] = {bool: "boolean", int: "integer", float: "float"}
    shown = None
    if default is not dataclasses.MISSING and default is not None:
        shown = ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)
    parts = [about.meaning, f"Unit: {about.unit}." if about.unit else "", about.why]
    return Option(
        name=name,
        description=" ".join(part for part in parts if part),
        type=kinds.get(hint, "string"),
        default=shown,
        example=_EXAMPLES.get(name),
        sensitive=about.secret,
        version_added="0.1.0",
    )


def _options() -> tuple[Option, ...]:
    hints = typing.get_type_hints(DeploymentConfig)
    abouts = settings.settings_of(DeploymentConfig)
    return tuple(
        _option(one.name, abouts[one.name], hints[one.name], one.default)
        for one in dataclasses.fields(DeploymentConfig)
    )


OPTIONS: Final = _options()


def load(section: Mapping[str, str | float | bool | None]) -> DeploymentConfig:
    """The config in ``section``, whose values are texts or already typed; an empty text means "not set".

    Raises ConfigError for an unknown key, a missing ``deployment_id`` and a value that does not fit.
    """
    given = {
        ENVIRONMENT_PREFIX + name.upper(): str(value).strip()
        for name, value in section.items()
        if value is not None and str(value).strip()
    }
    if ENVIRONMENT_PREFIX + "DEPLOYMENT_ID" not in given:
        raise ConfigError(
            f"[{SECTION}] deployment_id is not set",
            code="config_missing",
            hint="Choose one and keep it: the letter d and seven characters of a-z and 2-7, as in dq7xk2ma.",
        )
    return settings.load(DeploymentConfig, flags={}, environment=given, prefix=ENVIRONMENT_PREFIX).config
