"""One Airflow under one executor: how it is configured, started, found ready, and stopped.

All stacks share the machine, PostgreSQL, the settings of ``airflow_environment`` and the DAGs; a stack adds its
executor, its worker and what these need. Local, Celery and Edge talk plain HTTP on loopback, which favours them;
Isthmus is started the way it ships (``isthmus deployment init``), with TLS and, as root, with its tasks under another
user.

Invariant: a stack's worker side is everything that has to run where tasks run, so that costs are comparable; for
LocalExecutor, which runs tasks below the scheduler, it is the scheduler's children.
"""

import importlib.util
import secrets
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import ClassVar

from bench import components, measuring, places, services
from bench.components import Component, wait_until
from isthmus.cli import places as agent_places
from isthmus.deployment import initializing
from isthmus.kit import processes

SLOTS = 8
DAG_IDS = ("chain_10", "chain_20", "fan_16", "fan_64", "fan_200", "sleepers")
START_SECONDS = 120.0


def free_port() -> int:
    """A TCP port on loopback that nobody listens on."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def program(name: str) -> str:
    """A program of the benchmarks' own Python environment."""
    return str(places.VENV / "bin" / name)


def bare_environment() -> dict[str, str]:
    """What every child gets: nothing that could change what is measured."""
    return {
        "PATH": f"{places.VENV / 'bin'}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": str(places.HOMES),
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


def airflow_environment(home: Path, urls: Mapping[str, str], api_port: int) -> dict[str, str]:
    """Settings that all stacks have in common."""
    settings = {
        "core": {
            "load_examples": "False",
            "dags_folder": str(places.DAGS),
            "parallelism": "32",
            "max_active_tasks_per_dag": "64",
            "dags_are_paused_at_creation": "False",
            "auth_manager": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
            "simple_auth_manager_all_admins": "True",
            "execution_api_server_url": f"http://127.0.0.1:{api_port}/execution/",
        },
        "database": {
            "sql_alchemy_conn": urls["sync"],
            "sql_alchemy_conn_async": urls["async"],
            "external_db_managers": ",".join(_DATABASE_PARTS),
        },
        "api": {
            "host": "127.0.0.1",
            "port": str(api_port),
            "workers": "1",
            "base_url": f"http://127.0.0.1:{api_port}",
            "secret_key": secrets.token_hex(32),
        },
        "api_auth": {"jwt_secret": secrets.token_hex(64)},
        "scheduler": {"enable_health_check": "False"},
        # DAG files do not change during a benchmark: parsing them again and again would only add noise.
        "dag_processor": {"min_file_process_interval": "600", "refresh_interval": "600"},
        "logging": {"base_log_folder": str(home / "logs")},
        "usage_data_collection": {"enabled": "False"},
    }
    return {
        **bare_environment(),
        "AIRFLOW_HOME": str(home),
        **as_variables(settings),
    }


def as_variables(settings: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Airflow settings by section as environment variables."""
    return {
        f"AIRFLOW__{section.upper()}__{key.upper()}": value
        for section, options in settings.items()
        for key, value in options.items()
    }


def migration_environment(database: services.Database) -> dict[str, str]:
    """The environment of the one ``airflow db migrate`` that creates every executor's tables."""
    urls = {"sync": database.url(services.TEMPLATE), "async": database.url(services.TEMPLATE, "asyncpg")}
    return airflow_environment(places.HOMES / "migration", urls, free_port())


_EDGE_PROVIDER = "airflow.providers.edge3"
_DATABASE_PARTS = (
    *([f"{_EDGE_PROVIDER}.models.db.EdgeDBManager"] if importlib.util.find_spec(_EDGE_PROVIDER) else []),
    "isthmus.deployment.schema.IsthmusDBManager",
)


class Stack(ABC):
    """One Airflow with one executor."""

    label: ClassVar[str]
    executor: ClassVar[str]
    #: One line for readers: what the worker side is.
    worker_side: ClassVar[str]
    settings: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    def __init__(self, database: services.Database) -> None:
        """Prepare; nothing runs yet."""
        self.database = database
        self.database_name = f"bench_{self.label.lower()}"
        self.home = places.HOMES / self.label
        self.logs = places.LOGS / self.label
        self.api_port = free_port()
        self.url = f"http://127.0.0.1:{self.api_port}"
        self.components: dict[str, Component] = {}
        self.environment = {
            **airflow_environment(
                self.home,
                {"sync": database.url(self.database_name), "async": database.url(self.database_name, "asyncpg")},
                self.api_port,
            ),
            **as_variables({"core": {"executor": self.executor}}),
            **as_variables(self.settings),
        }

    # --- life ---

    def create(self) -> None:
        """Give the stack an empty home and a fresh database."""
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.rmtree(self.logs, ignore_errors=True)
        self.home.mkdir(parents=True)
        self.database.create(self.database_name, services.TEMPLATE)

    def start(self) -> None:
        """Start everything and wait until a task could run. Raises ComponentError."""
        self.run("dag-processor", program("airflow"), "dag-processor")
        self.start_api()
        self.run("scheduler", program("airflow"), "scheduler", "--skip-serve-logs")
        self.start_worker()
        wait_until("the DAGs", self._dags_are_there, self.running, timeout_seconds=START_SECONDS)
        wait_until("the worker", self.worker_is_ready, self.running, timeout_seconds=START_SECONDS)

    def start_api(self, cores: list[int] | None = None) -> None:
        """Start Airflow's API server and wait until it answers. Raises ComponentError."""
        self.run("api-server", program("airflow"), "api-server", cores=cores)
        wait_until("the API server", self._api_answers, self.running, timeout_seconds=START_SECONDS)

    def stop(self, *, spared: set[int]) -> None:
        """End everything that was started, the worker first. ``spared`` are the shared services."""
        worker = [component for name, component in self.components.items() if name == "worker"]
        rest = [component for name, component in self.components.items() if name != "worker"]
        left = spared | {component.pid for component in rest}
        components.stop_all(worker, spared=left)
        components.stop_all(rest, spared=spared)
        self.components.clear()

    def run(
        self, name: str, *command: str, environment: Mapping[str, str] | None = None, cores: list[int] | None = None
    ) -> Component:
        """Start one component."""
        self.components[name] = Component(
            name,
            command,
            environment=self.environment if environment is None else environment,
            log=self.logs / f"{name}.log",
            cores=cores,
        )
        return self.components[name]

    @property
    def running(self) -> list[Component]:
        """The components that were started."""
        return list(self.components.values())

    def _api_answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/api/v2/monitor/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def _dags_are_there(self) -> bool:
        with closing(self.database.connect(self.database_name)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM serialized_dag WHERE dag_id = ANY(%s)", (list(DAG_IDS),))
            row = cursor.fetchone()
            return row is not None and row[0] == len(DAG_IDS)

    def count(self, query: str) -> int:
        """The number that a query in the stack's database answers."""
        with closing(self.database.connect(self.database_name)) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            row = cursor.fetchone()
            return int(row[0]) if row else 0

    # --- the worker side ---

    @abstractmethod
    def start_worker(self) -> None:
        """Start what runs tasks."""

    @abstractmethod
    def worker_is_ready(self) -> bool:
        """Whether a task would be taken now."""

    def worker_pids(self, table: Mapping[int, measuring.Process]) -> list[int]:
        """Every process of the worker side."""
        root = self.components["worker"].pid
        return [root, *measuring.descendants(dict(table), root)]

    def worker_cpu_seconds(self, table: dict[int, measuring.Process]) -> float:
        """CPU of the worker side so far."""
        return measuring.tree_cpu_seconds(table, self.components["worker"].pid)

    def supervisor_pids(self, table: Mapping[int, measuring.Process], tasks: set[int]) -> set[int]:
        """The processes that supervise these tasks: their parents, unless it is otherwise."""
        return {table[pid].parent_pid for pid in tasks}

    def control_pid(self) -> int | None:
        """The process that stays when no task runs, if it is one of its own."""
        return None

    def stages_query(self) -> str | None:
        """SQL with the moments of each task of a run (dag_id, run_id), where more is known than Airflow's own."""
        return None

    def plane_cpu_seconds(self, table: dict[int, measuring.Process]) -> dict[str, float]:
        """CPU so far of everything else, by component."""
        cpu = {
            name: measuring.tree_cpu_seconds(table, component.pid)
            for name, component in self.components.items()
            if name != "worker"
        }
        cpu["postgresql"] = measuring.tree_cpu_seconds(table, self.database.pid)
        return cpu


class LocalStack(Stack):
    """Tasks run below the scheduler, one process for each slot."""

    label = "LocalExecutor"
    executor = "LocalExecutor"
    worker_side = "the scheduler's children"
    settings: ClassVar = {"core": {"parallelism": str(SLOTS)}}

    def start_worker(self) -> None:
        """Nothing: the scheduler does."""

    def worker_is_ready(self) -> bool:
        """LocalExecutor starts its processes when there is work for them."""
        return self.count("SELECT count(*) FROM job WHERE job_type = 'SchedulerJob' AND state = 'running'") > 0

    def worker_pids(self, table: Mapping[int, measuring.Process]) -> list[int]:
        """The scheduler's children."""
        return measuring.descendants(dict(table), self.components["scheduler"].pid)

    def worker_cpu_seconds(self, table: dict[int, measuring.Process]) -> float:
        """What the scheduler's children used."""
        pid = self.components["scheduler"].pid
        return measuring.tree_cpu_seconds(table, pid) - measuring.own_cpu_seconds(table, pid)

    def plane_cpu_seconds(self, table: dict[int, measuring.Process]) -> dict[str, float]:
        """The scheduler counts without its children."""
        pid = self.components["scheduler"].pid
        return {**super().plane_cpu_seconds(table), "scheduler": measuring.own_cpu_seconds(table, pid)}


class CeleryStack(Stack):
    """Redis as the broker, PostgreSQL for results, one worker with eight processes."""

    label = "CeleryExecutor"
    executor = "CeleryExecutor"
    worker_side = "the Celery worker with its pool"

    def __init__(self, database: services.Database, redis: Component, redis_port: int) -> None:
        """Celery needs a broker beside the database."""
        self.redis = redis
        super().__init__(database)
        # SQLAlchemy 2.1 takes a bare postgresql:// for psycopg 3: the driver has to be named.
        self.environment |= as_variables(
            {
                "celery": {
                    "broker_url": f"redis://127.0.0.1:{redis_port}/0",
                    "result_backend": f"db+{database.url(self.database_name)}",
                    "worker_concurrency": str(SLOTS),
                }
            }
        )

    def start_worker(self) -> None:
        """A worker without its log server: nobody reads logs here, and the other executors run none."""
        self.run("worker", program("airflow"), "celery", "worker", "--skip-serve-logs", "--queues", "default")

    def worker_is_ready(self) -> bool:
        """Celery says so in its log."""
        return " ready." in self.components["worker"].log.read_text(errors="replace")

    def plane_cpu_seconds(self, table: dict[int, measuring.Process]) -> dict[str, float]:
        """The broker counts, too."""
        return {**super().plane_cpu_seconds(table), "redis": measuring.tree_cpu_seconds(table, self.redis.pid)}


class EdgeStack(Stack):
    """A worker that polls the API server, with edge3's default settings (5 s between polls)."""

    label = "EdgeExecutor"
    executor = "airflow.providers.edge3.executors.EdgeExecutor"  # the short name is not known to Airflow
    worker_side = "the edge worker"

    def __init__(self, database: services.Database) -> None:
        """Where the worker finds the API."""
        super().__init__(database)
        self.environment |= as_variables(
            {"edge": {"api_enabled": "True", "api_url": f"{self.url}/edge_worker/v1/rpcapi"}}
        )

    def start_worker(self) -> None:
        """A worker name that is still there from a round before would be refused."""
        with closing(self.database.connect(self.database_name)) as connection, connection.cursor() as cursor:
            cursor.execute("DELETE FROM edge_worker")
        pid_file = self.home / "edge_worker.pid"
        pid_file.unlink(missing_ok=True)
        command = ("airflow", "edge", "worker", "--concurrency", str(SLOTS), "--queues", "default")
        self.run("worker", program(command[0]), *command[1:], "--edge-hostname", "bench", "--pid", str(pid_file))

    def worker_is_ready(self) -> bool:
        """The worker registered and reports to be idle."""
        return self.count("SELECT count(*) FROM edge_worker WHERE state = 'idle'") == 1


class RemoteStack(Stack):
    """Isthmus: the Remote Execution API with TLS, and one agent that holds nothing but its token.

    As root the agent's control process and its tasks have two users of their own, as in production.
    """

    label = "RemoteExecutor"
    executor = "isthmus.deployment.executor.RemoteExecutor"
    worker_side = "the agent: control process, fork server, supervisors, tasks"
    #: Environment of the agent's side alone.
    agent_settings: ClassVar[Mapping[str, str]] = {}
    #: What the agent does.
    agent_roles: ClassVar[str] = "worker"

    def __init__(self, database: services.Database) -> None:
        """The deployment's directory is made by ``create``."""
        super().__init__(database)
        self.deployment: initializing.Deployment | None = None

    def create(self) -> None:
        """Make the deployment as ``isthmus deployment init`` does."""
        super().create()
        self.deployment = initializing.initialize(
            initializing.DeploymentSpec(
                directory=self.home,
                database_url=self.database.url(self.database_name),
                names=("127.0.0.1",),
                dags_folder=places.DAGS,
                airflow_port=self.api_port,
                listen_host="127.0.0.1",
                listen_port=free_port(),
                admin_port=free_port(),
            )
        )
        self.environment |= self.deployment.environment

    @property
    def made(self) -> initializing.Deployment:
        """The deployment, once it was created."""
        assert self.deployment is not None
        return self.deployment

    def start_remote_api(self, cores: list[int] | None = None) -> Component:
        """Start the Remote Execution API and wait until its internal listener is well. Raises ComponentError."""
        component = self.run("remote-api", program("isthmus"), "api", cores=cores)
        wait_until("the Remote Execution API", self._remote_api_answers, [component], timeout_seconds=START_SECONDS)
        return component

    def create_token(self) -> str:
        """A new agent token."""
        command = [program("isthmus"), "token", "create", "bench", "--quiet"]
        where = {"ISTHMUS_DEPLOYMENT": str(self.home)}
        answer = subprocess.run(command, env=bare_environment() | where, check=False, capture_output=True, text=True)
        if answer.returncode:
            raise components.ComponentError(f"no agent token: {answer.stderr}")
        return answer.stdout.strip()

    def start_worker(self) -> None:
        """The plane's second half, and an agent in a place of its own."""
        self.start_remote_api()
        place = agent_places.prepare(places.SCRATCH / "agent", places.DAGS)
        token_file, settings_file = place.control / "token", place.control / "runner.env"
        agent_places.write_private(token_file, self.create_token(), place.control_user)
        certificate = place.bundle.parent / "ca.crt"
        shutil.copy(self.made.ca_certificate, certificate)
        settings = as_variables(
            {
                "core": {"load_examples": "False", "dags_folder": str(place.bundle)},
                "logging": {"base_log_folder": str(place.tasks / "logs")},
                "usage_data_collection": {"enabled": "False"},
            }
        )
        settings |= self.agent_settings
        lines = [f"{name}={value}\n" for name, value in {"AIRFLOW_HOME": str(place.tasks), **settings}.items()]
        agent_places.write_private(settings_file, "".join(lines), place.control_user)
        command = [str(place.python), "-m", "isthmus.cli.main", "agent"]
        command += ["--url", self.made.agent_url, "--token-file", str(token_file), "--ca-file", str(certificate)]
        command += ["--slots", str(SLOTS), "--state-dir", str(place.state), "--name", "bench"]
        command += ["--role", self.agent_roles]
        command += ["--runner-environment-file", str(settings_file), "--health-listen", f"127.0.0.1:{free_port()}"]
        if place.control_user is not None and place.task_user is not None:
            command += ["--user", _user(place.control_user), "--task-user", _user(place.task_user)]
        self.run("worker", *command, environment=bare_environment())

    def worker_is_ready(self) -> bool:
        """The agent is enrolled and its fork server is up, which it needs to know its versions."""
        ready = "role = 'worker' AND phase = 'ready' AND versions->>'airflow' <> ''"
        return self.count(f"SELECT count(*) FROM isthmus_agent WHERE {ready}") == 1

    def supervisor_pids(self, table: Mapping[int, measuring.Process], tasks: set[int]) -> set[int]:
        """Everything below the fork server that is no task: it forks both, and keeps two spare supervisors."""
        fork_servers = {table[pid].parent_pid for pid in tasks}
        return {pid for one in fork_servers for pid in measuring.descendants(dict(table), one)} - tasks

    def control_pid(self) -> int | None:
        """The agent's own process."""
        return self.components["worker"].pid

    def stages_query(self) -> str | None:
        """Airflow's moments and the lease's between them; the columns are in the order of time."""
        return """
            SELECT task.queued_dttm AS queued, workload.leased_at AS leased, workload.started_at AS confirmed,
                   task.start_date AS started, task.end_date AS ended, workload.settled_at AS settled
            FROM task_instance AS task JOIN isthmus_workload AS workload ON workload.subject_id = task.id::text
            WHERE task.dag_id = %s AND task.run_id = %s AND workload.state = 'succeeded'
            ORDER BY task.queued_dttm
        """

    def _remote_api_answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.made.config.admin_port}/healthz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False


def _user(user: processes.User) -> str:
    return f"{user.uid}:{user.gid}"


def all_labels() -> list[str]:
    """The executors that can be compared, in the order of the table."""
    return [LocalStack.label, CeleryStack.label, EdgeStack.label, RemoteStack.label]
