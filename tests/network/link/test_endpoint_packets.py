"""The customer's commands on a lab with packets: a program in the network is moved to the endpoint, and back."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.link_scene import HOST, Scene

from isthmus.lab import running
from isthmus.lab.packets import requirements
from network.lab.served import ServedLab

pytestmark = pytest.mark.skipif(bool(requirements.missing()), reason="; ".join(requirements.missing()))

PUBLIC = "203.0.113.80"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[ServedLab]:
    with ServedLab(tmp_path / "home") as lab:
        yield lab.start()


@pytest.fixture
def scene(lab: ServedLab) -> Scene:
    scene = Scene(lab.http, lab.served.provider_subscription, lab.served.customer_subscription).build()
    scene.add_server("10.1.0.20", "front")
    return scene


@pytest.fixture
def _server(lab: ServedLab, scene: Scene, tmp_path: Path) -> Iterator[None]:
    (tmp_path / "index.html").write_text("hello from the plane")
    words = [sys.executable, "-m", "http.server", "80", "--bind", "10.1.0.20", "--directory", str(tmp_path)]
    process = subprocess.Popen(
        [*lab.entering("plane"), *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=lab._environment
    )
    yield
    process.terminate()
    process.wait(10)


def isthmus(lab: ServedLab, *words: str) -> subprocess.Popen[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "ISTHMUS_AZURE_ARM_ENDPOINT": lab.served.arm,
        **running.environment(lab.served),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "isthmus.cli.main", "endpoint", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


def fetch(lab: ServedLab, url: str = f"http://{HOST}/") -> str:
    """What the page says, or curl's exit code."""
    done = lab.exec("net", "curl", "--silent", "--max-time", "2", url)
    return done.stdout or f"curl {done.returncode}"


def address_of_the_host(lab: ServedLab) -> str:
    return lab.exec("net", "getent", "ahostsv4", str(HOST)).stdout.partition(" ")[0]


@pytest.mark.usefixtures("_server")
def test_a_network_is_moved_to_the_endpoint_and_back(lab: ServedLab, scene: Scene) -> None:
    alias = scene.publish()
    running.ask(lab.home, "PUT", f"/public-names/{HOST}", {"addresses": [PUBLIC]})
    place = ("-g", "rg")
    words = (*place, "--vnet", "net", "--subnet", "agents", "--alias", alias, "--host", str(HOST))

    made = json.loads(finished(isthmus(lab, "create", *words, "--no-wait", "--json")))
    assert made["outcome"] == "awaiting_approval"
    address = made["endpoint"]["address"]
    # Nothing passes, and nobody is led there: the name is the public one until the provider has approved.
    assert fetch(lab, f"http://{address}/") == "curl 28"
    assert address_of_the_host(lab) == PUBLIC

    waiting = isthmus(lab, "create", *place)
    assert waiting.stderr is not None
    assert "Wait until the provider approves" in waiting.stderr.readline()
    approved_at = time.monotonic()
    scene.decide("Approved", "welcome")
    while (page := fetch(lab)) != "hello from the plane":
        assert time.monotonic() - approved_at < 10, page
    assert address_of_the_host(lab) == address
    finished(waiting)

    scene.decide("Rejected", "no more")
    assert fetch(lab) == "curl 28"
    refused = isthmus(lab, "apply", *place)
    assert "(connection_rejected)" in refused.communicate(timeout=60)[1]
    assert refused.returncode == 1

    finished(isthmus(lab, "create", *place, "--recreate", "--no-wait"))
    scene.decide("Approved", "again")
    finished(isthmus(lab, "apply", *place))
    assert fetch(lab) == "hello from the plane"

    finished(isthmus(lab, "delete", *place))
    assert address_of_the_host(lab) == PUBLIC
