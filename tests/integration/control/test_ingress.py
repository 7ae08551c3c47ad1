"""The ingress with a real HAProxy: routes, headers, the link's entrance, refusals."""

import asyncio
import json
import os
import struct
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
from tests.integration.control.conftest import (
    CLUSTER,
    SIGNATURE,
    Books,
    Entrance,
    Pki,
    deployment,
    get,
    serving,
)

from isthmus.control.ingress.config import IngressConfig
from isthmus.control.ingress.following import NOT_IN_FORCE, REGISTRY_AWAY
from isthmus.control.ingress.pictures import IngressPicture
from isthmus.kit.errors import ConfigError

#: Azure's own example: 10.10.0.4:54321 to 10.10.0.5:443, link 0x10000123 (private-link facts, 1.4).
AZURE_HEADER = bytes.fromhex("0d0a0d0a000d0a515549540a211100140a0a00040a0a0005d43101bbee0005" + "0123010010")
LINK_ID = 0x10000123


def header(*tlvs: bytes, command: int = 0x21, family: int = 0x11, addresses: bytes | None = None) -> bytes:
    block = (bytes.fromhex("0a0a00040a0a0005d43101bb") if addresses is None else addresses) + b"".join(tlvs)
    return SIGNATURE + struct.pack(">BBH", command, family, len(block)) + block


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack(">BH", kind, len(value)) + value


def link(number: int) -> bytes:
    return tlv(0xEE, b"\x01" + struct.pack("<I", number))


def parts(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, body


def seen(answer: bytes) -> dict[str, Any]:
    status, _, body = parts(answer)
    assert status == 200, answer
    found: dict[str, Any] = json.loads(body)
    found["all"] = found["headers"]
    found["headers"] = dict(found["headers"])
    return found


async def leads(entrance: Entrance, deployment_id: str, *ports: int) -> None:
    entrance.books.lead(deployment_id, *ports)
    await entrance.until(entrance.ingress.reloads + 1)
    async with asyncio.timeout(10):  # its first check has to pass
        while b" 503 " in await entrance.ask(get(f"/{deployment_id}/execution/"), port=entrance.config.listen_port):
            await asyncio.sleep(0.05)


async def test_each_deployment_has_its_two_prefixes_and_everything_else_is_not_found(entrance: Entrance) -> None:
    public = entrance.config.listen_port
    async with deployment("daaaaaaa", entrance.pki) as one, deployment("dbbbbbbb", entrance.pki) as other:
        await leads(entrance, "daaaaaaa", one)
        await leads(entrance, "dbbbbbbb", other)
        for path, who in (
            ("/daaaaaaa/agent/v1/claims", "daaaaaaa"),
            ("/daaaaaaa/execution/task-instances/x?y=1", "daaaaaaa"),
            ("/dbbbbbbb/agent/v1", "dbbbbbbb"),
            ("/dbbbbbbb/execution", "dbbbbbbb"),
        ):
            found = seen(await entrance.ask(get(path), port=public))
            assert (found["deployment"], found["path"]) == (who, path.partition("?")[0])
        for path in (
            "/",
            "/healthz",
            "/metrics",
            "/daaaaaaa",
            "/daaaaaaa/",
            "/daaaaaaa/admin/v1/tokens",
            "/daaaaaaa/agent/v2/claims",
            "/daaaaaaa/agent/v1x",
            "/daaaaaaa/executions",
            "/dcccccca/agent/v1/claims",
            "/not_found/agent/v1/claims",
            "/deployment_daaaaaaa/agent/v1/",
            "//daaaaaaa/agent/v1/claims",
            "/x/daaaaaaa/agent/v1/claims",
        ):
            for authorization in ((), ("Authorization: Bearer isthmus_daaaaaaa_x",)):
                status, headers, body = parts(await entrance.ask(get(path, *authorization), port=public))
                assert (status, body) == (404, b"404 page not found\n"), path
                assert headers["content-type"].startswith("text/plain")


async def test_what_strangers_say_of_their_origin_is_not_passed_on(entrance: Entrance) -> None:
    async with deployment("daaaaaaa", entrance.pki) as port:
        await leads(entrance, "daaaaaaa", port)
        lies = (
            "X-Forwarded-For: 10.0.0.1",
            "X-Forwarded-For: 10.0.0.2",
            "x-forwarded-for: 10.0.0.3",
            "Forwarded: for=10.0.0.4",
            "X-Real-IP: 10.0.0.5",
            "X-Forwarded-Host: elsewhere",
            "Isthmus-Link-Id: 7",
            "isthmus-link-id: 8",
            "Connection: X-Forwarded-For, Isthmus-Link-Id",
        )
        request = get("/daaaaaaa/agent/v1/claims", *lies)
        found = seen(await entrance.ask(request, port=entrance.config.listen_port))
        assert [value for name, value in found["all"] if name == "x-forwarded-for"] == ["127.0.0.1"]
        assert not {"forwarded", "x-real-ip", "isthmus-link-id", "x-forwarded-host"} & set(found["headers"])
        found = seen(await entrance.ask(request, AZURE_HEADER))
        assert [value for name, value in found["all"] if name == "x-forwarded-for"] == ["127.0.0.1"]
        assert [value for name, value in found["all"] if name == "isthmus-link-id"] == [str(LINK_ID)]


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (AZURE_HEADER, LINK_ID),
        (header(link(0)), 0),
        (header(link(4294967295)), 4294967295),
        (header(tlv(0x03, b"\1\2\3\4"), tlv(0xEE, b"\x02zzzz"), link(77), tlv(0x04, bytes(40))), 77),
        (header(tlv(0x05, b"not ours"), link(5)), 5),
        (header(link(9), family=0x21, addresses=bytes(36)), 9),
    ],
)
async def test_the_links_id_reaches_the_deployment(entrance: Entrance, before: bytes, expected: int) -> None:
    async with deployment("daaaaaaa", entrance.pki) as port:
        await leads(entrance, "daaaaaaa", port)
        found = seen(await entrance.ask(get("/daaaaaaa/agent/v1/claims"), before))
        assert found["headers"]["isthmus-link-id"] == str(expected)


async def test_a_header_in_pieces_is_read_and_every_request_of_a_connection_is_the_links(entrance: Entrance) -> None:
    async with deployment("daaaaaaa", entrance.pki) as port:
        await leads(entrance, "daaaaaaa", port)
        reader, writer = await entrance.connect(tls=False)
        for start in range(0, len(AZURE_HEADER), 5):
            writer.write(AZURE_HEADER[start : start + 5])
            await writer.drain()
            await asyncio.sleep(0.02)
        await writer.start_tls(entrance.pki.client(), server_hostname="localhost")
        for number in range(3):
            writer.write(f"GET /daaaaaaa/agent/v1/{number} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(next(line for line in head.decode().lower().split("\r\n") if "content-length" in line)[16:])
            found = json.loads(await reader.readexactly(length))
            assert found["path"].endswith(f"/{number}")
            assert dict(found["headers"])["isthmus-link-id"] == str(LINK_ID)
        writer.close()


NO_LINKS = (
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40), "no PROXY v2 header"),
    (b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", "no PROXY v2 header"),
    (header(), "the PROXY header has no link id"),
    (header(tlv(0xEE, b"\x01abc")), "the PROXY header has no link id"),
    (header(tlv(0xEA, b"\x01vpce-1")), "the PROXY header has no link id"),
    (header(link(5), command=0x11), "another version"),
    (header(struct.pack(">BH", 0xEE, 500) + b"\x01"), "a field of the PROXY header is cut short"),
    (header(b"\xee\x00"), "the PROXY header has no link id"),
    (SIGNATURE + struct.pack(">BBH", 0x21, 0x11, 60000), "too long"),
    (SIGNATURE + struct.pack(">BBH", 0x21, 0x31, 20) + bytes(20), "no address"),
    (header(link(5), addresses=b"\x0a"), "no address"),
)


async def test_what_is_no_links_header_is_refused_with_the_reason(
    capfd: pytest.CaptureFixture[str], ingress_config: IngressConfig, pki: Pki
) -> None:
    books = Books(IngressPicture(CLUSTER))
    books.link()
    async with serving(ingress_config, books, pki) as entrance:
        for before, why in NO_LINKS:
            reader, writer = await entrance.connect(before, tls=False)
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await asyncio.wait_for(reader.readexactly(1), 5)
            writer.close()
            said = ""
            async with asyncio.timeout(5):
                while "refused:" not in said:
                    await asyncio.sleep(0.02)
                    said += capfd.readouterr().out
            assert why in said, before
        reader, writer = await entrance.connect(header(link(5))[:20], tls=False)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


@pytest.mark.parametrize(
    "before",
    [b"", header(command=0x20, family=0x00, addresses=b""), header(family=0x00, addresses=b""), header(command=0x20)],
)
async def test_health_probes_are_answered_with_and_without_a_header(entrance: Entrance, before: bytes) -> None:
    status, _, body = parts(await entrance.ask(get("/healthz"), before, tls=False))
    assert (status, body) == (200, b"ok\n")
    status, _, body = parts(await entrance.ask(get("/daaaaaaa/agent/v1/claims"), before, tls=False))
    assert (status, body) == (404, b"404 page not found\n")
    if before:
        status, _, body = parts(await entrance.ask(get("/healthz"), before))
        assert (status, body) == (200, b"ok\n")
    assert await entrance.ask(b"", before, tls=False) is not None if not before else True


async def test_a_links_connection_gets_no_health_page(entrance: Entrance) -> None:
    status, _, _ = parts(await entrance.ask(get("/healthz"), AZURE_HEADER))
    assert status == 404


async def test_links_come_from_the_links_network_alone(
    capfd: pytest.CaptureFixture[str], ingress_config: IngressConfig, pki: Pki
) -> None:
    books = Books(IngressPicture(CLUSTER))
    books.link(network=IPv4Network("10.20.0.0/16"))
    async with serving(ingress_config, books, pki) as entrance:
        with pytest.raises(ConnectionError):
            await entrance.ask(get("/"), AZURE_HEADER)
    probing = replace(ingress_config, probe_networks=(IPv4Network("127.0.0.1/32"),))
    async with serving(probing, books, pki) as entrance:
        assert b"200 OK" in await entrance.ask(get("/healthz"), tls=False)
        with pytest.raises(ConnectionError):
            await entrance.ask(get("/"), AZURE_HEADER)
        assert "no link comes from this address" in capfd.readouterr().out


async def test_a_link_without_proxy_headers_is_known_as_one(ingress_config: IngressConfig, pki: Pki) -> None:
    books = Books(IngressPicture(CLUSTER))
    books.link(has_proxy_protocol=False)
    async with serving(ingress_config, books, pki) as entrance, deployment("daaaaaaa", pki) as port:
        await leads(entrance, "daaaaaaa", port)
        found = seen(await entrance.ask(get("/daaaaaaa/agent/v1/claims", "Isthmus-Link-Id: 9")))
        assert found["headers"]["isthmus-link-id"] == "unknown"
        found = seen(await entrance.ask(get("/daaaaaaa/agent/v1/claims"), port=entrance.config.listen_port))
        assert "isthmus-link-id" not in found["headers"]


async def test_a_deployment_with_a_foreign_certificate_gets_no_request(entrance: Entrance) -> None:
    async with deployment("daaaaaaa", entrance.pki, "other.example") as port:
        entrance.books.lead("daaaaaaa", port)
        await entrance.until(1)
        status, headers, body = parts(
            await entrance.ask(get("/daaaaaaa/agent/v1/claims"), port=entrance.config.listen_port)
        )
        assert status == 503
        assert headers["content-type"] == "application/problem+json"
        assert json.loads(body)["code"] == "deployment_unreachable"


async def test_a_wrong_certificate_changes_nothing(entrance: Entrance) -> None:
    before = (entrance.config.home / "haproxy.cfg").read_bytes()
    chain = entrance.config.certificate.read_bytes()
    entrance.config.certificate.write_bytes(b"-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n")
    async with asyncio.timeout(10):
        while not entrance.health.holds(NOT_IN_FORCE):
            await asyncio.sleep(0.05)
    assert b"404 page not found" in await entrance.ask(get("/"), port=entrance.config.listen_port)
    assert (entrance.config.home / "haproxy.cfg").read_bytes() == before
    entrance.config.certificate.write_bytes(chain)
    async with asyncio.timeout(10):
        while entrance.health.holds(NOT_IN_FORCE):
            await asyncio.sleep(0.05)


async def test_without_the_registry_the_last_configuration_is_served(ingress_config: IngressConfig, pki: Pki) -> None:
    books = Books(IngressPicture(CLUSTER))
    async with deployment("daaaaaaa", pki) as port:
        async with serving(ingress_config, books, pki) as entrance:
            await leads(entrance, "daaaaaaa", port)
        books.is_away = True
        async with serving(ingress_config, books, pki) as entrance:
            assert entrance.health.holds(REGISTRY_AWAY)
            async with asyncio.timeout(10):
                while b"200 OK" not in await entrance.ask(
                    get("/daaaaaaa/agent/v1/claims"), port=ingress_config.listen_port
                ):
                    await asyncio.sleep(0.05)


async def test_a_first_certificate_that_is_missing_is_an_error(ingress_config: IngressConfig, pki: Pki) -> None:
    ingress_config.certificate.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        async with serving(ingress_config, Books(IngressPicture(CLUSTER)), pki):
            pass


async def test_haproxy_serves_as_another_user(ingress_config: IngressConfig, pki: Pki) -> None:
    config = replace(ingress_config, user="haproxy")
    books = Books(IngressPicture(CLUSTER))
    books.link()
    async with serving(config, books, pki) as entrance, deployment("daaaaaaa", pki) as port:
        await leads(entrance, "daaaaaaa", port)
        found = seen(await entrance.ask(get("/daaaaaaa/agent/v1/claims"), AZURE_HEADER))
        assert found["headers"]["isthmus-link-id"] == str(LINK_ID)
        workers = await entrance.ingress.workers()
        assert all(Path(f"/proc/{pid}").stat().st_uid != 0 for pid, reloads in workers.items() if reloads == 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts HAProxy as another user")
async def test_a_home_that_haproxys_user_cannot_enter_is_an_error(
    ingress_config: IngressConfig, pki: Pki, tmp_path: Path
) -> None:
    shut = tmp_path / "shut"
    shut.mkdir(mode=0o700)
    config = replace(ingress_config, user="haproxy", home=shut / "home")
    with pytest.raises(ConfigError, match="haproxy cannot enter") as refused:
        async with serving(config, Books(IngressPicture(CLUSTER)), pki):
            pass
    assert (refused.value.code, "chmod o+x" in refused.value.hint) == ("home_unusable", True)


async def test_a_home_that_is_too_deep_for_sockets_is_an_error(
    ingress_config: IngressConfig, pki: Pki, tmp_path: Path
) -> None:
    config = replace(ingress_config, home=tmp_path / ("deep" * 20))
    with pytest.raises(ConfigError, match="too deep"):
        async with serving(config, Books(IngressPicture(CLUSTER)), pki):
            pass
