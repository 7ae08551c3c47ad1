"""The outer layer without a network: the order of its decisions, and what happens when something inside fails."""

import asyncio
import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from isthmus.deployment.api import asgi
from isthmus.deployment.api.agents import AgentApi
from isthmus.deployment.api.edge import Edge
from isthmus.deployment.api.execution import ExecutionApi
from isthmus.deployment.api.metrics import Metrics
from isthmus.deployment.api.refusals import RefusalLog
from isthmus.deployment.arrivals import Arrival
from isthmus.deployment.config import DeploymentConfig
from isthmus.deployment.errors import DatabaseError, PlaneRefusedError
from isthmus.deployment.roster import Agent, Commands
from isthmus.deployment.tokens import Token
from isthmus.wire.names import Role
from isthmus.wire.problems import Code

ID = uuid.uuid4()
BODY = json.dumps({"agent_id": str(ID), "instance_id": str(ID), "slots_used": 0}).encode()


class FakeCore:
    """A plane that records what it was asked, and fails when told to."""

    def __init__(self) -> None:
        self.config = DeploymentConfig(deployment_id="dtest234", max_body_bytes=2048)
        self.asked: list[str] = []
        self.failing: dict[str, Exception] = {}
        self.tokens = self.allow_list = self.roster = self
        self.refused = SimpleNamespace(note=lambda *_, **__: None)
        self.pool = self.times = self.dispatcher = SimpleNamespace()

    def note(self, what: str) -> None:
        self.asked.append(what)
        if what in self.failing:
            raise self.failing[what]

    def knows(self, token_id: str) -> bool:
        return False

    def check(self, address: str) -> str:
        self.note("address")
        return address

    async def verify(self, text: str | None, arrival: Arrival) -> Token:
        self.note("token")
        now = datetime.now(UTC)
        return Token("aaaaaaaaaaaa", "t", "", frozenset(), frozenset(), now, None, None, None, None, None)

    async def lookup(self, agent_id: uuid.UUID, instance_id: uuid.UUID, token_id: str) -> Agent:
        self.note("agent")
        return Agent(agent_id, "a", Role.WORKER, instance_id, token_id, frozenset({"q"}), 1)

    def heartbeat(self, agent: Agent, beat: object) -> Commands:
        self.note("heartbeat")
        return Commands()


@pytest.fixture
def core() -> FakeCore:
    return FakeCore()


@pytest.fixture
def edge(core: FakeCore) -> Edge:
    plane: Any = core
    metrics = Metrics()
    tokens: Any = SimpleNamespace()
    agents = AgentApi(plane, tokens, metrics, task_sdk_version="1.3.2")
    execution = ExecutionApi(plane, _never, "/dtest234/execution", lambda: None, lambda subject: subject)
    return Edge(plane, agents, execution, metrics, RefusalLog(structlog.get_logger(), lambda: 0.0))


async def _never(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
    raise AssertionError("Airflow was asked")


async def ask(
    edge: Edge, path: str = "/dtest234/agent/v1/heartbeats", *, method: str = "POST", body: bytes = BODY
) -> tuple[int, dict[str, str], bytes]:
    """One request; status, headers and body of its answer."""
    sent: list[asgi.Event] = []
    read: list[str] = []

    async def receive() -> asgi.Event:
        read.append("body")
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(event: asgi.Event) -> None:
        sent.append(event)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(b"authorization", b"Bearer x"), (b"isthmus-agent-token", b"x")],
        "client": ("192.0.2.1", 1),
        "query_string": b"",
    }
    await edge(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], {**headers, "read": ",".join(read)}, sent[1]["body"]


async def test_the_order_of_decisions(edge: Edge, core: FakeCore) -> None:
    status, headers, _ = await ask(edge)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert core.asked == ["address", "token", "agent", "heartbeat"]


async def test_a_foreign_path_asks_nobody(edge: Edge, core: FakeCore) -> None:
    for path in ("/", "/dtest234", "/dtest234/execution", "/dtest234/execution/docs", "/dtest234/admin/v1/tokens"):
        status, headers, body = await ask(edge, path)
        assert (status, headers["content-type"], body) == (404, "text/plain; charset=utf-8", b"404 page not found\n")
    assert core.asked == []


@pytest.mark.parametrize("path", ["/dtest234/agent/v1/heartbeats", "/dtest234/execution/health"])
@pytest.mark.parametrize(
    ("step", "code"), [("address", Code.SOURCE_NOT_ALLOWED), ("token", Code.TOKEN_REVOKED), ("token", Code.TOKEN_SCOPE)]
)
async def test_a_stranger_is_turned_away_unread(edge: Edge, core: FakeCore, path: str, step: str, code: Code) -> None:
    core.failing[step] = PlaneRefusedError(code)
    _, headers, body = await ask(edge, path)
    assert json.loads(body)["code"] == code
    assert headers["read"] == ""
    assert core.asked[-1] == step


async def test_a_process_that_stops_turns_new_requests_away(edge: Edge, core: FakeCore) -> None:
    edge.stop()
    for path in ("/dtest234/agent/v1/heartbeats", "/dtest234/execution/health"):
        status, headers, body = await ask(edge, path)
        assert (status, json.loads(body)["code"], json.loads(body)["retryable"]) == (503, Code.SHUTTING_DOWN, True)
        assert (headers["connection"], headers["retry-after"]) == ("close", "1")
    assert core.asked == []


async def test_a_bug_of_ours_is_a_problem_without_details(edge: Edge, core: FakeCore) -> None:
    core.failing["heartbeat"] = RuntimeError("the secret is 1234")
    status, _, body = await ask(edge)
    assert (status, json.loads(body)["code"]) == (500, Code.INTERNAL)
    assert b"1234" not in body


async def test_a_database_that_is_away_is_worth_another_try(edge: Edge, core: FakeCore) -> None:
    core.failing["agent"] = DatabaseError("connection refused")
    status, headers, body = await ask(edge)
    assert (status, json.loads(body)["code"]) == (503, Code.DATABASE_UNAVAILABLE)
    assert headers["retry-after"] == "1"


async def test_a_body_over_the_limit(edge: Edge) -> None:
    status, headers, body = await ask(edge, body=b" " * 2049)
    assert (status, json.loads(body)["code"], headers["connection"]) == (413, Code.BODY_TOO_LARGE, "close")


async def test_everything_but_http_is_ignored(edge: Edge) -> None:
    def refuse() -> Any:
        raise AssertionError

    await edge({"type": "websocket", "path": "/"}, refuse, refuse)


class TestBodies:
    """Reading a bounded body from a client that sends it in pieces, or goes away."""

    @pytest.mark.parametrize(
        ("sizes", "declared", "fits"),
        [
            ([10], None, True),
            ([5, 5], None, True),
            ([5, 6], None, False),
            ([11], None, False),
            ([0, 0, 10], None, True),
            ([], b"11", False),
            ([3], b"3", True),
            ([5, 6], b"3", False),  # a length that lies
            ([3], b"nonsense", True),
        ],
    )
    async def test_the_limit(self, sizes: list[int], declared: bytes | None, fits: bool) -> None:
        headers = [(b"content-length", declared)] if declared is not None else []
        events = iter(pieces(sizes))

        async def receive() -> asgi.Event:
            return next(events)

        reading = asgi.read_body({"headers": headers}, receive, 10)
        if fits:
            assert len(await reading) == sum(sizes)
        else:
            with pytest.raises(asgi.BodyTooLargeError):
                await reading

    async def test_a_client_that_goes_away(self) -> None:
        events = iter([*pieces([3, 3])[:1], {"type": "http.disconnect"}])

        async def receive() -> asgi.Event:
            return next(events)

        with pytest.raises(asgi.ClientGoneError):
            await asgi.read_body({"headers": []}, receive, 10)

    async def test_work_is_cancelled_when_its_client_goes_away(self) -> None:
        cancelled = asyncio.Event()

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        async def receive() -> asgi.Event:
            return {"type": "http.disconnect"}

        with pytest.raises(asgi.ClientGoneError):
            await asgi.unless_gone(work(), receive)
        assert cancelled.is_set()

    async def test_work_that_is_done_wins(self) -> None:
        async def work() -> int:
            return 7

        async def receive() -> asgi.Event:
            await asyncio.Event().wait()
            raise AssertionError

        assert await asgi.unless_gone(work(), receive) == 7


def pieces(sizes: list[int]) -> list[asgi.Event]:
    return [
        {"type": "http.request", "body": b"x" * size, "more_body": place < len(sizes)}
        for place, size in enumerate(sizes, 1)
    ]


class TestRefusalLog:
    """One line for each distinct refusal in an interval, and a memory that strangers cannot fill."""

    @pytest.fixture
    def lines(self) -> Iterator[list[dict[str, Any]]]:
        with structlog.testing.capture_logs() as captured:
            yield captured

    @pytest.fixture
    def log(self) -> RefusalLog:
        self.now = 0.0
        return RefusalLog(structlog.get_logger(), lambda: self.now)

    def test_repetitions_are_counted(self, log: RefusalLog, lines: list[dict[str, Any]]) -> None:
        for _ in range(5):
            log.note(Code.TOKEN_REVOKED, address="192.0.2.1", token_id="a")
        log.note(Code.TOKEN_REVOKED, address="192.0.2.2", token_id="a")
        log.note(Code.TOKEN_EXPIRED, address="192.0.2.1", token_id="a")
        assert len(lines) == 3
        self.now = 61.0
        log.note(Code.TOKEN_REVOKED, address="192.0.2.1", token_id="a")
        assert lines[3]["repeated"] == 4

    def test_what_has_stopped_is_said_once_more_and_forgotten(
        self, log: RefusalLog, lines: list[dict[str, Any]]
    ) -> None:
        for _ in range(3):
            log.note(Code.TOKEN_INVALID, address="192.0.2.1")
        log.note(Code.TOKEN_INVALID, address="192.0.2.2")
        log.sweep()
        assert len(lines) == 2
        self.now = 61.0
        log.sweep()
        log.sweep()
        assert [(line["address"], line.get("repeated")) for line in lines[2:]] == [("192.0.2.1", 2)]

    def test_strangers_cannot_fill_the_memory(self, log: RefusalLog, lines: list[dict[str, Any]]) -> None:
        for number in range(5000):
            log.note(Code.TOKEN_INVALID, address=f"2001:db8::{number:x}")
        assert len(lines) == 1025
        assert lines[-1]["address"] == "many"
        self.now = 61.0
        log.sweep()
        assert lines[-1]["repeated"] == 5000 - 1025
