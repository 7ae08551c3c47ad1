"""Each way in which a road can fail has a row that says what to do."""

import errno
import ssl
from ipaddress import ip_address

import pytest

from isthmus.probe import judging, resolving
from isthmus.probe.asking import Answer, Peer, RoadError, Stage
from isthmus.probe.reports import Status
from isthmus.probe.resolving import Outcome, Resolution
from isthmus.wire.names import ConnectionState
from isthmus.wire.probes import KnownConnection

NAME = "clabc234xyz.external.example.net"


def resolution(*addresses: str, outcome: Outcome = Outcome.ANSWER, resolver: str = "168.63.129.16") -> Resolution:
    found = tuple(ip_address(one) for one in addresses)
    return Resolution(NAME, (resolver,), outcome, found, ttl_seconds=60, reason=f"{NAME}: {outcome}")


@pytest.mark.parametrize(
    ("outcome", "status", "remedy"),
    [
        (Outcome.ANSWER, Status.PASS, ""),
        (Outcome.NO_DATA, Status.PASS, ""),
        (Outcome.NO_SUCH_NAME, Status.PASS, ""),
        (Outcome.TIMEOUT, Status.FAIL, "port 53"),
        (Outcome.REFUSED, Status.FAIL, "DNS servers"),
        (Outcome.NO_RESOLVER, Status.FAIL, "/etc/resolv.conf"),
    ],
)
def test_resolver(outcome: Outcome, status: Status, remedy: str) -> None:
    finding = resolving.judge_resolver(resolution(outcome=outcome))
    assert finding.status is status
    assert remedy in finding.remedy


def test_a_name_that_a_zone_hides_says_so() -> None:
    finding = resolving.judge_name(resolution(outcome=Outcome.NO_SUCH_NAME))
    assert (finding.status, "private zone" in finding.remedy) == (Status.FAIL, True)
    assert "forward" not in finding.remedy
    custom = resolving.judge_name(resolution(outcome=Outcome.NO_SUCH_NAME, resolver="10.0.0.53"))
    assert "10.0.0.53 must forward the name to 168.63.129.16" in custom.remedy


@pytest.mark.parametrize(
    ("addresses", "endpoint", "private_wanted", "status"),
    [
        (["10.1.0.4"], "10.1.0.4", True, Status.PASS),
        (["10.1.0.5"], "10.1.0.4", True, Status.FAIL),
        (["10.1.0.4", "10.1.0.5"], "10.1.0.4", True, Status.FAIL),
        (["10.1.0.4"], None, True, Status.PASS),
        (["198.18.0.10"], None, True, Status.PASS),
        (["20.40.60.80"], None, True, Status.FAIL),
        (["20.40.60.80"], None, False, Status.PASS),
        (["20.40.60.80", "10.1.0.4"], None, False, Status.FAIL),
    ],
)
def test_address(addresses: list[str], endpoint: str | None, private_wanted: bool, status: Status) -> None:
    known = ip_address(endpoint) if endpoint else None
    finding = resolving.judge_address(resolution(*addresses), endpoint=known, private_wanted=private_wanted)
    assert finding.status is status
    assert bool(finding.remedy) == (status is Status.FAIL)


@pytest.mark.parametrize(
    ("cause", "is_private", "remedy"),
    [
        (TimeoutError(), True, "approved"),
        (TimeoutError(), False, "firewall"),
        (OSError(errno.ECONNREFUSED, "refused"), True, "load balancer"),
        (OSError(errno.ENETUNREACH, "unreachable"), True, "peered"),
        (OSError(errno.ECONNRESET, "reset"), True, "firewall"),
    ],
)
def test_tcp(cause: OSError, is_private: bool, remedy: str) -> None:
    finding = judging.judge_tcp("10.1.0.4:443", RoadError(Stage.TCP, cause, 5.0), is_private=is_private)
    assert finding.status is Status.FAIL
    assert remedy in finding.remedy


def test_a_road_that_fails_later_has_passed_tcp() -> None:
    error = RoadError(Stage.TLS, TimeoutError(), 5.0)
    assert judging.judge_tcp("10.1.0.4:443", error, is_private=True).status is Status.PASS


def _refused(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, "said OpenSSL"
    return error


@pytest.mark.parametrize(
    ("cause", "details", "remedy"),
    [
        (_refused(62), NAME, "never an address"),
        (_refused(20), "authority", "--ca-file"),
        (_refused(10), "not valid", "clock"),
        (_refused(23), "said OpenSSL", "verify codes"),
        (TimeoutError(), "no answer", "PROXY v2"),
        (ssl.SSLError(1, "wrong version number"), "TLS failed", "port"),
        (OSError(errno.ECONNRESET, "reset"), "cut", "inspects"),
    ],
)
def test_tls(cause: OSError, details: str, remedy: str) -> None:
    finding = judging.judge_tls(NAME, None, RoadError(Stage.TLS, cause, 1.0))
    assert finding.status is Status.FAIL
    assert details in finding.details
    assert remedy in finding.remedy


def test_a_certificate_that_ends_soon_warns() -> None:
    day = 86400.0
    peer = Peer((NAME,), "an authority", 100 * day, "TLSv1.3")
    assert judging.judge_tls(NAME, peer, None, now=50 * day).status is Status.PASS
    assert judging.judge_tls(NAME, peer, None, now=90 * day).status is Status.WARN


def test_page() -> None:
    assert judging.judge_page(Answer(404, {}, b"404 page not found\n")).status is Status.PASS
    portal = judging.judge_page(Answer(200, {}, b"<html>Please sign in</html>"))
    assert (portal.status, "Please sign in" in portal.details) == (Status.FAIL, True)
    assert judging.judge_page(Answer(404, {}, b"nginx")).status is Status.FAIL
    assert judging.judge_page(RoadError(Stage.HTTP, EOFError("closed"), 1.0)).status is Status.FAIL


def test_keep_alive() -> None:
    assert judging.judge_keep_alive(25).status is Status.PASS
    assert "240 s" in judging.judge_keep_alive(300).remedy


def test_a_wide_zone_that_hides_the_name_is_told_from_a_name_that_is_wrong() -> None:
    here = resolution(outcome=Outcome.NO_SUCH_NAME)
    hidden = resolving.judge_name(here, resolution("203.0.113.80", resolver="192.0.2.53"))
    assert (hidden.status, "hides it" in hidden.details, "203.0.113.80" in hidden.details) == (Status.FAIL, True, True)
    assert "--zone-scope cluster" in hidden.remedy
    wrong = resolving.judge_name(here, resolution(outcome=Outcome.NO_SUCH_NAME))
    assert "here and on the internet" in wrong.details


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        *((one, True) for one in ("10.1.0.4", "172.31.0.1", "100.64.0.1", "fd00::7")),
        *((one, False) for one in ("203.0.113.80", "172.32.0.1", "2001:db8::7")),
    ],
)
def test_what_is_private(address: str, expected: bool) -> None:
    assert resolving.is_private(ip_address(address)) is expected
    finding = resolving.judge_address(resolution(address), endpoint=None, private_wanted=True)
    assert (finding.status is Status.PASS) is expected


def test_a_public_address_where_the_endpoint_is_known_is_a_missing_zone() -> None:
    finding = resolving.judge_address(resolution("203.0.113.80"), endpoint=ip_address("10.1.0.4"), private_wanted=True)
    assert "no private zone" in finding.details


def test_a_hosts_file_is_said() -> None:
    finding = resolving.judge_hosts(resolution("203.0.113.80"), [ip_address("10.1.0.4")])
    assert (finding.status, "10.1.0.4" in finding.details, "203.0.113.80" in finding.details) == (
        Status.WARN,
        True,
        True,
    )
    assert resolving.judge_hosts(resolution(), [ip_address("127.0.0.1")]).status is Status.PASS


@pytest.mark.parametrize("state", ["pending", "rejected", "disconnected", "expired"])
def test_silence_is_that_of_a_connection_that_carries_nothing(state: str) -> None:
    known = KnownConnection(endpoint="ep-west", state=ConnectionState(state), reason="maintenance")
    finding = judging.judge_connection(known, RoadError(Stage.TCP, TimeoutError(), 5.0))
    assert (finding.status, finding.code) == (Status.FAIL, f"connection_{state}")
    assert f"ep-west is {state}" in finding.details
    assert ("maintenance" in finding.details) == (state != "pending"), "until then the words are the request's own"
    assert finding.remedy
    # What was seen comes first: what is known may be old.
    for seen in (None, RoadError(Stage.TLS, TimeoutError(), 5.0), RoadError(Stage.TCP, ConnectionRefusedError(), 0.1)):
        assert judging.judge_connection(known, seen).status is Status.WARN


def test_silence_of_an_approved_connection_is_something_else() -> None:
    for state in (ConnectionState.APPROVED, ConnectionState.UNKNOWN):
        known = KnownConnection(endpoint="ep-west", state=state)
        assert judging.judge_connection(known, RoadError(Stage.TCP, TimeoutError(), 5.0)).status is Status.PASS
