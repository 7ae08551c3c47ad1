"""Each refusal of the control plane's API has a code of its own, reached by a request."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.control_plane import SCENE_CLUSTER, ControlPlane, prepare, running
from tests.fakes.link_scene import LabCredential, on_fake_lab

from isthmus.link.drivers.azure.config import AzureConfig
from isthmus.link.drivers.azure.driver import AzureCloud
from isthmus.wire.problems import MEANINGS, Code

HERE = f"/clusters/{SCENE_CLUSTER['cluster_id']}"
OTHER = {**SCENE_CLUSTER, "cluster_id": "clzyxwvut76", "cidr": "10.2.0.0/16"}
SERVERS = {"servers": ["https://127.0.0.1:8443"]}

#: Code -> method, path, body of a request to a control plane with one cluster, one deployment and two operators.
REQUESTS: dict[Code, tuple[str, str, Any]] = {
    Code.CLUSTER_NOT_FOUND: ("GET", "/clusters/cl222222222", None),
    Code.CLUSTER_EXISTS: ("POST", "/clusters", {**SCENE_CLUSTER, "cidr": "10.9.0.0/16"}),
    Code.DEPLOYMENT_EXISTS: ("PUT", f"/clusters/{OTHER['cluster_id']}/deployments/dtest234", SERVERS),
    Code.DEPLOYMENT_NOT_FOUND: ("GET", f"{HERE}/deployments/dabsent2/admin/v1/agents", None),
    Code.ADMIN_NOT_CONFIGURED: ("GET", f"{HERE}/deployments/dtest234/admin/v1/agents", None),
    Code.LINK_NOT_FOUND: ("GET", f"{HERE}/link", None),
    Code.EXPECTATION_NOT_FOUND: ("DELETE", f"{HERE}/link/expectations/ex2222222222", None),
    Code.OPERATOR_NOT_FOUND: ("POST", "/operators/nobody/revoke", None),
    Code.OPERATOR_EXISTS: ("POST", "/operators", {"name": "ann", "role": "viewer"}),
    Code.OPERATOR_LAST_ADMIN: ("POST", "/operators/ann/revoke", None),
    Code.REQUEST_INVALID: ("POST", "/clusters", {"cidr": "everywhere"}),
    Code.METHOD_NOT_ALLOWED: ("PATCH", "/clusters", {}),
}


@pytest.fixture
async def plane(new_database: Callable[[], str], tmp_path: Path) -> AsyncIterator[ControlPlane]:
    url = new_database()
    with on_fake_lab(tmp_path) as (lab, _scene):
        config = AzureConfig(arm_endpoint=lab.url, ca_file=lab.ca, poll_seconds=0.01, operation_seconds=20)
        async with AzureCloud(config, LabCredential(lab)) as cloud, running(url, cloud, await prepare(url)) as plane:
            await plane.call("POST", "/clusters", SCENE_CLUSTER, status=201)
            yield plane


async def test_each_refusal_has_its_code(plane: ControlPlane) -> None:
    await plane.call("PUT", f"{HERE}/deployments/dtest234", SERVERS)
    await plane.call("POST", "/clusters", OTHER, status=201)
    seen = {}
    for code, (method, path, body) in REQUESTS.items():
        answer = await plane.http.request(method, f"/control/v1{path}", json=body)
        seen[code] = (answer.json()["code"], answer.status_code)
    assert seen == {code: (code, MEANINGS[code].status) for code in REQUESTS}


async def test_tokens_and_roles(plane: ControlPlane) -> None:
    async with plane.connected(Authorization="Bearer nonsense") as nobody:
        assert (await nobody.get("/control/v1/clusters")).json()["code"] == Code.OPERATOR_TOKEN_INVALID
    made = await plane.call("POST", "/operators", {"name": "eve", "role": "viewer"}, status=201)
    async with plane.connected(Authorization=f"Bearer {made['secret']}") as viewer:
        assert (await viewer.get("/control/v1/clusters")).status_code == 200
        assert (await viewer.post("/control/v1/clusters", json=OTHER)).json()["code"] == Code.OPERATOR_ROLE
