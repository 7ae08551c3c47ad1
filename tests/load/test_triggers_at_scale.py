"""The triggerer's process under many triggers: what they cost while they wait, and how fast their events leave.

The plane's side is played here, on the gateway's socket; what the plane itself does with a thousand events is measured
by ``test_a_thousand_events_at_once`` on a real one.
"""

import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.apis import until

from isthmus.wire import frames

WAITING = 10_000
FIRING = 1_000
MOST_BYTES = 200 * 1024 * 1024
MOST_SECONDS = 10.0
TRIGGER = "airflow.providers.standard.triggers.temporal.DateTimeTrigger"


class Plane:
    """What the triggerer asks: loads, workloads, events."""

    def __init__(self) -> None:
        self.held: dict[int, dict[str, Any]] = {}
        self.fired: dict[int, float] = {}
        self._changed = threading.Condition()

    def hold(self, triggers: dict[int, dict[str, Any]]) -> None:
        with self._changed:
            self.held.update(triggers)
            self._changed.notify_all()

    def answer(self, path: str, asked: dict[str, Any]) -> dict[str, Any]:
        match path.rsplit("/", 1)[1]:
            case "load":
                with self._changed:
                    self._changed.wait_for(lambda: asked["revision"] != self.revision, timeout=5)
                    return {"fence": 7, "trigger_ids": sorted(self.held), "revision": self.revision}
            case "workloads":
                return {"workloads": [self.workload(one) for one in asked["trigger_ids"]], "dags": {}}
            case "events":
                for event in asked["events"]:
                    self.fired[event["trigger_id"]] = time.monotonic()
                with self._changed:
                    for event in asked["events"]:
                        self.held.pop(event["trigger_id"], None)
                    self._changed.notify_all()
                return {"verdicts": ["accepted"] * len(asked["events"])}
        raise AssertionError(path)

    @property
    def revision(self) -> str:
        return f"{len(self.held)}-{len(self.fired)}"

    def workload(self, trigger_id: int) -> dict[str, Any]:
        ti = {
            "id": str(uuid.UUID(int=trigger_id)),
            "dag_version_id": str(uuid.UUID(int=1)),
            "task_id": "wait",
            "dag_id": "many",
            "run_id": "manual__1",
            "try_number": 1,
            "map_index": trigger_id,
            "pool_slots": 1,
            "queue": "default",
            "priority_weight": 1,
        }
        kwargs = {"moment": self.held[trigger_id], "end_from_trigger": False}
        workload = {"id": trigger_id, "classpath": TRIGGER, "encrypted_kwargs": json.dumps(kwargs), "ti": ti}
        return {"trigger_id": trigger_id, "workload": workload, "log_path": f"many/{trigger_id}.log.trigger.7.log"}


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def __init__(self, path: Path, plane: Plane) -> None:
        self.plane = plane
        super().__init__(str(path), Handler)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        body = json.dumps(self.server.plane.answer(self.path, asked)).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        with suppress(ConnectionError):  # a triggerer that has ended waits for no answer
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Be quiet."""


def moment(seconds: float) -> dict[str, Any]:
    """A time from now, as Airflow's serde encodes it."""
    zone = ["UTC", "pendulum.tz.timezone.FixedTimezone", 1, True]
    tz = {"__classname__": "builtins.tuple", "__version__": 1, "__data__": zone}
    data = {"timestamp": time.time() + seconds, "tz": tz}
    return {"__classname__": "datetime.datetime", "__version__": 2, "__data__": data}


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[tuple[Plane, psutil.Process]]:
    """A plane with nothing to do, and a triggerer that has begun."""
    plane = Plane()
    server = Server(tmp_path / "gateway.sock", plane)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ours, theirs = socket.socketpair()
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(tmp_path / "logs"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "isthmus.runner", "triggerer", frames.SOCKET_OPTION, str(theirs.fileno())],
            env=environment,
            pass_fds=[theirs.fileno()],
            stdout=out,
            stderr=out,
        )
    theirs.close()
    reader = frames.FrameReader()
    ready = []
    ours.settimeout(60)
    while not ready:
        data = ours.recv(65536)
        assert data, (tmp_path / "out").read_text()
        ready = reader.feed(data)
    begin = frames.Begin(
        agent_id=uuid.uuid4(),
        instance_id=uuid.uuid4(),
        slots=20_000,
        gateway_socket=str(tmp_path / "gateway.sock"),
        gateway_token="t",
    )
    ours.sendall(frames.encode(begin))
    try:
        yield plane, psutil.Process(process.pid)
    finally:
        ours.sendall(frames.encode(frames.Stop()))
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()
            ours.close()
            server.shutdown()
            server.server_close()


def memory(process: psutil.Process) -> int:
    """What the process and those below it take, what they share counted once."""
    return sum(one.memory_full_info().pss for one in (process, *process.children(recursive=True)))


def test_many_triggers_wait_and_fire(plane: tuple[Plane, psutil.Process], record_property: Any, tmp_path: Path) -> None:
    played, process = plane
    played.hold({1: moment(0)})
    until(lambda: 1 in played.fired, seconds=30)
    before = memory(process)
    begun = time.monotonic()
    played.hold({one: moment(3600) for one in range(10, 10 + WAITING)})
    logs = tmp_path / "logs" / "many"
    until(lambda: logs.exists() and sum(1 for _ in logs.iterdir()) > WAITING, seconds=120)
    started = time.monotonic() - begun
    cost = memory(process) - before
    files = process.num_fds()
    at = time.monotonic() + 8
    played.hold({one: moment(8) for one in range(50_000, 50_000 + FIRING)})
    until(lambda: len(played.fired) > FIRING, seconds=60)
    took = max(played.fired.values()) - at
    print(
        f"{WAITING} triggers: started in {started:.1f} s, {cost / 2**20:.0f} MiB over {before / 2**20:.0f} MiB, "
        f"{files} files; {FIRING} events out {took:.1f} s after their moment"
    )
    record_property("mebibytes", round(cost / 2**20))
    assert cost < MOST_BYTES
    assert files < 200
    assert took < MOST_SECONDS
