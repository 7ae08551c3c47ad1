"""The two sides: an Airflow under LocalExecutor with all of its own processes, and one whose agents do everything."""

import json
import urllib.request
from contextlib import closing
from typing import Any, ClassVar

from bench.components import wait_until
from bench.stacks import START_SECONDS, LocalStack, RemoteStack, Stack, as_variables, program
from isthmus.wire.names import Role

_EXAMPLES = {
    "core": {"load_examples": "True", "dags_are_paused_at_creation": "True", "parallelism": "32"},
    "scheduler": {"max_dagruns_to_create_per_loop": "50"},
    "triggerer": {"job_heartbeat_sec": "2"},
}
#: What the plane's administrator would have entered, and what the agent's owner writes into its environment.
CONNECTIONS = {"AIRFLOW_CONN_FS_DEFAULT": "fs://"}
#: So that sets have one order.
_HASHES = {"PYTHONHASHSEED": "0"}
#: A first pass over eighty files by two processes.
_DAGS_SECONDS = 180.0


class Side(Stack):
    """A stack that runs the DAGs that come with Airflow."""

    _token = ""
    _counted = (-1, 0)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON that Airflow's REST API answers. Raises urllib.error.HTTPError."""
        if not self._token:
            with urllib.request.urlopen(f"{self.url}/auth/token", timeout=30) as answer:
                self._token = json.load(answer)["access_token"]
        request = urllib.request.Request(
            f"{self.url}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self._token}",
                "Content-Type": "application/json",
                "Accept": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """What a query in the stack's database answers."""
        with closing(self.database.connect(self.database_name)) as connection, connection.cursor() as cursor:
            cursor.execute(query, parameters)
            return cursor.fetchall()

    def start(self) -> None:
        """Start everything and wait until all DAGs are there. Raises ComponentError."""
        self.start_api()
        self.run("scheduler", program("airflow"), "scheduler", "--skip-serve-logs")
        self.start_worker()
        self.start_rest()
        wait_until("the worker", self.worker_is_ready, self.running, timeout_seconds=START_SECONDS)
        wait_until("the DAGs", self._all_dags_are_there, self.running, timeout_seconds=_DAGS_SECONDS)

    def start_rest(self) -> None:
        """Start what parses DAGs and runs triggers, if that is the plane's."""

    def _all_dags_are_there(self) -> bool:
        """Their number has not grown for a while: nobody says that a first pass is over."""
        count = self.count("SELECT count(*) FROM serialized_dag")
        before, times = self._counted
        self._counted = (count, times + 1 if count == before else 0)
        return count > len(("chain", "fan", "sleepers")) and self._counted[1] >= 50  # looks at 0.2 s


class LocalSide(Side, LocalStack):
    """LocalExecutor, a DAG processor and a triggerer."""

    label = "ParityLocal"

    def create(self) -> None:
        """With the examples."""
        super().create()
        # Without the shell set-up of whoever runs this.
        self.environment |= as_variables(_EXAMPLES) | CONNECTIONS | _HASHES | {"HOME": str(self.home)}

    def start_rest(self) -> None:
        """Airflow's own."""
        self.run("dag-processor", program("airflow"), "dag-processor")
        self.run("triggerer", program("airflow"), "triggerer", "--skip-serve-logs")


class RemoteSide(Side, RemoteStack):
    """One agent that does everything. The plane has no DAG files, no DAG processor and no triggerer."""

    label = "ParityRemote"
    agent_roles = ",".join(Role)
    agent_settings: ClassVar = {**as_variables({"core": {"load_examples": "True"}}), **CONNECTIONS, **_HASHES}

    def create(self) -> None:
        """The plane knows nothing of the examples; its agent does."""
        super().create()
        self.environment |= as_variables(_EXAMPLES) | {"AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
