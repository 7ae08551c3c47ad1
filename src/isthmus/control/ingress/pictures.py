"""What an ingress should do, as plain data: which deployments it leads to, and who may bring links.

Pure. Everything that ends up in HAProxy's configuration is checked here by its form, so that no value from the registry
can add a line to it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Final
from urllib.parse import urlsplit

from isthmus.kit.errors import ConfigError
from isthmus.wire.names import DEPLOYMENT_ID_PATTERN

_HOST: Final = re.compile(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_ADDRESS_6: Final = re.compile(r"[0-9A-Fa-f:.]{2,45}")
_DEPLOYMENT_ID: Final = re.compile(DEPLOYMENT_ID_PATTERN)

#: What a Remote Execution API listens on unless its URL says otherwise.
_HTTPS_PORT: Final = 443


@dataclass(frozen=True, slots=True, order=True)
class Server:
    """One Remote Execution API process. Raises ConfigError for what is no host or port."""

    host: str
    port: int

    def __post_init__(self) -> None:
        if not (_HOST.fullmatch(self.host) or _ADDRESS_6.fullmatch(self.host)) or not 0 < self.port < 65536:
            raise ConfigError(
                f"{self.host}:{self.port} is not a host and a port",
                code="server_invalid",
                hint="Write a deployment's servers as https://host:port.",
            )

    @property
    def text(self) -> str:
        """As HAProxy takes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, order=True)
class Route:
    """The way to one deployment: its servers, all of which answer under ``tls_name`` in their certificates."""

    deployment_id: str
    servers: tuple[Server, ...]
    tls_name: str

    def __post_init__(self) -> None:
        if not _DEPLOYMENT_ID.fullmatch(self.deployment_id):
            raise ConfigError(f"{self.deployment_id!r} is not a deployment id", code="deployment_id_invalid")
        if not _HOST.fullmatch(self.tls_name) and not _ADDRESS_6.fullmatch(self.tls_name):
            raise ConfigError(f"{self.tls_name!r} is not a host name", code="tls_name_invalid")


@dataclass(frozen=True, slots=True)
class LinkEntrance:
    """How a link service's connections come: from which networks (those of its NAT addresses), and after what."""

    networks: tuple[IPv4Network | IPv6Network, ...]
    has_proxy_protocol: bool = True


@dataclass(frozen=True, slots=True)
class IngressPicture:
    """What the ingress of one cluster does. Without ``link`` the link's entrance is closed."""

    cluster_id: str
    routes: tuple[Route, ...] = ()
    link: LinkEntrance | None = None


def route(deployment_id: str, urls: Iterable[str], tls_name: str | None = None) -> Route:
    """The way to the servers at ``urls`` (``https://host:port``). Raises ConfigError."""
    servers = tuple(sorted({_server(url) for url in urls}))
    if not servers:
        raise ConfigError(
            f"{deployment_id} has no server", code="server_invalid", hint="Name one as https://host:port."
        )
    return Route(deployment_id, servers, tls_name or servers[0].host)


def _server(url: str) -> Server:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if (
        parts.scheme != "https"
        or parts.hostname is None
        or parts.username
        or parts.query
        or parts.path not in ("", "/")
    ):
        raise ConfigError(
            f"{url!r} is not where a Remote Execution API can be",
            code="server_invalid",
            hint="Write it as https://host:port, without a path.",
        )
    return Server(parts.hostname, _HTTPS_PORT if port is None else port)
