"""The source address of a request: who may say where it comes from."""

import ipaddress

import pytest

from isthmus.deployment.api import sources
from isthmus.deployment.arrivals import Arrival
from isthmus.wire.names import PathKind

PROXIES = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))


def xff(*values: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"x"), *((b"x-forwarded-for", value.encode()) for value in values)]


@pytest.mark.parametrize(
    ("peer", "headers", "expected"),
    [
        # No proxy is trusted here, or the peer is not one: what the header says is a stranger's claim.
        ("198.51.100.7", xff("10.1.1.1"), "198.51.100.7"),
        ("198.51.100.7", xff(), "198.51.100.7"),
        # One trusted proxy appended what it saw.
        ("10.0.0.1", xff("203.0.113.9"), "203.0.113.9"),
        # The client wrote a header of its own; the proxy appended the truth.
        ("10.0.0.1", xff("192.0.2.1, 203.0.113.9"), "203.0.113.9"),
        ("10.0.0.1", xff("192.0.2.1", "203.0.113.9"), "203.0.113.9"),
        ("10.0.0.1", xff("not an address, 203.0.113.9"), "203.0.113.9"),
        # Two trusted proxies in a row.
        ("10.0.0.1", xff("192.0.2.1, 203.0.113.9, 10.0.0.2"), "203.0.113.9"),
        # Only proxies: the one furthest away.
        ("10.0.0.1", xff("10.0.0.3, 10.0.0.2"), "10.0.0.3"),
        # No header although it came through the proxy, or one that is no address.
        ("10.0.0.1", xff(), "10.0.0.1"),
        ("10.0.0.1", xff("unknown"), "10.0.0.1"),
        ("10.0.0.1", xff("192.0.2.1, unknown"), "10.0.0.1"),
        # Forms: ports, brackets, IPv6, IPv4 seen by an IPv6 socket, zones.
        ("10.0.0.1", xff("203.0.113.9:4711"), "203.0.113.9"),
        ("10.0.0.1", xff("[2001:db8::5]:4711"), "2001:db8::5"),
        ("fd00::1", xff("2001:db8::5"), "2001:db8::5"),
        ("::ffff:10.0.0.1", xff("203.0.113.9"), "203.0.113.9"),
        ("::ffff:198.51.100.7", xff("203.0.113.9"), "::ffff:198.51.100.7"),
    ],
)
def test_source(peer: str, headers: list[tuple[bytes, bytes]], expected: str) -> None:
    assert sources.source(peer, headers, PROXIES) == expected


def test_nobody_is_trusted_unless_configured() -> None:
    assert sources.source("10.0.0.1", xff("203.0.113.9"), ()) == "10.0.0.1"


def test_a_transport_without_addresses_has_no_source() -> None:
    assert sources.source(None, xff("203.0.113.9"), PROXIES) == ""
    assert sources.source("/run/socket", xff("203.0.113.9"), PROXIES) == "/run/socket"


INGRESS = (ipaddress.ip_network("10.0.0.1/32"),)


def link(*values: str) -> list[tuple[bytes, bytes]]:
    return [*xff("10.20.0.5"), *((b"isthmus-link-id", value.encode()) for value in values)]


@pytest.mark.parametrize(
    ("peer", "headers", "expected"),
    [
        ("10.0.0.1", link("268435747"), Arrival("10.20.0.5", PathKind.LINK, 268435747)),
        ("::ffff:10.0.0.1", link("0"), Arrival("10.20.0.5", PathKind.LINK, 0)),
        ("10.0.0.1", link("4294967295"), Arrival("10.20.0.5", PathKind.LINK, 2**32 - 1)),
        ("10.0.0.1", link("unknown"), Arrival("10.20.0.5", PathKind.LINK, None)),
        ("10.0.0.1", link(), Arrival("10.20.0.5")),
        # A proxy that is trusted for addresses and hands on headers that it does not know.
        ("10.0.0.2", link("268435747"), Arrival("10.20.0.5")),
        # A stranger.
        ("198.51.100.7", link("268435747"), Arrival("198.51.100.7")),
        # No number of 32 bits, or two of them: somebody tries something.
        *(
            ("10.0.0.1", link(value), Arrival("10.20.0.5"))
            for value in ("", "-1", "4294967296", "1e3", "0x7", "٣", "1,2")
        ),
        ("10.0.0.1", link("1", "2"), Arrival("10.20.0.5")),
    ],
)
def test_the_path_is_what_the_ingress_says(peer: str, headers: list[tuple[bytes, bytes]], expected: Arrival) -> None:
    proxies = (ipaddress.ip_network("10.0.0.0/16"),)
    assert sources.arrival(peer, headers, proxies, INGRESS) == expected
    assert sources.arrival(peer, headers, proxies, ()).path is PathKind.PUBLIC
