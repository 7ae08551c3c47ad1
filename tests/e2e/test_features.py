"""What Airflow offers beside running a function, on a real agent: ``run_as_user``, OpenTelemetry, OpenLineage.

The plane knows nothing of any of them; everything is in the environment of the agent and on its machine. Two runs, of
which the tests look at different sides.
"""

import gzip
import json
import os
import pwd
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from faults.harness import programs, waits
from faults.harness.agents import FIRST_USER, Agent, Users
from faults.harness.planes import Plane

HERE = Path(__file__).parent
#: Debian's own users, which run nothing: whom tasks are, whom they may become, and whom they may not.
TASKS, OTHER, NOBODY = "games", "news", "nobody"
SUDOERS = Path("/etc/sudoers.d/isthmus-tests")
ENDS = {"become": "success", "take": "success", "traced": "success", "refused": "failed", "broken": "failed"}
#: The OpenLineage provider, which nothing else of the plane's or of an agent's can import.
LINEAGE = HERE.parents[1] / ".lineage"
#: Later than any other agent's of this run of the tests.
CONTROL = FIRST_USER + 900

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root"),
    pytest.mark.skipif(shutil.which("sudo") is None, reason="there is no sudo: apt-get install sudo"),
    pytest.mark.skipif(not LINEAGE.exists(), reason="there is no OpenLineage provider: make lineage"),
    pytest.mark.timeout(300),
]


class Collector:
    """What OTLP and OpenLineage sent here over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.events: list[dict[str, Any]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.take(self.path, body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def take(self, path: str, body: bytes) -> None:
        if path == "/api/v1/lineage":
            self.events.append(json.loads(body))
            return
        assert path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans

    def span(self, name: str) -> Span:
        def find() -> Span | None:
            return next((span for span in self.spans if span.name == name), None)

        return waits.until(f"there is a span {name}", find, seconds=15, evidence=lambda: str(self.spans))

    def lineage(self, task_id: str) -> list[str]:
        """The kinds of events of a task, in their order."""
        return [str(event["eventType"]) for event in self.events if event["job"]["name"] == f"features.{task_id}"]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="module")
def plane() -> Iterator[Plane]:
    plane = Plane(HERE / "features")
    try:
        yield plane.start()
    finally:
        plane.close()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture(scope="module")
def sudo() -> Iterator[None]:
    """As docs/production.md says."""
    SUDOERS.write_text(f"{TASKS} ALL=({OTHER}) NOPASSWD:SETENV: {sys.executable}\n")
    SUDOERS.chmod(0o440)
    yield
    SUDOERS.unlink()


@pytest.fixture(scope="module")
def agent(plane: Plane, collector: Collector, sudo: None) -> Iterator[Agent]:
    agent = Agent(
        plane,
        "features",
        slots=len(ENDS) + 3,
        users=Users(CONTROL, pwd.getpwnam(TASKS).pw_uid),
        settings={
            "AIRFLOW_VAR_FEATURES": "a value",
            "AIRFLOW__TRACES__OTEL_ON": "True",
            "OTEL_TRACES_EXPORTER": "otlp_proto_http",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_TRACES_SAMPLER": "always_on",
            "PYTHONPATH": str(LINEAGE),
            "OPENLINEAGE_URL": collector.url,
            "AIRFLOW__OPENLINEAGE__NAMESPACE": "agents",
        },
    )
    try:
        yield agent.start()
    finally:
        agent.close()


class Run:
    """A run of one of the DAGs."""

    def __init__(self, plane: Plane, agent: Agent, dag_id: str) -> None:
        self._plane, self._agent = plane, agent
        self.dag_id = dag_id
        self.folder = plane.directory / dag_id
        self.folder.mkdir()
        self.folder.chmod(0o777)
        plane.operate("trigger", dag_id=dag_id, run_id="run", conf={"folder": str(self.folder)})

    def states(self) -> dict[str, Any]:
        rows = self._plane.database.rows("SELECT task_id, state FROM task_instance WHERE dag_id = %s", (self.dag_id,))
        return dict(rows)

    def await_states(self, wanted: dict[str, str]) -> None:
        def evidence() -> str:
            return f"{self.states()}\n{self._agent.evidence()}"

        waits.until(f"the tasks are {wanted}", lambda: self.states() == wanted, seconds=120, evidence=evidence)

    def log(self, task_id: str) -> str:
        """What the agent keeps."""
        folder = self._agent.directory / "logs" / f"dag_id={self.dag_id}" / "run_id=run" / f"task_id={task_id}"
        return (folder / "attempt=1.log").read_text()

    def process(self, task_id: str) -> psutil.Process:
        """The one that runs the task's own code."""
        file = self.folder / f"{task_id}.pid"
        waits.until(f"{task_id} runs", lambda: file.exists() and file.read_text(), seconds=120, evidence=self.evidence)
        return psutil.Process(int(file.read_text()))

    def evidence(self) -> str:
        return f"{self.states()}\n{self._agent.evidence()}"


@pytest.fixture(scope="module")
def killed(plane: Plane, agent: Agent) -> Run:
    """Begun early: what is looked at last."""
    return Run(plane, agent, "features_killed")


@pytest.fixture(scope="module")
def orphaned(plane: Plane, agent: Agent) -> Run:
    """As well."""
    return Run(plane, agent, "features_orphaned")


@pytest.fixture(scope="module")
def run(plane: Plane, agent: Agent, killed: Run, orphaned: Run) -> Run:
    return Run(plane, agent, "features")


def test_another_user_sees_no_secret(agent: Agent, run: Run) -> None:
    process = run.process("become")
    assert process.username() == OTHER
    family = [process, *(one for one in process.parents() if "sudo" in one.name())]
    assert len(family) == 2
    for one in family:
        seen = Path(f"/proc/{one.pid}/environ").read_bytes() + Path(f"/proc/{one.pid}/cmdline").read_bytes()
        assert agent.token.encode() not in seen
        assert b"ISTHMUS_" not in seen
        assert b"eyJ" not in seen, "no token of Airflow's"
        for user in (NOBODY, TASKS):
            look = subprocess.run(["cat", f"/proc/{one.pid}/environ"], user=user, capture_output=True, check=False)
            assert (look.returncode, look.stdout) == (1, b""), user
    (run.folder / "gate").touch()


def test_a_task_runs_as_another_user(run: Run) -> None:
    run.await_states(ENDS)
    assert "said by news" in run.log("become")
    home = pwd.getpwnam(OTHER).pw_dir
    assert f"Done. Returned value was: {OTHER} in {home} with a value" in run.log("take")


def test_nobody_becomes_whom_the_rules_do_not_name(run: Run) -> None:
    run.await_states(ENDS)
    log = run.log("refused")
    assert '["sudo","-E","-H","-u","uucp"' in log
    assert "sudo: a password is required" in log


def test_spans_belong_to_the_trace_of_the_run(plane: Plane, run: Run, collector: Collector) -> None:
    """Under sudo as well. ``context_carrier`` has ``00-<trace>-<span>-<flags>``."""
    run.await_states(ENDS)
    carrier = plane.database.rows(
        "SELECT context_carrier->'__var'->>'traceparent' FROM dag_run WHERE dag_id = %s", (run.dag_id,)
    )
    trace_id, span_id = (bytes.fromhex(part) for part in str(carrier[0][0]).split("-")[1:3])
    for task_id in ENDS.keys() - {"refused"}:
        span = collector.span(f"worker.{task_id}")
        assert (span.trace_id, span.parent_span_id) == (trace_id, span_id), task_id
    mine = collector.span("mine")
    assert (mine.trace_id, mine.parent_span_id) == (trace_id, collector.span("worker.traced").span_id)


def test_no_thread_runs_in_the_fork_server(agent: Agent, run: Run) -> None:
    """The one that exports spans is each task's own: a fork of a process with threads may hang."""
    run.await_states(ENDS)
    assert agent.fork_server().num_threads() == 1
    assert "Threads run before the first fork" not in agent.control.log.read_text()


def test_lineage_is_emitted_by_the_agent(run: Run, collector: Collector) -> None:
    """PYTHONPATH, where the provider is here, does not pass sudo."""
    run.await_states(ENDS)
    for task_id, ends in {"traced": "COMPLETE", "take": "COMPLETE", "broken": "FAIL", "become": ""}.items():
        wanted = ["START", ends] if ends else []
        waits.until(
            f"the events of {task_id} are {wanted}",
            lambda: collector.lineage(task_id) == wanted,  # noqa: B023 - called at once
            seconds=15,
            evidence=lambda: str(collector.events),
        )
    event = next(
        one for one in collector.events if one["job"]["name"] == "features.broken" and one["eventType"] == "FAIL"
    )
    assert event["job"]["namespace"] == "agents"
    assert "as planned" in event["run"]["facets"]["errorMessage"]["message"]


def test_a_task_of_another_user_can_be_killed(plane: Plane, agent: Agent, run: Run, killed: Run) -> None:
    """Set to failed in the UI, as the heartbeat is told: ``on_kill`` runs, and nothing is left, daemons included."""
    run.await_states(ENDS)
    processes = [killed.process(name) for name in ("lasting", "stubborn", "stubborn.daemon")]
    assert {process.username() for process in processes} == {OTHER}
    with plane.database.connect() as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE task_instance SET state = 'failed' WHERE dag_id = %s", (killed.dag_id,))
    connection.close()

    waits.until(
        "they are gone",
        lambda: not any(programs.is_alive(process) for process in processes),
        seconds=30,
        evidence=agent.evidence,
    )
    assert (killed.folder / "lasting.on_kill").exists()
    waits.until("one slot is used", lambda: agent.health().get("slots_used") == 1, seconds=15, evidence=agent.evidence)


def test_a_task_of_another_user_dies_with_its_agent(agent: Agent, orphaned: Run) -> None:
    """Killed as by the kernel: nobody is left who may kill it."""
    process = orphaned.process("lasting")
    agent.kill()
    waits.until("it is gone", lambda: not programs.is_alive(process), seconds=15)
