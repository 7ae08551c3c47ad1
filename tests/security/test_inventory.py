"""The inventory of what leaves the customer's network, from recorded traffic: ``docs/privacy.md`` says the same.

An agent with all roles reaches the plane through a checkpoint that ends TLS and keeps every byte. Its DAG has a canary
in each class of bytes; each profile sends the canaries that the tables below name, in the calls that they name, and no
other one in any call, encoding, path or header.
"""

import base64
import binascii
import gzip
import json
import re
import uuid
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from faults.harness import waits
from faults.harness.agents import Agent
from faults.harness.certificates import Authority
from faults.harness.planes import Plane
from faults.harness.proxies import Checkpoint, Seen
from isthmus.deployment import provider
from isthmus.wire.names import Role

HERE = Path(__file__).parent
CANARY = re.compile(rb"canary-[a-z]+")
STATE = "PATCH execution/task-instances/state"
#: Arguments are rendered fields, so the value of an XCom is one where a task takes it.
LOGS = "POST agent/v1/log-reads/chunks"
SHIPPED = "POST agent/v1/log-shipments"
RENDERED = "PUT execution/task-instances/rtif"
#: What never leaves, whatever the profile: none of these is in any table below.
KEPT = {"source", "connection", "variable", "environment", "data"}

OPEN = {
    "doc": {"POST agent/v1/dag-processing/submissions"},
    "xcom": {"POST execution/xcoms", RENDERED, SHIPPED},  # Airflow logs what a task returns
    "rendered": {RENDERED},
    "extra": {STATE},
    "argument": {STATE},
    "event": {"POST agent/v1/triggers/events"},
    "log": {LOGS, SHIPPED},
    "import": {"POST agent/v1/dag-processing/submissions"},
    # What is in logs as well: each log is shipped, one is looked at.
    "reason": {SHIPPED},
    "traceback": {"POST agent/v1/triggers/failures", SHIPPED},
}
#: Why something failed, which is not told. The plane has to know it before a task can log why its trigger has failed.
REASONS = {"import", "traceback"}
#: What leaves with logs alone.
LOGGED = {"log", "reason"}
MASKED = {name: calls - {RENDERED} for name, calls in OPEN.items() if calls != {RENDERED} and name not in REASONS}
STRICT = {name: calls for name, calls in MASKED.items() if name not in {"xcom", "extra"} | LOGGED}
PROFILES = {"open": OPEN, "masked": MASKED, "strict": STRICT}
#: How tasks end. In ``strict`` one that pushes a value is told so, and fails.
ENDS = dict.fromkeys(("read", "push", "take", "render", "log", "emit", "defer"), "success") | dict.fromkeys(
    ("fail", "break"), "failed"
)
REFUSED = {"push": "failed", "take": "upstream_failed"}


ERRORS = "SELECT 1 FROM import_error WHERE bundle_name = %s"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """A plane without a DAG file, whose agents have all roles."""
    empty = tmp_path_factory.mktemp("none")
    plane = Plane(empty, settings={"roles": ",".join(Role), "ship_logs": "True"})
    plane.airflow.environment |= {
        "AIRFLOW__LOGGING__LOGGING_CONFIG_CLASS": provider.LOGGING_CONFIG,
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__API__WORKERS": "1",
    }
    try:
        plane.start()
        plane.start_airflow()
        yield plane
    finally:
        plane.close()


def _agent(plane: Plane, lane: str, profile: str, checkpoint: Checkpoint, **settings: str) -> Agent:
    bundle = {
        "name": f"inventory-{lane}",
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(HERE / "inventory")},
    }
    file = plane.directory / f"{lane}.data"
    file.write_text("canary-data")
    file.chmod(0o644)
    return Agent(
        plane,
        lane,
        slots=4,
        port=checkpoint.port,
        authority=checkpoint.authority,
        settings={
            "ISTHMUS_AGENT_ROLE": ",".join(Role),
            "ISTHMUS_AGENT_PRIVACY": profile,
            "ISTHMUS_AGENT_SHIP_LOGS": "true",
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([bundle]),
            "PYTHONPATH": str(HERE / "inventory"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "INVENTORY_LANE": lane,
            "AIRFLOW_CONN_WAREHOUSE": "postgres://someone:canary-connection@db.example.org",
            "AIRFLOW_VAR_CANARIES": "canary-variable",
            "CANARY": "canary-environment",
            "CANARY_FILE": str(file),
            **settings,
        },
    )


@pytest.fixture
def checkpoint(plane: Plane) -> Iterator[Checkpoint]:
    authority = Authority(plane.directory, f"checkpoint-{uuid.uuid4().hex[:8]}")
    checkpoint = Checkpoint(plane.loop, authority, plane.api_port, plane.authority)
    yield checkpoint
    checkpoint.close()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("profile", PROFILES)
def test_what_leaves(plane: Plane, checkpoint: Checkpoint, profile: str) -> None:
    agent = _agent(plane, profile, profile, checkpoint)
    _run(plane, agent, PROFILES[profile], REFUSED if profile == "strict" else {})
    _assert_left(checkpoint, PROFILES[profile])


@pytest.mark.timeout(400)
def test_values_in_a_store_of_ones_own(plane: Plane, checkpoint: Checkpoint) -> None:
    """With a backend that keeps XComs in a store, the strictest profile runs every task, and no value leaves."""
    store = plane.directory / "store"
    store.mkdir()
    store.chmod(0o777)
    agent = _agent(
        plane,
        "stored",
        "strict",
        checkpoint,
        ISTHMUS_AGENT_PRIVACY_REFERENCES=f"file://{store}/",
        AIRFLOW__CORE__XCOM_BACKEND="airflow.providers.common.io.xcom.backend.XComObjectStorageBackend",
        AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH=f"file://{store}",
        AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_THRESHOLD="0",
    )
    _run(plane, agent, STRICT, {})
    _assert_left(checkpoint, STRICT)
    assert any("canary-xcom" in path.read_text() for path in store.rglob("*") if path.is_file())


def _run(plane: Plane, agent: Agent, left: dict[str, set[str]], others: dict[str, str]) -> None:
    """Run the DAG on the agent, read a log, and end the agent. ``others`` are the ends that are not the usual ones."""
    dag_id, run_id = f"inventory_{agent.lane}", f"run-{uuid.uuid4().hex[:8]}"
    rows = plane.database.rows
    try:
        agent.start(ready=False)
        waits.until(
            "the DAG is there",
            lambda: rows("SELECT 1 FROM serialized_dag WHERE dag_id = %s", (dag_id,)),
            seconds=120,
            evidence=lambda: f"{rows('SELECT stacktrace FROM import_error', ())}\n{agent.evidence()}",
        )
        plane.operate("trigger", dag_id=dag_id, run_id=run_id, conf={})
        wanted = ENDS | others

        def states() -> dict[str, str]:
            return dict(rows("SELECT task_id, state FROM task_instance WHERE run_id = %s", (run_id,)))

        def evidence() -> str:
            return f"{states()}\n{agent.evidence()}"

        waits.until(f"the tasks are {wanted}", lambda: states() == wanted, seconds=120, evidence=evidence)
        waits.until("the broken file is told of", lambda: rows(ERRORS, (f"inventory-{agent.lane}",)), seconds=60)
        waits.until(
            "the logs are shipped", lambda: agent.health().get("unshipped_logs") == 0, seconds=60, evidence=evidence
        )
        shown = _log(plane, dag_id, run_id, "log")
        assert ("canary-log" in shown) is ("log" in left)
        assert ("stay in its network" in shown) is ("log" not in left)
    finally:
        agent.close()


def _assert_left(checkpoint: Checkpoint, expected: dict[str, set[str]]) -> None:
    found = _canaries(checkpoint.seen)
    assert found == expected
    assert not found.keys() & KEPT
    assert len(checkpoint.seen) > 30


def _log(plane: Plane, dag_id: str, run_id: str, task_id: str) -> str:
    """As somebody reads it in Airflow's UI."""
    with httpx.Client(base_url=f"http://127.0.0.1:{plane.airflow_port}", timeout=60) as client:
        client.headers["Authorization"] = f"Bearer {client.get('/auth/token').json()['access_token']}"
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/1?full_content=true"
        answer = client.get(path, headers={"Accept": "application/json"})
        assert answer.status_code == 200, answer.text
        return answer.text


def _canaries(requests: list[Seen]) -> dict[str, set[str]]:
    """Canary → the calls that carried it, in whatever part and encoding."""
    found: dict[str, set[str]] = defaultdict(set)
    for seen in requests:
        head = " ".join([seen.path, *(value for _, value in seen.headers)]).encode()
        for text in (head, *_readings(seen.body)):
            for canary in CANARY.findall(text):
                found[canary.decode().removeprefix("canary-")].add(_call(seen))
    return dict(found)


def _readings(body: bytes) -> Iterator[bytes]:
    """A body as it is, unpacked, and with each long text in it that is base64 of something packed."""
    if body[:2] == b"\x1f\x8b":
        body = gzip.decompress(body)
    yield body
    for text in re.findall(rb'"([A-Za-z0-9+/]{16,}={0,2})"', body):
        try:
            raw = base64.b64decode(text, validate=True)
        except binascii.Error:
            continue
        yield raw
        try:
            yield zlib.decompress(raw)
        except zlib.error:
            continue


def _call(seen: Seen) -> str:
    """``METHOD area/kind`` without ids."""
    parts = seen.path.partition("?")[0].strip("/").split("/")[1:]
    if parts[0] == "agent":
        return f"{seen.method} {'/'.join(parts)}"
    return f"{seen.method} {'/'.join((*parts[:2], *(parts[3:] if parts[1] == 'task-instances' else [])))}"
