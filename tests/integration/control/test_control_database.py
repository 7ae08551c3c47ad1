"""PostgreSQL is stopped under a control plane: requests say so, nothing changes unseen, and it recovers by itself."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast
from uuid import UUID

import httpx
import pytest
from tests import planting
from tests.fakes import admin_api
from tests.fakes.control_plane import SCENE_CLUSTER, ControlPlane, prepare, running

from isthmus.deployment import embedded
from isthmus.link.clouds import ProviderCloud
from isthmus.wire.problems import Code

_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
CLUSTER = f"/clusters/{SCENE_CLUSTER['cluster_id']}"
AGENT = f"{CLUSTER}/deployments/dtest234/admin/v1/agents/{UUID(int=1)}"


@pytest.fixture
def directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="isthmus-test-control-"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


async def _unavailable(plane: ControlPlane, method: str, path: str) -> None:
    began = time.monotonic()
    answer = await plane.http.request(method, f"/control/v1{path}")
    said = answer.json()
    assert (answer.status_code, said["code"], said["retryable"]) == (503, Code.DATABASE_UNAVAILABLE, True)
    assert "control plane's database" in said["detail"]
    assert "--home" in said["hint"]
    assert time.monotonic() - began < 12


async def test_requests_say_that_the_database_is_away_and_recover(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "dtest234").write_text(admin_api.TOKEN)
    server = await asyncio.to_thread(embedded.start, directory, settings=_FAST)
    try:
        planting.execute(server.database_url("postgres"), "CREATE DATABASE control")
        url = server.database_url("control")
        token = await prepare(url)
        with admin_api.serving() as deployment:
            deployment.agents[UUID(int=1)] = admin_api.agent(1)
            cloud = cast("ProviderCloud", None)  # there is no link, so nobody asks
            async with running(url, cloud, token, admin_tokens=tmp_path) as plane:
                await plane.call("POST", "/clusters", SCENE_CLUSTER, status=201)
                registered = {"servers": ["https://localhost"], "admin_url": deployment.url}
                await plane.call(
                    "PUT", f"{CLUSTER}/deployments/dtest234", {**registered, "admin_token_reference": "dtest234"}
                )
                await plane.call("POST", f"{AGENT}/cordon")
                await asyncio.to_thread(server.stop)

                heard = len(deployment.requests)
                for method, path in (
                    ("GET", "/clusters"),
                    ("GET", "/overview"),
                    ("POST", f"{AGENT}/drain"),
                    ("DELETE", f"{CLUSTER}/deployments/dtest234"),
                ):
                    await _unavailable(plane, method, path)
                assert len(deployment.requests) == heard, "nobody is asked for what the audit log cannot keep"
                health = await plane.http.get("/healthz")
                assert (health.status_code, health.json()["warnings"][0]["code"]) == (503, "database_unavailable")
                assert (await plane.http.get("/metrics")).status_code == 200

                server = await asyncio.to_thread(embedded.start, directory, settings=_FAST)
                assert server.database_url("control") == url, "it came back where it was"
                seen = await plane.until("/overview", lambda one: "agents" in one)
                assert [one["cordoned"] for one in seen["agents"]] == [True]
                assert [one["draining"] for one in seen["agents"]] == [False]
                await plane.call("POST", f"{AGENT}/drain")
                entries = (await plane.call("GET", "/audit", limit=2))["entries"]
                assert [one["action"] for one in entries] == ["agent.drain", "agent.cordon"]
                async with asyncio.timeout(20):
                    while await _failing(plane.http):
                        await asyncio.sleep(0.1)
    finally:
        await asyncio.to_thread(server.stop)


async def _failing(http: httpx.AsyncClient) -> bool:
    return (await http.get("/healthz")).status_code != 200
