"""A plane that asks an agent for what it must not have, and for more than it should."""

import json
import os
import uuid
import zlib
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.plane import Answer, FakePlane, Slow
from tests.integration.agent.conftest import ROOT, Start

from isthmus.wire import paths
from isthmus.wire.logs import MAX_READS

LOG = "dag_id=d/run_id=r/task_id=t/attempt=1.log"


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """The log folder, with a secret beside it that is reached by a link and by another name."""
    folder = tmp_path / "logs"
    (folder / LOG).parent.mkdir(parents=True)
    (folder / LOG).write_text("words\n")
    (tmp_path / "secret").write_text("s3cret")
    (tmp_path / "secret.trigger.1.log").write_text("s3cret")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "up").symlink_to(tmp_path)
    os.link(tmp_path / "secret", folder / "other-name")
    os.mkfifo(folder / "pipe")
    return folder


def environment(logs: Path) -> str:
    file = logs.parent / "environment"
    file.write_text(
        f"PYTHONPATH={ROOT}\nFAKE_RECORD={logs.parent / 'orders'}\nAIRFLOW__LOGGING__BASE_LOG_FOLDER={logs}\n"
    )
    return str(file)


def asked(*reads: dict[str, Any]) -> Answer:
    return Answer(body=json.dumps({"reads": reads}).encode())


def read(path: Any, source: str = "file", **values: Any) -> dict[str, Any]:
    return {"read_id": str(uuid.uuid4()), "source": source, "path": path, **values}


def chunks(plane: FakePlane) -> list[dict[str, Any]]:
    return [call.json for call in plane.calls_to(paths.LOG_CHUNKS)]


def test_a_hostile_plane_gets_nothing_but_logs(plane: FakePlane, start: Start, logs: Path) -> None:
    secret = str(logs.parent / "secret")
    hostile = ["../secret", secret, "up/secret", "link", "other-name", "pipe", "a/../../secret", "\0"]
    hostile += [".", "/", "//" + secret, "x" * 1999, "a/" * 900 + "b", f"{LOG}/../../../../../secret", LOG + "/"]
    wanted = [read(path) for path in hostile] + [read(path, "trigger_files") for path in hostile]
    plane.faults[paths.LOG_READS].extend(asked(one) for one in wanted)
    # What is no request at all: too long, of another kind, too many.
    for wrong in (
        [read("x" * 2001)],
        [read("\ud800")],
        [read(LOG, "memory")],
        [read(["a"])],
        [read(LOG)] * (MAX_READS + 1),
    ):
        plane.faults[paths.LOG_READS].append(asked(*wrong))
    # An offset is nothing that an agent knows.
    good = read(LOG, offset=-1, length=2**70)
    plane.faults[paths.LOG_READS].append(asked(good))
    agent = start(plane.url, runner_environment_file=environment(logs))
    plane.wait_for(lambda: any(one["read_id"] == good["read_id"] for one in chunks(plane)))
    plane.wait_for(lambda: {one["read_id"] for one in chunks(plane)} >= {one["read_id"] for one in wanted})
    for one in chunks(plane):
        data = zlib.decompress(b64decode(one["data"])) if one.get("data") else b""
        if one["read_id"] == good["read_id"]:
            assert data == b"words\n"
        else:
            assert (data, one["fault"] in {"refused", "missing", "failed"}) == (b"", True), one
    assert "s3cret" not in agent.log.read_text()
    assert agent.process.poll() is None


def test_no_more_logs_are_sent_at_once_than_the_agent_allows(plane: FakePlane, start: Start, logs: Path) -> None:
    same = read(LOG)
    others = [read(LOG) for _ in range(2 * MAX_READS)]
    plane.faults[paths.LOG_CHUNKS].extend([Slow(3.0)] * 100)
    plane.faults[paths.LOG_READS].extend([asked(*[same] * MAX_READS)] * 3)
    plane.faults[paths.LOG_READS].extend([asked(*others[:MAX_READS]), asked(*others[MAX_READS:])])
    start(plane.url, runner_environment_file=environment(logs))
    plane.wait_for(lambda: len(chunks(plane)) >= MAX_READS)
    began = plane.calls_to(paths.LOG_CHUNKS)[0].at
    at_once = [call for call in plane.calls_to(paths.LOG_CHUNKS) if call.at < began + 2.5]
    assert len(at_once) == MAX_READS
    assert len({call.json["read_id"] for call in at_once}) == MAX_READS, "a read that comes again is the same one"
