"""A stand-in for the agent's gateway: Airflow's Execution API over a UNIX socket, as real HTTP, from memory.

It answers what a task's life needs with bodies as Airflow 3.3 sends them, records every call with its time, and can be
told to answer otherwise or to hold an answer back. Runs in a thread of its own, so blocking tests can use it.
"""

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httptools

NOW = "2026-01-01T00:00:00Z"


@dataclass(frozen=True)
class Call:
    """One request as it arrived. ``at`` is ``time.monotonic()``."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else None


@dataclass(frozen=True)
class Answer:
    """What to send back. ``hold`` keeps it until the event is set."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    hold: threading.Event | None = None


type_of_rule = tuple[re.Pattern[str], Callable[[Call], Answer]]


def run_context(call: Call) -> Answer:
    """``TIRunContext`` of a manual run."""
    body = {
        "dag_run": {
            "dag_id": "dag",
            "run_id": "manual__2026-01-01T00:00:00+00:00",
            "logical_date": NOW,
            "data_interval_start": NOW,
            "data_interval_end": NOW,
            "run_after": NOW,
            "start_date": NOW,
            "end_date": None,
            "clear_number": 0,
            "run_type": "manual",
            "state": "running",
            "conf": {},
            "triggering_user_name": None,
            "consumed_asset_events": [],
            "partition_key": None,
            "partition_date": None,
            "note": None,
            "team_name": None,
        },
        "task_reschedule_count": 0,
        "max_tries": 0,
        "variables": [],
        "connections": [],
        "next_method": None,
        "next_kwargs": None,
        "xcom_keys_to_clear": [],
        "should_retry": False,
        "start_date": None,
    }
    return Answer(200, body)


class FakeExecutionApi:
    """Serves ``socket_path`` while it is entered."""

    def __init__(self, socket_path: Path) -> None:
        self.socket_path = socket_path
        self.calls: list[Call] = []
        self.connections = 0
        self._transports: set[asyncio.Transport] = set()
        self._arrived = threading.Condition()
        self._overrides: list[type_of_rule] = []
        self._rules: list[type_of_rule] = [
            (re.compile(r"PATCH /task-instances/[^/]+/run"), run_context),
            (re.compile(r"PUT /task-instances/[^/]+/heartbeat"), lambda call: Answer(204)),
            (re.compile(r"PUT /task-instances/[^/]+/rtif"), lambda call: Answer(201, {"message": "ok"})),
            (re.compile(r"PATCH /task-instances/[^/]+/state"), lambda call: Answer(204)),
            (re.compile(r"POST /xcoms/.*"), lambda call: Answer(201, {"message": "ok"})),
        ]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="fake-execution-api", daemon=True)
        self._started = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._started.wait(10):
            raise RuntimeError("the fake Execution API did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def answer(self, pattern: str, reply: Callable[[Call], Answer]) -> None:
        """Answer calls whose ``METHOD /path`` matches ``pattern`` with ``reply``; the latest rule wins."""
        self._overrides.insert(0, (re.compile(pattern), reply))

    def reset(self) -> None:
        """Forget calls and overrides."""
        with self._arrived:
            self.calls.clear()
        self._overrides.clear()

    def matching(self, pattern: str) -> list[Call]:
        """The recorded calls whose ``METHOD /path`` matches."""
        with self._arrived:
            return [call for call in self.calls if re.search(pattern, f"{call.method} {call.path}")]

    def wait_for(self, pattern: str, timeout: float = 10.0, count: int = 1) -> Call:
        """The ``count``-th call that matches, waiting for it."""
        deadline = time.monotonic() + timeout
        with self._arrived:
            while True:
                found = [call for call in self.calls if re.search(pattern, f"{call.method} {call.path}")]
                if len(found) >= count:
                    return found[count - 1]
                if not self._arrived.wait(max(0.0, deadline - time.monotonic())):
                    seen = [f"{call.method} {call.path}" for call in self.calls]
                    raise TimeoutError(f"no call {count} of {pattern!r}; seen: {seen}")

    # --- the server, in its own thread ---------------------------------------------------------------------------

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main())
        self._loop.close()

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        server = await self._loop.create_unix_server(lambda: _Connection(self), str(self.socket_path))
        self._started.set()
        await self._stop.wait()
        server.close()
        for transport in self._transports:
            transport.abort()
        await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    def _answer_for(self, call: Call) -> Answer:
        with self._arrived:
            self.calls.append(call)
            self._arrived.notify_all()
        for pattern, reply in (*self._overrides, *self._rules):
            if pattern.search(f"{call.method} {call.path}"):
                return reply(call)
        return Answer(404, {"detail": {"reason": "not_found", "message": f"no rule for {call.path}"}})


class _Connection(asyncio.Protocol):
    def __init__(self, api: FakeExecutionApi) -> None:
        self._api = api
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._api._transports.add(transport)
        self._api.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._api._transports.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body = bytearray()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        path = self._url.decode().removeprefix("/execution")
        call = Call(self._parser.get_method().decode(), path, self._headers, bytes(self._body), time.monotonic())
        answer = self._api._answer_for(call)
        if answer.hold is None:
            self._send(answer)
        else:
            self._held = asyncio.ensure_future(self._send_later(answer, answer.hold))

    async def _send_later(self, answer: Answer, hold: threading.Event) -> None:
        while not hold.is_set():
            await asyncio.sleep(0.01)
        self._send(answer)

    def _send(self, answer: Answer) -> None:
        body = b"" if answer.body is None else json.dumps(answer.body).encode()
        lines = [f"HTTP/1.1 {answer.status} X", f"content-length: {len(body)}", "content-type: application/json"]
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        self._transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
