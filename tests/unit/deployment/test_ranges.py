"""Ranges: their plain form, and what they admit and cover."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.deployment import ranges
from isthmus.deployment.ranges import Network

V4 = st.tuples(st.integers(0, 255), st.integers(24, 32)).map(
    lambda pair: ip_network((f"192.0.2.{pair[0]}", pair[1]), strict=False)
)
LISTS = st.lists(V4, max_size=5)


def networks(*texts: str) -> list[Network]:
    return [ip_network(text) for text in texts]


def test_the_plain_form() -> None:
    given = networks("2001:db8::/32", "192.0.2.0/24", "192.0.2.0/24", "::ffff:10.0.0.0/104")
    assert [str(one) for one in ranges.plain(given)] == ["10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"]


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [
        ([], [], True),
        ([], ["192.0.2.0/24"], True),
        (["192.0.2.0/24"], [], False),
        (["0.0.0.0/0"], [], False),
        (["0.0.0.0/0", "::/0"], [], True),
        (["192.0.2.0/25", "192.0.2.128/25"], ["192.0.2.0/24"], True),
        (["192.0.2.0/25"], ["192.0.2.0/24"], False),
        (["2001:db8::/32"], ["192.0.2.0/24"], False),
    ],
)
def test_what_covers_what(outer: list[str], inner: list[str], expected: bool) -> None:
    assert ranges.covers(networks(*outer), networks(*inner)) is expected


@given(LISTS, LISTS)
def test_covering_is_admitting_every_address(outer: list[Network], inner: list[Network]) -> None:
    tried = [str(ip_address("192.0.2.0") + offset) for offset in range(256)] + ["198.51.100.1", "2001:db8::1"]
    admitted = all(ranges.admits(outer, one) for one in tried if ranges.admits(inner, one))
    assert ranges.covers(outer, inner) is admitted


def test_what_is_no_address_is_in_no_range() -> None:
    assert ranges.admits([], "/run/socket")
    assert ranges.admits([], None)
    assert not ranges.admits(networks("0.0.0.0/0", "::/0"), "/run/socket")
    assert not ranges.admits(networks("0.0.0.0/0"), None)
