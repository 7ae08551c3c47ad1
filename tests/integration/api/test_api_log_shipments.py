"""Logs that agents ship: in order, by the agent that ran the task and nobody else, bounded, and for a time."""

import base64
import os
import uuid
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.apis import Agent, Api, answered, problem, serving

from isthmus.deployment import logshipping
from isthmus.wire.logs import MAX_CHUNK_BYTES


@pytest.fixture(scope="module")
def keeping(
    api_database: str, api_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Api]:
    """A deployment that keeps logs."""
    with serving(tmp_path_factory.mktemp("keeping"), api_database, api_environment, SHIP_LOGS="True") as api:
        yield api


def ship(agent: Agent, workload_id: str, offset: int, text: bytes = b"", **values: Any) -> httpx.Response:
    data = {"data": base64.b64encode(zlib.compress(text)).decode()} if text else {}
    return agent.post("log-shipments", workload_id=workload_id, offset=offset, **data, **values)


def kept(api: Api, workload_id: str) -> bytes:
    parts = api.execute(f"SELECT data FROM isthmus_shipped_log_part WHERE workload_id = '{workload_id}' ORDER BY start")
    return b"".join(zlib.decompress(bytes(part)) for (part,) in parts)


def ran(api: Api, agent: Agent) -> str:
    (workload_id,) = api.queue(agent)
    agent.settle(agent.run(workload_id))
    return workload_id


def test_parts_are_kept_once_and_in_order(keeping: Api) -> None:
    agent = keeping.agent()
    workload_id = ran(keeping, agent)
    assert answered(ship(agent, workload_id, 7, b"too early")) == {"offset": 0, "complete": False}
    assert answered(ship(agent, workload_id, 0, b"one ")) == {"offset": 4, "complete": False}
    assert answered(ship(agent, workload_id, 0, b"one ")) == {"offset": 4, "complete": False}, "came again"
    assert answered(ship(agent, workload_id, 2, b"overlaps")) == {"offset": 4, "complete": False}
    assert answered(ship(agent, workload_id, 4, b"two", end=True)) == {"offset": 7, "complete": True}
    assert answered(ship(agent, workload_id, 7, b"after the end")) == {"offset": 7, "complete": True}
    assert kept(keeping, workload_id) == b"one two"


def test_nobody_ships_for_another_agent(keeping: Api) -> None:
    token = keeping.token()["secret"]
    agent, sibling = keeping.agent(token=token), keeping.agent(token=token)
    workload_id = ran(keeping, agent)
    assert problem(ship(sibling, workload_id, 0, b"forged")) == "workload_not_found"
    answered(ship(agent, workload_id, 0, b"true"))
    assert problem(ship(sibling, workload_id, 4, b"forged")) == "workload_not_found"
    (waiting,) = keeping.queue(agent)
    assert problem(ship(agent, waiting, 0, b"it has not begun")) == "workload_not_found"
    (callback,) = keeping.queue(agent, kind="callback")
    assert problem(ship(agent, callback, 0, b"no task")) == "workload_not_found"
    assert problem(ship(agent, str(uuid.uuid4()), 0, b"of nothing")) == "workload_not_found"
    assert kept(keeping, workload_id) == b"true"


def test_what_is_too_much_is_refused(keeping: Api) -> None:
    agent = keeping.agent()
    workload_id = ran(keeping, agent)
    assert problem(ship(agent, workload_id, 0, b"\0" * (MAX_CHUNK_BYTES + 1))) == "request_invalid"
    damaged = {"data": base64.b64encode(b"no zlib").decode()}
    assert problem(agent.post("log-shipments", workload_id=workload_id, offset=0, **damaged)) == "request_invalid"
    part, offset = os.urandom(1024) * (MAX_CHUNK_BYTES // 1024), 0
    while offset < logshipping.MAX_LOG_BYTES:
        answer = answered(ship(agent, workload_id, offset, part))
        assert answer == {"offset": offset + len(part), "complete": False}
        offset = answer["offset"]
    assert answered(ship(agent, workload_id, offset, b"!")) == {"offset": offset, "complete": True}
    assert answered(ship(agent, workload_id, offset, b"!")) == {"offset": offset, "complete": True}
    assert keeping.execute(f"SELECT cut FROM isthmus_shipped_log WHERE workload_id = '{workload_id}'") == [(True,)]


def test_shipped_logs_outlive_the_workload_and_go_after_their_time(keeping: Api) -> None:
    agent = keeping.agent()
    old, new = ran(keeping, agent), ran(keeping, agent)
    for workload_id in (old, new):
        answered(ship(agent, workload_id, 0, b"kept", end=True))
    keeping.execute(f"DELETE FROM isthmus_workload WHERE id IN ('{old}', '{new}') RETURNING 1")
    keeping.execute(
        f"UPDATE isthmus_shipped_log SET begun_at = now() - interval '8 days' WHERE workload_id = '{old}' RETURNING 1"
    )
    statement = logshipping._FORGET.replace("$1", "7").replace("$2", "10")
    keeping.execute(f"{statement} RETURNING 1")  # or the process has, which does so every minute
    assert kept(keeping, old) == b""
    assert kept(keeping, new) == b"kept"


def test_a_deployment_that_keeps_none_refuses(api: Api) -> None:
    agent = api.agent()
    assert problem(ship(agent, ran(api, agent), 0, b"words")) == "logs_not_kept"
