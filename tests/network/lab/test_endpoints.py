"""Endpoints, with real packets: who gets through to what, when, and what it is called."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from isthmus.lab.ids import Key
from isthmus.lab.packets.fabric import Limits
from isthmus.lab.packets.following import Packets
from isthmus.lab.picture import Peering, Picture, Protocol
from network.lab import scenes
from network.lab.programs import Program
from network.lab.scenes import ENDPOINT, HOST, NAT

Make = Callable[..., Program]


async def test_an_endpoint_leads_to_the_service_and_shows_its_nat_address(
    packets: Packets, serve: Make, visit: Make
) -> None:
    await packets.start(scenes.simple())
    serve(2, f"{HOST}:8080", say="it")
    client = visit(1)
    answer = client.ask(do="connect", name="a", to=ENDPOINT, port=80)
    assert answer["is"] == "it"
    assert answer["sees"][0] == NAT
    assert answer["from"] == HOST
    assert client.ask(do="talk", name="a", size=3_000_000) == "echo"
    assert client.ask(do="connect", name="b", to=ENDPOINT, port=81, seconds=0.4) == "TimeoutError"
    assert client.ask(do="connect", name="c", to="10.0.0.77", port=80, seconds=0.4) == "TimeoutError"


async def test_everyone_may_have_the_same_addresses(packets: Packets, serve: Make, visit: Make) -> None:
    customers = [scenes.network(number, f"customer-{number}") for number in (1, 2)]
    providers = [scenes.network(number, f"provider-{number}") for number in (3, 4)]
    services = [scenes.service(number, provider) for number, provider in enumerate(providers)]
    endpoints = tuple(
        scenes.endpoint(number, customer, its)
        for number, (customer, its) in enumerate(zip(customers, services, strict=True))
    )
    await packets.start(Picture((*customers, *providers), (), tuple(services), endpoints))
    serve(3, f"{HOST}:8080", say="three")
    serve(4, f"{HOST}:8080", say="four")
    # From the same address and port, to the same address and port.
    source = [HOST, 45000]
    clients = [visit(1), visit(2)]
    answers = [client.ask(do="connect", name="a", to=ENDPOINT, port=80, source=source) for client in clients]
    assert [answer["is"] for answer in answers] == ["three", "four"]
    assert [answer["sees"][0] for answer in answers] == [NAT, NAT]
    assert [client.ask(do="talk", name="a", size=500_000) for client in clients] == ["echo", "echo"]
    assert await packets.nat_ports_used() == {one.key: {IPv4Address(NAT): 1} for one in services}


async def test_two_customers_meet_at_one_service(packets: Packets, serve: Make, visit: Make) -> None:
    customers = [scenes.network(number, f"customer-{number}") for number in (1, 2)]
    provider = scenes.network(3, "provider")
    its = scenes.service(1, provider)
    endpoints = tuple(scenes.endpoint(number, customer, its) for number, customer in enumerate(customers))
    await packets.start(Picture((*customers, provider), (), (its,), endpoints))
    serve(3, f"{HOST}:8080")
    clients = [visit(1), visit(2)]
    answers = [client.ask(do="connect", name="a", to=ENDPOINT, port=80, source=[HOST, 45000]) for client in clients]
    ports = {answer["sees"][1] for answer in answers}
    assert len(ports) == 2
    assert [client.ask(do="talk", name="a", size=500_000) for client in clients] == ["echo", "echo"]


async def test_only_approved_connections_pass(packets: Packets, serve: Make, visit: Make) -> None:
    pending = scenes.simple(approved=False)
    await packets.start(pending)
    serve(2, f"{HOST}:8080")
    client = visit(1)
    assert client.ask(do="connect", name="a", to=ENDPOINT, port=80, seconds=0.4) == "TimeoutError"

    client.tell(do="connect_until", to=ENDPOINT, port=80, seconds=5)
    await asyncio.sleep(0.1)
    began = time.monotonic()
    await packets.converge(scenes.approve(pending, 1))
    assert client.answer() - began < 0.1

    assert isinstance(client.ask(do="connect", name="b", to=ENDPOINT, port=80), dict)
    assert client.ask(do="talk", name="b") == "echo"
    await packets.converge(pending)
    assert client.ask(do="talk", name="b", seconds=0.4) == "TimeoutError"
    assert client.ask(do="connect", name="c", to=ENDPOINT, port=80, seconds=0.4) == "TimeoutError"
    assert await packets.nat_ports_used() == {Key("/services/1"): {IPv4Address(NAT): 0}}

    gone = replace(pending, endpoints=(replace(pending.endpoints[0], service=None),), services=())
    await packets.converge(gone)
    assert client.ask(do="connect", name="d", to=ENDPOINT, port=80, seconds=0.4) == "TimeoutError"


async def test_revocation_stops_what_the_server_says(packets: Packets, serve: Make, visit: Make) -> None:
    approved = scenes.simple()
    await packets.start(approved)
    server = serve(2, f"{HOST}:8080")
    client = visit(1)
    client.ask(do="connect", name="a", to=ENDPOINT, port=80)
    await packets.converge(scenes.approve(approved, 1, approved=False))
    assert client.ask(do="talk", name="a", seconds=0.3) == "TimeoutError"
    # Approved again, the old flow is not known any more.
    await packets.converge(approved)
    assert client.ask(do="talk", name="a", seconds=1.0) == "ConnectionResetError"
    assert isinstance(client.ask(do="connect", name="b", to=ENDPOINT, port=80), dict)
    assert server is not None


async def test_a_load_balancer_spreads_and_maps_ports(packets: Packets, serve: Make, visit: Make) -> None:
    backends = ("10.0.0.20", "10.0.0.21", "10.0.0.22")
    provider = scenes.network(2, "provider", addresses=tuple(map(IPv4Address, backends)))
    customer = scenes.network(1, "customer")
    its = scenes.service(1, provider, scenes.rule(80, 8080, *backends), scenes.rule(443, 8443, backends[0]))
    await packets.start(Picture((customer, provider), (), (its,), (scenes.endpoint(1, customer, its),)))
    for backend in backends:
        serve(2, f"{backend}:8080", say=backend)
    serve(2, f"{backends[0]}:8443", say="tls")
    client = visit(1)
    seen = {client.ask(do="connect", name=str(one), to=ENDPOINT, port=80)["is"] for one in range(30)}
    assert seen == set(backends)
    assert client.ask(do="connect", name="tls", to=ENDPOINT, port=443)["is"] == "tls"


async def test_rules_of_udp_and_of_all_protocols(packets: Packets, serve: Make, visit: Make) -> None:
    customer, provider = scenes.network(1, "customer"), scenes.network(2, "provider")
    udp = scenes.service(1, provider, scenes.rule(53, 5353, protocol=Protocol.UDP))
    everything = scenes.service(2, provider, scenes.rule(0, 0, protocol=Protocol.ALL), nat=("10.0.0.7", "10.0.0.8"))
    endpoints = (
        scenes.endpoint(1, customer, udp),
        scenes.endpoint(2, customer, everything, address="10.0.0.10"),
    )
    await packets.start(Picture((customer, provider), (), (udp, everything), endpoints))
    serve(2, f"udp:{HOST}:5353", f"{HOST}:7000", say="it")
    client = visit(1)
    assert client.ask(do="udp", to=ENDPOINT, port=53)["sees"][0] == NAT
    assert client.ask(do="udp", to="10.0.0.10", port=5353)["is"] == "it"
    seen = {client.ask(do="connect", name=str(one), to="10.0.0.10", port=7000)["sees"][0] for one in range(4)}
    assert seen == {"10.0.0.7", "10.0.0.8"}
    assert client.ask(do="ping", to=ENDPOINT, seconds=0.3) is False


class TestLimits:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(idle_seconds=2, ports_per_nat_address=5)

    @pytest.mark.parametrize("proxy", [False, True])
    async def test_each_nat_address_has_its_ports(
        self, packets: Packets, serve: Make, visit: Make, proxy: bool
    ) -> None:
        await packets.start(scenes.simple(nat=(NAT, "10.0.0.7"), proxy=proxy))
        serve(2, f"{HOST}:8080", say="header" if proxy else "")
        client = visit(1)
        answers = [client.ask(do="connect", name=str(one), to=ENDPOINT, port=80, seconds=0.5) for one in range(10)]
        assert all(isinstance(answer, dict) for answer in answers), answers
        assert len({tuple(answer["sees"]) for answer in answers}) == 10
        assert await packets.nat_ports_used() == {Key("/services/1"): {IPv4Address(NAT): 5, IPv4Address("10.0.0.7"): 5}}
        assert isinstance(client.ask(do="connect", name="more", to=ENDPOINT, port=80, seconds=0.3), str)
        # What is given back serves again, soon.
        client.ask(do="close", name="0")
        client.ask(do="close", name="1")
        for _ in range(20):
            answer = client.ask(do="connect", name="again", to=ENDPOINT, port=80, seconds=0.3)
            if isinstance(answer, dict):
                break
        assert isinstance(answer, dict)

    @pytest.mark.parametrize("proxy", [False, True])
    async def test_what_is_idle_is_reset(self, packets: Packets, serve: Make, visit: Make, proxy: bool) -> None:
        await packets.start(scenes.simple(proxy=proxy))
        serve(2, f"{HOST}:8080", say="header" if proxy else "")
        client = visit(1)
        client.ask(do="connect", name="idle", to=ENDPOINT, port=80)
        client.ask(do="connect", name="busy", to=ENDPOINT, port=80)
        for _ in range(7):
            await asyncio.sleep(0.5)
            assert client.ask(do="talk", name="busy") == "echo"
        assert client.ask(do="talk", name="idle") in {"ConnectionResetError", "BrokenPipeError"}
        assert client.ask(do="talk", name="busy") == "echo"

    @pytest.mark.parametrize("proxy", [False, True])
    async def test_an_end_that_only_listens_is_reset(
        self, packets: Packets, serve: Make, visit: Make, proxy: bool
    ) -> None:
        await packets.start(scenes.simple(proxy=proxy))
        server = serve(2, f"{HOST}:8080", say="header" if proxy else "")
        client = visit(1)
        client.ask(do="connect", name="a", to=ENDPOINT, port=80)
        client.ask(do="connect", name="b", to=ENDPOINT, port=80)
        began = time.monotonic()
        client.tell(do="listen", name="a", seconds=8)
        # Here is where the lab runs as well.
        assert await asyncio.to_thread(client.answer) == "ConnectionResetError"
        assert 1.5 < time.monotonic() - began < 5
        client.tell(do="listen", name="b", seconds=8)
        assert await asyncio.to_thread(client.answer) == "ConnectionResetError"
        await asyncio.sleep(0.3)
        assert server.ask(do="errors") == ["ConnectionResetError", "ConnectionResetError"]


@pytest.mark.parametrize("proxy", [False, True])
async def test_what_passes_is_counted(packets: Packets, serve: Make, visit: Make, proxy: bool) -> None:
    approved = scenes.simple(proxy=proxy)
    key = approved.endpoints[0].key
    await packets.start(approved)
    serve(2, f"{HOST}:8080", say="header" if proxy else "")
    client = visit(1)
    assert (await packets.counters())[key].connections == 0
    for name in "ab":
        assert isinstance(client.ask(do="connect", name=name, to=ENDPOINT, port=80), dict)
        assert client.ask(do="talk", name=name, size=100_000) == "echo"
    counted = (await packets.counters())[key]
    assert counted.connections == 2
    assert 200_000 < counted.bytes_in < 260_000
    assert 200_000 < counted.bytes_out < 260_000
    # Another endpoint comes, this one is revoked: what was counted stays, and nothing is added.
    more = replace(
        approved,
        endpoints=(
            replace(approved.endpoints[0], is_approved=False),
            scenes.endpoint(2, approved.networks[0], approved.services[0], address="10.0.0.33"),
        ),
    )
    counted = (await packets.counters())[key]
    await packets.converge(more)
    client.ask(do="connect", name="c", to=ENDPOINT, port=80, seconds=0.3)
    client.ask(do="talk", name="a", seconds=0.3)
    assert (await packets.counters())[key].connections == 2
    assert (await packets.counters())[key].bytes_in - counted.bytes_in < 2000


async def test_flows_survive_changes_of_other_things(packets: Packets, serve: Make, visit: Make) -> None:
    before = scenes.simple()
    await packets.start(before)
    serve(2, f"{HOST}:8080")
    client = visit(1)
    client.ask(do="connect", name="a", to=ENDPOINT, port=80)
    third = scenes.network(3, "third", prefix="10.3.0.0/16", host="10.3.0.4")
    its = scenes.service(2, third, scenes.rule(80, 80, "10.3.0.4"), nat=("10.3.0.9",))
    await packets.converge(
        Picture(
            (*before.networks, third),
            (Peering(1, before.networks[0].key, third.key),),
            (*before.services, its),
            (*before.endpoints, scenes.endpoint(2, before.networks[0], its, address="10.0.0.10")),
        )
    )
    assert client.ask(do="talk", name="a") == "echo"
    await packets.converge(before)
    assert client.ask(do="talk", name="a") == "echo"
    assert await packets.look() == []


async def test_peers_reach_each_other_and_endpoints_and_nothing_beyond(
    packets: Packets, serve: Make, visit: Make
) -> None:
    one = scenes.network(1, "one")
    hub = scenes.network(2, "hub", prefix="10.1.0.0/16", host="10.1.0.4", addresses=(IPv4Address("10.1.0.7"),))
    three = scenes.network(3, "three", prefix="10.2.0.0/16", host="10.2.0.4", outbound_address=None)
    provider = scenes.network(4, "provider")
    its = scenes.service(1, provider)
    await packets.start(
        Picture(
            (one, hub, three, provider),
            (Peering(1, one.key, hub.key), Peering(2, hub.key, three.key)),
            (its,),
            (scenes.endpoint(1, hub, its, address="10.1.0.9"),),
        )
    )
    serve(2, "10.1.0.7:7000", say="hub")
    serve(3, "10.2.0.4:7000", say="three")
    serve(4, f"{HOST}:8080", say="service")
    client = visit(1)
    answer = client.ask(do="connect", name="hub", to="10.1.0.7", port=7000)
    assert (answer["is"], answer["sees"][0]) == ("hub", HOST)
    assert client.ask(do="ping", to="10.1.0.7")
    assert client.ask(do="connect", name="service", to="10.1.0.9", port=80)["is"] == "service"
    assert client.ask(do="talk", name="service", size=200_000) == "echo"
    assert visit(3).ask(do="connect", name="hub", to="10.1.0.9", port=80)["is"] == "service"
    assert visit(2).ask(do="connect", name="three", to="10.2.0.4", port=7000)["is"] == "three"
    assert client.ask(do="connect", name="three", to="10.2.0.4", port=7000, seconds=0.4) == "TimeoutError"
    assert not client.ask(do="ping", to="10.2.0.4", seconds=0.3)
    assert not client.ask(do="ping", to="10.1.0.99", seconds=0.3)


async def test_proxy_protocol_names_client_endpoint_and_link(packets: Packets, serve: Make, visit: Make) -> None:
    customers = [scenes.network(number, f"customer-{number}") for number in (1, 2)]
    provider = scenes.network(3, "provider")
    its = scenes.service(1, provider, proxy=True)
    links = (0x10000123, 7)
    endpoints = tuple(
        scenes.endpoint(number, customer, its, link=link)
        for number, (customer, link) in enumerate(zip(customers, links, strict=True))
    )
    await packets.start(Picture((*customers, provider), (), (its,), endpoints))
    serve(3, f"{HOST}:8080", say="header")
    for number, link in enumerate(links, start=1):
        client = visit(number)
        answer = client.ask(do="connect", name="a", to=ENDPOINT, port=80, source=[HOST, 54321])
        assert answer["sees"][0] == NAT
        # 10.0.0.4:54321 to 10.0.0.9:80
        expected = "0d0a0d0a000d0a515549540a" + "21110014" + "0a000004" + "0a000009" + "d431" + "0050" + "ee000501"
        assert answer["head"] == expected + link.to_bytes(4, "little").hex()
        assert client.ask(do="talk", name="a", size=2_000_000, seconds=3) == "echo"
    # Revoked: what lives stops, and nothing new begins; the other one goes on.
    clients = [visit(1), visit(2)]
    for client in clients:
        client.ask(do="connect", name="live", to=ENDPOINT, port=80)
    pending = (replace(endpoints[0], is_approved=False), endpoints[1])
    await packets.converge(Picture((*customers, provider), (), (its,), pending))
    assert clients[0].ask(do="talk", name="live", seconds=0.4) == "TimeoutError"
    assert clients[0].ask(do="connect", name="b", to=ENDPOINT, port=80, seconds=0.4) == "TimeoutError"
    assert clients[1].ask(do="talk", name="live") == "echo"
    await packets.converge(Picture((*customers, provider), (), (its,), endpoints[1:]))
    assert clients[1].ask(do="talk", name="live") == "echo"
    assert await packets.nat_ports_used() == {its.key: {IPv4Address(NAT): 2}}


async def test_twenty_networks_and_fifty_endpoints(packets: Packets, serve: Make, visit: Make) -> None:
    customers = [scenes.network(number, f"customer-{number}") for number in range(1, 20)]
    provider = scenes.network(20, "provider")
    its = scenes.service(1, provider)
    many = [
        scenes.endpoint(number, customers[0], its, address=str(IPv4Address("10.0.0.16") + number))
        for number in range(50)
    ]
    others = [scenes.endpoint(50 + one.number, one, its) for one in customers[1:]]
    began = time.monotonic()
    await packets.start(Picture((*customers, provider), (), (its,), (*many, *others)))
    assert time.monotonic() - began < 5
    serve(20, f"{HOST}:8080", say="it")
    client = visit(1)
    for one in many:
        assert client.ask(do="connect", name="a", to=str(one.address), port=80)["is"] == "it"
    for number in (2, 19):
        assert visit(number).ask(do="connect", name="a", to=ENDPOINT, port=80)["is"] == "it"
    counted = await packets.counters()
    assert [counted[one.key].connections for one in many] == [1] * 50
