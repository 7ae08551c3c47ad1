"""The gateway over its UNIX socket, with the plane behind it: what goes through, what does not, and outages."""

import asyncio
import gzip
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest
from tests.fakes import plane as planes

from isthmus.agent.client import PlaneClient
from isthmus.agent.config import Timing, load
from isthmus.agent.credentials import Credential
from isthmus.agent.enrolling import Membership
from isthmus.agent.gateway import Gateway
from isthmus.agent.metrics import Metrics
from isthmus.agent.road import Road
from isthmus.kit.backoffs import BackoffConfig
from isthmus.kit.clocks import SystemClock
from isthmus.kit.health import Health
from isthmus.wire import agents, paths
from isthmus.wire.names import Privacy
from isthmus.wire.problems import Code

QUICK = Timing(
    outage=BackoffConfig(first_seconds=0.02, longest_seconds=0.1), task_heartbeat=0.5, task_call=1.0, answer=1.0
)
HEARTBEAT = f"/execution/task-instances/{uuid4()}/heartbeat"
RUN = f"/execution/task-instances/{uuid4()}/run"


@dataclass
class Stand:
    """A gateway, a way to call it, and one workload's token."""

    gateway: Gateway
    http: httpx.AsyncClient
    plane: planes.FakePlane
    token: str
    workload_id: UUID
    road: Road
    membership: Membership

    async def call(self, method: str, path: str, *, token: str | None = None, **more: object) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.token if token is None else token}", **more.pop("headers", {})}  # type: ignore[dict-item]
        return await self.http.request(method, f"http://gateway{path}", headers=headers, **more)  # type: ignore[arg-type]


@asynccontextmanager
async def standing(
    plane: planes.FakePlane, folder: Path, *, outage_seconds: float = 5.0, profile: Privacy = Privacy.OPEN
) -> AsyncIterator[Stand]:
    config = load({"url": plane.url}, environment={"ISTHMUS_AGENT_TOKEN": planes.TOKEN}).config
    clock = SystemClock()
    health = Health(clock)
    road = Road(health, clock)
    client = PlaneClient(
        config, QUICK, credential=Credential(token=planes.TOKEN), health=health, road=road, clock=clock
    )
    membership = Membership(profile)
    agent_id = uuid4()
    plane.agents["agent"] = (agent_id, membership.instance_id)
    membership.accepted(
        agents.EnrolmentResponse(
            agent_id=agent_id, heartbeat_seconds=1, claim_wait_seconds=1, lease_seconds=1, plane_version="1"
        )
    )
    gateway = Gateway(
        QUICK,
        client,
        membership,
        road=road,
        outage_seconds=outage_seconds,
        metrics=Metrics(),
        clock=clock,
        spool=folder,
        references=("file:///store/",),
    )
    path = str(folder / "gateway.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    listener.setblocking(False)
    await gateway.server.listen(listener)
    workload_id = plane.put()
    lease = plane.queue.popleft()
    plane.leases[workload_id] = planes.Lease(lease, uuid4(), started=True)
    try:
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=path), timeout=20) as http:
            yield Stand(gateway, http, plane, gateway.admit(lease), workload_id, road, membership)
    finally:
        await gateway.server.close()
        await client.caller.close()


async def test_the_call_goes_out_with_both_credentials_and_comes_back(plane: planes.FakePlane, tmp_path: Path) -> None:
    plane.execution = lambda call: planes.Answer(201, b'{"x":1}', headers={"x-more": "yes", "set-cookie": "a=b"})
    async with standing(plane, tmp_path) as stand:
        response = await stand.call(
            "PATCH",
            RUN + "?a=%2Fb&c=d%20e",
            json={"state": "running"},
            headers={"airflow-api-version": "2026-06-30", "x-forwarded-for": "192.0.2.1", "isthmus-agent-id": "me"},
        )
    assert (response.status_code, response.json()) == (201, {"x": 1})
    assert response.headers["x-more"] == "yes"
    assert "set-cookie" not in response.headers
    (call,) = plane.calls
    assert call.path == RUN + "?a=%2Fb&c=d%20e"
    assert call.json == {"state": "running"}
    assert call.headers["authorization"].startswith("Bearer task-token-")
    assert call.headers["isthmus-agent-token"] == planes.TOKEN
    assert call.headers["isthmus-workload-id"] == str(stand.workload_id)
    assert call.headers["isthmus-agent-id"] == str(plane.agents["agent"][0])
    assert call.headers["airflow-api-version"] == "2026-06-30"
    assert "x-forwarded-for" not in call.headers
    assert stand.token not in str(call.headers)


async def test_a_renewed_task_token_stays_in_the_gateway(plane: planes.FakePlane, tmp_path: Path) -> None:
    async with standing(plane, tmp_path) as stand:
        plane.task_tokens["renewed"] = stand.workload_id
        plane.execution = lambda call: planes.Answer(headers={"Refreshed-API-Token": "renewed"})
        first = await stand.call("PATCH", RUN, json={})
        plane.execution = lambda call: planes.Answer()
        await stand.call("GET", "/execution/variables/x")
    assert "refreshed-api-token" not in first.headers
    assert plane.calls[-1].headers["authorization"] == "Bearer renewed"


async def test_an_expired_task_token_is_minted_anew(plane: planes.FakePlane, tmp_path: Path) -> None:
    async with standing(plane, tmp_path) as stand:
        plane.task_tokens.clear()
        response = await stand.call("PUT", HEARTBEAT, json={"pid": 1})
        again = await stand.call("PUT", HEARTBEAT, json={"pid": 1})
    assert (response.status_code, again.status_code) == (200, 200)
    assert len(plane.minted) == 1


async def test_a_refused_token_stands_when_the_plane_mints_no_other(plane: planes.FakePlane, tmp_path: Path) -> None:
    async with standing(plane, tmp_path) as stand:
        plane.task_tokens.clear()
        plane.leases.clear()
        response = await stand.call("PUT", HEARTBEAT, json={"pid": 1})
    assert response.status_code == 403
    assert not plane.minted


@pytest.mark.parametrize("code", [Code.CONNECTION_NOT_ALLOWED, Code.TOKEN_SCOPE])
async def test_the_planes_policy_is_not_a_reason_to_mint_or_to_wait(
    plane: planes.FakePlane, tmp_path: Path, code: Code
) -> None:
    plane.execution = lambda call: planes.refusal(code, execution=True)
    async with standing(plane, tmp_path) as stand:
        response = await stand.call("GET", "/execution/connections/x")
    assert response.status_code == 403
    assert response.json()["detail"]["reason"] == code
    assert not plane.minted


@pytest.mark.parametrize("status", [404, 409, 410, 422, 500])
async def test_airflows_own_errors_reach_the_task(plane: planes.FakePlane, tmp_path: Path, status: int) -> None:
    plane.execution = lambda call: planes.Answer(status, b'{"detail":{"reason":"not_running"}}')
    async with standing(plane, tmp_path) as stand:
        response = await stand.call("PUT", HEARTBEAT, json={"pid": 1})
    assert response.status_code == status
    assert response.json() == {"detail": {"reason": "not_running"}}


@pytest.mark.parametrize("token", ["x", "wrong", planes.TOKEN])
async def test_an_unknown_token_opens_nothing(plane: planes.FakePlane, tmp_path: Path, token: str) -> None:
    async with standing(plane, tmp_path) as stand:
        response = await stand.call("GET", "/execution/variables/x", token=token)
        stand.gateway.dismiss(stand.token)
        ended = await stand.call("GET", "/execution/variables/x")
    assert response.status_code == ended.status_code == 403
    assert response.json()["code"] == Code.GATEWAY_TOKEN_UNKNOWN
    assert not plane.calls


@pytest.mark.parametrize(
    "target",
    [
        "/agent/v1/claims",
        "/",
        "/execution",
        "/executions/x",
        "//execution/x",
        "/execution/../agent/v1/claims",
        "/execution/%2e%2e/agent/v1/claims",
        "/execution/%252e%252e/agent/v1/claims",
        "/execution/x/..%2f..%2fagent/v1/claims",
        "/execution/./../agent/v1/claims",
        "/execution/..\\agent",
        "http://elsewhere/execution/x",
        "http://elsewhere/agent/v1/claims",
    ],
)
async def test_no_other_path_of_the_plane_is_reachable(plane: planes.FakePlane, tmp_path: Path, target: str) -> None:
    async with standing(plane, tmp_path) as stand:
        # By hand: an HTTP client would tidy the path.
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "gateway.sock"))
        head = f"GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stand.token}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert answer.split(b" ")[1] in {b"404", b"400", b"403"}, answer
    assert not plane.calls


async def test_trace_is_not_forwarded(plane: planes.FakePlane, tmp_path: Path) -> None:
    async with standing(plane, tmp_path) as stand:
        response = await stand.call("TRACE", "/execution/x")
    assert response.status_code == 405
    assert not plane.calls


async def test_the_agent_token_is_not_in_what_a_task_gets(plane: planes.FakePlane, tmp_path: Path) -> None:
    plane.execution = lambda call: planes.Answer(400, json.dumps({"detail": dict(call.headers)}).encode())
    async with standing(plane, tmp_path) as stand:
        response = await stand.call("GET", "/execution/x")
        plane.tokens.clear()
        refused = asyncio.create_task(stand.call("GET", "/execution/y"))
        await asyncio.sleep(0.3)
        assert not refused.done()  # the agent's trouble is not the task's: it waits
        plane.tokens.add(planes.TOKEN)
        waited = await refused
    assert response.status_code == waited.status_code == 400
    for answer in (response, waited):
        assert planes.TOKEN not in answer.text + str(answer.headers)


async def test_large_bodies_go_both_ways(plane: planes.FakePlane, tmp_path: Path) -> None:
    plane.execution = lambda call: planes.Answer(body=json.dumps(call.body.decode()[::-1]).encode())
    large = json.dumps("ab" * 1_500_000)
    async with standing(plane, tmp_path) as stand:
        response = await stand.call("POST", "/execution/xcoms/a/b/c/d", content=large)
    assert response.json() == large[::-1]


async def test_head_and_empty_answers_pass(plane: planes.FakePlane, tmp_path: Path) -> None:
    async with standing(plane, tmp_path) as stand:
        plane.execution = lambda call: planes.Answer(200, b"", headers={"content-range": "map_indexes 7"})
        head = await stand.call("HEAD", "/execution/xcoms/a/b/c/d")
        plane.execution = lambda call: planes.Answer(204, b"", "", headers={"content-length": ""})
        empty = await stand.call("PUT", HEARTBEAT, json={})
    assert (head.status_code, head.headers["content-range"]) == (200, "map_indexes 7")
    assert (empty.status_code, empty.content) == (204, b"")


async def test_packed_bodies_pass_as_they_are(plane: planes.FakePlane, tmp_path: Path) -> None:
    plane.execution = lambda call: planes.Answer(body=gzip.compress(b'"packed"'), headers={"content-encoding": "gzip"})
    async with standing(plane, tmp_path) as stand:
        response = await stand.call(
            "POST", "/execution/x", content=gzip.compress(b"1"), headers={"content-encoding": "gzip"}
        )
    assert response.json() == "packed"
    assert gzip.decompress(plane.calls[0].body) == b"1"


async def test_an_outage_holds_calls_and_answers_heartbeats(plane: planes.FakePlane, tmp_path: Path) -> None:
    async with standing(plane, tmp_path) as stand:
        plane.stop()
        heartbeats = [await stand.call("PUT", HEARTBEAT, json={"pid": 1}) for _ in range(3)]
        held = asyncio.create_task(stand.call("PATCH", RUN, json={"state": "success"}))
        await asyncio.sleep(0.5)
        assert not held.done()
        plane.start()
        response = await held
    assert {beat.status_code for beat in heartbeats} == {204}
    assert response.status_code == 200
    assert [call.method for call in plane.calls] == ["PATCH"]


@pytest.mark.parametrize(
    "fault",
    [
        planes.PORTAL,
        planes.Answer(302, b"", "", {"location": "http://portal.example/", "content-length": "0"}),
        planes.Answer(502, b"<html>Bad gateway</html>", "text/html"),
        planes.Answer(404, paths.NOT_FOUND_TEXT.encode(), "text/plain"),
        planes.refusal(Code.DATABASE_UNAVAILABLE, execution=True),
        planes.refusal(Code.SHUTTING_DOWN, execution=True),
        planes.refusal(Code.TOKEN_REVOKED, execution=True),
        planes.refusal(Code.SOURCE_NOT_ALLOWED, execution=True),
        planes.Lost(),
    ],
)
async def test_what_is_not_an_answer_to_the_task_is_waited_out(
    plane: planes.FakePlane, tmp_path: Path, fault: planes.Fault
) -> None:
    async with standing(plane, tmp_path) as stand:
        plane.faults["/execution"] += [fault, fault]
        heartbeat = await stand.call("PUT", HEARTBEAT, json={"pid": 1})
        response = await stand.call("POST", "/execution/xcoms/a", json=1)
    # A heartbeat does not wait for the second answer; other calls do.
    assert heartbeat.status_code == 204
    assert response.status_code == 200
    assert plane.calls[-1].json == 1


async def test_an_outage_that_lasts_too_long_is_told(plane: planes.FakePlane, tmp_path: Path) -> None:
    async with standing(plane, tmp_path, outage_seconds=0.4) as stand:
        plane.stop()
        first = await stand.call("PUT", HEARTBEAT, json={"pid": 1})
        response = await stand.call("POST", "/execution/xcoms/a", json=1)
        late = await stand.call("PUT", HEARTBEAT, json={"pid": 1})
    assert (first.status_code, response.status_code, late.status_code) == (204, 503, 503)
    assert response.json()["code"] == Code.PLANE_UNREACHABLE


async def test_a_slow_call_of_one_task_does_not_close_the_road(plane: planes.FakePlane, tmp_path: Path) -> None:
    async with standing(plane, tmp_path) as stand:
        plane.faults["/execution"].append(planes.Slow(1.5))
        response = await stand.call("GET", "/execution/x")
        assert stand.road.is_open
    assert response.status_code == 200


async def test_a_task_that_hangs_up_ends_its_call(plane: planes.FakePlane, tmp_path: Path) -> None:
    async with standing(plane, tmp_path) as stand:
        plane.stop()
        with pytest.raises(httpx.ReadTimeout):
            await stand.call("POST", "/execution/xcoms/a", json=1, timeout=0.2)
        await asyncio.sleep(0.1)
        plane.start()
        await asyncio.sleep(0.5)
    assert not plane.calls


async def test_the_privacy_profile_decides_what_leaves(plane: planes.FakePlane, tmp_path: Path) -> None:
    async with standing(plane, tmp_path, profile=Privacy.STRICT) as stand:
        ti = RUN.removesuffix("/run")
        rendered = await stand.call("PUT", f"{ti}/rtif", json={"sql": "canary"})
        value = await stand.call("POST", "/execution/xcoms/a/b/c/d", json={"rows": "canary"})
        squeezed = await stand.call(
            "POST", "/execution/xcoms/a/b/c/d", content=b"canary", headers={"content-encoding": "gzip"}
        )
        large = await stand.call("POST", "/execution/xcoms/a/b/c/d", content=b'"' + b"x" * 17_000_000 + b'"')
        assert not plane.calls
        reference = await stand.call("POST", "/execution/xcoms/a/b/c/d", json="file:///store/1.json")
        state = await stand.call(
            "PATCH", f"{ti}/state", json={"state": "up_for_retry", "retry_reason": "canary"}, headers={"baggage": "a=b"}
        )
    assert rendered.status_code == 201
    for refused in (value, squeezed, large):
        assert refused.status_code == 403
        assert refused.json()["detail"]["reason"] == Code.PRIVACY_REFUSED
    assert (reference.status_code, state.status_code) == (200, 200)
    assert [call.json for call in plane.calls] == [
        "file:///store/1.json",
        {"state": "up_for_retry", "retry_reason": "***"},
    ]
    assert all("baggage" not in call.headers for call in plane.calls)


async def test_the_plane_may_ask_for_more_privacy_and_not_for_less(plane: planes.FakePlane, tmp_path: Path) -> None:
    async with standing(plane, tmp_path, profile=Privacy.MASKED) as stand:
        terms = stand.membership.terms
        assert terms is not None
        for demanded, forwarded in ((Privacy.OPEN, {"a": "***"}), (Privacy.STRICT, None)):
            plane.calls.clear()
            stand.membership.accepted(terms.model_copy(update={"least_privacy": demanded}))
            await stand.call("PUT", RUN.removesuffix("/run") + "/rtif", json={"a": "canary"})
            assert [call.json for call in plane.calls] == ([] if forwarded is None else [forwarded])
