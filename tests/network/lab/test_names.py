"""What names answer in which network, asked of the real resolvers."""

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from isthmus.lab.packets import namespaces
from isthmus.lab.packets.following import Packets
from isthmus.lab.picture import Network, Peering, Picture, Record, Zone
from network.lab import scenes
from network.lab.programs import Program

Visit = Callable[..., Program]

CLUSTER = "c1.external.test"
PUBLIC_NAMES = {
    CLUSTER: (IPv4Address("203.0.113.20"),),
    "c2.external.test": (IPv4Address("203.0.113.21"),),
    "www.public.test": (IPv4Address("203.0.113.30"), IPv4Address("203.0.113.31"), IPv6Address("2001:db8::30")),
}


def zone(*records: Record, name: str = "external.test", falls_back: bool = False) -> Zone:
    return Zone(name, falls_back, records)


def record(name: str, kind: str, *values: str, ttl: int = 300) -> Record:
    return Record(name, kind, ttl, values)


def pictured(*zones: Zone, **more: object) -> Picture:
    network = scenes.network(1, "linked", zones=zones, **more)
    return Picture((network, scenes.network(2, "unlinked")), public_names=PUBLIC_NAMES)


def answers(said: list[object]) -> tuple[str, list[list[object]]]:
    code, records = said
    return code, records  # type: ignore[return-value]


async def test_a_linked_zone_answers_where_it_is_linked(packets: Packets, visit: Visit) -> None:
    await packets.start(pictured(zone(record("c1", "A", "10.0.0.9", ttl=10))))
    linked, unlinked = visit(1), visit(2)
    assert linked.ask(do="dns", name=CLUSTER) == ["NOERROR", [[CLUSTER, 10, "A", "10.0.0.9"]]]
    assert linked.ask(do="dns", name=CLUSTER.upper())[0] == "NOERROR"
    assert linked.ask(do="dns", name=CLUSTER, kind="AAAA") == ["NOERROR", []]
    assert linked.ask(do="dns", name="c2.external.test") == ["NXDOMAIN", []]
    assert linked.ask(do="dns", name="www.public.test")[1][0][3] == "203.0.113.30"
    assert linked.ask(do="dns", name="www.public.test", tcp=True)[1][0][3] == "203.0.113.30"
    assert linked.ask(do="dns", name="www.public.test", kind="AAAA")[1][0][3] == "2001:db8::30"
    assert linked.ask(do="dns", name="nobody.public.test") == ["NXDOMAIN", []]
    assert unlinked.ask(do="dns", name=CLUSTER)[1][0][3] == "203.0.113.20"
    assert unlinked.ask(do="dns", name="c2.external.test")[1][0][3] == "203.0.113.21"
    assert visit("internet").ask(do="dns", name=CLUSTER, server="203.0.113.2")[1][0][3] == "203.0.113.20"


async def test_a_zone_that_falls_back_asks_for_what_it_lacks(packets: Packets, visit: Visit) -> None:
    await packets.start(pictured(zone(record("c1", "A", "10.0.0.9"), falls_back=True)))
    client = visit(1)
    assert client.ask(do="dns", name=CLUSTER)[1][0][3] == "10.0.0.9"
    assert client.ask(do="dns", name=CLUSTER, kind="AAAA") == ["NOERROR", []]
    assert client.ask(do="dns", name="c2.external.test")[1][0][3] == "203.0.113.21"
    assert client.ask(do="dns", name="c3.external.test") == ["NXDOMAIN", []]


async def test_the_most_specific_zone_answers(packets: Packets, visit: Visit) -> None:
    wide = zone(record("c1", "A", "10.0.0.1"), record("x.c1", "A", "10.0.0.2"), record("c9", "A", "10.0.0.3"))
    narrow = zone(record("@", "A", "10.0.0.9"), name=CLUSTER)
    await packets.start(pictured(wide, narrow))
    client = visit(1)
    assert client.ask(do="dns", name=CLUSTER)[1] == [[CLUSTER, 300, "A", "10.0.0.9"]]
    assert client.ask(do="dns", name=f"x.{CLUSTER}") == ["NXDOMAIN", []]
    assert client.ask(do="dns", name="c9.external.test")[1][0][3] == "10.0.0.3"
    falling = replace(narrow, falls_back=True, records=())
    await packets.converge(pictured(wide, falling))
    assert client.ask(do="dns", name=CLUSTER)[1][0][3] == "203.0.113.20"


@pytest.mark.parametrize("falls_back", [False, True])
async def test_wildcards_stand_for_names_without_records(packets: Packets, visit: Visit, falls_back: bool) -> None:
    await packets.start(
        pictured(
            zone(
                record("*", "A", "10.0.0.20", "10.0.0.21"),
                record("c1", "A", "10.0.0.9"),
                record("text", "TXT", "only"),
                record("*.alias", "CNAME", "www.public.test"),
                falls_back=falls_back,
            )
        )
    )
    client = visit(1)
    values = {one[3] for one in client.ask(do="dns", name="any.external.test")[1]}
    assert values == {"10.0.0.20", "10.0.0.21"}
    assert client.ask(do="dns", name="any.external.test", kind="AAAA") == ["NOERROR", []]
    assert client.ask(do="dns", name=CLUSTER)[1][0][3] == "10.0.0.9"
    assert client.ask(do="dns", name=CLUSTER, kind="AAAA") == ["NOERROR", []]
    assert client.ask(do="dns", name="a.alias.external.test")[1][0][3] == "203.0.113.30"


async def test_all_types_of_records(packets: Packets, visit: Visit) -> None:
    text = 'say "hello", it\'s 100% \\ fine; ' + "ä" * 200
    await packets.start(
        pictured(
            zone(
                record("@", "A", "10.0.0.12"),
                record("many", "A", "10.0.0.10", "10.0.0.11"),
                record("six", "AAAA", "fd00::9"),
                record("both", "A", "10.0.0.13"),
                record("both", "AAAA", "fd00::13", ttl=20),
                record("alias", "CNAME", "many.external.test", ttl=77),
                record("alias2", "CNAME", "alias.external.test."),
                record("public", "CNAME", "www.public.test"),
                record("lost", "CNAME", "nobody.public.test"),
                record("circle", "CNAME", "elcric.external.test"),
                record("elcric", "CNAME", "circle.external.test"),
                record("long", "TXT", "x" * 1024),
                record("text", "TXT", "v=1; a,b", text),
                record("mail", "MX", "10 mx1.external.test", "20 mx2.external.test"),
                record("_sip._tcp", "SRV", "1 2 5060 sip.external.test"),
                record("@", "TXT", "apex"),
            ),
            zone(record("9.0.0", "PTR", "c1.external.test"), name="10.in-addr.arpa"),
        )
    )
    client = visit(1)

    def ask(name: str, kind: str) -> list[str]:
        code, records = client.ask(do="dns", name=name, kind=kind)
        assert code == "NOERROR"
        return [f"{one[2]} {one[3]}" for one in records]

    assert ask("external.test", "A") == ["A 10.0.0.12"]
    assert ask("external.test", "TXT") == ['TXT "apex"']
    assert ask("many.external.test", "A") == ["A 10.0.0.10", "A 10.0.0.11"]
    assert ask("six.external.test", "AAAA") == ["AAAA fd00::9"]
    assert ask("six.external.test", "A") == []
    assert ask("both.external.test", "AAAA") == ["AAAA fd00::13"]
    assert ask("both.external.test", "A") == ["A 10.0.0.13"]
    assert ask("alias.external.test", "A")[0] == "CNAME many.external.test."
    assert client.ask(do="dns", name="alias.external.test")[1][0][1] == 77
    assert ask("alias2.external.test", "A")[-1] == "A 10.0.0.11"
    assert ask("public.external.test", "A") == ["CNAME www.public.test.", "A 203.0.113.30", "A 203.0.113.31"]
    assert ask("public.external.test", "AAAA") == ["CNAME www.public.test.", "AAAA 2001:db8::30"]
    assert ask("lost.external.test", "CNAME") == ["CNAME nobody.public.test."]
    assert ask("text.external.test", "A") == []
    assert 'TXT "v=1; a,b"' in ask("text.external.test", "TXT")
    # 231 characters of 431 bytes are two strings; dnspython escapes what is not ASCII.
    written = next(one for one in ask("text.external.test", "TXT") if "hello" in one)
    assert written.startswith('TXT "say \\"hello\\", it\'s 100% \\\\ fine; \\195\\164')
    assert written.count("\\195\\164") + written.count('\\195" "\\164') == 200
    assert ask("mail.external.test", "MX") == ["MX 10 mx1.external.test.", "MX 20 mx2.external.test."]
    assert ask("_sip._tcp.external.test", "SRV") == ["SRV 1 2 5060 sip.external.test."]
    assert ask("9.0.0.10.in-addr.arpa", "PTR") == ["PTR c1.external.test."]
    assert client.ask(do="dns", name="8.0.0.10.in-addr.arpa", kind="PTR")[0] == "NXDOMAIN"


async def test_changes_of_records_links_and_public_names_are_seen_at_once(packets: Packets, visit: Visit) -> None:
    await packets.start(pictured())
    client = visit(1)
    assert client.ask(do="dns", name=CLUSTER)[1][0][3] == "203.0.113.20"
    await packets.converge(pictured(zone(record("c1", "A", "10.0.0.9"))))
    assert client.ask(do="dns", name=CLUSTER)[1][0][3] == "10.0.0.9"
    await packets.converge(pictured(zone(record("c1", "A", "10.0.0.10"))))
    assert client.ask(do="dns", name=CLUSTER)[1][0][3] == "10.0.0.10"
    moved = {**PUBLIC_NAMES, CLUSTER: (IPv4Address("203.0.113.99"),)}
    await packets.converge(replace(pictured(), public_names=moved))
    assert client.ask(do="dns", name=CLUSTER)[1][0][3] == "203.0.113.99"


async def test_peering_carries_no_names_and_other_name_servers_are_written_down(packets: Packets, visit: Visit) -> None:
    linked = scenes.network(1, "linked", zones=(zone(record("c1", "A", "10.0.0.9")),))
    peer: Network = scenes.network(
        2, "peer", prefix="10.1.0.0/16", host="10.1.0.4", dns_servers=(IPv4Address("10.0.0.4"), IPv4Address("10.0.0.5"))
    )
    await packets.start(Picture((linked, peer), (Peering(1, linked.key, peer.key),), public_names=PUBLIC_NAMES))
    client = visit(2)
    assert client.ask(do="dns", name=CLUSTER)[1][0][3] == "203.0.113.20"
    assert client.ask(do="dns", name=CLUSTER, server="10.0.0.4", seconds=0.4)[1] == []
    written = {key: namespaces.resolv_conf(name).read_text() for key, name in packets.namespaces().items()}
    assert written[linked.key].splitlines()[0] == "nameserver 168.63.129.16"
    assert written[peer.key].splitlines()[:2] == ["nameserver 10.0.0.4", "nameserver 10.0.0.5"]
