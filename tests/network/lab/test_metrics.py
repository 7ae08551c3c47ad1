"""Bytes and ports that really went through a link, as Microsoft's SDK and the ``az`` command read them."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError
from azure.identity.aio import ManagedIdentityCredential
from azure.mgmt.monitor.aio import MonitorManagementClient
from tests import az
from tests.fakes.link_scene import Scene

from isthmus.lab import running
from isthmus.lab.packets import requirements
from network.lab.served import ServedLab

pytestmark = pytest.mark.skipif(bool(requirements.missing()), reason="; ".join(requirements.missing()))

PAGE_BYTES = 300_000


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[ServedLab]:
    with ServedLab(tmp_path / "home", "--ports-per-address=100") as lab:
        yield lab.start()


@pytest.fixture
def scene(lab: ServedLab, tmp_path: Path) -> Iterator[Scene]:
    """An approved endpoint of a link service with two NAT addresses, and a server behind it."""
    scene = Scene(lab.http, lab.served.provider_subscription, lab.served.customer_subscription).build()
    scene.add_server("10.1.0.20", "front")
    subnet = {"id": scene.path(scene.provider, "virtualNetworks/plane/subnets/nat")}
    addresses = [{"name": name, "properties": {"subnet": subnet}} for name in ("one", "two")]
    alias = scene.publish(ipConfigurations=addresses)
    request = {"name": "link", "properties": {"privateLinkServiceId": alias, "requestMessage": "let us in"}}
    properties = {"subnet": {"id": scene.subnet_id()}, "manualPrivateLinkServiceConnections": [request]}
    scene.put(scene.endpoint_id, {"location": "westeurope", "properties": properties})
    scene.decide("Approved")
    (tmp_path / "page").write_bytes(b"x" * PAGE_BYTES)
    words = [sys.executable, "-m", "http.server", "80", "--bind", "10.1.0.20", "--directory", str(tmp_path)]
    with running_in(lab, "plane", *words):
        yield scene


@contextmanager
def running_in(lab: ServedLab, network: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [*lab.entering(network), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"]},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def fetch(lab: ServedLab) -> None:
    url = "http://10.1.0.4/page"
    for _ in range(50):
        done = lab.exec("net", "curl", "--silent", "--max-time", "5", "--output", "/dev/null", url)
        if done.returncode == 0:
            return
        time.sleep(0.1)
    raise AssertionError(done)


def total(answer: Any) -> dict[str, float]:
    """The sums of metrics over all of their minutes."""
    return {
        metric.name.value: sum(point.total or 0 for series in metric.timeseries for point in series.data)
        for metric in answer.value
    }


async def test_the_sdk_reads_what_went_through(lab: ServedLab, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in running.environment(lab.served).items():
        monkeypatch.setenv(name, value)
    fetch(lab)
    arm = lab.served.arm
    bound: dict[str, Any] = {"base_url": arm, "credential_scopes": [f"{arm}/.default"]}
    bound["connection_verify"] = lab.served.authorities
    async with (
        ManagedIdentityCredential() as credential,
        MonitorManagementClient(credential, scene.provider, **bound) as client,
    ):
        endpoint = total(await client.metrics.list(scene.endpoint_id, metricnames="PEBytesIn,PEBytesOut"))
        assert PAGE_BYTES < endpoint["PEBytesIn"] < 1.2 * PAGE_BYTES
        assert 100 < endpoint["PEBytesOut"] < 0.2 * PAGE_BYTES
        service = total(await client.metrics.list(scene.service_id, metricnames="PLSBytesIn,PLSBytesOut"))
        assert service == {"PLSBytesIn": endpoint["PEBytesOut"], "PLSBytesOut": endpoint["PEBytesIn"]}

        # Five connections that stay, over two NAT addresses of 100 ports each.
        hold = (
            "import socket,time; held=[socket.create_connection(('10.1.0.4',80)) for _ in range(5)]; print(flush=True)"
        )
        with running_in(lab, "net", sys.executable, "-c", f"{hold}; time.sleep(60)") as holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            answer = await client.metrics.list(
                scene.service_id,
                metricnames="PLSNatPortsUsage",
                aggregation="Maximum",
                filter="PrivateLinkServiceIPAddress eq '*'",
            )
            [ports] = answer.value
            assert ports.unit == "Percent"
            used = {
                series.metadatavalues[0].value: max(point.maximum or 0 for point in series.data)
                for series in ports.timeseries
            }
            assert set(used) == {"10.1.1.4", "10.1.1.5"}
            # The page's connection may still be waiting for its end.
            assert 5 <= sum(used.values()) <= 6
            assert min(used.values()) >= 2

        names = [one.name.value async for one in client.metric_definitions.list(scene.service_id)]
        assert names == ["PLSBytesIn", "PLSBytesOut", "PLSNatPortsUsage"]
        with pytest.raises(HttpResponseError) as refused:
            await client.metrics.list(scene.endpoint_id, metricnames="Speed")
        assert refused.value.error is not None
        assert (refused.value.status_code, refused.value.error.code) == (400, "BadRequest")
        assert "Valid metrics: PEBytesIn,PEBytesOut" in str(refused.value)
        with pytest.raises(HttpResponseError) as missing:
            await client.metrics.list(f"{scene.endpoint_id}-2", metricnames="PEBytesIn")
        assert missing.value.error is not None
        assert (missing.value.status_code, missing.value.error.code) == (404, "ResourceNotFound")


@pytest.mark.skipif(not az.PROGRAM.exists(), reason="there is no az: make az")
def test_az_reads_what_went_through(lab: ServedLab, scene: Scene, tmp_path: Path) -> None:
    fetch(lab)
    served = lab.served
    on_lab = az.on(
        tmp_path,
        arm=served.arm,
        ca=Path(served.authorities),
        identity_endpoint=served.identity_endpoint,
        identity_header=served.identity_header,
    )
    words = ("monitor", "metrics", "list", "--resource", scene.endpoint_id)
    answer = on_lab(*words, "--metrics", "PEBytesIn", "PEBytesOut", "--interval", "PT1M", "--offset", "10m")
    came, went = (
        sum(point.get("total") or 0 for series in metric["timeseries"] for point in series["data"])
        for metric in answer["value"]
    )
    assert PAGE_BYTES < came < 1.2 * PAGE_BYTES
    assert 100 < went < 0.2 * PAGE_BYTES
    dimension = (
        "--metrics",
        "PLSNatPortsUsage",
        "--dimension",
        "PrivateLinkServiceIPAddress",
        "--aggregation",
        "Average",
    )
    ports = on_lab("monitor", "metrics", "list", "--resource", scene.service_id, *dimension)
    [metric] = ports["value"]
    assert [one["metadatavalues"][0]["value"] for one in metric["timeseries"]] == ["10.1.1.4", "10.1.1.5"]
    listed = on_lab("monitor", "metrics", "list-definitions", "--resource", scene.service_id)
    assert [one["name"]["value"] for one in listed] == ["PLSBytesIn", "PLSBytesOut", "PLSNatPortsUsage"]
