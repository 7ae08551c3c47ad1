"""Zones as dnsmasq's configuration. What it answers is tested with the real one."""

from ipaddress import IPv4Address

from isthmus.lab.packets import naming
from isthmus.lab.picture import Record, Zone


def lines(*zones: Zone, **public: str) -> list[str]:
    names = {name.replace("_", "."): (IPv4Address(address),) for name, address in public.items()}
    return naming.private(zones, names, "203.0.113.2").splitlines()


def a(name: str, address: str = "10.0.0.9") -> Record:
    return Record(name, "A", 10, (address,))


def test_a_zone_is_answered_here_unless_it_falls_back() -> None:
    assert "local=/a.test/" in lines(Zone("a.test", False, (a("x"),)))
    falling = lines(Zone("a.test", True, (a("x"),)))
    assert "server=/a.test/#" in falling
    assert "local=/x.a.test/" in falling
    assert "local=/a.test/" not in falling


def test_records_that_a_nested_zone_hides_are_left_out() -> None:
    said = lines(Zone("a.test", False, (a("x.b"), a("b"), a("c"))), Zone("B.a.test", False, (a("@", "10.0.0.1"),)))
    hosts = [line for line in said if line.startswith("host-record")]
    assert sorted(hosts) == ["host-record=b.a.test,10.0.0.1,10", "host-record=c.a.test,10.0.0.9,10"]


def test_public_targets_are_known_where_an_alias_needs_them() -> None:
    alias = Record("www", "CNAME", 60, ("www.public.test.",))
    assert "host-record=www.public.test,203.0.113.30,10" in lines(
        Zone("a.test", False, (alias,)), www_public_test="203.0.113.30"
    )
    assert not any("203.0.113.30" in line for line in lines(Zone("a.test", False, ()), www_public_test="203.0.113.30"))


def test_what_dnsmasq_would_not_start_with_is_left_out() -> None:
    circle = (
        Record("a", "CNAME", 1, ("b.z.test",)),
        Record("b", "CNAME", 1, ("A.z.test.",)),
        Record("c", "CNAME", 1, ("a.z.test",)),
        Record("d", "CNAME", 1, ("e.z.test",)),
        Record("*", "CNAME", 1, ("a.z.test",)),
        Record("t", "TXT", 1, ("x" * 1010, "a\0b", "short")),
    )
    said = lines(Zone("z.test", False, circle))
    assert [line for line in said if line.startswith("cname")] == ["cname=d.z.test,e.z.test,1"]
    assert all(len(line) <= 1024 and "\0" not in line for line in said)


def test_text_is_quoted() -> None:
    said = lines(Zone("a.test", False, (Record("t", "TXT", 1, ('a"b\\c\nlocal=/evil.test/',)),)))
    assert said[-1] == 'txt-record=t.a.test,"a\\"b\\\\c\\nlocal=/evil.test/"'
    assert sum(line.startswith("local=") for line in said) == 1


def test_the_public_resolver_knows_nothing_else() -> None:
    said = naming.public({"WWW.Public.Test.": (IPv4Address("203.0.113.30"),)}).splitlines()
    assert "local=/#/" in said
    assert "host-record=www.public.test,203.0.113.30" in said
