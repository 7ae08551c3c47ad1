"""Deployments and links come and go under load, and no request fails.

The clients are stricter than any of ours: a connection that is closed without having been announced
(``Connection: close``) fails the test, also when nothing had been sent on it yet.
"""

import asyncio
import json
import struct
from collections import Counter
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network

from tests.integration.control.conftest import (
    CLUSTER,
    LOOPBACK,
    SIGNATURE,
    Books,
    Entrance,
    Pki,
    deployment,
    get,
    serving,
)

from isthmus.control.ingress.config import IngressConfig
from isthmus.control.ingress.following import Ingress
from isthmus.control.ingress.pictures import IngressPicture, LinkEntrance
from isthmus.control.ingress.rendering import Files, render
from isthmus.control.ingress.running import Haproxy
from isthmus.kit.clocks import SystemClock
from isthmus.kit.health import Health

HEADER = SIGNATURE + struct.pack(">BBH", 0x21, 0x11, 20) + bytes(12) + b"\xee\x00\x05\x01" + struct.pack("<I", 4711)


@dataclass
class Load:
    """What clients have seen."""

    entrance: Entrance
    answered: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    over: bool = False

    async def keep_asking(self, kind: str, path: str, *, link: bool, pause: float = 0.0) -> None:
        """Ask again and again on one connection for as long as the ingress keeps it."""
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self.over:
            try:
                async with asyncio.timeout(15):
                    if connection is None:
                        before, port = (HEADER, None) if link else (b"", self.entrance.config.listen_port)
                        connection = await self.entrance.connect(before, port=port)
                    keeps = await self._ask(connection, path, "4711" if link else None)
                self.answered[kind] += 1
            except (OSError, EOFError, AssertionError, ValueError) as error:
                self.failed.append(f"{kind}: {error!r}")
                keeps = False
            if not keeps and connection is not None:
                connection[1].close()
                connection = None
            await asyncio.sleep(pause)
        if connection is not None:
            connection[1].close()

    async def _ask(
        self, connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], path: str, link: str | None
    ) -> bool:
        reader, writer = connection
        writer.write(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000\r\n\r\n".encode())
        writer.write(bytes(2000))
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        body = await reader.readexactly(int(headers["content-length"]))
        assert " 200 " in head[0] + " ", (head[0], body)
        seen = json.loads(body)
        assert seen["bytes"] == 2000
        assert dict(seen["headers"]).get("isthmus-link-id") == link
        return headers.get("connection") != "close"


async def test_no_request_fails_while_deployments_and_links_come_and_go(entrance: Entrance) -> None:
    books, ingress = entrance.books, entrance.ingress
    async with deployment("daaaaaaa", entrance.pki) as one, deployment("dbbbbbbb", entrance.pki) as other:
        books.lead("daaaaaaa", one)
        await entrance.until(1)
        await asyncio.sleep(0.5)
        load = Load(entrance)
        path = "/daaaaaaa/agent/v1/claims"
        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(load.keep_asking("short", path, link=number % 2 == 0, pause=0.005))
                group.create_task(load.keep_asking("long poll", f"{path}?seconds=1.5", link=number % 2 == 0))
                group.create_task(load.keep_asking("rare", path, link=number % 2 == 0, pause=1.1))
            for number in range(10):
                before = ingress.reloads
                match number % 4:
                    case 0:
                        books.lead("dbbbbbbb", other)
                    case 1:
                        networks = (LOOPBACK, IPv4Network(f"10.{number}.0.0/16"))
                        books.current = replace(books.current, link=LinkEntrance(networks))
                    case 2:
                        books.lead("dbbbbbbb")
                    case _:
                        entrance.pki.issue("ingress", "localhost", f"renewed-{number}")
                await entrance.until(before + 1)
                await asyncio.sleep(0.3)
            await asyncio.sleep(2.0)
            load.over = True
        assert load.failed == []
        assert ingress.reloads >= 11
        assert load.answered["short"] > 500
        assert load.answered["long poll"] >= 8
        async with asyncio.timeout(entrance.config.drain_seconds + 5):
            while len(await ingress.workers()) > 1:
                await asyncio.sleep(0.1)


async def test_an_haproxy_that_was_left_behind_is_taken_over_from(ingress_config: IngressConfig, pki: Pki) -> None:
    """As after a SIGKILL of the ingress, which leaves HAProxy running."""
    books = Books(IngressPicture(CLUSTER))
    books.link()
    certificate = ingress_config.certificate.read_bytes() + ingress_config.private_key.read_bytes()
    left = Haproxy("haproxy", Files(ingress_config.home))
    await left.apply(render(books.current, ingress_config), certificate)
    async with deployment("daaaaaaa", pki) as port:
        books.lead("daaaaaaa", port)
        refused: list[str] = []
        over = False

        async def keep_knocking(entrance: Entrance) -> None:
            while not over:
                try:
                    assert b"404 page not found" in await entrance.ask(get("/"), port=ingress_config.listen_port)
                except (OSError, AssertionError) as error:
                    refused.append(repr(error))
                await asyncio.sleep(0.005)

        clock = SystemClock()
        health = Health(clock)
        knocking = asyncio.create_task(
            keep_knocking(Entrance(ingress_config, books, health, Ingress(ingress_config, books, health, clock), pki))
        )
        async with serving(ingress_config, books, pki) as entrance:
            assert await asyncio.wait_for(left.wait(), 20) == 0
            async with asyncio.timeout(10):
                while b"200 OK" not in await entrance.ask(
                    get("/daaaaaaa/agent/v1/claims"), port=ingress_config.listen_port
                ):
                    await asyncio.sleep(0.05)
            over = True
            await knocking
        assert refused == []
