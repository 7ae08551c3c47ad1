"""The control plane killed (SIGKILL) at each step of publishing and unpublishing: the next one goes on from there."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.fakes.control_plane import SCENE_CLUSTER, prepare
from tests.fakes.lab import FakeLab
from tests.fakes.link_scene import Scene, on_fake_lab
from tests.integration.control.conftest import free_port
from tests.strides import stride

LINK = "/control/v1/clusters/clabcdefgh2/link"

PROGRAM = """
import asyncio, json, os, signal, sys
from azure.core.credentials import AccessToken
from isthmus.control import serving
from isthmus.control.config import ControlConfig
from isthmus.link.drivers.azure.config import AzureConfig
from isthmus.link.drivers.azure.driver import AzureCloud
from isthmus.link.reconciling import Began, Took
from pathlib import Path

asked = json.loads(sys.argv[1])
left = asked["events"]

class Credential:
    async def get_token(self, *scopes, **options):
        return AccessToken(asked["token"], 2**31)
    async def close(self): pass
    async def __aenter__(self): return self
    async def __aexit__(self, *_): pass

def tell(event):
    global left
    if isinstance(event, Began | Took):
        print(json.dumps(type(event).__name__ + " " + type(event.step).__name__), flush=True)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

async def run():
    config = AzureConfig(arm_endpoint=asked["arm"], ca_file=Path(asked["ca"]), poll_seconds=0.01)
    async with AzureCloud(config, Credential()) as cloud:
        settings = ControlConfig(listen_port=asked["port"], look_seconds=0.2, cloud_seconds=2.0)
        await serving.run(settings, asked["database"], cloud, tell=tell)

asyncio.run(run())
"""


@pytest.fixture
def lab_and_scene(tmp_path: Path) -> Iterator[tuple[FakeLab, Scene]]:
    with on_fake_lab(tmp_path) as both:
        yield both


class Planes:
    """Control planes as processes, one after the other, on one database and one lab."""

    def __init__(self, database: str, token: str, lab: FakeLab) -> None:
        self._database, self._token, self._lab = database, token, lab
        self.events: list[str] = []

    @asynccontextmanager
    async def one(self, events: int = 0) -> Any:
        """A plane that kills itself at the given event; a client of it."""
        asked = {
            "events": events,
            "token": self._lab.token(),
            "arm": self._lab.url,
            "ca": str(self._lab.ca),
            "database": self._database,
            "port": free_port(),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, json.dumps(asked), stdout=asyncio.subprocess.PIPE, env=os.environ
        )
        headers = {"Authorization": f"Bearer {self._token}"}
        try:
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{asked['port']}", headers=headers, timeout=20
            ) as http:
                yield http, process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            assert process.stdout is not None
            said = (await process.stdout.read()).decode()
            self.events += [json.loads(line) for line in said.splitlines() if line.startswith('"')]
            await asyncio.wait_for(process.wait(), 20)


async def until(http: httpx.AsyncClient, is_so: Callable[[httpx.Response], bool], path: str = LINK) -> httpx.Response:
    async with asyncio.timeout(30):
        while True:
            try:
                answer = await http.get(path)
            except httpx.TransportError:
                await asyncio.sleep(0.05)
                continue
            if is_so(answer):
                return answer
            await asyncio.sleep(0.05)


def enable_policies(scene: Scene) -> None:
    """Put the NAT subnet back to how it was before anybody published."""
    path = scene.service_spec().nat_subnet_id
    found = scene.get(path)
    properties = {**found["properties"], "privateLinkServiceNetworkPolicies": "Enabled"}
    scene.put(path, {**found, "properties": properties})


async def actions(http: httpx.AsyncClient) -> list[str]:
    page = (await http.get("/control/v1/audit")).json()
    return [entry["action"] for entry in reversed(page["entries"]) if entry["action"].startswith("link.")]


async def test_killed_at_each_step_of_publishing_and_unpublishing(
    new_database: Callable[[], str], lab_and_scene: tuple[FakeLab, Scene]
) -> None:
    lab, scene = lab_and_scene
    database = new_database()
    planes = Planes(database, await prepare(database), lab)
    spec = scene.service_spec()
    body = {"service_id": spec.service_id, "frontend_id": spec.frontend_id, "nat_subnet_id": spec.nat_subnet_id}
    async with planes.one() as (http, _):
        await until(http, lambda answer: answer.status_code == 404)
        assert (await http.post("/control/v1/clusters", json=SCENE_CLUSTER)).status_code == 201
        assert (await http.put(LINK, json=body)).status_code == 202
        await until(http, lambda answer: answer.json().get("state") == "published")
        await http.delete(LINK)
        await until(http, lambda answer: answer.status_code == 404)
    steps = planes.events.copy()
    assert steps == [
        "Began DisableSubnetPolicies",
        "Took DisableSubnetPolicies",
        "Began CreateService",
        "Took CreateService",
        "Began DeleteService",
        "Took DeleteService",
    ]
    numbers = range(1, 5, stride(3))
    for number in numbers:
        enable_policies(scene)  # so that each publishing begins with the same step
        async with planes.one(number) as (http, process):
            await until(http, lambda answer: answer.status_code == 404)
            await http.put(LINK, json=body)
            assert await asyncio.wait_for(process.wait(), 20) == -signal.SIGKILL
        assert planes.events[-1] == steps[number - 1]
        async with planes.one(number) as (http, process):
            # The wish is there, and what was done is not done again.
            published = await _unless_killed(http, process, lambda answer: answer.json().get("state") == "published")
        if published is None:
            async with planes.one() as (http, process):
                published = await until(http, lambda answer: answer.json().get("state") == "published")
        assert published.json()["alias"] == scene.get(scene.service_id)["properties"]["alias"]
        async with planes.one(min(number, 2)) as (http, process):
            await until(http, lambda answer: answer.status_code == 200)
            await http.delete(LINK)
            assert await asyncio.wait_for(process.wait(), 20) == -signal.SIGKILL
        async with planes.one() as (http, process):
            await until(http, lambda answer: answer.status_code == 404)
            assert not scene.exists(scene.service_id)
    async with planes.one() as (http, _):
        await until(http, lambda answer: answer.status_code == 404)
        assert await actions(http) == ["link.publish", "link.unpublish", "link.unpublished"] * (1 + len(numbers))


async def _unless_killed(
    http: httpx.AsyncClient, process: asyncio.subprocess.Process, is_so: Callable[[httpx.Response], bool]
) -> httpx.Response | None:
    looking = asyncio.ensure_future(until(http, is_so))
    dying = asyncio.ensure_future(process.wait())
    await asyncio.wait((looking, dying), return_when=asyncio.FIRST_COMPLETED)
    dying.cancel()
    if looking.done():
        return looking.result()
    looking.cancel()
    return None
