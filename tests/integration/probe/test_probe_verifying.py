"""A verification against real servers on loopback: who answers, with which certificate, and what is then skipped."""

import asyncio
import contextlib
import datetime
import ssl
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from isthmus.kit import certificates
from isthmus.probe import reports, verifying
from isthmus.probe.answering import PlaneFindings
from isthmus.probe.asking import Road
from isthmus.probe.reports import Check, Finding, Report, Row, Status
from isthmus.probe.verifying import Target
from isthmus.wire.names import ConnectionState
from isthmus.wire.probes import KnownConnection

NAME = "localhost"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-type: text/plain\r\ncontent-length: 19\r\n\r\n404 page not found\n"
PORTAL = b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\nPlease sign in"


@contextlib.asynccontextmanager
async def server(answer: bytes, tls: ssl.SSLContext | None, address: str = "127.0.0.1") -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, address, 0, ssl=tls)
    async with listening:
        yield listening.sockets[0].getsockname()[1]
        await asyncio.sleep(0.05)  # transports whose handshake failed close their sockets a little later


@pytest.fixture(scope="module")
def authority() -> tuple[bytes, bytes]:
    return certificates.make_authority("a test's authority")


@pytest.fixture
def serving(authority: tuple[bytes, bytes], tmp_path: Path) -> Callable[[str], ssl.SSLContext]:
    def make(name: str) -> ssl.SSLContext:
        certificate, key = certificates.issue(*authority, [name])
        (tmp_path / "server.pem").write_bytes(certificate + key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "server.pem")
        return context

    return make


@pytest.fixture
def trusting(authority: tuple[bytes, bytes]) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority[0].decode())


class FakePlane:
    """Says what it was told to say, along whatever road."""

    def __init__(self, findings: PlaneFindings, public: Finding | None = None) -> None:
        self.findings = findings
        self.public = public or Finding(Status.FAIL, "served", "restrict it")
        self.asked: list[Road] = []

    async def ask(self, road: Road, path: str) -> PlaneFindings:
        self.asked.append(road)
        return self.findings

    async def is_served(self, road: Road, path: str) -> Finding:
        self.asked.append(road)
        return self.public


def target(port: int, tls: ssl.SSLContext | None, **values: object) -> Target:
    return Target(NAME, port, "/dtest234", tls, timeout_seconds=2, **values)  # type: ignore[arg-type]


#: Nothing is said of an endpoint's connection unless somebody knows it.
WITHOUT_CONNECTION = [check for check in Check if check is not Check.CONNECTION]


def statuses(report: Report) -> dict[Check, Status]:
    return {row.check: row.status for row in report.rows}


async def test_a_road_that_is_as_it_should_be(
    serving: Callable[[str], ssl.SSLContext], trusting: ssl.SSLContext
) -> None:
    good = Finding(Status.PASS, "good")
    plane = FakePlane(PlaneFindings(good, good, good, good, good))
    told: list[Row] = []
    async with server(NOT_FOUND, serving(NAME)) as port:
        report = await verifying.verify(target(port, trusting, quiet_seconds=25), plane=plane, tell=told.append)
    found = statuses(report)
    assert found.pop(Check.PUBLIC_PATH) is Status.SKIP
    assert found.pop(Check.RESOLVER) in (Status.PASS, Status.SKIP)  # whether this machine asks DNS for localhost
    assert set(found.values()) == {Status.PASS}
    assert report.status is Status.PASS
    assert plane.asked[0].address.is_loopback
    assert tuple(told) == report.rows
    assert [row.check for row in report.rows] == WITHOUT_CONNECTION


async def test_agents_that_a_wrong_record_has_stopped_are_no_second_cause(
    serving: Callable[[str], ssl.SSLContext], trusting: ssl.SSLContext
) -> None:
    good = Finding(Status.PASS, "good")
    plane = FakePlane(PlaneFindings(good, good, good, good, Finding(Status.FAIL, "oslo-1 has stopped")))
    async with server(NOT_FOUND, serving(NAME), "127.0.0.2") as port:
        report = await verifying.verify(target(port, trusting, endpoint=ip_address("127.0.0.2")), plane=plane)
    assert [row.check for row in report.failed] == [Check.ADDRESS]
    (heartbeat,) = [row for row in report.rows if row.check is Check.HEARTBEAT]
    assert (heartbeat.status, "oslo-1 has stopped" in heartbeat.details) == (Status.SKIP, True)


async def along(port: int, tls: ssl.SSLContext | None, name: str = NAME) -> Report:
    """What is found at 127.0.0.1, without asking for the name."""
    rows: list[Row] = []
    collecting = verifying._Rows(rows.append)
    given = target(port, tls)
    road = Road(ip_address("127.0.0.1"), port, name, tls, 1)
    await verifying._check_road(given, road, None, collecting)
    return Report(given.url, datetime.datetime.now(datetime.UTC), tuple(rows))


async def test_a_certificate_for_another_name(
    serving: Callable[[str], ssl.SSLContext], trusting: ssl.SSLContext
) -> None:
    async with server(NOT_FOUND, serving("other.example")) as port:
        report = await along(port, trusting)
    assert statuses(report)[Check.TCP] is Status.PASS
    (row,) = report.failed
    assert (row.check, "not for localhost" in row.details) == (Check.TLS, True)
    assert statuses(report)[Check.DEPLOYMENT] is Status.SKIP


async def test_an_unknown_authority(serving: Callable[[str], ssl.SSLContext]) -> None:
    async with server(NOT_FOUND, serving(NAME)) as port:
        report = await along(port, ssl.create_default_context())
    (row,) = report.failed
    assert (row.check, "--ca-file" in row.remedy) == (Check.TLS, True)


async def test_another_server_at_the_address(
    serving: Callable[[str], ssl.SSLContext], trusting: ssl.SSLContext
) -> None:
    async with server(PORTAL, serving(NAME)) as port:
        report = await along(port, trusting)
    (row,) = report.failed
    assert (row.check, "Please sign in" in row.details) == (Check.INGRESS, True)


async def test_a_server_that_speaks_no_tls(trusting: ssl.SSLContext) -> None:
    async with server(NOT_FOUND, None) as port:
        report = await along(port, trusting)
    (row,) = report.failed
    assert row.check is Check.TLS
    assert "PROXY v2" in row.remedy


async def test_nothing_listens(trusting: ssl.SSLContext) -> None:
    async with server(NOT_FOUND, None) as port:
        pass
    report = await along(port, trusting)
    (row,) = report.failed
    assert (row.check, "refuses" in row.details) == (Check.TCP, True)
    assert all(one.status is Status.SKIP for one in report.rows[1:])


@pytest.mark.parametrize(
    ("is_restricted", "is_public_allowed", "status"),
    [(True, False, Status.FAIL), (True, True, Status.FAIL), (False, True, Status.PASS), (False, False, Status.WARN)],
)
async def test_an_open_public_path_is_a_failure_once_it_is_restricted(
    serving: Callable[[str], ssl.SSLContext],
    trusting: ssl.SSLContext,
    is_restricted: bool,
    is_public_allowed: bool,
    status: Status,
) -> None:
    plane = FakePlane(PlaneFindings(Finding(Status.PASS, "good"), is_restricted=is_restricted))
    async with server(NOT_FOUND, serving(NAME)) as port:
        given = target(
            port, trusting, public_addresses=(ip_address("203.0.113.80"),), is_public_allowed=is_public_allowed
        )
        report = await verifying.verify(given, plane=plane)
    assert statuses(report)[Check.PUBLIC_PATH] is status
    assert str(plane.asked[-1].address) == "203.0.113.80"


async def test_a_record_that_is_wrong_is_the_one_failure_and_the_endpoint_is_tried_all_the_same(
    serving: Callable[[str], ssl.SSLContext], trusting: ssl.SSLContext
) -> None:
    """The name leads to this machine's loopback; the endpoint is another address of it."""
    plane = FakePlane(PlaneFindings(Finding(Status.PASS, "good")))
    async with server(NOT_FOUND, serving(NAME)) as port:
        report = await verifying.verify(target(port, trusting, endpoint=ip_address("127.0.0.1")), plane=plane)
        elsewhere = await verifying.verify(target(port, trusting, endpoint=ip_address("127.0.0.3")), plane=plane)
    assert str(plane.asked[0].address) == "127.0.0.1"
    assert [row.check for row in report.failed] in ([], [Check.ADDRESS])  # ::1 as well, where it is listed
    assert elsewhere.failed[0].check is Check.ADDRESS
    assert "the endpoint is 127.0.0.3" in elsewhere.failed[0].details


async def test_a_proxy_of_the_environment_is_said(
    serving: Callable[[str], ssl.SSLContext], trusting: ssl.SSLContext
) -> None:
    async with server(NOT_FOUND, serving(NAME)) as port:
        report = await verifying.verify(target(port, trusting, proxy="proxy.example:3128"))
    (row,) = [row for row in report.rows if row.check is Check.PROXY]
    assert (row.status, "proxy.example:3128" in row.details, "NO_PROXY" in row.remedy) == (Status.WARN, True, True)


async def test_what_is_seen_comes_before_what_is_known_of_the_connection(
    serving: Callable[[str], ssl.SSLContext], trusting: ssl.SSLContext
) -> None:
    plane = FakePlane(PlaneFindings(Finding(Status.PASS, "good")))
    for state, status in ((ConnectionState.APPROVED, Status.PASS), (ConnectionState.PENDING, Status.WARN)):
        known = KnownConnection(endpoint="ep-west", state=state)
        async with server(NOT_FOUND, serving(NAME)) as port:
            report = await verifying.verify(target(port, trusting, connection=known), plane=plane)
        assert [row.check for row in report.rows] == list(Check)
        assert (statuses(report)[Check.CONNECTION], statuses(report)[Check.TCP]) == (status, Status.PASS)


async def test_a_report_fits_the_wire(serving: Callable[[str], ssl.SSLContext], trusting: ssl.SSLContext) -> None:
    plane = FakePlane(PlaneFindings(Finding(Status.FAIL, "x" * 2000, "y" * 2000)))
    async with server(NOT_FOUND, serving(NAME)) as port:
        report = await verifying.verify(target(port, trusting), plane=plane)
    sent = reports.to_wire(report)
    assert (sent.status, len(sent.rows)) == ("fail", len(WITHOUT_CONNECTION))
    assert max(len(row.details) for row in sent.rows) == 512
