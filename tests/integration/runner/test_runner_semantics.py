"""What a deployment adds to Airflow works in a warm fork as elsewhere: listeners, backends, remote logs, policies."""

import json
from pathlib import Path

import pytest
from tests.fakes import control as controls
from tests.fakes.execution_api import Answer
from tests.integration.runner.conftest import Runner, Start

from isthmus.wire.names import Kind

#: A listener that writes down what it hears, and a plugin that says when it is loaded.
PLUGIN = """
import os
from pathlib import Path
from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

def write(line):
    with (Path(os.environ["RUNNER_TEST_OUT"]) / "heard").open("a") as file:
        file.write(line + "\\n")

class Listener:
    @hookimpl
    def on_starting(self, component):
        write("starting")

    @hookimpl
    def on_task_instance_running(self, previous_state, task_instance):
        write(f"running {task_instance.dag_id}.{task_instance.task_id}")

    @hookimpl
    def on_task_instance_success(self, previous_state, task_instance):
        write(f"success {task_instance.dag_id}.{task_instance.task_id}")

    @hookimpl
    def on_task_instance_failed(self, previous_state, task_instance, error):
        write(f"failed {task_instance.dag_id}.{task_instance.task_id} {error}")

class TestPlugin(AirflowPlugin):
    name = "test_plugin"
    listeners = [Listener()]
"""

#: A cluster policy that writes down which DAGs it sees, and allows only those of the test.
SETTINGS = """
import os
from pathlib import Path
from airflow.exceptions import AirflowClusterPolicyViolation

def dag_policy(dag):
    with (Path(os.environ["RUNNER_TEST_OUT"]) / "policy").open("a") as file:
        file.write(dag.dag_id + "\\n")
    if dag.dag_id != "runner":
        raise AirflowClusterPolicyViolation("not one of ours")
"""

LOG_CONFIG = """
import os
from pathlib import Path
from airflow.config_templates.airflow_local_settings import DEFAULT_LOGGING_CONFIG

class RemoteLog:
    processors = ()

    def upload(self, path, ti=None):
        (Path(os.environ["RUNNER_TEST_OUT"]) / "uploaded").write_text(str(path))

    def read(self, relative_path, ti):
        return [], []

LOGGING_CONFIG = DEFAULT_LOGGING_CONFIG
REMOTE_TASK_LOG = RemoteLog()
DEFAULT_REMOTE_CONN_ID = None
"""

BACKEND = """
from airflow.sdk.bases.secrets_backend import BaseSecretsBackend

class Backend(BaseSecretsBackend):
    def __init__(self, greeting="unset"):
        self.greeting = greeting

    def get_variable(self, key, team_name=None):
        return self.greeting if key == "greeting" else None
"""


def prepare(home: Path) -> None:
    for name, text in (
        ("plugins/test_plugin.py", PLUGIN),
        ("config/airflow_local_settings.py", SETTINGS),
        ("config/test_log_config.py", LOG_CONFIG),
        ("config/test_backend.py", BACKEND),
    ):
        path = home / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


@pytest.fixture(scope="module")
def equipped_runner(start_runner: Start) -> Runner:
    return start_runner(
        prepare=prepare,
        environment={
            "AIRFLOW__LOGGING__LOGGING_CONFIG_CLASS": "test_log_config.LOGGING_CONFIG",
            "AIRFLOW__WORKERS__SECRETS_BACKEND": "test_backend.Backend",
            "AIRFLOW__WORKERS__SECRETS_BACKEND_KWARGS": '{"greeting": "from the backend"}',
            "AIRFLOW_VAR_FROM_ENVIRONMENT": "yes",
        },
    )


@pytest.fixture
def runner(equipped_runner: Runner) -> Runner:
    equipped_runner.api.reset()
    for path in equipped_runner.out.iterdir():
        path.unlink()
    return equipped_runner


def test_the_rehearsal_goes_unnoticed(equipped_runner: Runner) -> None:
    """Before any task has run: nothing was heard, nothing uploaded."""
    assert list(equipped_runner.out.iterdir()) == []


def test_listeners_hear_each_task_and_nothing_else(runner: Runner) -> None:
    for task in ("noop", "fail", "noop"):
        runner.run(task)
    assert runner.wait_for_file("heard").splitlines() == [
        "starting", "running runner.noop", "success runner.noop",
        "starting", "running runner.fail", "failed runner.fail on purpose",
        "starting", "running runner.noop", "success runner.noop",
    ]  # fmt: skip


def test_plugins_of_others_are_loaded_by_each_task(runner: Runner) -> None:
    """Beside ours, which must not stand in for them: their code may start threads and open connections."""
    runner.run("plugins")
    found = json.loads(runner.wait_for_file("plugins"))
    assert (sorted(found["names"]), found["inherited"]) == (["isthmus", "test_plugin"], False)


def test_cluster_policies_see_each_parse_and_nothing_else(equipped_runner: Runner) -> None:
    equipped_runner.run("noop")
    assert set(equipped_runner.wait_for_file("policy").splitlines()) == {"runner"}


def test_remote_logs_are_uploaded_at_the_end(runner: Runner) -> None:
    _, ti = runner.run("noop")
    assert str(ti) in runner.wait_for_file("uploaded")


def test_the_secrets_backend_is_asked_before_the_plane(runner: Runner) -> None:
    runner.run("read_variable")
    assert runner.wait_for_file("variable") == "from the backend"
    assert runner.api.matching("GET /variables/") == []


def test_the_plane_is_asked_for_what_no_backend_has(start_runner: Start) -> None:
    runner = start_runner(arguments=("--without=warming", "--spares=0"))
    runner.api.answer(
        "GET /variables/greeting", lambda call: Answer(200, {"key": "greeting", "value": "from the plane"})
    )
    runner.run("read_variable")
    assert runner.wait_for_file("variable") == "from the plane"


def test_nothing_in_the_log_says_that_something_was_skipped(runner: Runner) -> None:
    runner.run("noop")
    assert [event for event in runner.events() if event["level"] in {"warning", "error", "critical"}] == []


def test_airflows_own_backend_of_files_serves_tasks_and_callbacks(start_runner: Start, tmp_path: Path) -> None:
    """Set in the tasks' environment alone; the plane is asked for none of it."""
    tmp_path.chmod(0o755)
    connections, variables = tmp_path / "connections.json", tmp_path / "variables.json"
    extra = {"path": str(tmp_path)}
    connections.write_text(json.dumps({"warehouse": {"conn_type": "fs", "password": "from the file", "extra": extra}}))
    variables.write_text(json.dumps({"greeting": "hello from the file"}))
    runner = start_runner(
        arguments=("--without=warming", "--spares=0"),
        environment={
            "AIRFLOW__SECRETS__BACKEND": "airflow.secrets.local_filesystem.LocalFilesystemBackend",
            "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps(
                {"connections_file_path": str(connections), "variables_file_path": str(variables)}
            ),
        },
    )
    runner.run("read_variable")
    assert runner.wait_for_file("variable") == "hello from the file"
    exited = runner.run_payload(Kind.CALLBACK, controls.callback_payload("runner_callbacks.read_secrets"))
    assert (exited.exit_code, exited.detail) == (0, "")
    assert runner.wait_for_file("secrets") == "from the file hello from the file"
    # A connection test is of the connection that somebody entered in Airflow's UI, whatever the agent has of that name.
    theirs = {"conn_id": "warehouse", "conn_type": "fs", "extra": json.dumps({"path": "/nowhere"})}
    assert runner.run_connection_test(theirs) == {"state": "failed", "result_message": "Path /nowhere does not exist."}
    assert runner.api.matching("GET /variables/") == runner.api.matching("GET /connections/") == []
