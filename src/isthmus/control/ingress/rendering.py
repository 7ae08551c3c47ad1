"""HAProxy's configuration, from a picture and the settings. Pure: the same in gives the same text out.

::

    public entrance ──TLS────────────────────────────┐
                                                     ├─► frontend https ─► one backend a deployment ──TLS──► its servers
    link's entrance ─► frontend link ─► inner socket ┘            └► everything else: 404 page not found
                          │ link.lua takes the PROXY header off
                          └► health probes: /healthz

Invariants: ``X-Forwarded-For`` and the link's header that leave here were written here; only the link's networks
can bring a PROXY header; agents reach two prefixes of a deployment that is registered, and nothing else. The source
address of a connection through a link is the NAT address that it comes from, because that is what allow lists are
about; the customer's own address, which two customers may share, is in the log.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Final

from isthmus.control.ingress.config import IngressConfig
from isthmus.control.ingress.pictures import IngressPicture, LinkEntrance, Route
from isthmus.kit.errors import ConfigError
from isthmus.wire import paths
from isthmus.wire.problems import Code, problem

#: The action that takes PROXY headers apart.
LUA: Final = Path(__file__).with_name("link.lua")

#: A claim waits 25 s for work; an answer that takes longer than this has no one behind it.
_ANSWER_SECONDS: Final = 90
#: Agents let go of idle connections after two minutes, Azure's load balancers after four.
_KEEP_ALIVE_SECONDS: Final = 180
#: HAProxy's idle connections to a deployment end before the deployment ends them (120 s).
_IDLE_SERVER_SECONDS: Final = 60
_PREFIXES: Final = "|".join(prefix.removeprefix("/") for prefix in (paths.AGENT_PREFIX, paths.EXECUTION_PREFIX))
#: What HAProxy says itself when a deployment does not answer, and says too late, or nonsense.
_UNREACHED: Final = (502, 503, 504)
#: ``id`` of the listener behind the link's entrance, and of a link without PROXY headers.
_INNER: Final = 2
_PLAIN_LINK: Final = 3
_WELL: Final = f'http-request return status 200 content-type text/plain string "ok\\n" if {{ path {paths.HEALTH} }}'

_REQUEST_LOG: Final = (
    'log-format "%ci:%cp link=%[fc_pp_unique_id] deployment=%[var(txn.deployment)] '
    '%HM %HPO %ST %TR/%Tw/%Tc/%Tr/%Ta %tsc"'
)
_FOREIGN: Final = 'str("no link comes from this address")'

#: What others must not say in our place.
_OURS: Final = (
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Port",
    "X-Real-IP",
    "Forwarded",
    paths.LINK_ID_HEADER,
)


@dataclass(frozen=True, slots=True)
class Files:
    """Where the configuration's files and sockets are."""

    home: Path

    @property
    def configuration(self) -> Path:
        """The configuration in force."""
        return self.home / "haproxy.cfg"

    @property
    def certificate(self) -> Path:
        """The chain and its key in one file, as HAProxy wants them."""
        return self.home / "certificate.pem"

    @property
    def master(self) -> Path:
        """The master process's socket."""
        return self.home / "master.sock"

    @property
    def stats(self) -> Path:
        """The socket over which a new process takes the listeners over."""
        return self.home / "stats.sock"

    @property
    def sockets(self) -> tuple[Path, ...]:
        """All sockets."""
        return self.master, self.stats, self.inner

    @property
    def inner(self) -> Path:
        """From the link's entrance to the listener that speaks TLS."""
        return self.home / "inner.sock"


def render(picture: IngressPicture, config: IngressConfig) -> str:
    """The whole configuration. Raises ConfigError for a path that cannot stand in it."""
    files = Files(config.home)
    blocks = [_global(config, files), _defaults(config), _https(picture, config, files)]
    if picture.link is not None and config.link_port and picture.link.has_proxy_protocol:
        blocks += [_link(picture.link, config), *_behind_the_link(files)]
    blocks += [_health(config), _not_found(), *(_backend(route, config) for route in sorted(picture.routes))]
    return "\n".join(f"{head}\n" + "".join(f"    {line}\n" for line in lines) for head, lines in blocks)


_Block = tuple[str, list[str]]


def _global(config: IngressConfig, files: Files) -> _Block:
    lines = [
        "log stdout format raw local0",
        f"stats socket {_quoted(files.stats)} mode 600 level admin expose-fd listeners",
        f"hard-stop-after {config.drain_seconds}s",
        f"lua-load {_quoted(LUA)}",
        "ssl-default-bind-options ssl-min-ver TLSv1.2",
        "ssl-default-server-options ssl-min-ver TLSv1.2",
        "tune.bufsize 32768",
    ]
    if config.max_connections is not None:
        lines.append(f"maxconn {config.max_connections}")
    if config.user is not None:
        lines.append(f"user {config.user}")
    return "global", lines


def _defaults(config: IngressConfig) -> _Block:
    lines = [
        "mode http",
        "log global",
        "timeout connect 5s",
        f"timeout client {_ANSWER_SECONDS}s",
        f"timeout server {_ANSWER_SECONDS}s",
        "timeout http-request 15s",
        f"timeout http-keep-alive {_KEEP_ALIVE_SECONDS}s",
        "timeout queue 5s",
        "retries 2",
        "option redispatch",
        *(f"http-error status {status} {_unreached()}" for status in _UNREACHED),
    ]
    if not config.logs_requests:
        lines.append("option dontlog-normal")
    return "defaults", lines


def _unreached() -> str:
    body = problem(Code.DEPLOYMENT_UNREACHABLE).model_dump_json(exclude_none=True)
    return f"content-type application/problem+json string {_json(body)} hdr Cache-Control no-store hdr Retry-After 1"


def _https(picture: IngressPicture, config: IngressConfig, files: Files) -> _Block:
    tls = f"ssl crt {_quoted(files.certificate)} alpn http/1.1"
    written = f"http-request set-header {paths.LINK_ID_HEADER}"
    owner = f" user {config.user}" if config.user is not None else ""
    lines = [f"bind {_address(config.listen_host, config.listen_port)} {tls} id 1"]
    lines += [f"bind unix@{_plain(files.inner)} mode 600{owner} accept-proxy {tls} id {_INNER}"]
    if picture.link is not None and config.link_port and not picture.link.has_proxy_protocol:
        lines.append(f"bind {_address(config.link_host, config.link_port)} {tls} id {_PLAIN_LINK}")
        sources = _networks([*picture.link.networks, *config.probe_networks])
        lines.append(f"tcp-request connection reject if {{ so_id {_PLAIN_LINK} }} !{{ src {sources} }}")
    lines += [
        _REQUEST_LOG,
        # After a reload the old process answers what comes on its connections, and then closes them.
        "option idle-close-on-response",
        "option http-ignore-probes",
        # A health probe that speaks TLS came in through the link's entrance without a link.
        f"{_WELL} {{ so_id {_INNER} }} !{{ fc_pp_unique_id -m found }}",
        *(f"http-request del-header {name}" for name in _OURS),
        "http-request set-header X-Forwarded-For %[src]",
        "http-request set-header X-Forwarded-Proto https",
        f"{written} %[fc_pp_unique_id,field(1,/)] if {{ fc_pp_unique_id -m found }}",
        f"{written} {paths.UNKNOWN_LINK} if {{ so_id {_PLAIN_LINK} }}",
        f"acl is_ours path_reg ^/d[a-z2-7]{{7}}/({_PREFIXES})(/|$)",
        "http-request set-var(txn.deployment) path,field(2,/) if is_ours",
        # A deployment that is not registered has no backend of this name, and so the default one.
        "use_backend deployment_%[var(txn.deployment)] if is_ours",
        "default_backend not_found",
    ]
    return "frontend https", lines


def _link(link: LinkEntrance, config: IngressConfig) -> _Block:
    sources = _networks([*link.networks, *config.probe_networks])
    return "frontend link", [
        "mode tcp",
        f"bind {_address(config.link_host, config.link_port)}",
        f"acl may_link src {_networks(link.networks)}",
        f"tcp-request connection reject unless {{ src {sources} }}",
        "no option dontlog-normal",
        "timeout client-fin 5s",
        "tcp-request inspect-delay 10s",
        "tcp-request content lua.take_link",
        f"tcp-request content set-var(txn.refused) {_FOREIGN} if {{ var(txn.link) -m found }} !may_link",
        'log-format "link connection from %ci:%cp refused: %[var(txn.refused)]"',
        "tcp-request content set-log-level warning if { var(txn.refused) -m found }",
        "tcp-request content set-log-level silent unless { var(txn.refused) -m found }",
        "tcp-request content reject if { var(txn.refused) -m found }",
        "unique-id-format %[var(txn.link)]/%[var(txn.customer)]",
        "use_backend inner_link if { var(txn.link) -m found }",
        "use_backend inner_probe if { var(txn.probe) -m str tls }",
        "use_backend probe if { var(txn.probe) -m str plain }",
    ]


def _behind_the_link(files: Files) -> list[_Block]:
    inner = f"server inner unix@{_plain(files.inner)} send-proxy-v2"
    patience = [f"timeout server {_KEEP_ALIVE_SECONDS + _ANSWER_SECONDS}s"]
    return [
        ("backend inner_link", ["mode tcp", *patience, f"{inner} proxy-v2-options unique-id"]),
        ("backend inner_probe", ["mode tcp", *patience, inner]),
        ("backend probe", [_WELL, f"http-request return status 404 {_page_not_found()}"]),
    ]


def _health(config: IngressConfig) -> _Block:
    return "frontend health", [
        f"bind {_address(config.health_host, config.health_port)}",
        "option dontlog-normal",
        "http-request use-service prometheus-exporter if { path /metrics }",
        _WELL,
        f"http-request return status 404 {_page_not_found()}",
    ]


def _not_found() -> _Block:
    return "backend not_found", [f"http-request return status 404 {_page_not_found()}"]


def _page_not_found() -> str:
    text = paths.NOT_FOUND_TEXT.replace("\n", "\\n")
    return f'content-type "text/plain; charset=utf-8" string "{text}" hdr X-Content-Type-Options nosniff'


def _backend(route: Route, config: IngressConfig) -> _Block:
    authorities = "@system-ca" if config.deployments_ca is None else _quoted(config.deployments_ca)
    tls = f"ssl verify required ca-file {authorities} verifyhost {route.tls_name} sni str({route.tls_name})"
    lines = [
        "balance leastconn",
        # A deployment that answers says so to everybody and before authentication.
        "option httpchk GET /",
        "http-check expect status 404",
        f"default-server check inter 2s fall 3 rise 1 pool-purge-delay {_IDLE_SERVER_SECONDS}s",
        f"default-server init-addr last,libc,none {tls}",
    ]
    lines += [f"server s{number} {server.text}" for number, server in enumerate(route.servers, 1)]
    return f"backend deployment_{route.deployment_id}", lines


def _networks(networks: Iterable[IPv4Network | IPv6Network]) -> str:
    return " ".join(sorted({str(network) for network in networks}))


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _plain(path: Path) -> str:
    text = str(path)
    if any(character.isspace() or character in "\"'\\#$@," or not character.isprintable() for character in text):
        raise ConfigError(
            f"{text!r} cannot stand in HAProxy's configuration",
            code="path_unsupported",
            hint="Use letters, digits and ._-/",
        )
    return text


def _quoted(path: Path) -> str:
    return f'"{_plain(path)}"'


def _json(text: str) -> str:
    """JSON between single quotes, in which HAProxy reads nothing."""
    return "'" + text.replace("'", "\\u0027") + "'"
