"""The control plane asks its deployments: several admin APIs over HTTP, some of them away, and one link on the lab."""

import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from tests.fakes import admin_api
from tests.fakes.admin_api import FakeAdminApi
from tests.fakes.control_plane import SCENE_CLUSTER, ControlPlane, Json, prepare, running
from tests.fakes.link_scene import HERE, LabCredential, Scene, on_fake_lab

from isthmus.cli import main
from isthmus.control import changing, sights
from isthmus.control.databases import Database
from isthmus.link.drivers.azure.config import AzureConfig
from isthmus.link.drivers.azure.driver import AzureCloud
from isthmus.wire import problems
from isthmus.wire.admin import AgentHealth, TokenState
from isthmus.wire.names import PathKind
from isthmus.wire.problems import CONTENT_TYPE, Code

CLUSTER = f"/clusters/{SCENE_CLUSTER['cluster_id']}"
DEPLOYMENT = "dtest234"
BELOW = f"{CLUSTER}/deployments/{DEPLOYMENT}"
ADMIN = f"{BELOW}/admin/v1"


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    directory = tmp_path / "tokens"
    directory.mkdir()
    (directory / "good").write_text(f"{admin_api.TOKEN}\n")
    (directory / "wrong").write_text("another-token\n")
    (tmp_path / "outside").write_text(f"{admin_api.TOKEN}\n")
    (directory / "leads-out").symlink_to(tmp_path / "outside")
    return directory


@pytest.fixture
def api() -> Iterator[FakeAdminApi]:
    with admin_api.serving() as fake:
        for number in (1, 2, 3):
            fake.agents[UUID(int=number)] = admin_api.agent(number)
        fake.tokens["abcdefghijkl"] = admin_api.token("abcdefghijkl")
        yield fake


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[tuple[Any, Scene]]:
    with on_fake_lab(tmp_path) as both:
        yield both


@pytest.fixture
def database_url(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture
async def plane(database_url: str, scene: tuple[Any, Scene], tokens: Path) -> AsyncIterator[ControlPlane]:
    lab = scene[0]
    token = await prepare(database_url)
    config = AzureConfig(arm_endpoint=lab.url, ca_file=lab.ca, poll_seconds=0.01, operation_seconds=20)
    async with (
        AzureCloud(config, LabCredential(lab)) as cloud,
        running(database_url, cloud, token, admin_tokens=tokens) as plane,
    ):
        await plane.call("POST", "/clusters", SCENE_CLUSTER, status=201)
        yield plane


async def register(plane: ControlPlane, url: str | None, deployment: str = DEPLOYMENT, token: str = "good") -> None:
    body = {"servers": ["https://localhost:8443"], "admin_url": url, "admin_token_reference": token}
    await plane.call("PUT", f"{CLUSTER}/deployments/{deployment}", body)


async def newest(plane: ControlPlane) -> Json:
    found: Json = (await plane.call("GET", "/audit", limit=1))["entries"][0]
    return found


async def test_a_deployment_is_read_through_the_control_plane(plane: ControlPlane, api: FakeAdminApi) -> None:
    one = admin_api.workload(1)
    api.workloads[one.workload_id] = one
    await register(plane, api.url)
    assert (await plane.call("GET", f"{ADMIN}/deployment"))["deployment_id"] == DEPLOYMENT
    first = await plane.call("GET", f"{ADMIN}/agents", limit=2)
    assert [one["name"] for one in first["agents"]] == ["agent-1", "agent-2"]
    rest = await plane.call("GET", f"{ADMIN}/agents", after=first["next_after"])
    assert [one["name"] for one in rest["agents"]] == ["agent-3"]
    assert (await plane.call("GET", f"{ADMIN}/agents/{UUID(int=2)}"))["name"] == "agent-2"
    assert (await plane.call("GET", f"{ADMIN}/tokens"))["tokens"][0]["token_id"] == "abcdefghijkl"
    assert (await plane.call("GET", f"{ADMIN}/allow-list"))["ranges"] == []
    listed = await plane.call("GET", f"{ADMIN}/workloads", state="succeeded")
    assert listed["workloads"][0]["workload_id"] == str(one.workload_id)
    assert (await plane.call("GET", f"{ADMIN}/workloads/{one.workload_id}"))["payload"] == {"type": "x"}
    assert (await plane.call("GET", f"{ADMIN}/verifications", agent="agent-1"))["verifications"] == []
    nothing = await plane.call("GET", f"{ADMIN}/verifications/{UUID(int=7)}", status=404)
    assert nothing["code"] == Code.VERIFICATION_NOT_FOUND
    assert (await plane.call("GET", f"{ADMIN}/agents/{UUID(int=1)}/log"))["order_id"] is None
    assert (await plane.call("GET", f"{ADMIN}/agents", status=422, colour="red"))["code"] == Code.REQUEST_INVALID
    assert (await newest(plane))["action"] == "deployment.register", "looking leaves no entry"


CHANGES: list[tuple[str, str, Any, int, str, Json | None, Json | None]] = [
    ("POST", f"agents/{UUID(int=1)}/cordon", None, 200, "agent.cordon", {"cordoned": False}, {"cordoned": True}),
    ("POST", f"agents/{UUID(int=1)}/drain", None, 200, "agent.drain", {"draining": False}, {"draining": True}),
    ("POST", f"agents/{UUID(int=1)}/probes", {}, 202, "agent.verify", {"name": "agent-1"}, {"name": "agent-1"}),
    ("POST", f"agents/{UUID(int=1)}/log", {}, 202, "agent.log", None, {"name": "agent-1"}),
    ("DELETE", f"agents/{UUID(int=9)}", None, 204, "agent.remove", {"name": "agent-9"}, {"force": False}),
    ("POST", "tokens", {"name": "oslo"}, 201, "token.create", None, {"name": "oslo", "token_id": "newtokenidaa"}),
    ("POST", "tokens/abcdefghijkl/revoke", None, 200, "token.revoke", {"state": "active"}, {"state": "revoked"}),
    (
        "POST",
        "tokens/abcdefghijkl/rotate",
        {},
        201,
        "token.rotate",
        {"token_id": "abcdefghijkl"},
        {"token_id": "successoridaa"},
    ),
    (
        "PUT",
        "allow-list",
        {"ranges": ["192.0.2.0/24"]},
        200,
        "allow_list.replace",
        {"ranges": []},
        {"ranges": ["192.0.2.0/24"]},
    ),
    (
        "PUT",
        "restriction",
        {"ranges": ["10.1.0.0/16"]},
        200,
        "deployment.restrict",
        {"ranges": []},
        {"ranges": ["10.1.0.0/16"], "outcome": "restricted", "cut_off": ["agent-1"]},
    ),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "action", "before", "after"), CHANGES)
async def test_each_change_is_in_the_audit_log_with_before_and_after(
    plane: ControlPlane,
    api: FakeAdminApi,
    method: str,
    path: str,
    body: Any,
    status: int,
    action: str,
    before: Json | None,
    after: Json | None,
) -> None:
    api.agents[UUID(int=9)] = unhealthy(9)
    await register(plane, api.url)
    made = await plane.call(method, f"{ADMIN}/{path}", body, status=status)
    entry = await newest(plane)
    assert (entry["operator"], entry["action"], entry["subject"]) == ("ann", action, f"deployment/{DEPLOYMENT}")
    assert entry["source_address"] == "127.0.0.1"
    for found, expected in ((entry["before"], before), (entry["after"], after)):
        assert (found is None) == (expected is None)
        assert {key: (found or {}).get(key) for key in expected or {}} == (expected or {})
    if "secret" in made:
        assert made["secret"].startswith("isthmus_")
        assert made["secret"] not in json.dumps(await plane.call("GET", "/audit"))


async def test_a_viewer_reads_and_changes_nothing(plane: ControlPlane, api: FakeAdminApi) -> None:
    await register(plane, api.url)
    eve = (await plane.call("POST", "/operators", {"name": "eve", "role": "viewer"}, status=201))["secret"]
    async with plane.connected(Authorization=f"Bearer {eve}") as viewer:
        assert (await viewer.get(f"/control/v1{ADMIN}/agents")).status_code == 200
        for method, path, body, *_ in CHANGES:
            answer = await viewer.request(method, f"/control/v1{ADMIN}/{path}", json=body)
            assert answer.json()["code"] == Code.OPERATOR_ROLE, (method, path)
    assert {method for method, *_ in api.requests} == {"GET"}


async def test_what_changes_nothing_leaves_no_entry(plane: ControlPlane, api: FakeAdminApi) -> None:
    await register(plane, api.url)
    await plane.call("POST", f"{ADMIN}/agents/{UUID(int=1)}/uncordon")
    await plane.call("PUT", f"{ADMIN}/restriction", {"ranges": ["10.1.0.0/16"], "dry_run": True})
    api.restriction = admin_api.admin.RestrictionOutcome.REFUSED
    refused = await plane.call("PUT", f"{ADMIN}/restriction", {"ranges": ["10.1.0.0/16"]}, status=409)
    assert refused["code"] == Code.AGENTS_CUT_OFF
    assert refused["detail"] == "No healthy agent comes from there.", "in the deployment's own words"
    await plane.call("POST", f"{ADMIN}/tokens/aaaaaaaaaaaa/revoke", status=404)
    assert (await newest(plane))["action"] == "deployment.register"


async def test_each_way_of_not_being_asked_has_its_code(plane: ControlPlane, api: FakeAdminApi) -> None:
    async def code(status: int) -> str:
        refused = await plane.call("GET", f"{ADMIN}/deployment", status=status)
        assert refused["hint"]
        assert admin_api.TOKEN not in json.dumps(refused)
        return str(refused["code"])

    assert await code(404) == Code.DEPLOYMENT_NOT_FOUND
    await register(plane, None)
    assert await code(409) == Code.ADMIN_NOT_CONFIGURED
    for reference in ("", "absent", "leads-out"):
        await register(plane, api.url, token=reference)
        assert await code(409) == Code.ADMIN_NOT_CONFIGURED, reference
    assert api.requests == [], "nobody is asked without a token"
    await register(plane, api.url, token="wrong")
    assert await code(409) == Code.ADMIN_REFUSED
    await register(plane, "http://127.0.0.1:1")
    assert await code(503) == Code.ADMIN_UNREACHABLE
    await register(plane, api.url)
    api.instead["/admin/v1/deployment"] = (200, "text/html", b"<h1>Welcome</h1>")
    assert await code(502) == Code.ADMIN_ANSWER_FOREIGN
    api.instead["/admin/v1/deployment"] = (404, "text/plain", b"404 page not found\n")
    assert await code(502) == Code.ADMIN_ANSWER_FOREIGN
    unavailable = problems.problem(Code.DATABASE_UNAVAILABLE).model_dump_json().encode()
    api.instead["/admin/v1/deployment"] = (503, CONTENT_TYPE, unavailable)
    assert await code(503) == Code.DATABASE_UNAVAILABLE


@pytest.mark.parametrize(
    "reference", ["/etc/passwd", "../outside", "a/../../outside", ".hidden", "a//b", "a b", "a\x00"]
)
async def test_references_that_lead_elsewhere_are_not_registered(plane: ControlPlane, reference: str) -> None:
    body = {"servers": ["https://localhost:8443"], "admin_token_reference": reference}
    assert (await plane.call("PUT", BELOW, body, status=422))["code"] == Code.REQUEST_INVALID


async def test_a_renewed_token_and_a_moved_deployment_need_no_restart(
    plane: ControlPlane, api: FakeAdminApi, tokens: Path
) -> None:
    await register(plane, api.url, token="wrong")
    await plane.call("GET", f"{ADMIN}/deployment", status=409)
    (tokens / "wrong").write_text(admin_api.TOKEN)
    await plane.call("GET", f"{ADMIN}/deployment")
    with admin_api.serving() as other:
        await register(plane, other.url)
        assert (await plane.call("GET", f"{ADMIN}/agents"))["agents"] == []


async def test_a_change_whose_end_nobody_knows_gets_an_entry(
    plane: ControlPlane, api: FakeAdminApi, database_url: str
) -> None:
    await register(plane, api.url)
    api.instead[f"/admin/v1/agents/{UUID(int=1)}/cordon"] = (200, "text/html", b"lost on the way")
    await plane.call("POST", f"{ADMIN}/agents/{UUID(int=1)}/cordon", status=502)
    entry = await newest(plane)
    assert (entry["action"], entry["after"]["outcome"]) == ("agent.cordon", "unknown")
    assert entry["after"]["wanted"]["cordoned"] is True
    # As a process leaves it that dies between asking and hearing.
    async with Database(database_url) as database:
        async with database.begin() as connection:
            await connection.execute(
                text(
                    "INSERT INTO isthmus_control.asked (at, operator, action, subject, wanted) "
                    "VALUES (now() - interval '3 minutes', 'bob', 'agent.drain', 'deployment/dtest234', '{}')"
                )
            )
        async with asyncio.timeout(10):
            while (await newest(plane))["operator"] != "bob":
                await asyncio.sleep(0.05)
        async with database.begin() as connection:
            assert await changing.settle_lost(connection) == 0


async def test_one_that_does_not_answer_holds_up_nobody(plane: ControlPlane, api: FakeAdminApi) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64)) for _ in range(4)]
        for number, one in enumerate(silent):
            await register(plane, f"http://127.0.0.1:{one.getsockname()[1]}", f"dsilent{'abcd'[number]}")
        await register(plane, api.url)
        await register(plane, "http://127.0.0.1:1", "dnobody2")
        began = time.monotonic()
        first = await plane.call("GET", "/overview")
        took = time.monotonic() - began
        assert took < 4.5, "at most the time for a look"
        seen = {one["deployment_id"]: one for one in first["deployments"]}
        assert seen[DEPLOYMENT]["problem"] is None
        assert seen[DEPLOYMENT]["deployment"]["agents_healthy"] == 3
        assert [one["name"] for one in first["agents"]] == ["agent-1", "agent-2", "agent-3"]
        for name in ("dsilenta", "dnobody2"):
            assert seen[name]["problem"]["code"] == Code.ADMIN_UNREACHABLE
            assert name in seen[name]["problem"]["sentence"]
            assert seen[name]["problem"]["hint"]
        asked = time.monotonic()
        await plane.call("GET", f"{ADMIN}/deployment")
        assert time.monotonic() - asked < 1
        # Looks are shared: many who ask at once are one look at each.
        await asyncio.sleep(2.1)
        before = len(api.requests)
        await asyncio.gather(*(plane.call("GET", "/overview") for _ in range(10)))
        assert len(api.requests) - before == 3 + 1, "the deployment, its tokens, two pages of agents"


async def test_a_deployment_that_went_away_is_shown_as_it_was(plane: ControlPlane, api: FakeAdminApi) -> None:
    await register(plane, api.url)
    assert (await plane.call("GET", f"{CLUSTER}/overview"))["deployments"][0]["problem"] is None
    await register(plane, "http://127.0.0.1:1")
    later = await plane.call("GET", f"{CLUSTER}/overview")
    assert later["deployments"][0]["problem"]["code"] == Code.ADMIN_UNREACHABLE
    assert later["deployments"][0]["observed_at"] is not None
    assert [one["name"] for one in later["agents"]] == ["agent-1", "agent-2", "agent-3"]


@pytest.fixture
def shell(
    plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    (tmp_path / "ann").write_text(plane.token)
    monkeypatch.setenv("ISTHMUS_CONTROL_URL", plane.url)
    monkeypatch.setenv("ISTHMUS_CONTROL_TOKEN_FILE", str(tmp_path / "ann"))
    monkeypatch.setenv("COLUMNS", "300")

    async def run(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        found = await asyncio.to_thread(main.run, words)
        out, err = capsys.readouterr()
        assert found == code, (words, found, out, err)
        return out + err

    return run


async def test_commands_find_the_deployment_through_the_control_plane(
    plane: ControlPlane, api: FakeAdminApi, shell: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "isthmus cluster deployment add" in await shell("agents", "list", code=2)
    await register(plane, api.url)
    assert "agent-3" in await shell("agents", "list")
    await register(plane, api.url, "dother23")
    assert "dother23, dtest234" in await shell("agents", "list", code=2)
    assert "agent-3" in await shell("agents", "list", "--deployment-id", DEPLOYMENT)
    assert "no new work" in await shell("agents", "cordon", "agent-1", "--deployment-id", DEPLOYMENT)
    assert api.agents[UUID(int=1)].cordoned
    silent = {"health": AgentHealth.UNHEALTHY, "last_heartbeat_at": admin_api.NOW - timedelta(minutes=5)}
    api.agents[UUID(int=2)] = api.agents[UUID(int=2)].model_copy(update=silent)
    await asyncio.sleep(sights.FRESH_SECONDS + 0.5)
    assert "(heartbeat_missing)" in await shell("agents", "show", "agent-2", "--deployment-id", DEPLOYMENT)
    assert "(heartbeat_missing)" not in await shell("agents", "show", "agent-1", "--deployment-id", DEPLOYMENT)
    assert "is registered" in await shell("agents", "list", "--deployment-id", "dabsent2", code=4)
    # What names a deployment directly comes first, whatever the environment says of a control plane.
    (tmp_path / "admin").write_text(admin_api.TOKEN)
    monkeypatch.setenv("ISTHMUS_CONTROL_TOKEN_FILE", str(tmp_path / "absent"))
    direct = ("--admin-url", api.url, "--admin-token-file", str(tmp_path / "admin"))
    assert "agent-3" in await shell("agents", "list", *direct)


async def test_restricting_to_the_cluster_takes_its_network(
    plane: ControlPlane, api: FakeAdminApi, shell: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(plane, api.url)
    said = await shell("deployment", "restrict", "--to-cluster", "--dry-run")
    assert "10.1.0.0/16, host clabcdefgh2.external.example.com, no link" in said
    assert "cut off" in said
    assert api.ranges == ()
    await shell("deployment", "restrict", "--to-cluster", "--to", "192.0.2.0/24")
    assert api.ranges == ("10.1.0.0/16", "192.0.2.0/24")
    assert (await newest(plane))["action"] == "deployment.restrict"
    await shell("deployment", "unrestrict")
    (tmp_path / "admin").write_text(admin_api.TOKEN)
    direct = ("--admin-url", api.url, "--admin-token-file", str(tmp_path / "admin"))
    await shell("deployment", "restrict", "--to-cluster", *direct)
    assert api.ranges == ("10.1.0.0/16",)
    assert (await newest(plane))["action"] == "deployment.unrestrict", "asked directly, the control plane hears nothing"
    monkeypatch.delenv("ISTHMUS_CONTROL_URL")
    assert "--control-url" in await shell("deployment", "restrict", "--to-cluster", *direct, code=2)


async def test_agents_of_all_deployments_are_listed_with_the_reason(
    plane: ControlPlane, api: FakeAdminApi, shell: Callable[..., Any]
) -> None:
    api.agents[UUID(int=2)] = unhealthy(2, token_id="revokedtoken")
    api.tokens["revokedtoken"] = admin_api.token("revokedtoken", state=TokenState.REVOKED)
    await register(plane, api.url)
    await register(plane, "http://127.0.0.1:1", "dnobody2")
    said = await shell("cluster", "agents")
    assert re.search(
        r"agent-2 .* unhealthy .* its token site-oslo \(revokedtoken\) was revoked \(token_revoked\)", said
    )
    assert "dnobody2: dnobody2 does not answer" in said
    assert "agent-1" not in await shell("cluster", "agents", "--unhealthy")
    found = json.loads(await shell("cluster", "agents", "--cluster", SCENE_CLUSTER["cluster_id"], "--json"))
    assert {one["name"]: one["reason"] and one["reason"]["code"] for one in found["agents"]} == {
        "agent-1": None,
        "agent-2": "token_revoked",
        "agent-3": None,
    }


def unhealthy(number: int, **changes: Any) -> Any:
    gone = {"health": AgentHealth.UNHEALTHY, "last_heartbeat_at": datetime.now(UTC) - timedelta(seconds=34)}
    return admin_api.agent(number, **{**gone, **changes})


async def test_an_unhealthy_agent_has_the_reason_that_holds(
    plane: ControlPlane, api: FakeAdminApi, scene: tuple[Any, Scene]
) -> None:
    spec = scene[1].service_spec()
    body = {"service_id": spec.service_id, "frontend_id": spec.frontend_id, "nat_subnet_id": spec.nat_subnet_id}
    await plane.call("PUT", f"{CLUSTER}/link", body, status=202)
    alias = (await plane.until(f"{CLUSTER}/link", lambda one: one["state"] == "published"))["alias"]
    endpoint = scene[1].path(scene[1].customer, "privateEndpoints/ep-west")
    request = {"name": "link", "properties": {"privateLinkServiceId": alias, "requestMessage": "us"}}
    properties = {"subnet": {"id": scene[1].subnet_id()}, "manualPrivateLinkServiceConnections": [request]}
    scene[1].put(endpoint, {"location": HERE, "properties": properties})
    listed = f"{CLUSTER}/link/connections"
    connection = (await plane.until(listed, lambda one: bool(one["connections"])))["connections"][0]
    link_id = connection["link_id"]
    assert link_id is not None

    api.agents = {
        UUID(int=1): unhealthy(1, path=PathKind.LINK, link_id=link_id, address="10.1.0.5"),
        UUID(int=2): unhealthy(2, token_id="revokedtoken"),
        UUID(int=3): unhealthy(3),
        UUID(int=4): admin_api.agent(4),
        UUID(int=5): unhealthy(5, last_heartbeat_at=None),
    }
    api.tokens["revokedtoken"] = admin_api.token("revokedtoken", state=TokenState.REVOKED)
    await register(plane, api.url)

    async def reasons() -> dict[str, Json | None]:
        await plane.call("POST", f"{ADMIN}/agents/{UUID(int=4)}/uncordon")  # what was changed is looked at again
        seen = (await plane.call("GET", f"{CLUSTER}/overview"))["agents"]
        return {one["name"]: one["reason"] for one in seen}

    found = await reasons()
    assert found["agent-4"] is None
    assert found["agent-1"] is not None
    assert found["agent-1"]["code"] == "connection_pending"
    assert found["agent-1"]["sentence"].startswith("no heartbeat for 3")
    assert found["agent-2"] is not None
    assert found["agent-2"]["code"] == "token_revoked"
    assert found["agent-3"] is not None
    assert found["agent-3"]["code"] == "heartbeat_missing"
    assert found["agent-5"] is not None
    assert found["agent-5"]["sentence"].startswith("no heartbeat yet; ")

    decision = f"{listed}/{connection['connection_id']}"
    await plane.call("POST", f"{decision}/approve", {"reason": ""})
    assert ((await reasons())["agent-1"] or {})["code"] == "heartbeat_missing"
    await plane.call("POST", f"{decision}/reject", {"reason": "maintenance"})
    # An agent that is asked to verify is told what it cannot see.
    await plane.call("POST", f"{ADMIN}/agents/{UUID(int=1)}/probes", {"endpoint": "10.1.0.4"}, status=202)
    told = next(asked for method, path, _, asked in reversed(api.requests) if path.endswith("/probes"))
    assert told["connection"] == {"endpoint": "ep-west", "state": "rejected", "reason": "maintenance"}
    await plane.call("POST", f"{ADMIN}/agents/{UUID(int=3)}/probes", {}, status=202)
    assert api.requests[-1][3]["connection"] is None, "it comes over the public path"
    rejected = (await reasons())["agent-1"] or {}
    assert rejected["code"] == "connection_rejected"
    assert rejected["sentence"].endswith("; the connection of its endpoint ep-west was rejected by ann: maintenance")
    assert "--recreate" in rejected["hint"]
    seen = (await plane.call("GET", f"{CLUSTER}/overview"))["agents"][0]
    assert (seen["endpoint_id"], seen["connection_state"]) == (endpoint, "rejected")

    await plane.call("POST", f"{decision}/remove", {"reason": "moving"})
    assert ((await reasons())["agent-1"] or {})["code"] == "connection_disconnected"
    # The endpoint is created again: its new connection is what the agent's packets meet now.
    scene[1].delete(endpoint)
    scene[1].put(endpoint, {"location": HERE, "properties": properties})
    await plane.until(listed, lambda one: bool(one["connections"]))
    assert ((await reasons())["agent-1"] or {})["code"] == "connection_pending"

    api.ranges = ("10.0.0.0/8",)
    assert ((await reasons())["agent-3"] or {})["code"] == "source_not_allowed"
