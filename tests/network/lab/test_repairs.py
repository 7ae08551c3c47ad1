"""What is broken by hand, by a signal or by a crash comes back, and is told."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from isthmus.lab.ids import Key
from isthmus.lab.packets import addressing, following, namespaces, planning
from isthmus.lab.packets.addressing import LabId
from isthmus.lab.packets.following import Packets
from isthmus.lab.picture import Peering, Picture, Record, Zone
from network.lab import scenes
from network.lab.programs import Program
from network.lab.scenes import ENDPOINT, HOST

Make = Callable[..., Program]

OUTBOUND = IPv4Address("203.0.113.130")
NAMED = (Zone("external.test", False, (Record("c1", "A", 300, ("10.0.0.9",)),)),)


def whole(*, approved: bool = True, proxy: bool = False) -> Picture:
    """A bit of everything."""
    simple = scenes.simple(approved=approved, proxy=proxy)
    customer, provider = simple.networks
    peer = scenes.network(
        3, "peer", prefix="10.1.0.0/16", host="10.1.0.4", outbound_address=IPv4Address("203.0.113.130")
    )
    return replace(
        simple,
        networks=(replace(customer, zones=NAMED), provider, peer),
        peerings=(Peering(1, customer.key, peer.key),),
    )


def in_namespace(namespace: str, *command: str) -> str:
    words = ["nsenter", f"--net=/run/netns/{namespace}", *command]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def processes_in(namespace: str) -> dict[int, str]:
    """The command lines of what runs in a namespace, by pid."""
    wanted = (namespaces.DIRECTORY / namespace).stat().st_ino
    found = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdecimal() and (entry / "ns/net").stat().st_ino == wanted:
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
    return found


def only_process(namespace: str, command: str) -> int:
    """The pid of the one that has ``command`` in its command line."""
    (found,) = (pid for pid, line in processes_in(namespace).items() if command in line)
    return found


async def test_a_killed_resolver_is_started_again(packets: Packets, lab: LabId, visit: Make) -> None:
    await packets.start(whole())
    customer = addressing.network(lab, 1)
    os.kill(only_process(customer, "dnsmasq"), signal.SIGKILL)
    await asyncio.sleep(0.05)
    assert await packets.look() == [f"started the resolver of {customer} again"]
    assert visit(1).ask(do="dns", name="c1.external.test")[1][0][3] == "10.0.0.9"
    assert await packets.look() == []


async def test_a_killed_relay_is_started_again(packets: Packets, lab: LabId, serve: Make, visit: Make) -> None:
    await packets.start(whole(proxy=True))
    serve(2, f"{HOST}:8080", say="header")
    os.kill(only_process(addressing.fabric(lab), "relaying"), signal.SIGKILL)
    await asyncio.sleep(0.1)
    assert await packets.look() == ["started the relay again"]
    assert isinstance(visit(1).ask(do="connect", name="a", to=ENDPOINT, port=80), dict)


@pytest.mark.parametrize("victim", ["fabric", "internet", "n1", "n2", "n3"])
async def test_a_deleted_namespace_is_made_again(
    packets: Packets, lab: LabId, serve: Make, visit: Make, victim: str
) -> None:
    await packets.start(whole())
    serve(2, f"{HOST}:8080")
    visit(1).ask(do="connect", name="a", to=ENDPOINT, port=80)
    counted = await packets.counters()
    name = f"isthmus-lab-{lab}-{victim}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    repairs = await packets.look()
    assert f"made the namespace {name}, which was missing" in repairs
    assert await packets.look() == []
    serve(2, "10.0.0.4:8080" if victim == "n2" else "udp:10.0.0.4:8080", "10.0.0.4:9000")
    client = visit(1)
    assert isinstance(client.ask(do="connect", name="a", to=ENDPOINT, port=80), dict)
    assert client.ask(do="ping", to="10.1.0.4")
    assert client.ask(do="dns", name="c1.external.test")[1][0][3] == "10.0.0.9"
    assert client.ask(do="dns", name="nobody.test")[0] == "NXDOMAIN"
    assert (await packets.counters())[Key("/endpoints/1")].connections == 1 + counted[Key("/endpoints/1")].connections


DAMAGE = {
    "flushed ruleset": ("fabric", "nft", "flush", "ruleset"),
    "flushed table": ("fabric", "nft", "flush", "table", "ip", "lab"),
    "flushed rules of a network": ("n1", "nft", "flush", "ruleset"),
    "flushed set": ("fabric", "nft", "flush", "map", "ip", "lab", "roads"),
    "deleted link": ("fabric", "ip", "link", "del", "n2"),
    "link that is down": ("n1", "ip", "link", "set", "fabric", "down"),
    "flushed routes": ("fabric", "ip", "route", "flush", "table", "10018"),
    "deleted rule": ("fabric", "ip", "rule", "del", "priority", "1000"),
    "deleted address": ("n2", "ip", "addr", "del", "10.0.0.4/32", "dev", "lo"),
    "deleted neighbour": ("n1", "ip", "neigh", "flush", "dev", "fabric", "nud", "permanent"),
    "sysctl": ("fabric", "sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"),
    "stray address": ("n1", "ip", "addr", "add", "10.0.0.9/32", "dev", "lo"),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_what_is_changed_by_hand_is_set_right(
    packets: Packets, lab: LabId, serve: Make, visit: Make, damage: str
) -> None:
    await packets.start(whole())
    where, *command = DAMAGE[damage]
    in_namespace(f"isthmus-lab-{lab}-{where}", *command)
    repairs = await packets.look()
    assert 1 <= len(repairs) <= 5, repairs
    assert all(f"isthmus-lab-{lab}" in words for words in repairs)
    assert await packets.look() == []
    serve(2, f"{HOST}:8080")
    client = visit(1)
    assert isinstance(client.ask(do="connect", name="a", to=ENDPOINT, port=80), dict)


async def test_a_start_keeps_what_is_as_it_should_be(packets: Packets, lab: LabId, serve: Make, visit: Make) -> None:
    await packets.start(whole())
    serve(2, f"{HOST}:8080")
    client = visit(1)
    client.ask(do="connect", name="a", to=ENDPOINT, port=80)
    counted = await packets.counters()
    await packets.close()
    again = Packets(lab)
    try:
        assert await again.start(whole()) == []
        assert client.ask(do="talk", name="a") == "echo"
        assert client.ask(do="dns", name="c1.external.test")[1][0][3] == "10.0.0.9"
        after = await again.counters()
        assert after[Key("/endpoints/1")].connections == counted[Key("/endpoints/1")].connections == 1
        await again.close()
        # What was revoked while nobody looked is closed, with its flows.
        again = Packets(lab)
        assert await again.start(whole(approved=False)) != []
        assert client.ask(do="talk", name="a", seconds=0.3) == "TimeoutError"
    finally:
        await again.close()


async def test_a_network_with_an_old_ones_number_has_nothing_of_it(
    packets: Packets, lab: LabId, serve: Make, visit: Make
) -> None:
    before = whole()
    await packets.start(before)
    serve(2, f"{HOST}:8080")
    server_s = only_process(addressing.network(lab, 2), "programs.py")
    other = replace(before.networks[1], key=Key("/networks/other"))
    await packets.converge(
        replace(
            before,
            networks=(before.networks[0], other, before.networks[2]),
            services=(),
            endpoints=before.endpoints[:0],
        )
    )
    there = processes_in(addressing.network(lab, 2))
    assert [line.split()[0] for line in there.values()] == ["dnsmasq"]
    assert not Path(f"/proc/{server_s}/exe").exists()
    assert await packets.look() == []


async def test_nothing_is_left(packets: Packets, lab: LabId, visit: Make) -> None:
    interfaces = subprocess.run(["ip", "link"], check=True, capture_output=True, text=True).stdout
    await packets.start(whole(proxy=True))
    visit(1)
    assert subprocess.run(["ip", "link"], check=True, capture_output=True, text=True).stdout == interfaces
    await packets.stop()
    _assert_gone(lab)


# --- killed at every step ---------------------------------------------------------------------------------------------


def changes() -> list[Picture]:
    """What happens in a lab's life, each to be killed in."""
    first = whole(approved=False)
    added = scenes.network(4, "fourth", prefix="10.4.0.0/16", host="10.4.0.4")
    second = Peering(2, added.key, first.networks[0].key)
    return [
        first,
        whole(),
        replace(whole(), networks=(*first.networks, added), peerings=(*first.peerings, second)),
        whole(proxy=True),
        replace(whole(), services=(), endpoints=()),
        replace(whole(), networks=whole().networks[1:], peerings=(), endpoints=()),
    ]


def _points() -> Iterator[tuple[int, int]]:
    """Each stage of each change."""
    return ((change, stage) for change in range(len(changes())) for stage in planning.Stage)


@pytest.mark.parametrize(("change", "stage"), list(_points()))
def test_killed_in_a_change_the_next_start_converges(lab: LabId, change: int, stage: int) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, lab, str(change), str(stage)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert child.wait(20) in {-signal.SIGKILL, 0}
    finally:
        child.kill()

    async def recover() -> None:
        packets = Packets(lab)
        try:
            await packets.start(changes()[change])
            assert await packets.look() == []
        finally:
            await packets.close()

    asyncio.run(recover())
    following.remove(lab)
    _assert_gone(lab)


_CHILD = """
import asyncio, os, signal, sys
from network.lab import test_repairs as repairs
from isthmus.lab.packets.following import Packets

lab, change, stage = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
armed = False

def watch(its, namespace):
    if armed and its == stage:
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    global armed
    packets = Packets(lab, watch=watch)
    pictures = repairs.changes()
    armed = change == 0
    await packets.start(pictures[0])
    for one in range(1, change + 1):
        armed = one == change
        await packets.converge(pictures[one])
    await packets.close()

asyncio.run(main())
"""


def _assert_gone(lab: LabId) -> None:
    assert namespaces.of_lab(lab) == []
    assert not list(namespaces.FILES.glob(f"isthmus-lab-{lab}-*")) if namespaces.FILES.exists() else True
    deadline = time.monotonic() + 2
    while left := _processes_of(lab):
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


def _processes_of(lab: LabId) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if f"isthmus-lab-{lab}".encode() in (entry / "environ").read_bytes():
                found.append(entry.name)
        except OSError:
            continue
    return found


async def test_removal_needs_no_state_and_ends_what_was_left(lab: LabId) -> None:
    packets = Packets(lab)
    await packets.start(whole(proxy=True))
    shell = subprocess.Popen(["nsenter", f"--net=/run/netns/{addressing.network(lab, 1)}", "sleep", "60"])
    orphan = subprocess.Popen(["sleep", "60"], env={**os.environ, namespaces.VARIABLE: addressing.network(lab, 2)})
    following.remove(lab)
    assert shell.wait(5) == orphan.wait(5) == -signal.SIGKILL
    _assert_gone(lab)
    await packets.close()
