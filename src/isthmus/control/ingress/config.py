"""The settings of an ingress: flags over ``ISTHMUS_INGRESS_*`` over a TOML file over defaults."""

# ruff: noqa: RUF009 - ``setting`` is ``dataclasses.field`` with the documentation in its metadata.

import os
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, StringConstraints

from isthmus.kit import settings
from isthmus.kit.logs import LogFormat, LogLevel
from isthmus.kit.settings import Loaded, setting

PREFIX: Final = "ISTHMUS_INGRESS_"
#: Names the configuration file when no flag does.
FILE_VARIABLE: Final = f"{PREFIX}CONFIG"

Port = Annotated[int, Field(ge=0, le=65535)]
#: What can stand in HAProxy's configuration without quoting.
Plain = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:*-]+$", max_length=253)]
ClusterId = Annotated[str, StringConstraints(pattern=r"^cl[a-z2-7]{9}$")]


@dataclass(frozen=True, slots=True)
class IngressConfig:
    """One ingress: one HAProxy on one machine."""

    cluster: ClusterId = setting("The id of the cluster whose ingress this is, as in cl4k2nq4tz7.")
    control_url: str = setting("Where the control plane listens, as in https://control.example.org:8446.")
    control_token_file: Path = setting(
        "A file with the token of an operator; the role viewer is enough.",
        why="A token of its own, so that it can be revoked.",
    )
    control_ca_file: Path | None = setting(
        "The authorities that sign the control plane's certificate, as PEM.",
        default=None,
        why="Not set: the machine's own.",
    )
    certificate: Path = setting("The certificate chain for the cluster's host, as PEM.")
    private_key: Path = setting("Its key, as PEM.")
    home: Path = setting(
        "Where the ingress keeps its configuration and its sockets.", default=Path("/run/isthmus-ingress")
    )
    deployments_ca: Path | None = setting(
        "The authorities that sign the deployments' certificates, as PEM.",
        default=None,
        why="Not set: the machine's own. A deployment whose certificate is not from one of them gets no request.",
    )
    listen_host: Plain = setting("The address of the public entrance.", default="0.0.0.0")  # noqa: S104
    listen_port: Port = setting("The port of the public entrance.", default=443)
    link_host: Plain = setting("The address of the link's entrance.", default="0.0.0.0")  # noqa: S104
    link_port: Port = setting(
        "The port of the link's entrance, where each connection begins with a PROXY v2 header; 0 for none.",
        default=8443,
        why="Two entrances, because a header that is believed must not be anybody's to write.",
    )
    probe_networks: tuple[IPv4Network | IPv6Network, ...] = setting(
        "From where the load balancer's health probes come to the link's entrance, besides the cluster's own network.",
        default=(IPv4Network("168.63.129.16/32"),),
        why="The address that Azure probes from. A probe is answered /healthz and nothing else.",
    )
    health_host: Plain = setting("The address of the ingress's own /healthz and /metrics.", default="127.0.0.1")
    health_port: Port = setting("The port of the ingress's own /healthz and /metrics.", default=8405)
    haproxy: str = setting("The HAProxy program, 2.6 or later, with Lua.", default="haproxy")
    user: Plain | None = setting(
        "The user that HAProxy serves as, when it is started as root.",
        default=None,
        why="Not set: whoever starts it. Debian's package makes the user haproxy.",
    )
    max_connections: Annotated[int, Field(ge=10, le=1_000_000)] | None = setting(
        "How many connections may be open at a time.",
        default=None,
        why="Not set: as many as this process may open files for. An agent has two, and one for each few tasks.",
    )
    reload_seconds: Annotated[float, Field(ge=0.1, le=600)] = setting(
        "The least time between two reloads.",
        default=2.0,
        unit="seconds",
        why="Each reload leaves a process behind until its last connection has ended.",
    )
    drain_seconds: Annotated[int, Field(ge=1, le=3600)] = setting(
        "How long connections of an older configuration may go on.",
        default=300,
        unit="seconds",
        why="Longer than any idle connection lives, so that none is cut while a request is on its way.",
    )
    logs_requests: bool = setting("Whether each request is logged, and not only what failed.", default=False)
    log_level: LogLevel = setting("The least level that is logged.", default=LogLevel.INFO)
    log_format: LogFormat = setting("Lines for people (console) or for machines (json).", default=LogFormat.CONSOLE)


def load(
    flags: Mapping[str, object], *, environment: Mapping[str, str] | None = None, file: Path | None = None
) -> Loaded[IngressConfig]:
    """The ingress's settings and where each came from. Raises ConfigError."""
    variables = dict(os.environ) if environment is None else environment
    if file is None and FILE_VARIABLE in variables:
        file = Path(variables[FILE_VARIABLE])
    return settings.load(
        IngressConfig, flags=flags, environment=variables, prefix=PREFIX, file=file, ignored=["config"]
    )
