"""The process as a whole: it outlives its database, stops in order, and says clearly why it cannot start."""

import concurrent.futures
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from tests import planting
from tests.apis import Api, enrolment, problem, rows, serving, until
from tests.faults.harness.certificates import Authority

from isthmus.deployment import embedded
from isthmus.deployment.api.execution import AREAS

_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class Database:
    """A PostgreSQL of this module's own, that can be stopped and started."""

    def __init__(self, directory: Path, environment: Callable[[str], dict[str, str]]) -> None:
        self._directory = directory
        self._server = embedded.start(directory, settings=_FAST)
        planting.execute(self._server.database_url("postgres"), "CREATE DATABASE isthmus_api")
        self.url = self._server.database_url("isthmus_api")
        subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"],
            env={"PATH": os.environ["PATH"], **environment(self.url)},
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server = embedded.start(self._directory, settings=_FAST)


@pytest.fixture(scope="module")
def database(airflow_environment: Callable[[str], dict[str, str]]) -> Iterator[Database]:
    directory = Path(tempfile.mkdtemp(prefix="isthmus-test-api-"))
    directory.chmod(0o711)
    database = Database(directory, airflow_environment)
    yield database
    database.stop()
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def own(
    database: Database,
    airflow_environment: Callable[[str], dict[str, str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Api]:
    """A process of this module's own. It starts while its database is away."""
    database.stop()
    folder = tmp_path_factory.mktemp("own-api")

    log = folder / "api.log"

    def back() -> None:
        until(lambda: log.exists() and "waiting for it" in log.read_text(), seconds=200)
        database.start()

    with concurrent.futures.ThreadPoolExecutor() as pool:
        started = pool.submit(back)
        with serving(
            folder, database.url, airflow_environment(database.url), TOKEN_LIMIT="3", ROLES="worker"
        ) as running:
            started.result(10)
            yield running


def test_it_waits_for_its_database_at_the_start(own: Api) -> None:
    assert any("the database does not answer; waiting for it" in line for line in own.lines())
    health = own.admin().get("/healthz")
    assert (health.status_code, health.json()["deployment_id"]) == (200, "dtest234")
    # The tests' own authority signs for two days; nothing else is wrong.
    assert [one["code"] for one in health.json()["warnings"]] == ["certificate_expiring"]
    assert health.json()["status"] == "warning"


def test_a_deployment_has_as_many_tokens_as_it_may(own: Api) -> None:
    made = [own.token() for _ in range(3)]
    refused = own.admin().post("/admin/v1/tokens", json={"name": "one more"})
    assert (refused.status_code, problem(refused)) == (409, "token_limit")
    # A rotation takes the place of its predecessor, and a revoked token makes room.
    path = f"/admin/v1/tokens/{made[0]['token_id']}"
    assert own.admin().post(f"{path}/rotate", json={}).status_code == 201
    for token in made[1:]:
        own.admin().post(f"/admin/v1/tokens/{token['token_id']}/revoke")
    own.token()


def test_a_role_that_the_deployment_does_not_use_is_refused(own: Api) -> None:
    token = own.token()
    agent = own.agent(token=token["secret"])
    for role in ("dag-processor", "triggerer"):
        refused = agent.client.post(
            "agent/v1/enrolments", json=enrolment(agent, role=role, name=f"{agent.name}.{role}")
        )
        assert (refused.status_code, problem(refused)) == (403, "role_not_used")
        assert "[isthmus] roles" in refused.json()["hint"]
    own.admin().post(f"/admin/v1/tokens/{token['token_id']}/revoke")


def test_it_outlives_a_restart_of_postgresql(own: Api, database: Database) -> None:
    agent = own.agent()
    own.queue(agent, kind="callback")
    (lease,) = agent.claim()
    agent.start(lease)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(agent.claim, wait=5)
        time.sleep(0.3)
        database.stop()
        try:
            admin = own.admin()
            until(lambda: admin.get("/healthz").status_code == 503)
            health = admin.get("/healthz").json()
            assert health["status"] == "failing"
            assert health["warnings"][0]["code"] == "database_unavailable"
            assert "isthmus_database_up 0.0" in admin.get("/metrics").text
            # A heartbeat is answered from memory; what needs the database says that it is away, and to try again.
            agent.beat()
            time.sleep(2)  # who holds the workload was seen less than two seconds ago
            for response in (
                agent.post("starts", leases=[{"workload_id": str(uuid.uuid4()), "fence": 1}]),
                agent.post(
                    "settlements", settlements=[{"workload_id": lease["workload_id"], "fence": 1, "outcome": "failed"}]
                ),
                agent.task(lease).get("variables/shared_a"),
                admin.get("/admin/v1/tokens"),
                admin.post("/admin/v1/tokens", json={"name": "x"}),
            ):
                assert (response.status_code, problem(response)) == (503, "database_unavailable")
                assert response.json()["retryable"] is True
            assert waiting.result(20) == []
        finally:
            database.start()
    until(lambda: own.admin().get("/healthz").status_code == 200, seconds=20)
    own.queue(agent)
    assert len(agent.claim(wait=5)) == 1
    assert own.process.poll() is None


def test_the_certificate_is_read_again_on_sighup(own: Api) -> None:
    def serial() -> int:
        with (
            socket.create_connection(("127.0.0.1", own.port)) as plain,
            ssl.create_default_context(cafile=str(own.authority)).wrap_socket(
                plain, server_hostname="localhost"
            ) as tls,
        ):
            shown = tls.getpeercert(binary_form=True)
        assert shown is not None
        return x509.load_der_x509_certificate(shown).serial_number

    first = serial()
    kept = httpx.Client(verify=ssl.create_default_context(cafile=str(own.authority)))
    own.certificate.write_text("not a certificate")
    own.process.send_signal(signal.SIGHUP)
    until(lambda: any("the certificate was not replaced" in line for line in own.lines()))
    assert serial() == first
    authority = Authority(own.certificate.parent, "renewed")
    shutil.copy(authority.certificate, own.authority)
    authority.issue("plane")  # writes the same files
    own.process.send_signal(signal.SIGHUP)
    until(lambda: any("the certificate was read again" in line for line in own.lines()))
    assert serial() != first
    kept.close()


def test_it_stops_in_order(own: Api) -> None:
    """The last test of this module: waiting claims are answered, heartbeats written, and it ends with 0."""
    page = own.admin().get("/admin/v1/tokens").json()["tokens"]
    for token in page:
        own.admin().post(f"/admin/v1/tokens/{token['token_id']}/revoke")
    agent = own.agent()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(lambda: (agent.claim(wait=5), time.monotonic()))
        time.sleep(0.5)
        other = own.client(headers={"Authorization": f"Bearer {agent.token}"})
        beat = other.post("agent/v1/heartbeats", json=agent.body(slots_used=3))
        assert beat.status_code == 200
        stopped = time.monotonic()
        own.process.send_signal(signal.SIGTERM)
        workloads, answered = waiting.result(10)
        assert workloads == []
        assert answered - stopped < 2
    # Idle connections are not waited for, although their clients never say goodbye.
    assert own.process.wait(20) == 0
    assert time.monotonic() - stopped < 8
    assert rows(own.database_url, f"SELECT slots_used FROM isthmus_agent WHERE id = '{agent.agent_id}'") == [(3,)]
    with pytest.raises(httpx.ConnectError):
        own.client().get("agent/v1/heartbeats")


REFUSED = """
import asyncio, dataclasses, json, socket, sys
from pathlib import Path
from isthmus.deployment import compat, serving
from isthmus.kit.errors import ConfigError
base = compat.deployment_config()
busy = socket.create_server(("127.0.0.1", 0))
port = busy.getsockname()[1]
bad = Path(sys.argv[1])
said = []
for changes in (
    {"listen_host": "127.0.0.1", "listen_port": port},
    {"admin_port": port},
    {"listen_host": "192.0.2.1"},
    {"tls_certificate": bad, "tls_private_key": bad},
    {"tls_certificate": bad / "missing", "tls_private_key": bad},
    {},
):
    try:
        asyncio.run(serving.run(dataclasses.replace(base, **changes)))
    except ConfigError as error:
        said.append([error.code, str(error), error.hint])
from airflow.api_fastapi.execution_api.routes import execution_api_router
areas = sorted({route.path.split("/")[1] for route in execution_api_router.routes})
print(json.dumps([said, areas]))
"""


def test_what_cannot_work_is_one_clear_error(
    new_database: Callable[[], str], airflow_environment: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    environment = {
        "PATH": os.environ["PATH"],
        **airflow_environment(new_database()),
        "AIRFLOW__ISTHMUS__LISTEN_PORT": "0",
        "AIRFLOW__ISTHMUS__ADMIN_PORT": "0",
    }
    out = subprocess.run(
        [sys.executable, "-c", REFUSED, str(nonsense)], env=environment, check=True, capture_output=True, text=True
    ).stdout
    said, areas = json.loads(out.splitlines()[-1])
    codes = [one[0] for one in said]
    assert codes == ["listen_failed"] * 3 + ["certificate_invalid"] * 2 + ["database_not_migrated"]
    # An area that Airflow adds is not served before somebody has looked at what it hands out.
    assert set(areas) == AREAS
