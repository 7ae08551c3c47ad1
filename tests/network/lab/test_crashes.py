"""The lab killed at every step of creates and deletes; a full disk; two writers; and nothing left after ``down``."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from isthmus.lab import removing
from network.lab.served import KilledError, ServedLab
from strides import stride

HERE = Path(__file__).parent
#: More steps than any create or delete has.
MOST_STEPS = 40
#: A usual run takes every third step of a create and others of a delete.
STRIDE = stride(3)
WEST = {"location": "westeurope"}


@dataclass(frozen=True)
class Resource:
    """Something that is made and deleted: by whom, where, and what is asked for."""

    who: str
    path: str
    body: dict[str, Any]


def network(name: str, prefix: str, **subnet: str) -> dict[str, Any]:
    inner = {"name": "default", "properties": {"addressPrefix": prefix.replace("/16", "/24"), **subnet}}
    return {**WEST, "properties": {"addressSpace": {"addressPrefixes": [prefix]}, "subnets": [inner]}}


class Scene:
    """Bodies and paths of a provider's service and a customer's endpoint."""

    def __init__(self, lab: ServedLab) -> None:
        self.subscriptions = {
            "provider": lab.served.provider_subscription,
            "customer": lab.served.customer_subscription,
        }

    def path(self, who: str, rest: str) -> str:
        group = f"/subscriptions/{self.subscriptions[who]}/resourceGroups/{who}"
        return f"{group}/providers/Microsoft.Network/{rest}" if rest else group

    def resources(self) -> list[Resource]:
        """What the story needs, in the order in which it can be made."""
        subnet = {"id": self.path("provider", "virtualNetworks/provider-net/subnets/default")}
        balancer = "loadBalancers/front"
        frontend = {"id": self.path("provider", f"{balancer}/frontendIPConfigurations/front")}
        pool = {"id": self.path("provider", f"{balancer}/backendAddressPools/servers")}
        service = self.path("provider", "privateLinkServices/service")
        customer_net = self.path("customer", "virtualNetworks/customer-net")
        rule = {
            "frontendIPConfiguration": frontend,
            "backendAddressPool": pool,
            "protocol": "Tcp",
            "frontendPort": 80,
            "backendPort": 80,
        }
        connection = {"name": "c", "properties": {"privateLinkServiceId": service}}
        found = [
            (
                "provider",
                "virtualNetworks/provider-net",
                network("provider-net", "10.1.0.0/16", privateLinkServiceNetworkPolicies="Disabled"),
            ),
            (
                "provider",
                balancer,
                {
                    **WEST,
                    "sku": {"name": "Standard"},
                    "properties": {
                        "frontendIPConfigurations": [
                            {
                                "name": "front",
                                "properties": {
                                    "subnet": subnet,
                                    "privateIPAddress": "10.1.0.10",
                                    "privateIPAllocationMethod": "Static",
                                },
                            }
                        ],
                        "backendAddressPools": [{"name": "servers"}],
                        "loadBalancingRules": [{"name": "http", "properties": rule}],
                    },
                },
            ),
            (
                "provider",
                "networkInterfaces/server",
                {
                    **WEST,
                    "properties": {
                        "ipConfigurations": [
                            {
                                "name": "a",
                                "properties": {
                                    "subnet": subnet,
                                    "privateIPAddress": "10.1.0.20",
                                    "privateIPAllocationMethod": "Static",
                                    "loadBalancerBackendAddressPools": [pool],
                                },
                            }
                        ]
                    },
                },
            ),
            (
                "provider",
                "privateLinkServices/service",
                {
                    **WEST,
                    "properties": {
                        "loadBalancerFrontendIpConfigurations": [frontend],
                        "ipConfigurations": [{"name": "nat", "properties": {"subnet": subnet, "primary": True}}],
                        "visibility": {"subscriptions": ["*"]},
                        "autoApproval": {"subscriptions": ["*"]},
                    },
                },
            ),
            ("customer", "virtualNetworks/customer-net", network("customer-net", "10.1.0.0/16")),
            (
                "customer",
                "privateEndpoints/endpoint",
                {
                    **WEST,
                    "properties": {
                        "subnet": {"id": f"{customer_net}/subnets/default"},
                        "privateLinkServiceConnections": [connection],
                    },
                },
            ),
            ("customer", "privateDnsZones/example.com", {"location": "global"}),
            (
                "customer",
                "privateDnsZones/example.com/A/www",
                {"properties": {"ttl": 10, "aRecords": [{"ipv4Address": "10.1.0.4"}]}},
            ),
            (
                "customer",
                "privateDnsZones/example.com/virtualNetworkLinks/link",
                {"location": "global", "properties": {"virtualNetwork": {"id": customer_net}}},
            ),
        ]
        return [Resource(who, self.path(who, rest), body) for who, rest, body in found]


def prepare(lab: ServedLab) -> Scene:
    scene = Scene(lab)
    for who in scene.subscriptions:
        lab.do("PUT", scene.path(who, ""), WEST)
    return scene


@pytest.fixture
def arm(tmp_path: Path) -> Path:
    return tmp_path / "arm"


@pytest.fixture
def mortal(tmp_path: Path, arm: Path) -> Iterator[ServedLab]:
    """A lab that dies at the step that ``arm`` counts down to."""
    with ServedLab(
        tmp_path / "home", "--look-seconds", "0.1", program=HERE / "killing.py", LAB_TEST_ARM=str(arm)
    ) as lab:
        yield lab.start()


def assert_converged(lab: ServedLab) -> None:
    """The machine is as the documents say, and two more looks find nothing to repair."""
    before = lab.status()
    time.sleep(0.4)
    after = lab.status()
    assert after["health"] == []
    assert after["repairs"] == before["repairs"], "the start did not converge"
    expected = {one["namespace"] for one in after["networks"]}
    assert {name for name in lab.namespaces() if not name.endswith(("-fabric", "-internet"))} == expected


def survives(lab: ServedLab, arm: Path, kill_at: int, method: str, resource: Resource) -> bool:
    """Whether the lab lives through a write that it is to die in at step ``kill_at``."""
    arm.write_text(str(kill_at))
    try:
        lab.do(method, resource.path, resource.body if method == "PUT" else None)
    except KilledError:
        assert lab.wait() == -signal.SIGKILL, lab.log()
        assert arm.read_text().startswith("killed"), arm.read_text()
        return False
    finally:
        step = arm.read_text().strip() if arm.exists() else ""
        arm.unlink(missing_ok=True)
    assert step.isdecimal(), step
    return True


def die_at_every_step(lab: ServedLab, arm: Path, method: str, resource: Resource) -> int:
    """Have it die at the steps of a write in turn, and come back; how many steps there were, or one less."""
    is_delete = method == "DELETE"
    for kill_at in range(min(2, STRIDE) if is_delete else 1, MOST_STEPS, STRIDE):
        if lab.exists(resource.path) != is_delete:
            lab.do("PUT" if is_delete else "DELETE", resource.path, resource.body if is_delete else None)
        if survives(lab, arm, kill_at, method, resource):
            return kill_at - 1
        lab.start()
        assert_converged(lab)
    raise AssertionError(f"{method} {resource.path} has no end")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", range(9))
def test_a_lab_that_is_killed_at_any_step_converges(mortal: ServedLab, arm: Path, number: int) -> None:
    resources = prepare(mortal).resources()
    for one in resources[:number]:
        mortal.do("PUT", one.path, one.body)

    created = die_at_every_step(mortal, arm, "PUT", resources[number])
    deleted = die_at_every_step(mortal, arm, "DELETE", resources[number])

    assert created >= 2, "there are at least the steps before and after it is on disk"
    assert deleted >= 1


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ServedLab]:
    with ServedLab(tmp_path / "home", "--look-seconds", "0.1") as lab:
        yield lab.start()


def build(lab: ServedLab) -> list[Resource]:
    resources = prepare(lab).resources()
    for one in resources:
        lab.do("PUT", one.path, one.body)
    return resources


def snapshot(home: Path) -> dict[str, Any]:
    """What the lab of ``home`` could leave on the host: interfaces, tables, processes, files."""
    mark = f"ISTHMUS_LAB_NAMESPACE=isthmus-lab-{removing.lab_id(home)}-".encode()

    def told(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    processes = {path.parent.name for path in Path("/proc").glob("[0-9]*/environ") if mark in _bytes(path)}
    return {
        "links": told("ip", "-brief", "link"),
        "addresses": told("ip", "-brief", "address"),
        "rules": told("ip", "rule"),
        "routes": told("ip", "route", "show", "table", "all"),
        "nftables": told("nft", "list", "ruleset"),
        "resolver": Path("/etc/resolv.conf").read_text(),
        "sysctl": told("sysctl", "-n", "net.ipv4.ip_forward"),
        "processes": processes,
    }


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("is_killed", [False, True])
def test_down_leaves_nothing(tmp_path: Path, is_killed: bool) -> None:
    home = tmp_path / "home"
    before = snapshot(home)
    with ServedLab(home) as lab:
        build(lab.start())
        during = snapshot(home)
        assert during["processes"]
        server = subprocess.Popen([*lab.entering("provider-net"), "sleep", "600"])
        assert len(lab.namespaces()) == 4
        if is_killed:
            os.kill(lab.pid, signal.SIGKILL)
        down = subprocess.run(
            [sys.executable, "-m", "isthmus.cli.main", "lab", "down", "--home", str(home)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert down.returncode == 0, down.stderr
        assert server.wait(10) != 0
        assert lab.wait() in {0, -signal.SIGKILL}
        assert lab.namespaces() == set()
        assert not home.exists()
        assert not list(Path("/run/isthmus-lab").glob(f"*-{removing.lab_id(home)}-*"))
    after = snapshot(home)
    assert {key: during[key] for key in during if key != "processes"} == {
        key: before[key] for key in before if key != "processes"
    }, "a running lab touches nothing of the host"
    assert after["processes"] <= before["processes"]
    assert {key: value for key, value in after.items() if key != "processes"} == {
        key: value for key, value in before.items() if key != "processes"
    }


def test_what_somebody_removes_comes_back_and_is_told(served: ServedLab) -> None:
    build(served)
    victim = next(one["namespace"] for one in served.status()["networks"] if one["name"] == "customer-net")
    subprocess.run(["ip", "netns", "del", victim], check=True)

    deadline = time.monotonic() + 10
    while victim not in served.namespaces() or not served.status()["repairs"]:
        assert time.monotonic() < deadline, served.log()
        time.sleep(0.05)

    assert any(victim in one["what"] for one in served.status()["repairs"])
    assert_converged(served)
    assert served.exec("customer-net", "getent", "hosts", "www.example.com").stdout.split()[0] == "10.1.0.4"


def test_a_restart_says_what_it_repaired(served: ServedLab) -> None:
    build(served)
    victim = served.status()["networks"][0]["namespace"]
    served.terminate()
    assert victim in served.namespaces(), "the network outlives the process"
    subprocess.run(["ip", "netns", "del", victim], check=True)

    served.start()

    assert any(victim in one["what"] for one in served.status()["repairs"])
    assert_converged(served)


def test_two_writers_of_one_resource_get_azures_answers(served: ServedLab) -> None:
    resources = build(served)
    balancer = resources[1]
    etag = served.call("GET", balancer.path).json()["etag"]

    first = served.call("PUT", balancer.path, {**balancer.body, "tags": {"by": "one"}}, **{"If-Match": etag})
    served.follow(first)
    second = served.call("PUT", balancer.path, {**balancer.body, "tags": {"by": "two"}}, **{"If-Match": etag})
    assert (first.status_code, second.status_code) == (200, 412)
    assert second.json()["error"]["code"] == "PreconditionFailed"

    def write(number: int) -> int:
        body = {**balancer.body, "tags": {"by": str(number)}}
        answer = served.call("PUT", balancer.path, body)
        if answer.is_success:
            served.follow(answer)
            return answer.status_code
        assert answer.json()["error"]["code"] in {"AnotherOperationInProgress", "RetryableError"}, answer.text
        return answer.status_code

    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(write, range(24)))
    assert set(codes) <= {200, 409, 429}
    assert 200 in codes
    assert_converged(served)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for one megabyte, in a mount of the test's own."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "lab-test", str(folder)], check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine lets nobody mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(file: Path) -> None:
    """Leave not one block free."""
    with suppress(OSError), file.open("wb", buffering=0) as filler:
        while filler.write(b"x" * 512):
            pass


def test_a_full_disk_refuses_a_change_and_keeps_the_rest(small_disk: Path) -> None:
    home = small_disk / "home"
    with ServedLab(home, "--look-seconds", "0.1") as lab:
        scene = prepare(lab.start())
        filler = small_disk / "filler"
        fill(filler)

        answers = {}
        for number in range(1, 20):  # the journal's last block has room for some
            name = f"n{number}"
            answer = lab.call("PUT", scene.path("customer", f"virtualNetworks/{name}"), network(name, "10.9.0.0/16"))
            answers[name] = answer.status_code
            if answer.is_success:
                with suppress(AssertionError):  # there may be no room for the operation's outcome
                    lab.follow(answer)
        kept = [name for name, status in answers.items() if status == 201]

        assert set(answers.values()) == {201, 507}
        assert [one["name"] for one in lab.status()["networks"]] == kept
        os.kill(lab.pid, signal.SIGKILL)
        lab.wait()
        filler.unlink()
        lab.start()
        assert [one["name"] for one in lab.status()["networks"]] == kept
        lab.do("PUT", scene.path("customer", "virtualNetworks/late"), network("late", "10.9.0.0/16"))
        assert_converged(lab)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_flows_go_on_while_the_process_is_away(served: ServedLab, tmp_path: Path) -> None:
    build(served)
    (tmp_path / "index.html").write_text("hello")
    server = subprocess.Popen(
        [
            *(
                sys.executable,
                "-m",
                "isthmus.cli.main",
                "lab",
                "exec",
                "--home",
                str(served.home),
                "provider-net",
                "--",
            ),
            *(sys.executable, "-m", "http.server", "80", "--bind", "10.1.0.20", "--directory", str(tmp_path)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        customer = next(one["namespace"] for one in served.status()["networks"] if one["name"] == "customer-net")
        curl = ["nsenter", f"--net=/run/netns/{customer}", "curl", "-sS", "--retry", "20", "--retry-connrefused"]
        curl += ["--retry-delay", "0", "--max-time", "5", "http://10.1.0.4/"]
        before = subprocess.run(curl, capture_output=True, text=True, check=False)
        os.kill(served.pid, signal.SIGKILL)
        served.wait()
        without = subprocess.run(curl, capture_output=True, text=True, check=False)
        served.start()
        after = subprocess.run(curl, capture_output=True, text=True, check=False)
        assert [one.stdout for one in (before, without, after)] == ["hello"] * 3, (before, without, after)
        assert served.status()["endpoints"][0]["connections"] >= 3, "what was counted before goes on being counted"
    finally:
        server.kill()
        server.wait()
