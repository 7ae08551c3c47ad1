"""From any picture to any other on the real machine: what follows in small steps is what would be made from nothing."""

import random
from ipaddress import IPv4Address

import pytest

from isthmus.lab.packets import observing
from isthmus.lab.packets.following import Packets
from isthmus.lab.picture import Frontend, Peering, Picture, Record, Zone
from network.lab import scenes

CHANGES = 8


def anything(chance: random.Random) -> Picture:
    """Few numbers and names, so that things come, go and change."""
    networks = tuple(
        scenes.network(
            number,
            chance.choice([f"{number}", f"{number}", f"{number}-another"]),
            prefix=f"10.{number}.0.0/16",
            host=chance.choice([f"10.{number}.0.4", f"10.{number}.0.5"]),
            addresses=tuple(IPv4Address(f"10.{number}.1.{one}") for one in chance.sample(range(9), 3)),
            outbound_address=chance.choice([None, IPv4Address(f"203.0.113.{130 + number}")]),
            public_addresses={IPv4Address(f"10.{number}.1.1"): IPv4Address(f"203.0.113.{20 + number}")}
            if chance.random() < 0.3
            else {},
            frontends=tuple(
                Frontend(address, public, (scenes.rule(80, chance.choice([8080, 9090]), f"10.{number}.1.1"),))
                for address, public in (
                    (IPv4Address(f"10.{number}.2.1"), False),
                    (IPv4Address(f"203.0.113.{40 + number}"), True),
                )
                if chance.random() < 0.4
            ),
            zones=(Zone("z.test", chance.random() < 0.5, (Record("a", "A", 10, ("10.9.9.9",)),)),)
            if chance.random() < 0.4
            else (),
        )
        for number in sorted(chance.sample(range(1, 6), chance.randint(1, 5)))
    )
    services = tuple(
        scenes.service(
            number,
            of := chance.choice(networks),
            scenes.rule(80, 8080, f"10.{of.number}.0.4"),
            nat=tuple(f"10.{of.number}.3.{one}" for one in range(1, chance.randint(2, 4))),
            proxy=chance.random() < 0.3,
        )
        for number in chance.sample(range(4), chance.randint(0, 3))
    )
    endpoints = tuple(
        scenes.endpoint(
            number,
            of := chance.choice(networks),
            chance.choice((None, *services)),
            address=f"10.{of.number}.4.{number}",
            approved=chance.random() < 0.6,
        )
        for number in chance.sample(range(5), chance.randint(0, 4))
    )
    pairs = [(one.key, other.key) for one in networks for other in networks if one.number < other.number]
    peerings = tuple(Peering(place, *pair) for place, pair in enumerate(chance.sample(pairs, min(len(pairs), 2))))
    return Picture(networks, peerings, services, endpoints)


@pytest.mark.parametrize("seed", range(3))
async def test_after_any_change_there_is_nothing_to_repair(
    packets: Packets, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    await packets.start(Picture())
    for _ in range(CHANGES):
        with monkeypatch.context() as patch:
            patch.delattr(observing, "observe")  # a change that has to look first has failed
            await packets.converge(anything(chance))
        assert await packets.look() == []
