"""``isthmus endpoint show`` with what went through; what the lab's packets counted is given."""

import asyncio
import json

import pytest
from tests.fakes.arm_road import ArmRoad, Fault
from tests.fakes.lab import FakeLab
from tests.fakes.link_scene import LabCredential, Scene
from tests.integration.link.test_azure_metrics import count

from isthmus.cli import main
from isthmus.link.drivers.azure import driver
from isthmus.link.drivers.azure.driver import AzureCloud
from isthmus.link.steps import CreateEndpoint


@pytest.fixture
async def joined(cloud: AzureCloud, scene: Scene, lab: FakeLab, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """An endpoint of ours."""
    await cloud.apply_customer(CreateEndpoint(scene.endpoint_spec(scene.publish())))
    monkeypatch.setattr(driver, "default_credential", lambda _: LabCredential(lab))
    monkeypatch.setenv("ISTHMUS_AZURE_CA_FILE", str(lab.ca))
    return scene


async def shown(arm: str, *more: str) -> None:
    code = await asyncio.to_thread(main.run, ("endpoint", "show", "-g", "rg", "--arm-endpoint", arm, *more))
    assert code == 0


async def test_bytes_are_shown(joined: Scene, lab: FakeLab, capsys: pytest.CaptureFixture[str]) -> None:
    await shown(lab.url)
    out, err = capsys.readouterr()
    assert "traffic   none measured in the last hour" in out
    # What stands beside a pending connection is our own message, and somebody else has to act.
    assert "message   let us in" in out
    assert err == "The provider has to approve the connection; then: isthmus endpoint apply\n"
    joined.decide("Rejected", "not you")
    await shown(lab.url)
    out, err = capsys.readouterr()
    assert "reason    not you" in out
    assert "isthmus endpoint create --recreate" in err
    count(lab, joined, 0, 0)
    await shown(lab.url)
    count(lab, joined, 3000, 91_234_567)
    capsys.readouterr()
    await shown(lab.url)
    assert "traffic   91 MB from the provider, 3.0 kB to it in the last hour" in capsys.readouterr().out
    await shown(lab.url, "--json")
    traffic = json.loads(capsys.readouterr().out)["traffic"]
    assert traffic == {"span_seconds": 3600, "bytes_in": 91_234_567, "bytes_out": 3000}


async def test_without_the_permission_everything_else_is_shown(
    joined: Scene, lab: FakeLab, capsys: pytest.CaptureFixture[str]
) -> None:
    async with ArmRoad(lab, lambda seen: Fault.FORBIDDEN if seen.path.endswith("/metrics") else None) as road:
        await shown(road.url)
        out, err = capsys.readouterr()
        assert f"endpoint  {joined.endpoint_id}" in out
        assert "traffic" not in out
        assert "Traffic is not shown: No permission to read metrics: it needs Microsoft.Insights/metrics/read" in err
        assert "Have a role that contains Microsoft.Insights/metrics/read assigned" in err
        await shown(road.url, "--json")
        problem = json.loads(capsys.readouterr().out)["traffic"]["problem"]
        assert problem["code"] == "permission_missing"
