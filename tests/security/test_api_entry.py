"""Who may come in: paths, addresses, tokens, in that order, each with its own answer."""

import socket
import ssl
import time
import uuid
from collections.abc import Iterator

import httpx
import pytest
from tests.apis import ADMIN_TOKEN, DEPLOYMENT_ID, PROXY, Api, enrolment, problem, until

HEARTBEATS = f"/{DEPLOYMENT_ID}/agent/v1/heartbeats"


@pytest.fixture
def open_again(api: Api) -> Iterator[None]:
    """The allow list is empty again afterwards."""
    yield
    api.allow()


def root(api: Api, **values: str) -> httpx.Client:
    """A client for paths outside the deployment."""
    client = api.client(**values)
    client.base_url = httpx.URL(f"https://127.0.0.1:{api.port}/")
    return client


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/healthz",
        "/metrics",
        "/admin/v1/tokens",
        "/openapi/agent.json",
        "/docs",
        "/api/v2/dags",
        "/ui/config",
        "/execution/health",
        f"/{DEPLOYMENT_ID}",
        f"/{DEPLOYMENT_ID}/",
        f"/{DEPLOYMENT_ID}/agent",
        f"/{DEPLOYMENT_ID}/agent/v1",
        f"/{DEPLOYMENT_ID}/agent/v1/",
        f"/{DEPLOYMENT_ID}/agent/v1/heartbeats/",
        f"/{DEPLOYMENT_ID}/agent/v1/HEARTBEATS",
        f"/{DEPLOYMENT_ID}//agent/v1/heartbeats",
        f"/{DEPLOYMENT_ID}/agent/v1/workloads/token",
        f"/{DEPLOYMENT_ID}/agent/v1/workloads/a/b/token",
        f"/{DEPLOYMENT_ID}/agent/v2/heartbeats",
        f"/{DEPLOYMENT_ID}/admin/v1/tokens",
        f"/{DEPLOYMENT_ID}/execution",
        f"/{DEPLOYMENT_ID}/execution/",
        f"/{DEPLOYMENT_ID}/execution/docs",
        f"/{DEPLOYMENT_ID}/execution/openapi.json",
        f"/{DEPLOYMENT_ID}/execution//connections/x",
        f"/{DEPLOYMENT_ID}/execution/../admin/v1/tokens",
        f"/{DEPLOYMENT_ID}/execution/%2e%2e/admin/v1/tokens",
        "/dzzzzzzz/agent/v1/heartbeats",
        "/dzzzzzzz/execution/health",
        f"/{DEPLOYMENT_ID}x/agent/v1/heartbeats",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_every_other_path_is_the_same_404_with_and_without_credentials(api: Api, path: str, method: str) -> None:
    secret = api.token()["secret"] if path == "/" else ADMIN_TOKEN
    for headers in ({}, {"Authorization": f"Bearer {secret}", "Isthmus-Agent-Token": secret}):
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", "Content-Length: 0"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        with (
            socket.create_connection(("127.0.0.1", api.port)) as plain,
            api.tls.wrap_socket(plain, server_hostname="localhost") as wire,
        ):
            wire.sendall("\r\n".join([*lines, "", ""]).encode())
            answer = b"".join(iter(lambda: wire.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 404 ")
        assert b"content-type: text/plain; charset=utf-8" in head
        assert b"x-content-type-options: nosniff" in head
        assert b"server:" not in head.lower()
        assert body == b"404 page not found\n"


def test_without_a_token(api: Api) -> None:
    for headers in ({}, {"Authorization": ""}, {"Authorization": "Bearer"}, {"Authorization": "Basic eDp5"}):
        response = api.client(headers=headers).post("agent/v1/heartbeats", json={})
        assert problem(response) == "token_missing"
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith("Bearer")


def test_a_token_that_was_copied_badly(api: Api) -> None:
    secret = api.token()["secret"]
    head, _, tail = secret.rpartition("_")
    for bad in (secret[:-1], f"{head}_{'A' * 43}", secret.upper(), "isthmus_", "x" * 5000, tail, f"{secret} x"):
        response = api.client(headers={"Authorization": f"Bearer {bad}"}).post("agent/v1/heartbeats", json={})
        assert problem(response) == "token_invalid", bad
        assert secret not in response.text


def test_a_token_of_another_deployment(api: Api) -> None:
    foreign = api.token()["secret"].replace(DEPLOYMENT_ID, "dother22")
    response = api.client(headers={"Authorization": f"Bearer {foreign}"}).post("agent/v1/heartbeats", json={})
    assert (response.status_code, problem(response)) == (403, "token_wrong_deployment")


def test_a_revoked_token_closes_the_door_at_once_for_the_agent_that_is_inside(api: Api) -> None:
    token = api.token()
    agent = api.agent(token=token["secret"])
    agent.beat()
    revoked = api.admin().post(f"/admin/v1/tokens/{token['token_id']}/revoke")
    assert revoked.json()["state"] == "revoked"
    response = agent.post("heartbeats", slots_used=0)
    assert (response.status_code, problem(response)) == (401, "token_revoked")
    assert problem(agent.post("claims", claim_id=str(uuid.uuid4()), free_slots=1)) == "token_revoked"


def test_an_expired_token(api: Api) -> None:
    token = api.token(expires_days=1)
    agent = api.agent(token=token["secret"])
    api.execute(
        f"UPDATE isthmus_token SET expires_at = now() - interval '1 second' WHERE id = '{token['token_id']}' "
        "RETURNING pg_notify('isthmus_access', '')"
    )
    until(lambda: agent.post("heartbeats", slots_used=0).status_code == 401, seconds=5)
    assert problem(agent.post("heartbeats", slots_used=0)) == "token_expired"


def test_a_rotated_token_overlaps_with_its_successor(api: Api) -> None:
    token = api.token(queues=["queue-x"])
    agent = api.agent(token=token["secret"], queues=["queue-x"])
    path = f"/admin/v1/tokens/{token['token_id']}/rotate"
    successor = api.admin().post(path, json={"overlap_hours": 1}).json()
    assert successor["token"]["queues"] == ["queue-x"]
    agent.beat()
    agent.client.headers["Authorization"] = f"Bearer {successor['secret']}"
    agent.beat()
    immediately = api.admin().post(
        f"/admin/v1/tokens/{successor['token']['token_id']}/rotate", json={"overlap_hours": 0}
    )
    assert immediately.status_code == 201
    until(lambda: agent.post("heartbeats", slots_used=0).status_code == 401, seconds=5)
    assert problem(agent.post("heartbeats", slots_used=0)) == "token_expired"


def test_a_token_does_not_reach_beyond_its_scope(api: Api) -> None:
    secret = api.token(roles=["dag-processor"], queues=["reports"])["secret"]
    client = api.client(headers={"Authorization": f"Bearer {secret}"})
    agent = api.agent(token=secret, role="dag-processor", queues=["reports"])
    for changes in ({"role": "worker"}, {"queues": ["reports", "payroll"]}):
        body = enrolment(agent, **{"role": "dag-processor", "queues": ["reports"], "name": "another", **changes})
        response = client.post("agent/v1/enrolments", json=body)
        assert (response.status_code, problem(response)) == (403, "token_scope")
    # It came in with a role that takes no workloads, and does not get any.
    response = agent.post("claims", claim_id=str(uuid.uuid4()), free_slots=1, wait_seconds=0)
    assert problem(response) == "token_scope"


def test_an_agent_belongs_to_the_token_that_it_enrolled_with(api: Api) -> None:
    agent = api.agent()
    agent.client.headers["Authorization"] = f"Bearer {api.token()['secret']}"
    assert problem(agent.post("heartbeats", slots_used=0)) == "agent_unknown"


@pytest.mark.usefixtures("open_again")
def test_the_address_is_judged_before_the_token(api: Api) -> None:
    good = api.token()["secret"]
    api.allow("127.0.0.1/32")
    for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": f"Bearer {good}"}):
        response = api.client(headers=headers, source="127.0.0.2").post("agent/v1/heartbeats", json={})
        assert (response.status_code, problem(response)) == (403, "source_not_allowed")
        assert response.json()["source_address"] == "127.0.0.2"
    allowed = api.client(headers={"Authorization": f"Bearer {good}"}, source="127.0.0.1")
    assert problem(allowed.post("agent/v1/heartbeats", json={})) == "request_invalid"


@pytest.mark.usefixtures("open_again")
def test_ranges_of_both_versions_of_the_protocol(api: Api) -> None:
    headers = {"Authorization": f"Bearer {api.token()['secret']}"}

    def code(source: str) -> str:
        return problem(api.client(headers=headers, source=source).post("agent/v1/heartbeats", json={}))

    inside, outside = "request_invalid", "source_not_allowed"
    assert [code("127.0.0.2"), code("::1")] == [inside, inside]
    api.allow("127.0.0.0/30")
    assert [code("127.0.0.2"), code("127.0.0.4"), code("::1")] == [inside, outside, outside]
    api.allow("::1/128", "2001:db8::/32")
    assert [code("127.0.0.2"), code("::1")] == [outside, inside]
    # An IPv4 range in the notation of IPv6 is that IPv4 range.
    api.allow("::ffff:127.0.0.0/126")
    assert [code("127.0.0.2"), code("127.0.0.4")] == [inside, outside]


@pytest.mark.usefixtures("open_again")
def test_forwarded_addresses_count_from_the_ingress_alone(api: Api) -> None:
    headers = {"Authorization": f"Bearer {api.token()['secret']}"}
    api.allow("203.0.113.0/24", "2001:db8::/32")

    def answer(source: str, forwarded: str) -> httpx.Response:
        client = api.client(headers={**headers, "X-Forwarded-For": forwarded}, source=source)
        return client.post("agent/v1/heartbeats", json={})

    assert problem(answer("127.0.0.2", "203.0.113.7")) == "source_not_allowed"
    assert answer("127.0.0.2", "203.0.113.7").json()["source_address"] == "127.0.0.2"
    assert problem(answer(PROXY, "203.0.113.7")) == "request_invalid"
    assert problem(answer(PROXY, "2001:db8::7")) == "request_invalid"
    # What the client wrote itself stands left of what the ingress saw.
    spoofed = answer(PROXY, "203.0.113.7, 198.51.100.9")
    assert problem(spoofed) == "source_not_allowed"
    assert spoofed.json()["source_address"] == "198.51.100.9"
    assert answer(PROXY, f"203.0.113.7, 198.51.100.9, {PROXY}").json()["source_address"] == "198.51.100.9"


def test_a_refusal_that_repeats_is_one_line_in_the_log(api: Api) -> None:
    foreign = api.token()["secret"].replace(DEPLOYMENT_ID, "dother33")
    client = api.client(headers={"Authorization": f"Bearer {foreign}"}, source="127.0.0.77")
    for _ in range(25):
        assert problem(client.post("agent/v1/heartbeats", json={})) == "token_wrong_deployment"
    time.sleep(0.2)
    lines = [line for line in api.lines() if "127.0.0.77" in line]
    assert len(lines) == 1
    assert "token_wrong_deployment" in lines[0]


def test_secrets_are_in_no_log(api: Api) -> None:
    token = api.token()
    agent = api.agent(token=token["secret"])
    agent.beat()
    api.client(headers={"Authorization": f"Bearer {token['secret']}x"}).post("agent/v1/heartbeats", json={})
    api.client(headers={"Authorization": f"Bearer {token['secret']}"}).post("agent/v1/heartbeats", content=b"{")
    api.admin(token="a-wrong-admin-token").get("/admin/v1/tokens")
    log = "\n".join(api.lines())
    secret = token["secret"].rpartition("_")[2]
    assert secret not in log
    assert ADMIN_TOKEN not in log
    assert "a-wrong-admin-token" not in log


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions_of_tls_are_refused(api: Api) -> None:
    context = api.tls
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", api.port)) as plain, pytest.raises((ssl.SSLError, OSError)):
        context.wrap_socket(plain, server_hostname="localhost")


class TestAdmin:
    def test_the_admin_token_is_asked_for_before_anything_else(self, api: Api) -> None:
        for token in (None, "wrong", ADMIN_TOKEN + "x", ADMIN_TOKEN[:-1], api.token()["secret"]):
            client = api.admin(token=token)
            for response in (
                client.get("/admin/v1/tokens"),
                client.post("/admin/v1/tokens", content=b"not json"),
                client.get("/admin/v1/there-is-no-such-thing"),
                client.put("/admin/v1/allow-list", content=b"x" * 1_000_000),
            ):
                assert (response.status_code, problem(response)) == (401, "admin_token_invalid")

    def test_an_agents_address_and_token_are_not_asked_for(self, api: Api) -> None:
        try:
            api.allow("198.51.100.0/24")
            assert api.admin().get("/admin/v1/deployment").json()["allowed_ranges"] == ["198.51.100.0/24"]
        finally:
            api.allow()

    def test_the_token_file_can_be_replaced(self, api: Api) -> None:
        try:
            api.admin_token_file.write_text("another")
            assert problem(api.admin().get("/admin/v1/tokens")) == "admin_token_invalid"
            assert api.admin(token="another").get("/admin/v1/tokens").status_code == 200
            api.admin_token_file.write_text("")
            assert problem(api.admin(token="another").get("/admin/v1/tokens")) == "admin_token_invalid"
        finally:
            api.admin_token_file.write_text(ADMIN_TOKEN)

    def test_other_paths_are_a_404_of_ours(self, api: Api) -> None:
        client = api.admin()
        for path in ("/", "/docs", "/openapi.json", "/redoc", "/admin/v1/nothing", "/admin/v2/tokens", "/healthz/"):
            response = client.get(path)
            assert (response.status_code, response.text) == (404, "404 page not found\n"), path
            assert response.headers["content-type"].startswith("text/plain")
