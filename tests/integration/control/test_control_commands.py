"""The provider's commands against a control plane on the lab; and the programs as people start them."""

import asyncio
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.fakes.control_plane import ControlPlane, Json, prepare, running
from tests.fakes.lab import FakeLab
from tests.fakes.link_scene import HERE, LabCredential, Scene, on_fake_lab
from tests.integration.control.conftest import HOST, Pki, free_port

from isthmus.cli import main
from isthmus.cli.exits import Exit
from isthmus.link.drivers.azure.config import AzureConfig
from isthmus.link.drivers.azure.driver import AzureCloud


class Shell:
    """Runs commands as an operator would."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.err = ""

    async def __call__(self, *words: str, code: int = 0) -> str:
        self._capsys.readouterr()
        found = await asyncio.to_thread(main.run, words)
        out, self.err = self._capsys.readouterr()
        assert found == code, (words, found, out, self.err)
        return out

    async def json(self, *words: str) -> Json:
        found: Json = json.loads(await self(*words, "--json"))
        return found


@pytest.fixture
def lab_and_scene(tmp_path: Path) -> Iterator[tuple[FakeLab, Scene]]:
    with on_fake_lab(tmp_path) as both:
        yield both


@pytest.fixture
async def plane(
    new_database: Callable[[], str],
    lab_and_scene: tuple[FakeLab, Scene],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[ControlPlane]:
    lab, url = lab_and_scene[0], new_database()
    token = await prepare(url)
    config = AzureConfig(arm_endpoint=lab.url, ca_file=lab.ca, poll_seconds=0.01, operation_seconds=20)
    async with AzureCloud(config, LabCredential(lab)) as cloud, running(url, cloud, token) as plane:
        (tmp_path / "ann").write_text(token)
        monkeypatch.setenv("ISTHMUS_CONTROL_URL", plane.url)
        monkeypatch.setenv("ISTHMUS_CONTROL_TOKEN_FILE", str(tmp_path / "ann"))
        monkeypatch.setenv("COLUMNS", "300")
        yield plane


@pytest.fixture
def shell(plane: ControlPlane, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def ask(scene: Scene, alias: str, name: str = "isthmus-privatelink") -> str:
    path = scene.path(scene.customer, f"privateEndpoints/{name}")
    request = {"name": "link", "properties": {"privateLinkServiceId": alias, "requestMessage": "us"}}
    properties = {"subnet": {"id": scene.subnet_id()}, "manualPrivateLinkServiceConnections": [request]}
    scene.put(path, {"location": HERE, "properties": properties})
    return path


CREATE = ("cluster", "create", "--cidr", "10.1.0.0/16", "--domain", "example.com", "--region", HERE)


async def test_the_provider_works_on_the_command_line(
    shell: Shell, lab_and_scene: tuple[FakeLab, Scene], tmp_path: Path
) -> None:
    scene = lab_and_scene[1]
    assert "cluster create" in (await shell("link", "show", code=Exit.USAGE)) + shell.err
    cluster = (await shell.json(*CREATE))["cluster_id"]
    assert re.fullmatch("cl[a-z2-7]{9}", cluster)
    assert f"{cluster}.external.example.com" in await shell("cluster", "list")
    assert "not published" in await shell("cluster", "show")

    added = await shell("cluster", "deployment", "add", "daaaaaaa", "--server", "https://api.internal:8443")
    assert f"https://{cluster}.external.example.com/daaaaaaa" in added
    assert "daaaaaaa" in await shell("cluster", "deployment", "list")

    spec = scene.service_spec()
    where = ("--frontend", spec.frontend_id, "--nat-subnet", spec.nat_subnet_id)
    plan = await shell("link", "publish", *where, "--dry-run")
    assert plan.startswith("1. Disable the policies")
    assert f"Create link service isthmus-{cluster}" in plan
    assert "has no link" in (await shell("link", "show", code=Exit.NOT_FOUND)) + shell.err
    published = await shell("link", "publish", *where)
    alias = re.search(r"^alias +(\S+)$", published, re.MULTILINE)
    assert alias is not None, published
    assert published.index("1. Disable the policies") < published.index("alias")
    assert "All is as it should be." in await shell("link", "publish", *where)

    endpoint = ask(scene, alias[1])
    await _listed(shell, "pending")
    asked = await shell("link", "connections")
    assert '"us"' in asked
    assert "expires in 14 d" in asked
    assert "isthmus link approve" in shell.err
    assert f"{endpoint} is approved." in await shell("link", "approve", "isthmus-privatelink", "--reason", "friends")
    approved = await shell("link", "connections")
    assert "ann, friends" in approved
    assert '"us"' in approved, "what the customer said stays beside the decision"
    await shell("link", "unpublish", code=Exit.FAILED)
    assert "(customers_connected)" in shell.err
    assert "is rejected." in await shell("link", "reject", endpoint)
    await shell("link", "approve", endpoint, code=Exit.FAILED)
    assert "(connection_final)" in shell.err
    assert "is disconnected." in await shell("link", "remove", endpoint)
    await shell("link", "remove", endpoint, code=Exit.NOT_FOUND)

    made = await shell.json("link", "expect", "--subscription", scene.customer)
    ask(scene, alias[1], "second")
    await _listed(shell, "approved")
    assert made["expectation_id"] in await shell("link", "expected")
    await shell("link", "unexpect", made["expectation_id"])
    assert (await shell.json("link", "expected"))["expectations"] == []

    await shell("operator", "create", "eve", "--output", str(tmp_path / "eve"))
    assert (tmp_path / "eve").stat().st_mode & 0o777 == 0o600
    await shell("link", "unpublish", "--force", "--control-token-file", str(tmp_path / "eve"), code=Exit.FAILED)
    assert "(operator_role)" in shell.err
    await shell("operator", "revoke", "eve")
    await shell("operator", "list", "--control-token-file", str(tmp_path / "eve"), code=Exit.FAILED)
    assert "(operator_token_invalid)" in shell.err
    assert "revoked" in await shell("operator", "list")
    await shell("operator", "revoke", "ann", code=Exit.FAILED)

    await shell("link", "unpublish", "--force")
    assert "is gone" in shell.err
    await shell("cluster", "deployment", "remove", "daaaaaaa")
    log = await shell("audit", "list")
    assert "connection.approve" in log
    assert "127.0.0.1" in log
    assert len((await shell.json("audit", "list", "--limit", "3"))["entries"]) == 3


async def _listed(shell: Shell, state: str) -> None:
    for _ in range(100):
        page = await shell.json("link", "connections")
        if any(one["state"] == state for one in page["connections"]):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(page)


async def test_what_is_wrong_is_said_before_anything_is_asked(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await shell("cluster", "show", "--cluster", "../operators", code=Exit.USAGE)
    await shell(
        "cluster", "create", "--cidr", "8.8.8.0/24", "--domain", "example.com", "--region", HERE, code=Exit.USAGE
    )
    assert "private network" in shell.err
    await shell(*CREATE)
    await shell(*CREATE, code=Exit.FAILED)
    assert "overlaps" in shell.err
    await shell("link", "publish", "--frontend", "x", "--nat-subnet", "y", code=Exit.USAGE)
    await shell("link", "expect", code=Exit.USAGE)
    await shell("operator", "create", "Ann B", code=Exit.USAGE)
    monkeypatch.setenv("ISTHMUS_CONTROL_URL", "http://127.0.0.1:1")
    await shell("cluster", "list", code=Exit.UNREACHABLE)
    monkeypatch.delenv("ISTHMUS_CONTROL_URL")
    await shell("cluster", "list", code=Exit.USAGE)


@contextmanager
def started(*words: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program of ours, ended with SIGTERM."""
    variables = {**os.environ, **environment}
    process = subprocess.Popen([sys.executable, "-m", "isthmus.cli.main", *words], env=variables)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def until(look: Callable[[], Any], seconds: float = 60) -> Any:
    """What ``look`` gives when it gives something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if (found := look()) is not None:
                return found
        except (httpx.TransportError, AssertionError):
            pass
        time.sleep(0.1)
    raise AssertionError("it did not happen")


def test_control_plane_and_ingress_run_as_programs(
    lab_and_scene: tuple[FakeLab, Scene], ingress_home: Path, tmp_path: Path, pki: Pki
) -> None:
    """With the embedded PostgreSQL, and an ingress that follows."""
    lab = lab_and_scene[0]
    home, port = ingress_home / "control", free_port()
    url = f"http://127.0.0.1:{port}"
    variables = {
        "ISTHMUS_CONTROL_HOME": str(home),
        "ISTHMUS_CONTROL_URL": url,
        "ISTHMUS_CONTROL_TOKEN_FILE": str(tmp_path / "root"),
        "ISTHMUS_AZURE_ARM_ENDPOINT": lab.url,
        "ISTHMUS_AZURE_CA_FILE": str(lab.ca),
    }

    def say(*words: str) -> str:
        command = [sys.executable, "-m", "isthmus.cli.main", *words]
        return subprocess.run(
            command, env={**os.environ, **variables}, check=True, capture_output=True, text=True
        ).stdout

    assert "revision 0" in say("control", "migrate")
    say("control", "admit", "root", "--output", str(tmp_path / "root"))
    chain, key = pki.issue("ingress", "localhost", HOST)
    public = free_port()
    with started("control", "serve", "--listen-port", str(port), **variables):
        until(lambda: httpx.get(f"{url}/healthz").json()["status"])
        cluster = json.loads(say(*CREATE, "--json"))["cluster_id"]
        say("operator", "create", "door", "--output", str(tmp_path / "door"))
        flags = {
            "--cluster": cluster,
            "--control-url": url,
            "--control-token-file": str(tmp_path / "door"),
            "--certificate": str(chain),
            "--private-key": str(key),
            "--home": str(ingress_home / "ingress"),
            "--listen-port": str(public),
            "--link-port": "0",
            "--health-port": str(free_port()),
            "--drain-seconds": "2",
        }
        with started("control", "ingress", *(word for flag in flags.items() for word in flag)):
            trust = ssl.create_default_context(cafile=str(pki.authority))
            answer = until(lambda: httpx.get(f"https://localhost:{public}/", verify=trust))
            assert (answer.status_code, answer.text) == (404, "404 page not found\n")
            say("cluster", "deployment", "add", "daaaaaaa", "--server", "https://localhost:1")

            def led() -> Any:
                answer = httpx.get(f"https://localhost:{public}/daaaaaaa/execution/", verify=trust)
                return answer if answer.status_code == 503 else None

            assert until(led).json()["code"] == "deployment_unreachable"
