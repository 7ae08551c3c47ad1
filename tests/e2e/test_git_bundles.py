"""DAG bundles in Git repositories, beside a local one, at an agent with all roles: the plane has neither file nor Git.

Some are read as files, others over HTTPS with a password, from a server of the test's own. What a run does is decided
by the commit that it was made at. Times are short: a push is looked for each second.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e.git_server import GitServer
from faults.harness import waits
from faults.harness.agents import Agent
from faults.harness.planes import Plane
from isthmus.deployment import provider
from isthmus.deployment.dags.compat import NO_SOURCE
from isthmus.wire.names import Role

QUEUE = "coast"

#: What it says is in another file of its bundle; ``{tasks}`` are what changes its structure.
TIDES = """
import os
from pathlib import Path

from airflow.sdk import DAG, task

def note(context):
    from words import WORD

    Path(os.environ["AIRFLOW_HOME"], context["run_id"]).write_text(WORD)

with DAG("tides", schedule=None, is_paused_upon_creation=False, on_success_callback=note):

    @task(queue="coast")
    def tell():
        from words import WORD

        return WORD

    {tasks}
"""
#: What the server takes, and what one of the bundles says, until its connection has the other.
PASSWORD, REFUSED = "glpat-canary-that-stays-here", "glpat-canary-of-yesterday"
ONE = "tell()"
TWO = "tell() >> tell.override(task_id='again')()"
#: What each bundle is at first, by its name in ``commits``; a local one has no commit, nor has one that is not there.
BUNDLES = {"sea": "A", "isles": "rocks", "harbour": "quay", "cellar": "", "shore": "sand"}
PLAIN = """
from airflow.sdk import DAG, task

with DAG("{dag_id}", schedule=None):

    @task(queue="coast")
    def tell():
        pass

    tell()
"""


class Repository:
    """A bare repository as somebody's server has it, and the clone of somebody who pushes to it."""

    def __init__(self, folder: Path) -> None:
        self.bare = folder / "origin.git"
        self._clone = folder / "clone"
        # Git takes no repository of somebody else's without this: the bare one is given to the agent.
        (folder / ".gitconfig").write_text("[safe]\n\tdirectory = *\n")
        self._git(folder, "init", "--quiet", "--bare", "--initial-branch=main", str(self.bare))
        self._git(folder, "clone", "--quiet", str(self.bare), str(self._clone))

    def push(self, files: Mapping[str, str | None], branch: str = "main") -> str:
        """The commit with these texts; None deletes a file."""
        for path, text in files.items():
            file = self._clone / path
            if text is None:
                file.unlink()
            else:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
        self._git(self._clone, "add", "--all")
        self._git(self._clone, "commit", "--quiet", "--message=as told")
        self._git(self._clone, "push", "--quiet", "origin", f"HEAD:{branch}")
        return self._git(self._clone, "rev-parse", "HEAD")

    def give(self, user: int) -> None:
        """Git reads no repository of somebody else's."""
        os.chown(self.bare, user, user)

    def _git(self, folder: Path, *arguments: str) -> str:
        who = {"GIT_AUTHOR_NAME": "Ann", "GIT_AUTHOR_EMAIL": "ann@example.org"}
        who |= {name.replace("AUTHOR", "COMMITTER"): value for name, value in who.items()}
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(self._clone.parent), **who},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


class Site:
    """The plane, the agent, and what there is to see in Airflow."""

    def __init__(self, plane: Plane, repository: Repository, server: GitServer, shore: Path) -> None:
        self.plane = plane
        self.repository = repository
        self.server = server
        self.shore = shore
        self.commits = {
            "quay": repository.push({"quay.py": PLAIN.format(dag_id="quay")}, branch="harbour"),
            "vault": repository.push({"quay.py": None, "vault.py": PLAIN.format(dag_id="vault")}, branch="cellar"),
            "rocks": repository.push({"vault.py": None, "rocks.py": PLAIN.format(dag_id="rocks")}, branch="isles"),
            "A": repository.push({"dags/tides.py": TIDES.format(tasks=ONE), "dags/words.py": "WORD = 'A'\n"}),
        }
        #: The agent's secrets backend.
        self.connections = shore.parent / "connections.json"
        self.say_password(REFUSED)
        self.agent = Agent(plane, QUEUE, name="site", settings=self._settings())
        if self.agent.users is not None:
            repository.give(self.agent.users.tasks)

    def say_password(self, password: str) -> None:
        """From now on the connection of the bundle ``cellar`` has this one."""
        draft = self.connections.with_suffix(".draft.json")
        draft.write_text(json.dumps({"cellar": {**self._served(), "password": password}}))
        draft.chmod(0o644)
        draft.replace(self.connections)

    def _served(self) -> dict[str, str]:
        return {"conn_type": "git", "host": f"{self.server.url}/origin.git", "login": self.server.login}

    def _settings(self) -> dict[str, str]:
        git = "airflow.providers.git.bundles.git.GitDagBundle"
        view = "https://git.example.org/sea/tree/{version}/{subdir}"
        main = {"tracking_ref": "main", "git_conn_id": "sea", "subdir": "dags", "view_url_template": view}
        isles = {"tracking_ref": "isles", "repo_url": str(self.repository.bare)}
        harbour = {"tracking_ref": "harbour", "git_conn_id": "harbour"}
        cellar = {"tracking_ref": "cellar", "git_conn_id": "cellar"}
        bundles = [
            {"name": "sea", "classpath": git, "kwargs": {**main, "refresh_interval": 1}},
            {"name": "isles", "classpath": git, "kwargs": {**isles, "refresh_interval": 1}},
            {"name": "harbour", "classpath": git, "kwargs": {**harbour, "refresh_interval": 1}},
            {"name": "cellar", "classpath": git, "kwargs": {**cellar, "refresh_interval": 1}},
            {
                "name": "shore",
                "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
                "kwargs": {"path": str(self.shore), "refresh_interval": 1},
            },
        ]
        return {
            "ISTHMUS_AGENT_ROLE": ",".join(Role),
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
            "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "1",
            "AIRFLOW_CONN_SEA": json.dumps({"conn_type": "git", "host": str(self.repository.bare)}),
            "AIRFLOW_CONN_HARBOUR": json.dumps({**self._served(), "password": PASSWORD}),
            "AIRFLOW__SECRETS__BACKEND": "airflow.secrets.local_filesystem.LocalFilesystemBackend",
            "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps({"connections_file_path": str(self.connections)}),
            "GIT_HTTP_LOW_SPEED_TIME": "3",
            "GIT_SSL_CAINFO": str(self.plane.authority.certificate),
        }

    def evidence(self) -> str:
        errors = self.plane.database.rows("SELECT filename, stacktrace FROM import_error")
        return f"{errors}\n{self.plane.evidence()}\n{self.agent.evidence()}"

    def dags(self) -> dict[str, tuple[str, str | None, bool]]:
        """Bundle, version and whether it is stale, by DAG id."""
        rows = self.plane.database.rows("SELECT dag_id, bundle_name, bundle_version, is_stale FROM dag")
        return {dag_id: (bundle, version, stale) for dag_id, bundle, version, stale in rows}

    def await_dag(self, dag_id: str, *, bundle: str, version: str | None, stale: bool = False) -> None:
        waits.until(
            f"{dag_id} is of {bundle} at {version}, {stale=}",
            lambda: self.dags().get(dag_id) == (bundle, version, stale),
            seconds=60,
            evidence=lambda: f"{self.dags()}\n{self.evidence()}",
        )

    def said(self, run_id: str) -> str:
        """What the task of a run has said, once it has."""
        query = "SELECT state FROM task_instance WHERE task_id = 'tell' AND run_id = %s"
        rows = self.plane.database.rows
        waits.until(
            f"the task of {run_id} has ended",
            lambda: rows(query, (run_id,)) == [("success",)],
            seconds=60,
            evidence=lambda: f"{rows(query, (run_id,))}\n{self.evidence()}",
        )
        (value,) = rows("SELECT value #>> '{}' FROM xcom WHERE task_id = 'tell' AND run_id = %s", (run_id,))[0]
        return str(value)

    def noted(self, run_id: str) -> str:
        """What the DAG's callback for a run has written at the agent, once it has."""
        note = self.agent.directory / "airflow" / run_id
        return waits.until(
            f"the callback of {run_id} has run",
            lambda: note.exists() and note.read_text(),
            seconds=60,
            evidence=self.evidence,
        )

    def version_of(self, run_id: str) -> str | None:
        """The commit that a run is pinned to."""
        (version,) = self.plane.database.rows("SELECT bundle_version FROM dag_run WHERE run_id = %s", (run_id,))[0]
        return None if version is None else str(version)

    def pause(self, dag_id: str, *, paused: bool) -> None:
        """As somebody does in Airflow's UI."""
        self.airflow("PATCH", f"dags/{dag_id}", json={"is_paused": paused})

    def airflow(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Airflow's own API, as its UI asks it."""
        with httpx.Client(base_url=f"http://127.0.0.1:{self.plane.airflow_port}", timeout=30) as client:
            client.headers["Authorization"] = f"Bearer {client.get('/auth/token').json()['access_token']}"
            answer = client.request(method, f"/api/v2/{path}", headers={"Accept": "application/json"}, **options)
            assert answer.status_code == 200, answer.text
            return dict(answer.json())


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    plane = Plane(tmp_path_factory.mktemp("nothing"), settings={"roles": ",".join(Role), "dag_sources": "true"})
    plane.airflow.environment |= {
        "AIRFLOW__LOGGING__LOGGING_CONFIG_CLASS": provider.LOGGING_CONFIG,
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__API__WORKERS": "1",
    }
    plane.api.environment |= {"AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "1"}
    try:
        plane.start()
        plane.airflow.start()
        yield plane
    finally:
        plane.close()


@pytest.fixture(scope="module")
def site(plane: Plane) -> Iterator[Site]:
    folder = plane.directory / "repository"
    shore = plane.directory / "shore"
    folder.mkdir()
    shore.mkdir()
    (shore / "sand.py").write_text(PLAIN.format(dag_id="sand"))
    repository = Repository(folder)
    with GitServer(folder, plane.authority.issue("git"), login="reader", password=PASSWORD) as server:
        site = Site(plane, repository, server, shore)
        try:
            site.agent.start()
            plane.await_airflow()
            yield site
        finally:
            site.agent.close()


def test_dags_have_their_bundle_and_commit(site: Site) -> None:
    site.await_dag("tides", bundle="sea", version=site.commits["A"])
    site.await_dag("rocks", bundle="isles", version=site.commits["rocks"])
    site.await_dag("quay", bundle="harbour", version=site.commits["quay"])
    site.await_dag("sand", bundle="shore", version=None)
    rows = site.plane.database.rows
    assert rows("SELECT bundle_name, bundle_version FROM dag_version WHERE dag_id = 'tides'") == [
        ("sea", site.commits["A"])
    ]
    waits.until(
        "the bundles have their versions",
        lambda: (
            dict(rows("SELECT name, version FROM dag_bundle WHERE name <> 'faults'"))
            == {name: site.commits.get(dag_id) for name, dag_id in BUNDLES.items()}
        ),
        seconds=30,
        evidence=site.evidence,
    )
    assert list(site.plane.dags.iterdir()) == []


def test_airflow_links_to_the_commit(site: Site) -> None:
    """The plane has the template from the agent: it has no configuration of these bundles."""
    (version,) = site.airflow("GET", "dags/tides/dagVersions")["dag_versions"]
    assert version["bundle_url"] == f"https://git.example.org/sea/tree/{site.commits['A']}/dags"
    (version,) = site.airflow("GET", "dags/sand/dagVersions")["dag_versions"]
    assert version["bundle_url"] is None


def test_a_run_keeps_its_commit(site: Site) -> None:
    """Made at A and begun after B was pushed and parsed: it runs A's code, and so does the DAG's callback."""
    site.pause("tides", paused=True)
    site.plane.operate("trigger", dag_id="tides", run_id="at-A", conf={})
    site.commits["B"] = site.repository.push(
        {
            "dags/tides.py": TIDES.format(tasks=TWO),
            "dags/words.py": "WORD = 'B'\n",
        }
    )
    site.await_dag("tides", bundle="sea", version=site.commits["B"])
    site.plane.operate("trigger", dag_id="tides", run_id="at-B", conf={})
    site.pause("tides", paused=False)
    assert (site.said("at-A"), site.version_of("at-A")) == ("A", site.commits["A"])
    assert (site.said("at-B"), site.version_of("at-B")) == ("B", site.commits["B"])
    assert (site.noted("at-A"), site.noted("at-B")) == ("A", "B")
    urls = [one["bundle_url"] for one in site.airflow("GET", "dags/tides/dagVersions")["dag_versions"]]
    assert {url.split("/")[-2] for url in urls} == {site.commits["A"], site.commits["B"]}


def test_a_commit_that_changes_no_dag_is_run_from_then_on(site: Site) -> None:
    """What a task imports is no part of its DAG: nothing but the commit tells that it changed."""
    submitted = "SELECT max(submitted_at) FROM isthmus_dag_file WHERE bundle = 'sea'"
    before = site.plane.database.rows(submitted)
    site.commits["C"] = site.repository.push({"dags/words.py": "WORD = 'C'\n"})
    site.await_dag("tides", bundle="sea", version=site.commits["C"])
    site.plane.operate("trigger", dag_id="tides", run_id="at-C", conf={})
    assert (site.said("at-C"), site.version_of("at-C")) == ("C", site.commits["C"])
    assert site.plane.database.rows(submitted) == before, "no DAG was sent again"


def test_sources_stay_where_the_deployment_does_not_want_them(site: Site) -> None:
    source = TIDES.format(tasks=TWO)
    assert site.airflow("GET", "dagSources/tides")["content"] == source
    site.plane.set(dag_sources="false")
    site.plane.restart_api()
    waits.until(
        "Airflow shows a line in its place",
        lambda: site.airflow("GET", "dagSources/tides")["content"] == NO_SOURCE,
        seconds=120,
        evidence=site.evidence,
    )


def test_a_deleted_file_makes_its_dag_stale(site: Site) -> None:
    site.commits["D"] = site.repository.push({"dags/tides.py": None})
    waits.until(
        "tides is stale",
        lambda: site.dags()["tides"][2],
        seconds=60,
        evidence=lambda: f"{site.dags()}\n{site.evidence()}",
    )
    assert not site.dags()["sand"][2]
    assert not site.dags()["rocks"][2]


def test_a_repository_behind_https_and_a_password(site: Site) -> None:
    site.plane.operate("trigger", dag_id="quay", run_id="at-quay", conf={})
    site.pause("quay", paused=False)
    rows = site.plane.database.rows
    waits.until(
        "quay's task has ended",
        lambda: rows("SELECT state FROM task_instance WHERE run_id = 'at-quay'") == [("success",)],
        seconds=60,
        evidence=site.evidence,
    )
    quay = {"rocks.py": None, "quay.py": PLAIN.format(dag_id="quay")}
    site.commits["quay"] = site.repository.push(quay, branch="harbour")
    site.await_dag("quay", bundle="harbour", version=site.commits["quay"])


def test_a_password_that_is_refused_is_said(site: Site) -> None:
    """And nothing else suffers of it; once the secrets backend has another one, the bundle is there."""
    warnings = site.agent.warnings
    waits.until("it is said", lambda: "bundle_unready" in warnings(), seconds=120, evidence=site.evidence)
    assert warnings()["bundle_unready"]["summary"] == "bundles cannot be fetched: cellar"
    assert "vault" not in site.dags()
    site.say_password(PASSWORD)
    site.await_dag("vault", bundle="cellar", version=site.commits["vault"])
    waits.until("that is over", lambda: "bundle_unready" not in warnings(), seconds=30, evidence=site.evidence)


def test_a_server_that_goes_silent_holds_nothing_else_up(site: Site) -> None:
    site.server.speaks.clear()
    waits.until("it is asked", lambda: site.server.kept_waiting, seconds=60, evidence=site.evidence)
    (site.shore / "pebbles.py").write_text(PLAIN.format(dag_id="pebbles"))
    site.await_dag("pebbles", bundle="shore", version=None)
    quay = {"quay.py": PLAIN.format(dag_id="quay") + "# as it was\n"}
    site.commits["quay"] = site.repository.push(quay, branch="harbour")
    assert site.dags()["quay"][1] != site.commits["quay"]
    site.server.speaks.set()
    site.await_dag("quay", bundle="harbour", version=site.commits["quay"])


def test_nothing_in_the_plane_has_a_password_or_the_address(site: Site) -> None:
    rows = site.plane.database.rows
    tables = [name for (name,) in rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    assert "isthmus_dag_file" in tables
    assert rows("SELECT count(*) FROM dag AS t WHERE strpos(t::text, 'quay') > 0") != [(0,)], "this is how it is found"
    for table in tables:
        for canary in (PASSWORD, REFUSED, site.server.url):
            assert rows(f"SELECT count(*) FROM {table} AS t WHERE strpos(t::text, %s) > 0", (canary,)) == [(0,)], table
    log = site.agent.control.log.read_text()
    assert PASSWORD not in log
    assert REFUSED not in log
