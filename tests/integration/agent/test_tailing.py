"""An agent sends the end of its own log when the plane asks for it, once, without what is secret."""

import json
import time
import uuid

from tests.fakes import plane as planes
from tests.fakes.plane import TOKEN, FakePlane
from tests.integration.agent.conftest import Start

from isthmus.wire import paths, problems
from isthmus.wire.agents import LogTailRequest
from isthmus.wire.problems import Code


def sent(plane: FakePlane, order_id: uuid.UUID) -> LogTailRequest:
    tail: LogTailRequest = plane.wait_for(lambda: [one for one in plane.log_tails if one.order_id == order_id])[0]
    return tail


def asked(plane: FakePlane) -> uuid.UUID:
    plane.fetch_log = uuid.uuid4()
    return plane.fetch_log


def test_it_is_sent_within_a_heartbeat_and_once(plane: FakePlane, start: Start) -> None:
    agent = start(plane.url)
    plane.wait_for(lambda: plane.calls_to(paths.CLAIMS))
    begun = time.monotonic()
    order_id = asked(plane)
    tail = sent(plane, order_id)
    assert time.monotonic() - begun < plane.heartbeat_seconds + 2
    text = "\n".join(tail.lines)
    assert "starting" in text
    assert "enrolled" in text
    written = [json.loads(line)["event"] for line in agent.log.read_text().splitlines()]
    assert [event in line for event, line in zip(written, tail.lines, strict=False)] == [True] * len(tail.lines)
    time.sleep(2.5)  # the order comes with every heartbeat meanwhile
    assert len(plane.log_tails) == 1
    sent(plane, asked(plane))


def test_no_secret_is_in_it(plane: FakePlane, start: Start) -> None:
    agent = start(plane.url)
    plane.wait_for(lambda: plane.calls_to(paths.HEARTBEATS))
    said = problems.problem(Code.TOKEN_INVALID, f"you sent {TOKEN} and \x1b[2J")
    plane.faults[paths.HEARTBEATS].append(
        planes.Answer(said.status, said.model_dump_json().encode(), problems.CONTENT_TYPE)
    )
    plane.wait_for(lambda: "you sent" in agent.log.read_text())
    tail = sent(plane, asked(plane))
    text = "\n".join(tail.lines)
    assert "you sent" in text
    assert TOKEN.rpartition("_")[2] not in text
    assert "\x1b" not in text


def test_what_the_plane_did_not_take_is_sent_again_and_what_is_too_large_gets_smaller(
    plane: FakePlane, start: Start
) -> None:
    start(plane.url)
    plane.wait_for(lambda: plane.calls_to(paths.CLAIMS))
    plane.faults[paths.LOG_TAILS].extend([planes.refusal(Code.DATABASE_UNAVAILABLE)])
    sent(plane, asked(plane))
    plane.faults[paths.LOG_TAILS].append(planes.refusal(Code.BODY_TOO_LARGE))
    order_id = asked(plane)
    tail = sent(plane, order_id)
    whole, half = [call.json for call in plane.calls_to(paths.LOG_TAILS) if call.json["order_id"] == str(order_id)]
    assert len(half["lines"]) < len(whole["lines"])
    assert tuple(half["lines"]) == tail.lines == tuple(whole["lines"][-len(tail.lines) :])


def test_a_refusal_ends_it(plane: FakePlane, start: Start) -> None:
    start(plane.url)
    plane.wait_for(lambda: plane.calls_to(paths.CLAIMS))
    plane.faults[paths.LOG_TAILS].append(planes.refusal(Code.LOG_NOT_ASKED))
    asked(plane)
    plane.wait_for(lambda: plane.calls_to(paths.LOG_TAILS))
    time.sleep(2.5)
    assert len(plane.calls_to(paths.LOG_TAILS)) == 1
