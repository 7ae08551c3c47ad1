"""A whole orchestration plane of real processes, of which each can be stopped, killed and started again by itself.

PostgreSQL, Airflow's scheduler and ``isthmus api`` with TLS; no Airflow API server and no DAG processor, because the
faults do not concern them: the DAGs are serialized and the runs triggered by ``operating``, through Airflow's own
functions. Ports, directories and secrets stay the same across restarts.

A scheduler that ends by itself is started again, as a service manager does: Airflow's ends when its database is away.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from cryptography.fernet import Fernet

from faults.harness import ports, proxies, waits
from faults.harness.certificates import Authority
from faults.harness.databases import Database
from faults.harness.programs import Program
from isthmus.wire import paths

HERE = Path(__file__).parent
BINARIES = Path(sys.executable).parent

#: Short intervals, so that a test waits for seconds where a deployment waits for minutes.
INTERVALS = {
    "heartbeat_seconds": "1",
    "lease_seconds": "5",
    "running_lease_seconds": "100",
}


class Plane:
    """One deployment. ``settings`` are keys of section ``[isthmus]``, over the short intervals."""

    deployment_id = "dfa2lt5x"

    def __init__(self, dags: Path = HERE / "dags", *, settings: Mapping[str, str] | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="isthmus-faults-"))
        self.directory.chmod(0o755)  # the agents' users have to pass
        self.dags = self.directory / "dags"
        shutil.copytree(dags, self.dags, ignore=shutil.ignore_patterns("__pycache__"))
        self.loop = proxies.Loop()
        self.authority = Authority(self.directory, "plane")
        self.database = Database(self.directory / "database")
        self.api_port = ports.free_port()
        self.admin_port = ports.free_port()
        #: What must never leave the plane, by what it is.
        self.secrets = {
            "database password": self.database.password,
            "JWT secret": secrets.token_hex(32),
            "Fernet key": Fernet.generate_key().decode(),
            "API secret key": secrets.token_hex(32),
            "admin token": secrets.token_urlsafe(32),
        }
        self._settings = {**INTERVALS, **(settings or {})}
        self.scheduler = self._program("scheduler", [BINARIES / "airflow", "scheduler"])
        self._managing = threading.Lock()
        self._closing = threading.Event()
        self.api = self._program("api", [BINARIES / "isthmus", "api"])
        self._operator = self._program(
            "operator", [sys.executable, HERE / "operating.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        #: Airflow's own API server: no test of ours needs it, but it is there on a real plane.
        self.airflow_port = ports.free_port()
        self.airflow = self._program(
            "airflow", [BINARIES / "airflow", "api-server", "--host", "127.0.0.1", "--port", str(self.airflow_port)]
        )
        self._operating = threading.Lock()
        self.admin = httpx.Client(
            base_url=f"http://127.0.0.1:{self.admin_port}",
            headers={"Authorization": f"Bearer {self.secrets['admin token']}"},
            timeout=10,
        )

    @property
    def url(self) -> str:
        """Where agents that take no detour reach the deployment."""
        return self.url_at(self.api_port)

    def url_at(self, port: int) -> str:
        return f"https://127.0.0.1:{port}/{self.deployment_id}"

    # --- the life of the plane ---------------------------------------------------------------------------------

    def start(self) -> "Plane":
        (self.directory / "admin-token").touch(mode=0o600)
        (self.directory / "admin-token").write_text(self.secrets["admin token"])
        (self.directory / "airflow").mkdir(mode=0o700)
        self.database.create()
        self._operator.start()  # imports Airflow meanwhile
        migration = self._program("migration", [BINARIES / "airflow", "db", "migrate"]).start()
        assert migration.wait(120) == 0, migration.tail()
        self.operate("serialize")
        self.api.start()
        self.scheduler.start()
        self.await_api()
        self.await_scheduler()
        threading.Thread(target=self._manage, name="service manager", daemon=True).start()
        return self

    def close(self) -> None:
        """End everything, and remove what was written. The directory stays when KEEP_FAULTS is set."""
        self._closing.set()
        if self._operator.running:
            assert self._operator.popen.stdin is not None
            self._operator.popen.stdin.close()
        for program in (self.scheduler, self.airflow, self.api, self._operator):
            if program.running:
                program.send(signal.SIGTERM)
        for program in (self.scheduler, self.airflow, self.api, self._operator):
            if program.running:
                program.wait(30)
        self.admin.close()
        self.database.stop()
        if "KEEP_FAULTS" not in os.environ:
            shutil.rmtree(self.directory)

    # --- its parts ---------------------------------------------------------------------------------------------

    def set(self, **settings: str) -> None:
        """Change keys of section ``[isthmus]``; in force for what is started afterwards."""
        self._settings |= settings
        self.api.environment |= self.environment()

    def restart_api(self) -> None:
        self.api.stop()
        self.api.start()
        self.await_api()

    def await_api(self) -> None:
        self.api.await_ready("the admin API answers", self._api_answers, seconds=60)

    def await_scheduler(self) -> None:
        self.scheduler.await_ready("the scheduler heartbeats", self._scheduler_beats, seconds=60)

    def start_airflow(self) -> None:
        self.airflow.start()
        self.await_airflow()

    def await_airflow(self) -> None:
        def answers() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{self.airflow_port}/api/v2/monitor/health").status_code == 200
            except httpx.TransportError:
                return False

        self.airflow.await_ready("Airflow's API server answers", answers, seconds=90)

    @contextmanager
    def without_scheduler(self) -> Iterator[None]:
        """The scheduler is killed; afterwards another one is started, which is a new job to Airflow."""
        with self._managing:
            self.scheduler.kill_group()
            yield
            self.scheduler.start()

    def _manage(self) -> None:
        while not self._closing.wait(0.5):
            with self._managing:
                if not self.scheduler.running and not self._closing.is_set():
                    self.scheduler.start()

    def recover(self, seconds: float = 120) -> None:
        """Wait until everything works, judged by what happens from now on."""
        now = self.database.rows("SELECT now()")[0][0]

        def works() -> bool:
            return self._api_answers() and self._scheduler_beats(since=now)

        waits.until("the plane works", works, seconds=seconds, evidence=self.evidence)

    def operate(self, act: str, **arguments: Any) -> None:
        """Let the warm Airflow process do something (``operating``)."""
        with self._operating:
            stdin, stdout = self._operator.popen.stdin, self._operator.popen.stdout
            assert stdin is not None
            assert stdout is not None
            stdin.write(json.dumps({"act": act, **arguments}).encode() + b"\n")
            stdin.flush()
            line = stdout.readline()
        assert line, self._operator.tail()
        failed = json.loads(line)["failed"]
        assert failed is None, f"{act}: {failed}\n{self._operator.tail()}"

    def environment(self) -> dict[str, str]:
        """What the processes of the plane have in their environment. An agent gets none of it."""
        url = f"postgresql+psycopg2://{self.database.netloc}"
        return {
            "HOME": str(self.directory),
            "AIRFLOW_HOME": str(self.directory / "airflow"),
            "AIRFLOW__CORE__EXECUTOR": "RemoteExecutor:isthmus.deployment.executor.RemoteExecutor",
            "AIRFLOW__CORE__FERNET_KEY": self.secrets["Fernet key"],
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "64",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url,
            "AIRFLOW__API__SECRET_KEY": self.secrets["API secret key"],
            "AIRFLOW__API_AUTH__JWT_SECRET": self.secrets["JWT secret"],
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "1",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "5",
            "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            **bundle_environment(self.dags),
            **{f"AIRFLOW__ISTHMUS__{key.upper()}": value for key, value in self._isthmus().items()},
        }

    def _isthmus(self) -> dict[str, str]:
        pair = getattr(self, "_pair", None) or self.authority.issue("plane")
        self._pair = pair
        return {
            "deployment_id": self.deployment_id,
            "listen_host": "127.0.0.1",
            "listen_port": str(self.api_port),
            "admin_port": str(self.admin_port),
            "admin_token_file": str(self.directory / "admin-token"),
            "tls_certificate": str(pair.certificate),
            "tls_private_key": str(pair.private_key),
            **self._settings,
        }

    def _program(self, name: str, command: list[str | Path], **options: Any) -> Program:
        return Program(name, command, environment=self.environment(), log=self.directory / f"{name}.log", **options)

    def _api_answers(self) -> bool:
        try:
            return self.admin.get(paths.ADMIN_DEPLOYMENT).status_code == 200
        except httpx.TransportError:
            return False

    def _scheduler_beats(self, since: object = None) -> bool:
        rows = self.database.rows(
            "SELECT 1 FROM job WHERE job_type = 'SchedulerJob' AND state = 'running' "
            "AND latest_heartbeat > now() - interval '3 seconds' AND start_date >= to_timestamp(%s) "
            "AND latest_heartbeat > coalesce(%s, '-infinity'::timestamptz)",
            (self.scheduler.started_at, since),
        )
        return bool(rows)

    def evidence(self) -> str:
        return "\n".join(program.tail(25) for program in (self.scheduler, self.api))


def bundle_environment(dags: Path) -> dict[str, str]:
    """Airflow's configuration of the one DAG bundle that plane and agents share."""
    bundle = {
        "name": "faults",
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(dags), "refresh_interval": 3600},
    }
    return {"AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([bundle])}
