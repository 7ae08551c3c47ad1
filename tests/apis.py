"""A Remote Execution API process for the tests of what it says: real TLS, real PostgreSQL, real Airflow behind it.

``api`` is one process for the whole run of pytest, so tests keep apart by names and queues of their own and put back
what they change for all (the allow list). Leases are short. ``queued_task`` is a queued task instance of a real DAG,
made by a process of its own (``seeding``), because Airflow belongs to the process whose environment it read first.
"""

import contextlib
import itertools
import json
import os
import signal
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.engine import make_url
from tests import planting
from tests.faults.harness.certificates import Authority

from isthmus.deployment import databases

DEPLOYMENT_ID = "dtest234"
ADMIN_TOKEN = "the-admin-token-of-the-tests"
#: Requests that come from here may say whose they are, and through which link they came.
PROXY = "127.0.0.9"
#: A proxy that hands on whatever Isthmus-Link-Id a client wrote.
PLAIN_PROXY = "127.0.0.10"
SETTINGS = {
    "HEARTBEAT_SECONDS": "1",
    "LEASE_SECONDS": "4",
    "RUNNING_LEASE_SECONDS": "8",
    "CLAIM_WAIT_SECONDS": "5",
    "TOKEN_LIMIT": "1000",
    "ROLES": "worker, dag-processor, triggerer",
    "ALLOWED_CONNECTIONS": "public_*",
    "ALLOWED_VARIABLES": "shared_*",
    "TRUSTED_PROXIES": f"{PROXY}/32, {PLAIN_PROXY}/32",
    "LINK_INGRESSES": f"{PROXY}/32",
    "MAX_BODY_BYTES": "262144",
    "MAX_EXECUTION_BODY_BYTES": "131072",
    "LISTEN_HOST": "::",
    "LISTEN_PORT": "0",
    "ADMIN_PORT": "0",
}

SERVE = """
import json
from isthmus.deployment import compat, serving
from isthmus.kit import logs
import uvloop
logs.configure(form=logs.LogFormat.JSON)
def ready(where):
    print(json.dumps([where.public[1], where.internal[1]]), flush=True)
uvloop.run(serving.run(compat.deployment_config(), ready=ready))
"""


#: For the names of agents. One for all: processes may share a database.
_numbers = itertools.count()
_running: "list[Api]" = []


@dataclass
class Agent:
    """An agent played over the wire."""

    api: "Api"
    name: str
    queue: str
    token: str
    instance_id: str
    agent_id: str = ""
    client: httpx.Client = field(repr=False, default_factory=httpx.Client)

    def body(self, **values: Any) -> dict[str, Any]:
        return {"agent_id": self.agent_id, "instance_id": self.instance_id, **values}

    def post(self, path: str, **values: Any) -> httpx.Response:
        return self.client.post(f"agent/v1/{path}", json=self.body(**values))

    def beat(self, **values: Any) -> dict[str, Any]:
        return answered(self.post("heartbeats", slots_used=0, **values))

    def claim(self, *, slots: int = 1, wait: float = 2.0, **values: Any) -> list[dict[str, Any]]:
        values = {"claim_id": str(uuid.uuid4()), **values}
        body = answered(self.post("claims", free_slots=slots, wait_seconds=wait, **values))
        workloads: list[dict[str, Any]] = body["workloads"]
        return workloads

    def start(self, *leases: dict[str, Any]) -> list[str]:
        body = answered(self.post("starts", leases=[reference(lease) for lease in leases]))
        return [one["verdict"] for one in body["verdicts"]]

    def settle(self, lease: dict[str, Any], outcome: str = "succeeded", **values: Any) -> str:
        body = answered(self.post("settlements", settlements=[{**reference(lease), "outcome": outcome, **values}]))
        verdict: str = body["verdicts"][0]["verdict"]
        return verdict

    def run(self, workload_id: str) -> dict[str, Any]:
        """Claim the one workload that is queued for this agent, and start it."""
        (lease,) = self.claim()
        assert lease["workload_id"] == workload_id
        assert self.start(lease) == ["confirmed"]
        return lease

    def task(self, lease: dict[str, Any], token: str | None = None, **headers: str) -> httpx.Client:
        """A client for Airflow's Execution API, as the gateway speaks to it for one workload."""
        sent = {
            "Authorization": f"Bearer {token or lease['task_token']}",
            "Isthmus-Agent-Token": self.token,
            "Isthmus-Agent-Id": self.agent_id,
            "Isthmus-Workload-Id": lease["workload_id"],
            **headers,
        }
        return self.api.client(headers={key: value for key, value in sent.items() if value}, path="execution/")


def reference(lease: dict[str, Any]) -> dict[str, Any]:
    return {"workload_id": lease["workload_id"], "fence": lease["fence"]}


def answered(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def problem(response: httpx.Response) -> str:
    """The code of a refusal, which must have one of the two forms of a problem and nothing else."""
    body = response.json()
    assert body["status"] == response.status_code
    assert body["type"] == f"urn:isthmus:problem:{body['code']}"
    assert body["title"]
    assert body["hint"]
    if response.headers["content-type"] == "application/problem+json":
        assert isinstance(body["detail"], str)
    else:
        assert response.headers["content-type"] == "application/json"
        assert body["detail"]["reason"] == body["code"]
        assert body["detail"]["message"]
    code: str = body["code"]
    return code


@dataclass
class Api:
    """A running process and how to reach it."""

    process: "subprocess.Popen[str]"
    port: int
    admin_port: int
    database_url: str
    authority: Path
    certificate: Path
    private_key: Path
    admin_token_file: Path
    log: Path
    open: list[httpx.Client] = field(default_factory=list)

    def close(self, first: int = 0) -> None:
        """Close the clients, those from the ``first`` on."""
        for client in self.open[first:]:
            client.close()
        del self.open[first:]

    @property
    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority))

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/{DEPLOYMENT_ID}/"

    def client(
        self, *, headers: dict[str, str] | None = None, path: str = "", source: str = "127.0.0.1", timeout: float = 20
    ) -> httpx.Client:
        """A client of the public listener that connects from ``source``."""
        host = "[::1]" if ":" in source else "127.0.0.1"
        client = httpx.Client(
            base_url=f"https://{host}:{self.port}/{DEPLOYMENT_ID}/{path}",
            headers=headers,
            transport=_Sni(httpx.HTTPTransport(verify=self.tls, local_address=source)),
            timeout=timeout,
        )
        self.open.append(client)
        return client

    def admin(self, *, token: str | None = ADMIN_TOKEN) -> httpx.Client:
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        client = httpx.Client(base_url=f"http://127.0.0.1:{self.admin_port}", headers=headers, timeout=20)
        self.open.append(client)
        return client

    def token(self, **values: Any) -> dict[str, Any]:
        """A new agent token: its view and its secret."""
        response = self.admin().post("/admin/v1/tokens", json={"name": "test", **values})
        assert response.status_code == 201, response.text
        body: dict[str, Any] = response.json()
        return {**body["token"], "secret": body["secret"]}

    def agent(self, *, token: str | None = None, name: str | None = None, **values: Any) -> Agent:
        """An agent that has enrolled, for a queue of its own."""
        number = next(_numbers)
        agent = Agent(
            api=self,
            name=name or f"agent-{number}",
            queue=f"queue-{number}",
            token=token or self.token()["secret"],
            instance_id=str(uuid.uuid4()),
        )
        agent.client = self.client(headers={"Authorization": f"Bearer {agent.token}"})
        body = answered(agent.client.post("agent/v1/enrolments", json=enrolment(agent, **values)))
        agent.agent_id = body["agent_id"]
        return agent

    def queue(self, agent: Agent, count: int = 1, *, kind: str = "task", subject_id: str | None = None) -> list[str]:
        """Workloads as the executor queues them, for the agent's queue."""
        ids = [str(uuid.uuid4()) for _ in range(count)]
        planting.execute(
            self.database_url,
            *(
                "INSERT INTO isthmus_workload (id, kind, queue, display_name, payload, subject_id) VALUES "
                f"('{one}', '{kind}', '{agent.queue}', 'dag.task', '{{\"ti\": {{}}}}', '{subject_id or one}')"
                for one in ids
            ),
            "SELECT pg_notify('isthmus_queued', '')",
        )
        return ids

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        return rows(self.database_url, statement)

    def lines(self) -> list[str]:
        """What the process has logged so far."""
        return self.log.read_text().splitlines()

    def allow(self, *ranges: str) -> None:
        """Put an allow list in force, whoever it shuts out."""
        response = self.admin().put("/admin/v1/allow-list", json={"ranges": list(ranges), "force": True})
        assert response.status_code == 200, response.text


class _Sni(httpx.BaseTransport):
    """Asks for the certificate of localhost, whatever address is connected to."""

    def __init__(self, inner: httpx.HTTPTransport) -> None:
        self._inner = inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions = {**request.extensions, "sni_hostname": "localhost"}
        return self._inner.handle_request(request)

    def close(self) -> None:
        self._inner.close()


def enrolment(agent: Agent, **values: Any) -> dict[str, Any]:
    return {
        "name": agent.name,
        "role": "worker",
        "instance_id": agent.instance_id,
        "queues": [agent.queue],
        "slots": 4,
        "versions": {"isthmus": "0.1.0", "airflow": "3.3.2", "task_sdk": "1.3.2", "python": "3.11.2"},
        **values,
    }


def rows(url: str, statement: str) -> list[tuple[Any, ...]]:
    with databases.connected(url) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def until(condition: Callable[[], object], *, seconds: float = 10.0) -> None:
    """Wait for something that happens in another process."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@contextlib.contextmanager
def serving(directory: Path, database_url: str, environment: dict[str, str], **settings: str) -> Iterator[Api]:
    """A process of its own, ended in an orderly way afterwards."""
    authority = Authority(directory, "api")
    pair = authority.issue("plane")
    admin_token = directory / "admin-token"
    admin_token.touch(mode=0o600)
    admin_token.write_text(ADMIN_TOKEN + "\n")
    log = directory / "api.log"
    chosen = {
        **SETTINGS,
        "ADMIN_TOKEN_FILE": str(admin_token),
        "TLS_CERTIFICATE": str(pair.certificate),
        "TLS_PRIVATE_KEY": str(pair.private_key),
        **settings,
    }
    env = {"PATH": os.environ["PATH"], **environment}
    env |= {f"AIRFLOW__ISTHMUS__{name}": value for name, value in chosen.items()}
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE], env=env, stdout=subprocess.PIPE, stderr=out, text=True
        )
    assert process.stdout is not None
    api: Api | None = None
    try:
        said = process.stdout.readline()
        assert said, log.read_text()
        port, admin_port = json.loads(said)
        api = Api(
            process=process,
            port=port,
            admin_port=admin_port,
            database_url=database_url,
            authority=authority.certificate,
            certificate=pair.certificate,
            private_key=pair.private_key,
            admin_token_file=admin_token,
            log=log,
        )
        _running.append(api)
        yield api
    finally:
        if api is not None:
            _running.remove(api)
            api.close()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


@pytest.fixture(autouse=True)
def closed_clients() -> Iterator[None]:
    """Close what a test has opened, when it is over: thousands of tests share a process and its files."""
    before = {id(api): len(api.open) for api in _running}
    yield
    for api in _running:
        api.close(before.get(id(api), 0))


@pytest.fixture(scope="session")
def api_database(postgres_url: str, airflow_template: str) -> Iterator[str]:
    """The URL of the database behind ``api``."""
    name = f"api_{uuid.uuid4().hex[:12]}"
    planting.execute(postgres_url, f'CREATE DATABASE "{name}" TEMPLATE "{airflow_template}"')
    yield make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    planting.execute(postgres_url, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def api_environment(api_database: str, airflow_environment: Callable[[str], dict[str, str]]) -> dict[str, str]:
    """The environment of whatever works on ``api_database``."""
    return airflow_environment(api_database)


@pytest.fixture(scope="session")
def api(api_database: str, api_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A Remote Execution API process, shared by all tests of the run."""
    with serving(tmp_path_factory.mktemp("api"), api_database, api_environment) as running:
        yield running


@pytest.fixture(scope="session")
def seeded(api_environment: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Airflow's database has what ``seeding`` puts there; gives what is needed of it."""
    out = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("seeding.py")), "15"],
        env={"PATH": os.environ["PATH"], **api_environment},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    return iter([(one[0], one[1]) for one in json.loads(out.splitlines()[-1])])


@pytest.fixture
def queued_task(seeded: Iterator[tuple[str, str]]) -> tuple[str, str]:
    """The id and run id of a task instance that Airflow has queued, for this test alone."""
    return next(seeded)
