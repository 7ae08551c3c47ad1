"""One verification: the checks in order, each only where those that it rests on have passed.

The plane's side of it (token, source, heartbeat) is asked through ``Plane``, which the caller brings: an agent asks
with its own credential, the command line with a token that it was given, and without one those rows are skipped.
"""

import datetime
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Protocol

from isthmus.probe import asking, judging, resolving
from isthmus.probe.asking import Answer, Peer, Road, RoadError
from isthmus.probe.reports import Check, Finding, Report, Row, Status
from isthmus.probe.resolving import Address, Resolution


@dataclass(frozen=True, slots=True)
class Target:
    """What is verified. ``path`` is the deployment's, with its leading slash; ``tls`` is None for plain HTTP.

    ``endpoint`` is the private endpoint's address where it is known; ``is_private_wanted`` says that the name has to
    lead to a private address; ``public_addresses`` are the cluster's, asked in the end whether they refuse;
    ``is_restricted`` says that they should. ``quiet_seconds`` is the longest pause on an agent's connections, None
    where no agent asks.
    """

    host: str
    port: int
    path: str
    tls: ssl.SSLContext | None
    endpoint: Address | None = None
    is_private_wanted: bool = True
    public_addresses: tuple[Address, ...] = ()
    is_restricted: bool = False
    quiet_seconds: float | None = None
    nameservers: tuple[str, ...] = ()
    timeout_seconds: float = 5.0

    @property
    def url(self) -> str:
        """As users write it."""
        scheme, usual = ("https", 443) if self.tls else ("http", 80)
        return f"{scheme}://{self.host}{'' if self.port == usual else f':{self.port}'}{self.path}"


@dataclass(frozen=True, slots=True)
class PlaneFindings:
    """What the deployment says to the credential: is it good, where does it come from, do its agents report."""

    token: Finding
    source: Finding | None = None
    heartbeat: Finding | None = None


class Plane(Protocol):
    """The deployment, asked with a credential along a road."""

    async def ask(self, road: Road, path: str) -> PlaneFindings:
        """Ask through a new connection along ``road``. Raises nothing."""

    async def is_served(self, road: Road, path: str) -> Finding:
        """Whether this road is served or refused: for the public path of a restricted deployment."""


Tell = Callable[[Row], None]


class _Rows:
    """The rows so far, told as they come."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self.rows: list[Row] = []

    def add(self, check: Check, target: str, finding: Finding, took_seconds: float = 0.0) -> bool:
        """Add a row; False if what rests on it cannot be looked at."""
        row = Row(check, target, finding.status, finding.details, finding.remedy, took_seconds)
        self.rows.append(row)
        self._tell(row)
        return finding.status in (Status.PASS, Status.WARN)

    def skip(self, checks: Sequence[Check], target: str, why: str) -> None:
        for check in checks:
            self.add(check, target, Finding(Status.SKIP, why))


async def verify(target: Target, *, plane: Plane | None = None, tell: Tell = lambda _: None) -> Report:
    """Run all checks; ``tell`` hears of each row as it is known. Raises nothing that a network can cause."""
    started_at = datetime.datetime.now(datetime.UTC)
    rows = _Rows(tell)
    addresses = await _check_name(target, rows)
    if not addresses:
        rest = [Check.TCP, Check.TLS, Check.DEPLOYMENT, Check.TOKEN, Check.SOURCE, Check.HEARTBEAT]
        rows.skip(rest, target.url, "the name leads nowhere")
    else:
        road = Road(addresses[0], target.port, target.host, target.tls, target.timeout_seconds)
        await _check_road(target, road, plane, rows)
    if target.quiet_seconds is None:
        rows.skip([Check.KEEP_ALIVE], target.url, "only an agent can say")
    else:
        rows.add(Check.KEEP_ALIVE, target.url, judging.judge_keep_alive(target.quiet_seconds))
    await _check_public_path(target, addresses, plane, rows)
    return Report(target.url, started_at, tuple(rows.rows))


async def _check_name(target: Target, rows: _Rows) -> tuple[Address, ...]:
    try:
        given = ip_address(target.host)
    except ValueError:
        pass
    else:
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
        return (given,)
    begun = time.monotonic()
    resolution = await resolving.resolve(
        target.host, timeout_seconds=target.timeout_seconds, nameservers=target.nameservers
    )
    took = time.monotonic() - begun
    asked = ", ".join(resolution.resolvers) or "resolver"
    if not rows.add(Check.RESOLVER, asked, resolving.judge_resolver(resolution), took):
        rows.skip([Check.NAME, Check.ADDRESS], target.host, "no resolver answers")
        return ()
    if not rows.add(Check.NAME, target.host, resolving.judge_name(resolution), took):
        rows.skip([Check.ADDRESS], target.host, "the name has no address")
        return ()
    rows.add(Check.ADDRESS, target.host, _judge_address(target, resolution))
    return resolution.addresses


def _judge_address(target: Target, resolution: Resolution) -> Finding:
    return resolving.judge_address(
        resolution,
        endpoint=target.endpoint,
        private_wanted=target.is_private_wanted,
        public=target.public_addresses,
    )


async def _check_road(target: Target, road: Road, plane: Plane | None, rows: _Rows) -> None:
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
    is_private = road.address.is_private
    if not rows.add(Check.TCP, where, judging.judge_tcp(where, error, is_private=is_private), tcp_seconds):
        rest = [Check.TLS, Check.DEPLOYMENT, Check.TOKEN, Check.SOURCE, Check.HEARTBEAT]
        return rows.skip(rest, where, "there is no connection")
    if not rows.add(Check.TLS, road.name, judging.judge_tls(road.name, peer, error), tls_seconds):
        return rows.skip([Check.DEPLOYMENT, Check.TOKEN, Check.SOURCE, Check.HEARTBEAT], where, "TLS failed")
    assert answer is not None  # noqa: S101 - for the type checker: either it came or RoadError was raised
    if not rows.add(Check.DEPLOYMENT, target.url, judging.judge_page(answer), time.monotonic() - begun):
        return rows.skip([Check.TOKEN, Check.SOURCE, Check.HEARTBEAT], target.url, "the cluster does not answer")
    if plane is None:
        return rows.skip([Check.TOKEN, Check.SOURCE, Check.HEARTBEAT], target.url, "no agent token was given")
    begun = time.monotonic()
    findings = await plane.ask(road, target.path)
    rows.add(Check.TOKEN, target.url, findings.token, time.monotonic() - begun)
    for check, finding in ((Check.SOURCE, findings.source), (Check.HEARTBEAT, findings.heartbeat)):
        rows.add(check, target.url, finding or Finding(Status.SKIP, "the token was refused"))
    return None


async def _check_public_path(target: Target, addresses: Sequence[Address], plane: Plane | None, rows: _Rows) -> None:
    public = [one for one in target.public_addresses if one not in addresses]
    if not public:
        return rows.skip([Check.PUBLIC_PATH], target.host, "no other public address is known")
    where = f"{public[0]}:{target.port}"
    if plane is None:
        return rows.skip([Check.PUBLIC_PATH], where, "no agent token was given")
    road = Road(public[0], target.port, target.host, target.tls, target.timeout_seconds)
    begun = time.monotonic()
    finding = await plane.is_served(road, target.path)
    if not target.is_restricted and finding.status is Status.FAIL:
        finding = Finding(
            Status.WARN,
            finding.details,
            "Once all agents come through the link, restrict the deployment: isthmus deployment restrict --to-cluster.",
        )
    rows.add(Check.PUBLIC_PATH, where, finding, time.monotonic() - begun)
    return None
