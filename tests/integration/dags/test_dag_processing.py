"""DAG files at an agent: what is written there is in Airflow's tables, and runs at the same agent."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable

import pytest
from tests.integration.dags.conftest import Site, watched_for_queries

from faults.harness import waits
from faults.harness.planes import Plane

DAG = """
from airflow.sdk import DAG, task

with DAG("{dag_id}", schedule=None, catchup=False, is_paused_upon_creation=False, description="{description}"):
    @task(queue="etl")
    def one():
        return 1

    one()
"""

STALE = "SELECT is_stale FROM dag WHERE dag_id = %s"
STATE = "SELECT state FROM dag_run WHERE dag_id = %s"


def test_a_file_appears_runs_changes_and_goes(site: Site) -> None:
    path = site.write("plain.py", DAG.format(dag_id="plain", description="first"))
    site.until("the DAG is there", STALE, "plain", to_be=[(False,)])
    assert site.rows("SELECT bundle_name, fileloc, relative_fileloc FROM dag WHERE dag_id = 'plain'") == [
        ("etl", "etl/plain.py", "plain.py")
    ]
    site.plane.operate("trigger", dag_id="plain", run_id="by-hand", conf={})
    site.until("the run succeeded", STATE, "plain", to_be=[("success",)])
    site.rows("UPDATE serialized_dag SET last_updated = now() - interval '1 hour' WHERE dag_id = 'plain' RETURNING 1")
    site.write("plain.py", DAG.format(dag_id="plain", description="second"))
    site.until(
        "there is a new version",
        "SELECT description, (SELECT count(*) FROM dag_version v WHERE v.dag_id = d.dag_id) FROM dag d "
        "WHERE dag_id = %s",
        "plain",
        to_be=[("second", 2)],
    )
    path.unlink()
    site.until("the DAG is stale", STALE, "plain", to_be=[(True,)])


def test_a_syntax_error_is_shown_and_ends(site: Site) -> None:
    errors = "SELECT filename FROM import_error WHERE bundle_name = 'etl' AND filename = %s"
    site.write("broken.py", "from airflow.sdk import DAG\nthis is no python\n")
    site.until("the import error is shown", errors, "broken.py", to_be=[("broken.py",)])
    site.write("broken.py", DAG.format(dag_id="mended", description=""))
    site.until("the import error has gone", errors, "broken.py", to_be=[])
    site.until("the DAG is there", STALE, "mended", to_be=[(False,)])


VARIABLE = """
from airflow.sdk import DAG, Variable

with DAG("greets", schedule=None, description=Variable.get("greeting")):
    pass
"""


def test_a_variable_of_the_plane_is_read_at_parse_time(site: Site) -> None:
    site.plane.operate("set_variable", key="greeting", value="good morning")
    site.write("greets.py", VARIABLE)
    described = "SELECT description FROM dag WHERE dag_id = %s"
    site.until("the variable was read", described, "greets", to_be=[("good morning",)])
    site.write("refused.py", VARIABLE.replace("greeting", "somebody_elses").replace("greets", "refused"))
    site.until(
        "the other variable is refused",
        "SELECT filename FROM import_error WHERE bundle_name = 'etl' AND filename = %s",
        "refused.py",
        to_be=[("refused.py",)],
    )


def test_a_bundle_whose_connection_comes_late(make_site: Callable[..., Site], plane: Plane) -> None:
    """The other bundle is parsed from the beginning."""
    home = plane.directory / "late"
    repository, connections = home / "repository", home / "connections.json"
    repository.mkdir(parents=True)
    (repository / "late.py").write_text(DAG.format(dag_id="late", description=""))
    git = ("git", "-c", "user.name=ada", "-c", "user.email=ada@example.test")
    for words in ("init --quiet --initial-branch=main", "add --all", "commit --quiet --message one"):
        subprocess.run([*git, *words.split()], cwd=repository, check=True)
    connections.write_text("{}")
    late = {
        "name": "late",
        "classpath": "airflow.providers.git.bundles.git.GitDagBundle",
        "kwargs": {"git_conn_id": "repository", "tracking_ref": "main", "refresh_interval": 1},
    }
    early = {
        "name": "early",
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(home / "early"), "refresh_interval": 1},
    }
    site = make_site(
        "late",
        home / "early",
        settings={
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([late, early]),
            "AIRFLOW__SECRETS__BACKEND": "airflow.secrets.local_filesystem.LocalFilesystemBackend",
            "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps({"connections_file_path": str(connections)}),
        },
    )
    if site.agent.users is not None:
        for part in (repository, repository / ".git"):  # Git reads no repository of somebody else's
            shutil.chown(part, site.agent.users.tasks)
    site.write("early.py", DAG.format(dag_id="early", description=""))
    site.agent.start()
    site.until("the DAG of the other bundle is there", STALE, "early", to_be=[(False,)])

    waits.until(
        "it is said", lambda: "bundle_unusable" in site.agent.warnings(), seconds=30, evidence=site.agent.evidence
    )
    connections.write_text(json.dumps({"repository": {"conn_type": "git", "host": str(repository)}}))
    site.until("the late DAG is there", STALE, "late", to_be=[(False,)])
    waits.until(
        "it is well", lambda: "bundle_unusable" not in site.agent.warnings(), seconds=30, evidence=site.agent.evidence
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a folder of another user's")
def test_a_folder_that_cannot_be_looked_into_is_said(make_site: Callable[..., Site], plane: Plane) -> None:
    above = plane.directory / "locked"
    site = make_site("locked", above / "dags")
    above.chmod(0o700)
    site.agent.start()

    waits.until(
        "it is said",
        lambda: "bundle_folder_unreadable" in site.agent.warnings(),
        seconds=30,
        evidence=site.agent.evidence,
    )
    above.chmod(0o755)
    site.write("locked.py", DAG.format(dag_id="locked", description=""))
    site.until("the DAG is there", STALE, "locked", to_be=[(False,)])
    assert "component_down" not in site.agent.warnings()


FAILS = """
import time
from pathlib import Path
from airflow.sdk import DAG, task

def tell(context):
    Path("{told}").open("a").write("begun\\n")
    time.sleep({seconds})
    Path("{told}").open("a").write("ended " + context["run_id"] + "\\n")

with DAG("{dag_id}", schedule=None, is_paused_upon_creation=False, on_failure_callback=tell):
    @task(queue="etl")
    def fails():
        raise ValueError("as it should")

    fails()
"""


def test_a_failure_callback_runs_once(site: Site) -> None:
    told = site.agent.directory / "logs" / "told"
    site.write("fails.py", FAILS.format(told=told, seconds=0, dag_id="fails"))
    site.until("the DAG is there", STALE, "fails", to_be=[(False,)])
    site.plane.operate("trigger", dag_id="fails", run_id="bound-to", conf={})
    waits.until("the callback ran", told.exists, seconds=60, evidence=site.agent.evidence)
    site.until("the callback is settled", "SELECT 1 FROM callback WHERE bundle_name = 'etl'", to_be=[])
    assert told.read_text().splitlines() == ["begun", "ended bound-to"]


def test_a_callback_survives_its_component(site: Site) -> None:
    """Killed in the middle of a callback: it runs again, and the DAG processor goes on."""
    told = site.agent.directory / "logs" / "told-again"
    site.write("dies.py", FAILS.format(told=told, seconds=2, dag_id="dies"))
    site.until("the DAG is there", STALE, "dies", to_be=[(False,)])
    site.plane.operate("trigger", dag_id="dies", run_id="bound-to", conf={})
    waits.until("the callback began", told.exists, seconds=60, evidence=site.agent.evidence)
    component = site.component()
    component.kill()
    component.wait(10)
    site.rows("UPDATE isthmus_dag_claim SET lease_expires_at = now() RETURNING 1")  # a minute passes
    site.write("after.py", DAG.format(dag_id="after", description=""))
    site.until("the callback is settled", "SELECT 1 FROM callback WHERE bundle_name = 'etl'", to_be=[])
    assert told.read_text().splitlines() == ["begun", "begun", "ended bound-to"]
    site.until("the DAG is there", STALE, "after", to_be=[(False,)])


LOOKS = """
from pathlib import Path
from airflow.sdk import DAG, task
from airflow.sdk.execution_time.xcom import XCom

def attempt(look):
    try:
        return look()
    except Exception as error:
        return repr(error)

def tell(context):
    ti = context["ti"]
    own = attempt(lambda: ti.xcom_pull(task_ids="fails", key="why"))
    another = attempt(lambda: XCom.get_one(key="a", dag_id="elsewhere", task_id="one", run_id="by-hand"))
    states = attempt(lambda: ti.get_task_states(dag_id="looks", run_ids=["bound-to"]))
    Path("{told}").write_text(f"{{own}} | {{another}} | {{states}}")

with DAG("looks", schedule=None, is_paused_upon_creation=False, on_failure_callback=tell):
    @task(queue="etl")
    def fails(*, ti):
        ti.xcom_push("why", "as planned")
        raise ValueError("as it should")

    fails()
"""


def test_a_callback_reads_xcoms_and_counts_runs(site: Site) -> None:
    told = site.agent.directory / "logs" / "looks"
    site.write("looks.py", LOOKS.format(told=told))
    site.until("the DAG is there", STALE, "looks", to_be=[(False,)])
    site.plane.operate("trigger", dag_id="looks", run_id="bound-to", conf={})
    waits.until("the callback ran", told.exists, seconds=60, evidence=site.agent.evidence)
    own, another, states = told.read_text().split(" | ")
    assert own == "as planned"
    assert "token_scope" in another, "it is not for the agent, which is told so at once"
    assert states == "{'bound-to': {'fails': 'failed'}}"


ANEW = """
import time
from airflow.sdk import DAG

with DAG("anew", schedule=None, description=str(time.time())):
    pass
"""


def test_asked_for_taken_over_and_never_a_query(make_site: Callable[..., Site], plane: Plane) -> None:
    """One that parses each file once: what happens more often was asked for. Then it dies, and another takes over."""
    listener = plane.directory / "listener"
    listener.mkdir()
    rarely = {"AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600"}
    first = make_site("slow", settings=rarely | watched_for_queries(listener))
    first.write("anew.py", ANEW)
    first.agent.start()
    described = "SELECT description FROM dag WHERE dag_id = 'anew'"
    first.until("the DAG is there", STALE, "anew", to_be=[(False,)])
    before = first.rows(described)
    first.rows("UPDATE serialized_dag SET last_updated = now() - interval '1 hour' WHERE dag_id = 'anew' RETURNING 1")
    first.rows("INSERT INTO dag_priority_parsing_request VALUES (md5('anew'), 'slow', 'anew.py') RETURNING 1")
    first.until("it is settled", "SELECT 1 FROM dag_priority_parsing_request", to_be=[])
    assert first.rows(described) != before

    assert (listener / "queries").read_text().splitlines() == ["listening"]
    second = make_site("slow", first.folder, name="slow-successor", settings=rarely)
    second.agent.token_file.write_text(first.agent.token)  # a bundle belongs to the agents of one token
    second.agent.start()
    first.agent.control.kill_group()
    second.write("later.py", DAG.format(dag_id="later", description="by the second"))
    second.until("the second has taken over", STALE, "later", to_be=[(False,)])
    assert second.rows("SELECT is_stale FROM dag WHERE dag_id = 'anew'") == [(False,)]
