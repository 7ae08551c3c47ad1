"""Task logs on their way: asked for by a reader, sent by the agent that was asked and nobody else, and gone."""

import base64
import json
import os
import threading
import uuid
import zlib
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from tests.apis import Agent, Api, answered, problem, until

from isthmus.deployment import logreads
from isthmus.deployment.logreading import Ask, Read, Reader
from isthmus.wire.logs import MAX_CHUNK_BYTES, LogFault, LogSource


def pack(text: bytes) -> str:
    return base64.b64encode(zlib.compress(text)).decode()


class Reading(threading.Thread):
    """A reader in a thread of its own, as Airflow's are."""

    def __init__(self, api: Api, agent: Agent, path: str = "a/b.log", *, whole: bool = False) -> None:
        super().__init__(daemon=True)
        self._reader = Reader(api.database_url, lambda: None)
        self._ask = Ask(UUID(agent.agent_id), agent.name, LogSource.FILE, path)
        self._whole = whole
        self.read: Read | None = None
        self.lines: list[str] = []
        self.may_read = threading.Event()
        self.start()

    def run(self) -> None:
        with self._reader as reader:
            (self.read,) = reader.ask([self._ask], seconds=10)
            self.may_read.wait(20)
            if self.read.answered and self.read.fault is None:
                self.lines = list(reader.lines(self.read, whole=self._whole))

    def result(self) -> list[str]:
        self.may_read.set()
        self.join(20)
        assert not self.is_alive()
        return self.lines


def claim(agent: Agent, **values: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = answered(agent.post("log-reads", **{"wait_seconds": 5, **values}))["reads"]
    return found


def send(agent: Agent, read: dict[str, Any] | str, sequence: int, text: bytes = b"", **values: Any) -> Any:
    read_id = read if isinstance(read, str) else read["read_id"]
    data = {"data": pack(text)} if text else {}
    return agent.post("log-reads/chunks", **{"read_id": read_id, "sequence": sequence, **data, **values})


@pytest.fixture(autouse=True)
def _nothing_rests(api: Api) -> Iterator[None]:
    yield
    until(lambda: api.execute("SELECT count(*) FROM isthmus_log_read") == [(0,)])
    assert api.execute("SELECT count(*) FROM isthmus_log_chunk") == [(0,)]


def test_a_log_is_asked_for_sent_and_gone(api: Api) -> None:
    agent = api.agent()
    reading = Reading(api, agent)
    (read,) = claim(agent)
    assert (read["path"], read["source"]) == ("a/b.log", "file")
    assert claim(agent, wait_seconds=0.1) == [], "asked once"
    assert answered(send(agent, read, 0, b"one\ntw", origin="/logs/a/b.log"))["proceed"]
    assert answered(send(agent, read, 1, b"o\nthree", end=True))["proceed"]
    assert reading.result() == ["one", "two", "three"]
    assert reading.read is not None
    assert reading.read.origin == "/logs/a/b.log"
    assert problem(send(agent, read, 2, b"late")) == "log_read_ended"


def test_a_line_that_is_being_written_is_left_out(api: Api) -> None:
    agent = api.agent()
    reading = Reading(api, agent, whole=True)
    (read,) = claim(agent)
    send(agent, read, 0, b"one\ntw", end=True)
    assert reading.result() == ["one"]


def test_only_the_agent_that_was_asked_sends_it(api: Api) -> None:
    token = api.token()["secret"]
    agent, sibling, stranger = api.agent(token=token), api.agent(token=token), api.agent()
    reading = Reading(api, agent)
    assert claim(sibling, wait_seconds=0.2) == []
    until(lambda: api.execute("SELECT count(*) FROM isthmus_log_read") == [(1,)])
    ((read_id,),) = api.execute("SELECT id::text FROM isthmus_log_read")
    assert problem(send(agent, read_id, 0, b"before it was claimed")) == "log_read_ended"
    (read,) = claim(agent)
    for other in (sibling, stranger):
        assert problem(send(other, read, 0, b"forged")) == "log_read_ended"
        forged = other.client.post(
            "agent/v1/log-reads/chunks",
            json={
                "agent_id": agent.agent_id,
                "instance_id": other.instance_id,
                "read_id": read["read_id"],
                "sequence": 0,
                "data": pack(b"forged"),
            },
        )
        assert problem(forged) in {"agent_unknown", "agent_replaced"}
    assert problem(send(agent, str(uuid.uuid4()), 0, b"of no read")) == "log_read_ended"
    assert problem(send(agent, read, 1, b"too early")) == "log_read_ended"
    send(agent, read, 0, b"true\n")
    send(agent, read, 0, b"again\n")
    assert answered(send(agent, read, 1, end=True))["proceed"]
    assert reading.result() == ["true"]


def test_no_more_than_a_window_is_in_the_database(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = api.agent()
    reading = Reading(api, agent)
    (read,) = claim(agent)
    for number in range(logreads.WINDOW - 1):
        send(agent, read, number, b"%d\n" % number)
        if number == 0:  # the first was taken: that is how the reader knows that there is something
            until(lambda: api.execute("SELECT taken FROM isthmus_log_read") == [(1,)])
    answers: list[dict[str, Any]] = []
    last = logreads.WINDOW

    def fill() -> None:
        send(agent, read, last - 1, b"full?\n")
        answers.append(answered(send(agent, read, last, b"waits\n")))

    filling = threading.Thread(target=fill)
    filling.start()
    until(lambda: api.execute("SELECT sent - taken FROM isthmus_log_read") == [(logreads.WINDOW,)])
    filling.join(0.5)
    assert filling.is_alive(), "the answer waits for room"
    reading.may_read.set()
    filling.join(10)
    assert answers == [{"proceed": True}]
    send(agent, read, last + 1, end=True)
    assert reading.result() == [*map(str, range(last - 1)), "full?", "waits"]


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (base64.b64encode(b"not deflated").decode(), "damaged"),
        (base64.b64encode(zlib.compress(b"x" * 1000)[:-8]).decode(), "cut off"),
        (pack(b"\n" * (MAX_CHUNK_BYTES + 1)), "too long"),
        (pack(b"x" * 200_000_000), "too long"),
    ],
)
def test_what_is_no_part_of_a_log_ends_it_with_a_word(api: Api, data: str, word: str) -> None:
    agent = api.agent()
    reading = Reading(api, agent)
    (read,) = claim(agent)
    if len(data) > 150_000:
        assert problem(send(agent, read, 0, data=data)) in {"request_invalid", "body_too_large"}
        send(agent, read, 0, end=True)
        assert reading.result() == []
        return
    send(agent, read, 0, data=data, end=True)
    (line,) = reading.result()
    assert word in json.loads(line)["event"]


def test_requests_are_bounded(api: Api) -> None:
    agent = api.agent()
    reading = Reading(api, agent)
    (read,) = claim(agent)
    for wrong in (
        {"sequence": -1},
        {"sequence": 10**9},
        {"sequence": 0, "data": base64.b64encode(os.urandom(MAX_CHUNK_BYTES + 2048)).decode()},
        {"sequence": 0, "detail": "x" * 501},
        {"sequence": 0, "fault": "another"},
    ):
        assert problem(agent.post("log-reads/chunks", read_id=read["read_id"], **wrong)) == "request_invalid", wrong
    assert problem(agent.post("log-reads", free=9)) == "request_invalid"
    hidden = "\x1b[2J\x00\u202e gone"
    send(agent, read, 0, fault="missing", detail=hidden)
    assert reading.result() == []
    assert reading.read is not None
    assert reading.read.fault is LogFault.MISSING
    assert reading.read.detail == "\\x1b[2J\\u202e gone"


def test_what_a_dead_reader_asked_for_is_swept(api: Api) -> None:
    agent = api.agent()
    api.execute(
        "INSERT INTO isthmus_log_read (id, agent_id, source, path, expires_at) "
        f"VALUES (gen_random_uuid(), '{agent.agent_id}', 'file', 'a', now() + interval '1 minute') RETURNING 1"
    )
    (read,) = claim(agent)  # a poll, because nobody has told
    send(agent, read, 0, b"one\n")
    api.execute("UPDATE isthmus_log_read SET expires_at = now() - interval '1 second' RETURNING 1")
    api.execute(f"{logreads._FORGET} RETURNING 1")
    assert problem(send(agent, read, 1, b"two\n")) == "log_read_ended"
