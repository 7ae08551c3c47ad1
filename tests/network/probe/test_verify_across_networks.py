"""``isthmus verify`` in a customer's network, with the lab's resolvers and packets: what is wrong is named, alone."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from isthmus.kit import certificates
from isthmus.lab.packets import addressing
from isthmus.lab.packets.addressing import LabId
from isthmus.lab.packets.following import Packets
from isthmus.lab.picture import Frontend, Picture, Record, Zone
from network.lab import scenes
from network.probe.cluster import DEPLOYMENT, TOKEN

CLUSTER = "c1.external.test"
PUBLIC = "203.0.113.20"
OUTBOUND = "203.0.113.130"
CUSTOMER, PROVIDER = 1, 2
NAMES = {CLUSTER: (IPv4Address(PUBLIC),), "c2.external.test": (IPv4Address("203.0.113.21"),)}

pytestmark = pytest.mark.timeout(120)


def zone(address: str = scenes.ENDPOINT, *, name: str = CLUSTER, label: str = "@") -> Zone:
    return Zone(name, False, (Record(label, "A", 10, (address,)),))


def pictured(*zones: Zone, approved: bool = True, service: bool = True, port: int = 443) -> Picture:
    customer = scenes.network(CUSTOMER, "customer", zones=zones, outbound_address=IPv4Address(OUTBOUND))
    to = scenes.rule(443, 8443)
    provider = scenes.network(
        PROVIDER,
        "provider",
        frontends=(Frontend(IPv4Address(PUBLIC), True, (to,)),),
        outbound_address=IPv4Address(PUBLIC),
    )
    its = scenes.service(1, provider, replace(to, port=port))
    endpoint = scenes.endpoint(1, customer, its if service else None, approved=approved)
    return Picture((customer, provider), (), (its,), (endpoint,), NAMES)


@dataclass
class Site:
    """A customer's network, and the cluster behind the link."""

    lab: LabId
    folder: Path

    def allow(self, *ranges: str) -> None:
        (self.folder / "allowed").write_text("\n".join(ranges))

    def verify(self, *words: str, host: str = CLUSTER, token: str = TOKEN) -> tuple[int, dict[str, dict[str, Any]]]:
        (self.folder / "token").write_text(token)
        resolver = self.folder / "resolv.conf"
        resolver.write_text("nameserver 168.63.129.16\n")
        inside = f'mount --bind "{resolver}" /etc/resolv.conf && exec "$@"'
        given = ["--url", f"https://{host}/{DEPLOYMENT}", "--ca-file", str(self.folder / "ca.pem")]
        given += ["--token-file", str(self.folder / "token"), "--timeout-seconds", "1.5", "--json", *words]
        namespace = f"--net=/run/netns/{addressing.network(self.lab, CUSTOMER)}"
        entered = ["nsenter", namespace, "unshare", "--mount", "sh", "-c", inside, "sh"]
        ran = subprocess.run(
            [*entered, sys.executable, "-m", "isthmus.cli.main", "verify", *given],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.stdout, ran.stderr
        return ran.returncode, {row["check"]: row for row in json.loads(ran.stdout)["rows"]}

    def failing(self, *words: str, **values: str) -> dict[str, dict[str, Any]]:
        code, rows = self.verify(*words, **values)
        found = {check: row for check, row in rows.items() if row["status"] == "fail"}
        assert code == (1 if found else 0)
        return found


Serve = Callable[..., None]


@pytest.fixture
def site(lab: LabId, tmp_path: Path) -> Site:
    authority = certificates.make_authority("a test's authority")
    (tmp_path / "ca.pem").write_bytes(authority[0])
    for name in (CLUSTER, "other.external.test"):
        (tmp_path / f"{name}.pem").write_bytes(b"".join(certificates.issue(*authority, [name])))
    site = Site(lab, tmp_path)
    site.allow()
    return site


@pytest.fixture
def serve(site: Site) -> Iterator[Serve]:
    started: list[subprocess.Popen[str]] = []

    def start(name: str = CLUSTER) -> None:
        (site.folder / "server.pem").write_bytes((site.folder / f"{name}.pem").read_bytes())
        program = Path(__file__).with_name("cluster.py")
        namespace = f"--net=/run/netns/{addressing.network(site.lab, PROVIDER)}"
        process = subprocess.Popen(
            ["nsenter", namespace, sys.executable, str(program), str(site.folder), f"{scenes.HOST}:8443"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    yield start
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()


async def test_a_link_that_is_as_it_should_be(packets: Packets, site: Site, serve: Serve) -> None:
    await packets.start(pictured(zone()))
    serve()
    code, rows = site.verify("--endpoint", scenes.ENDPOINT, "--public-resolver", "203.0.113.2")
    assert (code, [check for check, row in rows.items() if row["status"] == "fail"]) == (0, [])
    assert "168.63.129.16 (Azure's)" in rows["resolver"]["details"]
    assert "is the endpoint's address" in rows["address"]["details"]
    assert rows["source"]["details"].startswith(f"seen as {scenes.NAT}")
    assert rows["public_path"]["status"] == "warn", "not restricted yet"
    site.allow("10.0.0.0/24")
    code, rows = site.verify("--public-resolver", "203.0.113.2")
    assert (code, rows["public_path"]["status"]) == (0, "pass")
    assert OUTBOUND in rows["public_path"]["details"]


async def test_names(packets: Packets, site: Site, serve: Serve) -> None:
    await packets.start(pictured())
    serve()
    # No zone is linked: the public address.
    (address,) = site.failing().values()
    assert (address["check"], f"{PUBLIC} is public" in address["details"]) == ("address", True)
    # Another address than the endpoint's.
    await packets.converge(pictured(zone("10.0.0.77")))
    (address,) = site.failing("--endpoint", scenes.ENDPOINT).values()
    assert (address["check"], f"the endpoint is {scenes.ENDPOINT}" in address["details"]) == ("address", True)
    # A stale address, and the endpoint's is not known: nobody answers there.
    assert list(site.failing()) == ["tcp"]
    # A wide zone that has another cluster's record alone.
    await packets.converge(pictured(zone(name="external.test", label="c2")))
    (name,) = site.failing("--public-resolver", "203.0.113.2").values()
    assert (name["check"], "a private zone hides it" in name["details"]) == ("name", True)
    (name,) = site.failing().values()
    assert (name["check"], "may hide" in name["remedy"]) == ("name", True)
    # No such cluster, anywhere.
    (name,) = site.failing("--public-resolver", "203.0.113.2", host="c9.external.test").values()
    assert "here and on the internet" in name["details"]


async def test_connections_and_ports(packets: Packets, site: Site, serve: Serve) -> None:
    await packets.start(pictured(zone(), approved=False))
    serve()
    (tcp,) = site.failing("--endpoint", scenes.ENDPOINT).values()
    assert (tcp["check"], "pending, rejected or removed" in tcp["remedy"]) == ("tcp", True)
    await packets.converge(pictured(zone(), service=False))  # removed by the provider: Disconnected
    assert list(site.failing("--endpoint", scenes.ENDPOINT)) == ["tcp"]
    await packets.converge(pictured(zone(), port=8080))  # 443 is open nowhere
    assert list(site.failing("--endpoint", scenes.ENDPOINT)) == ["tcp"]
    await packets.converge(pictured(zone()))
    assert site.failing("--endpoint", scenes.ENDPOINT) == {}


async def test_the_other_end(packets: Packets, site: Site, serve: Serve) -> None:
    await packets.start(pictured(zone()))
    assert list(site.failing()) == ["tcp"], "nothing listens"
    serve("other.external.test")
    (tls,) = site.failing().values()
    assert (tls["check"], "not for" in tls["details"]) == ("tls", True)


async def test_addresses_and_tokens(packets: Packets, site: Site, serve: Serve) -> None:
    await packets.start(pictured(zone()))
    serve()
    site.allow("198.51.100.0/24")
    (source,) = site.failing().values()
    assert (source["check"], scenes.NAT in source["details"]) == ("source", True)
    # Restricted to too much: the public path is let in as well.
    site.allow("10.0.0.0/24", f"{OUTBOUND}/32")
    (public,) = site.failing("--public-address", PUBLIC).values()
    assert (public["check"], OUTBOUND in public["details"]) == ("public_path", True)
    site.allow()
    assert list(site.failing(token="isthmus_wrong")) == ["token"]
