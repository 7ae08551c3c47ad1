"""The lab's packets: what an endpoint costs beside the same path without translation, and how fast they follow.

``make bench-lab``. Five rounds, each of which takes both paths in turn; medians count. Needs root; everything is in
namespaces that are gone afterwards. Results: ``bench/lab_results.json``.
"""

import argparse
import asyncio
import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, Final

from isthmus.lab.ids import Key
from isthmus.lab.packets import addressing, following
from isthmus.lab.packets.following import Packets
from isthmus.lab.picture import Endpoint, Frontend, Network, Picture, Protocol, Rule, Service

RESULTS: Final = Path(__file__).with_name("lab_results.json")

_CLIENT: Final = IPv4Address("10.0.0.4")
_SERVER: Final = IPv4Address("10.1.0.4")
_ENDPOINT: Final = IPv4Address("10.0.0.9")
_PORT: Final = 8080
_CHUNK: Final = 1 << 20
_WARM_UP: Final = 200

#: Figure, unit, what it has to be.
BARS: Final = {
    "throughput_ratio": ("", "at least 0.6"),
    "round_trip_difference_us": ("µs", "at most 15"),
    "approval_ms": ("ms", "at most 100"),
}


# --- the two ends of a path ------------------------------------------------------------------------------------------


def _serve(address: str) -> None:
    """Swallow or echo, as the first byte says."""
    listener = socket.create_server((address, _PORT))
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            if connection.recv(1) == b"s":
                _settle_on(1)
                buffer = bytearray(_CHUNK)
                while connection.recv_into(buffer):
                    pass
            else:
                _settle_on(0)
                while said := connection.recv(1):
                    connection.sendall(said)


def _settle_on(core: int) -> None:
    """Stay on one core: streams want two, and a byte's way would mostly be the waking of the other one."""
    os.sched_setaffinity(0, {core % (os.cpu_count() or 1)})


def _measure(address: str, seconds: float) -> dict[str, float]:
    _settle_on(0)
    with socket.create_connection((address, _PORT), timeout=10) as connection:
        connection.sendall(b"s")
        chunk = bytes(_CHUNK)
        began, sent = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            connection.sendall(chunk)
            sent += _CHUNK
        throughput = sent * 8 / (time.perf_counter() - began) / 1e9
    trips = []
    with socket.create_connection((address, _PORT), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b"e")
        began = time.perf_counter()
        while (now := time.perf_counter()) - began < seconds / 2:
            connection.sendall(b"x")
            connection.recv(1)
            trips.append(time.perf_counter() - now)
    connects = []
    for _ in range(_WARM_UP):
        now = time.perf_counter()
        with socket.create_connection((address, _PORT), timeout=10):
            connects.append(time.perf_counter() - now)
    return {
        "gigabits_per_s": throughput,
        "round_trip_us": statistics.median(trips[_WARM_UP:]) * 1e6,
        "connect_us": statistics.median(connects) * 1e6,
    }


def _connect_until(address: str) -> float:
    """When the first connection was there, by the monotonic clock that all processes share."""
    print("ready", flush=True)
    while True:
        with socket.socket() as one:
            one.settimeout(0.01)
            try:
                one.connect((address, 80))
            except OSError:
                continue
            return time.monotonic()


def _start(namespace: str, *arguments: str) -> subprocess.Popen[str]:
    words = ["nsenter", f"--net=/run/netns/{namespace}", sys.executable, "-m", "bench.lab_paths", *arguments]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


# --- pictures ---------------------------------------------------------------------------------------------------------


def _network(number: int, prefix: str, host: IPv4Address) -> Network:
    return Network(Key(f"/networks/{number}"), f"n{number}", number, (IPv4Network(prefix),), host)


def _pictured(approved: bool = True) -> Picture:
    customer, provider = _network(1, "10.0.0.0/24", _CLIENT), _network(2, "10.1.0.0/24", _SERVER)
    frontend = Frontend(
        IPv4Address("10.1.0.6"),
        False,
        (Rule(Protocol.TCP, _PORT, _PORT, (_SERVER,)), Rule(Protocol.TCP, 80, _PORT, (_SERVER,))),
    )
    service = Service(Key("/services/1"), 1, provider.key, (IPv4Address("10.1.0.5"),), frontend)
    endpoint = Endpoint(Key("/endpoints/1"), 1, customer.key, _ENDPOINT, service.key, approved, 1)
    return Picture((customer, provider), (), (service,), (endpoint,))


def _many(networks: int, endpoints: int) -> Picture:
    """``endpoints`` in the first network, to a service in the second."""
    base = _pictured()
    more = tuple(_network(number, "10.0.0.0/16", _CLIENT) for number in range(3, networks + 1))
    its = tuple(
        replace(base.endpoints[0], key=Key(f"/endpoints/{one}"), number=one, address=IPv4Address("10.0.0.16") + one)
        for one in range(1, endpoints + 1)
    )
    return replace(base, networks=(*base.networks, *more), endpoints=its)


@contextmanager
def _routed(lab: addressing.LabId) -> Iterator[tuple[str, str]]:
    """Client, router, server, and nothing but routes between them: what an endpoint is compared with."""
    client, router, server = (f"{addressing.namespace_prefix(lab)}{name}" for name in ("client", "router", "server"))

    def ip(namespace: str, *commands: str) -> None:
        words = ["ip", *(("-n", namespace) if namespace else ()), "-batch", "-"]
        subprocess.run(words, input="\n".join((*commands, "")), text=True, check=True)

    try:
        ip("", *(f"netns add {name}" for name in (client, router, server)))
        for name, address, to in ((client, _CLIENT, "c"), (server, _SERVER, "s")):
            ip(router, f"link add {to} type veth peer name out netns {name}", f"link set {to} up")
            ip(router, f"addr add 169.254.{ord(to)}.1/30 dev {to}", f"route add {address} via 169.254.{ord(to)}.2")
            ip(name, "link set lo up", "link set out up", f"addr add {address}/32 dev lo")
            ip(name, f"addr add 169.254.{ord(to)}.2/30 dev out")
            ip(name, f"route add default via 169.254.{ord(to)}.1 src {address}")
        forward = ["nsenter", f"--net=/run/netns/{router}", "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]
        subprocess.run(forward, check=True)
        yield client, server
    finally:
        following.remove(lab)


# --- what is measured -------------------------------------------------------------------------------------------------


async def _paths(rounds: int, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    lab, plain = (addressing.lab_id(f"b{secrets.token_hex(3)}") for _ in range(2))
    packets = Packets(lab)
    found: dict[str, list[dict[str, float]]] = {"routed": [], "endpoint": []}
    servers = []
    try:
        await packets.start(_pictured())
        with _routed(plain) as (client, server):
            servers = [
                _start(server, "--serve", str(_SERVER)),
                _start(addressing.network(lab, 2), "--serve", str(_SERVER)),
            ]
            for one in servers:
                assert _line(one) == "ready"
            ways = {
                "routed": (client, str(_SERVER)),
                "endpoint": (addressing.network(lab, 1), str(_ENDPOINT)),
            }
            for place in range(rounds):
                for name in list(ways)[:: 1 if place % 2 else -1]:
                    namespace, address = ways[name]
                    measured = _start(namespace, "--measure", address, "--seconds", str(seconds))
                    found[name].append(json.loads(_line(measured)))
                    measured.wait()
                say(f"round {place + 1} of {rounds}")
            for one in servers:
                one.kill()
                one.wait()
    finally:
        for one in servers:
            one.kill()
            one.wait()
        await packets.stop()
    return found


async def _approvals(times: int) -> list[float]:
    """Milliseconds from the wish to the first connection, by a client that tries all the time."""
    lab = addressing.lab_id(f"b{secrets.token_hex(3)}")
    packets = Packets(lab)
    taken = []
    try:
        await packets.start(_pictured(approved=False))
        server = _start(addressing.network(lab, 2), "--serve", str(_SERVER))
        assert _line(server) == "ready"
        for _ in range(times):
            client = _start(addressing.network(lab, 1), "--until", str(_ENDPOINT))
            assert _line(client) == "ready"
            await asyncio.sleep(0.1)
            began = time.monotonic()
            await packets.converge(_pictured())
            taken.append((float(await asyncio.to_thread(_line, client)) - began) * 1000)
            client.wait()
            await packets.converge(_pictured(approved=False))
        server.kill()
        server.wait()
    finally:
        await packets.stop()
    return taken


async def _converging(times: int) -> dict[str, list[float]]:
    """Milliseconds of changes."""
    taken: dict[str, list[float]] = {}

    async def timed(name: str, act: Any) -> None:
        began = time.monotonic()
        await act
        taken.setdefault(name, []).append((time.monotonic() - began) * 1000)

    for _ in range(times):
        lab = addressing.lab_id(f"b{secrets.token_hex(3)}")
        packets = Packets(lab)
        try:
            await packets.start(Picture())
            await timed("20 networks and 50 endpoints at once", packets.converge(_many(20, 50)))
            await timed("one more endpoint", packets.converge(_many(20, 51)))
            await timed("one more network", packets.converge(_many(21, 51)))
            await timed("a look at all of it", packets.look())
            await packets.close()
            packets = Packets(lab)
            await timed("start, with all of it there", packets.start(_many(21, 51)))
            await timed("removal of all of it", packets.stop())
        finally:
            await asyncio.to_thread(following.remove, lab)
    return taken


def _medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


async def _bench(rounds: int, seconds: float) -> dict[str, Any]:
    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    paths = await _paths(rounds, seconds, say)
    routed, endpoint = _medians(paths["routed"]), _medians(paths["endpoint"])
    approvals = await _approvals(rounds)
    say("approvals")
    converging = await _converging(rounds)
    return {
        "figures": {
            "throughput_ratio": endpoint["gigabits_per_s"] / routed["gigabits_per_s"],
            "round_trip_difference_us": endpoint["round_trip_us"] - routed["round_trip_us"],
            "approval_ms": statistics.median(approvals),
        },
        "medians": {"routed": routed, "endpoint": endpoint},
        "converging_ms": {name: statistics.median(values) for name, values in converging.items()},
        "runs": {**paths, "approvals_ms": approvals, "converging_ms": converging},
        "machine": {"cores": os.cpu_count(), "kernel": os.uname().release},
    }


def _show(found: dict[str, Any]) -> None:
    for path, figures in found["medians"].items():
        print(f"{path:10}" + "".join(f"  {name} {value:.1f}" for name, value in figures.items()))
    for name, value in found["converging_ms"].items():
        print(f"{name:40} {value:8.0f} ms")
    for name, (unit, bar) in BARS.items():
        print(f"{name:40} {found['figures'][name]:8.2f} {unit} ({bar})")


def main() -> None:
    """Measure, or be one end of what is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    for end in ("--serve", "--measure", "--until"):
        parser.add_argument(end, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        _serve(given.serve)
    elif given.measure:
        print(json.dumps(_measure(given.measure, given.seconds)), flush=True)
    elif given.until:
        print(_connect_until(given.until), flush=True)
    else:
        found = asyncio.run(_bench(given.rounds, given.seconds))
        RESULTS.write_text(json.dumps(found, indent=2) + "\n")
        _show(found)


if __name__ == "__main__":
    main()
