"""What goes through a link, from the lab's metrics to the operator's terminal; what packets counted is given."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from tests.fakes.arm_road import ArmRoad, Fault, Seen
from tests.fakes.control_plane import SCENE_CLUSTER, ControlPlane, Json, prepare, running
from tests.fakes.lab import FakeLab
from tests.fakes.link_scene import LabCredential, Scene, on_fake_lab

from isthmus.cli import main
from isthmus.control import metering
from isthmus.lab import picturing
from isthmus.lab.ids import Key
from isthmus.lab.insights.recording import Sample
from isthmus.link.drivers.azure.config import AzureConfig
from isthmus.link.drivers.azure.driver import AzureCloud

LINK = "/clusters/clabcdefgh2/link"
TRAFFIC = f"{LINK}/traffic"


@pytest.fixture
def lab_and_scene(tmp_path: Path) -> Iterator[tuple[FakeLab, Scene]]:
    with on_fake_lab(tmp_path) as both:
        yield both


@pytest.fixture
async def road(lab_and_scene: tuple[FakeLab, Scene]) -> AsyncIterator[ArmRoad]:
    async with ArmRoad(lab_and_scene[0]) as road:
        yield road


@pytest.fixture
async def plane(
    new_database: Callable[[], str],
    lab_and_scene: tuple[FakeLab, Scene],
    road: ArmRoad,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[ControlPlane]:
    """One that is asked anew each time, as if a minute had passed."""
    monkeypatch.setattr(metering, "_FRESH_SECONDS", 0.0)
    lab, url = lab_and_scene[0], new_database()
    token = await prepare(url)
    config = AzureConfig(arm_endpoint=road.url, ca_file=lab.ca, poll_seconds=0.01, operation_seconds=20)
    async with AzureCloud(config, LabCredential(lab)) as cloud, running(url, cloud, token) as plane:
        (tmp_path / "ann").write_text(token)
        monkeypatch.setenv("ISTHMUS_CONTROL_URL", plane.url)
        monkeypatch.setenv("ISTHMUS_CONTROL_TOKEN_FILE", str(tmp_path / "ann"))
        await plane.call("POST", "/clusters", SCENE_CLUSTER, status=201)
        yield plane


async def publish(plane: ControlPlane, scene: Scene) -> Json:
    spec = scene.service_spec()
    body = {
        "service_id": spec.service_id,
        "frontend_id": spec.frontend_id,
        "nat_subnet_id": spec.nat_subnet_id,
        "nat_addresses": 2,
    }
    await plane.call("PUT", LINK, body, status=202)
    return await plane.until(LINK, lambda one: one["state"] == "published")


def join(scene: Scene, alias: str) -> None:
    request = {"name": "link", "properties": {"privateLinkServiceId": alias}}
    properties = {"subnet": {"id": scene.subnet_id()}, "manualPrivateLinkServiceConnections": [request]}
    scene.put(scene.endpoint_id, {"location": "westeurope", "properties": properties})


def count(lab: FakeLab, scene: Scene, there: int, back: int, **ports: int) -> None:
    """Let the packets have counted so much; ``ports`` by the last number of a NAT address."""
    used = {IPv4Address(f"10.1.1.{number.removeprefix('nat')}"): value for number, value in ports.items()}
    endpoint, service = Key(scene.endpoint_id.lower()), Key(scene.service_id.lower())
    lab.sample = Sample(picturing.picture(lab.store.world), {endpoint: (there, back)}, {service: used})


def is_metrics(seen: Seen) -> bool:
    return seen.path.lower().endswith("/providers/microsoft.insights/metrics")


async def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    capsys.readouterr()
    assert await asyncio.to_thread(main.run, words) == 0
    said = capsys.readouterr()
    return said.out, said.err


async def test_an_operator_sees_what_went_through(
    plane: ControlPlane, lab_and_scene: tuple[FakeLab, Scene], capsys: pytest.CaptureFixture[str]
) -> None:
    lab, scene = lab_and_scene
    await plane.call("GET", TRAFFIC, status=404)
    link = await publish(plane, scene)
    assert link["nat_addresses"] == ["10.1.1.4", "10.1.1.5"]
    join(scene, link["alias"])
    nothing = await plane.call("GET", TRAFFIC)
    assert (nothing["bytes_in"], nothing["nat_addresses"], nothing["problem"]) == (None, [], None)
    out, _ = await run(capsys, "link", "show")
    assert "traffic            none measured in the last hour" in out

    count(lab, scene, 0, 0)
    await plane.call("GET", TRAFFIC)
    count(lab, scene, 2_000_000, 45_000, nat4=500, nat5=1)
    found = await plane.call("GET", TRAFFIC)
    assert (found["bytes_in"], found["bytes_out"], found["span_seconds"]) == (2_000_000, 45_000, 3600)
    assert [one["address"] for one in found["nat_addresses"]] == ["10.1.1.4", "10.1.1.5"]
    assert [one["most_percent"] for one in found["nat_addresses"]] == [50.0, 0.1]

    out, err = await run(capsys, "link", "show")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "traffic 2.0 MB from customers, 45 kB to them in the last hour" in lines
    [first] = [line for line in lines if line.startswith("NAT addresses 10.1.1.4, ports: ")]
    assert first.endswith(" in use, 50 % at most")
    assert any(line.startswith("10.1.1.5, ports: ") for line in lines)
    assert err == ""
    out, _ = await run(capsys, "link", "traffic")
    assert "from customers     2.0 MB" in out
    assert "ports of 10.1.1.5" in out
    out, _ = await run(capsys, "link", "traffic", "--json")
    assert json.loads(out)["bytes_out"] == 45_000


async def test_a_missing_permission_is_a_note_and_stops_nothing(
    plane: ControlPlane,
    lab_and_scene: tuple[FakeLab, Scene],
    road: ArmRoad,
    capsys: pytest.CaptureFixture[str],
) -> None:
    road.choose = lambda seen: Fault.FORBIDDEN if is_metrics(seen) else None
    link = await publish(plane, lab_and_scene[1])
    found = await plane.call("GET", TRAFFIC)
    assert (found["measured_at"], found["bytes_in"], found["problem"]["code"]) == (None, None, "permission_missing")
    assert "Microsoft.Insights/metrics/read" in found["problem"]["sentence"]
    out, err = await run(capsys, "link", "show")
    assert link["alias"] in out
    assert "traffic  " not in out
    assert err.startswith("Traffic is not shown: No permission to read metrics")
    warnings = (await plane.http.get("/healthz")).json()["warnings"]
    assert [one["code"] for one in warnings] == ["plain_http"]


async def test_the_loop_never_asks_for_metrics(
    plane: ControlPlane, lab_and_scene: tuple[FakeLab, Scene], road: ArmRoad
) -> None:
    await publish(plane, lab_and_scene[1])
    looks = sum(not is_metrics(one) for one in road.seen)
    await asyncio.sleep(1)
    assert sum(not is_metrics(one) for one in road.seen) > looks, "it goes on looking"
    assert not any(is_metrics(one) for one in road.seen)
    # Nor does looking at the link, which many do often.
    await plane.call("GET", LINK)
    assert not any(is_metrics(one) for one in road.seen)
