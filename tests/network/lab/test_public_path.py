"""The public internet, frontends, and everything that does not go through an endpoint."""

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address

from isthmus.lab import picture
from isthmus.lab.packets.following import Packets
from isthmus.lab.picture import Frontend, Peering, Picture
from network.lab import scenes
from network.lab.programs import Program
from network.lab.scenes import FRONTEND, HOST

Make = Callable[..., Program]

PUBLIC = IPv4Address("203.0.113.20")
OTHERS = IPv4Address("203.0.113.21")
OUTBOUND = IPv4Address("203.0.113.130")
BACKENDS = ("10.0.0.20", "10.0.0.21")


async def test_outbound_traffic_leaves_from_the_outbound_address(packets: Packets, serve: Make, visit: Make) -> None:
    inside, cut_off = scenes.network(1, "inside", outbound_address=OUTBOUND), scenes.network(2, "cut-off")
    await packets.start(Picture((inside, cut_off)))
    serve("internet", "203.0.113.7:443", "udp:203.0.113.7:53", say="web")
    client = visit(1)
    answer = client.ask(do="connect", name="a", to="203.0.113.7", port=443)
    assert (answer["is"], answer["sees"][0]) == ("web", str(OUTBOUND))
    assert client.ask(do="talk", name="a", size=1_000_000) == "echo"
    assert client.ask(do="udp", to="203.0.113.7", port=53)["sees"][0] == str(OUTBOUND)
    assert client.ask(do="ping", to="203.0.113.7")
    assert visit(2).ask(do="connect", name="a", to="203.0.113.7", port=443, seconds=0.4) == "TimeoutError"
    assert visit("internet").ask(do="connect", name="a", to=str(OUTBOUND), port=443, seconds=0.4) == "TimeoutError"


async def test_a_public_frontend_is_reached_from_everywhere(packets: Packets, serve: Make, visit: Make) -> None:
    provider = scenes.network(
        1,
        "provider",
        addresses=tuple(map(IPv4Address, BACKENDS)),
        frontends=(Frontend(PUBLIC, True, (scenes.rule(443, 8443, *BACKENDS),)),),
        outbound_address=PUBLIC,
    )
    customer = scenes.network(2, "customer", outbound_address=OUTBOUND)
    same = replace(provider, key=customer.key, number=3, frontends=(replace(provider.frontends[0], address=OTHERS),))
    same = replace(same, key=picture.Key("/networks/same"), outbound_address=None)
    await packets.start(Picture((provider, customer, same)))
    for backend in BACKENDS:
        serve(1, f"{backend}:8443", say="first")
        serve(3, f"{backend}:8443", say="same")
    internet = visit("internet")
    answer = internet.ask(do="connect", name="a", to=str(PUBLIC), port=443)
    assert (answer["is"], answer["sees"][0]) == ("first", str(picture.INTERNET_HOST))
    assert internet.ask(do="talk", name="a", size=1_000_000) == "echo"
    source = ["203.0.113.8", 41000]
    seen = [internet.ask(do="connect", name=to, to=to, port=443, source=source) for to in (str(PUBLIC), str(OTHERS))]
    assert [answer["is"] for answer in seen] == ["first", "same"]
    assert [answer["sees"][0] for answer in seen] == ["203.0.113.8", "203.0.113.8"]
    answer = visit(2).ask(do="connect", name="a", to=str(PUBLIC), port=443)
    assert (answer["is"], answer["sees"][0]) == ("first", str(OUTBOUND))
    answer = visit(1).ask(do="connect", name="a", to=str(PUBLIC), port=443)
    assert (answer["is"], answer["sees"][0]) == ("first", str(PUBLIC))
    assert visit(3).ask(do="connect", name="a", to=str(PUBLIC), port=443, seconds=0.4) == "TimeoutError"
    assert internet.ask(do="connect", name="b", to=str(PUBLIC), port=444, seconds=0.4) == "TimeoutError"


async def test_a_public_address_is_translated_both_ways(packets: Packets, serve: Make, visit: Make) -> None:
    inside = scenes.network(
        1, "inside", addresses=(IPv4Address(BACKENDS[0]),), public_addresses={IPv4Address(BACKENDS[0]): PUBLIC}
    )
    await packets.start(Picture((inside,)))
    serve(1, f"{BACKENDS[0]}:22", say="machine")
    serve("internet", "203.0.113.7:443", say="web")
    internet = visit("internet")
    assert internet.ask(do="connect", name="a", to=str(PUBLIC), port=22)["is"] == "machine"
    assert internet.ask(do="ping", to=str(PUBLIC))
    client = visit(1)
    answer = client.ask(do="connect", name="a", to="203.0.113.7", port=443, source=[BACKENDS[0], 0])
    assert answer["sees"][0] == str(PUBLIC)
    # The host's own address has none, and the network no way out.
    assert client.ask(do="connect", name="b", to="203.0.113.7", port=443, seconds=0.4) == "TimeoutError"


async def test_a_private_frontend_works_inside_and_from_peers(packets: Packets, serve: Make, visit: Make) -> None:
    provider = scenes.network(
        1,
        "provider",
        addresses=tuple(map(IPv4Address, BACKENDS)),
        frontends=(Frontend(IPv4Address(FRONTEND), False, (scenes.rule(443, 8443, *BACKENDS),)),),
    )
    peer = scenes.network(2, "peer", prefix="10.1.0.0/16", host="10.1.0.4")
    its = scenes.service(1, provider, scenes.rule(443, 8443, *BACKENDS))
    customer = scenes.network(3, "customer")
    wanted = Picture(
        (provider, peer, customer),
        (Peering(1, provider.key, peer.key),),
        (its,),
        (scenes.endpoint(1, customer, its),),
    )
    await packets.start(wanted)
    for backend in BACKENDS:
        serve(1, f"{backend}:8443", say=backend)
    for number, seen in ((1, HOST), (2, "10.1.0.4")):
        client = visit(number)
        answers = [client.ask(do="connect", name=str(one), to=FRONTEND, port=443) for one in range(16)]
        assert {answer["is"] for answer in answers} == set(BACKENDS)
        assert {answer["sees"][0] for answer in answers} == {seen}
        assert client.ask(do="talk", name="0", size=1_000_000) == "echo"
    assert visit(3).ask(do="connect", name="a", to=scenes.ENDPOINT, port=443)["sees"][0] == scenes.NAT


async def test_networks_without_a_road_do_not_meet(packets: Packets, serve: Make, visit: Make) -> None:
    one = scenes.network(1, "one", outbound_address=OUTBOUND)
    other = scenes.network(2, "other", prefix="10.1.0.0/16", host="10.1.0.4", outbound_address=OTHERS)
    await packets.start(Picture((one, other)))
    serve(2, "10.1.0.4:7000")
    client = visit(1)
    assert client.ask(do="connect", name="a", to="10.1.0.4", port=7000, seconds=0.4) == "TimeoutError"
    assert not client.ask(do="ping", to="10.1.0.4", seconds=0.3)
    assert not client.ask(do="ping", to="169.254.1.1", seconds=0.3)
