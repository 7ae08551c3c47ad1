"""One verification: the checks in order, each only where those that it rests on have passed.

The deployment's side of it is asked through ``Plane`` (``planes.ProbedPlane``), which the caller brings: an agent asks
with its own credential, the command line with a token that it was given or with none.
"""

import datetime
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Final, Protocol

from isthmus.probe import asking, judging, resolving
from isthmus.probe.answering import PlaneFindings
from isthmus.probe.asking import Answer, Peer, Road, RoadError
from isthmus.probe.reports import Check, Finding, Report, Row, Status
from isthmus.probe.resolving import Address, Outcome, Resolution
from isthmus.wire.names import ConnectionState
from isthmus.wire.probes import KnownConnection


@dataclass(frozen=True, slots=True)
class Target:
    """What is verified. ``path`` is the deployment's, with its leading slash; ``tls`` is None for plain HTTP.

    ``endpoint`` is the private endpoint's address where it is known, ``connection`` its connection;
    ``is_public_allowed`` says that the name may lead to a public address, and that the public path may be open;
    ``public_addresses`` are the cluster's, asked in the end whether they refuse; a ``public_resolver`` finds them where
    they are not given, and tells a name that is hidden here from one that does not exist. ``proxy`` is what programs
    here would go through (host and port), empty for none. ``quiet_seconds`` is the longest pause on an agent's
    connections, None where no agent asks.
    """

    host: str
    port: int
    path: str
    tls: ssl.SSLContext | None
    endpoint: Address | None = None
    connection: KnownConnection | None = None
    is_public_allowed: bool = False
    public_addresses: tuple[Address, ...] = ()
    public_resolver: str = ""
    proxy: str = ""
    quiet_seconds: float | None = None
    nameservers: tuple[str, ...] = ()
    timeout_seconds: float = 5.0

    @property
    def url(self) -> str:
        """As users write it."""
        scheme, usual = ("https", 443) if self.tls else ("http", 80)
        return f"{scheme}://{self.host}{'' if self.port == usual else f':{self.port}'}{self.path}"


class Plane(Protocol):
    """The deployment, asked with a credential along a road."""

    async def ask(self, road: Road, path: str) -> PlaneFindings:
        """Ask through a new connection along ``road``. Raises nothing."""

    async def is_served(self, road: Road, path: str) -> Finding:
        """Whether this road is served (FAIL) or refused (PASS): for the public path."""


Tell = Callable[[Row], None]


class _Rows:
    """The rows so far, told as they come."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self.rows: list[Row] = []

    def add(self, check: Check, target: str, finding: Finding, took_seconds: float = 0.0) -> bool:
        """Add a row; False if what rests on it cannot be looked at."""
        row = Row(check, target, finding.status, finding.details, finding.remedy, took_seconds, finding.code)
        self.rows.append(row)
        self._tell(row)
        return finding.status in (Status.PASS, Status.WARN)

    def has_failed(self, check: Check) -> bool:
        return any(row.check is check and row.status is Status.FAIL for row in self.rows)

    def skip(self, checks: Sequence[Check], target: str, why: str) -> None:
        for check in checks:
            self.add(check, target, Finding(Status.SKIP, why))


#: What is asked along the road, in order; each rests on those before.
_ALONG: Final = (
    Check.TCP,
    Check.TLS,
    Check.INGRESS,
    Check.DEPLOYMENT,
    Check.SOURCE,
    Check.TOKEN,
    Check.CLOCK,
    Check.HEARTBEAT,
)


async def verify(target: Target, *, plane: Plane | None = None, tell: Tell = lambda _: None) -> Report:
    """Run all checks; ``tell`` hears of each row as it is known. Raises nothing that a network can cause."""
    started_at = datetime.datetime.now(datetime.UTC)
    rows = _Rows(tell)
    public = await _resolve_publicly(target)
    known = target.public_addresses or (public.addresses if public is not None else ())
    addresses = await _check_name(replace(target, public_addresses=known), public, rows)
    rows.add(Check.PROXY, target.host, judging.judge_proxy(target.host, target.proxy))
    is_restricted = None
    if not addresses:
        rows.skip(_ALONG, target.url, "the name does not lead there")
    else:
        road = Road(addresses[0], target.port, target.host, target.tls, target.timeout_seconds)
        is_restricted = await _check_road(target, road, plane, rows)
    if target.quiet_seconds is None:
        rows.skip([Check.KEEP_ALIVE], target.url, "only an agent can say")
    else:
        rows.add(Check.KEEP_ALIVE, target.url, judging.judge_keep_alive(target.quiet_seconds))
    others = [one for one in known if one not in addresses]
    await _check_public_path(target, others, plane, rows, is_restricted=is_restricted)
    return Report(target.url, started_at, tuple(rows.rows))


async def _resolve_publicly(target: Target) -> Resolution | None:
    if not target.public_resolver or _is_address(target.host):
        return None
    return await resolving.resolve(
        target.host, timeout_seconds=target.timeout_seconds, nameservers=(target.public_resolver,)
    )


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


async def _check_name(target: Target, public: Resolution | None, rows: _Rows) -> tuple[Address, ...]:
    if _is_address(target.host):
        rows.skip([Check.RESOLVER, Check.NAME], target.host, "an address needs no resolver")
        rows.add(
            Check.ADDRESS,
            target.host,
            Finding(
                Status.WARN,
                "the deployment is named by its address",
                "Use the cluster's name: its certificate is for that alone.",
            ),
        )
        return (ip_address(target.host),)
    begun = time.monotonic()
    resolution = await resolving.resolve(
        target.host, timeout_seconds=target.timeout_seconds, nameservers=target.nameservers
    )
    took = time.monotonic() - begun
    local: tuple[Address, ...] = ()
    if not target.nameservers and resolution.outcome is not Outcome.TIMEOUT:  # it would ask the same resolver again
        local = await resolving.resolve_as_programs(target.host, timeout_seconds=target.timeout_seconds)
    if local and not set(local) & set(resolution.addresses):
        return _take_local(target, resolution, local, rows)
    asked = ", ".join(resolution.resolvers) or "resolver"
    if not rows.add(Check.RESOLVER, asked, resolving.judge_resolver(resolution), took):
        rows.skip([Check.NAME, Check.ADDRESS], target.host, "no resolver answers")
        return ()
    if not rows.add(Check.NAME, target.host, resolving.judge_name(resolution, public), took):
        rows.skip([Check.ADDRESS], target.host, "the name has no address")
        return ()
    return _add_address(target, resolution, rows)


def _take_local(target: Target, resolution: Resolution, local: tuple[Address, ...], rows: _Rows) -> tuple[Address, ...]:
    """What programs here use in the place of DNS's answer."""
    rows.skip([Check.RESOLVER], target.host, "this system has the name on a list of its own")
    rows.add(Check.NAME, target.host, resolving.judge_hosts(resolution, local))
    return _add_address(target, replace(resolution, addresses=local), rows)


def _add_address(target: Target, resolution: Resolution, rows: _Rows) -> tuple[Address, ...]:
    """The addresses to go on with."""
    if rows.add(Check.ADDRESS, target.host, _judge_address(target, resolution)):
        return resolution.addresses
    # The way that the name should lead: whether that is good is worth knowing before the record is mended.
    return () if target.endpoint is None else (target.endpoint,)


def _judge_address(target: Target, resolution: Resolution) -> Finding:
    finding = resolving.judge_address(
        resolution,
        endpoint=target.endpoint,
        private_wanted=not target.is_public_allowed,
        public=target.public_addresses,
    )
    known = target.connection
    is_public = not any(resolving.is_private(one) for one in resolution.addresses)
    if finding.status is Status.FAIL and is_public and known is not None and known.state is ConnectionState.PENDING:
        return Finding(Status.SKIP, "the name is moved to the endpoint once its connection is approved")
    return finding


async def _check_road(target: Target, road: Road, plane: Plane | None, rows: _Rows) -> bool | None:
    """Add the rows along ``road``; whether the deployment says that it is restricted, None if it did not say."""
    where = f"{road.address}:{road.port}"
    error: RoadError | None = None
    peer: Peer | None = None
    answer: Answer | RoadError | None = None
    tcp_seconds = tls_seconds = 0.0
    begun = time.monotonic()
    try:
        async with asking.connected(road) as connection:
            tcp_seconds, tls_seconds = connection.tcp_seconds, connection.tls_seconds
            peer = connection.peer
            begun = time.monotonic()
            answer = await connection.ask("GET", "/", {})
    except RoadError as failure:
        error = failure
        tcp_seconds = tcp_seconds or failure.seconds
        if failure.stage is asking.Stage.HTTP:
            answer = failure
    is_private = resolving.is_private(road.address)
    if target.connection is not None and is_private:
        carries = judging.judge_connection(target.connection, error)
        if not rows.add(Check.CONNECTION, target.connection.endpoint, carries):
            rows.skip((Check.TCP, *_after(Check.TCP)), where, "its connection carries nothing")
            return None
    tcp = judging.judge_tcp(where, error, is_private=is_private)
    if not rows.add(Check.TCP, where, tcp, tcp_seconds):
        rows.skip(_after(Check.TCP), where, "there is no connection")
        return None
    if not rows.add(Check.TLS, road.name, judging.judge_tls(road.name, peer, error), tls_seconds):
        rows.skip(_after(Check.TLS), where, "TLS failed")
        return None
    assert answer is not None  # noqa: S101 - for the type checker: either it came or RoadError was raised
    if not rows.add(Check.INGRESS, where, judging.judge_page(answer), time.monotonic() - begun):
        rows.skip(_after(Check.INGRESS), target.url, "the cluster does not answer")
        return None
    if plane is None:
        rows.skip(_after(Check.INGRESS), target.url, "the deployment was not asked")
        return None
    begun = time.monotonic()
    findings = await plane.ask(road, target.path)
    _add_findings(target, findings, time.monotonic() - begun, rows)
    return findings.is_restricted


def _after(check: Check) -> tuple[Check, ...]:
    return _ALONG[_ALONG.index(check) + 1 :]


def _add_findings(target: Target, findings: PlaneFindings, took_seconds: float, rows: _Rows) -> None:
    why = "the deployment does not answer"
    heartbeat = findings.heartbeat
    if heartbeat is not None and heartbeat.status is Status.FAIL and rows.has_failed(Check.ADDRESS):
        heartbeat = Finding(Status.SKIP, f"{heartbeat.details}: agents go where the name leads")
    for check, finding in (
        (Check.DEPLOYMENT, findings.deployment),
        (Check.SOURCE, findings.source),
        (Check.TOKEN, findings.token),
        (Check.CLOCK, findings.clock),
        (Check.HEARTBEAT, heartbeat),
    ):
        if finding is None:
            rows.skip([check], target.url, why)
            continue
        rows.add(check, target.url, finding, took_seconds if check is Check.DEPLOYMENT else 0.0)
        if finding.status in (Status.FAIL, Status.SKIP):
            why = _WHY.get(check, why)


_WHY: Final = {
    Check.SOURCE: "this network's address is not let in",
    Check.TOKEN: "the deployment knows no agent by this token",
}


async def _check_public_path(
    target: Target, addresses: Sequence[Address], plane: Plane | None, rows: _Rows, *, is_restricted: bool | None
) -> None:
    if not addresses:
        return rows.skip([Check.PUBLIC_PATH], target.host, "no other public address is known")
    where = f"{addresses[0]}:{target.port}"
    if plane is None:
        return rows.skip([Check.PUBLIC_PATH], where, "the deployment was not asked")
    road = Road(addresses[0], target.port, target.host, target.tls, target.timeout_seconds)
    begun = time.monotonic()
    finding = await plane.is_served(road, target.path)
    if finding.status is Status.FAIL and not is_restricted:
        finding = judging.judge_open_path(finding.details, is_allowed=target.is_public_allowed)
    rows.add(Check.PUBLIC_PATH, where, finding, time.monotonic() - begun)
    return None
