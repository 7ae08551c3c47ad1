"""Certificates and proxies: what works, and what the error says when it does not."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.fakes import plane as planes
from tests.fakes.proxy import FakeProxy
from tests.faults.harness.certificates import Authority
from tests.integration.agent.conftest import Start

from isthmus.agent.client import PlaneClient
from isthmus.agent.config import Timing, load
from isthmus.agent.credentials import Credential
from isthmus.agent.road import Road
from isthmus.kit import calling
from isthmus.kit.clocks import ManualClock, SystemClock
from isthmus.kit.errors import ConfigError, UnreachableError
from isthmus.kit.health import Health
from isthmus.wire import agents, paths
from isthmus.wire.names import Role


def client(url: str, **flags: Any) -> PlaneClient:
    config = load({"url": url, **flags}, environment={"ISTHMUS_AGENT_TOKEN": planes.TOKEN}).config
    clock = SystemClock()
    health = Health(clock)
    return PlaneClient(
        config,
        Timing(answer=5.0),
        credential=Credential(token=planes.TOKEN),
        health=health,
        road=Road(health, clock),
        clock=clock,
    )


ENROLMENT = agents.EnrolmentRequest(
    name="agent",
    role=Role.WORKER,
    instance_id=uuid4(),
    queues=("default",),
    slots=1,
    versions=agents.Versions(isthmus="0.1.0", python="3.11"),
)


async def enrol(url: str, **flags: Any) -> agents.EnrolmentResponse:
    plane = client(url, **flags)
    try:
        return await plane.enrol(ENROLMENT)
    finally:
        await plane.caller.close()
        await asyncio.sleep(0.05)  # TLS says good-bye


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "plane")


def secure(authority: Authority, **more: Any) -> planes.FakePlane:
    pair = authority.issue("localhost")
    return planes.FakePlane(certificate=pair.certificate, key=pair.private_key, **more)


async def test_a_private_authority_is_trusted_when_it_is_named(authority: Authority) -> None:
    with secure(authority) as plane:
        assert await enrol(plane.url, ca_file=str(authority.certificate))
        with pytest.raises(UnreachableError) as caught:
            await enrol(plane.url)
    assert caught.value.code == "tls_untrusted"
    assert "ca_file" in caught.value.hint


async def test_a_client_certificate_is_shown(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "clients").mkdir()
    clients = Authority(tmp_path / "clients", "clients")
    mine = clients.issue("agent")
    flags = {"ca_file": str(authority.certificate)}
    with secure(authority, client_ca=clients.certificate) as plane:
        assert await enrol(
            plane.url, client_certificate=str(mine.certificate), client_key=str(mine.private_key), **flags
        )
        with pytest.raises(UnreachableError) as caught:
            await enrol(plane.url, **flags)
    assert caught.value.code in {"tls_failed", "connection_lost"}


def test_certificates_that_cannot_be_used_are_refused_at_the_start(authority: Authority, tmp_path: Path) -> None:
    pair = authority.issue("agent")
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate", encoding="ascii")
    with pytest.raises(ConfigError) as caught:
        client("https://localhost/d", ca_file=str(broken))
    assert caught.value.code == "ca_file_unusable"
    with pytest.raises(ConfigError) as caught:
        client("https://localhost/d", client_certificate=str(pair.certificate), client_key=str(broken))
    assert caught.value.code == "client_certificate_unusable"


@pytest.mark.parametrize("encrypted", [False, True])
async def test_calls_go_through_a_proxy(authority: Authority, encrypted: bool) -> None:
    pair = authority.issue("localhost")
    files = {"certificate": pair.certificate, "key": pair.private_key} if encrypted else {}
    with secure(authority) as plane, FakeProxy(password="user:pass word", **files) as proxy:
        url = proxy.url.replace("://", "://user:pass%20word@")
        assert await enrol(plane.url, ca_file=str(authority.certificate), proxy=url)
        assert proxy.connects == [f"localhost:{plane.port}"]


async def test_a_proxy_from_the_environment_is_used_unless_it_is_exempt_or_off(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with secure(authority) as plane, FakeProxy() as proxy:
        flags = {"ca_file": str(authority.certificate)}
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        await enrol(plane.url, **flags)
        assert len(proxy.connects) == 1
        await enrol(plane.url, proxy="off", **flags)
        monkeypatch.setenv("NO_PROXY", "localhost")
        await enrol(plane.url, **flags)
        assert len(proxy.connects) == 1


@pytest.mark.parametrize("url", ["http://localhost:{port}", "http://user:wrong@localhost:{port}"])
async def test_a_proxy_that_wants_a_password_says_so(authority: Authority, url: str) -> None:
    with (
        secure(authority) as plane,
        FakeProxy(password="user:right") as proxy,
        pytest.raises(UnreachableError) as caught,
    ):
        await enrol(plane.url, ca_file=str(authority.certificate), proxy=url.format(port=proxy.port))
    assert caught.value.code == "proxy_refused"
    assert "407" in str(caught.value)
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://does-not-exist.invalid/d", "name_unresolved"),
        ("https://127.0.0.1:1/d", "connect_failed"),
    ],
)
async def test_how_far_a_call_came_is_told(url: str, code: str) -> None:
    with pytest.raises(UnreachableError) as caught:
        await enrol(url)
    assert caught.value.code == code
    assert caught.value.hint


async def test_tls_to_a_port_without_it_is_told(plane: planes.FakePlane) -> None:
    with pytest.raises(UnreachableError) as caught:
        await enrol(plane.url.replace("http://127.0.0.1", "https://localhost"))
    assert caught.value.code in {"tls_failed", "connection_lost"}


async def test_connections_are_kept_and_do_not_outlive_their_time(plane: planes.FakePlane) -> None:
    clock = ManualClock()
    caller = calling.Caller(calling.parse_origin(plane.url), clock, config=calling.CallingConfig(life_seconds=100.0))
    target = f"/{planes.DEPLOYMENT}{paths.HEARTBEATS}".encode()

    async def call() -> None:
        reply = await caller.call("POST", target, (), b"{}", answer_seconds=5.0)
        await reply.read(1 << 20)

    for _ in range(5):
        await call()
    assert caller.connected == 1
    clock.advance(100.0)
    await call()
    assert caller.connected == 2
    caller.renew()
    await call()
    assert caller.connected == 3
    await caller.close()


async def test_a_connection_that_was_closed_while_idle_is_replaced_at_once(plane: planes.FakePlane) -> None:
    own = client(plane.url)
    await own.enrol(ENROLMENT)
    plane.stop()
    plane.start()
    await own.enrol(ENROLMENT)
    await own.caller.close()


@pytest.mark.parametrize(("once", "times"), [(False, 2), (True, 1)])
async def test_what_may_not_arrive_twice_is_sent_once(once: bool, times: int) -> None:
    heard: list[bytes] = []

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        caller = calling.Caller(calling.parse_origin(f"http://127.0.0.1:{port}"), SystemClock())
        with pytest.raises(UnreachableError) as caught:
            await caller.call("POST", b"/tokens", (), once=once, answer_seconds=5.0)
        await caller.close()
    assert (caught.value.code, len(heard)) == ("connection_lost", times)


async def test_an_answer_that_stops_in_the_middle_is_an_error(plane: planes.FakePlane) -> None:
    plane.faults[paths.ENROLMENTS].append(planes.Lost())
    with pytest.raises(UnreachableError) as caught:
        await enrol(plane.url)
    assert caught.value.code == "connection_lost"


def test_an_agent_works_through_proxy_private_authority_and_client_certificate(
    authority: Authority, tmp_path: Path, start: Start
) -> None:
    pair = authority.issue("agent")
    with secure(authority, client_ca=authority.certificate) as plane, FakeProxy() as proxy:
        start(
            plane.url,
            proxy=proxy.url,
            ca_file=str(authority.certificate),
            client_certificate=str(pair.certificate),
            client_key=str(pair.private_key),
        )
        one = plane.put({"exit": 0})
        plane.wait_for(lambda: one in plane.settled)
        assert proxy.connects
