import ipaddress

import pytest

from isthmus.deployment.access import AllowList
from isthmus.deployment.errors import DatabaseError, PlaneRefusedError
from isthmus.deployment.pooling import Pool


def networks(*texts: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return [ipaddress.ip_network(text) for text in texts]


async def test_nobody_comes_in_before_the_list_was_read(pool: Pool) -> None:
    with pytest.raises(DatabaseError):
        AllowList(pool).check("192.0.2.1")


async def test_an_empty_list_admits_everybody(pool: Pool) -> None:
    allowed = AllowList(pool)
    await allowed.load()
    assert allowed.check("192.0.2.1") == "192.0.2.1"
    assert allowed.check("2001:db8::1") == "2001:db8::1"
    assert allowed.check("unix") == "unix"


async def test_ranges_of_both_kinds_admit_their_addresses_in_every_form(pool: Pool) -> None:
    allowed = AllowList(pool)
    decided = await allowed.replace(
        networks("2001:db8::/32", "192.0.2.0/24", "192.0.2.0/24", "::ffff:10.0.0.0/104", "198.51.100.7/32")
    )
    ranges = decided.decision.after
    assert [str(network) for network in ranges] == ["10.0.0.0/8", "192.0.2.0/24", "198.51.100.7/32", "2001:db8::/32"]
    elsewhere = AllowList(pool)
    await elsewhere.load()
    assert elsewhere.ranges == allowed.ranges == ranges
    for address, plain in {
        "192.0.2.9": "192.0.2.9",
        "::ffff:192.0.2.9": "192.0.2.9",
        "::ffff:10.1.2.3": "10.1.2.3",
        "2001:db8::5%eth0": "2001:db8::5",
        "198.51.100.7": "198.51.100.7",
    }.items():
        assert elsewhere.check(address) == plain
    for address, seen in {
        "203.0.113.1": "203.0.113.1",
        "::ffff:203.0.113.1": "203.0.113.1",
        "2001:db9::1": "2001:db9::1",
        "198.51.100.8": "198.51.100.8",
        "unix": "unix",
        "": "",
    }.items():
        with pytest.raises(PlaneRefusedError) as caught:
            elsewhere.check(address)
        assert caught.value.source_address == seen


async def test_a_new_list_counts_at_once(pool: Pool) -> None:
    allowed = AllowList(pool)
    await allowed.replace(networks("192.0.2.0/24"))
    allowed.check("192.0.2.1")
    await allowed.replace(networks("198.51.100.0/24"), dry_run=True)
    allowed.check("192.0.2.1")
    await allowed.replace(networks("198.51.100.0/24"))
    with pytest.raises(PlaneRefusedError):
        allowed.check("192.0.2.1")
    await allowed.replace([])
    allowed.check("192.0.2.1")
